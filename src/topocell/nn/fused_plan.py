"""What a fused step of the supernet computes, apart from its tensors, and the tensors of its stages."""

from collections.abc import Sequence
from ctypes import addressof
from itertools import accumulate, pairwise
from typing import NamedTuple

from torch import Tensor

from topocell.nn.functional import BN_EPS
from topocell.nn.kernels.cpu import (
    Floats,
    Norm,
    rows,
)


class Chain(NamedTuple):
    """The same operation on M edges: kernel size, dilation, number of stages, and the output of each edge.

    `scales` says where in the weights of the cell the weight of each edge stands; empty where batch norm is affine.
    `lanes` is the width of vector of its kernels (`topocell.nn.kernels.cpu.widths`); None for the first.
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


class Given(NamedTuple):
    """Tensors of a fused step beside its input: maps, bases, those of chains and of dense convolutions, and pools."""

    maps: Sequence[Tensor]
    bases: Sequence[Tensor]
    tensors: Sequence[Tensor]
    filters: Sequence[Tensor]
    pools: Sequence[Tensor]

    @classmethod
    def of(cls, plan: Plan, given: Sequence[Tensor]) -> "Given":
        """All of them, one after the other, as a step of autograd takes them."""
        maps, pools = len(plan.mix) - plan.identity, len(given) - len(plan.pools)
        bases, filters = maps + sum(plan.based), pools - len(plan.dense)
        return cls(given[:maps], given[maps:bases], given[bases:filters], given[filters:pools], given[pools:])


class Kept(NamedTuple):
    """What a fused step keeps for its backward pass, as autograd saves it: one tensor after the other.

    Attributes:
        x: the map that all parts read.
        weights: of the cell.
        tensors: weights of the chains, stage by stage.
        filters, pools: of the dense convolutions; maps of the pools.
        maps: the weighted maps, where their weights need a gradient.
        outputs: z and statistics of each stage of each part; none where memory is low.
    """

    x: Tensor
    weights: Tensor
    tensors: Sequence[Tensor]
    filters: Sequence[Tensor]
    pools: Sequence[Tensor]
    maps: Sequence[Tensor]
    outputs: Sequence[Tensor]

    def flat(self) -> tuple[Tensor, ...]:
        """All of them in order."""
        return (self.x, self.weights, *self.tensors, *self.filters, *self.pools, *self.maps, *self.outputs)

    @classmethod
    def of(cls, plan: Plan, with_maps: bool, saved: Sequence[Tensor]) -> "Kept":
        """The tensors that `flat` gave for a step."""
        stages = sum(chain.stages for chain in plan.chains)
        maps = len(plan.mix) - plan.identity if with_maps else 0
        sizes = 2, plan.per_stage * stages, len(plan.dense), len(plan.pools), maps
        bounds = [*accumulate(sizes), len(saved)]
        return cls(saved[0], saved[1], *(saved[start:end] for start, end in pairwise(bounds)))


def size_of(x: Tensor, stride: int) -> tuple[int, int, int, int]:
    """Shape of the outputs of a step on `x` (N, C, H, W)."""
    n, c, height, width = x.shape
    return n, c, (height - 1) // stride + 1, (width - 1) // stride + 1


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
