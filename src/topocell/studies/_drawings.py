"""Figures of the studies of supernets, drawn from plain numbers. Each function writes one SVG or PNG file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from topocell.reporting.style import BLUE, CYCLE, MUTED, ORANGE, VERMILION, clipped, labels, save, short, styled, whole
from topocell.studies._plots import Curve, paneled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Twin:
    """One panel of `twins`: of each operation of an edge, its weight and its strength in percent."""

    title: str
    names: Sequence[str]
    weight: Sequence[float]
    strength: Sequence[float]


@dataclass(frozen=True)
class Path2D:
    """One line of `paths`: points in the order in which they were passed."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Ranked:
    """One recipe of `rankings`.

    Args:
        title: its name.
        supernet: accuracy in percent of each cell in the supernet of one search; None where it was not measured.
        weights: what the architecture of that search says of each cell; None where it learns nothing.
        truth: true accuracies in percent.
        derived: that of the cell which the search derives.
        taus: `weights`, `supernet` → Kendall's τ with the truth, of every search.
    """

    title: str
    supernet: Sequence[float] | None
    weights: Sequence[float] | None
    truth: Sequence[float]
    derived: float
    taus: Mapping[str, Sequence[float | None]]


def bands(panels: Mapping[str, Sequence[Curve]], x: str, y: str, path: Path) -> None:
    """Means as lines with a band of one standard deviation, over a whole-numbered axis, a panel for each title."""
    with styled():
        figure = paneled(1.5 * len(panels), 1.1)
        for place, (title, lines) in enumerate(panels.items(), start=1):
            ax = figure.add_subplot(1, len(panels), place)
            for number, line in enumerate(lines):
                colour = CYCLE[number % len(CYCLE)]
                ax.plot(line.x, line.mean, marker="o", markersize=3, color=colour, label=line.label)
                low, high = ([m + sign * (s or 0.0) for m, s in zip(line.mean, line.std)] for sign in (-1, 1))
                ax.fill_between(line.x, low, high, color=colour, alpha=0.15, linewidth=0)
            ax.xaxis.set_major_locator(whole())
            ax.set_title(title)
            ax.set_xlabel(x)
            ax.set_ylabel(y)
            ax.legend(loc="best")
        save(figure, path)


def twins(panels: Sequence[Twin], path: Path) -> None:
    """Weight (bars, from zero) and strength (points) of operations of an edge, on axes of their own, four in a row."""
    with styled():
        columns = min(len(panels), 4)
        rows = -(-len(panels) // columns)
        figure = paneled(columns, rows)
        for number, panel in enumerate(panels, start=1):
            left = figure.add_subplot(rows, columns, number)
            right = left.twinx()
            at = range(len(panel.names))
            left.bar([i - 0.2 for i in at], panel.weight, width=0.38, color=BLUE)
            right.plot([i + 0.2 for i in at], panel.strength, "D", color=ORANGE, markersize=5)
            low, high = min(panel.strength), max(panel.strength)
            room = max(high - low, 0.5)
            right.set_ylim(max(0.0, low - 0.3 * room), high + 0.3 * room)  # of points, which need no zero
            left.set_xticks(at, [short(name) for name in panel.names], rotation=45, ha="right", fontsize=7)
            left.set_title(clipped(panel.title, 36), fontsize=8)
            left.set_ylabel("weight", color=BLUE)
            right.set_ylabel("accuracy with it alone, %", color=ORANGE)
            right.spines["right"].set_visible(True)
            right.grid(False)
        save(figure, path)


def paths(lines: Sequence[Path2D], x: str, y: str, path: Path) -> None:
    """Points joined in their order, from a hollow one to a filled one."""
    with styled():
        figure = paneled(1.5, 1.1)
        ax = figure.add_subplot()
        for number, line in enumerate(lines):
            colour = CYCLE[number % len(CYCLE)]
            ax.plot(line.x, line.y, marker=".", linewidth=0.8, color=colour, label=line.label)
            ax.scatter(line.x[:1], line.y[:1], s=40, facecolors="white", edgecolors=colour, zorder=3)
            ax.scatter(line.x[-1:], line.y[-1:], s=40, color=colour, zorder=3)
        ax.set_xlabel(x)
        ax.set_ylabel(y)
        ax.legend(loc="best")
        save(figure, path)


def against_seconds(
    methods: Mapping[str, Sequence[tuple[float, float]]], lines: Mapping[int, float], x: str, y: str, path: Path
) -> None:
    """Searches as points over a logarithmic axis, the mean of each method larger, before bands of all cells.

    Args:
        methods: label → seconds and accuracy of each search.
        lines: five percentages, symmetric around 50 → the accuracy that so many of all cells stay below.
        x, y: labels of the axes.
        path: of the file.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    with styled():
        figure = paneled(1.9, 1.3)
        ax = figure.add_subplot()
        lowest, low, middle, high, highest = (lines[share] for share in sorted(lines))
        shares = sorted(lines)
        ax.axhspan(
            lowest, highest, color=MUTED, alpha=0.12, linewidth=0, label=f"{shares[4] - shares[0]} % of all cells"
        )
        ax.axhspan(low, high, color=MUTED, alpha=0.2, linewidth=0, label=f"{shares[3] - shares[1]} % of all cells")
        ax.axhline(middle, color=MUTED, linewidth=1.2, linestyle="--", label="median cell")
        for number, (label, points) in enumerate(zip(labels(methods), methods.values())):
            colour, marker = CYCLE[number % len(CYCLE)], "osD^v"[number // len(CYCLE) % 5]
            seconds, accuracy = zip(*((max(seconds, 0.01), value) for seconds, value in points))
            ax.scatter(seconds, accuracy, s=12, color=colour, alpha=0.45, marker=marker)
            mean = math.exp(sum(map(math.log, seconds)) / len(seconds)), sum(accuracy) / len(accuracy)
            ax.scatter(*mean, s=48, color=colour, marker=marker, zorder=3, label=label)
        ax.set_xscale("log")
        first, last = ax.get_xlim()
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0,) if last > 100 * first else (1.0, 2.0, 5.0)))
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.xaxis.set_minor_formatter(NullFormatter())  # ours would be formulas, which are not set here
        ax.set_xlabel(x)
        ax.set_ylabel(y)
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7)
        save(figure, path)


def rankings(panels: Sequence[Ranked], baseline: float | None, x: str, y: str, path: Path) -> None:
    """τ of every search by recipe, and below them true accuracy over that in the supernet for the first search of each.

    Args:
        panels: of the recipes.
        baseline: τ of the number of parameters, a line.
        x, y: labels of the axes of the lower panels; where a supernet was not measured, x is what the weights say.
        path: of the file.
    """
    columns = min(len(panels), 5)
    rows = -(-len(panels) // columns)
    with styled():
        figure = paneled(max(1.2, 0.78 * columns), 1.15 + 0.85 * rows)
        grid = figure.add_gridspec(1 + rows, columns, height_ratios=[1.35, *[1.0] * rows])
        _taus(figure.add_subplot(grid[0, :]), panels, baseline)
        # The worst cells would squeeze all others together.
        truth = sorted(value for panel in panels for value in panel.truth)
        low, high = truth[len(truth) // 20], max(truth[-1], *(panel.derived for panel in panels))
        low -= 0.08 * (high - low)
        for number, (panel, title) in enumerate(zip(panels, labels((panel.title for panel in panels), 30))):
            ax = figure.add_subplot(grid[1 + number // columns, number % columns])
            across = panel.supernet or panel.weights or [0.0] * len(panel.truth)
            colours = {"c": panel.weights, "cmap": "cividis"} if panel.weights else {"color": MUTED}
            inside = [max(value, low) for value in panel.truth]
            ax.scatter(across, inside, s=9, **colours)
            ax.axhline(max(panel.derived, low), color=VERMILION, linewidth=1.0, linestyle="--")
            ax.set_ylim(low - 0.04 * (high - low), high + 0.04 * (high - low))
            ax.set_title(title, fontsize=8)
            ax.set_xlabel(x if panel.supernet else "weights, log-probability", fontsize=7)
            if number % columns == 0:
                ax.set_ylabel(f"{y} (axis cut)" if truth[0] < low else y, fontsize=7)
            ax.tick_params(labelsize=7)
        save(figure, path)


def _taus(ax: "Axes", panels: Sequence[Ranked], baseline: float | None) -> None:
    for place, (name, colour, label) in enumerate((("weights", BLUE, "α and β"), ("supernet", VERMILION, "supernet"))):
        shown = False
        for at, panel in enumerate(panels):
            values = [tau for tau in panel.taus[name] if tau is not None]
            if values:
                x = at + 0.3 * (place - 0.5)
                ax.scatter([x] * len(values), values, s=12, color=colour, alpha=0.5, label=None if shown else label)
                ax.plot([x - 0.12, x + 0.12], [sum(values) / len(values)] * 2, color=colour, linewidth=2.2)
                shown = True
    ax.axhline(0.0, color=MUTED, linewidth=0.8)
    if baseline is not None:
        ax.axhline(baseline, color=MUTED, linestyle="--", linewidth=1.2, label="number of parameters")
    names = labels((panel.title.removeprefix("nb201-") for panel in panels), 26)
    ax.set_xticks(range(len(panels)), names, rotation=20, ha="right", fontsize=8)
    ax.set_ylabel("Kendall's τ with true accuracy")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
