"""Average pooling of cells: 3×3 with a border of one pixel that does not count (DARTS; NAS-Bench-201)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from topocell.native import Shape, kernels


def avg_pool(x: Tensor, stride: int) -> Tensor:
    """Means of the pixels that each window has, (N, C, ceil(H/stride), ceil(W/stride)), of `x` (N, C, H, W).

    By compiled kernels where there are some: the library's cost several times what reading and writing does.
    """
    if kernels(x.shape[1], x) is None:
        return F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)
    out: Tensor = _AvgPool.apply(x, stride)
    return out


class _AvgPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int) -> Tensor:
        n, c, height, width = ctx.size = x.shape
        size = (height - 1) // stride + 1, (width - 1) // stride + 1
        ctx.compiled = kernels(c, x)
        ctx.shape = Shape(n, height, width, *size, c, 1, 3, stride, 1, min(torch.get_num_threads(), n))
        out = torch.empty(n, c, *size, memory_format=torch.channels_last)
        ctx.compiled.avg_pool_forward(ctx.shape, x.contiguous(memory_format=torch.channels_last), out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        d_x = torch.empty(ctx.size, memory_format=torch.channels_last)
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        ctx.compiled.avg_pool_backward(ctx.shape, grad, d_x)
        return d_x, None
