"""The architecture of a search as data: weights over epochs, what is retained, and what the replay of a page shows.

Rows and recipes that are damaged, or need pieces that are not imported, are passed over.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any, NamedTuple

from topocell.reporting import series
from topocell.reporting.epochs import Epoch, Row, search_epochs
from topocell.reporting.history import Relaxations, Relaxed
from topocell.reporting.series import Line, Panel, cycle, dashes_of, search_panel
from topocell.reporting.style import clipped, family, short


class Seen(NamedTuple):
    """The epochs of a search, and what the supernet saw in each by cell type; nothing where that cannot be had."""

    epochs: list[Epoch]
    relaxed: list[dict[str, Relaxed]]

    @property
    def kinds(self) -> list[str]:
        """The cell types."""
        return list(dict.fromkeys(kind for of in self.relaxed for kind in of))


def seen_of(metrics: Iterable[Row], recipe: Mapping[str, Any]) -> Seen:
    """Return what the supernet saw in each search epoch."""
    epochs, found = search_epochs(metrics), list[dict[str, Relaxed]]()
    try:
        relaxations = Relaxations(recipe)
    except Exception:  # whatever a damaged recipe, or pieces of a user's own, raise
        return Seen(epochs, [{} for _ in epochs])
    for epoch in epochs:
        try:
            found.append(relaxations.at(epoch))
        except Exception:  # whatever damaged rows raise
            found.append({})
    return Seen(epochs, found)


def run_panels(metrics: Sequence[Row], seen: Seen, trajectory: Iterable[Row]) -> dict[str, list[Panel]]:
    """Return the panels of a run by the names of their figures; of those that have something to draw.

    Args:
        metrics: rows of the run.
        seen: see `seen_of`.
        trajectory: see `topocell.reporting.series.ground_truth_panels`.
    """
    panels = {
        "search": series.search_panels(metrics),
        "architecture": series.architecture_panels(metrics),
        "weights": weight_panels(seen),
        "annealing": annealing_panels(seen),
        "operations": series.operation_panels(metrics),
        "retrain": series.retrain_panels(metrics),
        "ground_truth": series.ground_truth_panels(trajectory),
    }
    return {name: of for name, of in panels.items() if of}


def operations_at(relaxed: Relaxed) -> list[dict[str, float]]:
    """Return for each edge the weights of its live candidates by name."""
    return [
        {op: float(weight) for op, weight, on in zip(names, weights, live) if on}
        for names, weights, live in zip(relaxed.names, relaxed.weights, relaxed.live)
    ]


def weight_panels(seen: Seen) -> list[Panel]:
    """Weight of each operation over the search, on average over the edges that offer it; a panel per cell type."""
    panels = []
    for kind in seen.kinds:
        edges = [operations_at(of[kind]) if kind in of else [] for of in seen.relaxed]
        names = list(dict.fromkeys(op for at in edges for edge in at for op in edge))
        lines = [
            Line(short(op), [_mean(edge[op] for edge in at if op in edge) for at in edges], family(op).key, dashes)
            for op, dashes in zip(names, dashes_of(names))
        ]
        panels += search_panel(seen.epochs, f"Mean weight of operations, {clipped(kind)}", "", lines)
    return panels


def annealing_panels(seen: Seen) -> list[Panel]:
    """The largest operation weight of every edge, and the weight of every edge, over the search (DOTS, Figure 3).

    Only of a search in which edges have weights, or a temperature changes.
    """
    weighted = any(of[kind].topology.learned for of in seen.relaxed for kind in of)
    if not weighted and len({epoch.row.get("op_temperature") for epoch in seen.epochs}) < 2:
        return []
    panels = []
    for k, kind in enumerate(seen.kinds):
        at = [of.get(kind) for of in seen.relaxed]
        size = max(len(found.edges) for found in at if found is not None)
        largest = [[_largest(found, e) for found in at] for e in range(size)]
        gates = [[_gate(found, e) for found in at] for e in range(size)]
        for what, values in (("Largest operation weight", largest), ("Edge weight", gates)):
            lines = [Line("", of_edge, cycle(k)) for of_edge in values]
            panels += search_panel(seen.epochs, f"{what}, {clipped(kind)}", "", lines)
    return panels


def _largest(found: Relaxed | None, edge: int) -> float:
    live = found is not None and found.live[edge].any()
    return float(found.weights[edge][found.live[edge]].max()) if live and found is not None else math.nan


def _gate(found: Relaxed | None, edge: int) -> float:
    return float(found.gates[edge]) if found is not None and found.topology.learned else math.nan


class Retained(NamedTuple):
    """What each edge of each cell type retains, by name.

    Attributes:
        names: cell type → for each edge the operations that stay.
        arrows: cell type → what its edges are called: source→node, or numbers where the space is not known.
        groups: of the relaxation; none where it has none.
    """

    names: dict[str, list[list[str]]]
    arrows: dict[str, list[str]]
    groups: list[list[str]]

    def rows(self, kind: str) -> list[list[str]]:
        """Table of operations: a row for each group, or rank where there are no groups; a column for each edge."""
        edges = self.names[kind]
        if self.groups:
            return [[next((op for op in edge if op in group), "") for edge in edges] for group in self.groups]
        ranks = range(max(map(len, edges), default=0))
        return [[edge[rank] if rank < len(edge) else "" for edge in edges] for rank in ranks]

    @property
    def heads(self) -> str:
        """What a row is."""
        return "group" if self.groups else "operation"


def retained(metrics: Iterable[Row], recipe: Mapping[str, Any]) -> Retained | None:
    """The operations that each edge retains in the last stage that dropped some, by group (DOTS, Figure 5a)."""
    stages = [list(of) for _, of in groupby(search_epochs(metrics), key=lambda e: e.row["stage_index"])]
    for before, after in reversed(list(pairwise(stages))):
        old, new = _names(before[-1].row), _names(after[0].row)
        if new and old.keys() == new.keys() and any(_dropped(old[kind], new[kind]) for kind in new):
            return Retained(new, _arrows(recipe, new), _groups(recipe, before[-1].stage))
    return None


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return statistics.fmean(known) if known else math.nan


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
        cells = Relaxations(recipe).cells
        own = {kind: [f"{source}→{node}" for source, node in cells[kind].edges] for kind in names}
    except Exception:  # whatever a damaged recipe, or a space of a user's own, raises
        return found
    return {kind: own[kind] if len(own[kind]) == len(found[kind]) else found[kind] for kind in found}
