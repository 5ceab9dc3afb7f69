"""Output of long work: a live view on a terminal, plain lines elsewhere, nothing if so wished."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.status import Status
from rich.text import Text

from topocell.errors import one_line
from topocell.reporting.ground_truth import ground_truth_lines, ground_truth_of
from topocell.reporting.live import LiveView, Throughput, cell_lines, figure_words
from topocell.reporting.scores import score_lines
from topocell.reporting.tables import format_seconds
from topocell.runtime.hooks import Figures

#: Seconds between two reads of the figures of a step, and times a second that the live view is drawn.
REFRESH_SECONDS, DRAWN = 0.5, 2
#: Seconds between two lines that say the time left, where there is no live line.
LEFT_SECONDS = 60.0


class Display(Protocol):
    """Shows progress, epochs, cells, results and messages."""

    def status(self, text: str) -> None:
        """What is being done now, where no steps are reported."""

    def step(self, phase: str, done: int, total: int, figures: Figures, left: float | None = None) -> None:
        """`done` of `total` steps; `left` are the seconds that all of it will still take, if they are known."""

    def epoch(self, record: Mapping[str, Any], left: float | None = None) -> None:
        """One line of metrics; `left` as for `step`."""

    def cell(self, genotype: Mapping[str, Any]) -> None:
        """A derived cell."""

    def results(self, results: Mapping[str, Any]) -> None:
        """The results of retraining, or what a table of true accuracies says."""

    def say(self, text: str) -> None:
        """A message."""


class Quiet:
    """Shows nothing."""

    def status(self, text: str) -> None:
        """Show nothing."""

    def step(self, phase: str, done: int, total: int, figures: Figures, left: float | None = None) -> None:
        """Show nothing."""

    def epoch(self, record: Mapping[str, Any], left: float | None = None) -> None:
        """Show nothing."""

    def cell(self, genotype: Mapping[str, Any]) -> None:
        """Show nothing."""

    def results(self, results: Mapping[str, Any]) -> None:
        """Show nothing."""

    def say(self, text: str) -> None:
        """Show nothing."""


#: Characters of a message that are shown at most.
SHOWN = 1000


class Logged:
    """Shows what another display shows, and writes its lines to a log."""

    def __init__(self, display: Display, log: Callable[[str], None]) -> None:
        self._display, self._log = display, log

    def status(self, text: str) -> None:
        """Show it."""
        self._display.status(text)

    def step(self, phase: str, done: int, total: int, figures: Figures, left: float | None = None) -> None:
        """Show it."""
        self._display.step(phase, done, total, figures, left)

    def epoch(self, record: Mapping[str, Any], left: float | None = None) -> None:
        """Show and log the line of an epoch, and its warnings."""
        self._add(_epoch_lines(record))
        self._display.epoch(record, left)

    def cell(self, genotype: Mapping[str, Any]) -> None:
        """Show and log a derived cell."""
        self._add(["derived cell", *cell_lines(genotype)])
        self._display.cell(genotype)

    def results(self, results: Mapping[str, Any]) -> None:
        """Show and log results."""
        self._add(result_lines(results))
        self._display.results(results)

    def say(self, text: str) -> None:
        """Log a message, and show it, or the first `SHOWN` characters of it."""
        self._log(text)
        self._display.say(text if len(text) <= SHOWN else f"{text[:SHOWN]} ... (all of it in log.txt)")

    def _add(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._log(line)


#: Accuracies in the record of an epoch, with their names in its line.
_MEASURED = (("val_accuracy", "validation"), ("test_accuracy", "test"), ("test_top_k_accuracy", "test, top k"))


def _epoch_lines(record: Mapping[str, Any]) -> list[str]:
    """An epoch and its warnings; decisions and trials come with words of their own."""
    if record.get("phase") in ("select", "trial"):
        return []
    return [epoch_line(record), *(f"  {warning}" for warning in record.get("warnings", ()))]


def epoch_line(record: Mapping[str, Any]) -> str:
    """One epoch in one line."""
    where = f"{record.get('stage') or 'retrain'} epoch {record['epoch'] + 1}"
    if record.get("phase") == "retrain":
        where = f"retrain seed {record['seed']} epoch {record['epoch'] + 1}"
    parts = [f"loss {record['train_loss']:.3f}", f"accuracy {100 * record['train_accuracy']:.1f} %"]
    for key, name in _MEASURED:
        if record.get(key) is not None:
            parts.append(f"{name} {100 * record[key]:.1f} %")
    if gap := record.get("gap"):
        parts.append(f"derived {100 * gap['derived']:.1f} %")
    if operations := record.get("operations"):
        skips = {t: f"{c.get('skip_connect', 0)}/{sum(c.values())}" for t, c in operations.items()}
        parts.append("skips " + " ".join(f"{t} {n}" for t, n in skips.items()))
    if record.get("updates_architecture") is False:
        parts.append("warm-up: weights only")
    return f"{where}: " + ", ".join(parts)


def result_lines(results: Mapping[str, Any]) -> list[str]:
    """A results.json in words: of retraining, or of a look-up."""
    if ground_truth := ground_truth_of(results):
        return ground_truth_lines(ground_truth)
    return score_lines(results)


class Terminal(Quiet):
    """Shows everything on a console: live on a terminal, line by line elsewhere.

    The live view is drawn by a thread of its own, `DRAWN` times a second; a step that is not shown costs it a look at
    the clock. What it shows does not stay: the lines of epochs, cells and results do.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(soft_wrap=True, highlight=False)
        self._view = LiveView(self.console)
        self._throughput = Throughput()
        self._looked = self._told = -math.inf
        self._live: Live | None = None
        self._status: Status | None = None
        self._phase = ""
        self._warned: list[str] = []

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the live view."""
        for shown in (self._live, self._status):
            if shown is not None:
                shown.stop()
        self._live = self._status = None

    def status(self, text: str) -> None:
        """A line that moves on a terminal, until something else is shown; an ordinary one elsewhere."""
        self.close()
        if not self.console.is_terminal:
            self._print(text)
            return
        self._status = self.console.status(Text(one_line(text)))
        self._status.start()

    def step(self, phase: str, done: int, total: int, figures: Figures, left: float | None = None) -> None:
        """Move the bar; read the figures twice a second at most."""
        if not self.console.is_terminal:
            return
        now = time.monotonic()
        if phase == self._phase and done < total and now - self._looked < REFRESH_SECONDS:
            return
        self._looked = now
        seen = figures()
        if phase != self._phase or self._live is None:
            self._start(phase)
        pace = self._throughput.add(now, seen.get("trained_images"))
        self._view.step(phase, done, total, figure_words(seen, pace), left)

    def _start(self, phase: str) -> None:
        self.close()
        if phase != self._phase:
            self._view.begin()
            self._phase, self._throughput = phase, Throughput()
        self._live = Live(self._view, console=self.console, transient=True, refresh_per_second=DRAWN)
        self._live.start()

    def epoch(self, record: Mapping[str, Any], left: float | None = None) -> None:
        """A line per epoch, and the cell of now in the live view; elsewhere the time left, every now and then.

        The live view has the warnings, so that on a terminal only new ones become lines.
        """
        lines = _epoch_lines(record)
        now = time.monotonic()
        if lines and left is not None and not self.console.is_terminal and now - self._told >= LEFT_SECONDS:
            self._told = now
            lines[0] += f", left {format_seconds(left)}"
        known, self._warned = self._warned if self.console.is_terminal else [], lines[1:]
        for number, line in enumerate(lines):
            if not number or line not in known:
                self._print(line, style="yellow" if number else "")
        self._view.epoch(record)

    def cell(self, genotype: Mapping[str, Any]) -> None:
        """The derived cell, a line per node."""
        self.close()
        self._print("\n".join(["derived cell", *cell_lines(genotype)]))

    def results(self, results: Mapping[str, Any]) -> None:
        """Accuracy and size."""
        self.close()
        self._print("\n".join(result_lines(results)))

    def say(self, text: str) -> None:
        """A line."""
        self._print(text)

    def _print(self, text: str, style: str = "") -> None:
        """Words as they are: brackets are no markup, words in colons no emoji, control characters no commands."""
        if self._status is not None:
            self.close()
        self.console.print(Text("\n".join(map(one_line, text.split("\n"))), style))
