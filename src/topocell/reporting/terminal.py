"""Output of long work: a live line on a terminal, plain lines elsewhere, nothing if so wished."""

import time
from collections.abc import Mapping
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from topocell.errors import one_line
from topocell.reporting.cells import draw_text
from topocell.reporting.ground_truth import ground_truth_lines, ground_truth_of
from topocell.reporting.scores import score_lines
from topocell.runtime.hooks import Figures

#: Seconds between two reads of figures that live on the device.
REFRESH_SECONDS = 0.5


class Display(Protocol):
    """Shows progress, epochs, cells, results and messages."""

    def step(self, phase: str, done: int, total: int, figures: Figures) -> None:
        """`done` of `total` steps."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """One line of metrics."""

    def cell(self, genotype: Mapping[str, Any]) -> None:
        """A derived cell."""

    def results(self, results: Mapping[str, Any]) -> None:
        """The results of retraining, or what a table of true accuracies says."""

    def say(self, text: str) -> None:
        """A message."""


class Quiet:
    """Shows nothing."""

    def step(self, phase: str, done: int, total: int, figures: Figures) -> None:
        """Show nothing."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Show nothing."""

    def cell(self, genotype: Mapping[str, Any]) -> None:
        """Show nothing."""

    def results(self, results: Mapping[str, Any]) -> None:
        """Show nothing."""

    def say(self, text: str) -> None:
        """Show nothing."""


def epoch_line(record: Mapping[str, Any]) -> str:
    """One epoch in one line."""
    where = f"{record.get('stage') or 'retrain'} epoch {record['epoch'] + 1}"
    if record.get("phase") == "retrain":
        where = f"retrain seed {record['seed']} epoch {record['epoch'] + 1}"
    parts = [f"loss {record['train_loss']:.3f}", f"accuracy {100 * record['train_accuracy']:.1f} %"]
    for key, name in (("val_accuracy", "validation"), ("test_accuracy", "test")):
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
    """Shows everything on a console: live on a terminal, line by line elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(soft_wrap=True, highlight=False)
        self._cell = Text()
        self._looked = 0.0
        self._live: Live | None = None
        self._phase = ""
        self._task: Any = None

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the live line."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def step(self, phase: str, done: int, total: int, figures: Figures) -> None:
        """Move the bar; read the figures twice a second at most."""
        if not self.console.is_terminal:
            return
        now = time.monotonic()
        if phase == self._phase and done < total and now - self._looked < REFRESH_SECONDS:
            return
        self._looked = now
        if phase != self._phase or self._live is None:
            self._start(phase)
        seen = figures()
        text = f"loss {seen['loss']:.3f}  accuracy {100 * seen['accuracy']:.1f} %"
        self._progress.update(self._task, completed=done, total=total, figures=text)
        if self._live is not None:
            self._live.update(Group(self._cell, self._progress))

    def _start(self, phase: str) -> None:
        self.close()
        self._phase = phase
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self._task = self._progress.add_task(phase, total=None, figures="")
        self._live = Live(Group(self._cell, self._progress), console=self.console, transient=True)
        self._live.start()

    def epoch(self, record: Mapping[str, Any]) -> None:
        """A line per epoch, and the cell of now above the bar; a decision comes with words of its own."""
        if record.get("phase") == "select":
            return
        self._print(epoch_line(record))
        for warning in record.get("warnings", ()):
            self._print(f"  {warning}", style="yellow")
        if cells := record.get("derived"):
            self._cell = Text("\n".join(_cell_lines({"cells": cells})))

    def cell(self, genotype: Mapping[str, Any]) -> None:
        """The derived cell, a line per node."""
        self.close()
        self._print("\n".join(["derived cell", *_cell_lines(genotype)]))

    def results(self, results: Mapping[str, Any]) -> None:
        """Accuracy and size."""
        self.close()
        self._print("\n".join(result_lines(results)))

    def say(self, text: str) -> None:
        """A line."""
        self._print(text)

    def _print(self, text: str, style: str = "") -> None:
        """Words as they are: brackets are no markup, words in colons no emoji, control characters no commands."""
        self.console.print(Text("\n".join(map(one_line, text.split("\n"))), style))


def _cell_lines(genotype: Mapping[str, Any]) -> list[str]:
    lines = []
    for cell_type in genotype["cells"]:
        lines += [f"  {cell_type}", *(f"    {line}" for line in draw_text(genotype, cell_type).splitlines())]
    return lines
