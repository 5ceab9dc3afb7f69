"""α → ops: the weight of each candidate operation on each edge.

The supernet only sees `weights(alpha, mask) -> (E, K)`. `mask` says which candidates are live: not padding
on an edge with fewer than K candidates, and not removed by a shrink or a decision. A new relaxation is one
class that implements `Relaxation` and one row in `RELAXATIONS`.
"""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from topocell import axes
from topocell.errors import RecipeError, SpaceError, nearest
from topocell.spaces.cell import OPERATIONS, CellSpec


def candidate_mask(cell: CellSpec) -> Tensor:
    """Bool (E, K): True where edge e has a k-th candidate, False where the row is padding."""
    return torch.tensor(cell.live)


class Relaxation(ABC):
    """What a relaxation, also a user's own, implements: `weights`, and `parts` if an edge has several.

    `alpha` (E, K) are the logits of one cell type and `mask` bool (E, K) its live candidates, on one device.
    A *part* is a set of candidates of one edge that share a distribution; here each edge is one part.
    """

    #: Whether `weights` draws a new sample on every call.
    sampled: bool = False

    def __init__(self, cell: CellSpec) -> None:
        self.cell = cell
        self._none = axes.Constants(none=_table(cell, {"none": True}, False))

    @abstractmethod
    def weights(self, alpha: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
        """Operation weights (E, K), differentiable in `alpha`; exactly 0 where `mask` is False.

        Logits are divided by `temperature` (> 0). An edge without live candidates gets zeros and no gradient.

        Raises:
            SpaceError: `alpha` or `mask` does not have the shape (E, K) of the cell.
            RecipeError: the temperature is not positive.
        """

    def parts(self, mask: Tensor) -> list[Tensor]:
        """Bool (E, K) masks that split the live candidates, at most one part per edge in each."""
        return [mask]

    def retained(self, weights: Tensor, mask: Tensor) -> Tensor:
        """Bool (E, K): the live candidate of largest weight of each part of each edge; ties go to the first.

        `none` may win a part while another part of the edge is live (DOTS, stage 1). It is passed over where
        that would leave the edge with `none` alone, as DARTS does; DOTS' Eq. 14 does not exclude it there.
        """
        parts = self.parts(mask)
        live_parts = sum(part.any(1, keepdim=True).long() for part in parts)
        kept = torch.zeros_like(mask)
        for part in parts:
            others = part & ~self._none.get("none", mask)
            others_only = (live_parts == 1) & others.any(1, keepdim=True)
            eligible = torch.where(others_only, others, part)
            winner = weights.masked_fill(~eligible, -math.inf).argmax(1, keepdim=True)
            kept |= torch.zeros_like(mask).scatter(1, winner, True) & eligible
        return kept

    def entropy(self, weights: Tensor, mask: Tensor) -> Tensor:
        """Mean entropy in nats, zero-dimensional, over the parts of edges with two and more live candidates.

        Zero when nothing is left to decide. `weights` are those of a distribution, not of a sample.
        """
        total, choosing = weights.new_zeros(()), weights.new_zeros(())
        for part in self.parts(mask):
            open_parts = part.sum(1) > 1
            entropy = torch.special.entr(weights.detach().masked_fill(~part, 0)).sum(1)
            total = total + (entropy * open_parts).sum()
            choosing = choosing + open_parts.sum()
        return total / choosing.clamp(min=1)

    def _logits(self, alpha: Tensor, mask: Tensor, temperature: float) -> Tensor:
        """`alpha` after checks of the three arguments."""
        shape = (self.cell.n_edges, self.cell.n_candidates)
        for name, value in (("alpha", alpha), ("mask", mask)):
            if value.shape != shape:
                raise SpaceError(
                    f"{name} has one row per edge and one column per candidate of the cell, {shape}, but got "
                    f"{tuple(value.shape)}; make it for this cell"
                )
        axes.check_temperature(temperature)
        return alpha


class Softmax(Relaxation):
    """softmax((α + offset) / T) over the live candidates of each edge (DARTS).

    Args:
        cell: the cell.
        offset: operation → constant added to its logit on every edge, 0 for the others: the operation
            attention of eDARTS. The paper does not say how its constants enter. A constant offset is our
            reading: added at each of the 50 updates they would outweigh all that Adam can learn.

    Raises:
        RecipeError: an offset for an unknown operation, or only for operations that the cell does not offer.
    """

    def __init__(self, cell: CellSpec, offset: Mapping[str, float] | None = None) -> None:
        super().__init__(cell)
        self.offset = {op: float(value) for op, value in (offset or {}).items()}
        _known("an offset", self.offset)
        if self.offset and not _offered(cell).intersection(self.offset):
            raise RecipeError(
                f"an offset is for candidates of the cell, {sorted(_offered(cell))}, but got "
                f"{sorted(self.offset)}; name one of them or leave the offset out"
            )
        self._offset = axes.Constants(offset=_table(cell, self.offset, 0.0))

    def weights(self, alpha: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
        """Softmax over the live candidates of each part (E, K): sums to 1 per part with a live candidate."""
        logits = self._logits(alpha, mask, temperature)
        if self.offset:
            logits = logits + self._offset.get("offset", alpha)
        logits = logits / temperature
        lowest = torch.finfo(logits.dtype).min  # finite: a row without live candidates stays free of NaN
        weights = torch.zeros_like(logits)
        for part in self.parts(mask):
            weights = weights + torch.softmax(logits.masked_fill(~part, lowest), 1).masked_fill(~part, 0)
        return weights


class GroupedSoftmax(Softmax):
    """A softmax within each group of operations of each edge, the weights added up (DOTS, stage 1).

    An edge's weights sum to its number of groups with a live candidate, 2 in DOTS' {none, pools, skip} and
    {convolutions}. One winner per group is retained, and `none` may be one.

    Args:
        cell: the cell.
        groups: lists of operations that together hold each candidate of the cell exactly once. Operations
            that the cell does not offer are allowed: one recipe serves several spaces.
        offset: as for `Softmax`.

    Raises:
        RecipeError: an unknown operation, an empty group, or a candidate in no group or in two.
    """

    def __init__(
        self, cell: CellSpec, groups: Sequence[Sequence[str]], offset: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(cell, offset)
        self.groups = tuple(tuple(group) for group in groups)
        counts = Counter(op for group in self.groups for op in group)
        _known("a group", counts)
        if not all(self.groups):
            raise RecipeError(f"a group names at least one operation, but got {[list(g) for g in groups]}; drop it")
        for op, count in counts.items():
            if count > 1:
                raise RecipeError(f"an operation is in exactly one group, but {op!r} is in {count}; keep it in one")
        for op in sorted(_offered(cell) - set(counts)):
            raise RecipeError(f"each candidate is in exactly one group, but {op!r} is in none; add it to a group")
        self._members = [axes.Constants(group=_table(cell, dict.fromkeys(g, True), False)) for g in self.groups]

    def parts(self, mask: Tensor) -> list[Tensor]:
        """The live candidates of each group."""
        return [mask & members.get("group", mask) for members in self._members]


class Uniform(Relaxation):
    """1 / (number of live candidates) on each edge, whatever α: for fixed-α supernets (DARTS-PT).

    All candidates are equal: operations cannot be selected by weight, and `retained` keeps the first of each
    edge.
    """

    def weights(self, alpha: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
        """Equal weights (E, K), summing to 1 on each edge with a live candidate; `alpha` gets no gradient."""
        live = mask.to(self._logits(alpha, mask, temperature).dtype)
        return live / live.sum(1, keepdim=True).clamp(min=1)


def _table(cell: CellSpec, value: Mapping[str, float], missing: float) -> np.ndarray:
    """(E, K): the value of each candidate, `missing` for the others and for padding."""
    rows = [[value.get(op, missing) for op in ops] for ops in cell.candidates]
    return np.array([row + [missing] * (cell.n_candidates - len(row)) for row in rows])


def _offered(cell: CellSpec) -> set[str]:
    return {op for ops in cell.candidates for op in ops}


def _known(what: str, ops: Iterable[str]) -> None:
    for op in ops:
        if op not in OPERATIONS:
            raise RecipeError(f"{what} names known operations, but got {op!r}{nearest(op, OPERATIONS)}")


RELAXATIONS: dict[str, Callable[..., Relaxation]] = {
    "softmax": Softmax,
    "grouped-softmax": GroupedSoftmax,
    "uniform": Uniform,
}


def build(name: str, cell: CellSpec, **options: Any) -> Relaxation:
    """The relaxation of that name for one cell, e.g. `build("softmax", cell, offset={"sep_conv_3x3": 6e-4})`.

    Raises:
        RecipeError: unknown name, or an option that is unknown, missing or out of range.
    """
    return axes.build("relaxation", RELAXATIONS, name, cell, **options)
