"""The architecture of a search over its epochs: logits, and what the supernet made of them, as arrays.

metrics.jsonl holds the logits of every epoch (see `topocell.runtime.logits`); relaxation and topology of the recipe
turn them into the weights that the supernet saw in that epoch, without sampling.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from topocell.reporting.epochs import Epoch, Row, number_at, search_epochs

#: Arrays of a `CellHistory` with a value for each edge and operation.
_OF_OPERATIONS = ("alpha", "weights", "live")


@dataclass(frozen=True, eq=False)
class CellHistory:
    """One cell type over the N epochs of a search.

    Attributes:
        edges: int (E, 2), source and node of each edge.
        operations: the K operations that are a candidate of any edge in any epoch, in order of their appearance.
        alpha: float32 (N, E, K), logits; NaN where an edge has no such candidate.
        live: bool (N, E, K), whether the candidate is there and has not been removed.
        weights: float32 (N, E, K), `ops` of the supernet at the temperature of the epoch, without sampling.
        beta: float32 (N, B), logits of the topology; of stages with fewer than B, filled up with NaN.
        probabilities: float32 (N, B), the probability that each of these logits stands for.
        gates: float32 (N, E), `edges` of the supernet: the weight of each edge; 1 where nothing is learned.
    """

    edges: np.ndarray
    operations: tuple[str, ...]
    alpha: np.ndarray
    live: np.ndarray
    weights: np.ndarray
    beta: np.ndarray
    probabilities: np.ndarray
    gates: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all of it as arrays by name."""
        return {name: np.asarray(value) for name, value in vars(self).items()}


@dataclass(frozen=True, eq=False)
class History:
    """The architecture after each of the N epochs of a search; `cells` has one `CellHistory` for each cell type.

    Attributes:
        epoch: int (N,), numbers through all stages from 1.
        stage: str (N,), the stage of each epoch.
        op_temperature, edge_temperature: float64 (N,).
        cells: by cell type.
    """

    epoch: np.ndarray
    stage: np.ndarray
    op_temperature: np.ndarray
    edge_temperature: np.ndarray
    cells: Mapping[str, CellHistory]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all of it as arrays by name, those of a cell type as `normal.alpha`: what `history.npz` holds."""
        own = {name: np.asarray(value) for name, value in vars(self).items() if name != "cells"}
        return own | {f"{kind}.{name}": a for kind, cell in self.cells.items() for name, a in cell.arrays().items()}

    def to_npz(self) -> bytes:
        """Return the content of an .npz file for `numpy.load`; equal histories give equal bytes."""
        file = io.BytesIO()
        np.savez_compressed(file, **self.arrays())  # type: ignore[arg-type]
        return file.getvalue()

    def columns(self) -> dict[str, np.ndarray]:
        """Return a table as columns of equal length: a row for each epoch, cell type, edge and candidate."""
        parts = [self._columns(kind, cell) for kind, cell in self.cells.items()]
        return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}

    def _columns(self, kind: str, cell: CellHistory) -> dict[str, np.ndarray]:
        n, e, k = np.nonzero(~np.isnan(cell.alpha))
        return {
            "epoch": self.epoch[n],
            "stage": self.stage[n],
            "cell": np.full(len(n), kind),
            "source": cell.edges[e, 0],
            "node": cell.edges[e, 1],
            "operation": np.array(cell.operations)[k],
            **{name: getattr(cell, name)[n, e, k] for name in _OF_OPERATIONS},
            "gate": cell.gates[n, e],
        }


class Relaxed(NamedTuple):
    """What the supernet saw of one cell type in an epoch.

    `names`, `alpha`, `live` and `weights` have an entry for each edge, of its candidates; `topology` is a
    `topocell.topology.Topology`.
    """

    edges: Sequence[tuple[int, int]]
    names: Sequence[Sequence[str]]
    alpha: np.ndarray
    live: np.ndarray
    weights: np.ndarray
    beta: np.ndarray
    probabilities: np.ndarray
    gates: np.ndarray
    topology: Any


class Relaxations:
    """Turns the records of epochs into weights, as the stages of a recipe say.

    Args:
        recipe: resolved, as recipe.yaml has it.

    Raises what reading damaged files, and pieces of a user's own, raise.
    """

    def __init__(self, recipe: Mapping[str, Any]) -> None:
        from topocell import spaces

        options = dict(recipe["space"])
        self.cells = dict(spaces.get(options.pop("name"), **options).cells)
        self._stages = recipe["search"]["stages"]
        self._made: dict[Any, tuple[Any, Any]] = {}

    def at(self, epoch: Epoch) -> dict[str, Relaxed]:
        """Return what the supernet saw in an epoch, by cell type. Raises what damaged rows do."""
        return {kind: self._relaxed(epoch, kind) for kind in self.cells}

    def _relaxed(self, epoch: Epoch, kind: str) -> Relaxed:
        from topocell.runtime.logits import from_record

        row = epoch.row
        cell, alpha, beta, live = from_record(row["architecture"][kind], self.cells[kind])
        relaxation, topology = self._pieces(epoch.stage, kind, cell)
        return Relaxed(
            cell.edges,
            cell.candidates,
            alpha.numpy(),
            live.numpy(),
            relaxation.expected(alpha, live, row["op_temperature"]).numpy(),
            beta.numpy(),
            topology.probabilities(beta, row["edge_temperature"]).numpy(),
            topology.weights(beta, row["edge_temperature"]).numpy(),
            topology,
        )

    def _pieces(self, stage: str, kind: str, cell: Any) -> tuple[Any, Any]:
        from topocell import relaxation, topology

        key = stage, kind, cell.candidates
        if key not in self._made:
            plan = self._stages[stage]
            self._made[key] = (
                relaxation.build(cell=cell, **plan["relaxation"]),
                topology.build(cell=cell, **plan["topology"]),
            )
        return self._made[key]


def history(metrics: Iterable[Row], recipe: Mapping[str, Any]) -> History:
    """Return the architecture of all search epochs in `metrics`.

    Args:
        metrics: rows of metrics.jsonl; those of other phases are passed over.
        recipe: resolved, as recipe.yaml has it.

    Raises what damaged rows, and pieces of a user's own that are not imported, raise.
    """
    epochs, relaxations = search_epochs(metrics), Relaxations(recipe)
    seen = [relaxations.at(epoch) for epoch in epochs]
    cells = {
        kind: _of_cell([of[kind] for of in seen], np.array(cell.edges, dtype=np.int64), cell.candidates)
        for kind, cell in relaxations.cells.items()
    }
    return History(
        np.array([epoch.number for epoch in epochs], dtype=np.int64),
        np.array([epoch.stage for epoch in epochs], dtype=np.str_),
        np.array([number_at(epoch.row, "op_temperature") for epoch in epochs]),
        np.array([number_at(epoch.row, "edge_temperature") for epoch in epochs]),
        cells,
    )


def _of_cell(seen: Sequence[Relaxed], edges: np.ndarray, first: Sequence[Sequence[str]]) -> CellHistory:
    named = (names for candidates in (*(at.names for at in seen), first) for names in candidates)
    operations = tuple(dict.fromkeys(name for names in named for name in names))
    place = {name: k for k, name in enumerate(operations)}
    size = (len(seen), len(edges), len(operations))
    alpha, weights = (np.full(size, np.nan, dtype=np.float32) for _ in range(2))
    live = np.zeros(size, dtype=bool)
    logits = max((len(at.beta) for at in seen), default=0)
    beta, probabilities = (np.full((len(seen), logits), np.nan, dtype=np.float32) for _ in range(2))
    for n, at in enumerate(seen):
        for e, names in enumerate(at.names):
            at_k = [place[name] for name in names]
            alpha[n, e, at_k], weights[n, e, at_k] = at.alpha[e, : len(names)], at.weights[e, : len(names)]
            live[n, e, at_k] = at.live[e, : len(names)]
        beta[n, : len(at.beta)], probabilities[n, : len(at.beta)] = at.beta, at.probabilities
    gates = np.array([at.gates for at in seen], dtype=np.float32).reshape(len(seen), len(edges))
    return CellHistory(edges, operations, alpha, live, weights, beta, probabilities, gates)
