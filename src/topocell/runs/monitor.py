"""The monitor of a run with a directory: metrics and checkpoints go to disk, progress to the display.

Between checkpoints at least `CHECKPOINT_SECONDS` pass, except where a state is due (end of an epoch or stage);
a kill in between costs at most that much work, because what is repeated is repeated bit for bit. The environment
variable TOPOCELL_CHECKPOINT_SECONDS takes another number of seconds; 0 saves after every step.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from topocell.data.batches import Images
from topocell.errors import CheckpointError, RunError, SpaceError
from topocell.networks.kept import predictions_csv, predictions_name, weights_name
from topocell.reporting.terminal import Display, Logged
from topocell.runs.directory import RunDir
from topocell.runs.logs import Logs
from topocell.runs.outlook import Outlook
from topocell.runs.phases import Phase, save_phase
from topocell.runtime import distributed
from topocell.runtime.hooks import Figures, Interrupted, Trained, on_signals
from topocell.runtime.memory import is_out_of_memory

CHECKPOINT_SECONDS = 30.0


class RunHook:
    """Additions of a study to the monitor of a run; both hooks do nothing here."""

    def on_record(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what is added to a record before it is written."""
        return {}

    def on_epoch_saved(self, state: Mapping[str, Any]) -> None:
        """Receive the state that is about to be saved at the end of an epoch, or at the start of a stage.

        After a kill before it was saved the epoch is repeated bit for bit, and so is this call.
        """


class RunMonitor:
    """Implements `topocell.runtime.hooks.Monitor` on a run directory; `phase` and `seconds` go into every checkpoint.

    Args:
        directory: of the run.
        display: of the run; what it shows goes to log.txt too.
        hooks: act on records and checkpoints, in this order.
        test: the test images, which the networks of a retraining predict.
        outlook: tells the time left.
        logs: get every record that has been written.

    Attributes:
        display: writes to log.txt what it shows.
        seconds: that each phase has taken up to now. Set to those of a checkpoint, it counts on from there, so that
            work which a kill has lost and which is repeated counts once.

    Raises RunError when TOPOCELL_CHECKPOINT_SECONDS is not a number of seconds.
    """

    def __init__(
        self,
        directory: RunDir,
        display: Display,
        hooks: Sequence[RunHook] = (),
        test: Images | None = None,
        outlook: Outlook | None = None,
        logs: Logs | None = None,
    ) -> None:
        self.directory, self._hooks, self._test, self.outlook = directory, tuple(hooks), test, outlook or Outlook(())
        self.logs = logs or Logs((), directory)
        self.display: Display = Logged(display, directory.log)
        self._left: float | None = None
        self._between = checkpoint_seconds()
        self.phase = Phase.SEARCH
        self.seconds: dict[str, float] = {}
        self._signal: int | None = None
        self._saved = self._counted = time.monotonic()

    def begin(self, phase: Phase) -> None:
        """Count time as that of `phase` from now on."""
        self.phase, self._counted = phase, time.monotonic()

    def count(self) -> None:
        """Bring `seconds` up to now."""
        now = time.monotonic()
        phase = self.phase.value
        self.seconds[phase] = self.seconds.get(phase, 0.0) + max(now - self._counted, 0.0)
        self._counted = now

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM ask to stop at the next step, after a checkpoint; a second one is final.

        Raises Interrupted at its end for a signal that came when no step followed.
        """

        def ask(number: int) -> None:
            if self._signal is not None:
                raise KeyboardInterrupt
            self._signal = number

        with on_signals(ask):
            yield
        if self._signal is not None:
            raise Interrupted(self._signal)

    def step(self, phase: str, done: int, total: int, figures: Figures) -> None:
        """Progress to the display."""
        self._left = self.outlook.left(phase, done, total)
        self.display.step(phase, done, total, figures, self._left)

    def metrics(self, record: Mapping[str, Any]) -> None:
        """A line in metrics.jsonl, and its gist on the display."""
        for hook in self._hooks:
            record = {**record, **hook.on_record(record)}
        self.directory.append_metrics(record)
        self.logs.add(record)
        self.display.epoch(record, self._left)

    def checkpoint(self, state: Callable[[], dict[str, Any]], due: bool = False) -> None:
        """Save when due, when enough time has passed, or when told to stop."""
        late = time.monotonic() - self._saved >= self._between
        agreed = distributed.agreed(2 * (self._signal or 0) + late)  # several processes save and stop at one step
        stop = agreed // 2
        if due or agreed:
            made = state()
            for hook in self._hooks if due else ():
                hook.on_epoch_saved(made)
            self.count()
            save_phase(self.directory, self.phase, made, self.seconds)
            self._saved = time.monotonic()
        if stop:
            raise Interrupted(stop)

    def trained(self, network: Trained) -> None:
        """Keep the weights of a network, and what it predicts, in files of their own."""
        pair = network.number, network.seed
        self.directory.write_tensors(weights_name(*pair), network.weights)
        if self._test is not None:
            self.directory.write_text(predictions_name(*pair), predictions_csv(self._test, network))

    def loading(self) -> AbstractContextManager[None]:
        """Return the context of `fitting`."""
        return fitting(self.directory.newest)

    def say(self, text: str) -> None:
        """A line for the user and in log.txt."""
        self.display.say(text)


def checkpoint_seconds() -> float:
    """Seconds between checkpoints: TOPOCELL_CHECKPOINT_SECONDS, or `CHECKPOINT_SECONDS`. Raises RunError."""
    text = os.environ.get("TOPOCELL_CHECKPOINT_SECONDS", "")
    try:
        seconds = float(text) if text else CHECKPOINT_SECONDS
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise RunError(f"TOPOCELL_CHECKPOINT_SECONDS is a number of seconds, 0 or more, but is {text!r}; change it")
    return seconds


@contextmanager
def fitting(path: Path | None) -> Iterator[None]:
    """Turn what loading a state of something else provokes into a CheckpointError that names its file."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, SpaceError) as fault:
        if is_out_of_memory(fault):
            raise
        raise CheckpointError(
            f"checkpoint {path} must hold a state of this run, but does not fit "
            f"({type(fault).__name__}: {next(iter(str(fault).splitlines()), '')}); restore it from a copy or delete it"
        ) from fault
