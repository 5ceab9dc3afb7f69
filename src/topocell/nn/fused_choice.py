"""Which way a chain of separable convolutions is fastest: measured once for each shape."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from topocell.nn.fused_check import on_gpu
from topocell.nn.fused_library import by_library
from topocell.nn.fused_plan import Chain, Plan
from topocell.nn.kernels.choice import IMAGES, LIBRARY, fastest, waves
from topocell.nn.kernels.cpu import (
    widths,
)
from topocell.nn.separable import separable, usable


def chosen(x: Tensor, of: Chain, stride: int, affine: bool = False) -> Chain | None:
    """A chain with the width of vector with which it is fastest on maps like `x` (N, C, H, W); None: by the library.

    `of` may be any of its kind: neither the edges nor their weights matter. On a GPU kernels are taken wherever there
    are some: not for batch norms that are affine.
    """
    channels, *size = x.shape[1:]
    if not usable(x, channels, of.kernel):
        return None
    if on_gpu(x, channels):
        return None if affine else of
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
    return None if found == LIBRARY else of._replace(lanes=int(found))


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
    plan, given = Plan((of,), stride, (False,) * edges, affine=affine), x.new_zeros(0) if affine else scale
    outputs: Sequence[Tensor] = (
        by_library(x, plan, given, [], [], weights) if library else separable(x, plan, weights, given)[0]
    )
    inputs = [x, *weights] if affine else [x, scale, *weights]
    return torch.autograd.grad(outputs, inputs, [waves(*out.shape) for out in outputs])
