"""The curves of runs as data: what the page draws in the browser, and `topocell report --figures` on paper.

Every function takes the rows of metrics.jsonl (dicts; those of other phases are passed over) and returns the panels
that have a finite value. Search epochs are counted from 1 through all stages.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from topocell.reporting.epochs import Epoch, Row, number_at, retrain_epochs, search_epochs
from topocell.reporting.style import FAMILIES, Family, clipped, family, short

#: Colours of lines that stand for no operation, as roles: `c0` and so on. Nothing has more without repeating one.
CYCLE_SIZE = 8
DASHES = ("solid", "dashed", "dotted", "dashdot")
#: Least span of an axis by the title of its panel, so that rounding noise looks flat.
_LEAST_SPANS = {"Entropy": 0.05, "Temperature": 1.0, "Derived cell": 2.0}


class Line(NamedTuple):
    """One curve: its label, a value for each epoch of its panel (NaN where there is none), and how it is drawn.

    Attributes:
        label: in the legend; a curve without one is one of many, and thin.
        values: of its panel's epochs.
        colour: a role: `c0` .. `c7`, `muted`, or the key of a family of operations.
        dashes: one of `DASHES`.
        low, high: the ends of a band around it; none where they are empty.
    """

    label: str
    values: list[float]
    colour: str
    dashes: str = "solid"
    low: Sequence[float] = ()
    high: Sequence[float] = ()

    @property
    def drawn(self) -> bool:
        """Whether any value is finite."""
        return any(map(math.isfinite, self.values))


class Panel(NamedTuple):
    """Curves over the same epochs.

    Attributes:
        title, unit: of the y axis.
        epochs: numbers from 1, the x axis.
        lines: the curves; those of a stack from the bottom, values being heights.
        x: what the epochs are of.
        starts: the first epoch of each stage; none where there is a single one.
        stacked: whether the values are counts, stacked.
        whole: whether only whole numbers are meant.
        least: least span of the y axis.
        rule: a value that a line is drawn at, such as zero.
    """

    title: str
    unit: str
    epochs: list[int]
    lines: list[Line]
    x: str = "search epoch"
    starts: Sequence[int] = ()
    stacked: bool = False
    whole: bool = False
    least: float = 0.0
    rule: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON: five digits, null for NaN."""
        lines = [
            line._asdict() | {key: [shortened(v) for v in getattr(line, key)] for key in ("values", "low", "high")}
            for line in self.lines
        ]
        return self._asdict() | {"lines": lines, "starts": list(self.starts)}


def shortened(value: float) -> float | None:
    """Return a number of five digits; None for NaN and infinities."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


class Stage(NamedTuple):
    """A stage of a search: its number from 1, its name, its first and its last epoch."""

    number: int
    name: str
    first: int
    last: int


def stages_of(epochs: Sequence[Epoch]) -> list[Stage]:
    """Return the stages of a search, as far as it came."""
    firsts = [*epochs[:1]] + [b for a, b in pairwise(epochs) if a.row["stage_index"] != b.row["stage_index"]]
    ends = [first.number - 1 for first in firsts[1:]] + [epoch.number for epoch in epochs[-1:]]
    return [Stage(n, first.stage, first.number, end) for n, (first, end) in enumerate(zip(firsts, ends), start=1)]


def search_panel(epochs: Sequence[Epoch], title: str, unit: str, lines: Iterable[Line], **options: Any) -> list[Panel]:
    """A panel over search epochs with the lines that have values; none where none has."""
    stages = stages_of(epochs)
    found = [line for line in lines if line.drawn]
    starts = [stage.first for stage in stages] if len(stages) > 1 else []
    least = _LEAST_SPANS.get(title, 0.0)
    numbers = [epoch.number for epoch in epochs]
    return [Panel(title, unit, numbers, found, starts=starts, least=least, **options)] if found else []


def search_panels(metrics: Iterable[Row]) -> list[Panel]:
    """Loss and accuracy on the training and validation splits over the search; the discretisation gap if measured.

    The gap is the accuracy of the supernet under its soft weights minus that of the same supernet masked to the derived
    cell, in percentage points.
    """
    epochs = search_epochs(metrics)

    def pair(what: str, scale: float) -> list[Line]:
        return [
            Line("training", _series(epochs, f"train_{what}", scale=scale), "c0"),
            Line("validation", _series(epochs, f"val_{what}", scale=scale), "c1", "dashed"),
        ]

    soft, derived = (_series(epochs, "gap", key, scale=100) for key in ("soft", "derived"))
    gap = [Line("soft weights − derived cell", [a - b for a, b in zip(soft, derived)], "c2")]
    return [
        *search_panel(epochs, "Loss", "", pair("loss", 1)),
        *search_panel(epochs, "Accuracy", "%", pair("accuracy", 100)),
        *search_panel(epochs, "Discretisation gap", "points", gap, rule=0.0),
    ]


def architecture_panels(metrics: Iterable[Row]) -> list[Panel]:
    """Entropies of α and β, temperatures, and depth and width of the derived cell over the search."""
    epochs = search_epochs(metrics)
    types = kinds(epochs, "alpha_entropy", "beta_entropy", "depth", "width")

    def pair(first: str, second: str, names: tuple[str, str]) -> list[Line]:
        return [
            Line(f"{name}, {clipped(kind)}", _series(epochs, key, kind), cycle(2 * k + second_one), dashes)
            for second_one, (key, name) in enumerate(((first, names[0]), (second, names[1])))
            for k, (kind, dashes) in enumerate(zip(types, DASHES * len(types)))
        ]

    temperatures = [
        Line("operations", _series(epochs, "op_temperature"), "c0"),
        Line("edges", _series(epochs, "edge_temperature"), "c1", "dashed"),
    ]
    cell = pair("depth", "width", ("depth", "width"))
    return [
        *search_panel(epochs, "Entropy", "nats", pair("alpha_entropy", "beta_entropy", ("α", "β"))),
        *search_panel(epochs, "Temperature", "", temperatures),
        *search_panel(epochs, "Derived cell", "nodes", cell, whole=True),
    ]


def operation_panels(metrics: Iterable[Row]) -> list[Panel]:
    """Operations of the cell that would be derived after each search epoch, stacked, one panel per cell type.

    Skip connections are at the bottom, so that a collapse is a rising block.
    """
    epochs = search_epochs(metrics)
    types = [k for k in kinds(epochs, "operations") if any(counts(e.row, k) for e in epochs)]
    names = sorted({op for e in epochs for k in types for op in counts(e.row, k)}, key=_stacking)
    dashes = dashes_of(names)
    panels = []
    for kind in types:
        lines = [
            Line(short(op), [counts(e.row, kind).get(op, 0.0) for e in epochs], family(op).key, style)
            for op, style in zip(names, dashes)
        ]
        panels += search_panel(epochs, f"Operations, {clipped(kind)}", "", lines, stacked=True, whole=True)
    return panels


def retrain_panels(metrics: Iterable[Row]) -> list[Panel]:
    """Loss and accuracy on the training and test splits over the epochs of retraining: mean of the seeds, and ±.

    The band is one sample standard deviation to both sides. From ten epochs on, a third panel shows the test accuracy
    of the last half alone, where seeds differ visibly.
    """
    seeds = list(retrain_epochs(metrics).values())
    both = [("training", "train", "c0", "dotted"), ("test", "test", "c1", "solid")]
    last = max((row["epoch"] + 1 for rows in seeds for row in rows), default=0)
    found = [
        *_retrain_panel("Loss", "", seeds, "loss", 1, both, 1, last),
        *_retrain_panel("Accuracy", "%", seeds, "accuracy", 100, both, 1, last),
    ]
    if last >= 10:
        title = "Test accuracy, last half"
        found += _retrain_panel(title, "%", seeds, "accuracy", 100, both[1:], last // 2 + 1, last)
    return found


def _retrain_panel(
    title: str,
    unit: str,
    seeds: Sequence[Sequence[Row]],
    what: str,
    scale: float,
    lines: Iterable[tuple[str, str, str, str]],
    first: int,
    last: int,
) -> list[Panel]:
    epochs = list(range(first, last + 1))
    drawn = [
        spread_line(label, seeds, lambda row, k=f"{split}_{what}": number_at(row, k, scale=scale), epochs, colour, dash)
        for label, split, colour, dash in lines
    ]
    found = [line for line in drawn if line.drawn]
    return [Panel(title, unit, epochs, found, x="epoch of retraining")] if found else []


def spread_line(
    label: str, runs: Sequence[Iterable[Row]], value: Any, epochs: Sequence[int], colour: str, dashes: str
) -> Line:
    """The mean of several courses, and a band of one sample standard deviation where an epoch has two or more.

    Args:
        label: of the line.
        runs: the rows of each course; `epoch` of a row counts from 0.
        value: row → its value, NaN for none.
        epochs: numbers from 1.
        colour, dashes: of the line.
    """
    by_epoch: dict[int, list[float]] = {}
    for rows in runs:
        for row in rows:
            if math.isfinite(found := value(row)):
                by_epoch.setdefault(row["epoch"] + 1, []).append(found)
    values = [by_epoch.get(epoch, []) for epoch in epochs]
    mean = [statistics.fmean(of) if of else math.nan for of in values]
    spread = [statistics.stdev(of) if len(of) > 1 else math.nan for of in values]
    if not any(map(math.isfinite, spread)):
        return Line(label, mean, colour, dashes)
    low, high = ([m + sign * s for m, s in zip(mean, spread)] for sign in (-1, 1))
    return Line(label, mean, colour, dashes, low, high)


def ground_truth_panels(trajectory: Iterable[Row]) -> list[Panel]:
    """True accuracy in percent of the cell that would be derived after each search epoch, and of the best cell.

    Takes the rows of `trajectory` in results.json, each with the `optimum`, in place of those of metrics.jsonl.
    """
    rows = [row for row in trajectory if math.isfinite(number_at(row, "accuracy"))]
    names = list(dict.fromkeys(str(row.get("stage")) for row in rows))
    epochs = [
        Epoch(number, str(row.get("stage")), {"stage_index": names.index(str(row.get("stage")))})
        for number, row in enumerate(rows, start=1)
    ]
    lines = [
        Line("derived cell", [number_at(row, "accuracy") for row in rows], "c0"),
        Line("best cell of the table", [number_at(row, "optimum") for row in rows], "muted", "dotted"),
    ]
    return search_panel(epochs, "True accuracy", "%", lines)


def dashes_of(names: Sequence[str]) -> list[str]:
    """Dashes that tell operations of one family apart."""
    seen = dict[str, int]()
    found = []
    for name in names:
        key = family(name).key
        seen[key] = seen.get(key, -1) + 1
        found.append(DASHES[seen[key] % len(DASHES)])
    return found


def cycle(number: int) -> str:
    """Return the colour of a line by its number, which comes round after `CYCLE_SIZE`."""
    return f"c{number % CYCLE_SIZE}"


def _series(epochs: Sequence[Epoch], *keys: str, scale: float = 1.0) -> list[float]:
    return [number_at(e.row, *keys, scale=scale) for e in epochs]


def kinds(epochs: Sequence[Epoch], *keys: str) -> list[str]:
    """Cell types named under any of the keys, in order of appearance."""
    rows = [e.row.get(key) for e in epochs for key in keys]
    return list(dict.fromkeys(str(kind) for row in rows if isinstance(row, Mapping) for kind in row))


def counts(row: Row, kind: str) -> dict[str, float]:
    """Operation counts of one cell type; empty if the row has none."""
    operations = row.get("operations")
    own = operations.get(kind) if isinstance(operations, Mapping) else None
    found = {str(op): number_at(own, op) for op in own} if isinstance(own, Mapping) else {}
    return {op: count for op, count in found.items() if count > 0}


def _stacking(operation: str) -> tuple[int, str]:
    """Sort key: skip connections at the bottom, then the families in legend order."""
    order = ["skip", *(name for name in FAMILIES if name != "skip")]
    return order.index(family(operation).key), operation


def labelled(operations: Iterable[str]) -> list[tuple[str, Family]]:
    """Return the label and the family of each operation; an empty label for none."""
    return [(short(op) if op else "", family(op)) for op in operations]
