"""A fused step of the supernet by Triton kernels: what `topocell.nn.separable` does on a CPU.

What is kept for backward is the same: of each stage the output of its 1×1 convolution with its statistics, of what
comes ready the maps themselves, or with `low_memory` nothing but what was given. No number is read by the host, so
that a step can be captured as a CUDA graph once its tables are on the device.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from topocell.nn.functional import convolve, convolve_backward, in_own_types, needs_graph
from topocell.nn.fused_library import by_library, with_history
from topocell.nn.fused_parts import channels_last
from topocell.nn.fused_plan import Chain, Edges, Given, Kept, Plan, size_of
from topocell.nn.kernels.cpu import Layout, new_map
from topocell.nn.kernels.gpu import launch
from topocell.nn.kernels.gpu.state import current, failures, give_up

Computed = list[tuple[Tensor, Tensor]]


def fused(
    x: Tensor, plan: Plan, tensors: Sequence[Tensor], weights: Tensor, maps: Sequence[Tensor], bases: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Return the outputs of `topocell.nn.separable.separable`, of the same arguments; no batch norm is affine.

    Feature maps are float32 or bfloat16, all of one type; so are the outputs. Weights may be either.
    """
    try:
        with current(x.device):
            return tuple(_Fused.apply(x, plan, weights, *maps, *bases, *tensors))
    except failures() as fault:
        give_up(x.device, fault)
        return tuple(by_library(x, plan, weights, maps, bases, tensors))


class _Tables(NamedTuple):
    """Where the kernels find what a plan says, on the device.

    Attributes:
        rows, positions: (S, E), see `topocell.nn.kernels.gpu.ends`; the sources are the ends of chains, dense
            convolutions and pools, then the weighted maps.
        slots, scales: for each chain, the output of each of its edges, and where its weight stands.
    """

    rows: Tensor
    positions: Tensor
    slots: tuple[Tensor, ...]
    scales: tuple[Tensor, ...]


@lru_cache(maxsize=1 << 16)  # captured steps rely on them, so none is dropped in any reasonable run
def _tables(plan: Plan, device: torch.device) -> _Tables:
    outputs = len(plan.based)
    rows, positions = [], []
    parts = [((part.slots, part.scales), False) for part in _apart(plan)]
    parts += [((pool.slots, pool.scales), True) for pool in plan.pools]
    for places_of, shared in parts:
        row, position = [-1] * outputs, [-1] * outputs
        for m, (slot, scale) in enumerate(zip(*places_of)):
            row[slot], position[slot] = (0 if shared else m), scale
        rows.append(row)
        positions.append(position)
    for places in plan.mix:
        rows.append([0 if place >= 0 else -1 for place in places])
        positions.append(list(places))

    def table(values: Any) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    shape = max(len(rows), 1), outputs
    return _Tables(
        table(rows or [[-1] * outputs]).view(shape),
        table(positions or [[-1] * outputs]).view(shape),
        tuple(table(chain.slots) for chain in plan.chains),
        tuple(table(chain.scales) for chain in plan.chains),
    )


def _apart(plan: Plan) -> list[Chain | Edges]:
    """The parts that have a map for each of their edges."""
    return [*plan.chains, *plan.dense]


class _Step:
    """One fused step: what is given, as kernels read it."""

    def __init__(self, x: Tensor, plan: Plan, weights: Tensor, given: Given) -> None:
        self.x, self.plan, self.weights = channels_last(x), plan, weights.contiguous()
        self.tensors = [t.contiguous() for t in given.tensors]
        self.filters = [w.to(x.dtype).contiguous() for w in given.filters]
        self.pools, self.maps = [channels_last(p) for p in given.pools], [channels_last(m) for m in given.maps]
        self.tables = _tables(plan, x.device)
        self.size = size_of(x, plan.stride)
        self.channels, self.pixels = x.shape[1], self.size[0] * self.size[2] * self.size[3]

    def stage(self, number: int, computed: Computed, at: int) -> tuple[launch.Size, launch.Filter, launch.Into]:
        """Of stage `at` of a chain: its size, its depthwise convolution and what it reads."""
        chain = self.plan.chains[number]
        first = 2 * sum(c.stages for c in self.plan.chains[:number])
        n, c, h, w = self.size
        height, width = (h, w) if at else self.x.shape[2:]
        size = launch.Size(n, height, width, h, w, c, len(chain.slots))
        x, before = computed[at - 1] if at else (self.x, None)
        weights = self.tensors[first + 2 * at : first + 2 * at + 2]
        how = launch.Filter(chain.kernel, chain.dilation, 1 if at else self.plan.stride)
        return size, how, launch.Into(x, before, *weights)

    def compute(self) -> list[Computed]:
        """z and statistics of each stage of each chain, of the dense convolutions and of the pools."""
        found: list[Computed] = []
        for number, chain in enumerate(self.plan.chains):
            computed: Computed = []
            for at in range(chain.stages):
                computed.append(launch.stage_forward(*self.stage(number, computed, at)))
            found.append(computed)
        active = self.x.relu() if self.filters else self.x
        for weight in self.filters:
            z = channels_last(convolve(active, weight.flatten(0, 1), self.plan.stride))
            found.append([(z, launch.statistics(z, self.pixels, self.channels, len(weight), Layout.STACKED))])
        for pooled in self.pools:
            found.append([(pooled, launch.statistics(pooled, self.pixels, self.channels, 1, Layout.SHARED))])
        return found

    def sources(self, computed: list[Computed]) -> launch.Sources:
        """All that the outputs are sums of."""
        mixed = [self.x, *self.maps] if self.plan.identity else self.maps
        ends = [part[-1] for part in computed]
        chains, dense, rest = len(self.plan.chains), len(self.plan.dense), len(self.plan.pools) + len(mixed)
        layouts = [Layout.APART] * chains + [Layout.STACKED] * dense + [Layout.SHARED] * rest
        edges = [len(part.slots) for part in _apart(self.plan)] + [1] * rest
        return launch.Sources(
            (*(z for z, _ in ends), *mixed),
            (*(found for _, found in ends), *(None for _ in mixed)),
            tuple(map(int, layouts)),
            tuple(edges),
            self.tables.rows,
            self.tables.positions,
        )


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: Plan, weights: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        parts = Given.of(plan, given)
        step, bases = _Step(x, plan, weights, parts), iter(parts.bases)
        computed = step.compute()
        outputs = [new_map(x, step.size) for _ in plan.based]
        started = [channels_last(next(bases)) if based else None for based in plan.based]
        launch.mix_forward(outputs, started, step.sources(computed), step.weights, step.channels)
        ctx.with_maps, ctx.plan = ctx.needs_input_grad[2], plan
        kept = [] if plan.low_memory else [tensor for part in computed for pair in part for tensor in pair]
        with_maps = parts.maps if ctx.with_maps else []
        ctx.save_for_backward(*Kept(x, weights, parts.tensors, parts.filters, parts.pools, with_maps, kept).flat())
        return tuple(outputs)

    @staticmethod
    @in_own_types
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        kept = Kept.of(plan, ctx.with_maps, ctx.saved_tensors)
        if not needs_graph(grads):
            try:
                with current(kept.x.device):
                    return _gradients(plan, kept, ctx.with_maps, ctx.needs_input_grad, grads)
            except failures() as fault:
                give_up(kept.x.device, fault)
        return with_history(plan, kept, ctx.needs_input_grad, grads)


def _gradients(
    plan: Plan, kept: Kept, with_maps: bool, needs: Sequence[bool], grads: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """What `backward` returns."""
    x, needed = kept.x, needs[3:]
    count = len(plan.mix) - plan.identity
    # Maps that were not kept are not read: any of their shape will do.
    maps = kept.maps if with_maps else [grads[0]] * count
    step = _Step(x, plan, kept.weights, Given(maps, [], kept.tensors, kept.filters, kept.pools))
    computed = step.compute() if plan.low_memory else _restored(plan, kept.outputs)
    sources, channels = step.sources(computed), step.channels
    behind = [channels_last(grad).to(x.dtype) for grad in grads]
    sums = launch.gradient_sums(behind, sources, channels) if sources.maps else x.new_empty(0)
    d_weights = launch.weights_gradient(sums, sources, step.weights, channels) if needs[2] and sources.maps else None
    if needs[2] and d_weights is None:
        d_weights = torch.zeros_like(kept.weights)

    def of_source(s: int, into: Tensor) -> Tensor:
        launch.source_backward(behind, sources, s, sums, step.weights, into, channels)
        return into

    at = len(computed)
    d_x = torch.empty_like(step.x, dtype=torch.float32)
    if plan.identity:
        of_source(at, d_x)
        at += 1
    d_maps = [of_source(at + i, torch.empty_like(behind[0])) if needed[i] else None for i in range(count)]
    found: list[Tensor | None] = [*d_maps, *(g for g, based in zip(behind, plan.based) if based)]
    written, needs_x = plan.identity, needs[0]
    for number, chain in enumerate(plan.chains):
        last, pairs = computed[number][-1], list[Tensor | None]()
        end = step.tables.slots[number], step.tables.scales[number], step.weights
        after = launch.Behind(*last, behind, sums[number], *end)
        for stage in reversed(range(chain.stages)):
            mine = len(found) + 2 * stage
            size, how, into = step.stage(number, computed[number], stage)
            target = torch.empty_like(into.x) if stage else d_x
            learns = any(needed[mine : mine + 2])
            d_dw, d_pw, before = launch.stage_backward(size, how, into, after, target, not stage and written, learns)
            pairs = [_as(d_dw, into.dw), _as(d_pw, into.pw), *pairs]
            if before is not None:
                after = launch.Behind(*computed[number][stage - 1], [target], before)
        written = True
        found += pairs
    if not written:
        d_x.zero_()
    active = step.x.relu() if any(needed[len(found) : len(found) + len(plan.dense)]) else step.x
    for s, (weight, given) in enumerate(zip(step.filters, kept.filters), len(plan.chains)):
        wanted = needs_x, needed[len(found)]
        d_z = of_source(s, torch.empty_like(sources.maps[s])) if any(wanted) else None
        d_weight = None
        if d_z is not None:
            d_active, d_weight = convolve_backward(d_z, active, weight.flatten(0, 1), plan.stride, wanted)
            if d_active is not None:
                d_x += torch.where(step.x > 0, d_active, 0)
        found.append(None if d_weight is None else d_weight.view_as(given).to(given.dtype))
    for s, pooled in enumerate(step.pools, len(plan.chains) + len(plan.dense)):
        found.append(of_source(s, torch.empty_like(pooled)) if needed[len(found)] else None)
    return d_x.to(x.dtype) if needs_x else None, None, d_weights, *found


def _restored(plan: Plan, kept: Sequence[Tensor]) -> list[Computed]:
    """What `_Step.compute` had found, from its tensors in order; hooks may have changed their layout."""
    laid = [channels_last(t) if t.dim() == 4 else t.contiguous() for t in kept]
    pairs = iter(zip(laid[::2], laid[1::2]))
    stages = [*(chain.stages for chain in plan.chains), *[1] * (len(plan.dense) + len(plan.pools))]
    return [[next(pairs) for _ in range(count)] for count in stages]


def _as(gradient: Tensor | None, like: Tensor) -> Tensor | None:
    return None if gradient is None else gradient.to(like.dtype)
