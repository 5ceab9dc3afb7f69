"""The parts of a fused step: chains, dense convolutions and pools, forward and backward."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from topocell.nn.functional import convolve, convolve_backward
from topocell.nn.fused_plan import Chain, Edges, Output, Plan, Stage, size_of
from topocell.nn.kernels.cpu import (
    Addresses,
    EndGradients,
    Ends,
    Floats,
    InputGradients,
    Kernels,
    Layout,
    Norm,
    Shape,
    StageInputs,
    addresses,
    floats,
    required,
    rows,
    threads_for,
)

Of = Chain | Edges


class Call(NamedTuple):
    """What the parts of one call share; `x` is channels last, `values` are the weights as numbers."""

    plan: Plan
    x: Tensor
    values: list[float]

    def kernels(self, part: Of | None = None) -> Kernels:
        """The kernels of a part, whose vectors may be narrower than those of what all share."""
        return required(self.x.shape[1], part.lanes if isinstance(part, Chain) else None)

    def size(self) -> tuple[int, int, int, int]:
        """Shape of the outputs."""
        return size_of(self.x, self.plan.stride)

    def shape(self, part: Of | None = None, stage: int = 0) -> Shape:
        """Of a stage of a chain, of which only the first has a stride; else as far as the end of a part asks."""
        n, c, *out = self.size()
        threads, edges = threads_for(n), len(part.slots) if part else 1
        if not isinstance(part, Chain):
            return Shape(n, *out, *out, c, edges, 1, 1, 1, threads)
        into, stride = (out, 1) if stage else (self.x.shape[2:], self.plan.stride)
        return Shape(n, *into, *out, c, edges, part.kernel, stride, part.dilation, threads)

    def scale(self, part: Of) -> Floats | None:
        """The weight of each edge."""
        return floats([self.values[i] for i in part.scales]) if part.scales else None

    def mix(self) -> Floats:
        """The weight of each map in each output."""
        return floats([self.values[i] if i >= 0 else 0.0 for row in self.plan.mix for i in row])


class Part:
    """A chain, a dense convolution or a pool in a call, and what it has computed."""

    #: How many tensors it takes, and how many outputs it has.
    tensors = stages = 1
    layout = Layout.APART
    #: Whether it adds to what `d_x` holds.
    adds = True

    def __init__(self, call: Call, of: Of) -> None:
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


class _ChainPart(Part):
    def __init__(self, call: Call, chain: Chain, given: list[Stage]) -> None:
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
            inputs, before = self._inputs(i)
            compiled.stage_forward(shape, StageInputs(inputs, before, (stage.dw, stage.pw)), *output)
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
                StageInputs(inputs, before, (stage.dw, stage.pw)),
                EndGradients(output.z, norm, addresses(d_output), sums),
                InputGradients(d_input, i == 0 and self.adds, d_weights, before_sums),
            )
            found = [*(d_weights or (None, None)), *((sums[1], sums[0]) if affine else ()), *found]
            if before is not None and before_sums is not None:
                norm, sums, d_output = before, before_sums, list(d_input)
        return found


class _DensePart(Part):
    layout = Layout.STACKED

    def __init__(self, call: Call, dense: Edges, weight: Tensor, active: Tensor) -> None:
        super().__init__(call, dense)
        self.weight, self.active = weight, active

    def forward(self) -> None:
        z = channels_last(convolve(self.active, self.weight.flatten(0, 1), self.call.plan.stride))
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
            d_active.append(channels_last(d_input))
        return [None if d_weight is None else d_weight.view_as(self.weight)]


class _PoolPart(Part):
    layout = Layout.SHARED

    def __init__(self, call: Call, pool: Edges, pooled: Tensor) -> None:
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


def parts_of(
    call: Call, tensors: Sequence[Tensor], filters: Sequence[Tensor], active: Tensor, pools: Sequence[Tensor]
) -> list[Part]:
    """Chains, dense convolutions of `active`, which is relu(x), and pools, with their tensors."""
    plan = call.plan
    return [
        *(_ChainPart(call, chain, stages) for chain, stages in _stages(plan, tensors)),
        *(_DensePart(call, dense, weight, active) for dense, weight in zip(plan.dense, filters)),
        *(_PoolPart(call, pool, pooled) for pool, pooled in zip(plan.pools, pools)),
    ]


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def restore(parts: Sequence[Part], computed: Sequence[Tensor]) -> None:
    """Give parts the outputs that they computed, from z and statistics of each stage of each part.

    They are laid out as kernels read them, whatever hooks on saved tensors have made of them.
    """
    start = 0
    for part in parts:
        end = start + 2 * part.stages
        layout = torch.contiguous_format if part.layout == Layout.APART else torch.channels_last
        pairs = zip(computed[start:end:2], computed[start + 1 : end : 2])
        part.outputs = [Output(z.contiguous(memory_format=layout), found.contiguous()) for z, found in pairs]
        start = end


def _stages(plan: Plan, tensors: Sequence[Tensor]) -> Iterator[tuple[Chain, list[Stage]]]:
    """Each chain with the tensors of its stages."""
    given, per_stage = [tensor.contiguous() for tensor in tensors], plan.per_stage
    stages = [_stage(*given[at : at + per_stage]) for at in range(0, len(given), per_stage)]
    start = 0
    for chain in plan.chains:
        yield chain, stages[start : start + chain.stages]
        start += chain.stages


def _stage(dw: Tensor, pw: Tensor, gain: Tensor | None = None, bias: Tensor | None = None) -> Stage:
    return Stage(dw, pw, gain, bias)
