"""Every Python block and every `topocell` command of README and docs runs.

Searches run under the smoke budget, on fewer images where a command does not say which, and in a temporary directory;
all other words of a command are as written. Commands that are then the same but for where they write run once.
"""

import pkgutil
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.helpers import pages

import topocell
from topocell import registry
from topocell.cli import main

ROOT = Path(__file__).parent.parent.parent
FEWER = ["data.images=24", "data.test_images=10"]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def python_blocks() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        found += [(f"{page.name}-{i}", block) for i, block in enumerate(blocks)]
    return found


def commands() -> list[str]:
    found = []
    for page in PAGES:
        if page.name == "command-line.md":  # made from the help, whose examples run elsewhere
            continue
        for line in page.read_text(encoding="utf-8").splitlines():
            command = line.strip().removeprefix(".venv/bin/").split("  #")[0].strip()
            if line.startswith("    ") and command.startswith("topocell ") and command not in found:
                found.append(command)
    return found


def rewritten(command: str) -> list[str]:
    """The words of a command as it is run here."""
    words = shlex.split(command)[1:]
    if words[0] in ("run", "estimate") or "--budget" in words:
        words = [w for w, before in zip(words, ["", *words]) if "--budget" not in (w, before)]
        fewer = [] if any(word.startswith(("data.dataset", "data.images")) for word in words) else FEWER
        words = [w for w in words if w != "data.download=true"]
        at = words.index("--out") if "--out" in words else len(words)
        words = [*words[:at], *(fewer if words[0] == "run" else []), *words[at:], "--budget", "smoke"]
        words += ["--quiet"] if words[0] == "run" and "--json" not in words else []
    if words[0] == "retrain":  # which takes no budget
        words = [re.sub(r"^(retrain\.epochs)=\d+$", r"\1=2", word) for word in words]
    return words


def different() -> list[str]:
    """The first of all commands that differ in nothing but where they write."""
    found: dict[tuple[str, ...], str] = {}
    for command in commands():
        words = rewritten(command)
        read = tuple(word for word, before in zip(words, ["", *words]) if "--out" not in (word, before))
        found.setdefault(read if words[0] in ("run", "export") else tuple(words), command)
    return list(found.values())


def test_the_documentation_has_code_and_commands() -> None:
    assert len(python_blocks()) >= 2
    assert len(commands()) >= 6


def test_names_of_the_documentation_are_there() -> None:
    """A name in backticks begins with the module that it is imported from."""
    text = " ".join(page.read_text(encoding="utf-8") for page in PAGES)
    names = set(re.findall(r"`(topocell(?:\.\w+)+)[`(]", text)) - {"topocell.plugins"}  # a group of entry points
    assert len(names) > 50
    for name in sorted(names):
        assert pkgutil.resolve_name(name) is not None


def test_a_module_that_is_not_imported_yet_is_told() -> None:
    with pytest.raises(
        AttributeError, match=r"^module 'topocell' has no attribute 'nn' before .* import topocell\.nn,"
    ):
        topocell.__getattr__("nn")
    with pytest.raises(AttributeError, match=r"^module 'topocell' has no attribute 'Supernett'$"):
        topocell.__getattr__("Supernett")


def test_no_shell_takes_a_list_for_a_pattern() -> None:
    """Brackets in a command stand in quotes, which zsh needs."""
    written = [" ".join(page.read_text(encoding="utf-8").split()) for page in PAGES]
    spans = [
        span
        for text in written
        for span in re.findall(r"topocell (?:run|search|study|retrain|select|sweep|estimate) [^`|]*", text)
    ]
    assert len(spans) > 40
    bare = [re.sub(r"'[^']*'|\"[^\"]*\"", "", span.split(" topocell ")[0]) for span in spans]
    assert [span for span in bare if re.search(r" [a-z_.]+=\[", span)] == []


@pytest.mark.parametrize("block", [b for _, b in python_blocks()], ids=[name for name, _ in python_blocks()])
def test_python_blocks_run(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "documentation", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("own_*.py")), ids=lambda path: path.stem)
def test_each_example_stands_on_its_page(example: Path) -> None:
    page = ROOT / "docs" / "how-to" / f"{example.stem.replace('_', '-')}.md"
    assert f"```python\n{example.read_text(encoding='utf-8')}```" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        place, _, heading = target.partition("#")
        if place.startswith("http"):
            continue
        file = (page.parent / place).resolve() if place else page
        assert file.exists(), f"{page.name}: {target}"
        if heading:
            titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, target


@pytest.mark.parametrize("page", pages.PAGES)
def test_pages_made_from_the_code_are_up_to_date(page: str) -> None:
    there = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert there == pages.PAGES[page](), "run: python -m tests.helpers.pages"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    methods = (ROOT / "docs" / "methods" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").as_posix()
        if name.startswith("methods/") and page.name != "README.md":
            assert f"({page.name}" in methods, name
        elif name != "README.md":
            assert f"({name})" in index, name


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the recipe that commands go on from."""
    path = tmp_path_factory.mktemp("finished") / "run"
    assert main(["run", "dots", *FEWER, "--budget", "smoke", "--quiet", "--out", str(path)]) == 0
    return path


@pytest.mark.parametrize("command", different())
def test_commands_run(command: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOPOCELL_CACHE", str(tmp_path / "cache"))
    words = rewritten(command)
    photos(tmp_path / "photos")
    if "--import" in words or any(word.startswith("examples/") for word in words):
        shutil.copytree(ROOT / "examples", "examples")
        monkeypatch.setattr(registry, "_imported", [])
        monkeypatch.setenv(registry.IMPORT_VARIABLE, "")
    if words[0] == "predict":
        shutil.copytree("photos", "new")
        shutil.copy("photos/cat/0.png", "new/IMG_0001.jpg")
    if words[0] == "runs":
        shutil.copytree(finished, "runs/dots")
    shutil.copy(ROOT / "examples/darts_v2.txt", ".")
    if words[0] in ("select", "compare", "retrain", "report", "predict", "export"):
        named = words[1:] if words[0] in ("compare", "report") else words[1:2]
        for word in (word for word in named if word.startswith("runs/")):
            shutil.copytree(finished, word)
    assert main(words) == 0


def photos(root: Path) -> None:
    """A tree of 24 small images in three classes."""
    draw = torch.Generator().manual_seed(0)
    for label, name in enumerate(("cat", "dog", "owl")):
        for i in range(8):
            path = root / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = torch.randint(0, 80, (16, 16, 3), generator=draw)
            Image.fromarray((noise + 60 * label).to(torch.uint8).numpy()).save(path)
