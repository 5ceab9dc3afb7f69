"""The supernet as the field publishes it: one module per (edge, operation), nothing shared, nothing folded.

The engine is tested against this file, so all that it takes from the package is the description of the space.
The state dict keys are the per-edge layout that `Supernet.per_edge_state_dict()` speaks:

    stem.conv.weight, stem.bn.{weight,bias} (ImageNet stem: conv1 to conv3, bn1 to bn3), classifier.{weight,bias},
    head.bn.{weight,bias} (bn-relu head)
    cells.{c}.preprocess{0,1}.{conv | conv1, conv2}.weight        (DARTS skeleton)
    cells.{c}.edges.{e}.{op}.{part}.weight
    blocks.{i}.{conv_a,conv_b}.{conv,bn}.*, blocks.{i}.shortcut.weight      (NAS-Bench-201 skeleton)

`c` counts cells (residual blocks are not cells), `i` residual blocks, `e` the edges of the CellSpec.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from topocell.errors import SpaceError
from topocell.spaces import CellSpec, SpaceSpec


def batch_norm(channels: int, affine: bool) -> nn.BatchNorm2d:
    """BN over the batch's own statistics, in training and in evaluation."""
    return nn.BatchNorm2d(channels, affine=affine, track_running_stats=False)


def depthwise(channels: int, kernel: int, stride: int, dilation: int) -> nn.Conv2d:
    """A k x k convolution of each channel by itself, padded so that stride 1 keeps the size."""
    padding = dilation * (kernel - 1) // 2
    return nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)


def pointwise(c_in: int, c_out: int) -> nn.Conv2d:
    """A 1 x 1 convolution; with a stride it would be given every other pixel, since the library's own are unsound."""
    return nn.Conv2d(c_in, c_out, 1, bias=False)


class Zero(nn.Module):
    """`none`: zeros of the strided input's shape."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class Noise(nn.Module):
    """`noise` (S4): fresh N(0, 1) numbers of the strided input's shape on every forward; no gradient."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.randn_like(x[:, :, :: self.stride, :: self.stride])


class Pool(nn.Module):
    """A 3 x 3 pool, followed by BN without affine terms where the cell asks for it."""

    def __init__(self, pool: nn.Module, channels: int, norm: bool) -> None:
        super().__init__()
        self.pool = pool
        self.bn = batch_norm(channels, affine=False) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.pool(x))


class FactorizedReduce(nn.Module):
    """ReLU; two 1 x 1 stride-2 convs, the second shifted by one row and column; concat; BN. H, W even."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv1 = pointwise(c_in, c_out // 2)
        self.conv2 = pointwise(c_in, c_out - c_out // 2)
        self.bn = batch_norm(c_out, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x)
        return self.bn(torch.cat([self.conv1(x[:, :, ::2, ::2]), self.conv2(x[:, :, 1::2, 1::2])], dim=1))


class ReluConvBn(nn.Module):
    """ReLU; k x k conv; BN. The 1 x 1 preprocess layer of DARTS, and `nor_conv_k` of NAS-Bench-201."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.every = stride if kernel == 1 else 1
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride // self.every, (kernel - 1) // 2, bias=False)
        self.bn = batch_norm(c_out, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(torch.relu(x[:, :, :: self.every, :: self.every])))


class SepConv(nn.Module):
    """Twice: ReLU; depthwise k x k (the stride is the first one's); 1 x 1; BN."""

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.dw1 = depthwise(channels, kernel, stride, dilation=1)
        self.pw1 = pointwise(channels, channels)
        self.bn1 = batch_norm(channels, affine=False)
        self.dw2 = depthwise(channels, kernel, 1, dilation=1)
        self.pw2 = pointwise(channels, channels)
        self.bn2 = batch_norm(channels, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.pw1(self.dw1(torch.relu(x))))
        return self.bn2(self.pw2(self.dw2(torch.relu(x))))


class DilConv(nn.Module):
    """ReLU; depthwise k x k with dilation 2; 1 x 1; BN."""

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.dw = depthwise(channels, kernel, stride, dilation=2)
        self.pw = pointwise(channels, channels)
        self.bn = batch_norm(channels, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.pw(self.dw(torch.relu(x))))


class Conv7x1(nn.Module):
    """ReLU; 1 x 7 conv that strides over columns; 7 x 1 conv that strides over rows; BN."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, (1, 7), (1, stride), (0, 3), bias=False)
        self.conv2 = nn.Conv2d(channels, channels, (7, 1), (stride, 1), (3, 0), bias=False)
        self.bn = batch_norm(channels, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv2(self.conv1(torch.relu(x))))


def operation(name: str, channels: int, stride: int, pool_norm: bool) -> nn.Module:
    """The supernet's module for one primitive: (N, C, H, W) to (N, C, H/stride, W/stride)."""
    match name:
        case "none":
            return Zero(stride)
        case "noise":
            return Noise(stride)
        case "max_pool_3x3":
            return Pool(nn.MaxPool2d(3, stride, 1), channels, pool_norm)
        case "avg_pool_3x3":
            return Pool(nn.AvgPool2d(3, stride, 1, count_include_pad=False), channels, pool_norm)
        case "skip_connect":
            return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels)
        case "sep_conv_3x3" | "sep_conv_5x5" | "sep_conv_7x7":
            return SepConv(channels, int(name[-1]), stride)
        case "dil_conv_3x3" | "dil_conv_5x5":
            return DilConv(channels, int(name[-1]), stride)
        case "conv_7x1_1x7":
            return Conv7x1(channels, stride)
        case "nor_conv_1x1" | "nor_conv_3x3":
            return ReluConvBn(channels, channels, int(name[-1]), stride)
    raise SpaceError(f"the reference builds the operations of topocell.spaces, but got {name!r}; add it here")


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """(N, K * c, H, W): channel g * c + i moves to i * K + g (PC-DARTS)."""
    n, channels, height, width = x.shape
    return x.view(n, groups, channels // groups, height, width).transpose(1, 2).flatten(1, 2)


class MixedEdge(nn.ModuleDict):
    """All candidates of one edge; with partial = K > 1 on the first C/K channels only (PC-DARTS)."""

    def __init__(self, names: Sequence[str], channels: int, stride: int, pool_norm: bool, partial: int) -> None:
        super().__init__({name: operation(name, channels // partial, stride, pool_norm) for name in names})
        self.processed = channels // partial
        self.stride = stride
        self.partial = partial

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Σ_k weights[k] · op_k(x), weights (K,); entries beyond this edge's candidates are not read."""
        first, rest = x[:, : self.processed], x[:, self.processed :]
        mixed = sum(weights[k] * op(first) for k, op in enumerate(self.values()))
        if self.partial == 1:
            return mixed
        if self.stride == 2:
            rest = nn.functional.max_pool2d(rest, 2, 2)
        return channel_shuffle(torch.cat([mixed, rest], dim=1), self.partial)


class Cell(nn.Module):
    """node_j = Σ_{e = i→j} edges[e] · mixed_e(node_i); its inputs already have the cell's channels.

    With `passed` (E, N) each edge has such a factor for each image (drop path).
    """

    passed: Tensor | None = None

    def __init__(self, spec: CellSpec, channels: int, partial: int) -> None:
        super().__init__()
        self.spec = spec
        self.edges = nn.ModuleList(
            MixedEdge(spec.candidates[e], channels, spec.edge_stride(e), spec.pool_norm, partial)
            for e in range(spec.n_edges)
        )

    def forward(self, inputs: Sequence[Tensor], ops: Tensor, edges: Tensor) -> Tensor:
        """`inputs` states (N, C, H, W), ops (E, K), edges (E,) to (N, width · C, H / stride, W / stride)."""
        states = list(inputs)
        for node in self.spec.computed:
            terms = []
            for e in self.spec.incoming(node):
                source, _ = self.spec.edges[e]
                term = edges[e] * self.edges[e](states[source], ops[e])
                terms.append(term if self.passed is None else term * self.passed[e].view(-1, 1, 1, 1))
            states.append(sum(terms[1:], terms[0]))
        if self.spec.output == "last":
            return states[-1]
        return torch.cat([states[node] for node in self.spec.computed], dim=1)


class DartsCell(Cell):
    """A cell that first brings the outputs of the two cells before it to its own channels and size."""

    def __init__(
        self,
        spec: CellSpec,
        channels: int,
        partial: int,
        c_before: int,
        c_previous: int,
        after_reduction: bool,
    ) -> None:
        super().__init__(spec, channels, partial)
        if spec.inputs == 2:
            self.preprocess0 = (
                FactorizedReduce(c_before, channels) if after_reduction else ReluConvBn(c_before, channels, 1, stride=1)
            )
        self.preprocess1 = ReluConvBn(c_previous, channels, 1, stride=1)

    def forward(self, inputs: Sequence[Tensor], ops: Tensor, edges: Tensor) -> Tensor:
        """inputs = (output of cell k-2, output of cell k-1); a cell with one input sees only the latter."""
        before, previous = inputs
        states = [self.preprocess0(before)] if self.spec.inputs == 2 else []
        return super().forward([*states, self.preprocess1(previous)], ops, edges)


class ConvBn(nn.Module):
    """The stem: 3 x 3 conv, BN with affine terms, no ReLU."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
        self.bn = batch_norm(c_out, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class ThreeHalvings(nn.Module):
    """The ImageNet stem: 3 x 3 convs of stride 2 to c/2, c and c channels, each with BN; ReLU between them."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        widths = (c_in, c_out // 2, c_out, c_out)
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(a, b, 3, 2, 1, bias=False) for a, b in pairwise(widths))
        self.bn1, self.bn2, self.bn3 = (batch_norm(width, affine=True) for width in widths[1:])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        half = self.bn1(self.conv1(x))
        quarter = self.bn2(self.conv2(torch.relu(half)))
        return quarter, self.bn3(self.conv3(torch.relu(quarter)))


class BnRelu(nn.Module):
    """The end of NAS-Bench-201 and DOTS networks: BN with affine terms, ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = batch_norm(channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(x))


class ResidualBlock(nn.Module):
    """NAS-Bench-201's reduction: (ReLU, 3 x 3 stride 2, BN), (ReLU, 3 x 3, BN); plus 2 x 2 mean, 1 x 1."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        first, second = nn.Conv2d(c_in, c_out, 3, 2, 1, bias=False), nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.conv_a = nn.ModuleDict({"conv": first, "bn": batch_norm(c_out, affine=True)})
        self.conv_b = nn.ModuleDict({"conv": second, "bn": batch_norm(c_out, affine=True)})
        self.shortcut = pointwise(c_in, c_out)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_a["bn"](self.conv_a["conv"](torch.relu(x)))
        y = self.conv_b["bn"](self.conv_b["conv"](torch.relu(y)))
        return y + self.shortcut(nn.functional.avg_pool2d(x, 2, 2))


def as_pair(weights: Any) -> tuple[Tensor, Tensor]:
    """(ops, edges) of a tuple, or of an object with these attributes."""
    ops, edges = weights if isinstance(weights, tuple) else (weights.ops, weights.edges)
    return ops, edges


class ReferenceSupernet(nn.Module):
    """The search network, `forward(x, {cell type: (ops (E, K), edges (E,))}) -> logits (N, classes)`.

    Args:
        space: the search space; its skeleton says how cells are stacked. DARTS: `layers` cells, reductions at
            layers//3 and 2·layers//3, each doubling the channels. NAS-Bench-201: layers = 3N + 2, three
            groups of N cells, with a residual block before the second and the third.
        channels: channels C of the first cells.
        layers: cells (DARTS), or cells and residual blocks (NAS-Bench-201).
        classes: number of logits.
        in_channels: channels of the images.
        head: "plain", or "bn-relu" for BN and ReLU before pooling (DOTS); NAS-Bench-201 always has these.
        partial: K of PC-DARTS; 1 for all channels.
        stem: "cifar", or "imagenet" for three halvings, after which the first cell follows a reduction (DARTS only).

    Raises:
        SpaceError: partial does not divide channels, another head, or layers that NAS-Bench-201 cannot have.
    """

    def __init__(
        self,
        space: SpaceSpec,
        channels: int,
        layers: int,
        classes: int,
        in_channels: int = 3,
        head: str = "plain",
        partial: int = 1,
        stem: str = "cifar",
    ) -> None:
        super().__init__()
        if channels % partial:
            raise SpaceError(f"partial divides channels, but got channels={channels}, partial={partial}")
        if head not in ("plain", "bn-relu"):
            raise SpaceError(f"head is 'plain' or 'bn-relu', but got {head!r}")
        self.skeleton = space.skeleton
        self.halved = stem == "imagenet"
        self.stem = (ThreeHalvings if self.halved else ConvBn)(in_channels, space.stem_multiplier * channels)
        self.cells = nn.ModuleList()
        if space.skeleton == "darts":
            width = self._stack_darts(space, channels, layers, partial)
        else:
            width = self._stack_nasbench201(space, channels, layers, partial)
        bn_relu = head == "bn-relu" or space.skeleton == "nasbench201"
        self.head = BnRelu(width) if bn_relu else nn.Identity()
        self.classifier = nn.Linear(width, classes)

    def _stack_darts(self, space: SpaceSpec, channels: int, layers: int, partial: int) -> int:
        self.types = ["reduce" if i in (layers // 3, 2 * layers // 3) else "normal" for i in range(layers)]
        c_before = c_previous = space.stem_multiplier * channels
        after_reduction = self.halved
        for kind in self.types:
            spec = space.cells[kind]
            if kind == "reduce":
                channels *= 2
            self.cells.append(DartsCell(spec, channels, partial, c_before, c_previous, after_reduction))
            c_before, c_previous = c_previous, spec.width * channels
            after_reduction = kind == "reduce"
        return c_previous

    def _stack_nasbench201(self, space: SpaceSpec, channels: int, layers: int, partial: int) -> int:
        if layers < 5 or layers % 3 != 2:
            raise SpaceError(f"nasbench201 has layers = 3N + 2 with N >= 1, but got {layers}; try 5, 8 or 17")
        self.per_group = (layers - 2) // 3
        self.types = ["cell"] * 3 * self.per_group
        for group in range(3):
            for _ in range(self.per_group):
                self.cells.append(Cell(space.cells["cell"], channels * 2**group, partial))
        self.blocks = nn.ModuleList([ResidualBlock(channels, 2 * channels), ResidualBlock(2 * channels, 4 * channels)])
        return 4 * channels

    def forward(self, x: Tensor, weights: Mapping[str, Any]) -> Tensor:
        x = self.stem(x)
        if self.skeleton == "darts":
            before, previous = x if self.halved else (x, x)
            for kind, cell in zip(self.types, self.cells):
                before, previous = previous, cell((before, previous), *as_pair(weights[kind]))
            x = previous
        else:
            for i, cell in enumerate(self.cells):
                if i in (self.per_group, 2 * self.per_group):
                    x = self.blocks[i // self.per_group - 1](x)
                x = cell((x,), *as_pair(weights["cell"]))
        return self.classifier(self.head(x).mean((2, 3)))
