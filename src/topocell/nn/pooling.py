"""Pooling of cells: 3×3 with a border of one pixel that does not count (DARTS; NAS-Bench-201).

By compiled kernels where there are some: the library's cost several times what reading and writing does.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from topocell.nn.functional import in_own_types, needs_graph, with_graph
from topocell.nn.fused_check import on_gpu
from topocell.nn.fused_plan import size_of
from topocell.nn.kernels.cpu import Kernels, Shape, kernels, new_map, required, threads_for
from topocell.nn.kernels.gpu.state import current, failures, give_up


def avg_pool(x: Tensor, stride: int) -> Tensor:
    """Means of the pixels that each window has, (N, C, ceil(H/stride), ceil(W/stride)), of `x` (N, C, H, W)."""
    if on_gpu(x, x.shape[1]):
        return _by_gpu(x, stride, False)
    if kernels(x.shape[1], x) is None:
        return _averages(x, stride)
    out: Tensor = _AvgPool.apply(x, stride)
    return out


def max_pool(x: Tensor, stride: int) -> Tensor:
    """Maxima of the pixels that each window has, (N, C, ceil(H/stride), ceil(W/stride)), of `x` (N, C, H, W).

    The gradient goes to the first of equal pixels; NaN is larger than all.
    """
    if on_gpu(x, x.shape[1]):
        return _by_gpu(x, stride, True)
    if kernels(x.shape[1], x) is None:
        return _maxima(x, stride)
    out: Tensor = _MaxPool.apply(x, stride)
    return out


def _averages(x: Tensor, stride: int) -> Tensor:
    return F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)


def _maxima(x: Tensor, stride: int) -> Tensor:
    return F.max_pool2d(x, 3, stride, 1)


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
        if needs_graph(grads):
            return _averaged(grads[0], ctx.shape.stride, ctx.size), None
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


def _by_gpu(x: Tensor, stride: int, greatest: bool) -> Tensor:
    try:
        with current(x.device):
            out: Tensor = _GpuPool.apply(x, stride, greatest)
        return out
    except failures() as fault:
        give_up(x.device, fault)
        return _maxima(x, stride) if greatest else _averages(x, stride)


class _GpuPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int, greatest: bool) -> Tensor:
        from topocell.nn.kernels.gpu import launch

        out = new_map(x, size_of(x, stride))
        which = torch.empty_like(out, dtype=torch.int8) if greatest else None
        launch.pool_forward(x.contiguous(memory_format=torch.channels_last), stride, greatest, out, which)
        ctx.save_for_backward(which)
        ctx.stride, ctx.size = stride, x.shape
        return out

    @staticmethod
    @in_own_types
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (which,) = ctx.saved_tensors
        which = None if which is None else which.contiguous(memory_format=torch.channels_last)
        if not needs_graph(grads):
            from topocell.nn.kernels.gpu import launch

            grad, d_x = _gradients(ctx, grads)
            try:
                with current(grad.device):
                    launch.pool_backward(grad, ctx.stride, which, d_x)
                return d_x, None, None
            except failures() as fault:
                give_up(grad.device, fault)
        if which is None:
            return _averaged(grads[0], ctx.stride, ctx.size), None, None
        return _spread(grads[0], which, ctx.stride, ctx.size), None, None


def _averaged(grad: Tensor, stride: int, size: torch.Size) -> Tensor:
    """The gradient of x (N, C, H, W) given that of its averages: the pool is linear, wherever it is."""
    anywhere = torch.zeros(size, dtype=grad.dtype, device=grad.device, requires_grad=True)
    (found,) = with_graph(lambda x: _averages(x, stride), [anywhere], [True], [grad])
    assert found is not None
    return found


def _spread(grad: Tensor, which: Tensor, stride: int, size: torch.Size) -> Tensor:
    """The gradient of x (N, C, H, W), given that of its maxima and which of the 9 pixels of its window each is."""
    n, channels, height, width = size
    rows, columns = (torch.arange(length, device=grad.device).mul(stride).sub(1) for length in grad.shape[2:])
    where = ((rows[:, None] + which // 3) * width + columns + which % 3).flatten(2)
    flat = grad.new_zeros(n, channels, height * width)
    return flat.scatter_add(2, where, grad.reshape(where.shape)).reshape(size)
