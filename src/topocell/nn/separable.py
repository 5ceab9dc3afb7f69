"""Operations of the supernet by compiled kernels: all that read one feature map, in one step of autograd.

This is the step of CPUs, beside which `topocell.nn.fused_gpu` has that of GPUs.

A chain is one or two stages of (batch norm,) ReLU, depthwise convolution, 1×1 convolution; it ends in batch norm, and
the ends of chains with the same output are added up, together with weighted maps that come ready (pools, identities)
and what the output held before. Of a stage only the output of its 1×1 convolution is kept for
backward, or nothing where memory is low: the rest costs less to compute again than to write and read.

Dense convolutions, ReLU, k×k, batch norm, are the library's; what surrounds the convolution is treated alike.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from topocell.nn.functional import in_own_types, needs_graph
from topocell.nn.fused_check import on_gpu
from topocell.nn.fused_library import with_history
from topocell.nn.fused_parts import Call, channels_last, parts_of, restore
from topocell.nn.fused_plan import Given, Kept, Plan
from topocell.nn.kernels.cpu import (
    SIZES,
    Ends,
    addresses,
    floats,
    kernels,
    new_map,
)


def usable(x: Tensor, channels: int, kernel: int = 3) -> bool:
    """Return whether there are compiled kernels for so many channels of maps like `x`."""
    return kernel in SIZES and (on_gpu(x, channels) or kernels(channels, x) is not None)


def separable(
    x: Tensor,
    plan: Plan,
    tensors: Sequence[Tensor],
    weights: Tensor | None = None,
    maps: Sequence[Tensor] = (),
    bases: Sequence[Tensor] = (),
) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    """Sums of normalised convolutions of relu(x), one (N, C, h, w) for each output slot; and batch statistics.

    `x` is (N, C, H, W). `tensors` has, for each chain and stage, the depthwise (M, C, 1, k, k) and 1×1
    (M, C, C, 1, 1) weights and with `affine` the gain and bias (M, C) of the batch norm after it; then for each dense
    convolution its weights (M, C, C, k, k); then for each pool its map (N, C, h, w). Without `affine`, the end of a
    chain, dense convolutions, pools and the `maps` (N, C, h, w) are weighted by entries of `weights`, a vector. `bases`
    are added to the outputs that have one. The statistics are the mean and variance (2, M, C) before each batch norm of
    the chains, in order; of a GPU's kernels there are none.
    """
    weights = x.new_zeros(0) if weights is None else weights
    if not plan.affine and on_gpu(x, x.shape[1]):
        from topocell.nn.fused_gpu import fused

        return fused(x, plan, tensors, weights, maps, bases), []
    *found, statistics = _Separable.apply(x, plan, weights, *maps, *bases, *tensors)
    return tuple(found), statistics


class _Separable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: Plan, weights: Tensor, *given: Tensor) -> tuple[Any, ...]:
        call = Call(plan, channels_last(x), weights.tolist())
        given_maps, bases, tensors, given_filters, given_pools = Given.of(plan, given)
        filters, pools = [w.contiguous() for w in given_filters], [channels_last(p) for p in given_pools]
        maps, starts = [channels_last(m) for m in given_maps], iter([channels_last(b) for b in bases])
        outputs = [new_map(x, call.size()) for _ in plan.based]
        active = call.x.relu() if filters else call.x
        parts = parts_of(call, tensors, filters, active, pools)
        ends = Ends()
        for part in parts:
            part.forward()
            part.add_to(ends)
        started = [next(starts) if based else None for based in plan.based]
        mixed = [call.x, *maps] if plan.identity else maps
        call.kernels().combine(call.shape(), mixed, call.mix(), started, ends, outputs)
        computed = [] if plan.low_memory else [tensor for part in parts for output in part.outputs for tensor in output]
        ctx.with_maps = ctx.needs_input_grad[2]  # the maps are for the gradient of their weights alone
        # As they were given, not as the kernels read them: their history is for second derivatives.
        kept = Kept(x, weights, tensors, given_filters, given_pools, given_maps if ctx.with_maps else [], computed)
        ctx.save_for_backward(*kept.flat())
        ctx.plan, ctx.values = plan, call.values
        chains = parts[: len(plan.chains)]
        return *outputs, [output.statistics for part in chains for output in part.outputs]

    @staticmethod
    @in_own_types
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        kept = Kept.of(plan, ctx.with_maps, [t.float() for t in ctx.saved_tensors])  # which hooks may have made half
        if needs_graph(grads[: len(plan.based)]):
            return with_history(plan, kept, ctx.needs_input_grad, grads[: len(plan.based)])
        x, tensors, computed = channels_last(kept.x), kept.tensors, kept.outputs
        filters, pools = [w.contiguous() for w in kept.filters], [channels_last(p) for p in kept.pools]
        maps = [channels_last(m) for m in kept.maps]
        call, given = Call(plan, x, ctx.values), len(plan.mix) - plan.identity
        needs_x, _, needs_weights, *needed = ctx.needs_input_grad
        grads = tuple(channels_last(g) for g in grads[: len(plan.based)])
        d_values = [0.0] * len(call.values)
        d_maps = [torch.empty_like(grads[0]) if wanted else None for wanted in needed[:given]]
        found: list[Tensor | None] = [*d_maps, *(g for g, based in zip(grads, plan.based) if based)]
        d_x = torch.empty_like(x) if plan.identity or plan.chains else torch.zeros_like(x)
        if plan.identity:
            maps, d_maps = [x, *maps], [d_x, *d_maps]
        if d_maps:
            d_mix = floats([0.0] * (len(d_maps) * len(grads))) if needs_weights else None
            call.kernels().mix_backward(maps, call.mix(), grads, d_maps, d_mix)
            _collect(d_values, [i for row in plan.mix for i in row], d_mix or ())

        learns = needed[len(needed) - len(filters) - len(pools) : len(needed) - len(pools)]
        recomputed = plan.low_memory and bool(filters)
        active = x.relu() if any(learns) or recomputed else x  # else no more than its shape matters
        parts = parts_of(call, tensors, filters, active, pools)
        if not plan.low_memory:
            restore(parts, computed)
        if plan.chains:
            parts[0].adds = plan.identity  # else it is the first that writes there
        d_active: list[Tensor] = []
        # Where memory is low, the outputs of one part at a time are there again.
        for group in [[part] for part in parts] if plan.low_memory else [parts]:
            ends = Ends()
            for part in group:
                if plan.low_memory:
                    part.forward()
                part.add_to(ends)
            sums = [torch.empty_like(part.outputs[-1].statistics) for part in group]
            d_scales = [floats([0.0] * len(part.of.slots)) for part in group]
            if group:
                call.kernels().gradient_sums(call.shape(), addresses(grads), ends, sums, d_scales)
            for part, of_end, d_scale in zip(group, sums, d_scales):
                _collect(d_values, part.of.scales, d_scale)
                mine = needed[len(found) : len(found) + part.tensors]
                found += part.backward(grads, of_end, mine, d_x, d_active if needs_x else None)
                part.outputs = []
        if d_active:
            call.kernels().relu_backward(x, d_active, d_x)
        d_weights = x.new_tensor(d_values) if needs_weights else None
        return d_x if needs_x else None, None, d_weights, *found


def _collect(d_values: list[float], positions: Sequence[int], gradients: Iterable[float]) -> None:
    """Add the gradients of weights to where the weights stand; nowhere where the position is negative."""
    for position, gradient in zip(positions, gradients):
        if position >= 0:
            d_values[position] += gradient
