"""The seam between a search method and the supernet: two tensors per cell type, and nothing else."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from topocell.errors import SpaceError, check_known
from topocell.spaces.cell import SpaceSpec


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

    The zeros of the others count as added scalars and so keep a gradient, the sum of that of the node (GDAS' code); the
    same tensors as `ArchWeights` run all candidates and have the gradient of the formula, ⟨grad, op(x)⟩.
    """


def real_tensor(value: Tensor) -> Tensor:
    """Return a tensor. Raises SpaceError for what `torch.fx.symbolic_trace` has in its place, without shape."""
    if isinstance(value, torch.fx.Proxy):
        raise SpaceError(
            "torch.fx.symbolic_trace traces a FixedNet, but no supernet and no ArchState; use make_fx, torch.export or "
            "torch.compile"
        )
    return value


def uniform_weights(n_edges: int, mask: Tensor) -> ArchWeights:
    """Return equal weights for every live candidate of an edge, one for every edge. `mask` is (E, K) bool."""
    live = mask.to(torch.get_default_dtype())
    return ArchWeights(live / live.sum(1, keepdim=True).clamp(min=1), live.new_ones(n_edges))


def checked_masks(masks: Mapping[str, Tensor], space: SpaceSpec) -> dict[str, Tensor]:
    """Return the masks (E, K) of cell types, each a bool tensor.

    Raises:
        SpaceError: a cell type that the space has not, a mask of another shape than its cell, or one of other values
            than True and False.
    """
    if not isinstance(masks, Mapping):
        raise SpaceError(
            f"masks are a mapping from cell types to tensors (E, K), but got a {type(masks).__name__}; write "
            f"{{t: arch.mask(t) for t in space.cells}}"
        )
    found = {}
    for name, given in masks.items():
        check_known("cell type", name, space.cells, SpaceError)
        wanted = (space.cells[name].n_edges, space.cells[name].n_candidates)
        try:
            found[name] = given if isinstance(given, Tensor) else torch.as_tensor(given, device="cpu")
        except (TypeError, ValueError, RuntimeError):
            raise SpaceError(f"a mask is a bool tensor of the shape {wanted}, but that of {name} is none") from None
        if found[name].dtype != torch.bool or found[name].shape != wanted:
            raise SpaceError(
                f"a mask is a bool tensor of the shape {wanted} of edges and candidates, but that of {name} is one of "
                f"{str(found[name].dtype).removeprefix('torch.')} and {tuple(found[name].shape)}; write e.g. "
                f"arch.mask({name!r})"
            )
    return found
