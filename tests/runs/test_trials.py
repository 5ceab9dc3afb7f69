"""Whole runs with trials: several processes find what one finds, and the winner is the best of what was recorded."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from topocell import Genotype, api
from topocell.config.load import load_recipe
from topocell.errors import RecipeError
from topocell.reporting.command_line import Budget
from topocell.runs import setup
from topocell.runs.monitor import RunMonitor
from topocell.runs.outlook import parts_of
from topocell.runs.recipe_commands import recipe_for
from topocell.runs.setup import Setup

TINY = ["space.nodes=1", "space.candidates=[skip_connect,sep_conv_3x3]", "data.images=48", "data.test_images=10"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(setup.GROUND_TRUTH_VARIABLE, raising=False)
        yield
    torch.set_num_threads(before)


def trials_of(path: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["phase"] == "trial"]


def test_several_processes_find_what_one_finds(tmp_path: Path) -> None:
    """Number by number; and the number of processes is no part of the identity of a run."""
    changes = [*TINY, "selection.trials.number=4"]
    for name, workers in (("one", 1), ("two", 2)):
        recipe = load_recipe("random-search", [*changes, f"selection.trials.workers={workers}"], budget="smoke")
        api.run(recipe, tmp_path / name)
    one, two = (trials_of(tmp_path / name) for name in ("one", "two"))
    assert one == two and len(one) == 4
    best = max(one, key=lambda record: record["score"])  # the first of equals
    cells = [Genotype.load(tmp_path / name / "genotype.json") for name in ("one", "two")]
    assert cells[0].key == cells[1].key == best["key"]
    again = recipe_for(tmp_path / "three", "random-search", [*changes], Budget.smoke, workers=3)
    assert again.selection.trials is not None and again.selection.trials.workers == 3
    api.run(again, tmp_path / "two")  # finished, and the same run


def test_several_processes_resume_where_the_device_of_the_run_is_not(tmp_path: Path) -> None:
    """Each of them on what takes its place."""
    recipe = load_recipe("random-search", [*TINY, "selection.trials.number=2", "selection.trials.workers=2"], "smoke")
    for name in ("here", "moved"):
        api.search(recipe, tmp_path / name)
    stored = tmp_path / "moved/recipe.yaml"
    stored.write_text(stored.read_text().replace("device: auto", "device: cuda:97"))
    assert api.select(tmp_path / "moved").key == api.select(tmp_path / "here").key
    assert trials_of(tmp_path / "moved") == trials_of(tmp_path / "here") and len(trials_of(tmp_path / "here")) == 2
    assert "device: cuda:97" in stored.read_text()


def test_cells_at_once_find_what_one_after_the_other_finds(tmp_path: Path) -> None:
    """Up to rounding; and in several processes the very same, which have the same groups."""
    changes, ends = [*TINY, "selection.trials.number=5"], {}
    several = "selection.trials.evaluate={name: training, epochs: 1, together: 2}"
    for name, more in (("alone", []), ("two", [several]), ("workers", [several, "selection.trials.workers=2"])):
        api.run(load_recipe("random-search", [*changes, *more], budget="smoke"), tmp_path / name)
        ends[name] = trials_of(tmp_path / name)
    assert ends["two"] == ends["workers"] and len(ends["two"]) == 5
    for one, other in zip(ends["alone"], ends["two"], strict=True):
        assert one | {"score": 0} == other | {"score": 0}
        assert other["score"] == pytest.approx(one["score"], abs=1 / 24)  # of 24 images roundings may turn one


def test_images_that_were_given_stay_in_one_process(tmp_path: Path) -> None:
    images, labels = torch.zeros(20, 1, 8, 8, dtype=torch.uint8), torch.arange(20) % 2
    images[labels == 1] = 255
    recipe = load_recipe("random-search", [*TINY[:2], "selection.trials.workers=2"], budget="smoke")
    with pytest.raises(RecipeError, match=r"these were given, and selection\.trials\.workers is 2; set it to 1"):
        api.run(recipe, tmp_path / "run", data=[(images, labels), (images, labels)])


def test_short_trainings_are_part_of_what_is_to_come() -> None:
    recipe = load_recipe("random-search", [*TINY, "selection.trials.number=5"], budget="smoke")
    parts = {part.name: part for part in parts_of(Setup.of(recipe))}
    assert parts["select"].steps == 5 * 2  # of 24 images in batches of 16, one epoch
    assert parts["retrain"].steps == 3


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("together", [1, 2])
def test_a_run_that_is_killed_within_its_trials_ends_in_the_same_bits(
    together: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at the third report of every start: within short trainings, between trials, in the retraining."""
    monkeypatch.setenv("TOPOCELL_CHECKPOINT_SECONDS", "0")
    options = f"selection.trials.evaluate={{name: training, epochs: 2, together: {together}}}"
    recipe = load_recipe("random-search", [*TINY, "selection.trials.number=3", options], budget="smoke")
    api.run(recipe, tmp_path / "whole" / "run")
    reports, kills, step = 0, list[str](), RunMonitor.step

    def killing(self: RunMonitor, phase: str, *rest: Any) -> None:
        nonlocal reports
        reports += 1
        if reports == 3:
            kills.append(phase)
            raise Killed
        step(self, phase, *rest)

    monkeypatch.setattr(RunMonitor, "step", killing)
    for _ in range(40):
        reports = 0
        try:
            api.run(recipe, tmp_path / "killed" / "run")
            break
        except Killed:
            continue
    first = "select, trial 1/3" if together == 1 else "select, trials 1 to 2/3"
    assert len(kills) >= 4 and {first, "retrain, seed 1/1"} <= set(kills)
    for name in ("metrics.jsonl", "genotype.json", "results.json", "weights.safetensors"):
        assert (tmp_path / "killed/run" / name).read_bytes() == (tmp_path / "whole/run" / name).read_bytes(), name
