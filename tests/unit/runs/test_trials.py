"""Evaluators of trials: what each measures, against the same by hand, and that none sees a test image."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.made_up import COLUMNS, accuracy, made_up_table

from topocell.config.load import load_recipe
from topocell.errors import DataError, RecipeError
from topocell.networks.evaluation import evaluate
from topocell.networks.retraining import Retraining
from topocell.networks.zero_cost import synflow
from topocell.nn.network import FixedNet
from topocell.runs import setup as setups
from topocell.runs.setup import Setup
from topocell.runs.trials import evaluator_of, held_out_data, trial_plan
from topocell.runtime.hooks import Silent
from topocell.runtime.rng import derive as derive_seed
from topocell.runtime.rng import generator
from topocell.searching.loop import Search
from topocell.selection.drawing import CellSpace
from topocell.selection.rules import Derived
from topocell.supernet.weights import ArchWeights

QUICK = ["data.images=60", "data.test_images=20", "search.layers=3", "space.nodes=2"]


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(setups.GROUND_TRUTH_VARIABLE, raising=False)


def made(name: str, *overrides: str) -> Setup:
    return Setup.of(load_recipe(name, [*QUICK, *overrides] if "nb201" not in name else overrides, budget="smoke"))


def cells(setup: Setup, number: int) -> list[Derived]:
    search = setup.search()
    search.run()
    space = CellSpace.of(search.learner.arch, setup.rules)
    return [space.derived(space.random(generator(n, "test"))) for n in range(number)]


def nothing() -> Search:
    raise AssertionError("no supernet is needed")


def score(setup: Setup, derived: Derived, searched: Any = nothing) -> float:
    plan = setup.recipe.selection.trials
    assert plan is not None
    (found,) = evaluator_of(setup, plan, searched).scores([derived], Silent(), None)
    return found.value


def test_short_training_sees_the_two_halves_of_the_training_images() -> None:
    setup = made("random-search", "selection.trials.evaluate.epochs=2")
    data, search = held_out_data(setup), setup.search_data
    assert torch.equal(data.train.images, search.get("train").images)
    assert torch.equal(data.test.images, search.get("val").images)
    assert len(data.train) + len(data.test) == len(setup.dataset.train) == 60
    blind = dataclasses.replace(setup.dataset.test, images=torch.zeros_like(setup.dataset.test.images))
    without = dataclasses.replace(setup, dataset=dataclasses.replace(setup.dataset, test=blind))
    (derived,) = cells(setup, 1)
    assert score(setup, derived) == score(without, derived)


def test_a_short_training_is_judged_by_images_that_it_has_not_seen() -> None:
    """Also where the last stage of the search draws from all images."""
    drawn = ["selection.operations=random", "selection.trials.number=2", "search.stages.topology.weights_on=all"]
    setup = made("dots", *drawn)
    assert setup.recipe.search.stages[-1].weights_on == "all"
    data, search = held_out_data(setup), setup.search_data
    assert setup.recipe.held_out() == ("train", "val")
    assert torch.equal(data.train.images, search.get("train").images)
    assert torch.equal(data.test.images, search.get("val").images)
    one_split = [
        "data.splits={train: 1.0}",
        "search.stages.search.alpha_on=train",
        "search.stages.search.beta_on=train",
    ]
    with pytest.raises(RecipeError, match=r"not trained on, but data\.splits of random-search has only 'train'; add a"):
        load_recipe("random-search", one_split)


def test_the_score_of_a_short_training_is_the_accuracy_of_the_trained_network() -> None:
    setup = made("random-search", "selection.trials.evaluate.epochs=2")
    (derived,) = cells(setup, 1)
    plan = setup.recipe.selection.trials
    assert plan is not None
    evaluator: Any = evaluator_of(setup, plan, nothing)
    trained: list[Retraining] = []
    with pytest.MonkeyPatch.context() as patch:
        kept = lambda *a, **k: trained.append(Retraining(*a, **k)) or trained[0]  # noqa: E731
        patch.setattr("topocell.runs.trials.Retraining", kept)
        (found,) = evaluator.scores([derived], Silent(), None)
    assert found.value == evaluate(trained[0].net, trained[0].members[0].test_batches)[1]
    assert trained[0].loop.epoch == 2 and trained[0].plan.seeds == (0,)


def test_several_short_trainings_at_once_score_as_each_alone() -> None:
    setup = made("random-search", "selection.trials.evaluate={name: training, epochs: 2, together: 3}")
    plan = setup.recipe.selection.trials
    assert plan is not None
    evaluator, given = evaluator_of(setup, plan, nothing), cells(setup, 4)
    assert evaluator.at_once(given) == (3, "") and evaluator.at_once(given[:2]) == (2, "")
    assert evaluator.at_once(given[:1]) == (1, "")
    found = [of.value for of in evaluator.scores(given[:3], Silent(), None)]
    alone = [score(setup, derived) for derived in given[:3]]
    assert found == pytest.approx(alone, abs=1 / 30) and len(set(alone)) > 1  # of 30 images roundings may turn one
    auto = made("random-search")
    assert auto.recipe.selection.trials is not None
    assert evaluator_of(auto, auto.recipe.selection.trials, nothing).at_once(given) == (1, "")


def test_short_trainings_that_cannot_be_one_are_said_to_be_several() -> None:
    several = "selection.trials.evaluate={name: training, epochs: 2, together: 3}"
    for changes, words in (
        (["on_nan=skip"], r"on_nan=skip is about one network"),
        (["retrain.micro_batch=4", "retrain.batch_size=8"], "micro_batch computes less at once"),
    ):
        setup = made("random-search", several, *changes)
        plan = setup.recipe.selection.trials
        assert plan is not None
        size, said = evaluator_of(setup, plan, nothing).at_once(cells(setup, 2))
        assert size == 1 and said.startswith("cells are trained one after the other: ") and words in said


def test_a_short_training_is_the_retraining_but_for_what_is_set() -> None:
    recipe = load_recipe("stretchable-l8-random-operations")
    plan = recipe.selection.trials
    assert plan is not None and (plan.number, plan.propose.name) == (24, "random")
    short, whole = trial_plan(recipe.retrain, plan.evaluator), recipe.retrain
    assert (short.epochs, short.test_every, short.seeds, short.parameters) == (100, 100, (0,), 3300000)
    assert [short.weights.lr.value(e, 100) for e in (0, 99)] == pytest.approx(
        [0.025, 0.025 * (1 - torch.tensor(torch.pi * 0.99).cos().neg().item()) / 2], rel=1e-3
    )
    same = {"epochs", "test_every", "seeds", "weights"}
    assert short.model_dump(exclude=same) == whole.model_dump(exclude=same)
    narrow = trial_plan(whole, plan.evaluator.model_copy(update={"channels": 8, "layers": 4, "batch_size": 32}))
    assert (narrow.channels, narrow.layers, narrow.batch_size, narrow.parameters) == (8, 4, 32, None)


def test_shared_weights_rank_cells_by_the_accuracy_of_the_supernet() -> None:
    """Against the supernet under hand-made one-hot weights, on the held-out images in order."""
    setup = made("random-nas", "selection.trials.evaluate.batches=1")
    search = setup.search()
    search.run()
    space = CellSpace.of(search.learner.arch, setup.rules)
    held_out = setup.search_data.get("val")
    for number in range(4):
        derived = space.derived(space.random(generator(number, "test")))
        weights = {}
        for name, cell in space.space.cells.items():
            ops, edges = torch.zeros(cell.n_edges, cell.n_candidates), torch.zeros(cell.n_edges)
            for node, pairs in zip(cell.computed, derived.cells[name].nodes):
                for op, source in pairs:
                    e = cell.edges.index((source, node))
                    ops[e, cell.candidates[e].index(op)] = edges[e] = 1.0
            weights[name] = ArchWeights(ops, edges)
        plan = setup.recipe.selection.trials
        assert plan is not None
        evaluator: Any = evaluator_of(setup, plan, lambda: search)
        right = images = 0
        with torch.no_grad():
            for step in range(len(evaluator._all.batches)):
                x, y = evaluator._all.batches.batch(0, step)
                right += int((search.learner.net(x, weights).argmax(1) == y).sum())
                images += len(y)
        assert evaluator.final(derived).value == right / images
        x, y = evaluator._few.batches.batch(0, 0)
        first = int((search.learner.net(x, weights).argmax(1) == y).sum()) / len(y)
        assert evaluator.scores([derived], Silent(), None)[0].value == first
        assert images == len(held_out) and evaluator.finalists == 2


def test_a_random_cell_is_trained_at_each_step() -> None:
    """One operation on each kept edge, others at every step and the same after a resumption."""
    setup = made("random-nas")
    search = setup.search()
    search.run()
    perturb, plain = search.learner.perturb, search.learner.arch()
    assert perturb is not None
    drawn = []
    for step in (0, 1, 2, 3, 0):
        torch.manual_seed(step)
        weights = perturb(search.learner, plain, (torch.empty(0), torch.empty(0)))
        for name, one in weights.items():
            cell = search.space.cells[name]
            kept = one.edges > 0
            assert set(one.edges.tolist()) <= {0.0, 1.0} and one.ops.sum(1)[kept].eq(1).all()
            assert [int(kept[cell.incoming(node)].sum()) for node in cell.computed] == [2] * cell.nodes
        drawn.append(torch.cat([one.ops.flatten() for one in weights.values()]))
    assert torch.equal(drawn[0], drawn[4])
    assert len({tuple(one.tolist()) for one in drawn}) == 4


def test_an_untrained_network_is_scored_alike_wherever_it_comes() -> None:
    setup = made("zero-cost")
    one, two = cells(setup, 2)
    values = [score(setup, derived) for derived in (one, two, one)]
    assert values[0] == values[2] != values[1]
    images = torch.zeros(2, *setup.dataset.shape).double()
    assert values[0] == synflow(fresh(setup, one), images, torch.zeros(2))


def fresh(setup: Setup, derived: Derived) -> FixedNet:
    torch.manual_seed(derive_seed(setup.recipe.seed, "trials", "network"))
    plan = setup.recipe.search
    net = FixedNet(derived.genotype(setup.space), plan.channels, plan.layers, 10, setup.dataset.shape[0])
    return net.double()


def test_the_truth_decides_nothing(tmp_path: Path) -> None:
    table = tmp_path / "made-up.csv.gz"
    made_up_table().save(table)
    setup = made("nb201-random-search", f"ground_truth.table={table}")
    (derived,) = cells(setup, 1)
    arch = derived.genotype(setup.space).to_nasbench201()
    assert score(setup, derived) == pytest.approx(accuracy(arch, COLUMNS[1]) / 100)
    given = f"ground_truth.table={table}"
    with pytest.raises(RecipeError, match=r"both are 'cifar10_val_12ep'; change one of them"):
        made("nb201-random-search", given, f"ground_truth.column={COLUMNS[1]}")
    with pytest.raises(DataError, match="but not 'cifar10_val_1ep'"):
        made("nb201-evolution", given, "selection.trials.evaluate.column=cifar10_val_1ep")
    with pytest.raises(RecipeError, match=r"column names validation accuracies.*'cifar10_test_12ep'"):
        load_recipe("nb201-evolution", ["selection.trials.evaluate.column=cifar10_test_12ep"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("selection.trials.propose=randm", r"unknown proposer 'randm' \(did you mean 'random'\?\)"),
        ("selection.trials.evaluate=synflo", r"unknown evaluator 'synflo' \(did you mean 'synflow'\?\)"),
        ("selection.trials.evaluate={name: synflow, epochs: 3}", "synflow has no option 'epochs'; it takes: channels"),
        (
            "selection.trials.propose={name: evolution, population: 0}",
            "population: input should be",
        ),
        (
            "selection.trials.evaluate={name: training, together: 0}",
            "evaluate: training: together: networks are trained at once by .*, but got 0; use one of them$",
        ),
        (
            "retrain.together=some",
            r"retrain\.together: networks are trained at once by a number from 1 on, or auto, but got 'some'; use",
        ),
        ("selection.trials.number=null", "trials end after a number of them or after seconds"),
        ("selection.edges=magnitude", None),
        ("selection.max_skips=2", "selection.max_skips changes the choice of the rules, which trials replace"),
    ],
)
def test_bad_settings_are_one_line(override: str, words: str | None) -> None:
    if words is None:
        with pytest.raises(RecipeError, match="trials vary what the rules leave at random"):
            load_recipe("random-search", [override, "selection.operations=magnitude"])
        return
    with pytest.raises(RecipeError, match=words):
        load_recipe("random-search", [override])
