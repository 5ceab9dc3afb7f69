"""Selection: from a searched architecture state to the cells of a genotype.

Which operation an edge keeps and which edges a cell keeps are two independent choices, each a row of a table.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from topocell.arch import ArchState
from topocell.engine.weights import ArchWeights
from topocell.errors import RecipeError, nearest
from topocell.genotype import CellGenotype
from topocell.rng import generator
from topocell.spaces.cell import CellSpec
from topocell.topology import Dense
from topocell.topology.base import named
from topocell.topology.wiring import without_orphans


@dataclass(frozen=True)
class Rules:
    """How a cell is derived.

    Attributes:
        operations: a row of `OPERATION_RULES`.
        edges: a row of `EDGE_RULES`.
        in_degree: edges kept per node by the rule `magnitude` (DARTS: 2).
        none: whether an edge may choose `none`, which removes it (NAS-Bench-201).
        seed: of the random rules.
    """

    operations: str = "magnitude"
    edges: str = "topology"
    in_degree: int = 2
    none: bool = False
    seed: int = 0


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

    def weights(self, like: Mapping[str, ArchWeights]) -> dict[str, ArchWeights]:
        """The derived cells as weights of the supernet: one for what is kept, zero for the rest."""
        out = {}
        for name, soft in like.items():
            ops, edges = torch.zeros_like(soft.ops), torch.zeros_like(soft.edges)
            for e in self.kept[name]:
                ops[e, self.chosen[name][e]], edges[e] = 1.0, 1.0
            out[name] = ArchWeights(ops, edges)
        return out


def _allowed(cell: CellSpec, mask: Tensor, none: bool) -> Tensor:
    """(E, K) bool: live candidates that an edge may choose."""
    real = [[k < len(c) and (none or c[k] != "none") for k in range(cell.n_candidates)] for c in cell.candidates]
    return mask.cpu() & torch.tensor(real)


def _strengths(arch: ArchState, cell_type: str, none: bool) -> Tensor:
    """(E, K) operation weights, −1 where a candidate cannot be chosen."""
    cell, mask = arch.space.cells[cell_type], arch.mask(cell_type)
    ops = arch.ops(cell_type).detach().cpu().double()
    return ops.masked_fill(~_allowed(cell, mask, none), -1.0)


def _largest(arch: ArchState, cell_type: str, rules: Rules) -> list[int | None]:
    strengths = _strengths(arch, cell_type, rules.none)
    return [int(row.argmax()) if float(row.max()) >= 0 else None for row in strengths]


def _any_operation(arch: ArchState, cell_type: str, rules: Rules) -> list[int | None]:
    draw = generator(rules.seed, "random operations", cell_type)
    allowed = _allowed(arch.space.cells[cell_type], arch.mask(cell_type), rules.none)
    picked: list[int | None] = []
    for row in allowed:
        options = row.nonzero().flatten().tolist()
        picked.append(options[int(torch.randint(len(options), (), generator=draw))] if options else None)
    return picked


def _strongest_inputs(arch: ArchState, cell_type: str, rules: Rules) -> tuple[list[int], str | None]:
    strengths = _strengths(arch, cell_type, none=False).max(1).values * arch.edges(cell_type).detach().cpu().double()
    cell, kept = arch.space.cells[cell_type], []
    for node in cell.computed:
        ranked = sorted(cell.incoming(node), key=lambda e: (-float(strengths[e]), e))
        kept += ranked[: rules.in_degree]
    return sorted(kept), None


def _by_topology(arch: ArchState, cell_type: str, rules: Rules) -> tuple[list[int], str | None]:
    decoded = arch.topologies[cell_type].decode_report(arch.beta[cell_type].detach().cpu())
    return list(decoded.kept), decoded.note


def _all_edges(arch: ArchState, cell_type: str, rules: Rules) -> tuple[list[int], str | None]:
    return list(range(arch.space.cells[cell_type].n_edges)), None


def _any_edges(arch: ArchState, cell_type: str, rules: Rules) -> tuple[list[int], str | None]:
    return arch.topologies[cell_type].random(generator(rules.seed, "random edges", cell_type)), None


OPERATION_RULES: dict[str, Callable[[ArchState, str, Rules], list[int | None]]] = {
    "magnitude": _largest,
    "random": _any_operation,
}

EDGE_RULES: dict[str, Callable[[ArchState, str, Rules], tuple[list[int], str | None]]] = {
    "magnitude": _strongest_inputs,
    "topology": _by_topology,
    "all": _all_edges,
    "random": _any_edges,
}


def check_rules(rules: Rules) -> None:
    """Raises RecipeError for a rule that does not exist."""
    for what, name, table in (
        ("operations", rules.operations, OPERATION_RULES),
        ("edges", rules.edges, EDGE_RULES),
    ):
        if name not in table:
            raise RecipeError(
                f"selection.{what} must be one of {', '.join(table)}, but got {name!r}{nearest(name, table)}"
            )


def derive(arch: ArchState, rules: Rules) -> Derived:
    """The cells that `rules` derive from the current architecture state.

    With rule `topology` on a topology that keeps all edges (`dense`) the rule `magnitude` decides instead.

    Raises:
        RecipeError: a rule that does not exist.
    """
    check_rules(rules)
    kept: dict[str, tuple[int, ...]] = {}
    chosen: dict[str, tuple[int | None, ...]] = {}
    cells: dict[str, CellGenotype] = {}
    notes: list[str] = []
    for name, cell in arch.space.cells.items():
        learned = not isinstance(arch.topologies[name], Dense)
        edge_rule = "magnitude" if rules.edges == "topology" and not learned else rules.edges
        ops = OPERATION_RULES[rules.operations](arch, name, rules)
        edges, note = EDGE_RULES[edge_rule](arch, name, rules)
        edges = [e for e in edges if (k := ops[e]) is not None and cell.candidates[e][k] != "none"]
        if arch.space.skeleton == "darts":  # in NAS-Bench-201 a node without an input is zero, and stays
            edges, dropped = map(list, without_orphans(cell, edges))
            note = note or (f"{named(dropped)} chose none on every edge: dropped" if dropped else None)
        kept[name], chosen[name] = tuple(edges), tuple(ops)
        cells[name] = _cell_genotype(cell, edges, ops)
        if note:
            notes.append(f"{name}: {note}")
    return Derived(kept, chosen, cells, tuple(notes))


def _cell_genotype(cell: CellSpec, kept: list[int], ops: list[int | None]) -> CellGenotype:
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
