"""Networks of cells in plain PyTorch, of which exports copy what they need: this module imports nothing of topocell.

The names of all weights are those of `topocell.FixedNet`, and so is every number: the same functions of PyTorch are
called in the same order. For evaluation; there is no auxiliary head and no drop path.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ReLUConvBN(nn.Module):
    """ReLU, k×k convolution, batch norm. A 1×1 convolution with a stride sees every `stride`-th row and column."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.step = stride if kernel == 1 else 1
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride // self.step, (kernel - 1) // 2, bias=False)
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) to (N, c_out, H / stride, W / stride)."""
        seen = x if self.step == 1 else x[:, :, :: self.step, :: self.step]
        return self.bn(self.conv(F.relu(seen)))


class FactorizedReduce(nn.Module):
    """ReLU, two 1×1 convolutions of stride 2, on even and on odd pixels, side by side; batch norm."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out // 2, 1, bias=False)
        self.conv2 = nn.Conv2d(c_in, c_out - c_out // 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) to (N, c_out, H / 2, W / 2)."""
        x = F.relu(x)
        return self.bn(torch.cat([self.conv1(x[:, :, ::2, ::2]), self.conv2(x[:, :, 1::2, 1::2])], 1))


class SepConv(nn.Module):
    """Twice: ReLU, depthwise k×k, 1×1, batch norm. The second time has stride 1."""

    def __init__(self, channels: int, stride: int, kernel: int) -> None:
        super().__init__()
        border = (kernel - 1) // 2
        self.dw1 = nn.Conv2d(channels, channels, kernel, stride, border, groups=channels, bias=False)
        self.pw1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.dw2 = nn.Conv2d(channels, channels, kernel, 1, border, groups=channels, bias=False)
        self.pw2 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, channels, H / stride, W / stride)."""
        x = self.bn1(self.pw1(self.dw1(F.relu(x))))
        return self.bn2(self.pw2(self.dw2(F.relu(x))))


class DilConv(nn.Module):
    """ReLU, depthwise k×k of dilation 2, 1×1, batch norm."""

    def __init__(self, channels: int, stride: int, kernel: int) -> None:
        super().__init__()
        self.dw = nn.Conv2d(channels, channels, kernel, stride, kernel - 1, 2, groups=channels, bias=False)
        self.pw = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, channels, H / stride, W / stride)."""
        return self.bn(self.pw(self.dw(F.relu(x))))


class Conv7x1(nn.Module):
    """ReLU, 1×7 convolution that strides over columns, 7×1 over rows, batch norm."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, (1, 7), (1, stride), (0, 3), bias=False)
        self.conv2 = nn.Conv2d(channels, channels, (7, 1), (stride, 1), (3, 0), bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, channels, H / stride, W / stride)."""
        return self.bn(self.conv2(self.conv1(F.relu(x))))


class Zero(nn.Module):
    """Zeros."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, channels, H / stride, W / stride)."""
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class Residual(nn.Module):
    """An operation with a skip connection around it."""

    def __init__(self, op: nn.Module, channels: int, stride: int) -> None:
        super().__init__()
        self.op = op
        self.skip = nn.Identity() if stride == 1 else FactorizedReduce(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, channels, H / stride, W / stride)."""
        return self.op(x) + self.skip(x)


class Noise(nn.Module):
    """Normal noise, drawn anew in each call."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, channels, H / stride, W / stride)."""
        return torch.randn_like(x[:, :, :: self.stride, :: self.stride])


class Cell(nn.Module):
    """A cell: an edge applies an operation to a node, a node is the sum of its edges, nodes make up the output.

    Args:
        plan: `inputs`, their number; `edges` (operation, from node, to node); `zeros`, nodes without edges that are
            read; `concat`, the nodes of the output; `stride` of the edges that leave an input. Node 0 is the first
            input.
        channels: of each node.
        operations: name → module for channels and stride.
    """

    def __init__(self, plan: dict, channels: int, operations: dict) -> None:
        super().__init__()
        self.edges, self.zeros, self.concat = plan["edges"], plan["zeros"], plan["concat"]
        self.operations = nn.ModuleList(
            operations[name](channels, plan["stride"] if source < plan["inputs"] else 1)
            for name, source, _ in self.edges
        )

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """(N, channels * len(concat), H / stride, W / stride) of one (N, channels, H, W) for each input."""
        nodes = dict(enumerate(inputs))
        for node in self.zeros:
            nodes[node] = torch.zeros_like(inputs[0])
        for operation, (_, source, node) in zip(self.operations, self.edges):
            value = operation(nodes[source])
            nodes[node] = nodes[node] + value if node in nodes else value
        return torch.cat([nodes[node] for node in self.concat], dim=1)


class PlacedCell(nn.Module):
    """A cell behind the layers that bring the outputs of the two cells before it to its shape, if it has them."""

    def __init__(
        self, cell: nn.Module, preprocess0: nn.Module | None = None, preprocess1: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.preprocess0, self.preprocess1, self.cell = preprocess0, preprocess1, cell

    def forward(self, before: Tensor, last: Tensor) -> Tensor:
        """The cell's output, from those of the cell before the last and of the last cell."""
        inputs = [last if self.preprocess1 is None else self.preprocess1(last)]
        if self.preprocess0 is not None:
            inputs.insert(0, self.preprocess0(before))
        return self.cell(inputs)


class CifarStem(nn.Module):
    """3×3 convolution and batch norm; both inputs of the first cell are its output."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, c_in, H, W) to twice (N, c_out, H / stride, W / stride)."""
        x = self.bn(self.conv(x))
        return x, x


class ImageNetStem(nn.Module):
    """Three 3×3 convolutions of stride 2; the inputs of the first cell have 1/4 and 1/8 of the resolution."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out // 2, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out // 2)
        self.conv2 = nn.Conv2d(c_out // 2, c_out, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.conv3 = nn.Conv2d(c_out, c_out, 3, 2, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, c_in, H, W) to (N, c_out, H / 4, W / 4) and (N, c_out, H / 8, W / 8)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return x, self.bn3(self.conv3(F.relu(x)))


class ResidualBlock(nn.Module):
    """Two times ReLU, 3×3 convolution, batch norm, of which the first has stride 2; plus pooling and 1×1."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv_a = ReLUConvBN(c_in, c_out, 3, 2)
        self.conv_b = ReLUConvBN(c_out, c_out, 3)
        self.shortcut = nn.Conv2d(c_in, c_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) to (N, c_out, H / 2, W / 2)."""
        return self.conv_b(self.conv_a(x)) + self.shortcut(F.avg_pool2d(x, 2))


class Head(nn.Module):
    """What ends a network: batch norm and ReLU if `norm`, global average pooling, a linear classifier.

    Args:
        channels: of the last cell's output; width of the pooled features.
        classes: K.
        norm: whether there are batch norm and ReLU.

    Attributes:
        reductions: for each cell, by how much smaller its output is than the images.
    """

    def __init__(self, channels: int, classes: int, norm: bool) -> None:
        super().__init__()
        self.num_features = channels
        self.reductions: list[int] = []
        self.head = nn.Sequential()
        if norm:
            self.head.add_module("bn", nn.BatchNorm2d(channels))
            self.head.add_module("relu", nn.ReLU())
        self.classifier = nn.Linear(channels, classes)

    def classify(self, features: Tensor) -> Tensor:
        """Logits (N, K) of the last cell's output (N, channels, h, w)."""
        return self.classifier(self.head(features).mean((2, 3)))

    def check_size(self, x: Tensor) -> None:
        """Raise ValueError for images (N, C, H, W) that cannot be halved evenly; what a graph is traced by passes."""
        height, width, divisor = x.shape[-2], x.shape[-1], self.reductions[-1]
        if isinstance(height, int) and isinstance(width, int) and (height % divisor or width % divisor):
            raise ValueError(
                f"height and width must be divisible by {divisor} for this network, but got {height}x{width}; resize "
                f"or pad the images"
            )

    def __prepare_scriptable__(self) -> nn.Module:
        raise NotImplementedError(
            "torch.jit.script, which PyTorch has deprecated, does not read networks of cells; use torch.export, "
            "torch.compile or torch.jit.trace"
        )


class TwoInputNetwork(Head):
    """Stacked cells that take the outputs of the two cells before them; cells called `reduce` halve the resolution.

    Args:
        cells: type of cell → its plan, see `Cell`.
        slots: type and channels of each cell, in order.
        operations: name → module for channels and stride.
        stem: makes the inputs of the first cell from images.
        width: channels that the stem returns.
        shrunk: whether the first of the two has twice the resolution of the second.
        reduction: of height and width by the stem.
        classes, norm: see `Head`.
    """

    def __init__(
        self,
        cells: dict,
        slots: list,
        operations: dict,
        stem: nn.Module,
        width: int,
        shrunk: bool,
        reduction: int,
        classes: int,
        norm: bool,
    ) -> None:
        super().__init__(slots[-1][1] * len(cells[slots[-1][0]]["concat"]), classes, norm)
        self.stem, self.cells = stem, nn.ModuleList()
        before = last = width
        step = reduction
        for kind, channels in slots:
            first = None
            if cells[kind]["inputs"] == 2:
                first = FactorizedReduce(before, channels) if shrunk else ReLUConvBN(before, channels)
            cell = Cell(cells[kind], channels, operations)
            self.cells.append(PlacedCell(cell, first, ReLUConvBN(last, channels)))
            shrunk = kind == "reduce"
            before, last = last, channels * len(cells[kind]["concat"])
            step *= cells[kind]["stride"]
            self.reductions.append(step)

    def features(self, x: Tensor, outputs: list[Tensor] | None = None) -> Tensor:
        """The last cell's output (N, channels, h, w) of normalised images (N, C, H, W).

        That of cell i has 1 / reductions[i] of the height and width; all are appended to `outputs`.
        """
        self.check_size(x)
        before, last = self.stem(x)
        for cell in self.cells:
            before, last = last, cell(before, last)
            if outputs is not None:
                outputs.append(last)
        return last

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of normalised images (N, C, H, W)."""
        return self.classify(self.features(x))


class OneInputNetwork(Head):
    """Stacked cells that take the last output; a residual block of stride 2 stands where channels grow.

    Args:
        cells: type of cell → its plan, see `Cell`.
        slots: type and channels of each cell, in order.
        operations: name → module for channels and stride.
        stem: makes the input of the first cell from images.
        width: channels that the stem returns.
        reduction: of height and width by the stem.
        classes, norm: see `Head`.
    """

    def __init__(
        self,
        cells: dict,
        slots: list,
        operations: dict,
        stem: nn.Module,
        width: int,
        reduction: int,
        classes: int,
        norm: bool,
    ) -> None:
        super().__init__(slots[-1][1] * len(cells[slots[-1][0]]["concat"]), classes, norm)
        self.stem, self.cells, self.blocks = stem, nn.ModuleList(), nn.ModuleList()
        self.block_before: dict[int, int] = {}
        last, narrow, step = width, slots[0][1], reduction
        for index, (kind, channels) in enumerate(slots):
            if channels > narrow:
                self.block_before[index] = len(self.blocks)
                self.blocks.append(ResidualBlock(last, channels))
                step *= 2
            self.cells.append(PlacedCell(Cell(cells[kind], channels, operations)))
            narrow, last = channels, channels * len(cells[kind]["concat"])
            step *= cells[kind]["stride"]
            self.reductions.append(step)

    def features(self, x: Tensor, outputs: list[Tensor] | None = None) -> Tensor:
        """The last cell's output (N, channels, h, w) of normalised images (N, C, H, W).

        That of cell i has 1 / reductions[i] of the height and width; all are appended to `outputs`.
        """
        self.check_size(x)
        x = self.stem(x)[1]
        for index, cell in enumerate(self.cells):
            if index in self.block_before:
                x = self.blocks[self.block_before[index]](x)
            x = cell(x, x)
            if outputs is not None:
                outputs.append(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of normalised images (N, C, H, W)."""
        return self.classify(self.features(x))
