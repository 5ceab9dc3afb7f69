"""Batch norm over the images of all processes, as if their shares were one batch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from topocell.nn.kernels.cpu import left_out
from topocell.runtime.distributed import world


class _Total(torch.autograd.Function):
    """The sum over all processes; so is its gradient, since every process has a loss of its own."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        dist.all_reduce(total)
        return total


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm` of x (N, C, ...) with the statistics of all processes in training.

    All of them have equally many images. The mean is taken first, then the squares around it, as one process does, in
    float32 at least.
    """
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    over = [d for d in range(x.dim()) if d != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    n = x.numel() // x.shape[1] * world()
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean = _Total.apply(wide.sum(over)) / n
    centred = wide - mean.view(shape)
    variance = _Total.apply(centred.square().sum(over)) / n
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * n / max(n - 1, 1)).to(running_var.dtype), momentum)
    scale = (variance + eps).rsqrt()
    out = centred * (scale if weight is None else scale * weight).view(shape)
    return (out if bias is None else out + bias.view(shape)).to(x.dtype)


class _Everywhere(TorchFunctionMode):
    """Lets every batch norm inside be `batch_norm` of this module."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is F.batch_norm:
            with torch._C.DisableTorchFunctionSubclass():
                return batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@contextmanager
def synchronised() -> Iterator[None]:
    """Let batch statistics inside be those of all processes; kernels that compute them on their own are left out."""
    if world() == 1:
        yield
        return
    with left_out(), _Everywhere():
        yield
