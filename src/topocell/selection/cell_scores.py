"""What a search says of any given cell: its probability under α and β, and its weights in the supernet."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch

from topocell.config.selection import Rules
from topocell.genotype.genotype import CellGenotype
from topocell.selection.budget import Scores, choosable, edge_sets
from topocell.selection.rules import edge_strengths
from topocell.spaces.cell import CellSpec, Edge
from topocell.supernet.arch_state import ArchState
from topocell.supernet.weights import ArchWeights, OneHotWeights

#: Least weight whose logarithm is taken.
LEAST = 1e-300


class LogProbability(NamedTuple):
    """Natural logarithms: of the operations of a cell on its edges, and of its set of edges."""

    operations: float
    wiring: float


class CellDistribution:
    """The distribution over cells that the weights of a searched state stand for, at temperature 1.

    Each group of edges draws its set in proportion to its score, see `topocell.selection.budget`: for `subsets` the
    probability of the set. Each edge of the cell then draws its operation in proportion to its weight among those that
    selection may choose. Under the rule `all` every edge is drawn, with `none` as one more operation.

    Args:
        operations: the state whose α count, with all candidates of the space.
        wiring: the state whose β count; its candidates may have been decided already.
        rules: of the selection.

    Raises:
        RecipeError: a topology of a user's own, whose sets of edges are not known.
    """

    def __init__(self, operations: ArchState, wiring: ArchState, rules: Rules) -> None:
        self._all = rules.edges == "all"
        self._operations = {t: _log_shares(operations, t, rules) for t in operations.space.cells}
        self._sets = {t: _log_sets(wiring, t, rules) for t in wiring.space.cells}

    def log_probability(self, cells: Mapping[str, CellGenotype]) -> LogProbability | None:
        """Return the log-probability of a cell of each type; None where some cell is never drawn.

        It is that of drawing exactly these edges: a node that a cell drops later is not taken for one without edges.
        """
        operations = wiring = 0.0
        if not cells.keys() <= self._sets.keys():
            return None
        for name, cell in cells.items():
            chosen = chosen_operations(cell)
            shares = self._operations[name]
            if self._all:
                chosen = {edge: chosen.get(edge, "none") for edge in shares} | chosen
            logs = [shares.get(edge, {}).get(op) for edge, op in chosen.items()]
            sets = _log_of_sets(self._sets[name], chosen)
            if sets is None or None in logs:
                return None
            operations += sum(log for log in logs if log is not None)
            wiring += sets
        return LogProbability(operations, wiring)


def at_equal_logits(arch: ArchState) -> ArchState:
    """Return a copy of a state before any search: all logits are zero, so that nothing is preferred."""
    found = copy.deepcopy(arch)
    with torch.no_grad():
        for logits in found.parameters():
            logits.zero_()
    return found


def one_shot(arch: ArchState, cells: Mapping[str, CellGenotype]) -> dict[str, ArchWeights] | None:
    """Return the weights under which the supernet is the network of a cell of each type.

    They are 1 for its operations and its edges, 0 for all others.

    Args:
        arch: of the supernet.
        cells: by type.

    Returns None where the supernet lacks an operation of the cell, as after its candidates were decided.
    """
    found: dict[str, ArchWeights] = {}
    like = arch.expected()
    for name, own in cells.items():
        cell, live = arch.space.cells[name], arch.mask(name).tolist()
        ops, edges = torch.zeros_like(like[name].ops), torch.zeros_like(like[name].edges)
        index = {edge: e for e, edge in enumerate(cell.edges)}
        for edge, op in chosen_operations(own).items():
            e = index.get(edge, -1)
            if e < 0 or op not in cell.candidates[e] or not live[e][cell.candidates[e].index(op)]:
                return None
            ops[e, cell.candidates[e].index(op)], edges[e] = 1.0, 1.0
        found[name] = OneHotWeights(ops.detach(), edges.detach())
    return found


def chosen_operations(cell: CellGenotype) -> dict[Edge, str]:
    """Return the edges of a cell as (source, node), each with its operation."""
    return {(source, node): op for node, pairs in enumerate(cell.nodes, start=cell.inputs) for op, source in pairs}


def _log_shares(arch: ArchState, cell_type: str, rules: Rules) -> dict[Edge, dict[str, float]]:
    """Per edge the logarithm of the share of each operation that may be chosen."""
    cell = arch.space.cells[cell_type]
    found = {}
    for edge, names, row in zip(cell.edges, cell.candidates, arch.strengths_of_all(cell_type)):
        may = [name != "none" or rules.none for name in names]
        weights = row[: len(names)].clamp(min=LEAST)[torch.tensor(may, device="cpu")]
        logs = (weights.log() - weights.sum().log()).tolist()
        found[edge] = dict(zip((name for name, on in zip(names, may) if on), logs))
    return found


def _log_sets(arch: ArchState, cell_type: str, rules: Rules) -> list[tuple[set[Edge], dict[frozenset[Edge], float]]]:
    """Per group its edges, and the logarithm of the probability of each set of them."""
    cell, allowed = arch.space.cells[cell_type], choosable(arch, cell_type, rules)
    scores = Scores(allowed, arch.strengths(cell_type), edge_strengths(arch, cell_type, allowed)[1])
    groups, _ = edge_sets(arch, rules, cell_type, scores, allowed.any(1).tolist())
    return [_normalised(cell, group) for group in groups]


def _normalised(
    cell: CellSpec, group: Sequence[tuple[tuple[int, ...], float]]
) -> tuple[set[Edge], dict[frozenset[Edge], float]]:
    total = _log_of_sum([score for _, score in group])
    found: dict[frozenset[Edge], list[float]] = {}
    for edges, score in group:
        found.setdefault(frozenset(cell.edges[e] for e in edges), []).append(score - total)
    logs = {edges: _log_of_sum(of) for edges, of in found.items()}
    return set().union(*logs), logs


def _log_of_sum(logs: Sequence[float]) -> float:
    """The logarithm of a sum, from those of its terms."""
    return float(torch.tensor(logs, dtype=torch.float64, device="cpu").logsumexp(0))


def _log_of_sets(
    groups: Sequence[tuple[set[Edge], dict[frozenset[Edge], float]]], chosen: Iterable[Edge]
) -> float | None:
    """The logarithm of the probability of exactly these edges; None where a group has no such set."""
    kept, total = set(chosen), 0.0
    for edges, logs in groups:
        log = logs.get(frozenset(kept & edges))
        if log is None:
            return None
        total += log
        kept -= edges
    return None if kept else total
