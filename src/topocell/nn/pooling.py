"""Pooling of cells: 3×3 with a border of one pixel that does not count (DARTS; NAS-Bench-201).

By compiled kernels where there are some: the library's cost several times what reading and writing does.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from topocell.nn.functional import in_own_types, needs_graph, with_graph
from topocell.nn.kernels.cpu import Kernels, Shape, kernels, new_map, required, threads_for


def avg_pool(x: Tensor, stride: int) -> Tensor:
    """Means of the pixels that each window has, (N, C, ceil(H/stride), ceil(W/stride)), of `x` (N, C, H, W)."""
    if kernels(x.shape[1], x) is None:
        return F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)
    out: Tensor = _AvgPool.apply(x, stride)
    return out


def max_pool(x: Tensor, stride: int) -> Tensor:
    """Maxima of the pixels that each window has, (N, C, ceil(H/stride), ceil(W/stride)), of `x` (N, C, H, W).

    The gradient goes to the first of equal pixels; NaN is larger than all.
    """
    if kernels(x.shape[1], x) is None:
        return F.max_pool2d(x, 3, stride, 1)
    out: Tensor = _MaxPool.apply(x, stride)
    return out


def _prepared(ctx: Any, x: Tensor, stride: int) -> tuple[Kernels, Tensor, Tensor]:
    """The kernels, `x` as they read it, and room for the output; keeps in `ctx` what backward needs."""
    n, c, height, width = ctx.size = x.shape
    size = (height - 1) // stride + 1, (width - 1) // stride + 1
    ctx.compiled = compiled = required(c)
    ctx.shape = Shape(n, height, width, *size, c, 1, 3, stride, 1, threads_for(n))
    return compiled, x.contiguous(memory_format=torch.channels_last), new_map(x, (n, c, *size))


def _gradients(ctx: Any, grads: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """The gradient of the output as kernels read it, and room for that of the input."""
    return grads[0].contiguous(memory_format=torch.channels_last), new_map(grads[0], ctx.size)


class _AvgPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int) -> Tensor:
        compiled, x, out = _prepared(ctx, x, stride)
        compiled.avg_pool_forward(ctx.shape, x, out)
        return out

    @staticmethod
    @in_own_types
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        if needs_graph(grads):  # the pool is linear, wherever it is
            stride, like = ctx.shape.stride, grads[0]
            anywhere = torch.zeros(ctx.size, dtype=like.dtype, device=like.device, requires_grad=True)
            (found,) = with_graph(
                lambda x: F.avg_pool2d(x, 3, stride, 1, count_include_pad=False), [anywhere], [True], grads
            )
            assert found is not None
            return found, None
        grad, d_x = _gradients(ctx, grads)
        ctx.compiled.avg_pool_backward(ctx.shape, grad, d_x)
        return d_x, None


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int) -> Tensor:
        compiled, x, out = _prepared(ctx, x, stride)
        which = torch.empty_like(out, dtype=torch.int8)
        compiled.max_pool_forward(ctx.shape, x, out, which)
        ctx.save_for_backward(which)
        return out

    @staticmethod
    @in_own_types
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (which,) = ctx.saved_tensors
        if needs_graph(grads):
            return _spread(grads[0], which, ctx.shape.stride, ctx.size), None
        grad, d_x = _gradients(ctx, grads)
        which = which.contiguous(memory_format=torch.channels_last)  # hooks on saved tensors may have changed that
        ctx.compiled.max_pool_backward(ctx.shape, which, grad, d_x)
        return d_x, None


def _spread(grad: Tensor, which: Tensor, stride: int, size: torch.Size) -> Tensor:
    """The gradient of x (N, C, H, W), given that of its maxima and which of the 9 pixels of its window each is."""
    n, channels, height, width = size
    rows, columns = (torch.arange(length, device=grad.device).mul(stride).sub(1) for length in grad.shape[2:])
    where = ((rows[:, None] + which // 3) * width + columns + which % 3).flatten(2)
    flat = grad.new_zeros(n, channels, height * width)
    return flat.scatter_add(2, where, grad.reshape(where.shape)).reshape(size)
