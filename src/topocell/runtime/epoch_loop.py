"""The one loop over epochs and their steps, which search, projection and retraining share; resumable after any step."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from topocell.config.values import OnNan
from topocell.io.checkpoint import places
from topocell.runtime.epoch_meter import EpochMeter, Seen
from topocell.runtime.hooks import Monitor
from topocell.runtime.nan_guard import Guard, Place, Stateful
from topocell.runtime.rng import begin_draws
from topocell.runtime.rng import derive as derive_seed


class Training(Protocol):
    """The hooks of a training that the loop calls, in this order."""

    def begin_epoch(self) -> int:
        """Set the schedules of the epoch that begins or is resumed, and return its number of steps."""

    def stream(self) -> tuple[str | int, ...]:
        """Return the name of the random stream of the epoch; the epoch and the step are added to it."""

    def train_step(self) -> Seen:
        """Take one step of the epoch: the updates of one batch."""

    def on_step_end(self, steps: int) -> None:
        """Report the step that has just been taken, one of `steps`."""

    def on_epoch_end(self) -> bool:
        """Evaluate and record the epoch; return whether it is to be the last one, ahead of time."""

    def parts(self) -> Mapping[str, Stateful]:
        """Return what a step changes: modules and optimizers by name."""

    def place(self, step: int) -> Place:
        """Return where a step of this epoch happened, for the explanation of a value that is not finite."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the training depends on."""


class EpochLoop:
    """Take a `Training` through its epochs.

    Before every step torch's generator is seeded with (seed, stream, epoch, step), so that a state saved after any step
    continues bit for bit. A loss or gradient that is not finite is dealt with as `on_nan` says. The state may be saved
    after every step, and is saved after every epoch.

    Args:
        training: the hooks.
        seed: of the random streams.
        device: on which losses are summed up.
        monitor: receives metrics, progress and states to save.
        on_nan: see `topocell.config.values.OnNan`.

    Attributes:
        epoch, step: those to come, 0-based.
        meter: loss and accuracy of the epoch so far.
        guard: finds what is not finite.
    """

    def __init__(
        self, training: Training, *, seed: int, device: torch.device, monitor: Monitor, on_nan: OnNan = "stop"
    ) -> None:
        self._training, self._seed, self._device, self._monitor = training, seed, device, monitor
        self.epoch = self.step = 0
        self.meter = EpochMeter(device)
        self.guard = Guard(on_nan, device, training.parts, training.place, monitor.say)

    def run(self, epochs: int) -> None:
        """Run what is left of the first `epochs` epochs.

        Raises:
            RunError: a loss, a gradient or a parameter is not finite, and `on_nan` is `stop`.
            Interrupted: the monitor was told to stop, after the state was saved.
        """
        training = self._training
        while self.epoch < epochs:
            steps = training.begin_epoch()
            if self.step == 0:
                self.guard.begin_epoch()
            while self.step < steps:
                begin_draws(derive_seed(self._seed, *training.stream(), self.epoch, self.step), self._device)
                seen = self.guard.step(self.step, steps, training.train_step)
                self.step += 1
                if seen is not None:
                    self.meter.add(seen)
                training.on_step_end(steps)
                if self.step < steps:
                    self.save()
            self.guard.check()
            last = training.on_epoch_end()
            self.epoch, self.step = epochs if last else self.epoch + 1, 0
            self.meter.clear()
            self.guard.end_epoch()
            self.save(due=True)

    def save(self, due: bool = False) -> None:
        """Let the monitor save the state, which it does when `due`, if everything in it is finite."""
        self._monitor.checkpoint(self._checked, due=due)

    def progress(self, name: str, done: int, total: int) -> None:
        """Report `done` of `total` steps, with loss and accuracy so far."""
        self._monitor.step(name, done, total, self.meter.recent)

    def record(self, of: int | None = None) -> dict[str, Any]:
        """Return the epoch, its mean loss and accuracy in training and, if there are any, the batches skipped.

        They are those of network `of`, where several are trained at once.
        """
        figures = self.meter.figures(everywhere=True, of=of)
        found = {"epoch": self.epoch, "train_loss": figures["loss"], "train_accuracy": figures["accuracy"]}
        return found | ({"skipped": self.guard.skipped} if self.guard.skipped else {})

    def restart(self) -> None:
        """Stand before the first step of the first epoch."""
        self.epoch = self.step = 0

    def _checked(self) -> dict[str, Any]:
        self.guard.check()
        return self._training.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the loop, the figures and what the finite check depends on."""
        figures, guard = self.meter.state_dict(), self.guard.state_dict()
        return {"epoch": self.epoch, "step": self.step, "meter": figures, "guard": guard}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.epoch, self.step = places(state["epoch"], state["step"])
        self.meter.load_state_dict(state["meter"])
        self.guard.load_state_dict(state["guard"])
