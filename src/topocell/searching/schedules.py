"""Schedules over the epochs of a stage: learning rates and temperatures."""

from typing import Any

from topocell.config.search import Stage
from topocell.supernet.learner import Learner


def set_schedules(learner: Learner, stage: Stage, epoch: int) -> None:
    """Set each scheduled value to that of its curve at a 0-based epoch of the stage."""
    at = epoch, stage.epochs
    learner.arch.op_temperature = stage.op_temperature.value(*at)
    learner.arch.edge_temperature = stage.edge_temperature.value(*at)
    learner.weights_optimizer.param_groups[0]["lr"] = stage.weights.lr.value(*at)
    learner.alpha_optimizer.param_groups[0]["lr"] = stage.alpha.lr.value(*at)
    if learner.beta_optimizer is not None:
        learner.beta_optimizer.param_groups[0]["lr"] = stage.beta.lr.value(*at)


def scheduled(learner: Learner, stage: Stage) -> dict[str, Any]:
    """Return the scheduled values for the record of an epoch, and the validity penalty if it has a weight."""
    arch = learner.arch
    return {
        "lr": learner.weights_optimizer.param_groups[0]["lr"],
        "op_temperature": arch.op_temperature,
        "edge_temperature": arch.edge_temperature,
        "penalty": float(arch.penalty().detach()) if stage.penalty else None,
    }
