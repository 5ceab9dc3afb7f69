"""Deciding for good in the middle of a search: what a mask removes leaves the supernet, and later steps cost less."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from topocell.relaxation import candidate_mask, candidate_table
from topocell.spaces.cell import CellSpec
from topocell.supernet.learner import Learner


def decide(learner: Learner, masks: Mapping[str, Tensor]) -> None:
    """Remove every candidate that is False in its cell type's mask, bool (E, K); what is gone stays gone.

    An edge with one candidate left is decided, one with none is pruned. The architecture, the supernet and the
    state of its weights' optimizer are cut alike; α keeps its shape, and its decided logits stay as they are.
    """
    learner.arch.restrict(masks)
    sliced = learner.net.restrict(masks)
    follow(learner.weights_optimizer, learner.net.parameters(), sliced)


def follow(
    optimizer: Optimizer, parameters: Iterable[nn.Parameter], sliced: Sequence[tuple[nn.Parameter, Tensor]]
) -> None:
    """Let the optimizer of a supernet's weights go on after candidates were removed.

    It forgets parameters that are no longer there, and its state of sliced ones is cut: momenta and the like, of the
    weight's shape or of size 1 in place of its first.

    Args:
        optimizer: of these weights.
        parameters: all that it goes on with, such as `net.parameters()`.
        sliced: what `Supernet.restrict` returned.
    """
    left = set(parameters)
    for group in optimizer.param_groups:
        group["params"] = [p for p in group["params"] if p in left]
    for gone in [p for p in optimizer.state if p not in left]:
        del optimizer.state[gone]
    for parameter, kept in sliced:
        state = optimizer.state.get(parameter, {})
        for name, value in state.items():
            if isinstance(value, Tensor) and value.dim() and len(value) > 1:
                state[name] = value[kept].clone()


def real_candidates(cell: CellSpec) -> Tensor:
    """(E, K) bool: the candidates that an edge lists, all but `none`."""
    return torch.from_numpy(candidate_table(cell, {"none": False}, True)) & candidate_mask(cell)


def undecided(mask: Tensor) -> list[int]:
    """The edges of a cell with two and more live candidates; `mask` is bool (E, K)."""
    return [int(e) for e in torch.nonzero(mask.sum(1) > 1).flatten()]


def only(mask: Tensor, edge: int, candidate: int) -> Tensor:
    """`mask` (E, K) with one candidate left on an edge."""
    out = mask.clone()
    out[edge] = False
    out[edge, candidate] = True
    return out


def without_edges(mask: Tensor, edges: Sequence[int]) -> Tensor:
    """`mask` (E, K) with nothing left on some edges."""
    out = mask.clone()
    out[list(edges)] = False
    return out
