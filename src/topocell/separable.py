"""Separable and dilated convolutions by compiled kernels: all that read one feature map, in one step of autograd.

A chain is one or two stages of (batch norm,) ReLU, depthwise convolution, 1×1 convolution; it ends in batch norm, and
the ends of chains with the same output are added up, together with weighted maps that come ready (pools, identities)
and what the output held before. Of a stage only the output of its 1×1 convolution is kept for
backward, or nothing where memory is low: the rest costs less to compute again than to write and read.
"""

from collections.abc import Iterator, Sequence
from ctypes import addressof
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from topocell.functional import BN_EPS
from topocell.native import SIZES, Addresses, Floats, Kernels, Norm, Shape, addresses, floats, kernels, rows


class Chain(NamedTuple):
    """The same operation on M edges: kernel size, dilation, number of stages, and the output of each edge.

    `scales` says where in the weights of the cell the weight of each edge stands; empty where batch norm is affine.
    """

    kernel: int
    dilation: int
    stages: int
    slots: tuple[int, ...]
    scales: tuple[int, ...] = ()


class Plan(NamedTuple):
    """What `separable` computes, apart from its tensors.

    Attributes:
        based: for each output, whether there is a map that it starts from.
        mix: for each ready map and output, where in the weights of the cell the weight of the map stands; −1: none.
        affine: whether each batch norm has a gain and a bias.
        low_memory: keep nothing but the inputs for backward.
    """

    chains: tuple[Chain, ...]
    stride: int
    based: tuple[bool, ...] = (False,)
    mix: tuple[tuple[int, ...], ...] = ()
    affine: bool = False
    low_memory: bool = False

    @property
    def per_stage(self) -> int:
        """How many tensors `separable` takes for a stage."""
        return 4 if self.affine else 2


class Stage(NamedTuple):
    """Tensors of one stage: weights, and gain and bias (M, C) of the batch norm after it where it has them."""

    dw: Tensor
    pw: Tensor
    gain: Tensor | None
    bias: Tensor | None


class Output(NamedTuple):
    """z (M, N, h, w, C) after the 1×1 convolution of a stage, and its mean and variance (2, M, C)."""

    z: Tensor
    statistics: Tensor

    def norm(self, stage: Stage, scale: Floats | None) -> Norm:
        """The batch norm after a stage, by address: all of it must stay alive as long as this."""
        gain, bias = (None if t is None else t.data_ptr() for t in stage[2:])
        return Norm(*rows(self.statistics), gain, bias, None if scale is None else addressof(scale), BN_EPS)


def usable(x: Tensor, channels: int, kernel: int = 3) -> bool:
    """Whether there are compiled kernels for so many channels of maps like `x`."""
    return kernel in SIZES and kernels(channels, x) is not None


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
    (M, C, C, 1, 1) weights and with `affine` the gain and bias (M, C) of the batch norm after it. Without, the end of
    a chain and the `maps` (N, C, h, w) are weighted by entries of `weights`, a vector. `bases` are added to the outputs
    that have one. The statistics are the mean and variance (2, M, C) before each batch norm, in order.
    """
    weights = x.new_zeros(0) if weights is None else weights
    *found, statistics = _Separable.apply(x, plan, weights, *maps, *bases, *tensors)
    return tuple(found), statistics


class _Separable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: Plan, weights: Tensor, *given: Tensor) -> tuple[Any, ...]:
        compiled = _kernels(x)
        x, values = _dense(x), weights.tolist()
        maps, bases, tensors = _cut(plan, given)
        maps, starts = [_dense(m) for m in maps], iter([_dense(b) for b in bases])
        n, c, height, width = x.shape
        size = n, c, (height - 1) // plan.stride + 1, (width - 1) // plan.stride + 1
        outputs = [torch.empty(size, memory_format=torch.channels_last) for _ in plan.based]
        compiled.mix_forward(
            maps, _mix(plan, values), [next(starts) if based else None for based in plan.based], outputs
        )
        kept: list[Tensor] = []
        statistics: list[Tensor] = []
        for chain, stages in _parts(plan, tensors):
            made = _forward(compiled, plan, chain, x, stages)
            scale = _scale(chain, values)
            norm, where = made[-1].norm(stages[-1], scale), addresses([outputs[s] for s in chain.slots])
            compiled.combine(_shape(x, plan, chain, len(stages) - 1), made[-1].z, norm, where)
            statistics += [output.statistics for output in made]
            kept += [tensor for output in made for tensor in output]
        ctx.save_for_backward(x, *maps, *tensors, *([] if plan.low_memory else kept))
        ctx.plan, ctx.values = plan, values
        return *outputs, statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        values: list[float] = ctx.values
        x, *rest = ctx.saved_tensors
        compiled = _kernels(x)
        count = len(plan.mix) + plan.per_stage * sum(chain.stages for chain in plan.chains)
        maps, tensors, kept = rest[: len(plan.mix)], rest[len(plan.mix) : count], iter(rest[count:])
        needs_x, _, needs_weights, *needed = ctx.needs_input_grad
        dense = [_dense(g) for g in grads[: len(plan.based)]]
        d_values = [0.0] * len(values)
        d_maps = [torch.empty_like(m) if wanted else None for m, wanted in zip(maps, needed)]
        if maps:
            d_mix = floats([0.0] * (len(maps) * len(dense)))
            compiled.mix_backward(maps, _mix(plan, values), dense, d_maps, d_mix)
            for position, d in zip((i for row in plan.mix for i in row), d_mix):
                if position >= 0:
                    d_values[position] += d
        d_x = torch.zeros_like(x, memory_format=torch.channels_last)
        found: list[Tensor | None] = [*d_maps, *(g for g, based in zip(dense, plan.based) if based)]
        for chain, stages in _parts(plan, tensors):
            if plan.low_memory:
                made = _forward(compiled, plan, chain, x, stages)
            else:
                made = [Output(next(kept), next(kept)) for _ in stages]
            mine = needed[len(found) : len(found) + plan.per_stage * chain.stages]
            d_scale = floats([0.0] * len(chain.slots))
            grads_here = [dense[s] for s in chain.slots]
            scale = _scale(chain, values)
            found += _backward(compiled, plan, chain, x, d_x, stages, made, scale, d_scale, grads_here, mine)
            for position, d in zip(chain.scales, d_scale):
                d_values[position] += d
        d_weights = x.new_tensor(d_values) if needs_weights else None
        return d_x if needs_x else None, None, d_weights, *found


def _kernels(x: Tensor) -> Kernels:
    compiled = kernels(x.shape[1], x)
    assert compiled is not None, "ask `usable` first"
    return compiled


def _dense(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _cut(plan: Plan, given: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
    """Maps, bases, and the tensors of the chains."""
    bases = len(plan.mix) + sum(plan.based)
    return given[: len(plan.mix)], given[len(plan.mix) : bases], given[bases:]


def _mix(plan: Plan, values: Sequence[float]) -> Floats:
    return floats([values[i] if i >= 0 else 0.0 for row in plan.mix for i in row])


def _scale(chain: Chain, values: Sequence[float]) -> Floats | None:
    return floats([values[i] for i in chain.scales]) if chain.scales else None


def _parts(plan: Plan, tensors: Sequence[Tensor]) -> Iterator[tuple[Chain, list[Stage]]]:
    """Each chain with the tensors of its stages."""
    given = (tensor.contiguous() for tensor in tensors)
    for chain in plan.chains:
        pairs = [(next(given), next(given)) for _ in range(chain.stages)] if not plan.affine else []
        stages = [Stage(dw, pw, None, None) for dw, pw in pairs]
        if plan.affine:
            stages = [Stage(next(given), next(given), next(given), next(given)) for _ in range(chain.stages)]
        yield chain, stages


def _shape(x: Tensor, plan: Plan, chain: Chain, stage: int) -> Shape:
    """Only the first stage has a stride."""
    n, c, height, width = x.shape
    out = (height - 1) // plan.stride + 1, (width - 1) // plan.stride + 1
    into, stride = (out, 1) if stage else ((height, width), plan.stride)
    edges, threads = len(chain.slots), min(torch.get_num_threads(), n)
    return Shape(n, *into, *out, c, edges, chain.kernel, stride, chain.dilation, threads)


def _inputs(x: Tensor, stage: int, stages: Sequence[Stage], outputs: Sequence[Output]) -> tuple[Addresses, Norm | None]:
    """Where the inputs of the edges of a stage are, and the batch norm before it."""
    if stage == 0:
        return addresses([x] * len(stages[0].dw)), None
    return rows(outputs[stage - 1].z), outputs[stage - 1].norm(stages[stage - 1], None)


def _forward(compiled: Kernels, plan: Plan, chain: Chain, x: Tensor, stages: Sequence[Stage]) -> list[Output]:
    outputs: list[Output] = []
    for i, stage in enumerate(stages):
        shape = _shape(x, plan, chain, i)
        z = x.new_empty(shape.M, shape.N, shape.h, shape.w, shape.C)
        output = Output(z, x.new_empty(2, shape.M, shape.C))
        compiled.stage_forward(shape, *_inputs(x, i, stages, outputs), (stage.dw, stage.pw), *output)
        outputs.append(output)
    return outputs


def _backward(
    compiled: Kernels,
    plan: Plan,
    chain: Chain,
    x: Tensor,
    d_x: Tensor,
    stages: Sequence[Stage],
    outputs: Sequence[Output],
    scale: Floats | None,
    d_scale: Floats,
    grads: Sequence[Tensor],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Adds to `d_x` and fills `d_scale`; returns the gradients of the tensors of the chain that a stage needs."""
    found: list[Tensor | None] = []
    where, alive = addresses(grads), [*grads]  # what `where` points to must not go
    for i in reversed(range(len(stages))):
        stage, output, shape, last = stages[i], outputs[i], _shape(x, plan, chain, i), i == len(stages) - 1
        norm = output.norm(stage, scale if last else None)
        sums = torch.empty_like(output.statistics)
        compiled.gradient_sums(shape, where, output.z, norm, sums, d_scale if last else None)
        wanted = any(needed[plan.per_stage * i : plan.per_stage * i + 2])
        made = (torch.empty_like(stage.dw), torch.empty_like(stage.pw)) if wanted else None
        d_input = torch.empty_like(outputs[i - 1].z) if i else d_x
        inputs, before = _inputs(x, i, stages, outputs)
        compiled.stage_backward(shape, inputs, before, (stage.dw, stage.pw), output.z, norm, where, sums, d_input, made)
        found = [*(made or (None, None)), *((sums[1], sums[0]) if plan.affine else ()), *found]
        where = rows(d_input)
        alive.append(d_input)
    return found
