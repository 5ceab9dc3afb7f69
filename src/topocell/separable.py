"""Operations of the supernet by compiled kernels: all that read one feature map, in one step of autograd.

A chain is one or two stages of (batch norm,) ReLU, depthwise convolution, 1×1 convolution; it ends in batch norm, and
the ends of chains with the same output are added up, together with weighted maps that come ready (pools, identities)
and what the output held before. Of a stage only the output of its 1×1 convolution is kept for
backward, or nothing where memory is low: the rest costs less to compute again than to write and read.

Dense convolutions, ReLU, k×k, batch norm, are the library's; what surrounds the convolution is treated alike.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from ctypes import addressof
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from topocell.choice import IMAGES, LIBRARY, fastest, waves
from topocell.functional import BN_EPS, convolve, convolve_backward, depthwise_separable, normalise
from topocell.native import (
    SIZES,
    Addresses,
    Ends,
    Floats,
    Kernels,
    Layout,
    Norm,
    Shape,
    addresses,
    floats,
    kernels,
    required,
    rows,
    threads_for,
    widths,
)


class Chain(NamedTuple):
    """The same operation on M edges: kernel size, dilation, number of stages, and the output of each edge.

    `scales` says where in the weights of the cell the weight of each edge stands; empty where batch norm is affine.
    `lanes` is the width of vector of its kernels (`topocell.native.widths`); None for the first.
    """

    kernel: int
    dilation: int
    stages: int
    slots: tuple[int, ...]
    scales: tuple[int, ...] = ()
    lanes: int | None = None


class Edges(NamedTuple):
    """An operation without a chain on M edges: the output of each, and where in the weights its weight stands."""

    slots: tuple[int, ...]
    scales: tuple[int, ...]


class Plan(NamedTuple):
    """What `separable` computes, apart from its tensors.

    Attributes:
        based: for each output, whether there is a map that it starts from.
        mix: for each ready map and output, where in the weights of the cell the weight of the map stands; −1: none.
        identity: whether the first of these maps is `x` itself, which is not given again; at stride 1.
        dense: the dense convolutions.
        pools: maps that come ready but for the batch norm.
        affine: whether each batch norm has a gain and a bias.
        low_memory: keep nothing but the inputs for backward.
    """

    chains: tuple[Chain, ...]
    stride: int
    based: tuple[bool, ...] = (False,)
    mix: tuple[tuple[int, ...], ...] = ()
    dense: tuple[Edges, ...] = ()
    identity: bool = False
    pools: tuple[Edges, ...] = ()
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


def width(x: Tensor, of: Chain, stride: int, affine: bool = False) -> int | None:
    """The width of vector with which a chain on maps like `x` (N, C, H, W) is fastest; None: by the library.

    `of` may be any of its kind: neither the edges nor their weights matter.
    """
    channels, *size = x.shape[1:]
    if not usable(x, channels, of.kernel):
        return None
    edges = 1 if affine else 2
    of_kind = of._replace(slots=tuple(range(edges)), scales=() if affine else tuple(range(edges)))
    what = f"{of.stages} × {of.kernel}×{of.kernel} dilation {of.dilation} stride {stride}"
    what += f"{' affine' if affine else ''}, {channels} channels, {size[0]}×{size[1]}"
    ways: dict[str, Callable[[], object]] = {
        str(lanes): partial(_trial, of_kind._replace(lanes=lanes), stride, affine, channels, size)
        for lanes in widths(channels)[:2]
    }
    ways[LIBRARY] = partial(_trial, of_kind, stride, affine, channels, size, library=True)
    found = fastest(what, ways)
    return None if found == LIBRARY else int(found)


def _trial(
    of: Chain, stride: int, affine: bool, channels: int, size: Sequence[int], library: bool = False
) -> Sequence[Tensor]:
    """One forward and backward pass of a chain; no number is drawn."""
    edges, kernel = len(of.slots), of.kernel
    x = waves(IMAGES, channels, *size).contiguous(memory_format=torch.channels_last).requires_grad_()
    shapes = [
        (edges, channels, 1, kernel, kernel),
        (edges, channels, channels, 1, 1),
        *[(edges, channels)] * 2 * affine,
    ]
    weights = [waves(*shape).requires_grad_() for shape in shapes * of.stages]
    scale = waves(edges).requires_grad_()
    if library:
        outputs: Sequence[Tensor] = [_by_library(x, of, stride, affine, weights, scale)]
    else:
        plan = Plan((of,), stride, (False,) * edges, affine=affine)
        outputs, _ = separable(x, plan, weights, None if affine else scale)
    inputs = [x, *weights] if affine else [x, scale, *weights]
    return torch.autograd.grad(outputs, inputs, [waves(*out.shape) for out in outputs])


def _by_library(x: Tensor, of: Chain, stride: int, affine: bool, weights: Sequence[Tensor], scale: Tensor) -> Tensor:
    """What banks and modules do with the library's functions."""
    per_stage = len(weights) // of.stages
    stages = [weights[i : i + per_stage] for i in range(0, len(weights), per_stage)]
    norms: list[Callable[[Tensor], Tensor]] = [normalise] * (of.stages - 1)
    norms.append(partial(normalise, weight=scale.repeat_interleave(x.shape[1])))
    if affine:
        norms = [partial(_affine_norm, gain=gain.flatten(), bias=bias.flatten()) for _, _, gain, bias in stages]
    return depthwise_separable(x.relu(), [(dw, pw) for dw, pw, *_ in stages], stride, of.dilation, norms)


def _affine_norm(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, gain, bias, training=True, eps=BN_EPS)


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
    the chains, in order.
    """
    weights = x.new_zeros(0) if weights is None else weights
    *found, statistics = _Separable.apply(x, plan, weights, *maps, *bases, *tensors)
    return tuple(found), statistics


_Of = Chain | Edges


class _Call(NamedTuple):
    """What the parts of one call share; `x` is channels last, `values` are the weights as numbers."""

    plan: Plan
    x: Tensor
    values: list[float]

    def kernels(self, part: _Of | None = None) -> Kernels:
        """The kernels of a part, whose vectors may be narrower than those of what all share."""
        return required(self.x.shape[1], self.x, part.lanes if isinstance(part, Chain) else None)

    def size(self) -> tuple[int, int, int, int]:
        """Shape of the outputs."""
        n, c, height, width = self.x.shape
        return n, c, (height - 1) // self.plan.stride + 1, (width - 1) // self.plan.stride + 1

    def shape(self, part: _Of | None = None, stage: int = 0) -> Shape:
        """Of a stage of a chain, of which only the first has a stride; else as far as the end of a part asks."""
        n, c, *out = self.size()
        threads, edges = threads_for(n), len(part.slots) if part else 1
        if not isinstance(part, Chain):
            return Shape(n, *out, *out, c, edges, 1, 1, 1, threads)
        into, stride = (out, 1) if stage else (self.x.shape[2:], self.plan.stride)
        return Shape(n, *into, *out, c, edges, part.kernel, stride, part.dilation, threads)

    def scale(self, part: _Of) -> Floats | None:
        """The weight of each edge."""
        return floats([self.values[i] for i in part.scales]) if part.scales else None

    def mix(self) -> Floats:
        """The weight of each map in each output."""
        return floats([self.values[i] if i >= 0 else 0.0 for row in self.plan.mix for i in row])


class _Separable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: Plan, weights: Tensor, *given: Tensor) -> tuple[Any, ...]:
        call = _Call(plan, _last(x), weights.tolist())
        maps, bases, tensors, filters, pools = _cut(plan, given)
        pools = [_last(p) for p in pools]
        maps, starts = [_last(m) for m in maps], iter([_last(b) for b in bases])
        outputs = [torch.empty(call.size(), memory_format=torch.channels_last) for _ in plan.based]
        active = call.x.relu() if filters else call.x
        parts = _parts(call, tensors, filters, active, pools)
        ends = Ends()
        for part in parts:
            part.forward()
            part.add_to(ends)
        started = [next(starts) if based else None for based in plan.based]
        mixed = [call.x, *maps] if plan.identity else maps
        call.kernels().combine(call.shape(), mixed, call.mix(), started, ends, outputs)
        kept = [] if plan.low_memory else [tensor for part in parts for output in part.outputs for tensor in output]
        ctx.with_maps = ctx.needs_input_grad[2]  # the maps are for the gradient of their weights alone
        ctx.save_for_backward(call.x, *tensors, *filters, *pools, *(maps if ctx.with_maps else []), *kept)
        ctx.plan, ctx.values = plan, call.values
        chains = parts[: len(plan.chains)]
        return *outputs, [output.statistics for part in chains for output in part.outputs]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        x, *rest = ctx.saved_tensors
        call, saved = _Call(plan, x, ctx.values), iter(rest)
        tensors = [next(saved) for _ in range(plan.per_stage * sum(chain.stages for chain in plan.chains))]
        filters, pools = [next(saved) for _ in plan.dense], [next(saved) for _ in plan.pools]
        given = len(plan.mix) - plan.identity
        maps = [next(saved) for _ in range(given)] if ctx.with_maps else []
        needs_x, _, needs_weights, *needed = ctx.needs_input_grad
        grads = tuple(_last(g) for g in grads[: len(plan.based)])
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
        parts = _parts(call, tensors, filters, active, pools)
        if plan.chains:
            parts[0].adds = plan.identity  # else it is the first that writes there
        d_active: list[Tensor] = []
        # Where memory is low, the outputs of one part at a time are there again.
        for group in [[part] for part in parts] if plan.low_memory else [parts]:
            ends = Ends()
            for part in group:
                if plan.low_memory:
                    part.forward()
                else:
                    part.outputs = [Output(next(saved), next(saved)) for _ in range(part.stages)]
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


class _Part:
    """A chain, a dense convolution or a pool in a call, and what it has computed."""

    #: How many tensors it takes, and how many outputs it has.
    tensors = stages = 1
    layout = Layout.APART
    #: Whether it adds to what `d_x` holds.
    adds = True

    def __init__(self, call: _Call, of: _Of) -> None:
        self.call, self.of = call, of
        self.outputs: list[Output] = []
        self.scale = call.scale(of)

    def forward(self) -> None:
        """Compute the outputs."""
        raise NotImplementedError

    def norm(self) -> Norm:
        """The batch norm at the end, by address."""
        return self.outputs[-1].norm(self.scale)

    def add_to(self, ends: Ends) -> None:
        """Say where the end is."""
        ends.add(self.outputs[-1].z, self.norm(), self.of.slots, self.layout)

    def backward(
        self, grads: Sequence[Tensor], sums: Tensor, needed: Sequence[bool], d_x: Tensor, d_active: list[Tensor] | None
    ) -> list[Tensor | None]:
        """Gradients of the tensors, as far as needed, given those of all outputs and the sums of `gradient_sums`.

        Adds to `d_x`, or to `d_active` the gradient of relu(x).
        """
        raise NotImplementedError


class _ChainPart(_Part):
    def __init__(self, call: _Call, chain: Chain, given: list[Stage]) -> None:
        super().__init__(call, chain)
        self.chain, self.given, self.stages = chain, given, chain.stages
        self.tensors = call.plan.per_stage * chain.stages

    def norm(self) -> Norm:
        return self.outputs[-1].norm(self.scale, self.given[-1])

    def _inputs(self, stage: int) -> tuple[Addresses, Norm | None]:
        """Where the inputs of the edges of a stage are, and the batch norm before it."""
        if stage == 0:
            return addresses([self.call.x] * len(self.chain.slots)), None
        before = self.outputs[stage - 1]
        return rows(before.z), before.norm(None, self.given[stage - 1])

    def forward(self) -> None:
        compiled, x = self.call.kernels(self.chain), self.call.x
        self.outputs = []
        for i, stage in enumerate(self.given):
            shape = self.call.shape(self.chain, i)
            output = Output(x.new_empty(shape.M, shape.N, shape.h, shape.w, shape.C), x.new_empty(2, shape.M, shape.C))
            compiled.stage_forward(shape, *self._inputs(i), (stage.dw, stage.pw), *output)
            self.outputs.append(output)

    def backward(
        self, grads: Sequence[Tensor], sums: Tensor, needed: Sequence[bool], d_x: Tensor, d_active: list[Tensor] | None
    ) -> list[Tensor | None]:
        compiled, per_stage = self.call.kernels(self.chain), self.call.plan.per_stage
        affine = self.call.plan.affine
        found: list[Tensor | None] = []
        norm, d_output = self.norm(), [grads[slot] for slot in self.chain.slots]
        for i in reversed(range(len(self.given))):
            stage, output = self.given[i], self.outputs[i]
            wanted = any(needed[per_stage * i : per_stage * i + 2])
            d_weights = (torch.empty_like(stage.dw), torch.empty_like(stage.pw)) if wanted else None
            d_input = torch.empty_like(self.outputs[i - 1].z) if i else d_x
            before_sums = torch.empty_like(self.outputs[i - 1].statistics) if i else None
            inputs, before = self._inputs(i)
            compiled.stage_backward(
                self.call.shape(self.chain, i),
                inputs,
                before,
                (stage.dw, stage.pw),
                output.z,
                norm,
                addresses(d_output),
                sums,
                d_input,
                i == 0 and self.adds,
                d_weights,
                before_sums,
            )
            found = [*(d_weights or (None, None)), *((sums[1], sums[0]) if affine else ()), *found]
            if before is not None and before_sums is not None:
                norm, sums, d_output = before, before_sums, list(d_input)
        return found


class _DensePart(_Part):
    layout = Layout.STACKED

    def __init__(self, call: _Call, dense: Edges, weight: Tensor, active: Tensor) -> None:
        super().__init__(call, dense)
        self.weight, self.active = weight, active

    def forward(self) -> None:
        z = _last(convolve(self.active, self.weight.flatten(0, 1), self.call.plan.stride))
        output = Output(z, z.new_empty(2, *self.weight.shape[:2]))
        self.call.kernels().statistics(self.call.shape(self.of), *output)
        self.outputs = [output]

    def backward(
        self, grads: Sequence[Tensor], sums: Tensor, needed: Sequence[bool], d_x: Tensor, d_active: list[Tensor] | None
    ) -> list[Tensor | None]:
        (learns,) = needed
        wanted = d_active is not None, learns
        if not any(wanted):
            return [None]
        (output,), ends = self.outputs, Ends()
        self.add_to(ends)
        d_z = torch.empty_like(output.z)
        self.call.kernels().norm_backward(self.call.shape(self.of), addresses(grads), ends, sums, d_z)
        weight = self.weight.flatten(0, 1)
        d_input, d_weight = convolve_backward(d_z, self.active, weight, self.call.plan.stride, wanted)
        if d_active is not None and d_input is not None:
            d_active.append(_last(d_input))
        return [None if d_weight is None else d_weight.view_as(self.weight)]


class _PoolPart(_Part):
    layout = Layout.SHARED

    def __init__(self, call: _Call, pool: Edges, pooled: Tensor) -> None:
        super().__init__(call, pool)
        self.pooled = pooled

    def forward(self) -> None:
        statistics = self.pooled.new_empty(2, 1, self.pooled.shape[1])
        self.call.kernels().statistics(self.call.shape(), self.pooled, statistics)
        self.outputs = [Output(self.pooled, statistics.repeat(1, len(self.of.slots), 1))]

    def backward(
        self, grads: Sequence[Tensor], sums: Tensor, needed: Sequence[bool], d_x: Tensor, d_active: list[Tensor] | None
    ) -> list[Tensor | None]:
        if not any(needed):
            return [None]
        ends = Ends()
        self.add_to(ends)
        d_pooled = torch.empty_like(self.pooled)
        self.call.kernels().norm_backward(self.call.shape(), addresses(grads), ends, sums, d_pooled)
        return [d_pooled]


def _parts(
    call: _Call, tensors: Sequence[Tensor], filters: Sequence[Tensor], active: Tensor, pools: Sequence[Tensor]
) -> list[_Part]:
    """Chains, dense convolutions of `active`, which is relu(x), and pools, with their tensors."""
    plan = call.plan
    return [
        *(_ChainPart(call, chain, stages) for chain, stages in _stages(plan, tensors)),
        *(_DensePart(call, dense, weight, active) for dense, weight in zip(plan.dense, filters)),
        *(_PoolPart(call, pool, pooled) for pool, pooled in zip(plan.pools, pools)),
    ]


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _cut(plan: Plan, given: Sequence[Tensor]) -> tuple[Sequence[Tensor], ...]:
    """Maps, bases, the tensors of the chains, the weights of the dense convolutions, and pools."""
    maps, pools = len(plan.mix) - plan.identity, len(given) - len(plan.pools)
    bases, filters = maps + sum(plan.based), pools - len(plan.dense)
    dense = [weight.contiguous() for weight in given[filters:pools]]
    return given[:maps], given[maps:bases], given[bases:filters], dense, given[pools:]


def _collect(d_values: list[float], positions: Sequence[int], gradients: Iterable[float]) -> None:
    """Add the gradients of weights to where the weights stand; nowhere where the position is negative."""
    for position, gradient in zip(positions, gradients):
        if position >= 0:
            d_values[position] += gradient


def _stages(plan: Plan, tensors: Sequence[Tensor]) -> Iterator[tuple[Chain, list[Stage]]]:
    """Each chain with the tensors of its stages."""
    given = (tensor.contiguous() for tensor in tensors)
    for chain in plan.chains:
        pairs = [(next(given), next(given)) for _ in range(chain.stages)] if not plan.affine else []
        stages = [Stage(dw, pw, None, None) for dw, pw in pairs]
        if plan.affine:
            stages = [Stage(next(given), next(given), next(given), next(given)) for _ in range(chain.stages)]
        yield chain, stages
