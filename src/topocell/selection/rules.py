"""Selection: from a searched architecture state to the cells of a genotype.

Which operation an edge keeps and which edges a cell keeps are two independent choices, each a row of a table.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from topocell.arguments import checked
from topocell.config.selection import PERTURBATION, Rules, budget_fault, threshold_fault, trials_fault
from topocell.errors import RecipeError, SpaceError, nearest
from topocell.genotype.genotype import CellGenotype, Genotype
from topocell.registry import Registry
from topocell.relaxation import candidate_table
from topocell.runtime.rng import below, generator
from topocell.selection.budget import Scores, choosable, within
from topocell.spaces.cell import CellSpec, SpaceSpec
from topocell.supernet.arch_state import ArchState
from topocell.supernet.weights import ArchWeights
from topocell.topology import Dense
from topocell.topology.assignments import without_dead_ends, without_orphans
from topocell.topology.base import named


@dataclass(frozen=True)
class Derived:
    """Derived cells, and notes in words.

    `kept` are the edges of the cells, all with an operation; `chosen` is the candidate index of every edge, kept or
    not, None where an edge has nothing to choose.
    """

    kept: Mapping[str, tuple[int, ...]]
    chosen: Mapping[str, tuple[int | None, ...]]
    cells: Mapping[str, CellGenotype]
    notes: tuple[str, ...]

    @checked(SpaceError)
    def genotype(self, space: SpaceSpec, origin: Mapping[str, Any] | None = None) -> Genotype:
        """The cells as a genotype of the space that they were searched in."""
        return Genotype(space.name, self.cells, origin or {}, space.skeleton)

    def weights(self, like: Mapping[str, ArchWeights]) -> dict[str, ArchWeights]:
        """The derived cells as weights of the supernet: one for what is kept, zero for the rest."""
        out = {}
        for name, soft in like.items():
            ops, edges = torch.zeros_like(soft.ops), torch.zeros_like(soft.edges)
            for e in self.kept[name]:
                ops[e, self.chosen[name][e]], edges[e] = 1.0, 1.0
            out[name] = ArchWeights(ops, edges)
        return out


def _is(cell: CellSpec, operation: str) -> Tensor:
    """(E, K) bool: the candidates of that name."""
    return torch.from_numpy(candidate_table(cell, {operation: True}, False))


def _strengths(arch: ArchState, cell_type: str, allowed: Tensor) -> Tensor:
    """(E, K) operation weights, −1 where a candidate is not allowed."""
    return arch.strengths(cell_type).masked_fill(~allowed, -1.0)


def _largest(arch: ArchState, cell_type: str, rules: Rules, allowed: Tensor) -> list[int | None]:
    strengths = _strengths(arch, cell_type, allowed)
    return [int(row.argmax()) if float(row.max()) >= 0 else None for row in strengths]


def _any_operation(arch: ArchState, cell_type: str, rules: Rules, allowed: Tensor) -> list[int | None]:
    draw = generator(rules.seed, "random operations", cell_type)
    picked: list[int | None] = []
    for row in allowed:
        options = row.nonzero().flatten().tolist()
        picked.append(options[below(len(options), draw)] if options else None)
    return picked


def _strongest_inputs(arch: ArchState, cell_type: str, rules: Rules, allowed: Tensor) -> tuple[list[int], str | None]:
    cell, kept = arch.space.cells[cell_type], []
    best, strengths = edge_strengths(arch, cell_type, allowed)
    least = -1.0 if rules.threshold is None else rules.threshold
    rescued = 1 if rules.isolated == "rescue" else 0
    for node in cell.computed:
        ranked = sorted(cell.incoming(node), key=lambda e: (-float(strengths[e]), e))
        kept += [e for e in ranked if float(best[e]) >= least][: rules.in_degree] or ranked[:rescued]
    return (sorted(kept), None) if rescued else _without_isolated(cell, sorted(kept), strengths, least)


def _without_isolated(cell: CellSpec, kept: list[int], strengths: Tensor, least: float) -> tuple[list[int], str | None]:
    """The kept edges without those that leave nodes without an input; the best one there can be where none is left."""
    connected, dropped = without_orphans(cell, kept)
    ends = cell.computed[-1:] if cell.output == "last" else cell.computed
    if not set(ends) <= set(dropped):
        return list(connected), f"no input of {named(dropped)} reaches {least:g}: dropped" if dropped else None
    through = [e for e, (source, node) in enumerate(cell.edges) if source < cell.inputs and node in ends]
    first = max(through, key=lambda e: float(strengths[e]))
    return [first], f"no edge that leaves an input reaches {least:g}; kept the best one, {cell.edges[first]}"


def _strongest_outputs(arch: ArchState, cell_type: str, rules: Rules, allowed: Tensor) -> tuple[list[int], str | None]:
    cell, kept = arch.space.cells[cell_type], []
    _, strengths = edge_strengths(arch, cell_type, allowed)
    for node in range(cell.inputs + cell.nodes):
        ranked = sorted(cell.outgoing(node), key=lambda e: (-float(strengths[e]), e))
        kept += ranked[: min(rules.in_degree, max(1, len(ranked) - 1))]
    _, dropped = without_orphans(cell, sorted(kept))
    note = f"the strongest outgoing edges leave {named(dropped)} without an input: dropped" if dropped else None
    return sorted(kept), note


def edge_strengths(arch: ArchState, cell_type: str, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Return per edge (E,) the weight of its strongest operation besides none, and that times the edge's weight.

    Args:
        arch: the searched state.
        cell_type: whose edges.
        allowed: (E, K) bool, the candidates that may be chosen. An edge without any has −1.
    """
    ops = arch.strengths_of_all(cell_type)
    best = ops.masked_fill(~allowed | _is(arch.space.cells[cell_type], "none"), -1.0).max(1).values
    return best, best * arch.edge_strengths(cell_type)


def _by_topology(arch: ArchState, cell_type: str, rules: Rules, allowed: Tensor) -> tuple[list[int], str | None]:
    decoded = arch.topologies[cell_type].decode_report(arch.beta[cell_type].detach().cpu())
    return list(decoded.kept), decoded.note


def _all_edges(arch: ArchState, cell_type: str, rules: Rules, allowed: Tensor) -> tuple[list[int], str | None]:
    return list(range(arch.space.cells[cell_type].n_edges)), None


def _any_edges(arch: ArchState, cell_type: str, rules: Rules, allowed: Tensor) -> tuple[list[int], str | None]:
    cell, topology = arch.space.cells[cell_type], arch.topologies[cell_type]
    draw = generator(rules.seed, "random edges", cell_type)
    if not isinstance(topology, Dense):
        return topology.random(draw), None
    kept = []
    for node in cell.computed:
        inputs = cell.incoming(node)
        order = torch.randperm(len(inputs), generator=draw, device=draw.device).tolist()
        kept += [inputs[i] for i in order[: rules.in_degree]]
    return sorted(kept), None


#: Rules take the state, a cell type, all rules, and (E, K) bool: the live candidates that may be chosen.
#: `perturbation` takes what a projection has left; in the middle of one, and in diagnostics of a search, the strongest.
OPERATION_RULES = Registry[Callable[[ArchState, str, Rules, Tensor], list[int | None]]](
    "operation rule",
    {
        "magnitude": _largest,
        "random": _any_operation,
        PERTURBATION: _largest,
    },
)

EDGE_RULES = Registry[Callable[[ArchState, str, Rules, Tensor], tuple[list[int], str | None]]](
    "edge rule",
    {
        "magnitude": _strongest_inputs,
        "magnitude-outgoing": _strongest_outputs,
        "topology": _by_topology,
        "all": _all_edges,
        "random": _any_edges,
        PERTURBATION: _strongest_inputs,
    },
)


def check_rules(rules: Rules) -> None:
    """Raise RecipeError for a rule that does not exist, a threshold that no rule reads, a budget beside other rules."""
    if fault := threshold_fault(rules) or budget_fault(rules) or trials_fault(rules):
        raise RecipeError(fault)
    for what, name, table in (
        ("operations", rules.operations, OPERATION_RULES),
        ("edges", rules.edges, EDGE_RULES),
    ):
        if name not in table:
            raise RecipeError(
                f"selection.{what} must be one of {', '.join(table)}, but got {name!r}{nearest(name, table)}"
            )


@checked(SpaceError)
def derive(arch: ArchState, rules: Rules) -> Derived:
    """The cells that `rules` derive from the current architecture state.

    With rule `topology` on a topology that keeps all edges (`dense`) the rule `magnitude` decides instead. Where the
    cells cost more than `rules.budget`, they are the most likely ones within it (`topocell.selection.budget`).

    Raises:
        RecipeError: a rule that does not exist; a budget that no cell meets, or without the costs of networks.
    """
    check_rules(rules)
    kept: dict[str, tuple[int, ...]] = {}
    chosen: dict[str, tuple[int | None, ...]] = {}
    cells: dict[str, CellGenotype] = {}
    notes: list[str] = []
    for name, cell in arch.space.cells.items():
        learned = not isinstance(arch.topologies[name], Dense)
        edge_rule = "magnitude" if rules.edges == "topology" and not learned else rules.edges
        allowed = choosable(arch, name, rules)
        while True:
            ops = OPERATION_RULES[rules.operations](arch, name, rules, allowed)
            edges, note = EDGE_RULES[edge_rule](arch, name, rules, allowed)
            edges = [e for e in edges if (k := ops[e]) is not None and cell.candidates[e][k] != "none"]
            surplus = _surplus_skip(arch, name, rules, allowed, [(e, ops[e] or 0) for e in edges])
            if surplus is None:
                break
            allowed[surplus] = False
        if "cell" not in arch.space.cells:  # in NAS-Bench-201 a node without an input is zero, and stays
            through = edge_rule == "topology" and arch.topologies[name].drops_dead_ends
            edges, dropped = map(list, (without_dead_ends if through else without_orphans)(cell, edges))
            note = note or (f"{named(dropped)} chose none on every edge: dropped" if dropped else None)
        kept[name], chosen[name] = tuple(edges), tuple(ops)
        cells[name] = cell_genotype(cell, edges, ops)
        if note:
            notes.append(f"{name}: {note}")
    derived = Derived(kept, chosen, cells, tuple(notes))
    return derived if rules.budget is None else _affordable(arch, rules, derived)


def _affordable(arch: ArchState, rules: Rules, derived: Derived) -> Derived:
    """The derived cells where they are within the budget, else the most likely ones that are."""
    space, costs, budget = arch.space, rules.costs, rules.budget
    assert budget is not None
    if costs is None or costs.measure != budget.measure:
        raise RecipeError(
            f"selection.budget needs the {budget.measure} of networks, but the rules have none; set Rules.costs by "
            f"topocell.nn.costs.network_costs"
        )
    strides = {name: cell.stride for name, cell in space.cells.items()}
    wanted = costs.of(derived.cells, strides)
    if wanted <= budget.limit:
        return derived
    scores = {}
    for name in space.cells:
        allowed = choosable(arch, name, rules)
        scores[name] = Scores(allowed, arch.strengths(name), edge_strengths(arch, name, allowed)[1])
    kept: dict[str, tuple[int, ...]] = {}
    chosen: dict[str, tuple[int | None, ...]] = {}
    cells: dict[str, CellGenotype] = {}
    for name, picked in within(arch, rules, scores).items():
        cell = space.cells[name]
        kept[name] = tuple(e for e, k in picked.items() if cell.candidates[e][k] != "none")
        chosen[name] = tuple(picked.get(e, k) for e, k in enumerate(derived.chosen[name]))
        cells[name] = cell_genotype(cell, list(kept[name]), list(chosen[name]))
    note = (
        f"the most likely cell has {costs.words(wanted)}, above selection.budget.limit={budget.limit:g}; took the most "
        f"likely one within it, {costs.words(costs.of(cells, strides))}"
    )
    return Derived(kept, chosen, cells, (*derived.notes, note))


def _surplus_skip(
    arch: ArchState, cell_type: str, rules: Rules, allowed: Tensor, chosen: list[tuple[int, int]]
) -> tuple[int, int] | None:
    """The weakest of too many skip connections among the `chosen` (edge, candidate) that an edge can do without."""
    cell = arch.space.cells[cell_type]
    skips = [(e, k) for e, k in chosen if cell.candidates[e][k] == "skip_connect"]
    if rules.max_skips is None or cell.stride != 1 or len(skips) <= rules.max_skips:
        return None
    others = (allowed & ~_is(cell, "none")).sum(1) > 1
    strengths = _strengths(arch, cell_type, allowed)
    return min(((e, k) for e, k in skips if others[e]), key=lambda at: float(strengths[at]), default=None)


def cell_genotype(cell: CellSpec, kept: list[int], ops: list[int | None]) -> CellGenotype:
    """One cell as a genotype: its kept edges, each with the candidate `ops[e]`."""
    nodes = tuple(
        tuple((cell.candidates[e][ops[e] or 0], cell.edges[e][0]) for e in cell.incoming(node) if e in kept)
        for node in cell.computed
    )
    if cell.output == "last":
        return CellGenotype(cell.inputs, nodes, (cell.computed[-1],))
    return CellGenotype(cell.inputs, nodes, tuple(n for n, pairs in zip(cell.computed, nodes) if pairs))


def cells_as_dict(cells: Mapping[str, CellGenotype]) -> dict[str, Any]:
    """The `cells` part of a genotype's JSON."""
    return {
        name: {
            "inputs": c.inputs,
            "nodes": [[list(p) for p in node] for node in c.nodes],
            "concat": list(c.concat),
        }
        for name, c in cells.items()
    }
