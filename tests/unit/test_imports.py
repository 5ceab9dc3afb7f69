"""Imports point one way, only what is declared is imported, and the sources stand on their own."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

from topocell.errors import resuming

ROOT = Path(__file__).parent.parent.parent
SOURCE = ROOT / "src/topocell"
FILES = sorted(SOURCE.rglob("*.py"))

#: The parts of the package from the bottom to the top: a part imports those before it.
LAYERS = (
    *("errors", "arguments", "io", "registry", "spaces", "config", "genotype", "nn", "runtime", "relaxation"),
    *("topology", "data", "reporting", "supernet", "networks", "selection", "searching", "testing", "runs", "api"),
    *("studies", "__init__", "cli", "__main__"),
)
LAYER = {part: number for number, part in enumerate(LAYERS)}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in FILES}


@cache
def parsed(path: Path) -> tuple[ast.AST, ...]:
    """All nodes of a file."""
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, also those inside functions."""
    for node in parsed(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path} has a relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


def top_of(path: Path) -> list[str]:
    """Full names of the modules that a file imports when it is imported itself."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    top = [alias.name for node in body if isinstance(node, ast.Import) for alias in node.names]
    for node in body:
        if isinstance(node, ast.ImportFrom):
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            top += [name if name in MODULES else node.module or "" for name in full]
    return top


def part_of(module: str) -> str:
    words = module.split(".")
    return words[1] if len(words) > 1 else "__init__"


def own(path: Path) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] == "topocell"}


def foreign(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)} - {"topocell"} - sys.stdlib_module_names


def members(*parts: str) -> list[str]:
    return [name for name in MODULES if part_of(name) in parts]


def test_there_are_modules() -> None:
    assert len(FILES) > 40 and "topocell.searching.loop" in MODULES and "topocell" in MODULES


@pytest.mark.parametrize("module", MODULES)
def test_a_module_can_be_read_at_a_sitting(module: str) -> None:
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= 400


def test_every_module_has_a_layer() -> None:
    assert {part_of(name) for name in MODULES} <= set(LAYER), "give the new module a place in LAYERS"
    assert set(LAYER) <= {part_of(name) for name in MODULES}, "LAYERS names a module that is gone"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    mine = LAYER[part_of(module)]
    assert [name for name in own(MODULES[module]) if LAYER[part_of(name)] > mine] == []


def test_there_is_no_circle_of_imports() -> None:
    within = {name: {found for found in own(path) if found in MODULES} - {name} for name, path in MODULES.items()}
    assert len(list(TopologicalSorter(within).static_order())) == len(MODULES)  # raises CycleError


@pytest.mark.parametrize(
    ("parts", "never"),
    [
        (("nn",), {"relaxation", "topology", "supernet", "data", "config"}),
        (("topology",), {"relaxation", "supernet"}),
        (("relaxation",), {"topology", "supernet"}),
        (("networks",), {"supernet", "relaxation", "topology"}),
        (("selection", "searching"), {"networks", "nn"}),
        (("reporting",), {"data", "supernet"}),  # reads files, builds nothing
        (("data",), {"config", "relaxation", "topology"}),
        (("genotype",), {"config"}),
    ],
)
def test_parts_that_must_not_know_each_other(parts: tuple[str, ...], never: set[str]) -> None:
    assert members(*parts)
    assert {(m, n) for m in members(*parts) for n in own(MODULES[m]) if part_of(n) in never} == set()


def test_the_supernet_sees_two_tensors() -> None:
    """Of the architecture's state only `arch_state`, the learner and its levels know; the network takes its weights."""
    network = {f"topocell.supernet.{name}" for name in ("cell", "supernet", "weights")}
    never = {"relaxation", "topology", "data", "config", "searching"}
    assert network <= set(MODULES)
    assert {(m, n) for m in network for n in own(MODULES[m]) if part_of(n) in never} == set()


def test_only_the_top_knows_whole_recipes() -> None:
    whole = {"topocell.config.recipe", "topocell.config.load", "topocell.config.budgets"}
    users = {part_of(m) for m, path in MODULES.items() if own(path) & whole}
    assert users == {"config", "runs", "api", "studies", "cli", "__init__"}


@pytest.mark.parametrize("part", ["errors", "arguments", "io", "registry", "spaces", "config", "genotype", "reporting"])
def test_plain_data_needs_no_torch(part: str) -> None:
    allowed = {"topocell.io.checkpoint"}  # of tensors
    assert members(part)
    assert {(m, n) for m in members(part) for n in foreign(MODULES[m]) if n.startswith("torch")} - {
        (m, "torch") for m in allowed
    } == set()


def test_the_search_cannot_reach_the_test_images() -> None:
    for module in members("searching", "selection"):
        tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
        assert not [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr == "test"], module
        named = {alias.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for alias in n.names}
        assert not named & {"Dataset", "load"}, module


def test_everything_imported_at_the_top_is_a_dependency() -> None:
    """Optional packages are imported where they are used; Triton comes with PyTorch, but not everywhere: see below."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[^\w-]", line)[0].lower() for line in project["dependencies"]}
    called = {"yaml": "pyyaml", "PIL": "pillow", "sklearn": "scikit-learn", "markupsafe": "jinja2", "triton": "torch"}
    for path in FILES:
        top = top_of(path)
        names = {name.split(".")[0] for name in top} - {"topocell"} - sys.stdlib_module_names
        assert {called.get(name, name) for name in names} <= declared, path


def test_triton_is_imported_where_kernels_are_launched_alone() -> None:
    names = {module: set(top_of(path)) for module, path in MODULES.items()}
    found = {module for module, top in names.items() if "triton" in {name.split(".")[0] for name in top}}
    while more := {module for module, top in names.items() if top & found} - found:
        found |= more
    kernels = ("topocell.nn.kernels.gpu.", "topocell.nn.fused_gpu")
    assert found and all(module.startswith(kernels) for module in found)


#: Libraries that take long to import and that few commands need.
HEAVY = ("jinja2", "matplotlib", "numpy", "scipy", "sklearn", "torch", "torchvision")


def loaded(program: str, names: Sequence[str] = HEAVY) -> set[str]:
    """Which modules of these names a program has imported when it ends, in a process of its own."""
    asked = f"{program}\nimport sys\nprint(*(name for name in {names} if name in sys.modules))"
    answer = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True, timeout=600)
    return set(answer.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "program",
    [
        "import topocell",
        "from topocell import cli; assert cli.main(['--help']) == 0",
        "from topocell import cli; assert cli.main(['run', '--help']) == 0",
        "from topocell import cli; assert cli.main(['recipes', 'list']) == 0",
        "from topocell import cli; assert cli.main(['recipes', 'show', 'dots']) == 0",
        "from topocell import cli; assert cli.main(['recipes', 'keys', 'retrain']) == 0",
        "from topocell import cli; assert cli.main(['spaces']) == 0",
        "from topocell import cli; assert cli.main(['estimate', '--help']) == 0",
        "from topocell.config import completion; assert completion.complete_overrides('dots', 'search.stages.')",
    ],
)
def test_heavy_libraries_are_imported_where_they_are_used(program: str) -> None:
    assert loaded(program) == set()


def test_what_some_runs_need_is_not_imported_by_all_of_them() -> None:
    program = "import topocell.studies, topocell.data.stream, topocell.runs.run, topocell.networks.retraining"
    assert loaded(program, ("torchvision", "matplotlib", "jinja2", "sklearn", "triton", "ray", "onnx")) == set()


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["recipes", "list"]])
def test_no_cell_is_read_where_none_is_named(words: list[str]) -> None:
    """The published cells and what reads genotypes would add a third to the time of a command's help."""
    program = f"from topocell import cli; assert cli.main({words}) == 0"
    assert loaded(program, ("topocell.genotype", "topocell.config.load")) <= {"topocell.config.load"}


def test_a_drawing_imports_what_it_needs() -> None:
    """And the test above would see it."""
    assert "matplotlib" in loaded("from topocell.reporting.style import blank; blank(1, 1)")


def test_nothing_is_evaluated() -> None:
    """No text becomes code: not of a genotype, not of a recipe, not of a checkpoint."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "compile", "__import__", "yaml.unsafe_load"), path
            if called == "torch.load":
                assert "weights_only=True" in ast.unparse(node), path
        assert not {"pickle", "marshal", "shelve"} & {name.split(".")[0] for name in imports(path)}, path


def test_sources_cite_what_a_reader_can_find() -> None:
    private = re.compile(r"/work/|/tmp/|/home/")
    texts = [path for path in SOURCE.rglob("*") if path.suffix in (".py", ".yaml", ".html")]
    assert len(texts) > len(FILES)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in texts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if private.search(line)
    ]
    assert found == []


#: What stands before a path in a command.
_BEFORE = re.compile(r"(topocell (run|retrain|select|predict|export|report|draw|compare)|--out|--from|--import)[ =]$")


def test_paths_in_commands_that_messages_name_can_be_typed() -> None:
    """With blanks and quotes in them, they are still one word."""
    bare = []
    for path in FILES:
        for node in parsed(path):
            if isinstance(node, ast.JoinedStr):
                for before, value in pairwise(node.values):
                    if isinstance(before, ast.Constant) and _BEFORE.search(str(before.value)):
                        bare.append(ast.unparse(value))
    assert {"{typed(path)}", "{typed(place)}"} <= set(bare)
    assert [text for text in bare if not text.startswith("{typed(")] == []


@pytest.mark.parametrize("run", ["runs/a", "runs/my photos", "runs/Tom's", Path("a b")])
def test_the_command_that_resumes_is_read_as_it_is_meant(run: str | Path) -> None:
    words = shlex.split(resuming(run, "data.root=DIR"))
    assert words == ["topocell", "run", f"{run}/recipe.yaml", "data.root=DIR", "--out", str(run)]
