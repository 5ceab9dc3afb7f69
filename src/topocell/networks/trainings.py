"""Trainings of networks that go through their epochs at once: the steps of seeds of a cell, or of several cells."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from topocell.config.values import OnNan
from topocell.networks.seed_training import SeedTraining, Task
from topocell.networks.together import Together
from topocell.runtime.capture import Steps, take
from topocell.runtime.epoch_loop import EpochLoop, Training
from topocell.runtime.epoch_meter import Seen
from topocell.runtime.hooks import Monitor
from topocell.runtime.nan_guard import Place, Stateful
from topocell.runtime.optimizers import can_hold
from topocell.runtime.precision import Execution


class Trainings(Training):
    """Hooks of `topocell.runtime.epoch_loop.Training` for networks of one plan and dataset, trained at once.

    Args:
        seed: of the run.
        device: where the networks are trained.
        monitor: receives metrics, progress and states to save.
        execution: how the networks are called in training.
        on_nan: what is done about a step that is not finite, see `topocell.runtime.nan_guard`.

    Attributes:
        members: the trainings in progress.
        together: what takes their steps as one; None for a single training.
    """

    members: Sequence[SeedTraining]
    together: Together | None

    def __init__(self, seed: int, device: torch.device, monitor: Monitor, execution: Execution, on_nan: OnNan) -> None:
        self.monitor = monitor
        self.recorder = execution.recorder(device) if on_nan == "stop" else None
        self.loop = EpochLoop(self, seed=seed, device=device, monitor=monitor, on_nan=on_nan)

    def start(self, members: Sequence[SeedTraining]) -> None:
        """Begin the training of some networks."""
        self.members = members
        self.together = Together(members) if len(members) > 1 else None
        for member in members:
            member.begin()
        holds = can_hold(type(members[0].optimizer))
        self.steps = Steps(self.recorder if holds else None, self.monitor.say)

    # An epoch, as the loop calls it -------------------------------------------------------------------------

    def begin_epoch(self) -> int:
        """Set the learning rate and the probability of dropped paths."""
        for member in self.members:
            member.begin_epoch(self.loop.epoch, self.loop.step)
        if self.together is not None:
            self.together.begin_epoch()
        return len(self.members[0].batches)

    def stream(self) -> tuple[str | int, ...]:
        """The random stream of the steps; networks that are trained at once take their own."""
        return self.members[0].stream()

    def train_step(self) -> Seen:
        """Update the weights of each network on one batch of its images."""
        epoch, step = self.loop.epoch, self.loop.step
        for member in self.members:
            member.set_rate(epoch, step)
        source = self.members[0] if self.together is None else self.together
        inputs = source.batch(epoch, step)
        if self.steps.records:
            drops = self.members[0].net.drop_path > 0
            seen = take(self.steps, self.loop.guard, (), drops, self._update, inputs)
        else:
            seen = self._update(*inputs)
        for member in self.members:
            if member.average is not None:
                member.average.update_parameters(member.net)
        return seen

    def _update(self, *inputs: Tensor) -> Seen:
        for member in self.members:
            member.optimizer.zero_grad(set_to_none=True)
        if self.together is None:
            loss, seen = self.members[0].backward(*inputs)
            losses = [loss]
        else:
            losses, seen = self.together.backward(*inputs)
        for member, loss, which in zip(self.members, losses, self._which(), strict=True):
            self.loop.guard.see(f"the loss{which}", loss)
            self.loop.guard.see(f"the gradient norm of the weights{which}", member.clip())
        for member in self.members:
            member.optimizer.step()
        return seen

    def _which(self) -> list[str]:
        """What tells the networks apart in messages, where there are several at once."""
        return [f" of {member.label}" if self.together else "" for member in self.members]

    def on_epoch_end(self) -> bool:
        """Test where a test is due, and record the epoch of each network."""
        ends = [
            member.end_epoch(self.loop.epoch, self.loop.record(None if self.together is None else i), self.monitor)
            for i, member in enumerate(self.members)
        ]
        return all(ends)

    def parts(self) -> Mapping[str, Stateful]:
        """Return what a step changes."""
        found = [
            (f"{name}{which}", part)
            for member, which in zip(self.members, self._which(), strict=True)
            for name, part in member.parts().items()
        ]
        return dict(found)

    def place(self, step: int) -> Place:
        """Return where a step of this epoch happened, for the explanation of a fault."""
        epoch = self.loop.epoch
        seeds = ", ".join(str(seed) for seed in dict.fromkeys(member.seed for member in self.members))
        batches = dict.fromkeys(member.batches for member in self.members)
        return Place(
            f"retraining with seed {seeds}, epoch {epoch}, step {step}",
            [member.group() for member in self.members],
            [("train", of.numbers(epoch, step), of.batch(epoch, step)[0]) for of in batches],
        )

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of these trainings depends on."""
        return {"members": [member.state_dict() for member in self.members], **self.loop.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict` of as many trainings that have begun."""
        for member, of in zip(self.members, state["members"], strict=True):
            member.load_state_dict(of)
        self.loop.load_state_dict(state)


class CellTrainings(Trainings):
    """Trainings of several cells at once, with the seed and the images of one.

    Args:
        tasks: what is trained, each with a cell of its own, by one plan with one seed on the same data.
        monitor: receives progress and states to save.
        on_nan: what is done about a step that is not finite.
    """

    def __init__(self, tasks: Sequence[Task], monitor: Monitor, on_nan: OnNan = "stop") -> None:
        first = tasks[0]
        super().__init__(first.seed, first.device, monitor, first.execution, on_nan)
        self._epochs = first.plan.epochs
        members: list[SeedTraining] = []
        for number, task in enumerate(tasks, start=1):
            members.append(SeedTraining(task, 0, f"cell {number} of {len(tasks)}", members[0] if members else None))
        self.start(members)

    def run(self, state: Mapping[str, Any] | None = None) -> list[float]:
        """Train all of them, or resume from a `state_dict`; returns the test accuracy of each in the last epoch.

        Raises:
            RunError: a loss or a gradient is not finite, and `on_nan` is `stop`.
            Interrupted: the monitor was told to stop, after the state was saved.
        """
        if state is not None:
            with self.monitor.loading():
                self.load_state_dict(state)
        self.loop.run(self._epochs)
        return [member.tests[-1].accuracy for member in self.members]

    def on_step_end(self, steps: int) -> None:
        """Report the step."""
        size, done = len(self.members), self.loop.epoch * steps + self.loop.step
        self.loop.progress(f"train, cells 1 to {size}", size * done, size * self._epochs * steps)
