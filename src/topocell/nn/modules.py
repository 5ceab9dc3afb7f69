"""The primitives of cells as plain modules, for networks whose architecture is fixed.

Every operation maps `(N, C, H, W)` to `(N, C, H / stride, W / stride)` with H and W even where the stride is
2. Convolutions have no bias and no ReLU works in place, since one tensor feeds several operations.
Definitions are those of DARTS (Liu et al., 2019) and NAS-Bench-201 (Dong and Yang, 2020); the supernet has
its own batched form.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from topocell.nn.functional import BN_EPS, depthwise, subsample
from topocell.nn.fused_choice import chosen
from topocell.nn.fused_plan import Chain, Plan
from topocell.nn.kernels.cpu import ordinary
from topocell.nn.kernels.mode import by_own_mode
from topocell.nn.projection import faster, projected
from topocell.nn.separable import separable


def batch_norm(channels: int, affine: bool, batch_statistics: bool = False) -> nn.BatchNorm2d:
    """Batch norm over `channels`; with `batch_statistics` also in evaluation, and none kept."""
    return nn.BatchNorm2d(channels, affine=affine, track_running_stats=not batch_statistics)


#: What a module may have that only a call of the module itself honours.
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

#: Methods that are set on a module to change what it computes, as for images that can be tiled.
_METHODS = frozenset({"forward", "_conv_forward", "_check_input_dim", "compute"})

#: What kernels stand for, as it was when it was imported: somebody may put something else in its place.
REPLACEABLE = tuple(
    (owner, name, getattr(owner, name))
    for owner, names in (
        (nn.Module, ("__call__",)),
        (nn.Conv2d, ("forward", "_conv_forward")),
        (nn.BatchNorm2d, ("forward",)),
        (F, ("conv2d", "batch_norm", "relu", "max_pool2d", "avg_pool2d")),
    )
    for name in names
)


def _tensors(*modules: nn.Module) -> list[Any]:
    return [tensor for module in modules for tensor in (module.weight, module.bias)]


def _settings(convolutions: Sequence[Any], tensors: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """What kernels take for granted: settings of convolutions, and shapes of their tensors and of those of norms."""
    how = [(c.stride, c.padding, c.dilation, c.groups, c.padding_mode) for c in convolutions]
    return how, [None if t is None else t.shape for t in tensors]


def _by_kernels(
    x: Tensor, convolutions: Sequence[nn.Module], norms: Sequence[nn.BatchNorm2d], built: object, stride: int
) -> bool:
    """Return whether compiled kernels may replace these modules, which are applied with one stride in all.

    They may where the modules have the settings that they were `built` with, norms take the statistics of the batch,
    and nothing hangs on the modules or asks for more of `x` and the weights. A norm refuses a single value for each
    channel, which is for the library to say.
    """
    modules: tuple[Any, ...] = *convolutions, *norms
    if not ordinary(x) or not all(type(module) in (nn.Conv2d, nn.BatchNorm2d) for module in modules):
        return False
    if not all((n.training or n.running_mean is None) and n.eps == BN_EPS for n in norms):
        return False
    if has_hooks(*modules) or values_per_channel(x, stride) < 2:
        return False
    tensors = _tensors(*modules)
    return _settings(convolutions, tensors) == built and ordinary(x, *(t for t in tensors if t is not None))


def values_per_channel(x: Tensor, stride: int) -> int:
    """How many values a channel of `x` (N, C, H, W) has at a stride."""
    n, _, height, width = x.shape
    return n * -(-height // stride) * -(-width // stride)


def has_hooks(*modules: nn.Module) -> bool:
    """Return whether a call of one of these modules does other than PyTorch's `forward` of its class."""
    return (
        _has_any_global_hook()
        or _replaced(*modules)
        or any(getattr(module, hooks) for module in modules for hooks in _HOOKS)
    )


def _replaced(*modules: nn.Module) -> bool:
    """Return whether something else stands in the place of a method of these modules, or of a function of PyTorch."""
    return any(getattr(owner, name) is not as_built for owner, name, as_built in REPLACEABLE) or not all(
        _METHODS.isdisjoint(vars(module)) for module in modules
    )


def _track(bn: nn.BatchNorm2d, statistics: Tensor, count: int) -> None:
    """Take mean and variance (2, C) of `count` values each into the running ones, as the module does."""
    if not (bn.training and bn.track_running_stats) or bn.running_mean is None or bn.running_var is None:
        return
    with torch.no_grad():
        by = bn.momentum or 0.0
        if bn.num_batches_tracked is not None:
            bn.num_batches_tracked += 1
            by = 1 / float(bn.num_batches_tracked) if bn.momentum is None else bn.momentum
        bn.running_mean.lerp_(statistics[0], by)
        bn.running_var.lerp_(statistics[1] * (count / max(count - 1, 1)), by)


def _projectable(x: Tensor, convolutions: Sequence[nn.Conv2d], stride: int, bn: nn.BatchNorm2d, built: object) -> bool:
    if not _by_kernels(x, convolutions, [bn], built, stride):
        return False
    outputs = [c.out_channels for c in convolutions]
    return min(outputs) > 0 and faster(x, outputs, stride, bn.affine)


def _projected(x: Tensor, convolutions: Sequence[nn.Conv2d], stride: int, bn: nn.BatchNorm2d) -> Tensor:
    out, statistics = projected(x, [c.weight for c in convolutions], stride, bn.weight, bn.bias)
    _track(bn, statistics, out.numel() // out.shape[1])
    return out


def _depthwise(conv: nn.Conv2d, x: Tensor, built: object) -> Tensor:
    """`conv(x)`, with the fast gradients of `topocell.nn.functional` where the module is as it was `built`.

    The module is PyTorch's own class: what counts, quantizes or prunes goes by the type of a module, or by its name.
    """
    if type(conv) is nn.Conv2d and ordinary(x) and not has_hooks(conv):
        tensors = _tensors(conv)  # once: the weight of another type may change when it is read
        if _settings([conv], tensors) == built and ordinary(x, tensors[0]):
            return depthwise(x, tensors[0], int(conv.stride[0]), int(conv.dilation[0]))
    return conv(x)


class ReLUConvBN(nn.Module):
    """ReLU, k×k convolution, batch norm: DARTS' preprocess layer (k = 1), NAS-Bench-201's `nor_conv_k`.

    Shapes: `(N, c_in, H, W)` to `(N, c_out, ceil(H / stride), ceil(W / stride))`.
    """

    kernels = "auto"

    def __init__(
        self,
        c_in: int,
        c_out: int,
        affine: bool,
        *,
        kernel: int = 1,
        stride: int = 1,
        batch_statistics: bool = False,
    ) -> None:
        super().__init__()
        self._subsample = stride if kernel == 1 else 1
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride // self._subsample, (kernel - 1) // 2, bias=False)
        self.bn = batch_norm(c_out, affine, batch_statistics)
        self._pointwise, self._built = kernel == 1, _settings([self.conv], _tensors(self.conv, self.bn))

    @by_own_mode
    def forward(self, x: Tensor) -> Tensor:
        if self._pointwise and _projectable(x, [self.conv], self._subsample, self.bn, self._built):
            return _projected(x, [self.conv], self._subsample, self.bn)
        return self.bn(self.conv(F.relu(subsample(x, self._subsample))))


class FactorizedReduce(nn.Module):
    """ReLU, two 1×1 convolutions of stride 2 on even and on odd pixels, concatenated; batch norm (DARTS).

    Shapes: `(N, c_in, H, W)` with even H, W to `(N, c_out, H / 2, W / 2)`. An odd `c_out`, which DARTS does
    not allow, gives the second convolution one channel more.
    """

    kernels = "auto"

    def __init__(self, c_in: int, c_out: int, affine: bool, *, batch_statistics: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out // 2, 1, bias=False)
        self.conv2 = nn.Conv2d(c_in, c_out - c_out // 2, 1, bias=False)
        self.bn = batch_norm(c_out, affine, batch_statistics)
        self._built = _settings([self.conv1, self.conv2], _tensors(self.conv1, self.conv2, self.bn))

    @by_own_mode
    def forward(self, x: Tensor) -> Tensor:
        if _projectable(x, convolutions := [self.conv1, self.conv2], 2, self.bn, self._built):
            return _projected(x, convolutions, 2, self.bn)
        x = F.relu(x)
        even, odd = subsample(x, 2), subsample(x[:, :, 1:, 1:], 2)
        return self.bn(torch.cat([self.conv1(even), self.conv2(odd)], dim=1))


class _Chain(nn.Module):
    """Stages of ReLU, depthwise k×k, 1×1, batch norm; only the first has the stride. In training by compiled kernels
    where there are some for the machine (`topocell.nn.separable`)."""

    def __init__(self, channels: int, stride: int, affine: bool, kernel: int, dilation: int, suffixes: str) -> None:
        super().__init__()
        self._stages = tuple((f"dw{i}", f"pw{i}", f"bn{i}") for i in suffixes.split(","))
        self._chain, self._stride = Chain(kernel, dilation, len(self._stages), (0,)), stride
        for i, (dw, pw, bn) in enumerate(self._stages):
            sizes = kernel, 1 if i else stride, dilation * (kernel - 1) // 2, dilation
            self.add_module(dw, nn.Conv2d(channels, channels, *sizes, groups=channels, bias=False))
            self.add_module(pw, nn.Conv2d(channels, channels, 1, bias=False))
            self.add_module(bn, batch_norm(channels, affine))
        stages, convs, norms = self._modules_of_stages()
        self._depthwise_built = [_settings([dw], _tensors(dw)) for dw, _, _ in stages]
        self._built = _settings(convs, _tensors(*convs, *norms)) if affine else ()  # kernels take norms that are affine

    def _modules_of_stages(self) -> tuple[list[tuple[Any, ...]], list[nn.Module], list[nn.BatchNorm2d]]:
        """The modules of each stage; of all stages, the convolutions and the norms."""
        stages = [tuple(getattr(self, name) for name in names) for names in self._stages]
        return stages, [module for stage in stages for module in stage[:2]], [bn for _, _, bn in stages]

    def forward(self, x: Tensor) -> Tensor:
        stages, convs, norms = self._modules_of_stages()
        possible = _by_kernels(x, convs, norms, self._built, self._stride)
        if possible and x.is_contiguous(memory_format=torch.channels_last):
            chain = chosen(x, self._chain, self._stride, affine=True)
            if chain is not None:
                return self._compiled(x, stages, chain)
        for (dw, pw, bn), built in zip(stages, self._depthwise_built):
            x = bn(pw(_depthwise(dw, F.relu(x), built)))
        return x

    def _compiled(self, x: Tensor, stages: Sequence[tuple[Any, ...]], chain: Chain) -> Tensor:
        plan = Plan((chain,), self._stride, affine=True)
        tensors = [t for dw, pw, bn in stages for t in (dw.weight, pw.weight, bn.weight[None], bn.bias[None])]
        (out,), statistics = separable(x, plan, tensors)
        count = out.numel() // out.shape[1]
        for (_, _, bn), found in zip(stages, statistics):
            _track(bn, found[:, 0], count)
        return out


class SepConv(_Chain):
    """`sep_conv_kxk`: ReLU, depthwise k×k, 1×1, batch norm; twice, the second time with stride 1."""

    def __init__(self, channels: int, stride: int, affine: bool, *, kernel: int) -> None:
        super().__init__(channels, stride, affine, kernel, 1, "1,2")


class DilConv(_Chain):
    """`dil_conv_kxk`: ReLU, depthwise k×k of dilation 2, 1×1, batch norm."""

    def __init__(self, channels: int, stride: int, affine: bool, *, kernel: int) -> None:
        super().__init__(channels, stride, affine, kernel, 2, "")


class Conv7x1(nn.Module):
    """`conv_7x1_1x7`: ReLU, 1×7 convolution that strides over columns, 7×1 over rows, batch norm."""

    def __init__(self, channels: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, (1, 7), (1, stride), (0, 3), bias=False)
        self.conv2 = nn.Conv2d(channels, channels, (7, 1), (stride, 1), (3, 0), bias=False)
        self.bn = batch_norm(channels, affine)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv2(self.conv1(F.relu(x))))


class Zero(nn.Module):
    """`none`: zeros of the (strided) input's shape."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class Noise(nn.Module):
    """`noise` (RobustDARTS, S4): fresh N(0, 1) of the (strided) input's shape, in training and evaluation."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.randn_like(x[:, :, :: self.stride, :: self.stride])


class Residual(nn.Module):
    """An operation with a skip connection around it: op(x) + x, or op(x) + FactorizedReduce(x) where it strides.

    Shapes: `(N, channels, H, W)` to `(N, channels, H / stride, W / stride)`.

    Args:
        op: the operation; it leaves its input alone.
        channels, stride: of the operation.
        affine: whether the batch norm of the skip connection has gain and bias.
    """

    def __init__(self, op: nn.Module, channels: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.op = op
        self.skip = nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.op(x) + self.skip(x)
        return out
