"""Networks of layers in a row, for contrast with a supernet: with and without residual connections."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topocell.nn.functional import subsample


def _conv_bn(c_in: int, c_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out))


class PlainLayer(nn.Module):
    """3×3 convolution, batch norm, ReLU (VGG)."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv = _conv_bn(c_in, c_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) → (N, c_out, H/stride, W/stride)."""
        return torch.relu(self.conv(x))


class ResidualLayer(nn.Module):
    """Two 3×3 convolutions with batch norm beside an identity (ResNet); a 1×1 convolution where the shape changes."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = _conv_bn(c_in, c_out, stride), _conv_bn(c_out, c_out, 1)
        same = c_in == c_out and stride == 1
        self.stride = stride
        self.shortcut = nn.Identity() if same else nn.Conv2d(c_in, c_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) → (N, c_out, H/stride, W/stride)."""
        return torch.relu(self.shortcut(subsample(x, self.stride)) + self.second(torch.relu(self.first(x))))


@dataclass(frozen=True)
class Plan:
    """Layers of a network, stage by stage.

    Args:
        layer: builds a layer of `(c_in, c_out, stride)`.
        widths: channels of each stage.
        depths: layers of one shape in each stage, besides the one that leads into it.
        stem: whether a plain layer leads into the first stage, in place of one of its own kind.
        pooled: whether a 2×2 max pool halves the resolution between stages, in place of the stride of a layer.
    """

    layer: Callable[[int, int, int], nn.Module]
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    stem: bool = False
    pooled: bool = False

    @property
    def least_side(self) -> int:
        """Pixels that images need at least, so that one is left in the last stage."""
        return 1 << (len(self.widths) - 1)

    def pairs(self) -> list[list[tuple[int, int]]]:
        """List for each stage the pairs of layers that can change places; none in a stage with a single one."""
        return [list(combinations(range(depth), 2)) for depth in self.depths]


#: Small networks of three stages: name → one layer.
SMALL: dict[str, Callable[[int, int, int], nn.Module]] = {"VGG": PlainLayer, "ResNet": ResidualLayer}

_CIFAR, _VGG = (16, 32, 64), (64, 128, 256, 512, 512)
#: Networks as they were published: VGG with batch norm and one linear layer (Simonyan and Zisserman, 2015), ResNets for
#: CIFAR (He et al., 2016) with 1×1 convolutions where the shape changes (their option B).
PUBLISHED = {
    "VGG-16": Plan(PlainLayer, _VGG, (1, 1, 2, 2, 2), pooled=True),
    "VGG-19": Plan(PlainLayer, _VGG, (1, 1, 3, 3, 3), pooled=True),
    "ResNet-56": Plan(ResidualLayer, _CIFAR, (9, 8, 8), stem=True),
    "ResNet-110": Plan(ResidualLayer, _CIFAR, (18, 17, 17), stem=True),
}
NETWORKS = (*SMALL, *PUBLISHED)


def plan_of(name: str, channels: int, depth: int) -> Plan:
    """Return the plan of a network of `NETWORKS`; `channels` of the first stage and `depth` are for small ones."""
    if name in PUBLISHED:
        return PUBLISHED[name]
    widths = tuple(channels << stage for stage in range(3))
    return Plan(SMALL[name], widths, (depth,) * len(widths))


class PlainNet(nn.Module):
    """Stages of layers in a row, mean pooling, and a classifier.

    Args:
        plan: its layers.
        classes, in_channels: of the data.

    Attributes:
        stages: per stage its layers in order, the one that leads into it first.
    """

    def __init__(self, plan: Plan, classes: int, in_channels: int) -> None:
        super().__init__()
        self.pooled, before = plan.pooled, in_channels
        stages: list[nn.Module] = []
        for number, (width, depth) in enumerate(zip(plan.widths, plan.depths)):
            lead = PlainLayer if plan.stem and not number else plan.layer
            first = lead(before, width, 2 if number and not plan.pooled else 1)
            stages.append(nn.ModuleList([first, *(plan.layer(width, width, 1) for _ in range(depth))]))
            before = width
        self.stages = nn.ModuleList(stages)
        self.classifier = nn.Linear(before, classes)

    def forward(self, x: Tensor, swaps: Sequence[tuple[int, int] | None] = ()) -> Tensor:
        """Logits (N, classes) of images (N, in_channels, H, W).

        Args:
            x: the images.
            swaps: for each stage two of its layers of one shape, counted from 0, that change places, or None.
        """
        for number, stage in enumerate(self.stages):
            lead, *layers = stage.children()
            if swaps and (pair := swaps[number]) is not None:
                a, b = pair
                layers[a], layers[b] = layers[b], layers[a]
            if number and self.pooled:
                x = F.max_pool2d(x, 2)
            for layer in (lead, *layers):
                x = layer(x)
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits
