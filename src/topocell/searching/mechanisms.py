"""Ending a stage early: the two criteria of DARTS+ (Liang et al., 2019), with which eDARTS compares its search."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from topocell.relaxation import candidate_table
from topocell.spaces.cell import CellSpec, SpaceSpec
from topocell.spaces.operations import KNOWN_OPERATIONS
from topocell.supernet.arch_state import ArchState


def ranking(arch: ArchState, cell_type: str) -> Tensor:
    """(E, K) long: the candidates of every edge from the most to the least likely; those without weights come last.

    Only operations with weights are ranked (DARTS+: "the ranking of α for learnable operations").
    """
    cell = arch.space.cells[cell_type]
    learnable = torch.from_numpy(
        candidate_table(cell, {name: False for name, row in KNOWN_OPERATIONS.items() if row.weightless}, True)
    )
    weights = arch.strengths(cell_type).masked_fill(~(arch.mask(cell_type).cpu() & learnable), -1.0)
    return weights.sort(dim=1, descending=True, stable=True).indices


def has_ranking(cell: CellSpec) -> bool:
    """Whether some edge has two candidates with weights, which can change places."""
    return any(sum(not KNOWN_OPERATIONS[op].weightless for op in candidates) > 1 for candidates in cell.candidates)


class Stopping:
    """Says after each epoch whether a stage should end.

    Args:
        skips: end when the derived cell of stride 1 has so many skip connections (DARTS+, criterion 1: 2), or never.
        stable: end when the ranking of the operations with weights was the same on every edge for so many epochs
            (criterion 2: 10), or never.
        first: the first 0-based epoch after which it may end.
    """

    def __init__(self, skips: int | None, stable: int | None, first: int) -> None:
        self.skips, self.stable, self.first = skips, stable, first
        self._rankings: dict[str, Tensor] = {}
        self._unchanged = 0

    def after_epoch(self, epoch: int, arch: ArchState, operations: Mapping[str, Mapping[str, int]]) -> str | None:
        """Why to end after this 0-based epoch, in words, or None; `operations` counts those of the derived cells."""
        now = {name: ranking(arch, name) for name in arch.space.cells}
        same = bool(self._rankings) and all(torch.equal(now[name], before) for name, before in self._rankings.items())
        self._rankings, self._unchanged = now, self._unchanged + 1 if same else 0
        if epoch < self.first:
            return None
        for name, counts in operations.items():
            found = counts.get("skip_connect", 0)
            if self.skips is not None and arch.space.cells[name].stride == 1 and found >= self.skips:
                return f"the {name} cell has {found} skip connections"
        if self.stable is not None and self._unchanged >= self.stable:
            return f"the ranking of operations has not changed for {self._unchanged} epochs"
        return None

    def state_dict(self) -> dict[str, Any]:
        """The last ranking, (E, K) per cell type, and for how many epochs it has stood."""
        return {"rankings": dict(self._rankings), "unchanged": self._unchanged}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The state of `state_dict`."""
        self._rankings = {name: order.cpu() for name, order in state["rankings"].items()}
        self._unchanged = state["unchanged"]


def attention(space: SpaceSpec, constants: Mapping[str, float], device: torch.device) -> dict[str, Tensor] | None:
    """Operation → constant as one table (E, K) per cell type, zero for the others; None without any constant."""
    if not constants:
        return None
    tables = {name: candidate_table(cell, constants, 0.0) for name, cell in space.cells.items()}
    return {name: torch.tensor(table, dtype=torch.float32, device=device) for name, table in tables.items()}
