"""Our networks as plain modules: the library's own operations alone, with the same weights by the same names."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topocell.nn.modules import FactorizedReduce, ReLUConvBN, _Chain
from topocell.nn.network import FixedNet


def plain(net: FixedNet) -> FixedNet:
    """A copy of a network in which no module has a forward of its own for speed."""
    return _replaced(copy.deepcopy(net))


def _replaced(module: Any) -> Any:
    for name, child in module.named_children():
        if isinstance(child, _Chain):
            setattr(module, name, _PlainChain(child))
        elif isinstance(child, FactorizedReduce):
            setattr(module, name, _PlainReduce(child))
        elif isinstance(child, ReLUConvBN):
            setattr(module, name, _PlainConv(child))
        else:
            _replaced(child)
    return module


def _conv(child: nn.Conv2d, stride: int | None = None) -> nn.Conv2d:
    """torch's convolution with the settings and the weight of another."""
    same: dict[str, Any] = {key: getattr(child, key) for key in ("padding", "dilation", "groups")}
    size = child.in_channels, child.out_channels, child.kernel_size
    new = nn.Conv2d(*size, stride=stride or child.stride, bias=False, **same)  # type: ignore[arg-type]
    new.weight = child.weight
    return new


class _PlainChain(nn.Module):
    def __init__(self, of: _Chain) -> None:
        super().__init__()
        self.order = [name for stage in of._stages for name in stage]
        for name in self.order:
            child = getattr(of, name)
            self.add_module(name, _conv(child) if isinstance(child, nn.Conv2d) else child)

    def forward(self, x: Tensor) -> Tensor:
        """ReLU before each depthwise convolution."""
        for i, name in enumerate(self.order):
            x = getattr(self, name)(F.relu(x) if i % 3 == 0 else x)
        return x


class _PlainReduce(nn.Module):
    def __init__(self, of: FactorizedReduce) -> None:
        super().__init__()
        self.conv1, self.conv2, self.bn = _conv(of.conv1), _conv(of.conv2), of.bn

    def forward(self, x: Tensor) -> Tensor:
        """Even and odd pixels."""
        x = F.relu(x)
        return self.bn(torch.cat([self.conv1(x[:, :, ::2, ::2]), self.conv2(x[:, :, 1::2, 1::2])], 1))


class _PlainConv(nn.Module):
    def __init__(self, of: ReLUConvBN) -> None:
        super().__init__()
        self.conv, self.bn, self.subsample = _conv(of.conv), of.bn, of._subsample

    def forward(self, x: Tensor) -> Tensor:
        """ReLU, convolution, batch norm."""
        return self.bn(self.conv(F.relu(x[:, :, :: self.subsample, :: self.subsample])))
