"""Figures of studies, drawn from plain numbers. Each function writes one SVG or PNG file."""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from topocell.reporting.style import BLUE, CYCLE, MUTED, VERMILION, blank, labels, save, styled, whole
from topocell.studies._statistics import summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL = (3.6, 2.9)  # inches


@dataclass(frozen=True)
class Cloud:
    """One panel of `clouds`: points, of which the one of index `marked` is ringed."""

    title: str
    x: Sequence[float]
    y: Sequence[float]
    marked: int | None = None


@dataclass(frozen=True)
class Curve:
    """One curve of `curves`: mean and, where there are several values, their sample standard deviation.

    The marker at the values `open` of x is an open one.
    """

    label: str
    x: Sequence[float]
    mean: Sequence[float]
    std: Sequence[float | None]
    open: Collection[float] = ()


@dataclass(frozen=True)
class Front:
    """One setting of `front`: cost and accuracy of each of its searches, and what its mean is called."""

    line: str
    label: str
    cost: Sequence[float]
    value: Sequence[float]


def clouds(panels: Sequence[Cloud], x: str, y: str, path: Path) -> None:
    """Points against points, a panel per entry, four in a row."""
    from matplotlib.ticker import MaxNLocator

    with styled():
        columns = min(len(panels), 4)
        rows = -(-len(panels) // columns)
        figure = paneled(columns, rows)
        for number, panel in enumerate(panels, start=1):
            ax = figure.add_subplot(rows, columns, number)
            ax.scatter(panel.x, panel.y, s=26, color=BLUE)
            if panel.marked is not None:
                x_of, y_of = panel.x[panel.marked], panel.y[panel.marked]
                ax.scatter(x_of, y_of, s=110, facecolors="none", edgecolors=VERMILION, linewidths=1.6, label="derived")
                ax.legend(loc="best")
            ax.xaxis.set_major_locator(MaxNLocator(4))
            ax.set_title(panel.title)
            ax.set_xlabel(x)
            ax.set_ylabel(y)
        save(figure, path)


@dataclass(frozen=True)
class Named:
    """One point of `scatter`, with its standard deviations where there are several values behind it."""

    label: str
    x: float
    y: float
    x_std: float | None = None
    y_std: float | None = None


def scatter(panels: Mapping[str, Sequence[Named]], x: str, y: str, path: Path) -> None:
    """Named points with error bars, a panel for each title; a name has one colour in all of them."""
    from matplotlib.ticker import MaxNLocator

    names = list(dict.fromkeys(point.label for points in panels.values() for point in points))
    colours = {name: CYCLE[at % len(CYCLE)] for at, name in enumerate(names)}
    label_of = dict(zip(names, labels(names)))
    with styled():
        figure = paneled(1.2 * len(panels), 1.1)
        for number, (title, points) in enumerate(panels.items(), start=1):
            ax = figure.add_subplot(1, len(panels), number)
            for point in points:
                colour, errors = colours[point.label], (point.y_std or 0.0, point.x_std or 0.0)
                ax.errorbar(point.x, point.y, *errors, marker="o", markersize=5, capsize=3, color=colour)
                ax.annotate(label_of[point.label], (point.x, point.y), (6, 6), textcoords="offset points", color=colour)
            ax.margins(0.2)
            ax.xaxis.set_major_locator(MaxNLocator(5))
            ax.set_title(title)
            _finish(ax, x, y, legend=False)
        save(figure, path)


def curves(lines: Sequence[Curve], x: str, y: str, path: Path) -> None:
    """Means with error bars over a whole-numbered axis."""
    with styled():
        figure = paneled(1.4, 1)
        ax = figure.add_subplot()
        for number, line in enumerate(lines):
            colour = CYCLE[number % len(CYCLE)]
            errors = [s or 0.0 for s in line.std]
            ax.errorbar(line.x, line.mean, errors, marker="o", markersize=4, capsize=3, color=colour, label=line.label)
            for x_of, y_of in ((x_of, y_of) for x_of, y_of in zip(line.x, line.mean) if x_of in line.open):
                ax.plot(x_of, y_of, "o", markersize=7, markerfacecolor="white", color=colour, zorder=4)
        ax.xaxis.set_major_locator(whole())
        _finish(ax, x, y, legend=len(lines) > 1)
        save(figure, path)


def bars(groups: Mapping[str, Sequence[float]], y: str, path: Path) -> None:
    """A bar per group at the mean of its values, with the values as points and their standard deviation."""
    with styled():
        figure = paneled(max(1.0, 0.28 * len(groups)), 1)
        ax = figure.add_subplot()
        lowest, highest = min(map(min, groups.values())), max(map(max, groups.values()))
        for number, values in enumerate(groups.values()):
            std = statistics.stdev(values) if len(values) > 1 else None
            colour = CYCLE[number % len(CYCLE)]
            mean = statistics.fmean(values)
            ax.bar(number, mean, width=0.6, color=colour, alpha=0.35, yerr=std, capsize=3, ecolor=colour)
            ax.scatter([number] * len(values), values, s=18, color=colour, zorder=3)
        room = max(highest - lowest, 0.5)
        floor = max(0.0, lowest - room)  # differences are small, so the axis is cut, and says so
        ax.set_ylim(floor, highest + 0.6 * room)
        ax.set_xticks(range(len(groups)), labels(groups), rotation=20, ha="right")
        _finish(ax, "", f"{y} (axis cut)" if floor else y, legend=False)
        save(figure, path)


def dots(groups: Mapping[str, Sequence[float]], y: str, path: Path) -> None:
    """A dot per value of a group, in percent, and beside them their mean with its 95 % interval.

    Intervals are cut, which the label of the axis says, where they reach further beyond the dots than three times what
    these take, as those of two values do.
    """
    with styled():
        figure = paneled(max(1.2, 0.3 * len(groups)), 1)
        ax = figure.add_subplot()
        lowest, highest = min(map(min, groups.values())), max(map(max, groups.values()))
        span, found = max(highest - lowest, 0.5), [summary(values) for values in groups.values()]
        for number, values in enumerate(groups.values()):
            colour, mean, low = CYCLE[number % len(CYCLE)], found[number].mean, found[number].low
            steps = [0.07 * (place % 3 - 1) for place in range(len(values))]  # equal ones lie side by side
            ax.scatter([number - 0.12 + step for step in steps], sorted(values), s=18, color=colour, alpha=0.6)
            half = 0.0 if low is None else mean - low
            ax.errorbar([number + 0.2], [mean], [half], marker="D", markersize=6, capsize=4, color=colour)
        low = min([lowest, *(each.low for each in found if each.low is not None)])
        high = max([highest, *(each.high for each in found if each.high is not None)])
        cut = low < lowest - 3 * span or high > highest + 3 * span
        bottom, top = max(low, lowest - 3 * span), min(high, highest + 3 * span)
        ax.set_ylim(bottom - 0.2 * span, min(top + 0.2 * span, 101.0))  # they are percentages
        ax.set_xlim(-0.6, len(groups) - 0.4)
        ax.set_xticks(range(len(groups)), labels(groups), rotation=20, ha="right")
        _finish(ax, "", f"{y} (intervals cut)" if cut else y, legend=False)
        save(figure, path)


def grouped_bars(groups: Mapping[str, Mapping[str, Sequence[float]]], y: str, path: Path) -> None:
    """Group → bar → values: bars of the same name share a colour; their height is the mean, with standard deviation."""
    with styled():
        figure = paneled(max(1.2, 0.3 * len(groups)), 1)
        ax = figure.add_subplot()
        names = list(dict.fromkeys(name for bars_of in groups.values() for name in bars_of))
        width, lowest, highest = 0.8 / len(names), math.inf, -math.inf
        for number, name in enumerate(names):
            colour, places = CYCLE[number % len(CYCLE)], [x for x, of in enumerate(groups.values()) if name in of]
            values = [of[name] for of in groups.values() if name in of]
            spreads = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in values]
            means = list(map(statistics.fmean, values))
            at = [x + (number - (len(names) - 1) / 2) * width for x in places]
            ax.bar(at, means, width=0.9 * width, color=colour, alpha=0.6, yerr=spreads, capsize=2, label=name)
            lowest = min(lowest, *(m - s for m, s in zip(means, spreads)))
            highest = max(highest, *(m + s for m, s in zip(means, spreads)))
        room = max(highest - lowest, 0.5)
        floor = max(0.0, lowest - 0.5 * room)
        ax.set_ylim(floor, highest + 0.6 * room)
        ax.set_xticks(range(len(groups)), labels(groups))
        _finish(ax, "", f"{y} (axis cut)" if floor else y, legend=len(names) > 1)
        save(figure, path)


def non_dominated(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (cost, value) for which no other has a larger value at no more cost, or the same for less."""

    def beaten(cost: float, value: float) -> bool:
        return any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in points)

    found = [i for i, point in enumerate(points) if not beaten(*point)]
    return sorted(found, key=lambda i: points[i])


def front(settings: Sequence[Front], x: str, y: str, path: Path) -> None:
    """Searches as small points, the mean of each setting with its label, a step line through non-dominated means."""
    from matplotlib.ticker import EngFormatter

    with styled():
        figure = paneled(1.5, 1.1)
        ax = figure.add_subplot()
        lines = list(dict.fromkeys(setting.line for setting in settings))
        means = [(statistics.fmean(s.cost), statistics.fmean(s.value)) for s in settings]
        best = [means[i] for i in non_dominated(means)]
        ax.step(
            *zip(*best), where="post", color=MUTED, linewidth=1.2, linestyle="--", zorder=1, label="front of the means"
        )
        for number, (line, label) in enumerate(zip(lines, labels(lines))):
            colour = CYCLE[number % len(CYCLE)]
            own = [(setting, mean) for setting, mean in zip(settings, means) if setting.line == line]
            for setting, mean in own:
                ax.scatter(setting.cost, setting.value, s=14, color=colour, alpha=0.45)
                plain = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
                ax.annotate(setting.label, mean, (6, 6), textcoords="offset points", color=colour, bbox=plain)
            costs, values = zip(*(mean for _, mean in own))
            ax.scatter(costs, values, s=42, color=colour, zorder=3, label=f"{label}, by weight")
        ax.xaxis.set_major_formatter(EngFormatter(sep="\N{NO-BREAK SPACE}"))
        ax.margins(0.12)
        _finish(ax, x, y, legend=True)
        save(figure, path)


def steps(panels: Mapping[str, Sequence[tuple[int, float]]], x: str, path: Path) -> None:
    """Label of the y axis → every (count, value) as a point, the best and the mean of each count as lines."""
    with styled():
        figure = paneled(1.4 * len(panels), 1)
        for number, (y, points) in enumerate(panels.items(), start=1):
            ax = figure.add_subplot(1, len(panels), number)
            ordered = sorted(points)
            counts, values = zip(*ordered)
            ax.scatter(counts, values, s=16, color=MUTED, alpha=0.7, label="one wiring")
            by_count = {
                count: [value for _, value in group] for count, group in groupby(ordered, key=lambda point: point[0])
            }
            lines = {"best": [max(v) for v in by_count.values()], "mean": [sum(v) / len(v) for v in by_count.values()]}
            for (label, line), colour in zip(lines.items(), (VERMILION, BLUE)):
                ax.plot(list(by_count), line, color=colour, marker="o", markersize=4, label=label)
            ax.xaxis.set_major_locator(whole())
            _finish(ax, x, y, legend=True)
        save(figure, path)


def accuracy_map(
    values: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
    axes: tuple[str, str],
    path: Path,
) -> None:
    """A table of values (rows × columns) as colours, the largest ringed; `axes` name what goes down and across."""
    with styled():
        figure = paneled(max(1.2, 0.13 * len(columns) + 0.5), max(0.9, 0.075 * len(rows) + 0.35))
        ax = figure.add_subplot()
        image = ax.imshow(values, cmap="cividis", aspect="auto")
        best = max((value, -r, -c) for r, row in enumerate(values) for c, value in enumerate(row))
        ax.plot(-best[2], -best[1], "o", markersize=11, fillstyle="none", color=VERMILION, markeredgewidth=1.6)
        ax.set_xticks(range(len(columns)), columns)
        ax.set_yticks(range(len(rows)), rows, fontsize=7)
        ax.grid(False)
        ax.set_ylabel(axes[0])
        ax.set_xlabel(axes[1])
        figure.colorbar(image, label=label)
        save(figure, path)


def paneled(columns: float, rows: float) -> "Figure":
    """A figure with room for so many panels."""
    return blank(_PANEL[0] * columns, _PANEL[1] * rows, layout="constrained")


def _finish(ax: "Axes", x: str, y: str, legend: bool) -> None:
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    if legend:
        ax.legend(loc="best")
