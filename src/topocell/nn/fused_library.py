"""What a fused step computes, by PyTorch's own functions: for second derivatives, and to compare speeds."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from topocell.nn.functional import BN_EPS, convolve, depthwise_separable, normalise, with_graph
from topocell.nn.fused_plan import Chain, Kept, Plan, size_of
from topocell.nn.kernels.cpu import new_map


def by_library(
    x: Tensor,
    plan: Plan,
    weights: Tensor,
    maps: Sequence[Tensor],
    bases: Sequence[Tensor],
    tensors: Sequence[Tensor],
) -> list[Tensor]:
    """Return the outputs of `topocell.nn.separable.separable`, of the same arguments."""
    channels, active, start = x.shape[1], x.relu(), 0
    given = iter(bases)
    sums: list[Tensor | None] = [next(given) if based else None for based in plan.based]

    def add(slot: int, value: Tensor) -> None:
        before = sums[slot]
        sums[slot] = value if before is None else before + value

    for value, row in zip([x, *maps] if plan.identity else maps, plan.mix):
        for slot, position in enumerate(row):
            if position >= 0:
                add(slot, value * weights[position])
    for chain in plan.chains:
        end = start + plan.per_stage * chain.stages
        out = _chain(active, plan, chain, weights, tensors[start:end])
        for slot, piece in zip(chain.slots, out.split(channels, 1)):
            add(slot, piece)
        start = end
    for dense, weight in zip(plan.dense, tensors[start:]):
        scale = weights[list(dense.scales)].repeat_interleave(channels)
        out = normalise(convolve(active, weight.flatten(0, 1), plan.stride), scale)
        for slot, piece in zip(dense.slots, out.split(channels, 1)):
            add(slot, piece)
    for pool, pooled in zip(plan.pools, tensors[start + len(plan.dense) :]):
        value = normalise(pooled)
        for slot, position in zip(pool.slots, pool.scales):
            add(slot, value * weights[position])
    return [value for value in sums if value is not None]


def with_history(plan: Plan, kept: Kept, needed: Sequence[bool], grads: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """Return what the backward pass of a step returns, as a graph of operations that can be differentiated again.

    `needed` and the result are for `x`, the plan, the weights of the cell, and the tensors of `Given` in order.
    """
    # Outputs are linear in maps that were not kept and in bases: any values will do.
    anything = torch.zeros_like(new_map(kept.x, size_of(kept.x, plan.stride)))
    maps = kept.maps or [anything.clone().requires_grad_() for _ in range(len(plan.mix) - plan.identity)]
    bases = [anything.clone().requires_grad_() for based in plan.based if based]
    first, last = len(maps), len(maps) + len(bases)

    def compute(x: Tensor, _: None, weights: Tensor, *given: Tensor) -> list[Tensor]:
        return by_library(x, plan, weights, given[:first], given[first:last], given[last:])

    tensors = *kept.tensors, *kept.filters, *kept.pools
    return with_graph(compute, (kept.x, None, kept.weights, *maps, *bases, *tensors), needed, grads)


def _chain(active: Tensor, plan: Plan, chain: Chain, weights: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """(N, M·C, h, w) of the M edges of a chain side by side."""
    stages = [tensors[i : i + plan.per_stage] for i in range(0, len(tensors), plan.per_stage)]
    norms: list[Callable[[Tensor], Tensor]] = [normalise] * (chain.stages - 1)
    if plan.affine:
        norms = [partial(_affine_norm, gain=gain.flatten(), bias=bias.flatten()) for _, _, gain, bias in stages]
    else:
        scale = weights[list(chain.scales)].repeat_interleave(active.shape[1])
        norms.append(partial(normalise, weight=scale))
    # The weights of a single edge may come without a dimension for it.
    pairs = [(dw[None], pw[None]) if dw.dim() == 4 else (dw, pw) for dw, pw, *_ in stages]
    return depthwise_separable(active, pairs, plan.stride, chain.dilation, norms)


def _affine_norm(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, gain, bias, training=True, eps=BN_EPS)
