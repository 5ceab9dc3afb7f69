"""The base of all relaxations, and tables over the candidates of a cell."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from topocell.arguments import checked
from topocell.errors import RecipeError, SpaceError, nearest
from topocell.runtime.constants import Constants, check_temperature
from topocell.spaces.cell import CellSpec
from topocell.spaces.operations import KNOWN_OPERATIONS


def candidate_mask(cell: CellSpec) -> Tensor:
    """Bool (E, K), on the CPU: True where edge e has a k-th candidate, False where the row is padding."""
    return torch.tensor(cell.live, device="cpu")


def candidate_table(cell: CellSpec, value: Mapping[str, float], missing: float) -> np.ndarray:
    """(E, K): the value of each candidate, `missing` for the others and for padding."""
    rows = [[value.get(op, missing) for op in ops] for ops in cell.candidates]
    return np.array([row + [missing] * (cell.n_candidates - len(row)) for row in rows])


def offered(cell: CellSpec) -> set[str]:
    """Names of the operations that any edge of the cell offers."""
    return {op for ops in cell.candidates for op in ops}


def check_known(what: str, ops: Iterable[str]) -> None:
    """Raise a RecipeError for an operation that does not exist."""
    for op in ops:
        if op not in KNOWN_OPERATIONS:
            raise RecipeError(f"{what} names known operations, but got {op!r}{nearest(op, KNOWN_OPERATIONS)}")


class Relaxation(ABC):
    """Base of a relaxation, also of a user's own: it implements `weights`, and `parts` if an edge has several.

    `alpha` (E, K) are the logits of one cell type and `mask` bool (E, K) its live candidates, on one device.
    A *part* is a set of candidates of one edge that share a distribution; here each edge is one part.
    """

    #: Whether the weights depend on α.
    learned: bool = True
    #: Whether `weights` draws a new sample on every call, from torch's global generator.
    sampled: bool = False
    #: Whether each row of `weights` is one-hot, so that only the operation drawn has to run.
    one_hot: bool = False
    #: Whether the weights of each part sum to one.
    normalised: bool = True

    @checked(SpaceError)
    def __init__(self, cell: CellSpec) -> None:
        self.cell = cell
        self._none = Constants(none=candidate_table(cell, {"none": True}, False))

    @abstractmethod
    def weights(self, alpha: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
        """Operation weights (E, K), differentiable in `alpha`; exactly 0 where `mask` is False.

        Logits are divided by `temperature` (> 0). An edge without live candidates gets zeros and no gradient.

        Raises:
            SpaceError: `alpha` or `mask` does not have the shape (E, K) of the cell.
            RecipeError: the temperature is not positive.
        """

    def expected(self, alpha: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
        """The weights (E, K) without sampling: what decisions and figures are made from.

        A sampled relaxation gives its distribution, which does not depend on the temperature of the samples.
        """
        return self.weights(alpha, mask, temperature)

    def strengths(self, alpha: Tensor, mask: Tensor) -> Tensor:
        """The weights (E, K) by which candidates are ranked when a cell is derived: those expected, at T = 1."""
        return self.expected(alpha, mask)

    def penalty(self, alpha: Tensor, mask: Tensor) -> Tensor:
        """A term (0-dim) for the loss of α that goes with the relaxation; zero for most."""
        return alpha.new_zeros(())

    @classmethod
    def penalised(cls) -> bool:
        """Return whether the relaxation has a penalty of its own."""
        return cls.penalty is not Relaxation.penalty

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

        Zero when nothing is left to decide. `weights` are those of `expected`, not of a sample.
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
        check_temperature(temperature)
        return alpha
