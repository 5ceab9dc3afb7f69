"""Tensor functions that the supernet and fixed networks share: convolutions, batch norm, channel shuffle."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BN_EPS = 1e-5


def normalise(x: Tensor, weight: Tensor | None = None) -> Tensor:
    """Batch norm with the statistics of this batch and an optional per-channel `weight`, without bias.

    An operation of the supernet ends in batch norm without affine terms, then a multiplication with the weight
    of the architecture: giving that weight to batch norm saves the multiplication and what it would keep.
    """
    return F.batch_norm(x, None, None, weight, None, training=True, eps=BN_EPS)


class _Depthwise(torch.autograd.Function):
    """Depthwise convolution whose input gradient is a forward convolution with the flipped kernel.

    The library's gradients of dilated and of strided depthwise convolutions cost 5–20 times their forward on a
    CPU. At stride 1 the flipped kernel gives the same numbers at the cost of a forward; a larger stride becomes
    stride 1 once its output gradient is spread over the input's grid.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding, ctx.dilation = stride, padding, dilation
        return F.conv2d(x, weight, None, stride, padding, dilation, x.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x, weight = ctx.saved_tensors
        channels, grad_x, grad_w = x.shape[1], None, None
        if ctx.stride == 1:
            grad = grads[0].contiguous(memory_format=torch.channels_last)
        else:
            grad = torch.zeros_like(x, memory_format=torch.channels_last)
            grad[:, :, :: ctx.stride, :: ctx.stride] = grads[0]
        if ctx.needs_input_grad[0]:
            grad_x = F.conv2d(grad, weight.flip(-1, -2), None, 1, ctx.padding, ctx.dilation, channels)
        if ctx.needs_input_grad[1]:
            grad_w = _weight_gradient(x, grad, weight, ctx.padding, ctx.dilation)
        return grad_x, grad_w, None, None, None


def _weight_gradient(x: Tensor, grad: Tensor, weight: Tensor, padding: int, dilation: int) -> Tensor:
    """Weight gradient of a depthwise convolution of stride 1. `x`, `grad` (N, G, H, W) → (G, 1, k, k)."""
    kernel, channels = weight.shape[-1], x.shape[1]
    if x.device.type == "cpu" and dilation * (kernel - 1) >= x.shape[-1]:
        return _gram_weight_gradient(x, grad, kernel, padding, dilation)
    shape = [1, 1], [padding] * 2, [dilation] * 2, False, [0, 0], channels
    gradient: Tensor = torch.ops.aten.convolution_backward(grad, x, weight, None, *shape, [False, True, False])[1]
    return gradient


def _gram_weight_gradient(x: Tensor, grad: Tensor, kernel: int, padding: int, dilation: int) -> Tensor:
    """The same where the kernel reaches across the map, which the library is up to ten times slower at on a CPU.

    For each row of taps one matrix product per channel pairs every column of `grad` with every column of `x`,
    summed over images and rows; a tap is the sum of one diagonal of it.
    """
    n, c, h, w = x.shape
    padded = x.new_zeros(c, h + 2 * padding, n, w)
    padded[:, padding : padding + h] = x.permute(1, 2, 0, 3)
    rows = padded.view(c, (h + 2 * padding) * n, w)
    columns = grad.permute(1, 2, 0, 3).reshape(c, h * n, w).transpose(1, 2)
    starts = [i * dilation * n for i in range(kernel)]
    pairs = F.pad(torch.stack([torch.bmm(columns, rows[:, s : s + h * n]) for s in starts], 1), (padding, padding))
    a, b, y, z = pairs.stride()
    diagonals = pairs.as_strided((c, kernel, w, kernel), (a, b, y + z, z * dilation))
    return diagonals.sum(2).unsqueeze(1)


def depthwise(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """Depthwise convolution that keeps the size at stride 1. `x` (N, G, H, W), `weight` (G, 1, k, k), k odd."""
    padding = dilation * (weight.shape[-1] - 1) // 2
    out: Tensor = _Depthwise.apply(x, weight, stride, padding, dilation)
    return out


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """M separate 1×1 convolutions side by side. `x` (N, M·C, H, W), `weight` (M, C_out, C)."""
    m, c_out, c_in = weight.shape
    return F.conv2d(x, weight.reshape(m * c_out, c_in, 1, 1), groups=m)


def fan(x: Tensor, m: int) -> Tensor:
    """`x` (N, C, H, W) repeated for `m` edges: (N, m·C, H, W), edge-major."""
    return x if m == 1 else torch.cat([x] * m, 1)


def shuffle_channels(x: Tensor, groups: int) -> Tensor:
    """Channel shuffle: view (groups, C/groups), transpose, flatten (PC-DARTS)."""
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)
