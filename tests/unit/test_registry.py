"""Pieces of a user's own: registered, imported, refused; in a whole run; and the contract suites."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import topocell
from topocell import registry, testing
from topocell.cli import main
from topocell.errors import RecipeError, TopocellError
from topocell.nn.primitives import Primitive
from topocell.registry import HOMES, Registry, known
from topocell.relaxation import Relaxation, Softmax
from topocell.runs.directory import RunDir
from topocell.runs.phases import read_phase
from topocell.searching.mechanisms import Mechanism
from topocell.spaces import DARTS_OPERATIONS, Slot, Stacking
from topocell.spaces.operations import KNOWN_OPERATIONS
from topocell.topology import EdgeSigmoid

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
MINE = ["run", "--import", "my_pieces.py", "my-recipe.yaml", "--budget", "smoke", "--quiet", "--out", "mine"]

OPTIONS: dict[str, dict[str, Any]] = {
    "grouped-softmax": {"groups": [list(DARTS_OPERATIONS[:4]), list(DARTS_OPERATIONS[4:])]},
    "subsets": {"view": "source"},
    "fixed": {"edges": [0, 2]},
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the example's files, in a process that has imported nothing."""
    for file in EXAMPLES.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_imported", [])
    monkeypatch.setenv(registry.IMPORT_VARIABLE, "")
    return tmp_path


def in_a_process(*words: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, which knows nothing of what this one has registered."""
    environment = {key: value for key, value in os.environ.items() if key != registry.IMPORT_VARIABLE}
    return subprocess.run(
        [sys.executable, "-m", "topocell", *words], capture_output=True, text=True, timeout=600, env=environment
    )


def test_every_table_is_where_it_is_said_to_be() -> None:
    for kind in HOMES:
        assert len(known(kind)) > 0
        if isinstance(table := known(kind), Registry):
            assert table.kind == kind


@pytest.mark.parametrize("name", sorted(known("operation")))
def test_our_operations_keep_the_contract(name: str) -> None:
    if name != "none":
        testing.check_operation(name)


@pytest.mark.parametrize("name", sorted(known("relaxation")))
def test_our_relaxations_keep_the_contract(name: str) -> None:
    testing.check_relaxation(name, **OPTIONS.get(name, {}))


@pytest.mark.parametrize("name", sorted(known("topology")))
def test_our_topologies_keep_the_contract(name: str) -> None:
    testing.check_topology(name, **OPTIONS.get(name, {}))


@pytest.mark.parametrize("kind", ["operation rule", "edge rule"])
def test_our_rules_keep_the_contract(kind: str) -> None:
    for name in known(kind):
        testing.check_rule(name, kind)


@pytest.mark.parametrize("name", sorted(known("space")))
def test_our_spaces_keep_the_contract(name: str) -> None:
    testing.check_space(name)


@pytest.mark.parametrize("name", sorted(known("skeleton")))
def test_our_skeletons_keep_the_contract(name: str) -> None:
    testing.check_skeleton(name)


@pytest.mark.parametrize("name", sorted(known("mechanism")))
def test_our_mechanisms_keep_the_contract(name: str) -> None:
    given: dict[str, dict[str, Any]] = {
        "attention": {"constants": {"sep_conv_3x3": 0.1}},
        "skip_dropout": {"rate": 0.3},
        "drop_path": {"rate": 0.3},
        "early_stop": {"stable": 1},
        "progressive": {"first": 0, "every": 1, "decide_by": "perturbation"},
    }
    level = "weights" if name == "random_cell" else "bilevel"
    testing.check_mechanism(name, level, **given.get(name, {}))


def test_our_dataset_without_files_keeps_the_contract() -> None:
    testing.check_dataset("digits")


# Pieces that break the contract


class Bare(Relaxation):
    def weights(self, alpha: torch.Tensor, mask: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        return torch.softmax(alpha, 1)


class Still(Softmax):
    def weights(self, alpha: torch.Tensor, mask: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        return super().weights(alpha.detach(), mask, temperature)


class Negative(EdgeSigmoid):
    def weights(self, beta: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        return super().weights(beta, temperature) - 1


class Empty(EdgeSigmoid):
    def random(self, generator: torch.Generator) -> list[int]:
        return []


class Forgetful(Mechanism):
    """Moves weights by how often it was called, which it does not save."""

    calls = 0

    def on_step_end(self, search: Any) -> None:
        self.calls += 1
        with torch.no_grad():
            next(iter(search.learner.arch.alpha.values())).add_(self.calls)


class Chatty(Mechanism):
    """Returns a tensor."""

    def on_epoch_end(self, search: Any) -> dict[str, Any]:
        return {"alpha": next(iter(search.learner.arch.alpha.values()))}


class Misspelt(Mechanism):
    def on_epoch_stop(self, search: Any) -> None:
        """Never called."""


class Clashing(Mechanism):
    def on_epoch_end(self, search: Any) -> dict[str, Any]:
        return {"val_accuracy": 1.0}


class Endless(Mechanism):
    def reason_to_stop(self, search: Any, record: Any) -> Any:
        return True


def in_place(x: torch.Tensor, stride: int, norm: bool) -> torch.Tensor:
    return x.relu_()[:, :, ::stride, ::stride]


def other_pool(x: torch.Tensor, stride: int, norm: bool) -> torch.Tensor:
    return 1000 * x[:, :, ::stride, ::stride]


def doubled(x: torch.Tensor, stride: int, norm: bool) -> torch.Tensor:
    return x[:, :, ::stride, ::stride] * (1 + norm)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mechanisms and skeletons are checked by their names."""
    for kind, name, piece in (
        ("mechanism", "forgetful", Forgetful),
        ("mechanism", "chatty", Chatty),
        ("mechanism", "no-class", lambda: None),
        ("skeleton", "wide", Stacking(lambda channels, layers: [Slot("wide", channels, i) for i in range(layers)])),
        ("skeleton", "none", Stacking(lambda channels, layers: [])),
        ("skeleton", "thin", Stacking(lambda channels, layers: [Slot("normal", 1, 0)])),
        ("skeleton", "twice", Stacking(lambda channels, layers: [Slot("normal", channels, 0)] * 2)),
    ):
        monkeypatch.setitem(known(kind), name, piece)


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (lambda: testing.check_mechanism("forgetful"), "a search resumed from state_dict ends with the same net"),
        (lambda: testing.check_mechanism("chatty"), "can be written as JSON"),
        (lambda: testing.check_mechanism("no-class"), "a class derived from topocell.searching.mechanisms.Mechanism"),
        (lambda: testing.check_mechanism(Misspelt), "its hooks are on_stage_start, on_epoch_start, on_step_end"),
        (lambda: testing.check_mechanism(Clashing), "but Clashing-to-be-checked adds 'val_accuracy'; rename it"),
        (lambda: testing.check_mechanism(Endless), "reason_to_stop returns words or None"),
        (lambda: testing.check_mechanism("attention2"), "unknown mechanism 'attention2' (did you mean 'attention'?)"),
        (
            lambda: testing.check_operation(Primitive(lambda c, s, a: nn.AvgPool2d(3, s, 1), weightless=in_place)),
            "alone",
        ),
        (
            lambda: testing.check_operation(Primitive(lambda c, s, a: nn.AvgPool2d(3, s, 1), weightless=other_pool)),
            "weightless computes what the module does",
        ),
        (
            lambda: testing.check_operation(Primitive(lambda c, s, a: nn.AvgPool2d(1, s), weightless=doubled)),
            "with norm=True is the same map, or that map behind batch norm",
        ),
        (lambda: testing.check_rule(lambda *_: [1], "edge rule"), "returns the kept edges, and a note or None"),
        (lambda: testing.check_skeleton("wide"), "its cells are of normal, reduce, but got ['wide']"),
        (lambda: testing.check_skeleton("none"), "has at least one cell"),
        (lambda: testing.check_skeleton("thin"), "no cell has less than the initial channels"),
        (lambda: testing.check_skeleton("twice"), "numbered 0, 1, ..., but got [0, 0]"),
        (lambda: testing.check_skeleton(lambda: 3), "is a topocell.spaces.Stacking"),  # type: ignore[arg-type]
        (lambda: testing.check_relaxation(Bare), "weights is exactly 0 where the mask is False"),
        (lambda: testing.check_relaxation(Still), "depend on alpha, but got no gradient"),
        (lambda: testing.check_relaxation(type("Worse", (Bare,), {"weights": lambda *_: 1 / 0})), "ZeroDivisionError"),
        (lambda: testing.check_topology(Negative), "weights are 0 or more"),
        (lambda: testing.check_topology(Empty), "leave nodes that have an input"),
        (lambda: testing.check_operation(Primitive(lambda c, s, a: nn.MaxPool2d(2, s))), "becomes (2, 4, 8, 8)"),
        (lambda: testing.check_operation(Primitive(lambda c, s, a: nn.Sequential(nn.ReLU(True)))), "is left alone"),
        (lambda: testing.check_rule(lambda *_: [99], "operation rule"), "chooses for each of 5 edges, but got 1"),
        (lambda: testing.check_rule(lambda *_: ([99], None), "edge rule"), "keeps edges of the cell, but got [99]"),
        (lambda: testing.check_space(lambda: 3), "returns a SpaceSpec, but got int"),
        (lambda: testing.check_dataset(lambda *_: 3), "is a topocell.data.readers.Entry"),  # type: ignore[arg-type]
    ],
)
def test_a_broken_piece_is_refused_in_one_line(broken: None, check: Any, words: str) -> None:
    with pytest.raises(TopocellError) as caught:
        check()
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("check", [testing.check_relaxation, testing.check_topology])
def test_options_that_a_piece_does_not_take_are_named_like_those_of_a_recipe(check: Any) -> None:
    piece = {"check_relaxation": "softmax", "check_topology": "edge-softmax"}[check.__name__]
    with pytest.raises(RecipeError, match=f"'{piece}' has no option 'offest'"):
        check(piece, offest=1)


# Registering and importing


def test_a_name_is_taken_once_and_stands_in_a_recipe() -> None:
    with pytest.raises(RecipeError, match="but the relaxation 'softmax' exists; choose another"):
        topocell.register("relaxation", "softmax", Still)
    with pytest.raises(RecipeError, match="up to 60 letters"):
        topocell.register("relaxation", "two words", Still)
    with pytest.raises(RecipeError, match=r"unknown kind of piece 'relaxtion' .did you mean 'relaxation'"):
        topocell.register("relaxtion", "mine", Still)
    with pytest.raises(RecipeError, match=r"an operation is a topocell.nn.Primitive, but 'mine' is a function"):
        topocell.register("operation", "mine", lambda c, s, a: nn.Identity())


@pytest.mark.parametrize(
    ("kind", "piece", "words"),
    [
        ("mechanism", Relaxation, "has to be a topocell.searching.mechanisms.Mechanism"),
        ("skeleton", lambda channels, layers: [], "has to be a topocell.spaces.skeletons.Stacking"),
        ("dataset", lambda root, download: None, "has to be a topocell.data.readers.Entry"),
        ("relaxation", nn.Identity, "has to be a topocell.relaxation.base.Relaxation"),
        ("topology", 5, "has to be a topocell.topology.base.Topology"),
        ("space", 5, "has to be something to call"),
        ("operation", Primitive(lambda c, s, a: nn.Identity(), family="mine"), "is one of sep_conv, dil_conv, conv"),  # type: ignore[arg-type]
    ],
)
def test_a_piece_of_another_kind_is_refused_when_it_is_registered(kind: str, piece: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        topocell.register(kind, "mine", piece)


FAILING = """
import topocell, torch
from topocell.data.readers import Entry, in_memory
from topocell.searching.mechanisms import Mechanism

@topocell.register("mechanism", "late")
class Late(Mechanism):
    def on_epoch_end(self, search):
        if search.loop.epoch == 2:
            raise ValueError("boom")

def read(root, download):
    return None

topocell.register("dataset", "nothing", Entry(read, None))

def read_uneven(root, download):
    images, labels = torch.zeros(60, 1, 8, 8, dtype=torch.uint8), torch.arange(61) % 2
    return in_memory(("a", "b"), (images, labels), (images, labels[:60]))

topocell.register("dataset", "uneven", Entry(read_uneven, None))

def read_negative(root, download):
    images, labels = torch.zeros(60, 1, 8, 8, dtype=torch.uint8), torch.arange(60) % 2
    return in_memory(("a", "b"), (images, labels - 1), (images, labels))

topocell.register("dataset", "negative", Entry(read_negative, None))
"""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            ["search.stages.search.mechanisms.late={}", "search.stages.search.epochs=4"],
            "a piece of your own fails: ValueError: boom; see FILE, line 10; mend it, the same command resumes",
        ),
        (["data.dataset=nothing"], "the reader of dataset 'nothing' fails or returns no dataset: AttributeError"),
        (["data.dataset=uneven"], "a dataset has one label for each image, but got 60 images and 61 labels"),
        (["data.dataset=negative"], "labels of dataset 'negative' are int64 (N,) from 0 to 1"),
        (["space=mine"], "unknown space 'mine'; known: "),
        (["space=mine"], "or one of your own with --import FILE"),
    ],
)
def test_a_piece_that_fails_in_a_run_is_one_line(here: Path, capsys: Any, changes: list[str], words: str) -> None:
    (here / "failing.py").write_text(FAILING)
    command = ["run", "darts-v1", *changes, "--import", "failing.py", "--budget", "smoke", "--quiet", "--out", "mine"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert words.replace("FILE,", f"{here / 'failing.py'},") in error and error.count("\n") == 1


FAILING_OPERATION = """
import topocell
from topocell.nn.primitives import Primitive

def build(channels, stride, affine):
    raise KeyError("boom")

topocell.register("operation", "broken", Primitive(build))
"""


@pytest.mark.parametrize("way", ["variable", "package", "installed"])
def test_a_piece_that_fails_is_found_however_it_is_imported(
    here: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    place, name = here / "ownpieces" / "ops.py", f"broken-{way}"
    place.parent.mkdir()
    place.write_text(FAILING_OPERATION.replace('"broken"', repr(name)))
    (place.parent / "__init__.py").write_text("from . import ops\n")
    for module in ("ownpieces", "ownpieces.ops"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(here)
    for table in (known("operation"), KNOWN_OPERATIONS):  # put back in the end
        monkeypatch.setitem(table, name, None)
        monkeypatch.delitem(table, name)
    if way == "variable":
        monkeypatch.setenv(registry.IMPORT_VARIABLE, "ownpieces/ops.py")
        topocell.registry.load_plugins(["./ownpieces/ops.py"])
        assert registry.imported() == [str(place)] == [os.environ[registry.IMPORT_VARIABLE]]
    elif way == "package":
        topocell.registry.load_plugins(["ownpieces"])
    else:
        entry = metadata.EntryPoint("own", "ownpieces", "topocell.plugins")
        monkeypatch.setattr(registry.metadata, "entry_points", lambda group: [entry])
        topocell.registry.load_plugins()
    with pytest.raises(RecipeError, match=f"KeyError: 'boom'; see {place}, line 6; mend it"):
        testing.check_operation(name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("raise SystemExit('tired')\n", "SystemExit: tired"),
        ("x = 1\n", "registers none; call topocell.register"),
        ("import topocell\ntopocell.register('space', 'darts', lambda: 1)\n", "the space 'darts' exists"),
        ("def (\n", "SyntaxError"),
        (None, "there is no such file; check the path"),
    ],
)
def test_an_import_that_fails_is_one_line(here: Path, capsys: Any, text: str | None, words: str) -> None:
    if text is not None:
        (here / "pieces.py").write_text(text)
    assert main(["spaces", "--import", "pieces.py"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: cannot import") or "an import brings pieces" in error
    assert words in error and error.count("\n") == 1


def test_the_pieces_of_the_example_keep_the_contract(here: Path) -> None:
    done = subprocess.run([sys.executable, "my_pieces.py"], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout) == (0, "all pieces do what they have to\n"), done.stderr


def test_a_run_with_pieces_of_every_kind_is_killed_and_resumes(here: Path) -> None:
    """Killed without warning inside the search and inside the retraining, it ends as one that was left alone."""
    whole = in_a_process(*MINE[:-1], "whole")
    assert whole.returncode == 0, whole.stderr
    environment = {**os.environ, "TOPOCELL_CHECKPOINT_SECONDS": "0", registry.IMPORT_VARIABLE: ""}
    for wanted in ("search", "retrain"):  # the phase of the checkpoint that is to be there before the kill
        deadline, killed = time.monotonic() + 300, False
        while not killed:
            running = subprocess.Popen([sys.executable, "-m", "topocell", *MINE], env=environment)
            while running.poll() is None and not begun(here / "mine", wanted):
                time.sleep(0.02)
            running.kill()
            killed = running.wait() == -signal.SIGKILL
            assert (killed or running.returncode == 0) and time.monotonic() < deadline
            if not killed:  # it has ended before anybody looked
                shutil.rmtree(here / "mine")
    assert in_a_process(*MINE).returncode == 0
    for name in ("genotype.json", "results.json"):
        first, second = (json.loads((here / out / name).read_bytes()) for out in ("whole", "mine"))
        for told in (first, second):
            told.get("origin", {}).pop("run", None)
        assert {k: v for k, v in first.items() if "seconds" not in k} == {
            k: v for k, v in second.items() if "seconds" not in k
        }


def begun(run: Path, phase: str) -> bool:
    """Whether a run has saved a state inside a phase."""
    try:
        with RunDir.existing(run, lock=False) as directory:
            found, state, _ = read_phase(directory)
    except (TopocellError, OSError):  # it is being made
        return False
    return found == phase and state is not None


def test_a_run_with_pieces_of_every_kind_and_what_is_said_without_them_or_when_they_changed(here: Path) -> None:
    done = in_a_process(*MINE)
    assert done.returncode == 0, done.stderr
    assert (here / "mine/report.html").exists() and "second-best" in (here / "mine/recipe.yaml").read_text()
    genotype = json.loads((here / "mine/genotype.json").read_bytes())
    assert genotype["skeleton"] == "early"
    records = [json.loads(line) for line in (here / "mine/metrics.jsonl").read_text().splitlines()]
    assert all(record["cooled_by"] == 0.9 for record in records if record["phase"] == "search")
    for words in (["run", *MINE[3:]], ["retrain", "mine"]):
        without = in_a_process(*words)
        assert without.returncode == 2 and without.stderr.count("\n") == 1
        assert f"begun with --import {here / 'my_pieces.py'}: add it" in without.stderr
    assert in_a_process("retrain", "mine", "--import", "my_pieces.py").returncode == 0
    with (here / "my_pieces.py").open("a") as file:
        file.write("\n# mended\n")
    again = in_a_process(*[word for word in MINE if word != "--quiet"])
    assert (
        again.returncode == 0 and "the imported files are not those the run began with" in again.stdout + again.stderr
    )


def test_a_piece_that_takes_any_option_gets_those_that_are_given() -> None:
    def anything(cell: object, *more: int, size: int = 1, **others: float) -> dict[str, float]:
        return {"size": size, **others}

    table = {"anything": anything}
    assert registry.build("loss", table, "anything", None) == {"size": 1}
    assert registry.build("loss", table, "anything", None, size=2, gamma=0.5) == {"size": 2, "gamma": 0.5}
    with pytest.raises(RecipeError, match=r"loss\.size: input should be a valid integer, but got 'two'"):
        registry.build("loss", table, "anything", None, size="two")
