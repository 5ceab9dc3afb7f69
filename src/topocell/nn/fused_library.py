"""What a fused step computes, by PyTorch's own functions: for second derivatives, and to compare speeds."""

from collections.abc import Callable, Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from topocell.nn.functional import BN_EPS, convolve, depthwise_separable, normalise
from topocell.nn.fused_plan import Chain, Plan


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
