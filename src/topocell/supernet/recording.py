"""Steps of a level as they are recorded: what tells them apart, and what goes in."""

import torch
from torch import Tensor

from topocell.nn.scheduled import hold
from topocell.runtime.capture import Steps, take
from topocell.runtime.epoch_meter import Seen
from topocell.runtime.nan_guard import Guard
from topocell.runtime.optimizers import can_hold
from topocell.supernet import Supernet
from topocell.supernet.arch_state import ArchState
from topocell.supernet.learner import ArchBatch, Batch, Learner
from topocell.supernet.levels import Level, Updates


def level_step(steps: Steps, guard: Guard, level: Level, learner: Learner, train: Batch, updates: Updates) -> Seen:
    """Take a step of a level, recorded or not; arguments as for a level.

    A step depends on which candidates are left, which logits move on which images, and whether anything is dropped. All
    else that changes is in tensors: parameters, states of optimizers, learning rates, temperatures, probabilities.
    """
    if not steps.records:
        return level(learner, train, updates)
    moved = tuple((update.alpha, update.beta) for update in updates)
    net, arch = learner.net, learner.arch

    def act(*given: Tensor) -> Seen:
        first, *others = zip(given[::2], given[1::2], strict=True)
        return level(learner, first, [ArchBatch(batch, *both) for batch, both in zip(others, moved, strict=True)])

    inputs = *train, *(tensor for update in updates for tensor in update.batch)
    return take(steps, guard, net.structure(), (level, moved, arch.auxiliary_skip > 0), act, inputs)


def hold_on(device: torch.device, *parts: Supernet | ArchState | Learner) -> None:
    """Let steps read from the device what follows a schedule, and wait for nothing that is drawn there."""
    for part in parts:
        hold(part, device)
        if isinstance(part, Supernet):
            part.masked = True


def can_record(learner: Learner) -> bool:
    """Return whether nothing that changes from step to step is a number of Python, also not the learning rate."""
    return learner.recordable and can_hold(type(learner.weights_optimizer))
