"""Topologies in which each edge stands for itself: given beforehand, or with one logit per edge."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from topocell.errors import RecipeError, SpaceError
from topocell.runtime.constants import Constants
from topocell.spaces.cell import CellSpec
from topocell.topology.base import Decoded, GroupedLogits, Topology, named, positive
from topocell.topology.named_wirings import named_edges


class Fixed(Topology):
    """A wiring chosen beforehand: weight 1 on its edges, no logits; the other edges do not exist (eDARTS).

    Args:
        cell: the cell.
        edges: the wiring, each edge as `(src, dst)` or as an edge index.
        wiring: in place of `edges`, a name of `topocell.topology.named_wirings.WIRINGS`.

    Raises:
        RecipeError: neither or both of `edges` and `wiring` are given, or no wiring has that name.
        SpaceError: an edge that the cell does not have, or a computed node that no edge of the wiring enters.
    """

    learned = False

    def __init__(
        self, cell: CellSpec, edges: Sequence[Sequence[int] | int] | None = None, wiring: str | None = None
    ) -> None:
        super().__init__(cell, 0)
        if (edges is None) == (wiring is None):
            raise RecipeError(
                f"a fixed wiring has either edges or the name of a wiring, but got edges={edges} and wiring={wiring}; "
                f"give one of them, e.g. wiring=edarts"
            )
        edges = named_edges(wiring, cell) if wiring is not None else edges or ()
        index_of: dict[tuple[int, ...], int] = {pair: e for e, pair in enumerate(cell.edges)}
        kept = set()
        for edge in edges:
            index = edge if isinstance(edge, int) else index_of.get(tuple(edge), -1)
            if not 0 <= index < cell.n_edges:
                raise SpaceError(
                    f"a fixed wiring names edges of the cell as (src, dst) or by index, but got {edge}; "
                    f"its edges are {list(cell.edges)}"
                )
            kept.add(index)
        for node in cell.computed:
            if kept.isdisjoint(cell.incoming(node)):
                raise SpaceError(
                    f"every computed node has an input, but no edge of the wiring enters node {node}; add "
                    f"one of {[cell.edges[e] for e in cell.incoming(node)]}"
                )
        self._kept = tuple(sorted(kept))
        self.absent = tuple(e for e in range(cell.n_edges) if e not in kept)
        self._constants = Constants(weights=np.isin(np.arange(cell.n_edges), self._kept).astype(float))

    def weights(self, beta: Tensor, temperature: float = 1.0) -> Tensor:
        """One on the wiring, zero elsewhere (E,)."""
        return self._constants.get("weights", self._logits(beta, temperature)).clone()

    def probabilities(self, beta: Tensor, temperature: float = 1.0) -> Tensor:
        """Empty (0,): there are no logits."""
        return self._logits(beta, temperature)

    def decode_report(self, beta: Tensor) -> Decoded:
        """The wiring."""
        self._logits(beta)
        return Decoded(self._kept, log_probability=0.0)

    def random(self, generator: torch.Generator) -> list[int]:
        """The wiring; nothing is drawn."""
        return list(self._kept)


class Dense(Fixed):
    """All edges, always: weight 1 each, no logits (DARTS, where selection alone thins the cell)."""

    def __init__(self, cell: CellSpec) -> None:
        super().__init__(cell, cell.edges)


class EdgeSoftmax(Topology):
    """One logit per edge, softmax over the edges that enter a node (PC-DARTS: edge normalisation).

    Args:
        cell: the cell.
        keep: kept edges per node, the largest by logit; a node with fewer keeps all of them.

    Raises:
        RecipeError: `keep` is not a positive integer.
    """

    def __init__(self, cell: CellSpec, keep: int = 2) -> None:
        super().__init__(cell, cell.n_edges)
        self.keep = positive("keep", keep)
        self._nodes = _incoming(cell)
        self._groups = GroupedLogits([len(node) for node in self._nodes])

    def weights(self, beta: Tensor, temperature: float = 1.0) -> Tensor:
        """Softmax over the incoming edges of each node (E,): sums to 1 at every computed node."""
        return self._groups.log_softmax(self._logits(beta, temperature)).exp()

    def probabilities(self, beta: Tensor, temperature: float = 1.0) -> Tensor:
        """The weights (E,): each edge's share of its node."""
        return self.weights(beta, temperature)

    def edge_probabilities(self, beta: Tensor, temperature: float = 1.0) -> Tensor:
        """`keep` times its share of its node (E,), at most 1: `keep` edges of the node are expected, as are kept."""
        return (self.keep * self.weights(beta, temperature)).clamp(max=1.0)

    def entropy(self, beta: Tensor, temperature: float = 1.0) -> Tensor | None:
        """Mean entropy over the nodes with two and more incoming edges."""
        return self._groups.entropy(self._logits(beta, temperature))

    def decode_report(self, beta: Tensor) -> Decoded:
        """The `keep` largest edges of each node. A softmax over edges is no distribution over edge sets."""
        values = self._values(beta)
        best = [node[np.argsort(-values[node], kind="stable")[: self.keep]] for node in self._nodes]
        return Decoded(tuple(np.sort(np.concatenate(best)).tolist()))

    def random(self, generator: torch.Generator) -> list[int]:
        """`keep` edges per node, uniform over the sets of that size."""
        orders = [torch.randperm(len(n), generator=generator, device=generator.device) for n in self._nodes]
        return sorted(int(node[i]) for node, order in zip(self._nodes, orders) for i in order[: self.keep])


class EdgeSigmoid(Topology):
    """One logit per edge, each edge for itself with probability sigmoid(β / T) (DOTS, ablation in Table 4a).

    Args:
        cell: the cell.
        threshold: an edge is kept when its probability at T = 1 reaches it. The paper gives no value.

    Raises:
        RecipeError: `threshold` is not between 0 and 1.
    """

    def __init__(self, cell: CellSpec, threshold: float = 0.5) -> None:
        super().__init__(cell, cell.n_edges)
        if not 0 < threshold < 1:
            raise RecipeError(f"threshold is a probability between 0 and 1, but got {threshold}; 0.5 is usual")
        self.threshold = threshold
        self._nodes = _incoming(cell)

    def weights(self, beta: Tensor, temperature: float = 1.0) -> Tensor:
        """sigmoid(β / T) (E,)."""
        return torch.sigmoid(self._logits(beta, temperature))

    def probabilities(self, beta: Tensor, temperature: float = 1.0) -> Tensor:
        """The weights (E,): the probability that each edge is there."""
        return self.weights(beta, temperature)

    def entropy(self, beta: Tensor, temperature: float = 1.0) -> Tensor | None:
        """Mean entropy of the edges, each there or not: log(1 + exp(x)) - x·sigmoid(x) with x = β / T."""
        x = self._logits(beta, temperature)
        return (torch.nn.functional.softplus(x) - x * torch.sigmoid(x)).mean()

    def decode_report(self, beta: Tensor) -> Decoded:
        """The edges that reach the threshold, and the best edge of a node that none of them enters."""
        values = self._values(beta)
        kept = values >= math.log(self.threshold / (1 - self.threshold))
        forced = [int(node[np.argmax(values[node])]) for node in self._nodes if not kept[node].any()]
        kept[forced] = True
        pairs = [self.cell.edges[e] for e in forced]
        note = f"no edge into {named(d for _, d in pairs)} reached {self.threshold}; kept the best: {pairs}"
        log_probability = float(-np.logaddexp(0, np.where(kept, -values, values)).sum())
        return Decoded(tuple(np.flatnonzero(kept).tolist()), not forced, (), log_probability, note if forced else None)

    def random(self, generator: torch.Generator) -> list[int]:
        """A nonempty set of edges per node, uniform over such sets."""
        kept: list[int] = []
        for node in self._nodes:
            code = torch.randint(1, 2 ** len(node), (), generator=generator, device=generator.device).item()
            kept += [int(e) for i, e in enumerate(node) if int(code) >> i & 1]
        return sorted(kept)


def _incoming(cell: CellSpec) -> list[np.ndarray]:
    return [np.array(cell.incoming(node)) for node in cell.computed]
