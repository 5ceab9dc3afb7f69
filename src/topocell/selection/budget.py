"""The most likely cell within a budget on cost.

A rule chooses the set of edges with the largest score, and on every edge the operation with the largest weight. So the
cell that it derives is the one of the largest

    Σ_groups log score(set of edges) + Σ_edges log weight(operation) / (largest weight of the edge)

and under a budget it is that of the largest such sum among the cells that cost no more than the limit, all cell types
together. Scores of sets: of rule `magnitude` the sum of the logarithms of what it ranks edges by; of `topology` the
logarithm of the probability of the choice (`subsets`), of the shares of the kept edges (`edge-softmax`), or the logits
above the threshold (`edge-sigmoid`). The maximum is exact (`topocell.selection.constrained`).
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from topocell.config.selection import Rules
from topocell.errors import RecipeError
from topocell.selection.constrained import Cell, Group, Options, best, cheapest, options
from topocell.spaces.cell import CellSpec
from topocell.spaces.costs import CellCosts, NetworkCosts
from topocell.supernet.arch_state import ArchState
from topocell.topology import Dense, EdgeSigmoid, EdgeSoftmax, Fixed, Subsets
from topocell.topology.assignments import ends as ends_of

#: The sets of edges of a group with their scores.
Sets = Sequence[tuple[tuple[int, ...], float]]
Groups = list[list[tuple[tuple[int, ...], float]]]


class Scores(NamedTuple):
    """What the rules of one cell type choose by.

    Args:
        allowed: bool (E, K), the candidates that may be chosen.
        operations: (E, K) weights, read where allowed.
        edges: (E,) what rule `magnitude` ranks edges by.
    """

    allowed: Tensor
    operations: Tensor
    edges: Tensor


def within(arch: ArchState, rules: Rules, scores: Mapping[str, Scores]) -> dict[str, dict[int, int]]:
    """Return per cell type the edges of the most likely cell within the budget with the candidate of each.

    An edge whose candidate is `none` is no part of the network.

    Args:
        arch: the searched state.
        rules: with a budget and the costs of networks in its measure.
        scores: of each cell type.

    Raises:
        RecipeError: no cell meets the limit; a topology of a user's own.
    """
    assert rules.budget is not None and rules.costs is not None
    cells = [_cell(arch, rules, t, scores[t], rules.costs.cells[t]) for t in scores]
    limit, rounding = rules.budget.limit, 1 + 1e-12  # of sums of milliseconds; counts are whole numbers
    found = best(cells, limit * rounding - rules.costs.fixed)
    if found is None:
        raise RecipeError(unmet("selection.budget.limit", limit, rules.costs, cheapest(cells) + rules.costs.fixed))
    return {t: {e: k for e, k in zip(p.edges, p.numbers) if k >= 0} for t, p in zip(scores, found)}


def unmet(key: str, limit: float, costs: NetworkCosts, least: float) -> str:
    """Explain that no cell costs so little."""
    return (
        f"{key} is at least the cost of the cheapest cell, {costs.words(least)}, but got {limit:g}; raise it, or "
        f"choose a smaller network by retrain.channels or retrain.layers"
    )


def least_cost(arch: ArchState, rules: Rules, costs: NetworkCosts) -> float:
    """Return the cost of the cheapest cell that the rules could ever derive from the live candidates of a state.

    Under rules or a topology whose sets of edges are not known here, of a network without any operation.
    """
    total = costs.fixed
    for name, cell in arch.space.cells.items():
        allowed = choosable(arch, name, rules)
        equal = Scores(allowed, allowed.double(), torch.ones(cell.n_edges, device="cpu"))
        try:
            total += cheapest([_cell(arch, rules, name, equal, costs.cells[name])])
        except RecipeError:
            continue
    return total


def choosable(arch: ArchState, cell_type: str, rules: Rules) -> Tensor:
    """Return bool (E, K), on the CPU: the live candidates that selection may choose."""
    names = arch.space.cells[cell_type].candidates
    mask = arch.mask(cell_type).cpu()
    if rules.none:
        return mask
    width = mask.shape[1]
    others = [[k < len(row) and row[k] != "none" for k in range(width)] for row in names]
    return mask & torch.tensor(others, device="cpu")


def _cell(arch: ArchState, rules: Rules, cell_type: str, scores: Scores, costs: CellCosts) -> Cell:
    cell, inputs = arch.space.cells[cell_type], arch.space.cells[cell_type].inputs
    table, live = costs.table(cell), scores.allowed.any(1).tolist()
    groups, may_drop = edge_sets(arch, rules, cell_type, scores, live)
    last = 1 << (cell.nodes - 1)
    needed = sum({1 << (cell.edges[e][1] - inputs) for group in groups for chosen, _ in group for e in chosen})
    final = sum(1 << (node - inputs) for node in ends_of(cell))
    through = rules.edges == "topology" and arch.topologies[cell_type].drops_dead_ends

    def ends(state: int) -> float:
        reached = state & (1 << cell.nodes) - 1
        output = reached & final if through else reached if cell.output == "concat" else reached & last
        if not (output if may_drop else reached & needed == needed):
            return float("inf")
        return costs.widths[max(reached.bit_count(), 1) - 1 if cell.output == "concat" else 0]

    return Cell(
        [_options(row, scores, e) if live[e] else _nothing() for e, row in enumerate(table)],
        _through(cell, groups, final) if through else [_onward(cell, group) for group in groups],
        ends,
    )


def _onward(cell: CellSpec, sets: Sets) -> Group:
    """A group whose edges are part of the cell where their source is reached; a state is the reached nodes, as bits.

    Groups come in an order in which a source is reached, or is not, before its edges are chosen.
    """
    inputs = cell.inputs

    def choices(state: int) -> Iterator[tuple[tuple[int, ...], int, float]]:
        live = state << inputs | (1 << inputs) - 1
        for chosen, score in sets:
            leading = tuple(e for e in chosen if live >> cell.edges[e][0] & 1)
            yield leading, _entered(cell, state, leading), score

    return choices


def _through(cell: CellSpec, groups: Groups, final: int) -> list[Group]:
    """Groups of outgoing edges, by node, of a cell without dead ends: an edge is part of it between nodes that stay.

    A first group foretells the nodes from which a path leads to one of `final`, as bits; the others hold it to that. A
    state is the reached nodes among these, and above them what was foretold.
    """
    inputs, nodes = cell.inputs, cell.nodes
    sources = [node for node in range(inputs + nodes) if cell.outgoing(node)]

    def foretold(state: int) -> Iterator[tuple[tuple[int, ...], int, float]]:
        return (((), leading << nodes, 0.0) for leading in range(1 << nodes) if leading & final == final)

    def leaving(source: int, sets: Sets) -> Group:
        def choices(state: int) -> Iterator[tuple[tuple[int, ...], int, float]]:
            leading = state >> nodes
            stays = source < inputs or state >> (source - inputs) & 1
            for chosen, score in sets:
                onward = tuple(e for e in chosen if leading >> (cell.edges[e][1] - inputs) & 1)
                if source < inputs or bool(onward) == bool(leading >> (source - inputs) & 1):
                    yield (onward, _entered(cell, state, onward), score) if stays else ((), state, score)

        return choices

    return [foretold, *map(leaving, sources, groups)]


def _entered(cell: CellSpec, state: int, edges: Sequence[int]) -> int:
    """The state after edges have been added: the nodes that they enter are reached."""
    for e in edges:
        state |= 1 << (cell.edges[e][1] - cell.inputs)
    return state


def _options(costs: Sequence[float], scores: Scores, e: int) -> Options:
    which = scores.allowed[e].nonzero().flatten().tolist()
    logs = scores.operations[e, which].double().clamp(min=1e-300).log()
    found = options([costs[k] for k in which], (logs - logs.max()).tolist())
    return found._replace(number=np.array([which[i] for i in found.number]))


def _nothing() -> Options:
    return Options(np.zeros(1), np.zeros(1), np.array([-1]))


def edge_sets(
    arch: ArchState, rules: Rules, cell_type: str, scores: Scores, live: Sequence[bool]
) -> tuple[Groups, bool]:
    """Return the sets of live edges of each group with their scores, and whether nodes may be left without an input.

    Args:
        arch: the searched state.
        rules: of the selection.
        cell_type: whose edges.
        scores: of that cell type.
        live: per edge, whether it has a candidate.

    Raises:
        RecipeError: a topology of a user's own.
    """
    cell, topology = arch.space.cells[cell_type], arch.topologies[cell_type]
    beta = arch.beta[cell_type].detach().cpu().double()
    incoming = [[e for e in cell.incoming(node) if live[e]] for node in cell.computed]
    if rules.edges == "all":
        return [[(tuple(edges), 0.0)] for edges in incoming], False
    if rules.edges == "magnitude" or isinstance(topology, Dense):
        return _of_size(incoming, rules.in_degree, scores.edges.double().clamp(min=1e-300).log()), False
    if isinstance(topology, Fixed):
        kept = set(topology.decode(beta))
        return [[(tuple(e for e in edges if e in kept), 0.0)] for edges in incoming], False
    if isinstance(topology, EdgeSoftmax):
        return _of_size(incoming, topology.keep, topology.weights(beta).clamp(min=1e-300).log()), False
    if isinstance(topology, EdgeSigmoid):
        odds = beta - math.log(topology.threshold / (1 - topology.threshold))
        return [_nonempty(edges, odds) for edges in incoming], False
    if isinstance(topology, Subsets):
        logs = topology.probabilities(beta).clamp(min=1e-300).log()
        return [
            [
                (tuple(e for e, on in zip(group.edges, row) if on and live[e]), float(log))
                for row, log in zip(group.choices.tolist(), logs[group.slice])
            ]
            for group in topology.groups
        ], topology.may_drop_nodes
    raise RecipeError(
        f"selection.budget knows the sets of edges of the topologies that come with topocell, but got "
        f"{type(topology).__name__}; use selection.edges=magnitude, or leave the budget out"
    )


def _of_size(incoming: Sequence[Sequence[int]], size: int, logs: Tensor) -> Groups:
    return [
        [
            (chosen, float(sum(logs[e] for e in chosen)))
            for chosen in itertools.combinations(edges, min(size, len(edges)))
        ]
        for edges in incoming
    ]


def _nonempty(edges: Sequence[int], odds: Tensor) -> list[tuple[tuple[int, ...], float]]:
    sizes = range(min(1, len(edges)), len(edges) + 1)
    return [(chosen, float(sum(odds[e] for e in chosen))) for n in sizes for chosen in itertools.combinations(edges, n)]
