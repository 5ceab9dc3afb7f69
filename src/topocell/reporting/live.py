"""The live view of a run on a terminal: progress, figures, warnings, and the cell that would be derived now."""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from topocell.errors import one_line
from topocell.reporting.cells import draw_text
from topocell.reporting.style import short
from topocell.reporting.tables import format_seconds, is_number

#: Seconds over which throughput is measured.
WINDOW_SECONDS = 10.0
#: Columns between two cells that stand side by side.
_GAP = 4


class Throughput:
    """Images per second over the last `WINDOW_SECONDS`, evaluations in between included."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque()

    def add(self, now: float, images: object) -> float | None:
        """Return the pace, once it is known.

        Args:
            now: in seconds.
            images: trained on since some beginning, as `Figures` have them; None where they are not counted.
        """
        if not is_number(images):
            return None
        if self._seen and images < self._seen[-1][1]:  # another training has begun
            self._seen.clear()
        self._seen.append((now, float(images)))
        while len(self._seen) > 2 and now - self._seen[1][0] >= WINDOW_SECONDS:
            self._seen.popleft()
        (began, first), (_, last) = self._seen[0], self._seen[-1]
        return (last - first) / (now - began) if now > began else None


def figure_words(seen: Mapping[str, Any], pace: float | None = None) -> list[str]:
    """The figures of a step in words: `loss 0.988`, `accuracy 45.7 %`, `1,234 images/s`."""
    words = [f"loss {seen['loss']:.3f}"] if is_number(seen.get("loss")) else []
    words += [f"accuracy {100 * seen['accuracy']:.1f} %"] if is_number(seen.get("accuracy")) else []
    words += [f"score {seen['score']:.4g}"] if is_number(seen.get("score")) else []
    return [*words, *([f"{pace:,.0f} images/s"] if pace is not None else [])]


def cell_lines(genotype: Mapping[str, Any]) -> list[str]:
    """The cells of a genotype, a line per node."""
    lines = []
    for cell_type in genotype["cells"]:
        lines += [f"  {cell_type}", *(f"    {line}" for line in draw_text(genotype, cell_type).splitlines())]
    return lines


class LiveView:
    """What is shown of a run at the moment; Rich draws it as wide as the terminal is.

    Args:
        console: on which it is shown, for its clock.
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[whole]}"),
            console=console,
        )
        self._task = self._progress.add_task("", total=None, whole="")
        self._record: Mapping[str, Any] = {}
        self._line = Text()

    def begin(self) -> None:
        """Start the bar and its clock anew, for another phase."""
        self._progress.reset(self._task, total=None, whole="")

    def step(self, phase: str, done: int, total: int, words: list[str], left: float | None) -> None:
        """Show `done` of `total` steps, what they have come to, and the seconds that all of the run will take."""
        whole = "" if left is None else f" in all {format_seconds(left)}"
        self._progress.update(self._task, completed=done, total=total, whole=whole)
        self._line = Text.assemble((one_line(phase), "bold"), f"  {done}/{total}", *(f"  {word}" for word in words))

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Show the cell and the warnings of a record from now on, where it has a cell."""
        if record.get("derived"):
            self._record = record

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield self._line
        yield self._progress
        for warning in self._record.get("warnings", ()):
            yield Text(f"! {one_line(warning)}", "yellow")
        if cells := self._record.get("derived"):
            yield from _side_by_side([self._cell(kind, cells) for kind in cells], options.max_width)

    def _cell(self, kind: str, cells: Mapping[str, Any]) -> Text:
        """A cell: what its operations are, and a line per node."""
        counts = self._record.get("operations", {}).get(kind, {})
        named = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        depth = self._record.get("depth", {}).get(kind)
        facts = [f"{number} {one_line(short(op))}" for op, number in named]
        facts += [f"depth {depth}"] if depth is not None else []
        lines = map(one_line, draw_text({"cells": cells}, kind).splitlines())
        return Text.assemble(
            (one_line(kind), "bold"), "  " * bool(facts), (", ".join(facts), "dim"), *(f"\n  {line}" for line in lines)
        )


def _side_by_side(cells: list[Text], width: int) -> Iterator[RenderableType]:
    """Cells in columns where there is room, below each other where there is none."""
    widths = [max(line.cell_len for line in cell.split("\n")) for cell in cells]
    if len(cells) > 1 and sum(widths) + _GAP * (len(cells) - 1) <= width:
        table = Table.grid(padding=(0, _GAP, 0, 0))
        table.add_row(*cells)
        yield table
        return
    yield from cells
