"""Costs of the networks of a space as plain data: what each operation and each width of a cell's output adds.

A network of stacked cells costs the sum of its layers. Each layer belongs to the skeleton, to one operation of a cell,
or takes in the output of a cell, whose width is the number of nodes that it concatenates:

    cost = fixed + Σ_types ( widths[nodes of the output] + Σ_operations operations[stride][name] )

with the sums over all cells of a type taken beforehand. For parameters and multiply-adds this is exact.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from topocell.spaces.cell import CellSpec

Measure = Literal["parameters", "multiply_adds", "latency"]

#: In words, and in which unit.
UNITS: Mapping[str, str] = {"parameters": "parameters", "multiply_adds": "multiply-adds", "latency": "ms"}


class AnyCell(Protocol):
    """A derived cell, see `topocell.genotype.genotype.CellGenotype`."""

    @property
    def inputs(self) -> int:
        """Number of input nodes."""

    @property
    def nodes(self) -> Sequence[Sequence[tuple[str, int]]]:
        """Pairs (operation, predecessor) of each computed node."""

    @property
    def concat(self) -> Sequence[int]:
        """Nodes of the output."""


@dataclass(frozen=True)
class CellCosts:
    """What one cell type adds to the cost of a network, summed over all cells of that type.

    Args:
        operations: stride → name → cost of that operation on one edge. Where the cell has stride 2, stride 1 is that
            of the edges that leave a computed node, whose maps are half as high and wide.
        widths: at index w − 1, what an output of w nodes costs more than one of a single node.
    """

    operations: Mapping[int, Mapping[str, float]]
    widths: tuple[float, ...]

    def table(self, cell: CellSpec) -> list[list[float]]:
        """Return the cost (E, K) of every candidate of a cell; zero for `none`, which no network has, and padding."""
        rows = [
            [0.0 if name == "none" else self.operations[cell.edge_stride(e)][name] for name in names]
            for e, names in enumerate(cell.candidates)
        ]
        return [row + [0.0] * (cell.n_candidates - len(row)) for row in rows]


@dataclass(frozen=True)
class NetworkCosts:
    """The costs of all networks of a space at one size. Made by `topocell.nn.costs.network_costs`.

    Args:
        measure: parameters, multiply_adds (of one image) or latency (milliseconds).
        fixed: what a network costs without operations, each cell with an output of a single node.
        cells: cell type → what it adds.
    """

    measure: Measure
    fixed: float
    cells: Mapping[str, CellCosts]

    def of(self, cells: Mapping[str, AnyCell], strides: Mapping[str, int]) -> float:
        """Return the cost of the network of derived cells; `strides` are those of the cell types, see `Stacking`."""
        total = self.fixed
        for name, cell in cells.items():
            own = self.cells[name]
            total += own.widths[len(cell.concat) - 1]
            for pairs in cell.nodes:
                total += sum(own.operations[strides[name] if p < cell.inputs else 1][op] for op, p in pairs)
        return total

    def words(self, cost: float) -> str:
        """A cost with its unit: `2.93 M parameters`, `41.2 ms`."""
        if self.measure == "latency":
            return f"{cost:.4g} ms"
        return f"{cost:,.0f} {UNITS[self.measure]}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint."""
        cells = {
            name: {"operations": {str(s): dict(row) for s, row in c.operations.items()}, "widths": list(c.widths)}
            for name, c in self.cells.items()
        }
        return {"measure": self.measure, "fixed": self.fixed, "cells": cells}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "NetworkCosts":
        """Take over what `to_dict` returned."""
        cells = {
            name: CellCosts({int(s): dict(row) for s, row in c["operations"].items()}, tuple(c["widths"]))
            for name, c in data["cells"].items()
        }
        return cls(data["measure"], data["fixed"], cells)
