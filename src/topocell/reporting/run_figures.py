"""The figures of a run as SVG files, for papers: the panels of `topocell.reporting.series` drawn by matplotlib."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topocell.io import files
from topocell.reporting import architecture_series, series
from topocell.reporting.architecture_series import Retained
from topocell.reporting.epochs import search_epochs
from topocell.reporting.series import Line, Panel
from topocell.reporting.style import (
    CYCLE,
    FAINT,
    FAMILIES,
    INK,
    MUTED,
    blank,
    clipped,
    family,
    save,
    short,
    styled,
    whole,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL = (4.3, 2.1)  # inches: width with its labels, height of the axes alone
#: Edges in a row of the table of retained operations.
_COLUMNS = 14
_CELL = (0.68, 0.34)  # inches: width and height of its cells
_COLOURS = {f"c{k}": colour for k, colour in enumerate(CYCLE)} | {key: row.colour for key, row in FAMILIES.items()}
_COLOURS["muted"] = MUTED


def write_figures(
    metrics: Sequence[Mapping[str, Any]],
    recipe: Mapping[str, Any],
    trajectory: Sequence[Mapping[str, Any]],
    folder: Path,
) -> list[Path]:
    """Draw what a run has to draw into a folder, which is made, and return the paths of the files.

    Args:
        metrics, recipe: of the run, as read from its files.
        trajectory: see `topocell.reporting.series.ground_truth_panels`.
        folder: of the figures.

    Raises RunError when a file cannot be written.
    """
    seen = architecture_series.seen_of(metrics, recipe)
    stages = series.stages_of(search_epochs(metrics))
    todo: dict[str, Callable[[], Figure]] = {
        name: lambda panels=panels: panels_figure(panels, stages)  # type: ignore[misc]
        for name, panels in architecture_series.run_panels(metrics, seen, trajectory).items()
    }
    kept = architecture_series.retained(metrics, recipe)
    if kept is not None:
        todo["retained"] = lambda: retained_figure(kept)
    return [_drawn(draw, folder / f"{name}.svg") for name, draw in todo.items()]


def _drawn(draw: "Callable[[], Figure]", path: Path) -> Path:
    with styled(), files.guarded(path, "--figures"):
        save(draw(), path)
    return path


def panels_figure(panels: Sequence[Panel], stages: Sequence[series.Stage]) -> "Figure":
    """The panels side by side, three in a row, with the names of the stages below where there are several.

    Call inside `styled()`.
    """
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    legend = max(-(-sum(bool(line.label) for line in panel.lines) // 2) for panel in panels)
    width, left, above, below = _PANEL[0], 0.58, 0.5, 0.5 + 0.19 * legend
    marked = any(panel.starts for panel in panels)
    foot = 0.3 if marked else 0.0
    tall = _PANEL[1] + above + below
    size = (width * columns, tall * rows + foot)
    figure = blank(*size)
    for k, panel in enumerate(panels):
        row, column = divmod(k, columns)
        corner = ((column * width + left) / size[0], (foot + (rows - 1 - row) * tall + below) / size[1])
        ax = figure.add_axes((*corner, (width - left - 0.15) / size[0], _PANEL[1] / size[1]))
        _draw_panel(ax, panel)
    if marked:
        words = " · ".join(f"{stage.number} {clipped(stage.name)}" for stage in stages)
        figure.text(left / size[0], 0.1 / size[1], f"Stages: {words}", color=MUTED, fontsize=8)
    return figure


def _draw_panel(ax: "Axes", panel: Panel) -> None:
    breaks = set(panel.starts)
    if panel.stacked:
        _stack(ax, panel)
    else:
        for line in panel.lines:
            _plot(ax, panel, line, breaks)
        _widen(ax, panel.least)
    if panel.rule is not None:
        ax.axhline(panel.rule, color=MUTED, linewidth=0.8)
    ax.set_title(f"{panel.title}, {panel.unit}" if panel.unit else panel.title)
    ax.set_xlabel(panel.x)
    ax.xaxis.set_major_locator(whole())
    ax.set_xlim(panel.epochs[0] - 0.6, panel.epochs[-1] + 0.6)
    if panel.whole:
        ax.yaxis.set_major_locator(whole())
    transform = ax.get_xaxis_transform()
    for number, first in enumerate(panel.starts, start=1):
        if number > 1:
            ax.axvline(first - 0.5, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
        ax.text(first - 0.4, 1.01, str(number), transform=transform, color=MUTED, fontsize=7.5, va="bottom")
    if panel.starts:
        ax.set_title(ax.get_title(loc="left"), pad=17)
    if any(line.label for line in panel.lines):
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.42 / _PANEL[1]), ncols=2)


def _stack(ax: "Axes", panel: Panel) -> None:
    edges = [number - 0.5 for number in panel.epochs] + [panel.epochs[-1] + 0.5]
    base = [0.0] * len(panel.epochs)
    for line in panel.lines:
        top = [b + v for b, v in zip(base, line.values)]
        colour, hatch = _COLOURS[line.colour], {"solid": "", "dashed": "///", "dotted": "...", "dashdot": "xx"}
        style: dict[str, Any] = {"facecolor": colour, "edgecolor": "white", "hatch": hatch[line.dashes], "linewidth": 0}
        ax.stairs(top, edges, baseline=base, fill=True, label=line.label, **style)
        base = top
    ax.set_ylim(0, max(base) * 1.02)


def _plot(ax: "Axes", panel: Panel, line: Line, breaks: set[int]) -> None:
    """One curve through the finite values, broken between stages; few points are marked, a lone one always."""
    pieces = list(_pieces(panel, line, breaks))
    few = sum(map(len, pieces)) <= 12 or min(map(len, pieces)) == 1
    colour = _COLOURS[line.colour]
    for k, piece in enumerate(pieces):
        style: dict[str, Any] = {"color": colour, "linestyle": line.dashes}
        style |= {"label": line.label if k == 0 else None} if line.label else {"linewidth": 0.9, "alpha": 0.8}
        at = [panel.epochs[i] for i in piece]
        ax.plot(at, [line.values[i] for i in piece], marker="o" if few else "", markersize=3.5, **style)
        if line.low:
            low, high = ([values[i] for i in piece] for values in (line.low, line.high))
            ax.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)


def _pieces(panel: Panel, line: Line, breaks: set[int]) -> Iterator[list[int]]:
    """Indices of the finite values, in pieces that no stage begins in."""
    finite = [i for i, value in enumerate(line.values) if math.isfinite(value)]
    piece = finite[:1]
    for before, i in pairwise(finite):
        if any(panel.epochs[before] < start <= panel.epochs[i] for start in breaks):
            yield piece
            piece = []
        piece.append(i)
    yield piece


def _widen(ax: "Axes", least: float = 0.0) -> None:
    """Give the y axis a span of at least `least` and a thousandth of its values, so that rounding noise looks flat."""
    low, high = ax.get_ylim()
    least = max(least, 1e-3 * abs(low), 1e-3 * abs(high))
    if high - low < least:
        middle = (low + high) / 2
        foot = -0.05 * least if ax.dataLim.y0 >= 0 else -math.inf  # what is never negative shows little below zero
        low = max(middle - least / 2, foot)
        ax.set_ylim(low, low + least)


def retained_figure(kept: Retained) -> "Figure":
    """A table for each cell type, in blocks of edges: a row per group, or per rank where there are no groups.

    Call inside `styled()`.
    """
    rows = max(len(kept.rows(kind)) for kind in kept.names)
    blocks = [
        (kind, first, min(first + _COLUMNS, len(of)))
        for kind, of in kept.names.items()
        for first in range(0, len(of), _COLUMNS)
    ]
    columns, (width, height) = max(end - first for _, first, end in blocks), _CELL
    left, tall = 0.95, (rows + 1) * height + 0.5
    figure = blank(left + columns * width + 0.1, tall * len(blocks))
    total = figure.get_figheight()
    for number, (kind, first, end) in enumerate(blocks):
        span = (end - first) * width
        corner = (0.05 / figure.get_figwidth(), 1 - ((number + 1) * tall - 0.1) / total)
        size = ((left - 0.05 + span) / figure.get_figwidth(), (rows + 1) * height / total)
        ax = figure.add_axes((*corner, *size))
        ax.set_xlim(-(left - 0.05) / width, end - first)
        ax.set_ylim(rows + 1, 0)
        ax.axis("off")
        ax.set_title(f"Operations that stay, {clipped(kind)}")
        _table(ax, kept, kind, first, end)
    return figure


def _table(ax: "Axes", kept: Retained, kind: str, first: int, end: int) -> None:
    from matplotlib.patches import FancyBboxPatch

    start = ax.get_xlim()[0]
    ax.text(start, 0.5, "edge", color=MUTED, va="center", fontsize=8)
    for column, arrow in enumerate(kept.arrows[kind][first:end]):
        ax.text(column + 0.5, 0.5, clipped(arrow, 9), color=MUTED, ha="center", va="center", fontsize=8)
    for row, operations in enumerate(kept.rows(kind)):
        ax.text(start, row + 1.5, f"{kept.heads} {row + 1}", va="center", fontsize=8)
        ax.axhline(row + 1, color=FAINT, linewidth=0.8)
        for column, op in enumerate(operations[first:end]):
            if not op:
                continue
            of = family(op)
            style = "round,pad=0,rounding_size=0.15"
            colours: dict[str, Any] = {"facecolor": of.tint, "edgecolor": of.colour}
            at = (column + 0.06, row + 1.16)
            ax.add_patch(FancyBboxPatch(at, 0.88, 0.68, boxstyle=style, linewidth=0.9, **colours))
            words = clipped(short(op), 9)
            ax.text(column + 0.5, row + 1.5, words, ha="center", va="center", fontsize=7.5, color=INK)
