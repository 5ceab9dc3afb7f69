"""Schedules over the epochs of a stage: learning rates, temperatures, and whether the architecture is updated."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from topocell.config.search import Stage
from topocell.config.values import Curve
from topocell.runtime.optimizers import rate_of, set_rate
from topocell.supernet.learner import Learner


def updates_architecture(stage: Stage, epoch: int) -> bool:
    """Return whether a 0-based epoch updates α and β: after the warm-up, unless the level is `weights`."""
    return epoch >= stage.warmup and stage.level != "weights"


def set_schedules(learner: Learner, stage: Stage, epoch: int, step: int, steps: int, within: bool = False) -> None:
    """Set each scheduled value to that of its curve.

    Args:
        learner: whose temperatures and learning rates are set.
        stage: has the curves.
        epoch, step: 0-based, of the stage and of the epoch.
        steps: of the epoch.
        within: set only what changes at every step.
    """
    for curve, put in _curves(learner, stage):
        if curve.per == "step" or not within:
            put(curve.at(epoch, stage.epochs, step, steps))


def _curves(learner: Learner, stage: Stage) -> Iterator[tuple[Curve, Callable[[float], None]]]:
    """The curves of a stage, each with the function that sets its value."""
    yield stage.op_temperature, partial(setattr, learner.arch, "op_temperature")
    yield stage.edge_temperature, partial(setattr, learner.arch, "edge_temperature")
    rates = [(learner.weights_optimizer, stage.weights.lr), (learner.alpha_optimizer, stage.alpha.lr)]
    for optimizer, curve in [*rates, (learner.beta_optimizer, stage.beta.lr)]:
        if optimizer is not None:
            yield curve, partial(set_rate, optimizer)


def scheduled(learner: Learner, stage: Stage, epoch: int) -> dict[str, Any]:
    """Return the values at the end of a 0-based epoch for its record, and the validity penalty if it has a weight."""
    arch = learner.arch
    return {
        "updates_architecture": updates_architecture(stage, epoch),
        "lr": rate_of(learner.weights_optimizer),
        "op_temperature": arch.op_temperature,
        "edge_temperature": arch.edge_temperature,
        "penalty": float(arch.penalty().detach()) if stage.penalty else None,
    }
