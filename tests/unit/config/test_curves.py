"""Curves: each schedule is the one of torch where torch has it, alone and after a warm-up."""

from collections.abc import Callable
from math import cos, pi
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch.optim import SGD, lr_scheduler

from topocell.config.values import Curve, LearningRate, Probability, Temperature

EPOCHS = 20


def of_torch(make: Any, start: float) -> list[float]:
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=start)
    schedule = make(optimizer)
    found = []
    for _ in range(EPOCHS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def values(**options: Any) -> list[float]:
    curve = Curve.model_validate(options)
    return [curve.value(epoch, EPOCHS) for epoch in range(EPOCHS)]


def main(epochs: int) -> dict[str, tuple[dict[str, Any], Any]]:
    """Shapes that take `epochs` epochs: options of a curve, and torch's schedule."""
    return {
        "constant": ({"shape": "constant"}, lambda o: lr_scheduler.ConstantLR(o, 1.0)),
        "linear": (
            {"shape": "linear", "end": 0.02},
            lambda o: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.1, total_iters=epochs),
        ),
        "cosine": (
            {"shape": "cosine", "end": 0.02},
            lambda o: lr_scheduler.CosineAnnealingLR(o, epochs, eta_min=0.02),
        ),
        "exponential": (
            {"shape": "exponential", "end": 0.02},
            lambda o: lr_scheduler.ExponentialLR(o, gamma=0.1 ** (1 / epochs)),
        ),
    }


@pytest.mark.parametrize("shape", main(EPOCHS))
def test_shapes_are_those_of_torch(shape: str) -> None:
    options, make = main(EPOCHS)[shape]
    assert values(start=0.2, **options) == pytest.approx(of_torch(make, 0.2), rel=1e-9)


@pytest.mark.parametrize("shape", main(EPOCHS))
@pytest.mark.parametrize(("warmup", "begin"), [(1, 0.5), (5, 0.01), (7, 1.0)])
def test_a_warm_up_comes_before_the_curve_as_in_sequential(shape: str, warmup: int, begin: float) -> None:
    options, make = main(EPOCHS - warmup)[shape]

    def both(optimizer: SGD) -> Any:
        rising = lr_scheduler.LinearLR(optimizer, start_factor=begin, total_iters=warmup)
        return lr_scheduler.SequentialLR(optimizer, [rising, make(optimizer)], milestones=[warmup])

    found = values(start=0.2, warmup=warmup, warmup_start=begin, **options)
    assert found == pytest.approx(of_torch(both, 0.2), rel=1e-9)


def test_steps_are_those_of_torch() -> None:
    found = values(start=0.2, shape="step", milestones=[3, 8, 19], factor=0.3)
    assert found == pytest.approx(of_torch(lambda o: lr_scheduler.MultiStepLR(o, [3, 8, 19], gamma=0.3), 0.2))
    assert values(start=0.2, shape="step", every=6) == pytest.approx(
        of_torch(lambda o: lr_scheduler.StepLR(o, 6, gamma=0.1), 0.2)
    )


def test_milestones_count_from_the_first_epoch_whatever_the_warm_up() -> None:
    plain = values(start=0.2, shape="step", milestones=[3, 8])
    assert values(start=0.2, shape="step", milestones=[3, 8], warmup=2)[2:] == plain[2:]


@pytest.mark.parametrize(("shape", "decay"), [("linear", lambda t: 1 - t), ("cosine", lambda t: (1 + cos(pi * t)) / 2)])
def test_a_ramp_multiplies_the_curve_below(shape: str, decay: Callable[[float], float]) -> None:
    """The rates of P-DARTS and PC-DARTS on ImageNet: lr(e) (e + 1) / 5 in the first five epochs."""
    found = values(shape=shape, start=0.5, end=0.0, ramp=5)
    assert found == pytest.approx([0.5 * decay(e / EPOCHS) * min((e + 1) / 5, 1) for e in range(EPOCHS)])
    assert Curve(start=1.0, ramp=5).scaled(0.2).ramp == 1
    per_step = Curve(start=1.0, ramp=2, per="step")
    assert [per_step.at(e, 4, s, 2) for e in range(3) for s in range(2)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_a_factor_in_every_epoch_is_a_step_of_every_epoch() -> None:
    """The rate of DARTS on ImageNet: 0.1, times 0.97 in each epoch."""
    found = values(shape="step", start=0.1, every=1, factor=0.97)
    assert found == pytest.approx(of_torch(lambda o: lr_scheduler.ExponentialLR(o, gamma=0.97), 0.1))


def test_a_warm_up_from_nothing_begins_with_nothing() -> None:
    assert values(start=1.0, warmup=4, warmup_start=0.0)[:6] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 1.0])
def test_a_budget_moves_steps_forward_in_proportion(share: float) -> None:
    whole = Curve(shape="step", start=1.0, milestones=(100, 150, 151), warmup=10)
    less = whole.scaled(share)
    assert less.warmup == round(10 * share)
    assert less.milestones == tuple(sorted({max(1, round(at * share)) for at in whole.milestones}))
    assert Curve.model_validate(less.model_dump()) == less
    assert whole.scaled(1.0) == whole


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shape": "step", "start": 1}, "needs milestones .epochs. or every .n epochs., one of the two"),
        ({"shape": "step", "start": 1, "every": 3, "milestones": [2]}, "one of the two"),
        ({"shape": "step", "start": 1, "every": 0}, "greater than or equal to 1"),
        ({"shape": "step", "start": 1, "every": 3, "end": 0.1}, "needs a shape: linear, cosine or exponential"),
        ({"start": 1, "milestones": [3]}, "are of shape 'step', but got shape 'constant'; set shape=step"),
        ({"shape": "step", "start": 1, "milestones": [5, 3]}, r"rise from epoch to epoch, but got \[5, 3\]; sort them"),
        ({"shape": "step", "start": 1, "milestones": [3, 3]}, "rise from epoch to epoch"),
        ({"shape": "step", "start": 1, "every": 3, "factor": 0}, "greater than 0"),
        ({"start": 1, "warmup": 2, "ramp": 3}, "with a warm-up or with a ramp, but got warmup=2 and ramp=3"),
        ({"start": 1, "warmup": -1}, "greater than or equal to 0"),
        ({"start": 1, "warmup": 2, "warmup_start": 1.5}, "less than or equal to 1"),
    ],
)
def test_curves_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Curve.model_validate(options)


def test_a_temperature_stays_above_nothing_in_its_warm_up() -> None:
    options = {"start": 1.0, "warmup": 3, "warmup_start": 0.0}
    assert TypeAdapter(LearningRate).validate_python(options).warmup == 3
    with pytest.raises(ValidationError, match="must be above 0, but got 0 at the first epoch; raise warmup_start"):
        TypeAdapter(Temperature).validate_python(options)


STEPS = 7


@pytest.mark.parametrize("shape", main(EPOCHS))
def test_per_step_a_curve_is_that_of_as_many_epochs(shape: str) -> None:
    """Torch's own schedules, stepped after every batch."""
    epochs = EPOCHS // 5
    curve = Curve.model_validate({"start": 0.2, "per": "step", **main(EPOCHS)[shape][0]})
    steps = EPOCHS // epochs
    found = [curve.at(epoch, epochs, step, steps) for epoch in range(epochs) for step in range(steps)]
    assert found == pytest.approx(of_torch(main(EPOCHS)[shape][1], 0.2), rel=1e-9)


def test_per_step_the_temperature_of_dots_falls_by_one_factor_from_its_start_to_its_end() -> None:
    """T0 · θ^t over all steps t of the stage; per epoch it has the same ends, and stays for an epoch."""
    given = {"shape": "exponential", "start": 10.0, "end": 0.02, "closed": True}
    per_epoch, per_step = Curve.model_validate(given), Curve.model_validate({**given, "per": "step"})
    places = [(epoch, EPOCHS, step, STEPS) for epoch in range(EPOCHS) for step in range(STEPS)]
    theta = (0.02 / 10.0) ** (1 / (EPOCHS * STEPS - 1))
    assert [per_step.at(*at) for at in places] == pytest.approx([10.0 * theta**t for t in range(EPOCHS * STEPS)])
    for curve in (per_step, per_epoch):
        assert (curve.at(*places[0]), curve.at(*places[-1])) == (10.0, pytest.approx(0.02, rel=1e-12))
    assert [per_epoch.at(*at) for at in places] == [per_epoch.value(epoch, EPOCHS) for epoch, *_ in places]


def test_per_step_warm_up_and_milestones_count_their_epochs_in_steps() -> None:
    curve = Curve(shape="step", start=1.0, milestones=(2, 3), factor=0.5, warmup=1, warmup_start=0.0, per="step")
    found = [curve.at(epoch, 4, step, 2) for epoch in range(4) for step in range(2)]
    assert found == [0.0, 0.5, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


def test_curves_of_mechanisms_change_per_epoch() -> None:
    with pytest.raises(ValidationError, match="changes per epoch, but got per='step'; leave per out"):
        TypeAdapter(Probability).validate_python({"start": 0.1, "per": "step"})
