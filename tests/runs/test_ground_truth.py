"""Runs that end with a look-up in a table of NAS-Bench-201 in place of retraining."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers.made_up import COLUMNS, accuracy, made_up_table

from topocell import Genotype, api
from topocell.cli import main
from topocell.config.load import load_recipe
from topocell.config.recipe import Recipe
from topocell.data.topology_bench import N_CELLS, TopologyBench, different_cells
from topocell.errors import DataError, RecipeError
from topocell.reporting.terminal import result_lines
from topocell.runs import setup
from topocell.runs.directory import RunDir
from topocell.runtime.hooks import Interrupted
from topocell.studies._cells import refuse_ground_truth

QUICK = ["data.images=24", "data.test_images=10"]


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(setup.GROUND_TRUTH_VARIABLE, raising=False)


@pytest.fixture(scope="module")
def table(tmp_path_factory: Any) -> Path:
    path = Path(tmp_path_factory.mktemp("table") / "made-up.csv.gz")
    made_up_table().save(path)
    return path


@pytest.fixture(scope="module")
def finished(table: Path, tmp_path_factory: Any) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(setup.GROUND_TRUTH_VARIABLE, raising=False)
        path = Path(tmp_path_factory.mktemp("runs") / "run")
        api.run(smoke("nb201-dots", f"ground_truth.table={table}"), path)
    return path


def smoke(name: str, *overrides: str) -> Recipe:
    return load_recipe(name, [*QUICK, *overrides], budget="smoke")


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "results.json").read_text())
    return found


def expected(genotype: Genotype, column: str = COLUMNS[0]) -> dict[str, Any]:
    """The true accuracy, straight from the made-up numbers."""
    arch, best = genotype.to_nasbench201(), max(accuracy(a, column) for a in made_up_table().archs)
    value = accuracy(arch, column)
    return {"column": column, "accuracy": value, "regret": best - value, "optimum": best, "arch": arch}


def test_the_results_are_those_of_the_table(finished: Path) -> None:
    results = read(finished)
    assert set(results) == {"ground_truth", "trajectory"}
    assert results["ground_truth"] == expected(Genotype.load(finished / "genotype.json"))
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert {r["phase"] for r in records} == {"search"} and len({r["stage"] for r in records}) == 3
    assert len(results["trajectory"]) == len(records) == 4
    for row, record in zip(results["trajectory"], records):
        cell = Genotype.from_dict({"format": 1, "space": "nasbench201", "cells": record["derived"], "origin": {}})
        arch = cell.to_nasbench201()
        where = {"stage": record["stage"], "epoch": record["epoch"]}
        assert row == {**where, "arch": arch, "accuracy": accuracy(arch, COLUMNS[0])}
    assert results["trajectory"][-1]["arch"] == results["ground_truth"]["arch"]


def test_nothing_is_retrained_and_the_report_says_so(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert "weights.safetensors" not in names and {"results.json", "report.html", "genotype.json"} <= names
    assert set(json.loads((finished / "timings.json").read_text())) == {"search"}
    assert json.loads((finished / "env.json").read_text())["ground_truth_fingerprint"] == made_up_table().fingerprint
    page = (finished / "report.html").read_text()
    assert "True accuracy" in page and read(finished)["ground_truth"]["arch"] in page
    assert 'data-figure="ground_truth"' in page


def test_the_same_command_again_changes_nothing(finished: Path, table: Path, capsys: Any) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    arguments = ["nb201-dots", "--budget", "smoke", *QUICK, f"ground_truth.table={table}", "--out", str(finished)]
    assert main(["run", *arguments]) == 0
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before
    shown = capsys.readouterr().out
    ground_truth = read(finished)["ground_truth"]
    assert (
        f"true accuracy: {ground_truth['accuracy']:.2f} % ({COLUMNS[0]}), {ground_truth['regret']:.2f} points below"
        in shown
    )
    assert ground_truth["arch"] in shown
    assert result_lines(read(finished))[1] == f"cell: {ground_truth['arch']}"


def test_the_steps_one_by_one_end_in_the_same_results(
    finished: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table of the environment this time, and another column of it."""
    monkeypatch.setenv(setup.GROUND_TRUTH_VARIABLE, str(table))
    path = tmp_path / "run"
    api.search(smoke("nb201-dots", f"ground_truth.column={COLUMNS[1]}"), path)
    genotype = api.select(path)
    assert genotype.cells == Genotype.load(finished / "genotype.json").cells
    results = api.retrain(path)
    assert results == read(path)
    assert results["ground_truth"] == expected(genotype, COLUMNS[1])
    assert [row["arch"] for row in results["trajectory"]] == [row["arch"] for row in read(finished)["trajectory"]]


def test_another_selection_is_looked_up_anew(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topocell.runs.run.write_report", lambda path: path / "report.html")
    path = tmp_path / "run"
    api.run(smoke("nb201-random", f"ground_truth.table={table}"), path)
    before = read(path)
    assert before == {"ground_truth": expected(Genotype.load(path / "genotype.json")), "trajectory": []}
    genotype = api.select(path, operations="magnitude")
    assert not (path / "results.json").exists()
    assert api.retrain(path)["ground_truth"] == expected(genotype) != before["ground_truth"]


class StopAfter:
    """Lets some epochs pass, then stops like a signal."""

    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def step(self, *_: object) -> None: ...
    def cell(self, *_: object) -> None: ...
    def results(self, *_: object) -> None: ...
    def say(self, *_: object) -> None: ...

    def epoch(self, record: Mapping[str, Any], left: float | None = None) -> None:
        self.left -= 1
        if self.left == 0:
            raise Interrupted(2)


def test_a_run_that_was_stopped_ends_in_the_same_results(finished: Path, table: Path, tmp_path: Path) -> None:
    recipe, path = smoke("nb201-dots", f"ground_truth.table={table}"), tmp_path / "run"
    with pytest.raises(Interrupted):
        api.run(recipe, path, StopAfter(3))
    api.run(recipe, path)
    assert read(path) == read(finished)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [("quickstart", []), ("nb201-random", ["space.nodes=4"])],
)
def test_a_table_of_the_environment_is_for_its_own_space_alone(
    name: str, overrides: list[str], table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(setup.GROUND_TRUTH_VARIABLE, str(table))
    assert setup.load_ground_truth(smoke(name, *overrides)) is None
    with pytest.raises(RecipeError, match=r"holds the cells of space nasbench201 .*leave ground_truth\.table out"):
        setup.load_ground_truth(smoke(name, *overrides, f"ground_truth.table={table}"))
    assert setup.load_ground_truth(smoke("nb201-random")) is not None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ground_truth.table=nowhere.csv", "cannot read the table 'nowhere.csv': No such file"),
        ("ground_truth.column=cifar10", "the table has the columns .*, but not 'cifar10'"),
    ],
)
def test_a_wrong_table_is_told_before_the_search(
    override: str, message: str, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(setup.GROUND_TRUTH_VARIABLE, str(table))
    with pytest.raises(DataError, match=message):
        api.run(smoke("nb201-random", override), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_cells_of_any_in_degree_are_looked_up_in_their_own_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("topocell.runs.run.write_report", lambda path: path / "report.html")
    values = np.linspace(30, 50, N_CELLS).round(4)
    columns = {"test": values, "val": values[::-1].copy(), "test_0": values, "val_0": values[::-1].copy()}
    table = TopologyBench(list(different_cells()), columns, [1000] * N_CELLS)
    table.save(tmp_path / "bench.csv.gz")
    named = f"ground_truth.table={tmp_path / 'bench.csv.gz'}"
    api.run(smoke("topobench-subsets-incoming", named), tmp_path / "run")
    found, genotype = read(tmp_path / "run"), Genotype.load(tmp_path / "run/genotype.json")
    assert found["ground_truth"]["accuracy"] == table.lookup(genotype).accuracy["test"]
    assert found["ground_truth"]["regret"] == pytest.approx(table.regret(genotype, "test"))
    assert found["trajectory"][-1]["arch"] == table.arch(genotype)
    api.run(smoke("topobench-random-search", named, "selection.trials.number=3"), tmp_path / "trials")
    tried = [row["score"] for row in RunDir.existing(tmp_path / "trials", lock=False).metrics() if "score" in row]
    best = Genotype.load(tmp_path / "trials/genotype.json")
    assert max(tried) == pytest.approx(table.lookup(best).accuracy["val"] / 100)
    monkeypatch.setenv("TOPOCELL_TOPOLOGY_BENCH", str(tmp_path / "bench.csv.gz"))
    assert setup.load_ground_truth(smoke("topobench-random")).fingerprint == table.fingerprint  # type: ignore[union-attr]
    assert main(["tables"]) == 0
    assert "shipped" not in capsys.readouterr().out


def test_the_table_that_comes_with_topocell_is_that_of_its_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("topocell.runs.run.write_report", lambda path: path / "report.html")
    monkeypatch.delenv("TOPOCELL_TOPOLOGY_BENCH", raising=False)
    api.run(smoke("topobench-edge-sigmoid"), tmp_path / "run")
    shipped, genotype = TopologyBench.load(), Genotype.load(tmp_path / "run/genotype.json")
    assert shipped.complete and read(tmp_path / "run")["ground_truth"]["accuracy"] == pytest.approx(
        np.mean(shipped.seeds(genotype)), abs=1e-4
    )
    env = json.loads((tmp_path / "run/env.json").read_text())
    assert env["ground_truth_fingerprint"] == shipped.fingerprint
    assert main(["tables"]) == 0
    assert "shipped" in capsys.readouterr().out
    assert setup.load_ground_truth(smoke("quickstart")) is None


def test_a_retraining_by_name_trains_also_where_the_run_was_looked_up(tmp_path: Path) -> None:
    run = tmp_path / "run"
    api.run(smoke("topobench-random"), run)
    assert "ground_truth" in read(run)
    found = api.retrain(run, name="five", changes=["retrain.epochs=2", "retrain.seeds=[3]"])
    assert "ground_truth" not in found and found["epochs"] == 2 and [one["seed"] for one in found["runs"]] == [3]
    assert api.retrain(run, name="five") == found  # the name alone goes on in the same way
    assert "ground_truth" in read(run)


def test_no_table_is_asked_for_by_name(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(setup.GROUND_TRUTH_VARIABLE, str(table))
    for name in ("topobench-random", "nb201-random"):
        assert setup.load_ground_truth(smoke(name)) is not None
        assert setup.load_ground_truth(smoke(name, "ground_truth.table=none")) is None
    api.run(smoke("topobench-random", "ground_truth.table=none"), tmp_path / "run")
    found = read(tmp_path / "run")
    assert "ground_truth" not in found and len(found["runs"]) >= 1
    with pytest.raises(RecipeError, match=r"a table of true accuracies would be looked up; .*ground_truth\.table=none"):
        refuse_ground_truth("a study", [smoke("topobench-random")])
