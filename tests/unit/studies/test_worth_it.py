"""`study worth-it`: seconds, shares of cells and accuracies against the table, and runs that are there already."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers.made_up import COLUMNS, made_up_table
from tests.helpers.studies import rows_of
from tests.helpers.studies import without_reports as _  # noqa: F401

from topocell import api
from topocell.cli import main
from topocell.config.load import load_recipe
from topocell.studies._drawings import against_seconds

QUICK = ["data.images=24", "data.test_images=10", "--budget", "smoke"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("worth-it")
    made_up_table().save(folder / "table.csv")
    return folder


def test_the_table_says_what_the_runs_have_found(place: Path, capsys: Any) -> None:
    given = f"ground_truth.table={place / 'table.csv'}"
    recipe = load_recipe("nb201-random-search", [*QUICK[:2], given, "selection.trials.number=8"], budget="smoke")
    api.run(recipe, place / "mine")
    words = [*QUICK, given, "recipes=nb201-evolution", f"runs={place / 'mine'}", "charge=10", "seeds=0"]
    assert main(["study", "worth-it", *words, "--out", str(place / "out"), "--quiet"]) == 0
    evolution, search = rows_of(place / "out")
    assert [evolution["recipe"], search["recipe"]] == ["nb201-evolution", "nb201-random-search"]
    records = [json.loads(line) for line in (place / "mine/metrics.jsonl").read_text().splitlines()]
    assert len(records) == 8 and {record["phase"] for record in records} == {"trial"}
    timings = json.loads((place / "mine/timings.json").read_text())
    different = len({json.dumps(record["derived"]) for record in records})
    assert float(search["seconds"]) == pytest.approx(timings["search"] + timings["select"] + 10 * different)
    truth = json.loads((place / "mine/results.json").read_text())["ground_truth"]
    values = made_up_table().values(COLUMNS[0])
    assert float(search["accuracy %"]) == truth["accuracy"]
    below = int((values < truth["accuracy"]).sum())
    assert float(search["cells below %"]) == pytest.approx(100 * below / 15625)
    assert float(search["random cells"]) == pytest.approx(15625 / (15625 - below))
    assert float(search["regret %"]) == pytest.approx(np.max(values) - truth["accuracy"])
    best = max(records, key=lambda record: record["score"])
    assert made_up_table().lookup(truth["arch"]).accuracy[COLUMNS[1]] == pytest.approx(100 * best["score"])
    capsys.readouterr()


def test_what_has_no_true_accuracy_is_refused(place: Path, capsys: Any) -> None:
    assert main(["study", "worth-it", *QUICK, "recipes=nb201-random", "--out", str(place / "none")]) == 2
    assert "worth-it compares true accuracies, but nb201-random has no table" in capsys.readouterr().err
    api.run(load_recipe("random", [*QUICK[:2], "space.nodes=1"], budget="smoke"), place / "retrained")
    words = [*QUICK, f"ground_truth.table={place / 'table.csv'}", f"runs={place / 'retrained'}"]
    assert main(["study", "worth-it", *words, "recipes=nb201-random", "--out", str(place / "none")]) == 2
    assert "runs that ended with a look-up of cifar10_test_200ep" in capsys.readouterr().err
    assert not (place / "none").exists()


@pytest.mark.parametrize("most", [0.5, 9_000.0])
def test_seconds_are_plain_numbers_in_the_figure(most: float, tmp_path: Path) -> None:
    """Over less than a decade, too, where matplotlib writes formulas beside the ticks between."""
    bands = {5: 70.0, 25: 80.0, 50: 85.0, 75: 90.0, 95: 93.0}
    against_seconds({"a": [(0.2, 91.0)], "b": [(most, 92.0)]}, bands, "seconds", "accuracy, %", tmp_path / "f.svg")
    drawn = (tmp_path / "f.svg").read_text()
    assert "mathdefault" not in drawn
    assert (">0.5<" in drawn) == (most == 0.5)
