"""The network of a genotype, for training from scratch: any number of inputs per node."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topocell.arguments import checked
from topocell.errors import SpaceError
from topocell.genotype.genotype import CellGenotype, Genotype
from topocell.nn.primitives import make
from topocell.nn.scheduled import Scheduled, current, is_on
from topocell.nn.skeleton import Skeleton
from topocell.spaces.skeletons import Slot, stacking


def drop_samples(x: Tensor, probability: float | Tensor) -> Tensor:
    """`x` `(N, C, H, W)` with each sample zeroed with `probability`, else divided by `1 - probability`."""
    keep = 1.0 - probability
    kept = torch.rand((x.shape[0], 1, 1, 1), device=x.device) < keep
    return x / keep * kept


torch.fx.wrap("drop_samples")  # one node of a graph that is traced without sizes


class FixedCell(nn.Module):
    """One derived cell: every node sums its operations, the output is the concat of the listed nodes.

    Args:
        cell: the cell of a genotype. Dropped nodes are left out; a node without pairs that is used
            (NAS-Bench-201) is zero.
        channels: channels C of every node; the output has `C * len(cell.concat)`.
        stride: stride of the edges that leave an input node, 2 in a reduction cell.

    Attributes:
        edges, names: source and target of each of the `operations`, and its name.
        concat: nodes of the output.
    """

    def __init__(self, cell: CellGenotype, channels: int, stride: int) -> None:
        super().__init__()
        self.out_channels = channels * len(cell.concat)
        numbered = list(enumerate(cell.nodes, cell.inputs))
        self.edges = [(source, node) for node, pairs in numbered for _, source in pairs]
        self.names = [name for pairs in cell.nodes for name, _ in pairs]
        self.concat = cell.concat
        used = {source for source, _ in self.edges}.union(cell.concat)
        self._zeros = [node for node, pairs in numbered if not pairs and node in used]
        self.operations = nn.ModuleList(
            make(name, channels, stride if source < cell.inputs else 1, affine=True)
            for name, (source, _) in zip(self.names, self.edges)
        )

    def forward(self, states: list[Tensor], drop_path: float | Tensor | None = None) -> Tensor:
        """`(N, out_channels, H / stride, W / stride)` from one `(N, C, H, W)` tensor per input."""
        values = dict(enumerate(states))
        for node in self._zeros:
            values[node] = torch.zeros_like(states[0])
        for operation, (source, node) in zip(self.operations, self.edges):
            value = operation(values[source])
            if drop_path is not None and not isinstance(operation, nn.Identity):
                value = drop_samples(value, drop_path)
            values[node] = values[node] + value if node in values else value
        return torch.cat([values[node] for node in self.concat], dim=1)


def _pooled(x: Tensor) -> Tensor:
    """The 2×2 maps that an auxiliary head reads, by the size of `x` (N, C, H, W)."""
    stride = {(8, 8): 3, (7, 7): 2}.get((int(x.shape[2]), int(x.shape[3])))
    return F.avg_pool2d(x, 5, stride) if stride else F.adaptive_avg_pool2d(x, 2)


torch.fx.wrap("_pooled")


class AuxiliaryHead(nn.Module):
    """A second classifier on the output of cell 2L // 3 of L, for training only (DARTS, after Szegedy et al.).

    ReLU, pooling to 2×2, 1×1 convolution to 128, batch norm, ReLU, 2×2 convolution to 768, batch norm, ReLU,
    linear. The pooling is the published 5×5 average of stride 3 on 8×8 maps (CIFAR) and of stride 2 on 7×7
    maps (ImageNet); on maps of any other size it is adaptive average pooling to 2×2, where we depart from the
    papers.

    Args:
        c_in: channels of the maps.
        classes: width of the output.
        last_norm: whether the 768 channels are normalised: yes on CIFAR, no on ImageNet (as DARTS and most
            followers do; P-DARTS and SGAS normalise there too).
    """

    def __init__(self, c_in: int, classes: int, last_norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, 128, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(128)
        self.conv2 = nn.Conv2d(128, 768, 2, bias=False)
        self.bn2 = nn.BatchNorm2d(768) if last_norm else nn.Identity()
        self.classifier = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(N, classes)` of maps `(N, c_in, H, W)`."""
        x = F.relu(self.bn1(self.conv1(_pooled(F.relu(x)))))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.classifier(x.flatten(1))


def _without_auxiliary_head(net: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Let a network without auxiliary head take the weights of one that has it, which is there for training alone."""
    if net.auxiliary_head is None:
        for name in [name for name in state if name.startswith(f"{prefix}auxiliary_head.")]:
            del state[name]


class FixedNet(Skeleton):
    """The network of a genotype.

    Args:
        genotype: any valid genotype; it says how its cells are stacked.
        channels: initial channels C.
        layers: number of cells; in skeleton nasbench201 3N + 2, cells and residual blocks (published: 17).
        classes: width of the output.
        in_channels: channels of the images.
        stem: `"cifar"` (stem of 3C channels, C in skeleton nasbench201) or `"imagenet"` (C channels).
        auxiliary: whether training also returns the logits of an auxiliary head on cell 2L // 3 of L.
        drop_path: probability that a sample loses the output of an operation in training (Larsson et al.,
            2017); identities are exempt, as in DARTS. Set the attribute `drop_path` anew in each epoch to
            ramp it.
        head: `"plain"`, or `"bn-relu"` for batch norm and ReLU before pooling (always in skeleton nasbench201).

    Attributes:
        tap: index of the cell whose output an auxiliary head reads, the last one where fewer cells are left.

    Raises:
        SpaceError: an argument, or `drop_path` anew, out of its range; in `forward`, images whose resolution cannot be
            halved.
    """

    drop_path = Scheduled(kind="a probability below 1")

    @checked(SpaceError)
    def __init__(
        self,
        genotype: Genotype,
        channels: int,
        layers: int,
        classes: int,
        in_channels: int = 3,
        stem: str = "cifar",
        auxiliary: bool = False,
        drop_path: float = 0.0,
        head: str = "plain",
    ) -> None:
        if auxiliary and not stacking(genotype.skeleton).preprocess:
            raise SpaceError(
                f"an auxiliary head needs skeleton 'darts' or one like it, but got {genotype.skeleton!r}; leave it "
                f"out: auxiliary=False (retrain.auxiliary=0)"
            )

        def make_cell(slot: Slot) -> nn.Module:
            stride = stacking(genotype.skeleton).strides[slot.cell_type]
            return FixedCell(genotype.cells[slot.cell_type], slot.channels, stride)

        super().__init__(
            skeleton=genotype.skeleton,
            make_cell=make_cell,
            inputs={name: cell.inputs for name, cell in genotype.cells.items()},
            channels=channels,
            layers=layers,
            classes=classes,
            in_channels=in_channels,
            stem_multiplier=3 if stem == "cifar" else 1,
            stem=stem,
            affine=True,
            batch_statistics=False,
            head=head,
        )
        self.genotype = genotype
        self.drop_path = drop_path
        self.auxiliary_head: AuxiliaryHead | None = None
        if auxiliary:
            tapped = self.slots[self.tap]
            width = tapped.channels * len(genotype.cells[tapped.cell_type].concat)
            self.auxiliary_head = AuxiliaryHead(width, classes, last_norm=stem == "cifar")
        self.register_load_state_dict_pre_hook(_without_auxiliary_head)

    @property
    def tap(self) -> int:
        return min(2 * len(self.slots) // 3, len(self.cells) - 1)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:  # type: ignore[override]
        """Logits `(N, classes)` of images `(N, in_channels, H, W)`; with `auxiliary` in training, both."""
        drop_path = current(self, "drop_path", tensor=True) if self.training and is_on(self, "drop_path") else None
        features, tapped = self.features(x, lambda slot: (drop_path,), tap=self.tap)
        logits = self.classify(features)
        if self.training and self.auxiliary_head is not None and tapped is not None:
            return logits, self.auxiliary_head(tapped)
        return logits
