"""Pieces of a user's own: registered, imported, refused; in a whole run; and the contract suites."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import topocell
from topocell import registry, testing
from topocell.cli import main
from topocell.errors import RecipeError
from topocell.nn.primitives import Primitive
from topocell.registry import HOMES, Registry, known
from topocell.relaxation import Relaxation, Softmax
from topocell.spaces import DARTS_OPERATIONS
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


@pytest.mark.parametrize(
    ("check", "words"),
    [
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
def test_a_broken_piece_is_refused_in_one_line(check: Any, words: str) -> None:
    with pytest.raises(testing.ContractError) as caught:
        check()
    assert words in str(caught.value) and "\n" not in str(caught.value)


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
    ("text", "words"),
    [
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("x = 1\n", "registers none; call topocell.register"),
        ("import topocell\ntopocell.register('space', 'darts', lambda: 1)\n", "the space 'darts' exists"),
        ("def (\n", "SyntaxError"),
        (None, "FileNotFoundError"),
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


def test_a_run_with_pieces_of_every_kind_and_what_is_said_without_them(here: Path) -> None:
    done = in_a_process(*MINE)
    assert done.returncode == 0, done.stderr
    assert (here / "mine/report.html").exists() and "second-best" in (here / "mine/recipe.yaml").read_text()
    for words in (["run", *MINE[3:]], ["retrain", "mine"]):
        without = in_a_process(*words)
        assert without.returncode == 2 and without.stderr.count("\n") == 1
        assert f"begun with --import {here / 'my_pieces.py'}: add it" in without.stderr
    assert in_a_process("retrain", "mine", "--import", "my_pieces.py").returncode == 0
