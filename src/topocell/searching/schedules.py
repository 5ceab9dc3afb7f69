"""Schedules over the epochs of a stage: learning rates, temperatures, and whether the architecture is updated."""

from typing import Any

from topocell.config.search import Stage
from topocell.supernet.learner import Learner


def updates_architecture(stage: Stage, epoch: int) -> bool:
    """Return whether a 0-based epoch updates α and β: after the warm-up, unless the level is `weights`."""
    return epoch >= stage.warmup and stage.level != "weights"


def set_schedules(learner: Learner, stage: Stage, epoch: int) -> None:
    """Set each scheduled value to that of its curve at a 0-based epoch of the stage."""
    at = epoch, stage.epochs
    learner.arch.op_temperature = stage.op_temperature.value(*at)
    learner.arch.edge_temperature = stage.edge_temperature.value(*at)
    learner.weights_optimizer.param_groups[0]["lr"] = stage.weights.lr.value(*at)
    learner.alpha_optimizer.param_groups[0]["lr"] = stage.alpha.lr.value(*at)
    if learner.beta_optimizer is not None:
        learner.beta_optimizer.param_groups[0]["lr"] = stage.beta.lr.value(*at)


def scheduled(learner: Learner, stage: Stage, epoch: int) -> dict[str, Any]:
    """Return the scheduled values for the record of a 0-based epoch, and the validity penalty if it has a weight."""
    arch = learner.arch
    return {
        "updates_architecture": updates_architecture(stage, epoch),
        "lr": learner.weights_optimizer.param_groups[0]["lr"],
        "op_temperature": arch.op_temperature,
        "edge_temperature": arch.edge_temperature,
        "penalty": float(arch.penalty().detach()) if stage.penalty else None,
    }
