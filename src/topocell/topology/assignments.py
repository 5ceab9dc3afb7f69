"""Sets of edges as plain arrays: what each node may choose, and which choices together make a valid cell.

A node is *reached* when an edge from an input node or from a reached node enters it. A cell is valid when each of
its computed nodes has an input; as edges only lead forward, every node is then reached. A node is a *dead end* when no
path leads from it to one of the `ends` of its cell. Nothing here imports torch.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from topocell.arguments import checked
from topocell.errors import SpaceError
from topocell.spaces.cell import CellSpec

#: Largest number of choices of one group: all subsets of 14 edges.
MAX_CHOICES = 2**14


def n_wirings(cell: CellSpec, in_degree: int) -> int:
    """Count the ways in which every node can take `in_degree` inputs (eDARTS: 1·3·6·10 = 180 in the DARTS cell)."""
    n_incoming = (len(cell.incoming(node)) for node in cell.computed)
    return math.prod(math.comb(n, min(in_degree, n)) for n in n_incoming)


@checked(SpaceError)
def wirings(cell: CellSpec, in_degree: int) -> list[tuple[int, ...]]:
    """All sets of edges, sorted indices, in which every computed node has `in_degree` inputs; it takes all of fewer.

    The inputs of the last node change fastest, each node's in the order of `itertools.combinations`.
    """
    incoming = (cell.incoming(node) for node in cell.computed)
    choices = (itertools.combinations(edges, min(in_degree, len(edges))) for edges in incoming)
    return [tuple(itertools.chain(*chosen)) for chosen in itertools.product(*choices)]


def subsets(n: int, sizes: Sequence[int]) -> np.ndarray:
    """Bool (n_choices, n): the sets of `n` edges of the given sizes, by size, then as
    `itertools.combinations`.

    Raises:
        SpaceError: more than `MAX_CHOICES` sets.
    """
    if sum(math.comb(n, k) for k in sizes) > MAX_CHOICES:
        raise SpaceError(
            f"a group has at most {MAX_CHOICES} choices, but {n} edges have more sets of {sizes[0]} to "
            f"{sizes[-1]} edges; choose a fixed size"
        )
    chosen = [set(c) for k in sizes for c in itertools.combinations(range(n), k)]
    return np.array([[i in c for i in range(n)] for c in chosen])


class Assignments:
    """All assignments of one choice to each group of edges.

    Args:
        cell: the cell.
        edges: per group, the indices of its edges, which all enter or all leave one node; each edge of the cell is
            in one group, and the groups are in the order of their nodes.
        choices: per group, bool (n_choices, n): the edges that each choice keeps.
        dead_ends: whether a node may be one in a valid assignment; if not, the edges of a group leave one node.

    Attributes:
        covers: per group, int (n_choices,): the computed nodes that a choice gives an input, as bits; bit j
            is node `cell.inputs + j`.
    """

    def __init__(
        self, cell: CellSpec, edges: Sequence[Sequence[int]], choices: Sequence[np.ndarray], dead_ends: bool = True
    ) -> None:
        self.cell = cell
        self._edges = edges
        self._choices = choices
        bits = [[1 << (cell.edges[e][1] - cell.inputs) for e in group] for group in edges]
        self.covers = [np.bitwise_or.reduce(np.where(b, bit, 0), axis=1) for b, bit in zip(choices, bits)]
        # The same of the nodes that the kept edges leave, input nodes below the computed ones.
        ends = [[1 << cell.edges[e][0] for e in group] for group in edges]
        self._sources = [np.bitwise_or.reduce(np.where(b, bit, 0), axis=1) for b, bit in zip(choices, ends)]
        # Sets of computed nodes, as bits; the last is the set of all.
        self._states = np.arange(2**cell.nodes)
        # What each group may choose in a valid assignment: a computed node that chooses nothing is a dead end.
        free = [dead_ends or cell.edges[group[0]][0] < cell.inputs for group in edges]
        self._allowed = [np.flatnonzero(b.any(1) | either) for b, either in zip(choices, free)]

    def edges(self, assignment: Sequence[int]) -> list[int]:
        """Indices of the edges of one choice per group, sorted."""
        kept = zip(self._edges, self._choices, assignment)
        return sorted(e for group, b, c in kept for e, on in zip(group, b[c]) if on)

    @functools.cached_property
    def _counts(self) -> list[np.ndarray]:
        """[g][state]: in how many valid ways groups g, g+1.. give an input to every node that `state` lacks."""
        table = [np.where(self._states == self._states[-1], 1.0, 0.0)]
        for covers, allowed in zip(self.covers[::-1], self._allowed[::-1]):
            table.append(functools.reduce(np.add, (table[-1][self._states | cover] for cover in covers[allowed])))
        return table[::-1]

    @property
    def n_valid(self) -> int:
        """Number of valid assignments: every computed node has an input, and is no dead end unless it may be one.

        Exact below 2^53.
        """
        return int(self._counts[0][0])

    def random(self, uniform: Callable[[], float]) -> list[int]:
        """An assignment drawn uniformly from the valid ones; `uniform()` draws from [0, 1)."""
        state, assignment = 0, []
        for covers, allowed, count in zip(self.covers, self._allowed, self._counts[1:]):
            total = np.cumsum(count[state | covers[allowed]])
            assignment.append(int(allowed[np.searchsorted(total, uniform() * total[-1], side="right")]))
            state |= int(covers[assignment[-1]])
        return assignment

    def best(self, scores: Sequence[np.ndarray], needed: Sequence[int], every: bool = True) -> list[int]:
        """The assignment of the largest total score that reaches nodes, ties to the lowest choices, group by group.

        Dynamic programming over the set of reached nodes: `table[g][state]` is the best score with which groups
        g, g+1.. reach what is needed, given the nodes in `state`.

        Args:
            scores: per group, the score of each choice.
            needed: computed nodes to be reached.
            every: whether every one of them is, or at least one.
        """
        wanted = sum(1 << (node - self.cell.inputs) for node in needed)
        found = self._states & wanted
        table = [np.where(found == wanted if every else found > 0, 0.0, -np.inf)]
        for covers, sources, score in zip(self.covers[::-1], self._sources[::-1], scores[::-1]):
            options = zip(covers, sources, score)
            values = (table[-1][self._after(self._states, cover, source)] + gain for cover, source, gain in options)
            table.append(functools.reduce(np.maximum, values))
        state, assignment = np.zeros(1, dtype=np.int64), []
        for covers, sources, score, rest in zip(self.covers, self._sources, scores, table[-2::-1]):
            after = self._after(state, covers, sources)
            assignment.append(int(np.argmax(rest[after] + score)))
            state = after[assignment[-1:]]
        return assignment

    def _after(self, states: np.ndarray, covers: np.ndarray, sources: np.ndarray) -> np.ndarray:
        """The reached nodes after a choice: those that it covers join them if one of its sources is reached."""
        inputs = self.cell.inputs
        live = (states << inputs | (1 << inputs) - 1) & sources
        return np.where(live > 0, states | covers, states)


def without_orphans(cell: CellSpec, edges: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The given (sorted) edges less those that leave a node without an input, and the nodes without an input.

    Dropping an edge may leave another node without an input, whose edges are dropped too, and so on.
    """
    reached = set(range(cell.inputs))
    kept = []
    for e in edges:  # by destination: all edges into a node come before any that leaves it
        src, dst = cell.edges[e]
        if src in reached:
            reached.add(dst)
            kept.append(e)
    return tuple(kept), tuple(node for node in cell.computed if node not in reached)


def ends(cell: CellSpec) -> tuple[int, ...]:
    """The computed nodes that stay without an outgoing edge: those that have no candidate for one, and the output.

    In the cells of the DARTS family it is the last node; where the last node alone is the output, that one.
    """
    if cell.output == "last":
        return (cell.computed[-1],)
    return tuple(node for node in cell.computed if not cell.outgoing(node))


def without_dead_ends(cell: CellSpec, edges: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The given (sorted) edges on paths from an input of the cell to one of its `ends`, and the nodes on none.

    As `without_orphans`, but a node that sends no edge is dropped too, with the edges that enter it, and so on.
    """
    reached, _ = without_orphans(cell, edges)
    leading, kept = set(ends(cell)), []
    for e in reversed(reached):  # by destination: all edges that leave a node come before any that enters it
        src, dst = cell.edges[e]
        if dst in leading:
            leading.add(src)
            kept.append(e)
    entered = {cell.edges[e][1] for e in kept}
    return tuple(kept[::-1]), tuple(node for node in cell.computed if node not in entered)
