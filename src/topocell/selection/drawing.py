"""Cells as choices of edges and operations: drawn uniformly, changed in one place, and all that lie one change away.

A *pick* is one cell as its kept edges, each with its operation. What selection rules leave at random is open; what
other rules decide is the same in all cells. Sets of edges are those that the topology may choose, so that a cell of
any space comes with its own wiring rule: pairs of inputs, any number of outgoing edges, all edges.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator

from topocell.config.selection import Rules
from topocell.errors import RecipeError
from topocell.genotype.genotype import CellGenotype
from topocell.runtime.rng import below
from topocell.selection.budget import choosable
from topocell.selection.rules import EDGE_RULES, OPERATION_RULES, Derived, cell_genotype
from topocell.spaces.cell import CellSpec, SpaceSpec
from topocell.supernet.arch_state import ArchState
from topocell.supernet.weights import ArchWeights, OneHotWeights
from topocell.topology import Dense, EdgeSigmoid, EdgeSoftmax, Fixed, Subsets
from topocell.topology.assignments import Assignments, subsets, without_orphans

#: Kept edges in order, each with the index of its candidate.
Pick = tuple[tuple[int, int], ...]
#: The picks of all cell types, in the order of the space.
Cells = tuple[Pick, ...]
#: Edges of a group, and bool (n_choices, n): which of them each of its choices keeps.
Group = tuple[Sequence[int], np.ndarray]


class CellChoices:
    """All cells of one type that may be drawn.

    Args:
        cell: the cell.
        groups: the sets of edges that may be chosen, one of each group; None where the edges are decided.
        wiring: the edges of every cell, where they are decided.
        allowed: per edge the candidates that may be chosen. An edge without any is in no cell.

    Raises:
        RecipeError: no choice of edges gives every computed node an input.
    """

    def __init__(
        self, cell: CellSpec, groups: Sequence[Group] | None, wiring: Sequence[int], allowed: Sequence[Sequence[int]]
    ) -> None:
        self.cell, self.allowed = cell, [tuple(row) for row in allowed]
        self._wiring = tuple(e for e in wiring if self.allowed[e])
        live = [(edges, rows[[_alive(edges, row, allowed) for row in rows]]) for edges, rows in groups or ()]
        self._groups = [(tuple(edges), rows) for edges, rows in live]
        self._assignments: Assignments | None = None
        if groups is not None:
            possible = all(len(rows) for _, rows in live)
            self._assignments = (
                Assignments(cell, [e for e, _ in live], [rows for _, rows in live]) if possible else None
            )
            if self._assignments is None or self._assignments.n_valid == 0:
                raise RecipeError(
                    "cells are drawn from sets of edges that give every computed node an input, but with the "
                    "operations left there is none; use another topology, or leave the trials out"
                )

    @property
    def n_wirings(self) -> int:
        """Number of sets of edges."""
        return 1 if self._assignments is None else self._assignments.n_valid

    def random(self, draw: Generator) -> Pick:
        """A set of edges drawn uniformly from those that give every computed node an input, any operation on each."""
        edges: Sequence[int] = self._wiring
        if self._assignments is not None:
            edges = self._assignments.edges(self._assignments.random(lambda: _uniform(draw)))
        return tuple((e, self.allowed[e][below(len(self.allowed[e]), draw)]) for e in edges)

    def operations(self, pick: Pick) -> list[Pick]:
        """All cells with another operation on one edge."""
        return [
            (*pick[:place], (e, other), *pick[place + 1 :])
            for place, (e, k) in enumerate(pick)
            for other in self.allowed[e]
            if other != k
        ]

    def wirings(self, pick: Pick) -> list[list[Pick]]:
        """All sets of edges one change away, each as the cells that have it.

        One edge is added, removed, or put in the place of another of its group: those that enter the same node, or
        leave it. An edge that takes the place of another keeps its operation where it offers it, and has any other
        otherwise, as has one that is added. Every computed node keeps an input.
        """
        kept, found = dict(pick), []
        for gone, new in self._steps(frozenset(kept)):
            rest = {e: k for e, k in kept.items() if e not in gone}
            if not new:
                found.append([tuple(sorted(rest.items()))])
                continue
            names = self.cell.candidates
            (edge,) = new
            same = [k for k in self.allowed[edge] if gone and names[edge][k] == names[gone[0]][kept[gone[0]]]]
            found.append([tuple(sorted({**rest, edge: k}.items())) for k in same or self.allowed[edge]])
        return found

    def neighbours(self, pick: Pick) -> list[Pick]:
        """All cells one change away: of an operation, or of an edge."""
        return [*self.operations(pick), *itertools.chain(*self.wirings(pick))]

    def mutated(self, pick: Pick, draw: Generator) -> Pick | None:
        """A cell one change away; None where there is none.

        Operation or edge, each with probability one half where both can change (Real et al. 2019), then uniformly.
        """
        ways: list[list[list[Pick]]] = [
            way for way in ([[p] for p in self.operations(pick)], self.wirings(pick)) if way
        ]
        if not ways:
            return None
        way = ways[below(len(ways), draw)]
        cells = way[below(len(way), draw)]
        return cells[below(len(cells), draw)]

    def _steps(self, kept: frozenset[int]) -> Iterator[tuple[list[int], list[int]]]:
        """Edges that go and edges that come, at most one of each."""
        entered = [sum(self.cell.edges[e][1] == node for e in kept) for node in self.cell.computed]
        for edges, rows in self._groups:
            now = np.array([e in kept for e in edges])
            for row in rows[(rows != now).sum(1) <= 2]:
                gone = [e for e, on, was in zip(edges, row, now) if was and not on]
                new = [e for e, on, was in zip(edges, row, now) if on and not was]
                if len(gone) > 1 or len(new) > 1 or not (gone or new):
                    continue
                change = [0] * len(entered)
                for e, by in [(e, -1) for e in gone] + [(e, 1) for e in new]:
                    change[self.cell.edges[e][1] - self.cell.inputs] += by
                if all(n + by > 0 for n, by in zip(entered, change)):
                    yield gone, new


def _uniform(draw: Generator) -> float:
    return torch.rand((), generator=draw, dtype=torch.float64, device=draw.device).item()


def _alive(edges: Sequence[int], row: np.ndarray, allowed: Sequence[Sequence[int]]) -> bool:
    """Return whether every edge of a choice has an operation."""
    return all(allowed[e] for e, on in zip(edges, row) if on)


class CellSpace:
    """All cells of a space that may be drawn, of all its cell types together.

    Args:
        space: whose cells they are.
        choices: of each cell type.
    """

    def __init__(self, space: SpaceSpec, choices: Mapping[str, CellChoices]) -> None:
        self.space, self.choices = space, dict(choices)

    @classmethod
    def of(cls, arch: ArchState, rules: Rules) -> "CellSpace":
        """The cells that rules may derive, if all that they leave at random is open.

        Args:
            arch: the searched state, which decides the rest.
            rules: with `random` for operations, edges, or both.

        Raises:
            RecipeError: a topology of a user's own, whose sets of edges are not known; or no cell is left.
        """
        return cls(arch.space, {t: _choices(arch, t, rules) for t in arch.space.cells})

    def random(self, draw: Generator) -> Cells:
        """Draw a cell of each type."""
        return tuple(choices.random(draw) for choices in self.choices.values())

    def mutated(self, cells: Cells, draw: Generator) -> Cells:
        """Change one cell type, chosen uniformly from those that can change; see `CellChoices.mutated`.

        Raises:
            RecipeError: nothing can change.
        """
        every = list(self.choices.values())
        places = [i for i, choices in enumerate(every) if choices.neighbours(cells[i])]
        if not places:
            raise RecipeError(
                "a mutation changes an operation or an edge, but the space leaves no choice; use another space, or "
                "selection.trials.propose=random"
            )
        place = places[below(len(places), draw)]
        changed = every[place].mutated(cells[place], draw)
        assert changed is not None
        return (*cells[:place], changed, *cells[place + 1 :])

    def neighbours(self, cells: Cells) -> list[Cells]:
        """All cells that differ in one change of one cell type."""
        return [
            (*cells[:i], other, *cells[i + 1 :])
            for i, choices in enumerate(self.choices.values())
            for other in choices.neighbours(cells[i])
        ]

    def derived(self, cells: Cells) -> Derived:
        """The cells as a selection derives them."""
        kept: dict[str, tuple[int, ...]] = {}
        chosen: dict[str, tuple[int | None, ...]] = {}
        found: dict[str, CellGenotype] = {}
        for (name, cell), pick in zip(self.space.cells.items(), cells):
            ops: list[int | None] = [None] * cell.n_edges
            for e, k in pick:
                ops[e] = k
            edges = [e for e, k in pick if cell.candidates[e][k] != "none"]
            if name != "cell":  # in NAS-Bench-201 a node without an input is zero, and stays
                edges = list(without_orphans(cell, edges)[0])
            kept[name], chosen[name] = tuple(edges), tuple(ops)
            found[name] = cell_genotype(cell, edges, ops)
        return Derived(kept, chosen, found, ())

    def weights(self, cells: Cells, like: Mapping[str, ArchWeights]) -> dict[str, ArchWeights]:
        """The cells as weights of the supernet, of which only the operations kept run."""
        return {t: OneHotWeights(*weights) for t, weights in self.derived(cells).weights(like).items()}


def _choices(arch: ArchState, cell_type: str, rules: Rules) -> CellChoices:
    cell, allowed = arch.space.cells[cell_type], choosable(arch, cell_type, rules)
    rows = [row.nonzero().flatten().tolist() for row in allowed]
    if rules.operations != "random":
        ops = OPERATION_RULES[rules.operations](arch, cell_type, rules, allowed)
        rows = [[] if k is None or cell.candidates[e][k] == "none" else [k] for e, k in enumerate(ops)]
    if rules.edges != "random":
        rule = "magnitude" if rules.edges == "topology" and _keeps_all(arch, cell_type) else rules.edges
        wiring, _ = EDGE_RULES[rule](arch, cell_type, rules, allowed)
        return CellChoices(cell, None, wiring, rows)
    return CellChoices(cell, _groups(arch, cell_type, rules, rows), (), rows)


def _keeps_all(arch: ArchState, cell_type: str) -> bool:
    return isinstance(arch.topologies[cell_type], Dense)


def _groups(arch: ArchState, cell_type: str, rules: Rules, allowed: Sequence[Sequence[int]]) -> list[Group]:
    """The sets of edges that a topology may choose: of `dense`, `in_degree` for each node."""
    cell, topology = arch.space.cells[cell_type], arch.topologies[cell_type]
    incoming = [tuple(e for e in cell.incoming(node) if allowed[e]) for node in cell.computed]
    incoming = [edges for edges in incoming if edges]

    def of_sizes(sizes: Callable[[int], Sequence[int]]) -> list[Group]:
        return [(edges, subsets(len(edges), sizes(len(edges)))) for edges in incoming]

    if isinstance(topology, Dense):
        return of_sizes(lambda n: [min(rules.in_degree, n)])
    if isinstance(topology, EdgeSoftmax):
        return of_sizes(lambda n: [min(topology.keep, n)])
    if isinstance(topology, EdgeSigmoid):
        return of_sizes(lambda n: range(1, n + 1))
    if isinstance(topology, Fixed):
        kept = set(topology.decode(arch.beta[cell_type].detach().cpu()))
        return [(edges, np.array([[e in kept for e in edges]])) for edges in incoming]
    if isinstance(topology, Subsets):
        return [(group.edges, group.choices.numpy()) for group in topology.groups]
    raise RecipeError(
        f"trials draw from the sets of edges of the topologies that come with topocell, but got "
        f"{type(topology).__name__}; use another selection.edges, or leave the trials out"
    )


def encoded(cells: Cells) -> list[list[list[int]]]:
    """Cells as plain lists, for a checkpoint."""
    return [[list(pair) for pair in pick] for pick in cells]


def decoded(value: Any) -> Cells:
    """Read what `encoded` wrote."""
    return tuple(tuple((int(e), int(k)) for e, k in pick) for pick in value)
