"""Curves against the values that the papers' schedules have, and plans that cannot be."""

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from topocell.config.search import ArchOptimizer, SearchPlan, Stage, WeightOptimizer
from topocell.config.values import Choice, Curve

RS = {"perturbation": {"kind": "uniform"}}


def values(curve: Curve, epochs: int) -> list[float]:
    return [curve.value(epoch, epochs) for epoch in range(epochs)]


# --- published schedules


def test_the_temperature_of_dots() -> None:
    """From 10 to 0.02 over the 20 epochs of the topology search, both ends included."""
    published = [10, 7.210, 5.199, 3.748, 2.703, 1.949, 1.405, 1.013, 0.730, 0.527]
    published += [0.380, 0.274, 0.197, 0.142, 0.103, 0.074, 0.053, 0.038, 0.028, 0.020]
    curve = Curve(shape="exponential", start=10, end=0.02, closed=True)
    assert [round(value, 3) for value in values(curve, 20)] == published


def test_the_learning_rate_of_dots_is_one_cosine_over_both_stages() -> None:
    operations = Curve(shape="cosine", start=0.025, end=0.001, span=(0, 30, 70))
    topology = Curve(shape="cosine", start=0.025, end=0.001, span=(30, 70, 70))
    assert operations.value(0, 30) == 0.025
    assert operations.value(29, 30) == pytest.approx(0.01619, abs=5e-6)
    assert topology.value(0, 40) == pytest.approx(0.01567, abs=5e-6)
    assert topology.value(39, 40) == pytest.approx(0.001, abs=2e-5)
    whole = Curve(shape="cosine", start=0.025, end=0.001)
    assert values(operations, 30) + values(topology, 40) == pytest.approx(values(whole, 70))


def test_the_learning_rate_of_darts() -> None:
    curve = WeightOptimizer().lr
    assert curve.value(0, 50) == 0.025
    assert curve.value(25, 50) == pytest.approx(0.013)
    assert curve.value(49, 50) == pytest.approx(0.001 + 0.024 * (1 + math.cos(math.pi * 0.98)) / 2)


def test_the_perturbation_of_sdarts() -> None:
    curve = Curve(shape="linear", start=0.03, end=0.3)
    assert curve.value(0, 50) == 0.03
    assert curve.value(49, 50) == pytest.approx(0.2946)


def test_the_temperature_of_snas() -> None:
    curve = Curve(shape="linear", start=1.0, end=0.03)
    assert curve.value(0, 150) == 1.0
    assert curve.value(149, 150) == pytest.approx(0.0365, abs=5e-5)


def test_the_temperature_of_gdas() -> None:
    curve = Curve(shape="linear", start=10, end=0.1, closed=True)
    tau = values(curve, 250)
    assert (tau[0], tau[-1]) == (10, pytest.approx(0.1))
    assert all(a - b == pytest.approx(0.03976, abs=5e-6) for a, b in itertools.pairwise(tau))


# --- curves in general

CURVES = st.builds(
    Curve,
    shape=st.sampled_from(["linear", "cosine", "exponential"]),
    start=st.floats(1e-3, 10),
    end=st.floats(1e-3, 10),
    closed=st.booleans(),
)


@given(curve=CURVES, epochs=st.integers(1, 60))
def test_curves_go_from_start_to_end_and_never_back(curve: Curve, epochs: int) -> None:
    assert curve.end is not None
    found = values(curve, epochs)
    assert found[0] == pytest.approx(curve.start)
    if curve.closed and epochs > 1:
        assert found[-1] == pytest.approx(curve.end)
    sign = 1 if curve.end >= curve.start else -1
    assert all(sign * (b - a) >= -1e-12 for a, b in itertools.pairwise(found))
    low, high = sorted((curve.start, curve.end))
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in found)


@given(curve=CURVES.filter(lambda c: not c.closed), first=st.integers(1, 30), second=st.integers(1, 30))
def test_a_curve_can_be_cut_at_any_epoch(curve: Curve, first: int, second: int) -> None:
    whole = first + second
    parts = [curve.model_copy(update={"span": span}) for span in ((0, first, whole), (first, whole, whole))]
    assert values(parts[0], first) + values(parts[1], second) == pytest.approx(values(curve, whole))


def test_a_constant_curve_is_constant() -> None:
    assert values(Curve(start=0.3), 5) == [0.3] * 5


def test_a_stage_of_one_epoch_has_the_start() -> None:
    assert Curve(shape="linear", start=1, end=0, closed=True).value(0, 1) == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"shape": "cosine", "start": 1.0}, "a curve of shape 'cosine' needs an end"),
        ({"shape": "exponential", "start": 1.0, "end": 0.0}, "an exponential curve needs start > 0 and end > 0"),
        ({"shape": "exponential", "start": -1.0, "end": 1.0}, "an exponential curve needs start > 0 and end > 0"),
        ({"start": 1.0, "span": (3, 2, 4)}, "span = .* must have from <= to <= of, but got"),
        ({"start": 1.0, "span": (0, 5, 4)}, "span = .* must have from <= to <= of, but got"),
        ({"start": 1.0, "span": (0, 0, 0)}, "greater than 0"),
        ({"shape": "square", "start": 1.0}, "'constant', 'linear', 'cosine', 'exponential' or 'step'"),
        ({"start": 1.0, "stop": 2.0}, "Extra inputs are not permitted"),
        ({"end": 1.0}, "Field required"),
    ],
)
def test_curves_that_cannot_be(fault: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Curve(**fault)


# --- stages and plans


def stage(**options: Any) -> Stage:
    return Stage.model_validate({"name": "operations", "epochs": 4} | options)


def test_a_number_is_a_constant_curve_and_a_word_a_choice_without_options() -> None:
    read = stage(op_temperature=2, weights={"lr": 0.1}, topology="dense", relaxation={"name": "softmax", "offset": {}})
    assert read.op_temperature == Curve(start=2)
    assert read.weights.lr == Curve(start=0.1)
    assert read.topology == Choice(name="dense")
    assert read.relaxation.model_dump() == {"name": "softmax", "offset": {}}


def test_the_defaults_are_those_of_darts() -> None:
    plan = SearchPlan(stages=(stage(),))
    assert (plan.channels, plan.layers, plan.batch_size, plan.partial, plan.head) == (16, 8, 64, 1, "plain")
    weights, arch = WeightOptimizer(), ArchOptimizer()
    assert (weights.momentum, weights.weight_decay, weights.clip, weights.nesterov) == (0.9, 3e-4, 5.0, False)
    assert (arch.lr.start, arch.betas, arch.weight_decay) == (3e-4, (0.5, 0.999), 1e-3)
    assert (stage().level, stage().init, stage().penalty) == ("bilevel", 1e-3, 0.0)


@pytest.mark.parametrize(
    ("options", "splits"),
    [
        ({}, {"train", "val"}),
        ({"alpha_on": "val-alpha", "beta_on": "val-beta"}, {"train", "val-alpha", "val-beta"}),
        ({"level": "single", "weights_on": "all"}, {"all"}),
        ({"level": "weights"}, {"train"}),
    ],
)
def test_the_splits_that_a_stage_needs(options: dict[str, Any], splits: set[str]) -> None:
    assert stage(**options).splits_needed == splits


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup": 5}, "warmup is at most epochs, but got warmup=5 and epochs=4"),
        ({"epochs": -1}, "greater than or equal to 0"),
        ({"name": "Stage 1"}, "should match pattern"),
        ({"arch_every": "batch"}, "'step' or 'epoch'"),
        ({"draw": "step"}, "'epoch' or 'replacement'"),
        ({"arch_draw": "replace"}, "'epoch' or 'replacement'"),
        ({"shrink": 0}, "shrink"),
        ({"shrink": "top"}, "shrink"),
        ({"reset": ["momentum"]}, "reset"),
        ({"penalty": -1}, "greater than or equal to 0"),
        ({"channels": 1}, "greater than or equal to 2"),
        ({"op_temperature": True}, "op_temperature"),
        ({"weights": {"momentum": 1.0}}, "less than 1"),
        ({"weights": {"clip": 0}}, "greater than 0"),
        ({"alpha": {"betas": [0.5, 1.0]}}, "less than 1"),
        ({"partial": 0}, "greater than or equal to 1"),
        ({"arch_clip": 0}, "greater than 0"),
        (
            {"mechanisms": {"perturbation": {"kind": "unifrom"}}},
            "unknown perturbation 'unifrom' .did you mean 'uniform'",
        ),
        ({"level": "unrolled", "relaxation": "gumbel-softmax"}, "gumbel-softmax draws a new one for each; use level"),
        ({"level": "single", "mechanisms": RS}, "level single moves weights and architecture in one pass"),
        ({"relaxation": "gumbel-straight-through", "mechanisms": RS}, "has one-hot samples; use relaxation"),
        ({"relaxation": "sigmoid", "mechanisms": RS}, "has independent weights; use relaxation softmax"),
        ({"mechanisms": {**RS, "auxiliary_skip": {"weight": 0.5}}}, "auxiliary_skip adds up to 0.5 to them; leave one"),
        ({"shrink_alpha": True}, "candidates that stay after shrinking, but shrink is not set; leave one out"),
        (
            {"shrink_alpha": True, "shrink": 2, "reset": ["alpha"]},
            "after shrinking, but reset names alpha; leave one out",
        ),
        ({"alpha_penalty": 1}, "needs a relaxation with a penalty, but softmax has none; use sigmoid or dirichlet"),
        ({"relaxation": "uniform"}, "relaxation uniform and topology dense have nothing to learn; use level weights"),
        ({"levle": "single"}, "Extra inputs are not permitted"),
    ],
)
def test_stages_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        stage(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": []}, "at least 1 item"),
        ({"stages": [stage(), stage()]}, "every stage has its own name, but got .'operations', 'operations'."),
        ({"stages": [stage()], "batch_size": 1}, "greater than or equal to 2"),
        ({"stages": [stage()], "head": "bn"}, "'plain' or 'bn-relu'"),
        ({"stages": [stage()], "stem": "small"}, "'cifar' or 'imagenet'"),
        ({"stages": [stage()], "batch_size": 14, "micro_batch": 6}, "batch_size=14; use 2 .stage operations"),
        ({"stages": [stage(batch_size=9)], "micro_batch": 2}, "micro_batch=2 for batch_size=9; leave it out"),
        ({"stages": [stage(level="unrolled")], "micro_batch": 8}, "level unrolled looks ahead on a whole batch"),
        (
            {"stages": [stage(mechanisms={"perturbation": {"kind": "adversarial"}})], "micro_batch": 8},
            "an adversarial perturbation is found on a whole batch, but micro_batch is 8 and stage operations has one",
        ),
    ],
)
def test_plans_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SearchPlan.model_validate(options)


def test_a_stage_that_learns_nothing_about_the_architecture_may_have_nothing_to_learn() -> None:
    for options in ({"level": "weights"}, {"warmup": 4}, {"epochs": 0}, {"topology": "edge-softmax"}):
        assert stage(relaxation="uniform", **options).relaxation.name == "uniform"


def test_the_size_of_a_stage_comes_before_that_of_the_plan() -> None:
    plan = SearchPlan(channels=12, layers=5, partial=2, stages=(stage(), stage(name="other", partial=1, layers=9)))
    assert plan.size(plan.stages[0]) == {"channels": 12, "layers": 5, "partial": 2}
    assert plan.size(plan.stages[1]) == {"channels": 12, "layers": 9, "partial": 1}


def test_plans_are_fixed_once_read() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        stage().epochs = 3  # type: ignore[misc]
