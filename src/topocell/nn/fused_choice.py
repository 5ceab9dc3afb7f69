"""Which way a chain of separable convolutions is fastest: measured once for each shape."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from topocell.nn.functional import BN_EPS, depthwise_separable, normalise
from topocell.nn.fused_plan import Chain, Plan
from topocell.nn.kernels.choice import IMAGES, LIBRARY, fastest, waves
from topocell.nn.kernels.cpu import (
    widths,
)
from topocell.nn.separable import separable, usable


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
