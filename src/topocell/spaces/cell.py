"""Search spaces as plain data: what a cell may be, and how cells are stacked. Nothing here imports torch."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from topocell.arguments import check_argument, check_fields
from topocell.errors import SpaceError, nearest
from topocell.spaces.operations import KNOWN_OPERATIONS
from topocell.spaces.skeletons import stacking

Edge = tuple[int, int]

#: Decoding a topology looks at all sets of computed nodes, so their number is bounded.
MAX_NODES = 16


@dataclass(frozen=True)
class CellSpec:
    """One cell as a directed acyclic graph whose edges choose among candidate operations.

    Nodes are numbered as in DARTS: `0 .. inputs-1` are the inputs, then `nodes` computed nodes. An edge
    `(src, dst)` has `src < dst` and enters a computed node. Edges are stored by destination, then source,
    whatever order they are given in; `candidates[e]` belongs to `edges[e]` and moves with it.

    Args:
        inputs: number of input nodes, 1 or 2.
        nodes: number of computed (intermediate) nodes.
        edges: `(src, dst)` pairs; every computed node needs at least one.
        candidates: one tuple of operation names per edge, or one flat tuple that all edges share.
        output: `"concat"` of all computed nodes over channels (DARTS), or the `"last"` node (NAS-Bench-201).
        stride: stride of the edges that leave an input node: 1, or 2 in a reduction cell.
        pool_norm: whether a pool is followed by batch norm in the supernet (DARTS: yes, NAS-Bench-201: no).

    Raises:
        SpaceError: if a rule above does not hold; the message names the edge or the value.
    """

    inputs: int
    nodes: int
    edges: tuple[Edge, ...]
    candidates: tuple[tuple[str, ...], ...]
    output: Literal["concat", "last"] = "concat"
    stride: int = 1
    pool_norm: bool = True

    def __post_init__(self) -> None:
        check_fields(self, SpaceError, "edges", "candidates")
        if self.inputs not in (1, 2):
            raise SpaceError(f"a cell has 1 or 2 inputs, but got inputs={self.inputs}")
        _check_nodes(self.nodes)
        if self.output not in ("concat", "last"):
            raise SpaceError(f"output is 'concat' or 'last', but got {self.output!r}")
        if self.stride not in (1, 2):
            raise SpaceError(f"stride is 1 or 2, but got stride={self.stride}")
        try:
            edges = [(int(s), int(d)) for s, d in self.edges]
        except (TypeError, ValueError):
            raise SpaceError(f"edges is a list of (src, dst), but got {self.edges!r:.80}") from None
        candidates = check_argument("candidates", self.candidates, Sequence[Any], SpaceError)
        shared = bool(candidates) and all(isinstance(c, str) for c in candidates)
        lists = [candidates] * len(edges) if shared else [list(c) if isinstance(c, Iterator) else c for c in candidates]
        if len(lists) != len(edges):
            raise SpaceError(f"candidates has one entry per edge, but got {len(lists)} for {len(edges)} edges")
        for src, dst in edges:
            if not (0 <= src < dst and self.inputs <= dst < self.inputs + self.nodes):
                raise SpaceError(
                    f"an edge (src, dst) has src < dst and enters a computed node "
                    f"({self.inputs}..{self.inputs + self.nodes - 1}), but got {(src, dst)}"
                )
        if len(set(edges)) != len(edges):
            raise SpaceError("each edge is listed once, but got a repeated edge")
        for dst in self.computed:
            if all(d != dst for _, d in edges):
                raise SpaceError(f"every computed node has an input, but no edge enters node {dst}")
        for edge, names in zip(edges, lists):
            if isinstance(names, str) or not names:
                raise SpaceError(f"edge {edge} needs a list of at least one operation in candidates, but got {names!r}")
            for name in names:
                if name not in KNOWN_OPERATIONS:
                    raise SpaceError(f"unknown operation {name!r} on edge {edge}{nearest(name, KNOWN_OPERATIONS)}")
            if len(set(names)) != len(names):
                raise SpaceError(f"each candidate is listed once per edge, but edge {edge} has {names}")
        order = sorted(range(len(edges)), key=lambda i: (edges[i][1], edges[i][0]))
        object.__setattr__(self, "edges", tuple(edges[i] for i in order))
        object.__setattr__(self, "candidates", tuple(tuple(lists[i]) for i in order))

    @property
    def n_edges(self) -> int:
        """E, the number of edges."""
        return len(self.edges)

    @property
    def n_candidates(self) -> int:
        """K, the largest number of candidates on any edge."""
        return max(len(c) for c in self.candidates)

    @property
    def computed(self) -> range:
        """Indices of the computed nodes."""
        return range(self.inputs, self.inputs + self.nodes)

    @property
    def live(self) -> tuple[tuple[bool, ...], ...]:
        """(E, K) booleans: True where an edge lists a candidate, False where its list is shorter than K."""
        return tuple(tuple(k < len(c) for k in range(self.n_candidates)) for c in self.candidates)

    @property
    def width(self) -> int:
        """Output channels as a multiple of the cell's channels: `nodes` for concat, 1 for last."""
        return self.nodes if self.output == "concat" else 1

    def incoming(self, node: int) -> list[int]:
        """Indices of the edges that enter `node`, in edge order."""
        return [e for e, (_, d) in enumerate(self.edges) if d == node]

    def outgoing(self, node: int) -> list[int]:
        """Indices of the edges that leave `node`, in edge order."""
        return [e for e, (s, _) in enumerate(self.edges) if s == node]

    def edge_stride(self, edge: int) -> int:
        """Stride of one edge: the cell's stride where it leaves an input node, else 1."""
        return self.stride if self.edges[edge][0] < self.inputs else 1

    def with_candidates(self, candidates: Sequence[Sequence[str]]) -> "CellSpec":
        """The same cell with other candidates, one list per edge."""
        return replace(self, candidates=tuple(tuple(c) for c in candidates))

    def with_edges(self, keep: Iterable[int]) -> "CellSpec":
        """The same cell with only the edges of the given indices."""
        kept = sorted(set(keep))
        return replace(
            self, edges=tuple(self.edges[e] for e in kept), candidates=tuple(self.candidates[e] for e in kept)
        )


def complete_edges(inputs: int, nodes: int) -> tuple[Edge, ...]:
    """All edges of the complete cell: every computed node takes every node before it.

    Raises:
        SpaceError: more computed nodes than a cell may have.
    """
    _check_nodes(nodes)
    return tuple((s, d) for d in range(inputs, inputs + nodes) for s in range(d))


def _check_nodes(nodes: int) -> None:
    check_argument("nodes", nodes, int, SpaceError)
    if not 1 <= nodes <= MAX_NODES:
        raise SpaceError(f"a cell has 1 to {MAX_NODES} computed nodes, but got nodes={nodes}")


@dataclass(frozen=True)
class SpaceSpec:
    """A search space: its cell types and the skeleton that stacks them.

    Args:
        name: name shown to users and written to genotypes.
        cells: cell type name → CellSpec. Skeleton `"darts"` takes `normal` and `reduce`, `"uniform"` takes `normal`;
            skeleton `"nasbench201"` takes one type, `cell`, with one input, stride 1 and the output `"last"`.
        skeleton: how cells are stacked: a row of `topocell.spaces.skeletons.SKELETONS`.
        stem_multiplier: stem channels as a multiple of the cell's channels (DARTS on CIFAR: 3).

    Raises:
        SpaceError: if the cell types do not fit the skeleton.
    """

    name: str
    cells: Mapping[str, CellSpec]
    skeleton: str = "darts"
    stem_multiplier: int = field(default=3)

    def __post_init__(self) -> None:
        check_fields(self, SpaceError)
        stacked = stacking(self.skeleton)
        if set(self.cells) != set(stacked.strides):
            raise SpaceError(
                f"skeleton {self.skeleton!r} takes the cell types {sorted(stacked.strides)}, but got "
                f"{sorted(self.cells)}"
            )
        if any(self.cells[name].stride != stride for name, stride in stacked.strides.items()) or not (
            stacked.preprocess or self.cells["cell"].inputs == 1
        ):
            rule = "a cell with one input and stride 1"
            if stacked.preprocess:
                rule = f"a normal cell of stride 1{' and a reduce cell of stride 2' if stacked.reduces else ''}"
            raise SpaceError(f"skeleton {self.skeleton!r} takes {rule}")
        if not stacked.preprocess and self.cells["cell"].width != 1:
            raise SpaceError(
                f"skeleton {self.skeleton!r} takes the last node of its cell, but its output is "
                f"{self.cells['cell'].output!r}; set output: last"
            )
        object.__setattr__(self, "cells", MappingProxyType(dict(self.cells)))

    def __hash__(self) -> int:
        return hash((self.name, frozenset(self.cells.items()), self.skeleton, self.stem_multiplier))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "cells": dict(self.cells)}  # Python copies and pickles no read-only views

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update({**state, "cells": MappingProxyType(state["cells"])})

    def with_cells(self, cells: Mapping[str, CellSpec]) -> "SpaceSpec":
        """The same space with other cells of the same types."""
        return replace(self, cells=dict(cells))
