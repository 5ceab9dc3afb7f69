"""Figures of the architecture of a search, from the logits in metrics.jsonl: weights over epochs, what is retained.

As in `topocell.reporting.run_figures` each function writes one SVG file, and returns False without writing anything
when the rows hold nothing to draw. Rows and recipes that are damaged, or need pieces that are not imported, are passed
over.
"""

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from topocell.reporting.epochs import Epoch, Row, search_epochs
from topocell.reporting.run_figures import Line, search_figure
from topocell.reporting.style import CYCLE, FAINT, INK, MUTED, blank, clipped, family, save, short, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Edges in a row of the table of retained operations.
_COLUMNS = 14
_CELL = (0.68, 0.34)  # inches: width and height of its cells


class Weights(NamedTuple):
    """The weights of one cell type at an epoch, as the supernet has them without sampling.

    `operations` has for each edge the weights of its live candidates by name, `edges` the weight of each edge that has
    any; None where the topology has nothing to learn.
    """

    operations: list[dict[str, float]]
    edges: list[float] | None


def operation_weights(metrics: Iterable[Row], recipe: Mapping[str, Any], path: Path) -> bool:
    """Weight of each operation over the search, on average over the edges that offer it; a panel per cell type."""
    epochs, found = _weights(metrics, recipe)
    panels = []
    for kind in _kinds(found):
        names = list(dict.fromkeys(op for of in found if kind in of for edge in of[kind].operations for op in edge))
        lines = []
        for op, dashes in zip(names, _dashes(names)):
            values = [_mean(edge[op] for edge in _edges(of, kind) if op in edge) for of in found]
            lines.append(Line(short(op), values, family(op).colour, dashes))
        panels.append((f"Mean weight of operations, {clipped(kind)}", "", lines))
    return search_figure(epochs, panels, path)


def annealing(metrics: Iterable[Row], recipe: Mapping[str, Any], path: Path) -> bool:
    """The largest operation weight of every edge, and the weight of every edge, over the search (DOTS, Figure 3).

    Only of a search in which edges have weights, or a temperature changes.
    """
    epochs, found = _weights(metrics, recipe)
    weighted = any(of[kind].edges is not None for of in found for kind in of)
    if not weighted and len({epoch.row.get("op_temperature") for epoch in epochs}) < 2:
        return False
    panels = []
    for k, kind in enumerate(_kinds(found)):
        size = max(len(of[kind].operations) for of in found if kind in of)
        largest = [
            [
                max(edges[e].values(), default=math.nan) if edges else math.nan
                for edges in (_edges(of, kind) for of in found)
            ]
            for e in range(size)
        ]
        weight = [
            [(of[kind].edges or [math.nan] * size)[e] if kind in of else math.nan for of in found] for e in range(size)
        ]
        for what, values in (("Operation weight", largest), ("Edge weight", weight)):
            lines = [Line("", of_edge, CYCLE[k % len(CYCLE)]) for of_edge in values]
            panels.append((f"{what}, {clipped(kind)}", "", lines))
    return search_figure(epochs, panels, path)


def retained_operations(metrics: Iterable[Row], recipe: Mapping[str, Any], path: Path) -> bool:
    """The operations that each edge retains in the last stage that dropped some, by group (DOTS, Figure 5a)."""
    stages = [list(of) for _, of in groupby(search_epochs(metrics), key=lambda e: e.row["stage_index"])]
    for before, after in reversed(list(pairwise(stages))):
        old, new = _names(before[-1].row), _names(after[0].row)
        if new and old.keys() == new.keys() and any(_dropped(old[kind], new[kind]) for kind in new):
            _draw_retained(new, _groups(recipe, before[-1].stage), _arrows(recipe, new), path)
            return True
    return False


def _weights(metrics: Iterable[Row], recipe: Mapping[str, Any]) -> tuple[list[Epoch], list[dict[str, Weights]]]:
    """The epochs of a search, and for each the weights by cell type; none where they cannot be had."""
    epochs, found = search_epochs(metrics), []
    for epoch in epochs:
        try:
            found.append(dict(_weights_at(epoch, recipe)))
        except Exception:  # whatever damaged files, or pieces of a user's own, raise
            found.append({})
    return epochs, found


def _weights_at(epoch: Epoch, recipe: Mapping[str, Any]) -> Iterator[tuple[str, Weights]]:
    from topocell import relaxation, topology
    from topocell.runtime.logits import from_record

    stage, row = recipe["search"]["stages"][epoch.stage], epoch.row
    for kind, whole in _space(recipe).cells.items():
        cell, alpha, beta, live = from_record(row["architecture"][kind], whole)
        relaxed = relaxation.build(cell=cell, **stage["relaxation"]).expected(alpha, live, row["op_temperature"])
        of_edges = topology.build(cell=cell, **stage["topology"])
        operations = [
            {op: weight for op, weight, on in zip(names, weights, alive) if on}
            for names, weights, alive in zip(cell.candidates, relaxed.tolist(), live.tolist())
        ]
        edges = of_edges.weights(beta, row["edge_temperature"]).tolist() if of_edges.learned else None
        yield kind, Weights(operations, edges)


def _space(recipe: Mapping[str, Any]) -> Any:
    from topocell import spaces

    options = dict(recipe["space"])
    return spaces.get(options.pop("name"), **options)


def _kinds(found: Sequence[Mapping[str, Weights]]) -> list[str]:
    return list(dict.fromkeys(kind for of in found for kind in of))


def _edges(found: Mapping[str, Weights], kind: str) -> list[dict[str, float]]:
    return found[kind].operations if kind in found else []


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return statistics.fmean(known) if known else math.nan


def _dashes(names: Sequence[str]) -> list[str]:
    """Dashes that tell operations of one family apart."""
    styles, seen = ("-", "--", ":", "-."), dict[str, int]()
    found = []
    for name in names:
        colour = family(name).colour
        seen[colour] = seen.get(colour, -1) + 1
        found.append(styles[seen[colour] % len(styles)])
    return found


def _names(row: Row) -> dict[str, list[list[str]]]:
    """For each cell type and edge the names of the live candidates of a row; empty where it has none."""
    found = {}
    records = row.get("architecture")
    for kind, record in records.items() if isinstance(records, Mapping) else ():
        try:
            names, size = record["candidates"], len(record["alpha"])
            each = [names] * size if isinstance(names[0], str) else names
            live = record.get("live") or ["1" * len(of) for of in each]
            found[str(kind)] = [[str(op) for op, on in zip(of, text) if on == "1"] for of, text in zip(each, live)]
        except (LookupError, TypeError, AttributeError):
            return {}
    return found


def _dropped(old: Sequence[Sequence[str]], new: Sequence[Sequence[str]]) -> bool:
    return len(old) == len(new) and any(len(b) < len(a) for a, b in zip(old, new))


def _groups(recipe: Mapping[str, Any], stage: str) -> list[list[str]]:
    """The groups of operations of a stage; none where its relaxation has none."""
    try:
        return [list(map(str, group)) for group in recipe["search"]["stages"][stage]["relaxation"].get("groups", [])]
    except (LookupError, TypeError, AttributeError):
        return []


def _arrows(recipe: Mapping[str, Any], names: Mapping[str, Sequence[object]]) -> dict[str, list[str]]:
    """What the edges of each cell type are called: source→node, or their numbers where the space is not known."""
    found = {kind: [str(e + 1) for e in range(len(of))] for kind, of in names.items()}
    try:
        cells = _space(recipe).cells
        own = {kind: [f"{source}→{node}" for source, node in cells[kind].edges] for kind in names}
    except Exception:  # whatever a damaged recipe, or a space of a user's own, raises
        return found
    return {kind: own[kind] if len(own[kind]) == len(found[kind]) else found[kind] for kind in found}


def _draw_retained(
    names: Mapping[str, Sequence[Sequence[str]]],
    groups: Sequence[Sequence[str]],
    arrows: Mapping[str, Sequence[str]],
    path: Path,
) -> None:
    """A table for each cell type, in blocks of edges: a row per group, or per rank where there are no groups."""
    rows = len(groups) or max(len(edge) for of in names.values() for edge in of)
    blocks = [
        (kind, first, min(first + _COLUMNS, len(of)))
        for kind, of in names.items()
        for first in range(0, len(of), _COLUMNS)
    ]
    columns, (width, height) = max(end - first for _, first, end in blocks), _CELL
    left, tall = 0.95, (rows + 1) * height + 0.5
    with styled():
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
            _table(ax, list(names[kind][first:end]), groups, list(arrows[kind][first:end]), rows)
        save(figure, path)


def _table(
    ax: "Axes", edges: Sequence[Sequence[str]], groups: Sequence[Sequence[str]], arrows: Sequence[str], rows: int
) -> None:
    from matplotlib.patches import FancyBboxPatch

    start = ax.get_xlim()[0]
    ax.text(start, 0.5, "edge", color=MUTED, va="center", fontsize=8)
    for row in range(rows):
        ax.text(start, row + 1.5, f"group {row + 1}" if groups else f"operation {row + 1}", va="center", fontsize=8)
        ax.axhline(row + 1, color=FAINT, linewidth=0.8)
    for column, (edge, arrow) in enumerate(zip(edges, arrows)):
        ax.text(column + 0.5, 0.5, clipped(arrow, 9), color=MUTED, ha="center", va="center", fontsize=8)
        for place, op in enumerate(edge):
            row = next((g for g, members in enumerate(groups) if op in members), rows) if groups else place
            if row >= rows:
                continue
            of = family(op)
            box = FancyBboxPatch(
                (column + 0.06, row + 1.16),
                0.88,
                0.68,
                boxstyle="round,pad=0,rounding_size=0.15",
                facecolor=of.tint,
                edgecolor=of.colour,
                linewidth=0.9,
            )
            ax.add_patch(box)
            ax.text(column + 0.5, row + 1.5, clipped(short(op), 9), ha="center", va="center", fontsize=7.5, color=INK)
