"""Relaxations that are functions of α alone: softmax, softmax within groups, independent sigmoids, uniform."""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from topocell.arguments import checked
from topocell.errors import RecipeError, SpaceError
from topocell.relaxation.base import Relaxation, candidate_table, check_known, offered
from topocell.runtime.constants import Constants
from topocell.spaces.cell import CellSpec


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

    @checked(SpaceError)
    def __init__(self, cell: CellSpec, offset: Mapping[str, float] | None = None) -> None:
        super().__init__(cell)
        self.offset = {op: float(value) for op, value in (offset or {}).items()}
        check_known("an offset", self.offset)
        if self.offset and not offered(cell).intersection(self.offset):
            raise RecipeError(
                f"an offset is for candidates of the cell, {sorted(offered(cell))}, but got "
                f"{sorted(self.offset)}; name one of them or leave the offset out"
            )
        self._offset = Constants(offset=candidate_table(cell, self.offset, 0.0))

    def weights(self, alpha: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
        """Softmax over the live candidates of each part (E, K): sums to 1 per part with a live candidate."""
        return self._softmax(self._shifted(alpha, mask, temperature) / temperature, mask)

    def _shifted(self, alpha: Tensor, mask: Tensor, temperature: float) -> Tensor:
        """α + offset (E, K), after checks."""
        logits = self._logits(alpha, mask, temperature)
        return logits + self._offset.get("offset", alpha) if self.offset else logits

    def _softmax(self, logits: Tensor, mask: Tensor) -> Tensor:
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

    @checked(SpaceError)
    def __init__(
        self, cell: CellSpec, groups: Sequence[Sequence[str]], offset: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(cell, offset)
        self.groups = tuple(tuple(group) for group in groups)
        counts = Counter(op for group in self.groups for op in group)
        check_known("a group", counts)
        if not all(self.groups):
            raise RecipeError(f"a group names at least one operation, but got {[list(g) for g in groups]}; drop it")
        for op, count in counts.items():
            if count > 1:
                raise RecipeError(f"an operation is in exactly one group, but {op!r} is in {count}; keep it in one")
        for op in sorted(offered(cell) - set(counts)):
            raise RecipeError(f"each candidate is in exactly one group, but {op!r} is in none; add it to a group")
        self._members = [
            Constants(group=candidate_table(cell, dict.fromkeys(group, True), False)) for group in self.groups
        ]

    def parts(self, mask: Tensor) -> list[Tensor]:
        """The live candidates of each group."""
        return [mask & members.get("group", mask) for members in self._members]


class Uniform(Relaxation):
    """1 / (number of live candidates) on each edge, whatever α: for fixed-α supernets (DARTS-PT).

    All candidates are equal: operations cannot be selected by weight, and `retained` keeps the first of each
    edge.
    """

    learned = False

    def weights(self, alpha: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
        """Equal weights (E, K), summing to 1 on each edge with a live candidate; `alpha` gets no gradient."""
        live = mask.to(self._logits(alpha, mask, temperature).dtype)
        return live / live.sum(1, keepdim=True).clamp(min=1)


class Sigmoid(Relaxation):
    """sigmoid(α / T): each candidate for itself, so that none has to lose for another to win (FairDARTS).

    The weights of an edge do not sum to one. The best candidate of an edge is retained.
    """

    normalised = False

    def weights(self, alpha: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
        """Independent weights (E, K) between 0 and 1."""
        logits = self._logits(alpha, mask, temperature).masked_fill(~mask, 0)
        return torch.sigmoid(logits / temperature).masked_fill(~mask, 0)

    def penalty(self, alpha: Tensor, mask: Tensor) -> Tensor:
        """The zero-one loss −mean((σ(α) − ½)²) over the live candidates (FairDARTS): least where weights are 0 or 1.

        The paper takes one mean over all cell types; a sum of one mean for each, as here, has twice its size.
        """
        apart = (torch.sigmoid(alpha.masked_fill(~mask, 0)) - 0.5).square()  # 0 where nothing is live
        return -apart.sum() / mask.sum().clamp(min=1)

    def entropy(self, weights: Tensor, mask: Tensor) -> Tensor:
        """Mean entropy in nats of the live candidates, each there or not."""
        p = weights.detach().masked_fill(~mask, 0)
        return (torch.special.entr(p) + torch.special.entr(1 - p)).sum() / mask.sum().clamp(min=1)
