"""Curves of a run, drawn from the rows of metrics.jsonl.

Every function takes the rows of metrics.jsonl (dicts; those of other phases are passed over), writes one SVG file, and
returns False without writing anything when the rows hold nothing to draw. Missing, null and non-finite values
are passed over. Search epochs are counted from 1 through all stages; a row that repeats an epoch (a resumed run)
replaces the earlier one.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from topocell.reporting.epochs import Epoch, Row, number_at, retrain_epochs, search_epochs
from topocell.reporting.style import (
    CYCLE,
    FAMILIES,
    MUTED,
    blank,
    clipped,
    family,
    save,
    short,
    styled,
    text_width,
    whole,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL = (4.3, 2.1)  # inches: width with its labels, height of the axes alone
_LEGEND_COLUMNS = 8
_LEAST_SPANS = {"Entropy": 0.05, "Derived cell": 2.0}  # of the y axis, by the title of the panel
_SPLIT_DASHES: dict[str, Literal[":", "-"]] = {"train": ":", "test": "-"}


class Line(NamedTuple):
    """One curve: its label, its values, its colour and its dashes; without a label it is one of many, and thin."""

    label: str
    values: list[float]
    colour: str
    dashes: str = "-"


def search_curves(metrics: Iterable[Row], path: Path) -> bool:
    """Loss and accuracy on the training and validation splits over the search; the discretisation gap if measured.

    The gap panel compares the supernet with soft weights and the same supernet masked to the derived cell.
    """
    epochs = search_epochs(metrics)

    def pair(what: str, scale: float) -> list[Line]:
        return [
            Line("training", _series(epochs, f"train_{what}", scale=scale), CYCLE[0]),
            Line("validation", _series(epochs, f"val_{what}", scale=scale), CYCLE[1]),
        ]

    gap = [
        Line("soft weights", _series(epochs, "gap", "soft", scale=100), CYCLE[0]),
        Line("derived cell only", _series(epochs, "gap", "derived", scale=100), CYCLE[1]),
    ]
    panels = [("Loss", "", pair("loss", 1)), ("Accuracy", "%", pair("accuracy", 100)), ("Discretisation gap", "%", gap)]
    return search_figure(epochs, panels, path)


def architecture_curves(metrics: Iterable[Row], path: Path) -> bool:
    """Entropies of α and β, temperatures, and depth and width of the derived cell over the search."""
    epochs = search_epochs(metrics)
    kinds = _kinds(epochs, "alpha_entropy", "beta_entropy", "depth", "width")

    def pair(first: str, second: str, names: tuple[str, str]) -> list[Line]:
        return [
            Line(f"{name}, {kind}", _series(epochs, key, kind), CYCLE[k % len(CYCLE)], dashes)
            for key, name, dashes in ((first, names[0], "-"), (second, names[1], "--"))
            for k, kind in enumerate(kinds)
        ]

    temperatures = [
        Line("operations", _series(epochs, "op_temperature"), CYCLE[0]),
        Line("edges", _series(epochs, "edge_temperature"), CYCLE[1], "--"),
    ]
    panels = [
        ("Entropy", "nats", pair("alpha_entropy", "beta_entropy", ("α", "β"))),
        ("Temperature", "", temperatures),
        ("Derived cell", "", pair("depth", "width", ("depth", "width"))),
    ]
    return search_figure(epochs, panels, path)


def operation_curves(metrics: Iterable[Row], path: Path) -> bool:
    """Operations of the cell that would be derived after each search epoch, stacked, one panel per cell type.

    Skip connections are at the bottom in a full colour, so that a collapse is a rising block.
    """
    epochs = search_epochs(metrics)
    kinds = [k for k in _kinds(epochs, "operations") if any(_counts(e.row, k) for e in epochs)]
    if not kinds:
        return False
    with styled():
        figure, axes = _grid(len(kinds), right=1.6)
        names = sorted({op for e in epochs for k in kinds for op in _counts(e.row, k)}, key=_stacking)
        colours = _shades(names)
        edges = [e.number - 0.5 for e in epochs] + [epochs[-1].number + 0.5]
        for ax, kind in zip(axes, kinds):
            base = [0.0] * len(epochs)
            for op in names:
                top = [b + _counts(e.row, kind).get(op, 0.0) for b, e in zip(base, epochs)]
                ax.stairs(top, edges, baseline=base, fill=True, color=colours[op], label=short(op))
                base = top
            ax.set_title(f"Operations, {clipped(kind)}")
            ax.yaxis.set_major_locator(whole())
            ax.set_ylim(0, max(base) * 1.02)
            _finish_search_axes(ax, epochs)
        handles, labels = axes[-1].get_legend_handles_labels()
        axes[-1].legend(
            handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.02, 0.5), handlelength=1, handleheight=1
        )
        save(figure, path)
    return True


def retrain_curves(metrics: Iterable[Row], path: Path) -> bool:
    """Loss and accuracy on the training and test splits over the epochs of retraining, one colour per seed.

    From ten epochs on, a third panel shows the test accuracy of the last half alone, where seeds differ visibly.
    """
    from matplotlib.lines import Line2D

    seeds = retrain_epochs(metrics)
    last = max((row["epoch"] for rows in seeds.values() for row in rows), default=0)
    panels: list[tuple[str, str, float, tuple[str, ...], int]] = [
        ("Loss", "loss", 1.0, ("train", "test"), 0),
        ("Accuracy, %", "accuracy", 100.0, ("train", "test"), 0),
    ]
    if last >= 9:
        panels.append(("Test accuracy, last half, %", "accuracy", 100.0, ("test",), (last + 1) // 2))
    drawn = False
    with styled():
        figure, axes = _grid(len(panels), legend_rows=math.ceil((len(seeds) + 2) / _LEGEND_COLUMNS))
        for ax, (title, what, scale, splits, first) in zip(axes, panels):
            for k, rows in enumerate(seeds.values()):
                shown = [row for row in rows if row["epoch"] >= first]
                for split in splits:
                    y = [number_at(row, f"{split}_{what}", scale=scale) for row in shown]
                    line = Line(f"seed {rows[0]['seed']}", y, CYCLE[k % len(CYCLE)], _SPLIT_DASHES[split])
                    if _has_values(line):
                        _plot(ax, [row["epoch"] + 1 for row in shown], line)
                        drawn = True
            ax.set_title(title)
            ax.set_xlabel("epoch of retraining")
            ax.xaxis.set_major_locator(whole())
            ax.set_xlim(first + 0.4, last + 1.6)
            _widen(ax)
        if not drawn:
            return False
        keys = [Line2D([], [], color=CYCLE[k % len(CYCLE)], label=f"seed {s}") for k, s in enumerate(seeds)]
        keys += [
            Line2D([], [], color=MUTED, linestyle=dashes, label="training" if split == "train" else split)
            for split, dashes in _SPLIT_DASHES.items()
        ]
        figure.legend(handles=keys, loc="lower center", ncols=min(len(keys), _LEGEND_COLUMNS))
        save(figure, path)
    return True


def ground_truth_curve(trajectory: Iterable[Row], path: Path) -> bool:
    """True accuracy in percent of the cell that would be derived after each search epoch, and of the best cell.

    Takes the rows of `trajectory` in results.json, each with the `optimum`, in place of those of metrics.jsonl.
    """
    rows = [row for row in trajectory if math.isfinite(number_at(row, "accuracy"))]
    if not rows:
        return False
    stages = list(dict.fromkeys(str(row.get("stage")) for row in rows))
    epochs = [
        Epoch(number, str(row.get("stage")), {"stage_index": stages.index(str(row.get("stage")))})
        for number, row in enumerate(rows, start=1)
    ]
    with styled():
        figure, axes = _grid(1, legend_rows=1)
        numbers = [epoch.number for epoch in epochs]
        found = Line("derived cell", [number_at(row, "accuracy") for row in rows], CYCLE[0])
        best = Line("best cell of the table", [number_at(row, "optimum") for row in rows], MUTED, ":")
        for line in (found, best):
            if _has_values(line):
                _plot(axes[0], numbers, line)
        axes[0].set_title("True accuracy, %")
        _widen(axes[0])
        _finish_search_axes(axes[0], epochs)
        axes[0].legend(loc="upper center", bbox_to_anchor=(0.5, -0.42 / _PANEL[1]), ncols=2)
        save(figure, path)
    return True


def search_figure(epochs: list[Epoch], panels: Sequence[tuple[str, str, list[Line]]], path: Path) -> bool:
    """Draw the panels that have a finite value, side by side, over the search epochs."""
    panels = [(title, unit, [line for line in lines if _has_values(line)]) for title, unit, lines in panels]
    panels = [panel for panel in panels if panel[2]]
    if not panels:
        return False
    with styled():
        figure, axes = _grid(len(panels), legend_rows=(1 + max(_labelled(lines) for _, _, lines in panels)) // 2)
        for ax, (title, unit, lines) in zip(axes, panels):
            for line in lines:
                _plot(ax, [e.number for e in epochs], line, [e.row["stage_index"] for e in epochs])
            ax.set_title(f"{title}, {unit}" if unit else title)
            if title == "Derived cell":
                ax.yaxis.set_major_locator(whole())
            _widen(ax, _LEAST_SPANS.get(title, 0.0))
            _finish_search_axes(ax, epochs)
            if any(line.label for line in lines):
                ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.42 / _PANEL[1]), ncols=2)
        save(figure, path)
    return True


def _finish_search_axes(ax: "Axes", epochs: list[Epoch]) -> None:
    """Epoch ticks, a dashed rule between stages, and the stage names when there is more than one stage."""
    ax.set_xlabel("search epoch")
    ax.xaxis.set_major_locator(whole())
    ax.set_xlim(epochs[0].number - 0.6, epochs[-1].number + 0.6)
    firsts = [epochs[0]] + [b for a, b in pairwise(epochs) if a.row["stage_index"] != b.row["stage_index"]]
    if len(firsts) == 1:
        return
    transform = ax.get_xaxis_transform()
    ends = [first.number for first in firsts[1:]] + [epochs[-1].number + 1]
    inches = 2.7 / (ends[-1] - firsts[0].number)  # per epoch, in the narrowest panel
    for k, (first, end) in enumerate(zip(firsts, ends)):
        if k:
            ax.axvline(first.number - 0.5, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
        # Names stand between title and axes, at the start of their stage, where they fit before the next one.
        name = clipped(first.stage)
        if text_width(name, 7.5) < (end - first.number) * inches:
            ax.text(first.number - 0.5, 1.02, name, transform=transform, color=MUTED, fontsize=7.5)
    ax.set_title(ax.get_title(loc="left"), pad=17)


def _grid(n: int, legend_rows: int = 0, right: float = 0.0) -> "tuple[Figure, list[Axes]]":
    """A row of n panels with room for a legend below (rows) or at the right (inches)."""
    panel = min(_PANEL[0], 10.2 / n)
    left, above, below = 0.58, 0.5, 0.5 + 0.19 * legend_rows
    size = (panel * n + right, _PANEL[1] + above + below)
    figure = blank(*size)
    axes = []
    for k in range(n):
        corner = ((k * panel + left) / size[0], below / size[1])
        axes.append(figure.add_axes((*corner, (panel - left - 0.15) / size[0], _PANEL[1] / size[1])))
    return figure, axes


def _plot(ax: "Axes", x: Sequence[int], line: Line, stages: Sequence[int] | None = None) -> None:
    """One curve through the finite values, broken between stages; few points are marked, a lone one always."""
    points = [(a, y, s) for a, y, s in zip(x, line.values, stages or [0] * len(x)) if math.isfinite(y)]
    pieces = [[(a, y) for a, y, _ in piece] for _, piece in groupby(points, key=lambda point: point[2])]
    marker = "o" if len(points) <= 12 or min(map(len, pieces)) == 1 else ""
    for k, piece in enumerate(pieces):
        label = clipped(line.label) if k == 0 and line.label else None
        style: dict[str, Any] = {"color": line.colour, "linestyle": line.dashes, "label": label}
        if not line.label:
            style |= {"linewidth": 0.9, "alpha": 0.8}
        ax.plot(*zip(*piece), marker=marker, markersize=3.5, **style)


def _widen(ax: "Axes", least: float = 0.0) -> None:
    """Give the y axis a span of at least `least` and a thousandth of its values, so that rounding noise looks flat."""
    low, high = ax.get_ylim()
    least = max(least, 1e-3 * abs(low), 1e-3 * abs(high))
    if high - low < least:
        middle = (low + high) / 2
        foot = -0.05 * least if ax.dataLim.y0 >= 0 else -math.inf  # what is never negative shows little below zero
        low = max(middle - least / 2, foot)
        ax.set_ylim(low, low + least)


def _labelled(lines: Sequence[Line]) -> int:
    return sum(bool(line.label) for line in lines)


def _has_values(line: Line) -> bool:
    return any(map(math.isfinite, line.values))


def _series(epochs: list[Epoch], *keys: str, scale: float = 1.0) -> list[float]:
    return [number_at(e.row, *keys, scale=scale) for e in epochs]


def _kinds(epochs: list[Epoch], *keys: str) -> list[str]:
    """Cell types named under any of the keys, in order of appearance."""
    rows = [e.row.get(key) for e in epochs for key in keys]
    return list(dict.fromkeys(str(kind) for row in rows if isinstance(row, Mapping) for kind in row))


def _counts(row: Row, kind: str) -> dict[str, float]:
    """Operation counts of one cell type; empty if the row has none."""
    operations = row.get("operations")
    counts = operations.get(kind) if isinstance(operations, Mapping) else None
    found = {str(op): number_at(counts, op) for op in counts} if isinstance(counts, Mapping) else {}
    return {op: count for op, count in found.items() if count > 0}


def _stacking(operation: str) -> tuple[int, str]:
    """Sort key: skip connections at the bottom, then the families in legend order."""
    order = ["skip", *(name for name in FAMILIES if name != "skip")]
    return order.index(next(name for name, f in FAMILIES.items() if f == family(operation))), operation


def _shades(names: Sequence[str]) -> dict[str, tuple[float, float, float]]:
    """One colour per operation: its family's colour, lighter for each further member; skip stays full."""
    seen: dict[str, int] = {}
    shades = {}
    for op in names:
        colour = family(op).colour
        step = seen.get(colour, 0)
        seen[colour] = step + 1
        strength = 1.0 if op.startswith("skip") else 0.72 * 0.6**step
        red, green, blue = (1 - (1 - int(colour[k : k + 2], 16) / 255) * strength for k in (1, 3, 5))
        shades[op] = (red, green, blue)
    return shades
