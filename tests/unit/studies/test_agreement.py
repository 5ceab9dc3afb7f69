"""The study that sets races against whole measurements: what is compared, counted, and gone on with."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from topocell import api, studies
from topocell.config.load import load_recipe
from topocell.errors import RecipeError
from topocell.runs import setup
from topocell.runs.monitor import RunMonitor
from topocell.runtime.hooks import Interrupted

TINY = ["data.images=64", "data.test_images=10", "space.nodes=2", "search.evaluation_batches=1", "search.batch_size=8"]
SMALL = [*TINY, "space.candidates=[skip_connect,max_pool_3x3]", "selection.projection.batches=null"]
OPTIONS = ["confidences=0.6", "margins=[0,0.5]", "selection.projection.tune_epochs=0"]


@pytest.fixture(autouse=True)
def no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(setup.GROUND_TRUTH_VARIABLE, raising=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: Any) -> Path:
    path: Path = tmp_path_factory.mktemp("searched") / "run"
    api.search(load_recipe("darts-pt", SMALL, "smoke"), path)
    return path


def said(folder: Path) -> list[dict[str, Any]]:
    (item,) = (json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines())
    found: list[dict[str, Any]] = item["said"]
    return found


def test_decisions_are_compared_on_the_same_supernet(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"runs={run}", *OPTIONS]
    studies.run("selection-agreement", words, tmp_path / "whole")
    whole = said(tmp_path / "whole")
    assert len(whole) == 2 * (5 + 1)
    with (tmp_path / "whole" / "table.csv").open() as file:
        rows = {row["mode"]: row for row in csv.DictReader(file)}
    assert list(rows)[:4] == ["exact", "exact, other images", "published", "published, again"]
    assert list(rows)[4:] == ["race at 0.6", "race at 0.6, margin 0.5"]
    exact = rows["exact"]
    assert (exact["equal %"], float(exact["exact / these"]), float(exact["lost"])) == ("", 1.0, 0.0)
    assert int(exact["image evaluations"]) == int(rows["published"]["image evaluations"]) == 32 * 2 * (5 * 2 + 3)
    for name, row in rows.items():
        equal = [each[name]["kept"] == each["exact"]["kept"] for each in whole]
        assert name == "exact" or float(row["equal %"]) == pytest.approx(100 * sum(equal) / len(equal))
        assert int(row["image evaluations"]) == sum(each[name]["images"] for each in whole)
        for each, same in zip(whole, equal):
            assert each[name]["lost"] >= -1e-12 and (not same or each[name]["lost"] == pytest.approx(0))
    assert int(rows["race at 0.6, margin 0.5"]["image evaluations"]) < int(exact["image evaluations"])

    opportunities = [0]
    original = RunMonitor.checkpoint

    def stopped(self: RunMonitor, state: Any, due: bool = False) -> None:
        opportunities[0] += 1
        original(self, state, due or opportunities[0] == 40)
        if opportunities[0] == 40:
            raise Interrupted(15)

    with monkeypatch.context() as patch:
        patch.setattr(RunMonitor, "checkpoint", stopped)
        with pytest.raises(Interrupted):
            studies.run("selection-agreement", words, tmp_path / "broken")
    studies.run("selection-agreement", words, tmp_path / "broken")
    timeless = [
        [{mode: {**found, "seconds": 0} for mode, found in each.items()} for each in said(tmp_path / name)]
        for name in ("whole", "broken")
    ]
    assert timeless[0] == timeless[1]


def test_only_decisions_by_perturbation_are_repeated(run: Path, tmp_path: Path) -> None:
    words = [f"runs={run}", "selection.operations=magnitude", "selection.edges=magnitude"]
    with pytest.raises(RecipeError, match=r"repeats decisions by perturbation, but .* makes none"):
        studies.run("selection-agreement", words, tmp_path / "study")
