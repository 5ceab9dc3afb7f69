"""Nothing that a user or a file supplies is run, and nothing that is made is loaded from where others can write."""

import ast
import os
from pathlib import Path

import pytest

from topocell.errors import RunError, one_line
from topocell.nn.kernels.cpu import build
from topocell.reporting.terminal import Quiet
from topocell.studies._items import Bench

SOURCE = Path(__file__).parent.parent.parent / "src/topocell"
FILES = sorted(SOURCE.rglob("*.py"))
#: Names that run what they are given, or read formats that do.
FORBIDDEN = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "marshal",
    "shelve",
    "joblib",
}
#: Functions of modules, with what makes them safe, or None where nothing does.
CALLS = {
    ("torch", "load"): ("weights_only", "True"),
    ("np", "load"): ("allow_pickle", "False"),
    ("yaml", "unsafe_load"): None,
    ("yaml", "full_load"): None,
    ("os", "system"): None,
    ("os", "popen"): None,
    ("subprocess", "getoutput"): None,
    ("tempfile", "mktemp"): None,
}


def faults(tree: ast.AST) -> list[str]:
    """What of a source must not be there, in words."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {getattr(node, "module", None) or "", *(alias.name for alias in node.names)}
            found += [f"import of {name}" for name in names if name.split(".")[0] in FORBIDDEN]
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN:
            found.append(f"call of {node.func.id}")
        if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            name = (node.func.value.id, node.func.attr)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if name in CALLS and CALLS[name] not in given.items():
                found.append(f"call of {'.'.join(name)}")
            if name == ("yaml", "load") and ast.unparse(node.args[-1]) not in ("_Loader", "_FastLoader"):
                found.append("yaml.load with another loader than plain_yaml's")
            if given.get("shell", "False") != "False":
                found.append("a shell")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_sources_run_nothing_that_they_are_given(path: Path) -> None:
    assert faults(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "text",
    [
        "eval(x)",
        "import pickle",
        "from pickle import loads",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f)",
        "np.load(f, allow_pickle=True)",
        "yaml.load(t, yaml.Loader)",
        "os.system(x)",
        "subprocess.run(x, shell=True)",
    ],
)
def test_the_scan_finds(text: str) -> None:
    assert len(faults(ast.parse(text))) == 1


def test_the_yaml_loader_is_a_safe_one() -> None:
    tree = ast.parse((SOURCE / "io/plain_yaml.py").read_text(encoding="utf-8"))
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert {node.name: [ast.unparse(base) for base in node.bases] for node in classes} == {
        "_Rules": [],
        "_Loader": ["_Rules", "yaml.SafeLoader"],
        "_FastLoader": ["_Rules", "getattr(yaml, 'CSafeLoader', yaml.SafeLoader)"],
        "_Dumper": ["yaml.SafeDumper"],
        "_FastDumper": ["getattr(yaml, 'CSafeDumper', yaml.SafeDumper)"],
    }


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_kernels_are_not_loaded_from_a_folder_open_to_others(
    mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOPOCELL_CACHE", str(tmp_path))
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels").chmod(mode)
    with pytest.raises(RunError, match="only you may be able to write"):
        build.compiled("true", "kernels.c", ("-DLANES=4",))


def test_kernels_are_not_loaded_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPOCELL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine").mkdir(mode=0o700)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/kernels").symlink_to(tmp_path / "mine")
    with pytest.raises(RunError, match="only you may be able to write"):
        build.compiled("true", "kernels.c", ("-DLANES=4",))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_kernels_are_not_loaded_from_the_folder_of_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOPOCELL_CACHE", str(tmp_path))
    (tmp_path / "kernels").mkdir(mode=0o700)
    os.chown(tmp_path / "kernels", 12345, 12345)
    with pytest.raises(RunError, match="only you may be able to write"):
        build.compiled("true", "kernels.c", ("-DLANES=4",))


@pytest.mark.parametrize("what", ["open", "link"])
def test_a_kernel_that_others_could_have_written_is_made_anew(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOPOCELL_CACHE", str(tmp_path))
    compiler = tmp_path / "cc"  # writes its answer where it is told
    compiler.write_text('#!/bin/sh\nwhile [ $# -gt 0 ]; do [ "$1" = -o ] && echo ours > "$2"; shift; done\n')
    compiler.chmod(0o700)
    path = build.compiled(str(compiler), "kernels.c", ("-DLANES=4",))
    assert path.read_text() == "ours\n" and path.stat().st_mode & 0o077 == 0
    path.unlink()
    if what == "open":
        path.write_text("theirs")
        path.chmod(0o722)
    else:
        (tmp_path / "theirs").write_text("theirs")
        path.symlink_to(tmp_path / "theirs")
    assert build.compiled(str(compiler), "kernels.c", ("-DLANES=4",)) == path
    assert path.read_text() == "ours\n" and not path.is_symlink()
    assert not (tmp_path / "theirs").exists() or (tmp_path / "theirs").read_text() == "theirs"


@pytest.mark.parametrize("key", ["..", "../up", "/tmp/x", "a/b", "", ".hidden", "a\0", "x" * 300])
def test_an_item_of_a_study_stands_inside_it(key: str, tmp_path: Path) -> None:
    bench = Bench("depth", "about", {}, tmp_path / "study", Quiet())
    with pytest.raises(RunError, match="an item has a name"):
        bench.trained(key, lambda *_: {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["study.json", "items.jsonl", "runs", ".lock", "table.csv"])
def test_links_in_a_study_are_not_followed(name: str, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "outside").write_text("precious")
    (tmp_path / "study" / name).symlink_to(tmp_path / "outside")
    bench = Bench("depth", "about", {}, tmp_path / "study", Quiet())
    with pytest.raises(RunError, match="is a link; put"):
        bench.begin(1, {}, {})
    assert (tmp_path / "outside").read_text() == "precious"


def test_a_message_is_one_line_that_no_terminal_acts_on() -> None:
    hostile = "cat\x1b[2J\n\x07dog\u202egnp.\ud800\x9b1m"
    assert one_line(hostile) == r"cat\x1b[2J \x07dog\u202egnp.\ud800\x9b1m"
    assert str(RunError(hostile)) == one_line(hostile)
