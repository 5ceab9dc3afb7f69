"""The base of all topologies, and parts that several of them share."""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from topocell.arguments import checked
from topocell.errors import RecipeError, RunError, SpaceError
from topocell.runtime.constants import Constants, check_temperature
from topocell.spaces.cell import CellSpec


@dataclass(frozen=True)
class Decoded:
    """The edges that a topology derives from its logits.

    Args:
        kept: indices of the kept edges, sorted. They join nodes that stay, and enter each computed node that
            stays.
        argmax_valid: whether the plain argmax gave every computed node an input: nothing was repaired.
        dropped_nodes: computed nodes that leave the cell and its concat (stretchable cells): those without an input,
            and those that send no edge where the topology drops these too.
        log_probability: natural logarithm of the probability of the choices taken, at temperature 1; None
            where the topology is no distribution over sets of edges.
        note: in words, what was wrong with the plain argmax and what was taken instead; None if nothing was.
    """

    kept: tuple[int, ...]
    argmax_valid: bool = True
    dropped_nodes: tuple[int, ...] = ()
    log_probability: float | None = None
    note: str | None = None


class Topology(ABC):
    """Base of a topology, also of a user's own: the abstract methods, after `super().__init__(cell, n)`.

    Every method takes `beta`, the `(n_logits,)` logits of one cell type, and answers on its device and in its
    dtype. A topology holds no state of the search: equal logits give equal answers.
    """

    #: Whether there are logits to learn.
    learned: bool = True
    #: Indices of the edges that no choice keeps: the supernet does not have them.
    absent: tuple[int, ...] = ()
    #: Whether computed nodes from which no path leads to an end of the cell are dropped, as those without an input are.
    drops_dead_ends: bool = False

    @checked(SpaceError)
    def __init__(self, cell: CellSpec, n_logits: int) -> None:
        self.cell = cell
        self.n_logits = n_logits

    @abstractmethod
    def weights(self, beta: Tensor, temperature: float = 1.0) -> Tensor:
        """Edge weights (E,), differentiable in `beta`. Logits are divided by `temperature` (> 0)."""

    @abstractmethod
    def probabilities(self, beta: Tensor, temperature: float = 1.0) -> Tensor:
        """The probability (n_logits,) that each logit stands for."""

    @abstractmethod
    def decode_report(self, beta: Tensor) -> Decoded:
        """The derived edges and how they were found; ties go to the lowest index."""

    @abstractmethod
    def random(self, generator: torch.Generator) -> list[int]:
        """Edges of a topology drawn uniformly from all that give every computed node an input."""

    def decode(self, beta: Tensor) -> list[int]:
        """Indices of the kept edges, sorted: `decode_report(beta).kept` as a list."""
        return list(self.decode_report(beta).kept)

    def edge_probabilities(self, beta: Tensor, temperature: float = 1.0) -> Tensor:
        """Probability (E,) that each edge is part of the cell, differentiable in `beta`; here its weight, at most 1.

        Weights are scaled and normalised for the sake of the supernet; what a cell is expected to cost is not.
        """
        return self.weights(beta, temperature).clamp(0.0, 1.0)

    def penalty(self, beta: Tensor) -> Tensor:
        """Zero-dimensional term of the β loss that favours valid topologies: zero where none is needed."""
        return 0.0 * self._logits(beta).sum()

    def entropy(self, beta: Tensor, temperature: float = 1.0) -> Tensor | None:
        """Mean entropy in nats, zero-dimensional, over the groups with a choice; None where there is none."""
        return None

    def _logits(self, beta: Tensor, temperature: float = 1.0) -> Tensor:
        """β / T, after checks."""
        if beta.shape != (self.n_logits,):
            raise SpaceError(
                f"beta of this topology has shape ({self.n_logits},), but got {tuple(beta.shape)}; make it "
                f"with n_logits of the topology of the same cell"
            )
        check_temperature(temperature)
        return beta / temperature

    def _values(self, beta: Tensor) -> np.ndarray:
        """β in float64, after checks, to derive edges from."""
        values = self._logits(beta).detach().to("cpu", torch.float64).numpy()
        for i in np.flatnonzero(~np.isfinite(values)):
            raise RunError(
                f"edges are derived from finite logits, but beta[{i}] is {values[i]}: the search has "
                f"diverged; start it again with a lower learning rate of beta"
            )
        return values


class GroupedLogits:
    """Consecutive groups of a flat vector of logits, with the softmax of all groups computed at once."""

    def __init__(self, sizes: Sequence[int]) -> None:
        starts = [0, *itertools.accumulate(sizes)]
        self.slices = [slice(a, b) for a, b in itertools.pairwise(starts)]
        self._n_choosing = sum(size > 1 for size in sizes)
        self._constants = Constants(
            padded=rectangle([range(s.start, s.stop) for s in self.slices], starts[-1]),
            place=np.concatenate([g * max(sizes) + np.arange(size) for g, size in enumerate(sizes)]),
        )

    def padded(self, logits: Tensor) -> Tensor:
        """The logits as (groups, largest group), filled with -inf."""
        return with_last(logits, -math.inf)[self._constants.get("padded", logits)]

    def log_softmax(self, logits: Tensor) -> Tensor:
        """Log-softmax within each group, flat as the logits are."""
        return torch.log_softmax(self.padded(logits), 1).flatten()[self._constants.get("place", logits)]

    def entropy(self, logits: Tensor) -> Tensor | None:
        """Mean entropy over the groups of two and more choices (that of the others is zero)."""
        if self._n_choosing == 0:
            return None
        log_p = self.log_softmax(logits)
        return -(log_p.exp() * log_p).sum() / self._n_choosing


def rectangle(rows: Sequence[Iterable[int]], fill: int) -> np.ndarray:
    """Rows of different lengths as one integer array, filled up with `fill`."""
    return np.array(list(itertools.zip_longest(*rows, fillvalue=fill)), dtype=np.int64).T


def with_last(values: Tensor, last: float) -> Tensor:
    """The vector with one more entry at its end."""
    return torch.cat([values, values.new_full((1,), last)])


def named(nodes: Iterable[int]) -> str:
    """`node 3` or `nodes 3, 4`."""
    names = [str(node) for node in sorted(nodes)]
    return f"node{'s' if len(names) > 1 else ''} {', '.join(names)}"


def positive(option: str, value: object) -> int:
    """`value` if it is a positive integer; a RecipeError that names the option otherwise."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RecipeError(f"{option} counts edges and is an integer from 1, but got {value!r}; use e.g. 2")
    return value
