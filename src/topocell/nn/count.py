"""Parameters and multiply-adds of a network, and the number of channels for a number of parameters."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from topocell.errors import SpaceError
from topocell.genotype.genotype import Genotype
from topocell.nn.network import FixedNet


class Count(NamedTuple):
    """Size of a network: trainable numbers, and multiply-adds of convolutions and linear layers per image."""

    parameters: int
    multiply_adds: int


def count(net: nn.Module, input_size: tuple[int, int, int]) -> Count:
    """Parameters and multiply-adds of a network, without its auxiliary head.

    Measured on one forward pass of zeros in evaluation mode; the modes of all modules are restored. A network
    on the meta device is measured without computing anything. Convolutions and linear layers count, without
    their biases; batch norm, pooling and activations do not, as in the papers' tables.

    Args:
        net: a `FixedNet`, or any module that maps images to a tensor.
        input_size: `(channels, height, width)` of one image.
    """
    multiply_adds = 0

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal multiply_adds
        weight = module.weight
        assert isinstance(weight, Tensor)
        multiply_adds += output[0].numel() * weight[0].numel()

    modes = [(module, module.training) for module in net.modules()]
    layers = [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    handles = [module.register_forward_hook(hook) for module in layers]
    like = next(net.parameters())
    try:
        net.eval()
        with torch.no_grad():
            net(torch.zeros(1, *input_size, device=like.device, dtype=like.dtype))
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    return Count(_parameters(net), multiply_adds)


def _parameters(net: nn.Module) -> int:
    return sum(p.numel() for name, p in net.named_parameters() if not name.startswith("auxiliary_head."))


def channels_for(
    genotype: Genotype,
    parameters: int,
    layers: int,
    classes: int,
    in_channels: int = 3,
    stem: str = "cifar",
    head: str = "plain",
) -> int:
    """The even number of initial channels whose network comes closest to a parameter budget, at least 2.

    The count is a quadratic polynomial in the channels, so three small networks on the meta device give it.

    Raises:
        SpaceError: a budget below 1, or an argument that `FixedNet` refuses.
    """
    if parameters < 1:
        raise SpaceError(f"a parameter budget is at least 1, but got parameters={parameters}")
    with torch.device("meta"):
        f1, f2, f3 = (
            _parameters(FixedNet(genotype, c, layers, classes, in_channels, stem, head=head)) for c in (2, 4, 6)
        )
    half_second = (f3 - 2 * f2 + f1) // 2

    def size(k: int) -> int:  # of 2k channels
        return f1 + (k - 1) * (f2 - f1) + (k - 1) * (k - 2) * half_second

    high = 1
    while size(high) < parameters:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) < parameters else (low, middle)
    return 2 * min((k for k in (low, high) if k > 0), key=lambda k: abs(size(k) - parameters))
