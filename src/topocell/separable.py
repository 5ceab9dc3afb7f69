"""Separable and dilated convolutions by compiled kernels: all that read one feature map, in one step of autograd.

A chain is one or two stages of (batch norm,) ReLU, depthwise convolution, 1×1 convolution; it ends in batch norm, and
the ends of chains with the same output are added up, together with weighted maps that come ready (pools, identities)
and what the output held before. Of a stage only the output of its 1×1 convolution is kept for
backward, or nothing where memory is low: the rest costs less to compute again than to write and read.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from topocell.functional import BN_EPS
from topocell.native import SIZES, Kernels, Pair, Shape, kernels


class Chain(NamedTuple):
    """The same operation on M edges: kernel size, dilation, number of stages, and the output of each edge."""

    kernel: int
    dilation: int
    stages: int
    slots: tuple[int, ...]


class Plan(NamedTuple):
    """What `separable` computes, apart from its tensors.

    Attributes:
        based: for each output, whether there is a map that it starts from.
        maps: number of ready maps.
        affine: whether each batch norm has a gain and a bias; else the last one of each chain has a gain alone.
        low_memory: keep nothing but the inputs for backward.
    """

    chains: tuple[Chain, ...]
    stride: int
    based: tuple[bool, ...] = (False,)
    maps: int = 0
    affine: bool = False
    low_memory: bool = False

    def tensors(self, chain: Chain) -> int:
        """How many tensors `separable` takes for a chain."""
        return (4 if self.affine else 2) * chain.stages + (0 if self.affine else 1)


class Stage(NamedTuple):
    """Tensors of one stage: weights, and gain and bias (M, C) of the batch norm after it where it has them."""

    dw: Tensor
    pw: Tensor
    gain: Tensor | None
    bias: Tensor | None


class Output(NamedTuple):
    """z (M, N, h, w, C) after the 1×1 convolution of a stage, and its mean and variance (M, C)."""

    z: Tensor
    mean: Tensor
    variance: Tensor

    @property
    def rstd(self) -> Tensor:
        return (self.variance + BN_EPS).rsqrt()

    def norm(self, stage: Stage) -> Pair:
        """Batch norm as factor and shift (M, C)."""
        factor = self.rstd if stage.gain is None else self.rstd * stage.gain
        shift = -self.mean * factor
        return factor, shift if stage.bias is None else shift + stage.bias


def usable(x: Tensor, channels: int, kernel: int = 3) -> bool:
    """Whether there are compiled kernels for so many channels of maps like `x`."""
    return kernel in SIZES and kernels(channels, x) is not None


def separable(
    x: Tensor,
    plan: Plan,
    tensors: Sequence[Tensor],
    maps: Sequence[Tensor] = (),
    mix: Tensor | None = None,
    bases: Sequence[Tensor] = (),
) -> tuple[tuple[Tensor, ...], list[Pair]]:
    """Sums of normalised convolutions of relu(x), one (N, C, h, w) for each output slot; and batch statistics.

    `x` is (N, C, H, W). `tensors` has, for each chain and stage, the depthwise (M, C, 1, k, k) and 1×1
    (M, C, C, 1, 1) weights and with `affine` the gain and bias (M, C) of the batch norm after it; without, a gain
    (M, C) ends each chain. `maps` (N, C, h, w) are added with the weights `mix` (number of maps, number of outputs),
    and `bases` to the outputs that have one. The statistics, with `affine`, are the mean and variance (M, C) of each
    batch norm, in order.
    """
    mix = x.new_zeros(0, len(plan.based)) if mix is None else mix
    *found, statistics = _Separable.apply(x, plan, mix, *maps, *bases, *tensors)
    return tuple(found), statistics if plan.affine else []


class _Separable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: Plan, mix: Tensor, *given: Tensor) -> tuple[Any, ...]:
        compiled = _kernels(x)
        x, mix = _dense(x), mix.contiguous()
        maps, bases, tensors = _cut(plan, given)
        maps, starts = [_dense(m) for m in maps], iter([_dense(b) for b in bases])
        n, c, height, width = x.shape
        size = n, c, (height - 1) // plan.stride + 1, (width - 1) // plan.stride + 1
        outputs = [torch.empty(size, memory_format=torch.channels_last) for _ in plan.based]
        compiled.mix_forward(maps, mix, [next(starts) if based else None for based in plan.based], outputs)
        kept: list[Tensor] = []
        statistics: list[Pair] = []
        for chain, stages in _parts(plan, tensors):
            made = _forward(compiled, plan, chain, x, stages)
            shape = _shape(x, plan, chain, len(stages) - 1)
            compiled.combine(shape, made[-1].z, made[-1].norm(stages[-1]), [outputs[s] for s in chain.slots])
            statistics += [(output.mean, output.variance) for output in made]
            kept += [tensor for output in made for tensor in output]
        ctx.save_for_backward(x, mix, *maps, *tensors, *([] if plan.low_memory else kept))
        ctx.plan = plan
        return *outputs, statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        x, mix, *rest = ctx.saved_tensors
        compiled = _kernels(x)
        count = sum(plan.tensors(chain) for chain in plan.chains)
        maps, tensors, kept = rest[: plan.maps], rest[plan.maps : plan.maps + count], iter(rest[plan.maps + count :])
        needs_x, _, needs_mix, *needed = ctx.needs_input_grad
        dense = [_dense(g) for g in grads[: len(plan.based)]]
        d_maps = [torch.empty_like(m) if wanted else None for m, wanted in zip(maps, needed)]
        d_mix = torch.empty_like(mix)
        if maps:
            compiled.mix_backward(maps, mix, dense, d_maps, d_mix)
        d_x = torch.zeros_like(x, memory_format=torch.channels_last)
        found: list[Tensor | None] = [*d_maps, *(g for g, based in zip(dense, plan.based) if based)]
        for chain, stages in _parts(plan, tensors):
            if plan.low_memory:
                made = _forward(compiled, plan, chain, x, stages)
            else:
                made = [Output(next(kept), next(kept), next(kept)) for _ in stages]
            mine = needed[len(found) : len(found) + plan.tensors(chain)]
            found += _backward(compiled, plan, chain, x, d_x, stages, made, [dense[s] for s in chain.slots], mine)
        return d_x if needs_x else None, None, d_mix if needs_mix else None, *found


def _dense(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _cut(plan: Plan, given: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
    """Maps, bases, and the tensors of the chains."""
    bases = plan.maps + sum(plan.based)
    return given[: plan.maps], given[plan.maps : bases], given[bases:]


def _kernels(x: Tensor) -> Kernels:
    compiled = kernels(x.shape[1], x)
    assert compiled is not None, "ask `usable` first"
    return compiled


def _parts(plan: Plan, tensors: Sequence[Tensor]) -> Iterator[tuple[Chain, list[Stage]]]:
    """Each chain with the tensors of its stages."""
    given = (tensor.contiguous() for tensor in tensors)
    for chain in plan.chains:
        stages = []
        for i in range(chain.stages):
            dw, pw, last = next(given), next(given), i == chain.stages - 1
            gain = next(given) if plan.affine or last else None
            stages.append(Stage(dw, pw, gain, next(given) if plan.affine else None))
        yield chain, stages


def _shape(x: Tensor, plan: Plan, chain: Chain, stage: int) -> Shape:
    """Only the first stage has a stride."""
    n, c, height, width = x.shape
    out = (height - 1) // plan.stride + 1, (width - 1) // plan.stride + 1
    into, stride = (out, 1) if stage else ((height, width), plan.stride)
    edges, threads = len(chain.slots), min(torch.get_num_threads(), n)
    return Shape(n, *into, *out, c, edges, chain.kernel, stride, chain.dilation, threads)


def _forward(compiled: Kernels, plan: Plan, chain: Chain, x: Tensor, stages: Sequence[Stage]) -> list[Output]:
    outputs: list[Output] = []
    for i, stage in enumerate(stages):
        shape = _shape(x, plan, chain, i)
        z = x.new_empty(shape.M, shape.N, shape.h, shape.w, shape.C)
        output = Output(z, x.new_empty(shape.M, shape.C), x.new_empty(shape.M, shape.C))
        inputs = list(outputs[-1].z) if i else [x] * shape.M
        norm = outputs[-1].norm(stages[i - 1]) if i else None
        compiled.stage_forward(shape, inputs, norm, (stage.dw, stage.pw), output)
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
    grads: list[Tensor],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Adds to `d_x`; returns the gradients of the tensors of the chain, None where a stage needs none."""
    found: list[Tensor | None] = []
    for i in reversed(range(len(stages))):
        stage, output, shape = stages[i], outputs[i], _shape(x, plan, chain, i)
        seen = output.z, output.mean, output.rstd
        sums = torch.empty_like(output.mean), torch.empty_like(output.mean)
        compiled.gradient_sums(shape, grads, seen, sums)
        per_stage = 4 if plan.affine else 2
        wanted = any(needed[per_stage * i : per_stage * i + 2])
        made = (torch.empty_like(stage.dw), torch.empty_like(stage.pw)) if wanted else None
        inputs, norm, d_input = [x] * shape.M, None, d_x
        if i > 0:
            z = outputs[i - 1].z
            inputs, norm, d_input = list(z), outputs[i - 1].norm(stages[i - 1]), torch.empty_like(z)
        weights = stage.dw, stage.pw
        compiled.stage_backward(shape, inputs, norm, weights, seen, stage.gain, grads, sums, d_input, made)
        affine = [d for d, tensor in zip(reversed(sums), (stage.gain, stage.bias)) if tensor is not None]
        found = [*(made or (None, None)), *affine, *found]
        grads = list(d_input) if i > 0 else grads
    return found
