"""Operations of the supernet by compiled kernels: all that read one feature map, in one step of autograd.

A chain is one or two stages of (batch norm,) ReLU, depthwise convolution, 1×1 convolution; it ends in batch norm, and
the ends of chains with the same output are added up, together with weighted maps that come ready (pools, identities)
and what the output held before. Of a stage only the output of its 1×1 convolution is kept for
backward, or nothing where memory is low: the rest costs less to compute again than to write and read.

Dense convolutions, ReLU, k×k, batch norm, are the library's; what surrounds the convolution is treated alike.
"""

from collections.abc import Iterable, Iterator, Sequence
from ctypes import addressof
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from topocell.functional import BN_EPS, convolve, convolve_backward
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


class Dense(NamedTuple):
    """The same dense convolution on M edges: the output of each, and where in the weights its weight stands."""

    slots: tuple[int, ...]
    scales: tuple[int, ...]


class Plan(NamedTuple):
    """What `separable` computes, apart from its tensors.

    Attributes:
        based: for each output, whether there is a map that it starts from.
        mix: for each ready map and output, where in the weights of the cell the weight of the map stands; −1: none.
        identity: whether the first of these maps is `x` itself, which is not given again; at stride 1.
        affine: whether each batch norm has a gain and a bias.
        low_memory: keep nothing but the inputs for backward.
    """

    chains: tuple[Chain, ...]
    stride: int
    based: tuple[bool, ...] = (False,)
    mix: tuple[tuple[int, ...], ...] = ()
    dense: tuple[Dense, ...] = ()
    identity: bool = False
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
    """z (M, N, h, w, C) after the 1×1 convolution of a stage, and its mean and variance (2, M, C).

    Of a dense convolution z is (N, M·C, h, w), channels last.
    """

    z: Tensor
    statistics: Tensor

    def norm(self, scale: Floats | None, stage: Stage | None = None) -> Norm:
        """The batch norm after this, by address: all of it must stay alive as long as this."""
        gain, bias = (None if t is None else t.data_ptr() for t in (stage[2:] if stage else (None, None)))
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
    (M, C, C, 1, 1) weights and with `affine` the gain and bias (M, C) of the batch norm after it; then for each dense
    convolution its weights (M, C, C, k, k). Without `affine`, the end of a chain, dense convolutions and the `maps`
    (N, C, h, w) are weighted by entries of `weights`, a vector. `bases` are added to the outputs that have one. The
    statistics are the mean and variance (2, M, C) before each batch norm of the chains, in order.
    """
    weights = x.new_zeros(0) if weights is None else weights
    *found, statistics = _Separable.apply(x, plan, weights, *maps, *bases, *tensors)
    return tuple(found), statistics


class _Separable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: Plan, weights: Tensor, *given: Tensor) -> tuple[Any, ...]:
        compiled = _kernels(x)
        x, values = _last(x), weights.tolist()
        maps, bases, tensors, filters = _cut(plan, given)
        maps, starts = [_last(m) for m in maps], iter([_last(b) for b in bases])
        outputs = [torch.empty(_size(x, plan), memory_format=torch.channels_last) for _ in plan.based]
        mixed = [x, *maps] if plan.identity else maps
        compiled.mix_forward(
            mixed, _mix(plan, values), [next(starts) if based else None for based in plan.based], outputs
        )
        kept: list[Tensor] = []
        statistics: list[Tensor] = []
        for chain, stages in _parts(plan, tensors):
            made = _forward(compiled, plan, chain, x, stages)
            scale, shape = _scale(chain, values), _shape(x, plan, chain, len(stages) - 1)
            compiled.combine(shape, made[-1].z, made[-1].norm(scale, stages[-1]), _places(chain, outputs))
            statistics += [output.statistics for output in made]
            kept += [tensor for output in made for tensor in output]
        active = x.relu() if filters else x
        for dense, weight in zip(plan.dense, filters):
            output = _convolved(compiled, plan, dense, active, weight)
            scale, shape = _scale(dense, values), _stacked(x, plan, dense)
            compiled.combine(shape, output.z, output.norm(scale), _places(dense, outputs))
            kept += output
        ctx.with_maps = ctx.needs_input_grad[2]  # the maps are for the gradient of their weights alone
        ctx.save_for_backward(
            x, *tensors, *filters, *(maps if ctx.with_maps else []), *([] if plan.low_memory else kept)
        )
        ctx.plan, ctx.values = plan, values
        return *outputs, statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        values: list[float] = ctx.values
        x, *rest = ctx.saved_tensors
        compiled, saved = _kernels(x), iter(rest)
        tensors = [next(saved) for _ in range(plan.per_stage * sum(chain.stages for chain in plan.chains))]
        filters = [next(saved) for _ in plan.dense]
        given = len(plan.mix) - plan.identity
        maps = [next(saved) for _ in range(given)] if ctx.with_maps else []
        needs_x, _, needs_weights, *needed = ctx.needs_input_grad
        grads = tuple(_last(g) for g in grads[: len(plan.based)])
        d_values = [0.0] * len(values)
        d_maps = [torch.empty_like(grads[0]) if wanted else None for wanted in needed[:given]]
        found: list[Tensor | None] = [*d_maps, *(g for g, based in zip(grads, plan.based) if based)]
        d_x = torch.empty_like(x) if plan.identity else torch.zeros_like(x)
        if plan.identity:
            maps, d_maps = [x, *maps], [d_x, *d_maps]
        if d_maps:
            d_mix = floats([0.0] * (len(d_maps) * len(grads))) if needs_weights else None
            compiled.mix_backward(maps, _mix(plan, values), grads, d_maps, d_mix)
            _collect(d_values, [i for row in plan.mix for i in row], d_mix or ())
        for chain, stages in _parts(plan, tensors):
            if plan.low_memory:
                made = _forward(compiled, plan, chain, x, stages)
            else:
                made = [Output(next(saved), next(saved)) for _ in stages]
            mine = needed[len(found) : len(found) + plan.per_stage * chain.stages]
            d_scale = floats([0.0] * len(chain.slots))
            scale, grads_here = _scale(chain, values), [grads[s] for s in chain.slots]
            found += _backward(compiled, plan, chain, x, d_x, stages, made, scale, d_scale, grads_here, mine)
            _collect(d_values, chain.scales, d_scale)
        learns: list[bool] = needed[len(found) :]
        d_active: list[Tensor] = []
        active = x.relu() if any(learns) or (filters and plan.low_memory) else x  # else no more than its shape matters
        for dense, weight, learnt in zip(plan.dense, filters, learns):
            if plan.low_memory:
                output = _convolved(compiled, plan, dense, active, weight)
            else:
                output = Output(next(saved), next(saved))
            d_scale = floats([0.0] * len(dense.slots))
            scale, where = _scale(dense, values), _places(dense, grads)
            d_input, d_weight = _dense_backward(
                compiled, plan, dense, active, weight, output, scale, d_scale, where, (needs_x, learnt)
            )
            d_active += [] if d_input is None else [d_input]
            _collect(d_values, dense.scales, d_scale)
            found.append(d_weight)
        if d_active:
            compiled.relu_backward(x, d_active, d_x)
        d_weights = x.new_tensor(d_values) if needs_weights else None
        return d_x if needs_x else None, None, d_weights, *found


def _kernels(x: Tensor) -> Kernels:
    compiled = kernels(x.shape[1], x)
    assert compiled is not None, "ask `usable` first"
    return compiled


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _size(x: Tensor, plan: Plan) -> tuple[int, int, int, int]:
    """Shape of the outputs."""
    n, c, height, width = x.shape
    return n, c, (height - 1) // plan.stride + 1, (width - 1) // plan.stride + 1


def _cut(plan: Plan, given: Sequence[Tensor]) -> tuple[Sequence[Tensor], ...]:
    """Maps, bases, the tensors of the chains, and the weights of the dense convolutions."""
    maps = len(plan.mix) - plan.identity
    bases, filters = maps + sum(plan.based), len(given) - len(plan.dense)
    return given[:maps], given[maps:bases], given[bases:filters], [weight.contiguous() for weight in given[filters:]]


def _mix(plan: Plan, values: Sequence[float]) -> Floats:
    return floats([values[i] if i >= 0 else 0.0 for row in plan.mix for i in row])


def _scale(part: Chain | Dense, values: Sequence[float]) -> Floats | None:
    return floats([values[i] for i in part.scales]) if part.scales else None


def _places(part: Chain | Dense, tensors: Sequence[Tensor]) -> Addresses:
    """Where the outputs of each edge, or their gradients, are."""
    return addresses([tensors[slot] for slot in part.slots])


def _collect(d_values: list[float], positions: Sequence[int], gradients: Iterable[float]) -> None:
    """Add the gradients of weights to where the weights stand; nowhere where the position is negative."""
    for position, gradient in zip(positions, gradients):
        if position >= 0:
            d_values[position] += gradient


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
    n, c, *out = _size(x, plan)
    into, stride = (out, 1) if stage else (x.shape[2:], plan.stride)
    edges, threads = len(chain.slots), min(torch.get_num_threads(), n)
    return Shape(n, *into, *out, c, edges, chain.kernel, stride, chain.dilation, threads, False)


def _stacked(x: Tensor, plan: Plan, dense: Dense) -> Shape:
    """As far as the batch norm after a dense convolution asks."""
    n, c, *out = _size(x, plan)
    edges, threads = len(dense.slots), min(torch.get_num_threads(), n)
    return Shape(n, *out, *out, c, edges, 1, 1, 1, threads, True)


def _inputs(x: Tensor, stage: int, stages: Sequence[Stage], outputs: Sequence[Output]) -> tuple[Addresses, Norm | None]:
    """Where the inputs of the edges of a stage are, and the batch norm before it."""
    if stage == 0:
        return addresses([x] * len(stages[0].dw)), None
    return rows(outputs[stage - 1].z), outputs[stage - 1].norm(None, stages[stage - 1])


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
        norm = output.norm(scale if last else None, stage)
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


def _convolved(compiled: Kernels, plan: Plan, dense: Dense, active: Tensor, weight: Tensor) -> Output:
    """The dense convolutions of relu(x), which is `active`."""
    z = _last(convolve(active, weight.flatten(0, 1), plan.stride))
    output = Output(z, z.new_empty(2, *weight.shape[:2]))
    compiled.statistics(_stacked(active, plan, dense), *output)
    return output


def _dense_backward(
    compiled: Kernels,
    plan: Plan,
    dense: Dense,
    active: Tensor,
    weight: Tensor,
    output: Output,
    scale: Floats | None,
    d_scale: Floats,
    grads: Addresses,
    needed: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Fills `d_scale`; returns the gradients of relu(x) and of the weights (M, C, C, k, k), as far as needed."""
    shape, norm, sums = _stacked(active, plan, dense), output.norm(scale), torch.empty_like(output.statistics)
    compiled.gradient_sums(shape, grads, output.z, norm, sums, d_scale)
    if not any(needed):
        return None, None
    d_z = torch.empty_like(output.z)
    compiled.norm_backward(shape, grads, output.z, norm, sums, d_z)
    d_input, d_weight = convolve_backward(d_z, active, weight.flatten(0, 1), plan.stride, needed)
    return None if d_input is None else _last(d_input), None if d_weight is None else d_weight.view_as(weight)
