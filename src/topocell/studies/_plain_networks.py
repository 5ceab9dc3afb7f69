"""Two small networks of layers in a row, for contrast with a supernet: with and without residual connections."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from topocell.nn.functional import subsample

STAGES = 3


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


#: What contrasts with a supernet: name → one layer of `(c_in, c_out, stride)`.
KINDS: dict[str, Callable[[int, int, int], nn.Module]] = {"VGG": PlainLayer, "ResNet": ResidualLayer}


class PlainNet(nn.Module):
    """Three stages of layers in a row, mean pooling, and a classifier.

    Args:
        kind: a row of `KINDS`.
        channels: of the first stage; each later one halves the resolution and doubles them.
        depth: layers of one shape in a stage, besides the one that leads into it.
        classes, in_channels: of the data.

    Attributes:
        stages: per stage its layers in order, the one that leads into it first.
    """

    def __init__(self, kind: str, channels: int, depth: int, classes: int, in_channels: int) -> None:
        super().__init__()
        layer, before = KINDS[kind], in_channels
        stages: list[nn.Module] = []
        for number in range(STAGES):
            width = channels * 2**number
            stage = [layer(before, width, 2 if number else 1), *(layer(width, width, 1) for _ in range(depth))]
            stages.append(nn.ModuleList(stage))
            before = width
        self.stages = nn.ModuleList(stages)
        self.classifier = nn.Linear(before, classes)

    def forward(self, x: Tensor, swaps: Sequence[tuple[int, int]] = ()) -> Tensor:
        """Logits (N, classes) of images (N, in_channels, H, W).

        Args:
            x: the images.
            swaps: for each stage two of its layers of one shape, counted from 0, that change places.
        """
        for number, stage in enumerate(self.stages):
            lead, *layers = stage.children()
            if swaps:
                a, b = swaps[number]
                layers[a], layers[b] = layers[b], layers[a]
            for layer in (lead, *layers):
                x = layer(x)
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits
