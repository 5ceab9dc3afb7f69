"""The steps of a run on what they find: states of something else, selections beside, cells that are not their own."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from topocell import api
from topocell.config.load import load_recipe
from topocell.config.recipe import Recipe
from topocell.errors import CheckpointError, GenotypeError, RunError
from topocell.genotype.genotype import Genotype
from topocell.io import checkpoint, files
from topocell.networks.retraining import Retraining
from topocell.runs import run
from topocell.runs.directory import RunDir
from topocell.searching.loop import Search

SMALL = ["data.images=24", "data.test_images=10", "space.nodes=2", "search.layers=3", "retrain.layers=3"]


def recipe(*more: str) -> Recipe:
    return load_recipe("darts-v1", [*SMALL, "search.stages.search.epochs=1", *more], budget="smoke")


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "write_report", lambda path: path / "report.html")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: Any) -> Path:
    path: Path = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "write_report", lambda path: path / "report.html")
        api.run(recipe(), path)
    return path


@pytest.fixture
def mine(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def contents(path: Path) -> dict[str, bytes]:
    passing = ("log.txt", ".lock", "timings.json")
    return {str(p): p.read_bytes() for p in path.rglob("*") if p.is_file() and p.name not in passing}


def put(path: Path, saved: dict[str, Any]) -> Path:
    """Make `saved` the newest checkpoint of a run; returns its file."""
    with RunDir.existing(path) as directory:
        directory.save_checkpoint(saved)
    return max(path.glob("checkpoints/[0-9]*.ckpt"))


# --- checkpoints of something else

COMMANDS: dict[str, Callable[[Path], object]] = {
    "search": lambda path: api.run(recipe(), path),
    "select": lambda path: api.select(path, edges="perturbation"),
    "retrain": api.retrain,
}


@pytest.mark.parametrize(
    ("phase", "rest"),
    [
        *((phase, {"state": state}) for phase in COMMANDS for state in ({}, [], "x")),
        ("search", {"state": {"stage": 9, "epoch": 0, "step": 0, "candidates": {}}}),
        ("search", {"state": {"stage": 0, "epoch": 0, "step": 0, "candidates": {"normal": [["x"]], "reduce": []}}}),
        ("select", {"state": {"rules": {"in_degree": 2, "foo": 1}}}),
        ("select", {"state": {"rules": {"edges": "perturbation"}, "round": 1}}),
        ("retrain", {"state": None, "seconds": {"search": "long"}}),
        ("retrain", {"state": None, "seconds": {"search": -1.0}}),
        ("retrain", {"state": None, "seconds": 3.0}),
        ("retrain", {"state": None, "more": 1}),
    ],
)
def test_a_state_of_something_else_is_named_and_nothing_changes(mine: Path, phase: str, rest: dict[str, Any]) -> None:
    newest = put(mine, {"phase": phase, "seconds": {}, **rest})
    before = contents(mine)
    with pytest.raises(CheckpointError) as caught:
        COMMANDS[phase](mine)
    text = str(caught.value)
    assert str(newest) in text and "restore it from a copy or delete it" in text and "\n" not in text
    assert contents(mine) == before


def test_a_state_of_a_larger_network_is_named(mine: Path, tmp_path: Path) -> None:
    api.search(recipe("search.channels=8"), tmp_path / "large")
    states = [checkpoint.load(path)["state"] for path in (tmp_path / "large/checkpoints").glob("[0-9]*.ckpt")]
    newest = put(mine, next(state for state in states if state["state"]))
    with pytest.raises(
        CheckpointError, match=f"{newest.name} must hold a state of this run, but does not fit .Runtime"
    ):
        api.run(recipe(), mine)


@pytest.mark.parametrize(
    ("of", "ends", "phase", "name", "moment"),
    [
        (Search, "on_epoch_end", "search", "weights", "momentum_buffer"),
        (Search, "on_epoch_end", "search", "alpha", "exp_avg_sq"),
        (Retraining, "on_epoch_end", "retrain", "optimizer", "momentum_buffer"),
    ],
)
def test_an_optimizer_of_other_shapes_is_named(
    mine: Path, monkeypatch: pytest.MonkeyPatch, of: type, ends: str, phase: str, name: str, moment: str
) -> None:
    state: dict[str, Any] = {}
    two = "search.stages.search.epochs=2", "retrain.epochs=2"
    shutil.rmtree(mine)
    with monkeypatch.context() as patch:
        patch.setattr(of, ends, lambda self, *_: state.update(self.state_dict()) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            api.run(recipe(*two), mine)
    of = state["members"][0] if phase == "retrain" else state
    kept = next(iter(of[name]["state"].values()))
    kept[moment] = kept[moment][:1]
    newest = put(mine, {"phase": phase, "state": state, "seconds": {}})
    before = contents(mine)
    with pytest.raises(CheckpointError, match=f"{newest.name} must hold a state of this run.*{moment} of an optimizer"):
        api.run(recipe(*two), mine)
    assert contents(mine) == before


@pytest.mark.parametrize("state", [{"net": 1}, {"candidates": 5}, {"candidates": {"normal": [], "reduce": []}}])
@pytest.mark.parametrize("edges", ["magnitude", "perturbation"])
def test_a_supernet_that_is_none_is_named(mine: Path, state: dict[str, Any], edges: str) -> None:
    with RunDir.existing(mine) as directory:
        directory.save_named("supernet", state)
        directory.save_checkpoint({"phase": "select", "state": None, "seconds": {}})
    with pytest.raises(CheckpointError, match=r"supernet.ckpt must hold a state of this run, but does not fit"):
        api.select(mine, edges=edges)


@pytest.mark.parametrize(
    "fault", [KeyError("mine"), RuntimeError("mine"), torch.OutOfMemoryError("CUDA out of memory")]
)
def test_faults_of_the_training_itself_and_of_memory_stay_what_they_are(
    mine: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    state: dict[str, Any] = {}
    with monkeypatch.context() as patch:
        patch.setattr(Retraining, "on_epoch_end", lambda self: state.update(self.state_dict()) or 1 / 0)
        put(mine, {"phase": "retrain", "state": None, "seconds": {}})
        with pytest.raises(ZeroDivisionError):
            api.retrain(mine)

    def fails(*_: object) -> None:
        raise fault

    full = isinstance(fault, torch.OutOfMemoryError)
    monkeypatch.setattr(Retraining, "_begin" if full else "begin_epoch", fails)
    put(mine, {"phase": "retrain", "state": state, "seconds": {}})
    with pytest.raises(RunError if full else type(fault), match="it ran out" if full else "mine"):
        api.retrain(mine)


def test_without_checkpoints_a_finished_run_is_refused_and_stays_as_it_is(mine: Path) -> None:
    for path in mine.glob("checkpoints/0*.ckpt"):
        path.unlink()
    before = contents(mine)
    for step in (*COMMANDS.values(), lambda path: api.select(path, operations="random")):
        with pytest.raises(CheckpointError, match=r"has none, and .*genotype.json says"):
            step(mine)
    assert contents(mine) == before


def test_a_search_without_epochs_can_be_stopped_before_it_selects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supernet is there, and a checkpoint that tells of it."""
    none = recipe("search.stages.search.epochs=0")
    with monkeypatch.context() as patch:
        patch.setattr(run.Work, "select", lambda self: 1 / 0)
        patch.setattr(
            run.Work, "_enter", lambda self, phase, real=run.Work._enter: phase == "select" or real(self, phase)
        )
        with pytest.raises(ZeroDivisionError):
            api.run(none, tmp_path / "run")
    assert (tmp_path / "run/checkpoints/supernet.ckpt").exists()
    api.run(none, tmp_path / "run")
    assert (tmp_path / "run/results.json").exists()


# --- selections beside the run


@pytest.mark.parametrize("kind", ["pipe", "folder", "bytes"])
def test_a_selection_whose_recipe_is_none_is_refused(mine: Path, kind: str) -> None:
    place = mine / "selections/one/recipe.yaml"
    place.parent.mkdir(parents=True)
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        place.write_bytes(b"\xff\xfe")
    with pytest.raises(RunError, match=r"one/recipe.yaml"):
        api.select(mine, name="one", operations="random")


def test_a_selection_stays_the_same_when_only_the_answer_to_faults_changes(mine: Path) -> None:
    first = api.select(mine, name="one", operations="random")
    api.run(recipe("on_nan=skip"), mine)
    assert api.select(mine, name="one", operations="random") == first
    with pytest.raises(RunError, match="a selection keeps the rules it began with"):
        api.select(mine, name="one", operations="magnitude")


@pytest.mark.parametrize("call", ["save_named", "append_metrics", "save_checkpoint"])
def test_a_selection_that_is_stopped_while_it_is_set_up_begins_again(
    mine: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    whole = Path(shutil.copytree(mine, mine.parent / "whole" / "run"))
    expected = api.select(whole, name="one", operations="random")
    real, times = getattr(RunDir, call), [0]

    def stops(self: RunDir, *arguments: Any) -> None:
        real(self, *arguments)
        times[0] += 1
        if times[0] == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunDir, call, stops)
        with pytest.raises(KeyboardInterrupt):
            api.select(mine, name="one", operations="random")
    assert api.select(mine, name="one", operations="random") == expected
    one, other = (path / "selections/one/metrics.jsonl" for path in (mine, whole))
    assert one.read_bytes() == other.read_bytes()


# --- the cell that is retrained


def test_a_changed_cell_is_noticed_whatever_the_directory_is_called(mine: Path) -> None:
    path, cell = mine.rename(mine.parent / "renamed"), mine.parent / "renamed/genotype.json"
    put(path, {"phase": "retrain", "state": None, "seconds": {}})
    value = files.from_json(cell.read_bytes())
    pair = value["cells"]["normal"]["nodes"][0][0]
    pair[0] = "sep_conv_5x5" if pair[0] == "sep_conv_3x3" else "sep_conv_3x3"
    whole = cell.read_bytes()
    cell.write_text(files.to_json(value))
    with pytest.raises(GenotypeError, match=r"with the key \w+, but the key of its cells is \w+"):
        api.retrain(path)
    cell.write_bytes(whole)
    assert api.retrain(path)["n"] == 1


def test_a_cell_of_another_run_may_be_put_in(mine: Path, tmp_path: Path) -> None:
    other = api.select(mine, name="other", operations="random")
    shutil.copy(mine / "selections/other/genotype.json", mine / "genotype.json")
    put(mine, {"phase": "retrain", "state": None, "seconds": {}})
    assert Genotype.load(mine / "genotype.json") == other
    assert api.retrain(mine)["n"] == 1
