"""The seam between a search method and the supernet: two tensors per cell type, and nothing else."""

from typing import NamedTuple

import torch
from torch import Tensor


class ArchWeights(NamedTuple):
    """Weights of one cell type: `node_j = Σ_{e=i→j} edges[e] · Σ_k ops[e, k] · op_k(node_i)`.

    Attributes:
        ops: (E, K) weight of candidate k on edge e; entries of removed or missing candidates are not read.
        edges: (E,) weight of edge e.
    """

    ops: Tensor
    edges: Tensor

    def detach(self) -> "ArchWeights":
        """The same weights without their history."""
        return type(self)(self.ops.detach(), self.edges.detach())


class OneHotWeights(ArchWeights):
    """Weights whose rows of `ops` are one-hot samples: only the operation drawn runs.

    The zeros of the others count as added scalars and so keep their gradient (GDAS).
    """


def uniform_weights(n_edges: int, mask: Tensor) -> ArchWeights:
    """Return equal weights for every live candidate of an edge, one for every edge. `mask` is (E, K) bool."""
    live = mask.to(torch.get_default_dtype())
    return ArchWeights(live / live.sum(1, keepdim=True).clamp(min=1), live.new_ones(n_edges))
