"""What the page of a run replays: weights, distributions over sets of edges and the cell of every epoch; decisions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from topocell.errors import GenotypeError
from topocell.io import files
from topocell.reporting.architecture_series import Seen
from topocell.reporting.cell_shapes import CELL_NAMES, cell_drawing
from topocell.reporting.cell_svg import svg
from topocell.reporting.cells import shown_cells
from topocell.reporting.epochs import Row
from topocell.reporting.history import Relaxed
from topocell.reporting.series import shortened
from topocell.reporting.style import clipped, family, printable, short
from topocell.reporting.tables import is_number

#: Most numbers of a replay, and most epochs; of longer searches every second, third.. epoch is shown, and the last.
MOST_NUMBERS, MOST_EPOCHS = 300_000, 120
#: Sets of edges that are shown of a node, the most likely ones.
CHOICES = 6


class Drawings:
    """Drawings of cells, each made once and numbered."""

    def __init__(self) -> None:
        self._places: dict[str, int | None] = {}
        self.drawn: list[str] = []

    def place(self, cell: Any, kind: str) -> int | None:
        """Return the number of the drawing of a cell, as a genotype's dict has it; None where it cannot be drawn."""
        key = files.to_json([kind, cell])
        if key not in self._places:
            self._places[key] = self._draw(cell, kind)
        return self._places[key]

    def _draw(self, cell: Any, kind: str) -> int | None:
        try:
            (shown,) = shown_cells({"cells": {kind: cell}})
        except GenotypeError:
            return None
        self.drawn.append(str(svg(cell_drawing(shown), "The cell of this epoch")))
        return len(self.drawn) - 1


def replay(seen: Seen) -> dict[str, Any] | None:
    """Return the epochs of a search for the slider of a page, as JSON has it; None where there is nothing to show.

    `epochs` has number and stage of each; `drawings` the cells as SVG; `cells` for each cell type the names of edges
    and operations, and for each epoch `weights` (edge by operation, null where it is no candidate), `gates` (null where
    nothing about edges is learned), `groups` (the most likely sets of edges of each node), `kept` (edge and operation
    of the cell of that epoch) and the number of its `drawing`.
    """
    known = [n for n, of in enumerate(seen.relaxed) if of]
    if not known:
        return None
    size = sum(at.weights.size for at in seen.relaxed[known[0]].values())
    stride = max(1, -(-len(known) * size // MOST_NUMBERS), -(-len(known) // MOST_EPOCHS))
    shown = [n for place, n in enumerate(reversed(known)) if place % stride == 0][::-1]
    drawings = Drawings()
    cells = {
        kind: _cell([(seen.epochs[n].row, seen.relaxed[n][kind]) for n in shown], kind, drawings) for kind in seen.kinds
    }
    return {
        "epochs": [{"number": seen.epochs[n].number, "stage": clipped(seen.epochs[n].stage)} for n in shown],
        "last": seen.epochs[-1].number,
        "cells": cells,
        "drawings": drawings.drawn,
    }


def _cell(epochs: Sequence[tuple[Row, Relaxed]], kind: str, drawings: Drawings) -> dict[str, Any]:
    names = list(dict.fromkeys(op for _, at in epochs for edge in at.names for op in edge))
    first = epochs[0][1]
    kept = [_kept(row, kind, at) for row, at in epochs]
    live = [at.weights[at.live] for _, at in epochs if at.live.any()]
    least, most = (float(end(map(end, live))) if live else 0.0 for end in (min, max))
    return {
        "title": CELL_NAMES.get(kind, printable(kind)),
        "edges": [f"{source}→{node}" for source, node in first.edges],
        "operations": [{"label": short(op), "family": family(op).key} for op in names],
        "least": shortened(least),
        "most": shortened(most),
        "weights": [_weights(at, names) for _, at in epochs],
        "gates": [[shortened(float(g)) for g in at.gates] if at.topology.learned else None for _, at in epochs],
        "groups": [list(_groups(at, of)) for (_, at), of in zip(epochs, kept)],
        "kept": [[[e, names.index(op)] for e, op in of.items() if op in names] for of in kept],
        "drawing": [drawings.place(_derived(row, kind), kind) for row, _ in epochs],
    }


def _weights(at: Relaxed, names: Sequence[str]) -> list[list[float | None]]:
    found = []
    for own, weights, live in zip(at.names, at.weights, at.live):
        of = {op: shortened(float(f"{weight:.3g}")) for op, weight, on in zip(own, weights, live) if on}
        found.append([of.get(op) for op in names])
    return found


def _kept(row: Row, kind: str, at: Relaxed) -> dict[int, str]:
    """Edge → operation of the cell that would be derived."""
    cell = _derived(row, kind)
    place = {tuple(edge): e for e, edge in enumerate(at.edges)}
    try:
        pairs = [
            ((int(source), node), str(op))
            for node, inputs in enumerate(cell["nodes"], start=int(cell["inputs"]))
            for op, source in inputs
        ]
    except (LookupError, TypeError, ValueError):
        return {}
    return {place[edge]: op for edge, op in pairs if edge in place}


def _groups(at: Relaxed, kept: Mapping[int, str]) -> Iterator[dict[str, Any]]:
    """The most likely sets of edges of each node, where the topology is a distribution over them."""
    from topocell.topology import Subsets

    for group in at.topology.groups if isinstance(at.topology, Subsets) else ():
        p = at.probabilities[group.slice]
        if len(p) < 2:
            continue
        rows = group.choices.numpy()
        chosen = (rows == [e in kept for e in group.edges]).all(1)
        order = np.argsort(-p, kind="stable")[:CHOICES].tolist()
        order += [c for c in np.flatnonzero(chosen).tolist() if c not in order]
        into = at.topology.view == "target"
        ends = [str(at.edges[e][0 if into else 1]) for e in group.edges]
        yield {
            "title": f"{'into' if into else 'out of'} node {group.node}",
            "more": len(p) - len(order),
            "choices": [
                {
                    "label": ", ".join(end for end, on in zip(ends, rows[c]) if on) or "none",
                    "p": shortened(float(f"{p[c]:.3g}")),
                    "chosen": bool(chosen[c]),
                }
                for c in order
            ],
        }


def _derived(row: Row, kind: str) -> Any:
    derived = row.get("derived")
    return derived.get(kind) if isinstance(derived, Mapping) else None


def decisions(metrics: Iterable[Row]) -> list[dict[str, Any]]:
    """Return the decisions of a selection in their order, with what each candidate was judged by.

    Of perturbation that is the accuracy (in percent) or the loss of the supernet without the candidate.
    """
    found: list[dict[str, Any]] = []
    for row in (row for row in metrics if row.get("phase") == "select"):
        measure = next((key for key in row if key == "weight" or key.endswith(" without")), None)
        values = row.get(measure) if measure is not None else None
        if not isinstance(values, Mapping) or not isinstance(row.get("kept"), str):
            continue
        kept = row["kept"].split(", ")
        scale, unit = (100.0, ", %") if measure == "accuracy without" else (1.0, "")
        candidates = [
            {
                "label": short(str(name)),
                "family": family(str(name)).key,
                "value": shortened(scale * value),
                "kept": name in kept,
            }
            for name, value in values.items()
            if is_number(value)
        ]
        label = f"{len(found) + 1}. {clipped(str(row.get('cell', '')))} {clipped(str(row.get('decided', '')))}"
        edges = str(row.get("decided", "")).startswith("node")
        found.append({"label": label, "edges": edges, "measure": f"{measure}{unit}", "candidates": candidates})
    return found
