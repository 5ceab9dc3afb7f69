"""The studies of selection by perturbation: small runs on digits, known answers, and what they share."""

import json
import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.made_up import COLUMNS, accuracy, made_up_table
from tests.helpers.studies import items_of, rows_of, without_reports  # noqa: F401

from topocell import ArchState, Genotype, Supernet, api, spaces, studies
from topocell.config.load import load_recipe
from topocell.config.recipe import Recipe
from topocell.data.splits import search_data, split_batches
from topocell.errors import DataError, RecipeError, RunError
from topocell.reporting.terminal import Quiet
from topocell.runs import setup
from topocell.runs.monitor import RunMonitor
from topocell.runtime.rng import derive as derive_seed
from topocell.studies import (
    _plain_networks,
    _snapshots,
    edge_shuffle,
    operation_strength,
    skip_gap,
    trajectory,
    tuning_epochs,
)
from topocell.studies._loops import PlainTraining, Tuning
from topocell.studies._training import searched
from topocell.supernet import ArchWeights

QUICK = ["budget=smoke", "data.images=24", "data.test_images=10", "search.evaluation_batches=1"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: Any) -> Path:
    path = Path(tmp_path_factory.mktemp("table") / "made-up.csv.gz")
    made_up_table().save(path)
    return path


# --- trajectory

STAGE = "search.stages.search"
SHORT = [f"{STAGE}.epochs=3", "epochs=[1,3]", "seeds=[0,1]", "selection.projection.epochs=1"]


@pytest.fixture(scope="module")
def followed(table: Path, tmp_path_factory: Any) -> Path:
    words = [*QUICK, f"ground_truth.table={table}", *SHORT]
    return studies.run("trajectory", words, tmp_path_factory.mktemp("studies") / "trajectory")


def test_a_trajectory_has_the_cell_of_every_epoch_and_projections_of_some(followed: Path) -> None:
    rows = rows_of(followed)
    found = {(row["recipe"], row["seed"], row["epoch"], row["selection"]) for row in rows}
    assert len(found) == len(rows) and found == {
        *(("nb201-pt", seed, epoch, "magnitude") for seed in "01" for epoch in "123"),
        *((recipe, seed, epoch, "perturbation") for recipe in ("nb201-pt", "nb201-pt-blank") for seed in "01"
          for epoch in "13"),
    }  # fmt: skip
    assert {k.rpartition("-seed-")[0] for k in items_of(followed)} == {"nb201-pt", "nb201-pt-blank"}
    assert len(items_of(followed)) == 4 + 8


def test_the_accuracies_of_a_trajectory_are_those_of_the_table(followed: Path) -> None:
    items, best = items_of(followed), max(accuracy(arch, COLUMNS[0]) for arch in made_up_table().archs)
    for row in rows_of(followed):
        key = f"{row['recipe']}-seed-{row['seed']}"
        if row["selection"] == "magnitude":
            record = items[f"{key}-search"]["epochs"][int(row["epoch"]) - 1]
        else:
            record = items[f"{key}-epoch-{row['epoch']}"]
        genotype = Genotype.from_dict(record["genotype"])
        expected = accuracy(genotype.to_nasbench201(), COLUMNS[0])
        assert float(row["accuracy %"]) == expected
        assert float(row["regret %"]) == pytest.approx(best - expected)
        assert int(row["skips"]) == genotype.operations("cell")["skip_connect"]


def test_the_supernet_that_is_projected_is_that_of_the_epoch(followed: Path, tmp_path: Path) -> None:
    """A search that ends there by itself, at the learning rates of the longer one, has the same supernet and cell."""
    stated = json.loads((followed / "study.json").read_text())["inputs"]["recipes"]["nb201-pt"]
    (stage,) = stated["search"]["stages"].values()
    assert stage["weights"]["lr"]["shape"] == "cosine" and stage["epochs"] == 3
    stage |= {"epochs": 1}
    stage["weights"]["lr"]["span"] = [0, 1, 3]
    recipe = Recipe.model_validate(stated)
    searched(recipe, tmp_path / "run", Quiet())
    alone = _snapshots.state_of(tmp_path / "run", _snapshots.FINISHED)
    kept = _snapshots.state_of(followed / "runs/nb201-pt-seed-0-search", _snapshots.snapshot(1))
    for part in ("net", "arch"):
        assert all((value == alone[part][name]).all() for name, value in kept[part].items() if hasattr(value, "all"))
    genotype = api.select(tmp_path / "run")
    assert genotype.cells == Genotype.from_dict(items_of(followed)["nb201-pt-seed-0-epoch-1"]["genotype"]).cells


def test_a_trajectory_goes_on_without_searching_again(
    followed: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*QUICK, f"ground_truth.table={table}", *SHORT, "recipes=nb201-pt"]
    calls: list[str] = []

    def once(recipe: Recipe, searched: Path, moment: str, *rest: Any) -> Any:
        calls.append(f"{searched.name} {moment}")
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(recipe, searched, moment, *rest)

    whole = _snapshots.selected
    monkeypatch.setattr(trajectory, "selected", once)
    with pytest.raises(KeyboardInterrupt):
        studies.run("trajectory", words, tmp_path / "a")
    monkeypatch.setattr(trajectory, "photographed", lambda *_: pytest.fail("searched again"))
    studies.run("trajectory", words, tmp_path / "a")
    assert len(calls) == 5 and calls[1] == calls[2]
    assert rows_of(tmp_path / "a") == [row for row in rows_of(followed) if row["recipe"] == "nb201-pt"]


def test_more_columns_of_a_table_need_no_more_searches(
    followed: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished study gets the other columns (Figures 4 and 8: three data sets) from the items that it has."""
    words = [*QUICK, f"ground_truth.table={table}", *SHORT]
    folder = tmp_path / "a"
    shutil.copytree(followed, folder)
    monkeypatch.setattr(trajectory, "photographed", lambda *_: pytest.fail("searched again"))
    monkeypatch.setattr(trajectory, "selected", lambda *_: pytest.fail("selected again"))
    studies.run("trajectory", [*words, f"columns={','.join(COLUMNS)}"], folder)
    before, rows = rows_of(followed), rows_of(folder)
    assert [row["column"] for row in rows] == [*COLUMNS] * len(before)
    assert [{k: v for k, v in row.items() if k != "column"} for row in rows[::2]] == before
    best = max(accuracy(arch, COLUMNS[1]) for arch in made_up_table().archs)
    assert {row["cell"] for row in rows[1::2]} == {row["cell"] for row in before}
    assert all(float(row["accuracy %"]) + float(row["regret %"]) == pytest.approx(best) for row in rows[1::2])
    stated = json.loads((folder / "study.json").read_text())
    assert list(stated["summary"]) == [*COLUMNS] and f"columns {', '.join(COLUMNS)} of" in stated["notes"][-1]
    with pytest.raises(RunError, match="belongs to another study"):
        studies.run("trajectory", [*words, f"columns={COLUMNS[1]}"], folder)


@pytest.mark.parametrize("name", ["trajectory", "tuning-epochs"])
def test_columns_that_cannot_be(name: str, table: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nb201-pt has none; name one with ground_truth\.table=PATH"):
        studies.run(name, [*QUICK, "columns=cifar100_test_200ep"], tmp_path / "a")
    words = [*QUICK, f"ground_truth.table={table}", f"columns={COLUMNS[0]},cifar100_test"]
    with pytest.raises(DataError, match=f"the table has the columns {', '.join(COLUMNS)}, but not 'cifar100_test'"):
        studies.run(name, words, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_without_a_table_cells_are_retrained_at_the_named_epochs(tmp_path: Path) -> None:
    words = [*QUICK, "recipes=darts-pt", "space.nodes=1", f"{STAGE}.epochs=2", "epochs=2", "seeds=0"]
    rows = rows_of(studies.run("trajectory", words, tmp_path / "a"))
    assert [(row["epoch"], row["selection"]) for row in rows] == [("2", "magnitude"), ("2", "perturbation")]
    cells = {row["cell"] for row in rows}
    assert {k for k in items_of(tmp_path / "a") if "-cell-" in k} == {f"darts-pt-seed-0-cell-{c}" for c in cells}
    assert all(row["regret %"] == "" for row in rows)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["epochs=[1,9]", f"{STAGE}.epochs=3"], "that of nb201-pt has the epochs 1 to 3 and epochs names 9"),
        (["recipes=nb201-dots", "epochs=1"], "that of nb201-dots has the epochs 4 to 4 and epochs names 1"),
        (["recipes=nb201-random"], "nb201-random has neither"),
    ],
)
def test_trajectories_that_cannot_be(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        studies.run("trajectory", [*QUICK, *words], tmp_path / "a")


@pytest.mark.parametrize(("epochs", "expected"), [(25, [5, 10, 15, 20, 25]), (3, [1, 2, 3]), (7, [1, 3, 4, 6, 7])])
def test_epochs_that_nobody_named_are_evenly_spaced(epochs: int, expected: list[int]) -> None:
    recipe = load_recipe("nb201-pt", [f"{STAGE}.epochs={epochs}"])
    assert _snapshots.epochs_to_see("a", recipe, None) == expected


# --- progressive tuning and tuning epochs

TABLED = [*QUICK, "recipes=nb201-pt", "seeds=0", f"{STAGE}.epochs=1"]


@pytest.fixture(scope="module")
def tuned(table: Path, tmp_path_factory: Any) -> Path:
    place = tmp_path_factory.mktemp("studies") / "progressive"
    return studies.run("progressive-tuning", [*TABLED, f"ground_truth.table={table}"], place)


def test_both_ways_of_deciding_start_from_one_supernet(tuned: Path, table: Path, tmp_path: Path) -> None:
    rows, items = rows_of(tuned), items_of(tuned)
    assert [row["selection"] for row in rows] == ["perturbation", "magnitude"]
    assert [row["decisions"] for row in rows] == ["6", "6"]
    ways = [items[f"nb201-pt-seed-0-{way}"] for way in ("perturbation", "magnitude")]
    for row, record in zip(rows, ways):
        assert len(record["course"]) == 7 and float(row["supernet after %"]) == 100 * record["course"][-1]
    assert ways[0]["course"][0] == ways[1]["course"][0]
    stated = json.loads((tuned / "study.json").read_text())["inputs"]["recipes"]["nb201-pt"]
    recipe = Recipe.model_validate(stated)
    plain = _snapshots.selected(
        recipe, tuned / "runs/nb201-pt-seed-0-search", _snapshots.FINISHED, tmp_path / "plain", Quiet()
    )
    assert Genotype.from_dict(plain["genotype"]).cells == Genotype.from_dict(ways[0]["genotype"]).cells


def test_an_evaluated_projection_resumes_where_it_was(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stated = json.loads((tuned / "study.json").read_text())["inputs"]["recipes"]["nb201-pt"]
    recipe, calls = Recipe.model_validate(stated), 0

    def stop(self: RunMonitor, record: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        put(self, record)

    put = RunMonitor.metrics
    monkeypatch.setattr(RunMonitor, "metrics", stop)
    arguments = recipe, tuned / "runs/nb201-pt-seed-0-search", tmp_path / "run", Quiet()
    with pytest.raises(KeyboardInterrupt):
        tuning_epochs.evaluated(*arguments)
    again = tuning_epochs.evaluated(*arguments)
    whole = items_of(tuned)["nb201-pt-seed-0-perturbation"]
    assert again == {"genotype": whole["genotype"], "course": whole["course"]}


def test_epochs_of_tuning_between_decisions(table: Path, tmp_path: Path) -> None:
    words = [*TABLED, f"ground_truth.table={table}", "tune_epochs=[0,2]"]
    folder = studies.run("tuning-epochs", words, tmp_path / "a")
    assert [row["tuning epochs"] for row in rows_of(folder)] == ["0", "2"]
    studies.run("tuning-epochs", [*words, f"columns={','.join(COLUMNS)}"], folder)
    assert [(row["column"], row["tuning epochs"]) for row in rows_of(folder)] == [(c, n) for n in "02" for c in COLUMNS]
    items = items_of(folder)
    assert [len(items[f"nb201-pt-seed-0-{n}"]["tuning"]) for n in (0, 2)] == [0, 11]
    assert all(len(items[f"nb201-pt-seed-0-{n}"]["decisions"]) == 6 for n in (0, 2))


@pytest.mark.parametrize("name", ["progressive-tuning", "tuning-epochs"])
def test_only_projections_can_be_tuned(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="nb201-darts does not select by perturbation"):
        studies.run(name, [*QUICK, "recipes=nb201-darts"], tmp_path / "a")


# --- strength of operations

TWO = [*QUICK, "seeds=0", "space.nodes=1", "space.candidates=[skip_connect,sep_conv_3x3]", f"{STAGE}.epochs=1"]


def test_the_strength_of_an_operation_is_the_accuracy_with_it_alone(tmp_path: Path) -> None:
    words = [*TWO, "edges=null", "selection.projection.tune_epochs=0", "selection.projection.batches=null"]
    folder = studies.run("operation-strength", words, tmp_path / "a")
    rows = rows_of(folder)
    assert [(r["cell"], r["edge"], r["operation"]) for r in rows] == [
        (cell, edge, operation)
        for cell in ("normal", "reduce")
        for edge in ("0→2", "1→2")
        for operation in ("skip_connect", "sep_conv_3x3")
    ]
    assert all(row["accuracy %"] == row["at once %"] for row in rows)  # nothing was tuned
    recipe = Recipe.model_validate(json.loads((folder / "study.json").read_text())["inputs"]["recipes"]["darts-pt"])
    search = _snapshots.revived(recipe, folder / "runs/darts-pt-seed-0-search")
    soft = _snapshots.expected(search.learner)
    alone = soft["reduce"].ops.clone()
    alone[1] = torch.tensor([0.0, 1.0])
    probe = _snapshots.held_out(search, recipe, "strength")
    expected = probe({**soft, "reduce": soft["reduce"]._replace(ops=alone)}, 0)
    assert expected.images == 12
    assert float(rows[7]["accuracy %"]) == pytest.approx(100 * expected.accuracy)
    assert float(rows[7]["weight"]) == pytest.approx(float(soft["reduce"].ops[1, 1]), rel=1e-6)
    assert float(rows[7]["supernet %"]) == pytest.approx(100 * probe(soft, 0).accuracy)
    summary = json.loads((folder / "study.json").read_text())["summary"]
    assert len(summary["edges"]) == 4 and 0 <= summary["largest is strongest"] <= 1


def test_tuning_changes_the_rest_of_the_supernet(tmp_path: Path) -> None:
    recipe = load_recipe("darts-pt", TWO[1:4] + TWO[5:], budget="smoke")
    searched(recipe, tmp_path / "run", Quiet())
    search = _snapshots.revived(recipe, tmp_path / "run")
    before = {name: value.clone() for name, value in search.learner.net.state_dict().items()}
    alpha = search.learner.arch.alpha["normal"].clone()
    Tuning(setup.Setup.of(recipe), search).run()
    assert any((value != before[name]).any() for name, value in search.learner.net.state_dict().items())
    assert (search.learner.arch.alpha["normal"] != alpha).any()
    assert {group["lr"] for group in search.learner.weights_optimizer.param_groups} == {recipe.selection.projection.lr}


def test_marks_and_agreement_of_an_edge() -> None:
    named = {"recipe": "a", "seed": 0, "cell": "normal", "edge": "0→2"}
    figures = [(0.5, 80.0, 60.0), (0.3, 70.0, 50.0), (0.2, 90.0, 55.0)]  # weight, strength, without
    edge = operation_strength._marked([{**named, "weight": w, "accuracy %": s, "without %": c} for w, s, c in figures])
    assert [row["largest weight"] for row in edge] == [True, False, False]
    assert [row["missed most"] for row in edge] == [False, True, False]
    assert [row["strongest"] for row in edge] == [False, False, True]
    found = operation_strength._agreement(edge)
    assert found["tau weight"] == pytest.approx(-1 / 3) and found["tau without"] == pytest.approx(-1 / 3)
    assert not found["largest is strongest"] and not found["missed is strongest"]


def test_more_edges_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="darts-pt has 4 and edges is 5; use edges=null for all"):
        studies.run("operation-strength", [*TWO, "edges=5"], tmp_path / "a")


# --- skip connections


def test_weights_of_skips_and_convolutions() -> None:
    cell = spaces.get("darts", nodes=1, candidates=["skip_connect", "max_pool_3x3", "sep_conv_3x3", "dil_conv_3x3"])
    arch = ArchState(cell, init=0.0)
    with torch.no_grad():
        for alpha in arch.alpha.values():
            alpha[0] = torch.tensor([4.0, 1.0, 2.0, 1.0]).log()
    found = skip_gap.weights_of(arch)
    assert found["skip"] == pytest.approx((4 / 8 + 1 / 4) / 2)
    assert found["conv"] == pytest.approx((1.5 / 8 + 1 / 4) / 2)
    assert found["gap"] == pytest.approx(found["skip"] - found["conv"])


def test_the_gap_is_followed_through_the_search(tmp_path: Path) -> None:
    words = [*TWO[:-1], f"{STAGE}.epochs=2"]
    folder = studies.run("skip-gap", words, tmp_path / "a")
    rows = rows_of(folder)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    run = folder / "runs/darts-pt-seed-0-search"
    recipe = Recipe.model_validate(json.loads((folder / "study.json").read_text())["inputs"]["recipes"]["darts-pt"])
    end = skip_gap.weights_of(_snapshots.revived(recipe, run).learner.arch)
    assert float(rows[1]["gap"]) == pytest.approx(end["gap"]) and rows[0]["gap"] != rows[1]["gap"]
    logged = [json.loads(line)["val_accuracy"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [float(row["accuracy %"]) for row in rows] == pytest.approx([100 * value for value in logged])
    assert set(_snapshots.state_of(run, _snapshots.snapshot(1))) == {"stage", "candidates", "arch"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recipes=darts-s4"], "the space of darts-s4 has none; use another space"),
        (["recipes=dots"], "stage 'topology-warmup' of dots shrinks the space"),
    ],
)
def test_gaps_that_cannot_be(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        studies.run("skip-gap", [*QUICK, *words], tmp_path / "a")


# --- shuffled edges


@pytest.fixture
def net() -> Supernet:
    torch.manual_seed(0)
    return Supernet(spaces.get("darts", nodes=2), channels=4, layers=3, classes=3).eval()


def weights_for(net: Supernet) -> dict[int, ArchWeights]:
    draw = torch.Generator().manual_seed(1)
    of_type = {
        t: ArchWeights(torch.rand(cell.n_edges, cell.n_candidates, generator=draw), torch.ones(cell.n_edges))
        for t, cell in net.space.cells.items()
    }
    return {slot.index: of_type[slot.cell_type] for slot in net.slots}


def test_weights_for_each_cell_are_those_of_its_type(net: Supernet) -> None:
    x, weights = torch.randn(2, 3, 8, 8), weights_for(net)
    by_type = {slot.cell_type: weights[slot.index] for slot in net.slots}
    assert torch.equal(edge_shuffle.under(net, weights, x), net(x, by_type))


def test_edges_that_change_places_take_everything_along(net: Supernet) -> None:
    """A cell whose edges 0→2 and 1→2 have changed places does with its inputs what it did with them in exchange."""
    weights, trained = weights_for(net), net.per_edge_state_dict()
    slot = net.slots[0]
    cell, before = net.skeleton.cells[0].cell, weights[0]
    only = before._replace(ops=before.ops * torch.tensor([1.0, 1, 0, 0, 0]).unsqueeze(1))  # node 3 gets nothing
    a, b = torch.randn(2, 2, slot.channels, 8, 8)
    expected = cell([b, a], only)
    net.load_per_edge_state_dict(edge_shuffle.swapped(trained, {0: (0, 1)}))
    after = edge_shuffle.moved(only, (0, 1))
    assert torch.allclose(cell([a, b], after), expected, atol=1e-5)
    assert not torch.allclose(cell([a, b], only), expected, atol=1e-2)
    twice = edge_shuffle.swapped(net.per_edge_state_dict(), {0: (0, 1)})
    assert all(torch.equal(twice[name], value) for name, value in trained.items())


def test_edges_that_change_places_have_one_stride(net: Supernet) -> None:
    seen = set()
    for number in range(30):
        swaps = edge_shuffle.drawn_swaps(net, 0, number)
        assert set(swaps) == {slot.index for slot in net.slots}
        for slot in net.slots:
            a, b = swaps[slot.index]
            cell = net.space.cells[slot.cell_type]
            assert a < b and cell.edge_stride(a) == cell.edge_stride(b)
            seen.add((slot.cell_type, a, b))
    assert {(a, b) for t, a, b in seen if t == "normal"} == set(combinations(range(5), 2))
    assert ("reduce", 0, 4) not in seen and ("reduce", 0, 1) in seen


def test_layers_that_change_places() -> None:
    torch.manual_seed(0)
    net = _plain_networks.PlainNet(_plain_networks.plan_of("VGG", 4, 2), 3, 1).eval()
    x = torch.randn(2, 1, 8, 8)
    whole = net(x)
    assert not torch.allclose(net(x, [(0, 1)] * 3), whole, rtol=0, atol=1e-6)
    for stage in net.stages:
        stage[1], stage[2] = stage[2], stage[1]
    assert torch.equal(net(x, [(0, 1)] * 3), whole)


def conv(c_in: int, c_out: int, kernel: int = 3) -> int:
    """Weights of a convolution and its batch norm."""
    return c_in * c_out * kernel**2 + 2 * c_out


@pytest.mark.parametrize(("name", "n"), [("ResNet-56", 9), ("ResNet-110", 18)])
def test_published_residual_networks(name: str, n: int) -> None:
    """6n + 2 layers; He et al. report 0.85 M and 1.7 M weights (without 1×1 convolutions where the shape changes)."""
    net = _plain_networks.PlainNet(_plain_networks.PUBLISHED[name], 10, 3)
    shapes = sum(2 * conv(w, w) * (n - bool(i)) for i, w in enumerate((16, 32, 64)))
    leads = sum(conv(w // 2, w) + conv(w, w) + w // 2 * w for w in (32, 64))
    count = sum(p.numel() for p in net.parameters())
    assert count == conv(3, 16) + shapes + leads + 64 * 10 + 10
    assert round((count - 16 * 32 - 32 * 64) / 1e6, 2) == {9: 0.85, 18: 1.73}[n]
    convolutions = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convolutions) + 1 == 6 * n + 2 and net(torch.randn(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(("name", "layers"), [("VGG-16", (2, 2, 3, 3, 3)), ("VGG-19", (2, 2, 4, 4, 4))])
def test_published_plain_networks(name: str, layers: tuple[int, ...]) -> None:
    plan = _plain_networks.PUBLISHED[name]
    net, before, expected = _plain_networks.PlainNet(plan, 10, 3), 3, 512 * 10 + 10
    for width, depth in zip((64, 128, 256, 512, 512), layers):
        expected += conv(before, width) + (depth - 1) * conv(width, width)
        before = width
    assert sum(p.numel() for p in net.parameters()) == expected
    assert net.eval()(torch.randn(1, 3, 16, 16), [None, None, (0, 1), None, (0, 1)]).shape == (1, 10)
    assert [len(own) for own in plan.pairs()] == [0, 0, *({2: [1] * 3, 3: [3] * 3}[layers[2] - 1])]


@pytest.mark.parametrize("kind", _plain_networks.SMALL)
def test_plain_networks_learn(kind: str) -> None:
    recipe = load_recipe("darts-pt", ["data.dataset=digits", "data.images=300", "search.channels=8"])
    data = search_data(setup.load_data(recipe), recipe.data.splits, 0)
    torch.manual_seed(0)
    net = _plain_networks.PlainNet(_plain_networks.plan_of(kind, 8, 2), len(data.classes), data.shape[0])
    batches = split_batches(data, "train", 32, "test", seed=0, device="cpu", augmented=False)
    PlainTraining([net], batches, recipe.search.stages[-1].weights, 8, 0, torch.device("cpu")).run()
    x, y = next(split_batches(data, "val", 150, "test", seed=0, device="cpu", augmented=False).eval_batches())
    assert float((net.eval()(x).argmax(1) == y).float().mean()) > 0.6


def test_shuffled_networks(tmp_path: Path) -> None:
    folder = studies.run("edge-shuffle", [*TWO, "space.nodes=2", "shuffles=3", "depth=2"], tmp_path / "a")
    rows, items = rows_of(folder), items_of(folder)
    assert [row["network"] for row in rows] == ["supernet", "VGG", "ResNet"]
    for row in rows:
        item = items[f"darts-pt-seed-0-{'shuffle' if row['network'] == 'supernet' else row['network']}"]
        assert len(item["after"]) == 3 and float(row["accuracy %"]) == pytest.approx(100 * item["before"])
        assert float(row["shuffled %"]) == pytest.approx(100 * sum(item["after"]) / 3)


def test_networks_are_measured_on_test_images_when_all_is_trained(tmp_path: Path) -> None:
    """VGG and ResNet then train on all training images; the search itself sees none of the test images."""
    words = [*TWO, "shuffles=1", "depth=2", "networks=ResNet", "epochs=2", "measured_on=test"]
    folder = studies.run("edge-shuffle", words, tmp_path / "a")
    recipe = Recipe.model_validate(json.loads((folder / "study.json").read_text())["inputs"]["recipes"]["darts-pt"])
    prepared = setup.Setup.of(recipe)
    test = edge_shuffle._measuring(prepared, "test")
    assert torch.equal(test.data.labels, prepared.dataset.test.labels) and len(test.data) == 10
    search = _snapshots.revived(recipe, folder / "runs/darts-pt-seed-0-search")
    x, y = next(test.eval_batches())
    net, weights = search.learner.net.eval(), _snapshots.expected(search.learner)
    before = float((net(x, weights).argmax(1) == y).float().mean())
    items = items_of(folder)
    assert items["darts-pt-seed-0-shuffle"]["before"] == pytest.approx(before)
    assert [row["network"] for row in rows_of(folder)] == ["supernet", "ResNet"]
    data, device = prepared.search_data, torch.device("cpu")
    torch.manual_seed(derive_seed(0, "plain network", "ResNet"))
    plain = _plain_networks.PlainNet(_plain_networks.plan_of("ResNet", recipe.search.channels, 2), 10, data.shape[0])
    whole = split_batches(data, "all", recipe.search.batch_size, "shuffle", seed=0, device=device)
    PlainTraining([plain], whole, recipe.search.stages[-1].weights, 2, 0, device).run()
    found = float((plain.eval()(x).argmax(1) == y).float().mean())
    assert items["darts-pt-seed-0-ResNet"]["before"] == pytest.approx(found)


def test_under_the_budget_of_the_paper_networks_are_as_published() -> None:
    small, paper = edge_shuffle.EdgeShuffle(budget="small"), edge_shuffle.EdgeShuffle()
    assert (small.kinds(), small.images()) == (("VGG", "ResNet"), "val")
    assert (paper.kinds(), paper.images()) == (("VGG-16", "ResNet-56"), "test")
    assert edge_shuffle.EdgeShuffle(measured_on="val").images() == "val"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["networks=VGG-16"], r"VGG-16 needs images of 16 pixels or more, but those of darts-pt have 8; use networks="),
        (["networks=VGG-11"], "'VGG', 'ResNet', 'VGG-16', 'VGG-19', 'ResNet-56' or 'ResNet-110'"),
        (["networks=VGG,VGG"], "each entry is named once, but 'VGG' is named again"),
        (["measured_on=train"], "'val' or 'test'"),
    ],
)
def test_shuffles_that_cannot_be(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        studies.run("edge-shuffle", [*TWO, *words], tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_the_gap_is_set_against_the_whole_held_out_split_under_the_budget_of_the_paper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int | None] = []

    def begin(bench: Any, items: int, recipes: dict[str, Recipe], *rest: Any) -> None:
        seen.append(recipes["darts-pt"].search.evaluation_batches)
        raise KeyboardInterrupt

    monkeypatch.setattr(skip_gap, "begin", begin)
    for words in ([], ["search.evaluation_batches=3"], ["budget=small"]):
        with pytest.raises(KeyboardInterrupt):
            studies.run("skip-gap", words, tmp_path / "a")
    assert seen == [None, 3, 8]
