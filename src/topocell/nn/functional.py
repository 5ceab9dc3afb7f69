"""Tensor functions that the supernet and fixed networks share: convolutions, batch norm, channel shuffle."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from topocell.nn.kernels.cpu import ordinary

BN_EPS = 1e-5


def normalise(x: Tensor, weight: Tensor | None = None) -> Tensor:
    """Batch norm with the statistics of this batch and an optional per-channel `weight`, without bias.

    An operation of the supernet ends in batch norm without affine terms, then a multiplication with the weight
    of the architecture: giving that weight to batch norm saves the multiplication and what it would keep. Not inside
    transforms of `torch.func`: second derivatives of the library's batch norm with a weight are wrong there (2.14).
    """
    if weight is not None and torch._C._are_functorch_transforms_active():
        return normalise(x) * weight[:, None, None]
    return F.batch_norm(x, None, None, weight, None, training=True, eps=BN_EPS)


def in_own_types(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Let the backward pass of a function compute in the types of its forward pass, whatever autocast is around it."""

    @wraps(backward)
    def run(ctx: Any, *grads: Any) -> Any:
        device = next(grad.device.type for grad in grads if grad is not None)
        if device == "meta" or not torch.is_autocast_enabled(device):
            return backward(ctx, *grads)
        with torch.autocast(device, enabled=False):
            return backward(ctx, *grads)

    return run


def needs_graph(grads: Sequence[Tensor]) -> bool:
    """Return whether a backward pass has to be a graph of PyTorch's functions, given the gradients of the outputs.

    For second derivatives, for batches of gradients (`is_grads_batched`), and where these are no longer ordinary.
    """
    if torch.is_grad_enabled() or not ordinary(*grads):
        return True
    return not torch.compiler.is_compiling() and any(torch._C._functorch.is_legacy_batchedtensor(g) for g in grads)


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
    @in_own_types
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x, weight = ctx.saved_tensors
        channels, grad_x, grad_w = x.shape[1], None, None
        if needs_graph(grads):
            how = ctx.stride, ctx.padding, ctx.dilation, channels
            found = with_graph(lambda x, w: F.conv2d(x, w, None, *how), (x, weight), ctx.needs_input_grad, grads)
            return *found, None, None, None  # type: ignore[return-value]
        if ctx.stride == 1:
            grad = grads[0].contiguous(memory_format=torch.channels_last)
        else:
            grad = torch.zeros_like(x, memory_format=torch.channels_last)
            grad[:, :, :: ctx.stride, :: ctx.stride] = grads[0]
        if ctx.needs_input_grad[0]:
            grad_x = F.conv2d(grad, weight.flip(-1, -2), None, 1, ctx.padding, ctx.dilation, channels)
        if ctx.needs_input_grad[1]:
            shape = [1, 1], [ctx.padding] * 2, [ctx.dilation] * 2, False, [0, 0], channels
            grad_w = torch.ops.aten.convolution_backward(grad, x, weight, None, *shape, [False, True, False])[1]
        return grad_x, grad_w, None, None, None


def depthwise(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """Depthwise convolution that keeps the size at stride 1. `x` (N, G, H, W), `weight` (G, 1, k, k), k odd."""
    padding = dilation * (weight.shape[-1] - 1) // 2
    if not ordinary(x, weight):
        return F.conv2d(x, weight, None, stride, padding, dilation, weight.shape[0])
    out: Tensor = _Depthwise.apply(x, weight, stride, padding, dilation)
    return out


def subsample(x: Tensor, stride: int) -> Tensor:
    """Every `stride`-th row and column of `x` (N, C, H, W), as a 1×1 convolution of that stride sees them.

    All 1×1 convolutions of this project with a stride are written so: on some processors the library's own write past
    their memory, or return wrong gradients, where the channels are few (oneDNN 3.12, channels-last input).
    """
    return x if stride == 1 else x[:, :, ::stride, ::stride]


def convolve(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Dense convolution that keeps the size at stride 1. `x` (N, C_in, H, W), `weight` (C_out, C_in, k, k), k odd."""
    if weight.shape[-1] == 1:
        x, stride = subsample(x, stride), 1
    return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2)


def convolve_backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of `x` and `weight` of `convolve`, as far as needed, given that of its output."""
    kernel, seen = weight.shape[-1], x
    if kernel == 1:
        seen, stride, every = subsample(x, stride), 1, stride
    how = [stride] * 2, [kernel // 2] * 2, [1, 1], False, [0, 0], 1
    d_x, d_weight, _ = torch.ops.aten.convolution_backward(grad, seen, weight, None, *how, [*needed, False])
    if needed[0] and seen is not x:
        spread = torch.zeros_like(x)
        subsample(spread, every).copy_(d_x)
        d_x = spread
    return d_x, d_weight


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """M separate 1×1 convolutions side by side. `x` (N, M·C, H, W), `weight` (M, C_out, C)."""
    m, c_out, c_in = weight.shape
    return F.conv2d(x, weight.reshape(m * c_out, c_in, 1, 1), groups=m)


def depthwise_separable(
    active: Tensor,
    weights: Sequence[tuple[Tensor, Tensor]],
    stride: int,
    dilation: int,
    norms: Sequence[Callable[[Tensor], Tensor]],
) -> Tensor:
    """Stages of depthwise k×k, 1×1, norm, on M edges side by side, with ReLU between them.

    Args:
        active: (N, C, H, W), the ReLU of what the edges read.
        weights: of each stage, depthwise (M, C, 1, k, k) and 1×1 (M, C, C, 1, 1).
        stride: of the first stage; the others have none.
        dilation: of the depthwise convolutions.
        norms: what follows the 1×1 convolution of each stage, (N, M·C, h, w) to the same.
    """
    y = fan(active, len(weights[0][0]))
    for i, ((depth, point), norm) in enumerate(zip(weights, norms)):
        y = depthwise(y.relu() if i else y, depth.flatten(0, 1), 1 if i else stride, dilation)
        y = norm(pointwise(y, point.flatten(2)))
    return y


def fan(x: Tensor, m: int) -> Tensor:
    """`x` (N, C, H, W) repeated for `m` edges: (N, m·C, H, W), edge-major."""
    return x if m == 1 else torch.cat([x] * m, 1)


def shuffle_channels(x: Tensor, groups: int) -> Tensor:
    """Channel shuffle: view (groups, C/groups), transpose, flatten (PC-DARTS)."""
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def with_graph(
    compute: Callable[..., Tensor | Sequence[Tensor]],
    inputs: Sequence[Tensor | None],
    needed: Sequence[bool],
    grads: Sequence[Tensor],
) -> tuple[Tensor | None, ...]:
    """Gradients of `inputs`, None where they are not `needed`; they can be differentiated again where autograd is on.

    For the backward pass of a function that is no graph of operations itself: `compute` is one, of the same inputs.
    `grads` are those of its outputs.
    """
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Each input is a node of its own, since one may have been computed from another.
        nodes = [None if tensor is None else tensor.view_as(tensor) for tensor in inputs]
        wanted = [node for node, need in zip(nodes, needed) if need and node is not None]
        found = iter(torch.autograd.grad(compute(*nodes), wanted, grads, create_graph=again, allow_unused=True))
    return tuple(next(found) if need and node is not None else None for node, need in zip(nodes, needed))
