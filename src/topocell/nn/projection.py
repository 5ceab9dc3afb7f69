"""ReLU, 1×1 convolutions and batch norm by compiled kernels, in one step of autograd.

What leads into the cells: it reads many channels and writes few, so it costs what reading costs. Of all that lies
between only the output of the convolution is kept for backward; the library keeps relu(x) as well.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from topocell.nn.functional import BN_EPS, convolve, in_own_types, needs_graph, with_graph
from topocell.nn.kernels.choice import IMAGES, LIBRARY, fastest, waves
from topocell.nn.kernels.cpu import (
    Ends,
    Norm,
    Project,
    Shape,
    addresses,
    floats,
    kernels,
    new_map,
    required,
    rows,
    threads_for,
)


def projected(
    x: Tensor, weights: Sequence[Tensor], stride: int, gain: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Batch norm of 1×1 convolutions of relu(x), (N, C, h, w), and the statistics (2, C), mean and variance, before it.

    Args:
        x: (N, I, H, W), channels last; `usable(x)` must hold.
        weights: (O, I, 1, 1) each; convolution i sees the pixels from (i, i) on, every `stride`-th, and its outputs
            follow those of the one before.
        stride: 1, or 2 for every other pixel.
        gain, bias: (C,) of the batch norm; None: 1 and 0.
    """
    out, statistics = _Projected.apply(x, stride, gain, bias, *weights)
    return out, statistics


def usable(x: Tensor) -> bool:
    """Return whether there are compiled kernels for `x` and it has their layout."""
    return x.is_contiguous(memory_format=torch.channels_last) and kernels(x.shape[1], x) is not None


def faster(x: Tensor, outputs: Sequence[int], stride: int, affine: bool) -> bool:
    """Return whether kernels are usable, and faster than the library, for convolutions with so many outputs each."""
    if not usable(x):
        return False
    channels, *size = x.shape[1:]
    what = f"1×1 stride {stride}{' affine' if affine else ''}, {channels} to {'+'.join(map(str, outputs))} channels, "
    given = channels, size, outputs, stride, affine
    ways = {"kernels": partial(_trial, *given), LIBRARY: partial(_trial, *given, library=True)}
    return fastest(f"{what}{size[0]}×{size[1]}", ways) != LIBRARY


def _trial(
    channels: int, size: Sequence[int], outputs: Sequence[int], stride: int, affine: bool, library: bool = False
) -> Sequence[Tensor]:
    """One forward and backward pass; no number is drawn."""
    x = waves(IMAGES, channels, *size).contiguous(memory_format=torch.channels_last).requires_grad_()
    weights = [waves(n, channels, 1, 1).requires_grad_() for n in outputs]
    norm = [waves(sum(outputs)).requires_grad_() for _ in range(2)] if affine else []
    gain, bias = norm or (None, None)
    if library:
        out = _by_library(x, weights, stride, gain, bias)
    else:
        out, _ = projected(x, weights, stride, gain, bias)
    return torch.autograd.grad([out], [x, *weights, *norm], [waves(*out.shape)])


def _by_library(x: Tensor, weights: Sequence[Tensor], stride: int, gain: Tensor | None, bias: Tensor | None) -> Tensor:
    active = x.relu()
    maps = [convolve(active[:, :, i:, i:] if stride > 1 else active, w, stride) for i, w in enumerate(weights)]
    return F.batch_norm(torch.cat(maps, 1), None, None, gain, bias, training=True, eps=BN_EPS)


class _Projected(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int, *given: Tensor | None) -> tuple[Tensor, Tensor]:
        gain, bias, weights = _contiguous(given)
        n, _, height, width = x.shape
        size = n, sum(len(w) for w in weights), (height - 1) // stride + 1, (width - 1) // stride + 1
        z, out = (new_map(x, size) for _ in range(2))
        statistics = x.new_empty(2, size[1])
        compiled = required(z.shape[1])
        for shape, weight in zip(_shapes(x, z, stride, weights), weights):
            compiled.project_forward(shape, x, weight, z, statistics)
        compiled.combine(_shape(z), [], floats([]), [None], _ends(z, statistics, gain, bias), [out])
        ctx.save_for_backward(x, z, statistics, *given)  # as they were given: their history is for second derivatives
        ctx.stride = stride
        ctx.mark_non_differentiable(statistics)
        return out, statistics

    @staticmethod
    @in_own_types
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        saved: list[Any] = [t if t is None else t.float() for t in ctx.saved_tensors]
        x, z, statistics, *given = saved
        if needs_graph(grads[:1]):
            stride = ctx.stride
            return with_graph(
                lambda x, _, gain, bias, *weights: _by_library(x, weights, stride, gain, bias),
                (x, None, *given),
                ctx.needs_input_grad,
                grads[:1],
            )
        gain, bias, weights = _contiguous(given)
        # Hooks on saved tensors may have changed the layout.
        x, z, grad = (t.contiguous(memory_format=torch.channels_last) for t in (x, z, grads[0]))
        statistics = statistics.contiguous()
        compiled, sums = required(z.shape[1]), torch.empty_like(statistics)
        compiled.gradient_sums(_shape(z), addresses([grad]), _ends(z, statistics, gain, bias), [sums], [None])
        needs_x, _, needs_gain, needs_bias, *learns = ctx.needs_input_grad
        every_pixel = ctx.stride == 1
        d_x = (torch.empty_like(x) if every_pixel else torch.zeros_like(x)) if needs_x else None
        d_weights = [torch.empty_like(w) if learnt else None for w, learnt in zip(weights, learns)]
        for shape, weight, d_weight in zip(_shapes(x, z, ctx.stride, weights), weights, d_weights):
            if d_x is not None or d_weight is not None:
                norm = _norm(statistics, gain, bias, shape.first)
                compiled.project_backward(shape, x, weight, z, norm, grad, sums, d_x, d_weight)
        return d_x, None, sums[1] if needs_gain else None, sums[0] if needs_bias else None, *d_weights


def _contiguous(given: Sequence[Tensor | None]) -> tuple[Tensor | None, Tensor | None, list[Tensor]]:
    gain, bias, *weights = (None if t is None else t.contiguous() for t in given)
    return gain, bias, [w for w in weights if w is not None]


def _shapes(x: Tensor, z: Tensor, stride: int, weights: Sequence[Tensor]) -> list[Project]:
    """Shapes of each convolution; at stride 1 all see every pixel."""
    n, channels, height, width = x.shape
    total, out, threads = z.shape[1], z.shape[2:], threads_for(n)
    found, first = [], 0
    for i, weight in enumerate(weights):
        corner = i if stride > 1 else 0
        part = stride, corner, corner, channels, len(weight), first, total, threads
        found.append(Project(n, height, width, *out, *part))
        first += len(weight)
    return found


def _shape(z: Tensor) -> Shape:
    n, channels, *size = z.shape
    return Shape(n, *size, *size, channels, 1, 1, 1, 1, threads_for(n))


def _norm(statistics: Tensor, gain: Tensor | None, bias: Tensor | None, first: int = 0) -> Norm:
    """Addresses of a batch norm, of the channels from `first` on."""
    offset = first * statistics.element_size()
    places = [*rows(statistics), *(None if t is None else t.data_ptr() for t in (gain, bias))]
    return Norm(*(None if place is None else place + offset for place in places), None, BN_EPS)


def _ends(z: Tensor, statistics: Tensor, gain: Tensor | None, bias: Tensor | None) -> Ends:
    ends = Ends()
    ends.add(z, _norm(statistics, gain, bias), [0])
    return ends
