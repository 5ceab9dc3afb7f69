"""Recipes of search methods against what their papers and codes say."""

import math

import pytest
from tests.helpers import pt_recipes

from topocell import spaces
from topocell.config.load import load_recipe, recipe_text
from topocell.config.search import Stage
from topocell.config.values import Curve
from topocell.runs import setup
from topocell.selection.rules import derive
from topocell.supernet.arch_state import ArchState

COSINE = Curve(shape="cosine", start=0.025, end=0.001)
#: Accuracy in Table 2 of DOTS, with its topology search.
OVER = {"darts": "97.40 ± 0.09", "darts-2nd": "97.12 ± 0.11", "gdas": "97.06 ± 0.08", "snas": "97.26 ± 0.12"}
OVER |= {"pc-darts": "97.45 ± 0.06"}


WITHOUT_NONE = tuple(spaces.get("darts").cells["normal"].candidates[0][1:])


def operations(name: str) -> tuple[str, ...]:
    cells = setup.build_space(load_recipe(name)).cells.values()
    (found,) = {names for cell in cells for names in cell.candidates}
    return found


def only_stage(name: str) -> Stage:
    (stage,) = load_recipe(name).search.stages
    return stage


def test_snas() -> None:
    recipe, stage = load_recipe("snas"), only_stage("snas")
    assert (stage.relaxation.name, stage.level, stage.weights_on, stage.epochs) == (
        "gumbel-softmax",
        "single",
        "all",
        150,
    )
    assert [stage.op_temperature.value(e, 150) for e in (0, 149)] == pytest.approx([1, 0.0365], abs=5e-5)
    assert (stage.init, stage.arch_clip, stage.weights.lr) == (0.01, 10, COSINE)
    assert (stage.alpha.lr.start, stage.alpha.betas, stage.alpha.weight_decay) == (3e-4, (0.5, 0.999), 1e-3)
    assert not recipe.selection.none
    dropped = stage.mechanisms.drop_path
    assert dropped is not None and {dropped.rate.value(e, 150) for e in (0, 75, 149)} == {0.3}
    assert recipe.search.cost is None
    assert "none" in setup.build_space(recipe).cells["normal"].candidates[0]


def test_snas_under_its_constraints() -> None:
    weights = []
    for level in ("mild", "moderate", "aggressive"):
        recipe, plain = load_recipe(f"snas-{level}"), load_recipe("snas")
        assert (recipe.selection, recipe.retrain, recipe.search.stages) == (
            plain.selection,
            plain.retrain,
            plain.search.stages,
        )
        cost = recipe.search.cost
        assert cost is not None and (cost.measure, cost.target) == ("parameters", None)
        weights.append(cost.weight)
    assert weights == [0.0015, 0.004, 0.01]


#: Error of RobustDARTS with drop path, initial channels of the retraining, of the robust spaces.
ROBUST = {"s1": ("3.11", 36), "s2": ("3.48", 16), "s3": ("2.93", 36), "s4": ("3.58", 16)}


@pytest.mark.parametrize("space", ROBUST)
def test_robustdarts(space: str) -> None:
    error, channels = ROBUST[space]
    recipe, stage = load_recipe(f"robustdarts-{space}"), only_stage(f"robustdarts-{space}")
    assert setup.build_space(recipe) == spaces.get(space) and error in recipe.published
    assert (stage.level, stage.epochs, stage.weights.weight_decay) == ("unrolled", 50, 3e-4)
    dropped, cutout = stage.mechanisms.drop_path, stage.mechanisms.cutout
    assert dropped is not None and cutout is not None and cutout.size == 16
    assert [dropped.rate.value(e, 50) for e in (0, 25, 50)] == pytest.approx([0, 0.1, 0.2])
    assert [cutout.probability.value(e, 50) for e in (0, 25, 50)] == pytest.approx([0, 0.5, 1])
    retrain = recipe.retrain
    assert (retrain.channels, retrain.layers, retrain.batch_size, retrain.drop_path) == (channels, 20, 96, 0.2)
    plain = [f"search.stages.search.mechanisms.{name}=null" for name in ("drop_path", "cutout")]
    without = load_recipe(f"robustdarts-{space}", plain).search
    assert without == load_recipe(f"darts-{space}", ["search.stages.search.level=unrolled"]).search


PT_RECIPES = dict(pt_recipes.recipes())


def test_the_recipes_of_darts_pt_in_the_robust_spaces_are_those_of_the_table() -> None:
    assert len(PT_RECIPES) == 24
    assert {name: recipe_text(name) for name in PT_RECIPES} == PT_RECIPES  # or run python -m tests.helpers.pt_recipes


@pytest.mark.parametrize("name", PT_RECIPES)
def test_darts_pt_in_a_robust_space(name: str) -> None:
    base = "darts-pt-blank" if "blank" in name else "darts-pt"
    space, _, dataset = name.removeprefix(f"{base}-").partition("-")
    recipe, plain, darts = load_recipe(name), load_recipe(base), load_recipe(name.replace(base, "darts"))
    assert (recipe.search, recipe.selection) == (plain.search, plain.selection)
    assert setup.build_space(recipe) == spaces.get(space)
    assert recipe.data == darts.data and recipe.data.dataset == (dataset or "cifar10")
    size = (36, 20) if not dataset else (16, 8)
    assert (recipe.retrain.channels, recipe.retrain.layers, recipe.retrain.seeds) == (*size, (0,))
    assert recipe.published.startswith(darts.published.partition(" ")[0])  # an error on the same data


def test_gdas() -> None:
    recipe, stage = load_recipe("gdas"), only_stage("gdas")
    assert (stage.relaxation.name, stage.level) == ("gumbel-straight-through", "bilevel-weights-first")
    temperatures = [stage.op_temperature.value(e, 250) for e in range(250)]
    assert (temperatures[0], temperatures[-1]) == (10, pytest.approx(0.1))
    assert temperatures[0] - temperatures[1] == pytest.approx(0.03976, abs=5e-6)
    assert (stage.epochs, stage.weights.nesterov, stage.weights.weight_decay) == (250, True, 5e-4)
    assert (recipe.search.head, recipe.search.layers, recipe.search.batch_size) == ("bn-relu", 6, 256)
    retrain = recipe.retrain
    assert (retrain.weights.nesterov, retrain.weights.weight_decay, retrain.drop_path) == (True, 5e-4, 0.2)
    assert (retrain.channels, retrain.layers, retrain.batch_size) == (36, 20, 96)


def test_gdas_lowers_its_learning_rate_at_every_step() -> None:
    rate, steps = only_stage("gdas").weights.lr, 98
    half = [rate.at(e, 250, s, steps) for e, s in ((0, 0), (0, 1), (124, 97), (125, 0), (249, 97))]
    wanted = [0.001 + 0.012 * (1 + math.cos(math.pi * t / (250 * steps))) for t in (0, 1, 12249, 12250, 24499)]
    assert half == pytest.approx(wanted, rel=1e-12) and half[1] < half[0]


def test_gdas_with_a_fixed_reduction_cell() -> None:
    frc, gdas = load_recipe("gdas-frc"), load_recipe("gdas")
    assert (frc.search, frc.selection, frc.retrain) == (gdas.search, gdas.selection, gdas.retrain)
    space = setup.build_space(frc)
    assert space.cells["normal"] == setup.build_space(gdas).cells["normal"]
    reduce = space.cells["reduce"]
    assert (reduce.stride, reduce.edges) == (2, ((0, 2), (1, 3), (0, 4), (1, 5)))
    assert reduce.candidates == (("sep_conv_3x3",), ("sep_conv_3x3",), ("max_pool_3x3",), ("max_pool_3x3",))
    derived = derive(ArchState(space), frc.selection.rules(0)).cells["reduce"]  # whatever is searched
    assert derived.nodes == (
        (("sep_conv_3x3", 0),),
        (("sep_conv_3x3", 1),),
        (("max_pool_3x3", 0),),
        (("max_pool_3x3", 1),),
    )


@pytest.mark.parametrize(("name", "kind"), [("sdarts-rs", "uniform"), ("sdarts-adv", "adversarial")])
def test_sdarts(name: str, kind: str) -> None:
    stage = only_stage(name)
    perturbation = stage.mechanisms.perturbation
    assert perturbation is not None
    assert (perturbation.kind, stage.level, stage.epochs) == (kind, "bilevel", 50)
    assert [perturbation.epsilon.value(e, 50) for e in (0, 49)] == [0.03, pytest.approx(0.2946)]
    assert setup.build_space(load_recipe(name)).cells["normal"].n_candidates == 7
    assert (stage.relaxation.name, stage.weights.lr) == ("softmax", COSINE)


def test_pc_darts() -> None:
    recipe, stage = load_recipe("pc-darts"), only_stage("pc-darts")
    assert recipe.search.size(stage) == {"channels": 16, "layers": 8, "partial": 4}
    assert (stage.topology.model_dump(), stage.warmup, stage.epochs) == ({"name": "edge-softmax", "keep": 2}, 15, 50)
    assert stage.weights.lr == Curve(shape="cosine", start=0.1, end=0.0)
    assert recipe.search.batch_size == 256
    for optimizer in (stage.alpha, stage.beta):
        assert (optimizer.lr.start, optimizer.betas, optimizer.weight_decay) == (6e-4, (0.5, 0.999), 1e-3)
    assert stage.alpha_on == stage.beta_on  # one batch moves both
    assert (recipe.selection.edges, recipe.selection.in_degree) == ("magnitude", 2)
    assert (recipe.retrain.drop_path, recipe.retrain.batch_size) == (0.3, 96)


def test_p_darts() -> None:
    recipe = load_recipe("p-darts")
    stages = recipe.search.stages
    assert [(s.epochs, s.level, s.layers, s.shrink) for s in stages] == [
        (10, "weights", 5, None),
        (15, "bilevel", 5, None),
        (10, "weights", 11, 5),
        (15, "bilevel", 11, None),
        (10, "weights", 17, 3),
        (15, "bilevel", 17, None),
    ]
    for number, rate in enumerate((0.1, 0.4, 0.7)):
        frozen, learning = stages[2 * number], stages[2 * number + 1]
        falling = [rate * (24 - e) / 25 for e in range(10)]
        before, after = frozen.mechanisms.skip_dropout, learning.mechanisms.skip_dropout
        assert before is not None and after is not None
        assert [before.rate.value(e, 10) for e in range(10)] == pytest.approx(falling)
        vanishing = [rate * math.exp(-0.2 * e) for e in range(15)]
        assert [after.rate.value(e, 15) for e in range(15)] == pytest.approx(vanishing, rel=1e-6)
        lr = [0.0125 * (1 + math.cos(math.pi * e / 25)) for e in range(25)]
        assert [frozen.weights.lr.value(e, 10) for e in range(10)] == pytest.approx(lr[:10])
        assert [learning.weights.lr.value(e, 15) for e in range(15)] == pytest.approx(lr[10:])
        assert (learning.alpha.lr.start, learning.arch_clip, frozen.arch_clip) == (6e-4, 5, None)
    assert (recipe.search.batch_size, recipe.selection.max_skips) == (96, 2)
    assert (recipe.retrain.batch_size, recipe.retrain.drop_path) == (128, 0.3)


def test_drnas() -> None:
    recipe = load_recipe("drnas")
    first, second = recipe.search.stages
    assert [recipe.search.size(s) for s in (first, second)] == [
        {"channels": 36, "layers": 20, "partial": 6},
        {"channels": 36, "layers": 20, "partial": 4},
    ]
    assert operations("drnas") == WITHOUT_NONE
    assert (first.shrink, second.shrink, second.shrink_none, second.shrink_alpha) == (None, 4, False, True)
    for stage in (first, second):
        assert (stage.relaxation.name, stage.topology.name, stage.alpha_penalty) == ("dirichlet", "dense", 0)
        assert (stage.epochs, stage.warmup, stage.alpha.lr.start, stage.alpha.weight_decay) == (25, 10, 6e-4, 1e-3)
        assert [stage.weights.lr.value(e, 25) for e in (0, 25)] == pytest.approx([0.1, 0])
    assert (recipe.search.batch_size, recipe.selection.edges) == (64, "magnitude")
    assert (recipe.retrain.batch_size, recipe.retrain.drop_path) == (64, 0.3)


def test_fairdarts() -> None:
    recipe, stage = load_recipe("fairdarts"), only_stage("fairdarts")
    assert (stage.relaxation.name, stage.alpha_penalty, stage.init) == ("sigmoid", 5.0, 0)
    assert (recipe.search.batch_size, stage.weights.lr) == (128, Curve(shape="cosine", start=0.005, end=0.001))
    assert (stage.alpha.lr.start, stage.alpha.betas) == (3e-3, (0.9, 0.999))
    assert (recipe.selection.threshold, recipe.selection.isolated, recipe.selection.in_degree) == (0.85, "drop", 2)
    assert operations("fairdarts") == WITHOUT_NONE


def test_darts_minus() -> None:
    auxiliary = only_stage("darts-minus").mechanisms.auxiliary_skip
    assert auxiliary is not None
    assert [auxiliary.weight.value(e, 50) for e in (0, 25, 49)] == pytest.approx([1, 0.5, 0.02])
    assert operations("darts-minus") == ("none", *WITHOUT_NONE)


@pytest.mark.parametrize(("name", "epochs"), [("milenas", 50), ("milenas-200", 200)])
def test_milenas(name: str, epochs: int) -> None:
    recipe, stage = load_recipe(name), only_stage(name)
    assert (stage.level, stage.mixed, stage.epochs, stage.weights.lr) == ("mixed", 1, epochs, COSINE)
    assert recipe.retrain.weights.lr == Curve(shape="cosine", start=0.03, end=0.001)
    assert recipe.retrain.batch_size == 64


@pytest.mark.parametrize("method", OVER)
def test_dots_over_a_method(method: str) -> None:
    """The method's own operation search, then the topology search of DOTS on one operation per edge."""
    recipe, dots = load_recipe(f"dots-over-{method}"), load_recipe("dots")
    operations, warmup, topology = recipe.search.stages
    assert OVER[method] in recipe.published
    assert (warmup.shrink, warmup.shrink_none) == ("best", False)
    assert warmup.model_copy(update={"shrink_none": True}) == dots.search.stages[1]
    assert topology == dots.search.stages[2]
    assert (recipe.selection, recipe.retrain, recipe.search.head) == (dots.selection, dots.retrain, "bn-relu")
    own = only_stage({"darts": "darts-v1", "darts-2nd": "darts-v2"}.get(method, method))
    same = ("epochs", "warmup", "level", "relaxation", "op_temperature", "init", "alpha", "topology", "arch_clip")
    assert [getattr(operations, key) for key in same] == [getattr(own, key) for key in same]
    alone = load_recipe({"darts": "darts-v1", "darts-2nd": "darts-v2"}.get(method, method)).search
    assert recipe.search.size(operations) == alone.size(own)
    assert recipe.search.batch(operations) == alone.batch(own) == {"gdas": 256, "pc-darts": 256}.get(method, 64)
    for stage in (warmup, topology):
        assert recipe.search.size(stage) == {"channels": 16, "layers": 20, "partial": 1}
        assert recipe.search.batch(stage) == 64
    epochs = operations.epochs
    rates = [own.weights.lr.value(e, epochs) for e in range(epochs)]
    assert [operations.weights.lr.value(e, epochs) for e in range(epochs)] == pytest.approx(rates)
    assert operations.weights.model_dump(exclude={"lr"}) == own.weights.model_dump(exclude={"lr"})
