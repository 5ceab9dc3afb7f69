"""`study supernet-ranking`: scores against the supernets and tables themselves, finished runs, cells in common."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import kendalltau
from tests.helpers.made_up import COLUMNS, made_up_table
from tests.helpers.studies import items_of, names_of, rows_of, without_reports  # noqa: F401

from topocell import Genotype, api, studies
from topocell.cli import main
from topocell.config.load import load_recipe, resolved
from topocell.data.splits import split_batches
from topocell.errors import RecipeError
from topocell.reporting.terminal import Quiet
from topocell.selection.probe import Probe
from topocell.studies._cell_rankings import drawn, ranked
from topocell.studies._training import finished_search
from topocell.supernet import ArchWeights

QUICK = ["data.images=40", "data.test_images=10", "search.evaluation_batches=1", "search.batch_size=10"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: Any) -> Path:
    """A table, and a sweep of two runs of which one has ended."""
    folder: Path = tmp_path_factory.mktemp("ranking")
    made_up_table().save(folder / "table.csv.gz")
    words = [*QUICK, f"ground_truth.table={folder / 'table.csv.gz'}"]
    for seed in (0, 1):
        recipe = load_recipe("nb201-darts", [*words, f"seed={seed}"], "smoke")
        api.search(recipe, folder / f"sweep/runs/nb201-darts-seed-{seed}")
    api.select(folder / "sweep/runs/nb201-darts-seed-0")
    return folder


@pytest.fixture(scope="module")
def done(place: Path) -> Path:
    return studies.run("supernet-ranking", [f"runs={place / 'sweep'}", "cells=6", "images=20"], place / "done")


def true(cell: Genotype) -> float:
    return made_up_table().lookup(cell).accuracy[COLUMNS[0]]


def test_the_scores_of_a_finished_run_are_those_of_its_supernet(place: Path, done: Path) -> None:
    assert names_of(done) == ["nb201-darts-seed-0-ranking"]
    (record,), run = items_of(done).values(), place / "sweep/runs/nb201-darts-seed-0"
    summary = json.loads((done / "study.json").read_text())["summary"]
    cells = drawn([load_recipe("nb201-darts", [], "smoke")], 6)
    assert summary["cells"] == [cell.key for cell in cells] and len(set(summary["cells"])) == 6
    search = finished_search(run)
    batches = split_batches(search.data, "val", 10, "ranking", seed=0, device="cpu", augmented=False)
    probe, space = Probe(search.learner, batches, 2, 0), search.space.cells["cell"]
    shares = search.learner.arch.alpha["cell"].detach().double().log_softmax(1)
    for number, cell in enumerate(cells):
        of_node = [{source: op for op, source in pairs} for pairs in cell.cells["cell"].nodes]
        chosen = [space.candidates[0].index(of_node[d - 1].get(s, "none")) for s, d in space.edges]
        hot = torch.zeros(6, 5)
        hot[range(6), chosen] = 1.0
        dense = ArchWeights(hot, search.learner.arch.edges("cell"))
        assert record["supernet"][number] == probe({"cell": dense}, 0).accuracy
        log = sum(float(shares[e, k]) for e, k in enumerate(chosen))
        assert record["operations"][number] == pytest.approx(log + 6 * math.log(5), abs=1e-6)
    assert record["wiring"] is None and record["beta_entropy"] is None and record["images"] == 20
    entropy = float(-(shares.exp() * shares).sum(1).mean()) / math.log(5)
    assert record["alpha_entropy"] == pytest.approx(entropy) and not record["seen"]


def test_the_table_has_means_over_runs_and_grows_with_them(place: Path, done: Path) -> None:
    runs, before = place / "sweep/runs", items_of(done)
    api.select(runs / "nb201-darts-seed-1")
    studies.run("supernet-ranking", ["cells=6", "images=20", f"runs={place / 'sweep'}"], done)
    records = items_of(done)
    assert len(before) == 1 and len(records) == 2 and before.items() <= records.items()
    (row,) = rows_of(done)
    truth = [true(cell) for cell in drawn([load_recipe("nb201-darts", [], "smoke")], 6)]
    derived = [true(Genotype.load(runs / f"nb201-darts-seed-{seed}/genotype.json")) for seed in (0, 1)]
    taus = [kendalltau(record["operations"], truth).statistic for record in records.values()]
    best = [truth[max(range(6), key=lambda i: record["supernet"][i])] for record in records.values()]
    assert (row["recipe"], row["n"], row["β τ"], row["β entropy %"]) == ("nb201-darts", "2", "", "")
    assert float(row["weights τ"]) == pytest.approx(sum(taus) / 2, abs=6e-4) == float(row["α τ"])
    assert float(row["derived %"]) == pytest.approx(sum(derived) / 2)
    assert float(row["supernet's best %"]) == pytest.approx(sum(best) / 2)
    beats = sum(100 * sum(value < own for value in truth) / 6 for own in derived) / 2
    assert float(row["derived beats %"]) == pytest.approx(beats)
    summary = json.loads((done / "study.json").read_text())["summary"]
    pools = [
        sum(op == "avg_pool_3x3" for node in cell.cells["cell"].nodes for op, _ in node)
        for cell in drawn([load_recipe("nb201-darts", [], "smoke")], 6)
    ]
    of = [kendalltau(pools, record["supernet"]).statistic for record in records.values()]
    favoured = summary["recipes"]["nb201-darts"]["favoured"]["by supernet"]
    assert favoured["avg_pool_3x3"] == pytest.approx(sum(of) / 2)
    assert summary["operations"]["avg_pool_3x3"] == pytest.approx(kendalltau(pools, truth).statistic)


def test_operations_are_ranked_as_they_stood_before_they_were_decided(place: Path) -> None:
    """The study's own search of dots keeps the supernet of its first stage; another run has the α of that alone."""
    words = [*QUICK, f"ground_truth.table={place / 'table.csv.gz'}", "--budget", "smoke"]
    own = place / "own"
    assert (
        main(["study", "supernet-ranking", *words, "recipes=nb201-dots", "cells=3", "--out", str(own), "--quiet"]) == 0
    )
    search = own / "runs/nb201-dots-seed-0-search"
    (kept,) = (search / "checkpoints").glob("epoch-*.ckpt")
    kept.unlink()
    other = ranked(resolved((search / "recipe.yaml").read_text()), search, _cells(own), None, own, Quiet())
    mine = items_of(own)["nb201-dots-seed-0-ranking"]
    assert mine["supernet"] is not None and other["supernet"] is None
    assert mine["operations"] == pytest.approx(other["operations"]) and any(mine["operations"])
    assert mine["wiring"] == other["wiring"] and mine["beta_entropy"] == other["beta_entropy"] < 1


def _cells(study: Path) -> list[dict[str, Any]]:
    recipes = [resolved((study / "runs/nb201-dots-seed-0-search/recipe.yaml").read_text())]
    return [cell.to_dict() for cell in drawn(recipes, 3)]


def test_cells_in_common() -> None:
    names = ["nb201-darts", "nb201-subsets-outgoing", "nb201-subsets-incoming"]
    recipes = [load_recipe(name, [], "smoke") for name in names]
    cells = [cell.cells["cell"] for cell in drawn(recipes, 40)]
    for cell in cells:
        sources = {source for pairs in cell.nodes for _, source in pairs}
        assert all(cell.nodes) and sources == {0, 1, 2}
    assert any(sum(map(len, cell.nodes)) < 6 for cell in cells)
    with pytest.raises(RecipeError, match=r"cells that each of nb201-darts, darts-v1 can derive, but found 0"):
        drawn([recipes[0], load_recipe("darts-v1", [], "smoke")], 3)


def test_faults_are_one_line_and_nothing_is_written(place: Path, tmp_path: Path, capsys: Any) -> None:
    table = f"ground_truth.table={place / 'table.csv.gz'}"
    for words, said in (
        (["recipes=nb201-darts"], "needs the true accuracy of every cell, but nb201-darts has no table of them"),
        ([f"runs={tmp_path}"], "names finished runs, or sweeps with some"),
        ([table, "recipes=[nb201-darts,nb201-pt ground_truth.column=cifar10_val_12ep]"], "one true accuracy, but"),
    ):
        argv = ["study", "supernet-ranking", *QUICK, "--budget", "smoke", *words, "--out", str(tmp_path / "out")]
        assert main(argv) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1 and not (tmp_path / "out").exists()
