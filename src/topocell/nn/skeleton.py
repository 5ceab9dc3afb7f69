"""Skeletons of stacked cells: the same for the supernet and for the network of a genotype.

Skeleton `darts` and those like it (`Stacking.preprocess`): a stem, cells that take the outputs of the two cells before
them, brought to their own shape by preprocess layers, global average pooling and a linear classifier.

Skeleton `nasbench201` and those like it: a stem, cells that take the last output, residual blocks of stride 2 where
channels grow, batch norm, ReLU, pooling and a linear classifier.
"""

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from topocell.arguments import checked
from topocell.errors import SpaceError, TopocellError
from topocell.nn.modules import FactorizedReduce, ReLUConvBN, batch_norm
from topocell.spaces.skeletons import Slot, check_resolution, layout, resolution_divisor, stacking

Context = Callable[["Slot"], tuple]
#: Outputs of the cell before the last and of the last cell, each `(N, channels, h, w)`.
States = tuple[Tensor, Tensor]


class CifarStem(nn.Module):
    """3×3 convolution and batch norm, no ReLU; both cell inputs are its output `(N, c_out, H / stride, W / stride)`."""

    def __init__(self, c_in: int, c_out: int, batch_statistics: bool, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.bn = batch_norm(c_out, True, batch_statistics)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.bn(self.conv(x))
        return x, x


class ImageNetStem(nn.Module):
    """Three 3×3 convolutions of stride 2; the cell inputs are `c_out` wide, at 1/4 and 1/8 resolution."""

    def __init__(self, c_in: int, c_out: int, batch_statistics: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out // 2, 3, 2, 1, bias=False)
        self.bn1 = batch_norm(c_out // 2, True, batch_statistics)
        self.conv2 = nn.Conv2d(c_out // 2, c_out, 3, 2, 1, bias=False)
        self.bn2 = batch_norm(c_out, True, batch_statistics)
        self.conv3 = nn.Conv2d(c_out, c_out, 3, 2, 1, bias=False)
        self.bn3 = batch_norm(c_out, True, batch_statistics)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return x, self.bn3(self.conv3(F.relu(x)))


class ResidualBlock(nn.Module):
    """NAS-Bench-201's reduction: two ReLU-conv-BN plus pooling and 1×1 convolution; no final ReLU."""

    def __init__(self, c_in: int, c_out: int, batch_statistics: bool) -> None:
        super().__init__()
        self.conv_a = ReLUConvBN(c_in, c_out, True, kernel=3, stride=2, batch_statistics=batch_statistics)
        self.conv_b = ReLUConvBN(c_out, c_out, True, kernel=3, batch_statistics=batch_statistics)
        self.shortcut = nn.Conv2d(c_in, c_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_b(self.conv_a(x)) + self.shortcut(F.avg_pool2d(x, 2))


class PlacedCell(nn.Module):
    """A cell with the preprocess layers that bring its inputs to its shape, if its skeleton has any."""

    def __init__(self, cell: nn.Module, preprocess0: nn.Module | None, preprocess1: nn.Module | None) -> None:
        super().__init__()
        self.preprocess0 = preprocess0
        self.preprocess1 = preprocess1
        self.cell = cell

    def forward(self, s0: Tensor, s1: Tensor, *context: object) -> Tensor:
        """The cell's output from those of the cell before the last (`s0`) and of the last cell (`s1`)."""
        states = [s1 if self.preprocess1 is None else self.preprocess1(s1)]
        if self.preprocess0 is not None:
            states.insert(0, self.preprocess0(s0))
        return self.cell(states, *context)


def check_images(x: Tensor, divisor: int) -> None:
    """Raise SpaceError for what is no batch of images whose height and width are multiples of `divisor`.

    What stands for a tensor while a graph is traced passes.
    """
    if not hasattr(x, "unsqueeze"):
        step = "torch.stack(images)" if isinstance(x, (list, tuple)) else "torch.as_tensor(images)"
        raise SpaceError(f"{_IMAGES}, but got a {type(x).__name__}; make one of it, e.g. by {step}")
    dimensions = x.dim()
    if isinstance(dimensions, int) and dimensions != 4:
        step = _RESHAPED.get(dimensions, "images.view(N, channels, height, width)")
        raise SpaceError(f"{_IMAGES}, but got the shape {tuple(x.shape)}; write {step}")
    height, width = x.shape[-2], x.shape[-1]
    if isinstance(height, int) and isinstance(width, int):
        if width % divisor and width <= 4 < height:
            raise SpaceError(f"{_IMAGES}, but got the shape {tuple(x.shape)}; write images.permute(0, 3, 1, 2)")
        check_resolution(divisor, height, width)


_IMAGES = "images are a tensor (N, channels, height, width)"
#: Dimensions of what was given → how it becomes a batch of images.
_RESHAPED = {3: "images[None] for one image", 5: "images.flatten(0, 1) for several views of each image"}


def _check_maps(states: object, divisor: int) -> None:
    """Raise SpaceError where the last output (N, channels, h, w) of a user's own stem cannot be halved as cells do it.

    What stands for a tensor while a graph is traced passes.
    """
    height, width = states.shape[-2:] if isinstance(states, Tensor) and states.dim() == 4 else (0, 0)
    if isinstance(height, int) and isinstance(width, int):
        check_resolution(divisor, height, width, of_stem=True)


#: Attribute of the stem that a skeleton was made with: it lasts where the class of a module is changed (`fully_shard`),
#: and where another one stands for it (`torch.compile`).
_BUILT = "made_by_skeleton"


def _no_context(slot: Slot) -> tuple:
    return ()


class Skeleton(nn.Module):
    """A network whose cells are made by `make_cell`.

    Args:
        skeleton: a row of `topocell.spaces.skeletons.SKELETONS`.
        make_cell: builds the cell of a slot; the module has an attribute `out_channels` and is called as
            `cell(states, *context)` with one `(N, slot.channels, H, W)` tensor per input. A cell of type
            `reduce` halves H and W.
        inputs: cell type → number of inputs, 1 or 2; a cell with one input sees the last cell's output only.
        channels: initial channels C.
        layers: number of cells; in skeleton nasbench201 cells and residual blocks.
        classes: width of the output.
        in_channels: channels of the images.
        stem_multiplier: stem channels as a multiple of C, with preprocess layers only (DARTS: 3 with the CIFAR stem,
            1 with the ImageNet stem). NAS-Bench-201's stem has C channels.
        stem: `"cifar"` keeps the resolution, or divides it by the skeleton's `stem_stride`; `"imagenet"` divides it by
            8 before the cells, and the first cell is treated as following a reduction. With preprocess layers only.
        affine: whether the batch norm of preprocess layers has weights: yes in fixed networks, no in
            supernets. All other layers of the skeleton have them always.
        batch_statistics: whether batch norm uses the batch's statistics in evaluation too (supernets).
        head: `"bn-relu"` puts an affine batch norm and a ReLU before pooling (GDAS, DOTS); without
            preprocess layers they always are there.

    Attributes:
        slots: the list of `Slot`.
        block_before: index of a cell → index of the residual block before it.
        divisor: of which height and width of the images have to be multiples, with the stem and all cells it was made
            with. Of fewer cells, those that reduce count; of another stem, what it returns.
        stem, cells, blocks, head, classifier: submodules in order; `cells[c].preprocess0`, `.preprocess1` and
            `.cell`; `blocks` holds residual blocks; `head.bn` exists for bn-relu. Each may be replaced: a stem returns
            both inputs of the first cell, or one tensor that is both; fewer cells are the first ones, `cells[:3]`.

    Raises:
        SpaceError: a layout, stem or head that cannot be; in `forward`, no batch of images, or a resolution that
            cannot be halved.
    """

    @checked(SpaceError)
    def __init__(
        self,
        *,
        skeleton: str,
        make_cell: Callable[[Slot], nn.Module],
        inputs: Mapping[str, int],
        channels: int,
        layers: int,
        classes: int,
        in_channels: int = 3,
        stem_multiplier: int = 3,
        stem: str = "cifar",
        affine: bool,
        batch_statistics: bool,
        head: str = "plain",
    ) -> None:
        super().__init__()
        if stem not in ("cifar", "imagenet"):
            raise SpaceError(f"stem is 'cifar' or 'imagenet', but got {stem!r}")
        if head not in ("plain", "bn-relu"):
            raise SpaceError(f"head is 'plain' or 'bn-relu', but got {head!r}")
        if classes < 1:
            raise SpaceError(f"a network has at least one class, but got classes={classes}")
        if in_channels < 1:
            raise SpaceError(f"an image has at least one channel, but got in_channels={in_channels}")
        preprocess = stacking(skeleton).preprocess
        if not preprocess and stem != "cifar":
            raise SpaceError(f"skeleton {skeleton!r} has the stem 'cifar', but got {stem!r}")
        self.slots = layout(skeleton, channels, layers)
        width = channels * (stem_multiplier if preprocess else 1)
        self.stem: nn.Module
        if stem == "cifar":
            self.stem = CifarStem(in_channels, width, batch_statistics, stacking(skeleton).stem_stride)
        else:
            self.stem = ImageNetStem(in_channels, width, batch_statistics)
        self.cells = nn.ModuleList()
        self.blocks = nn.ModuleList()
        self.block_before: dict[int, int] = {}
        c0 = c1 = width
        shrunk = stem == "imagenet"  # whether s0 has twice the resolution of s1
        for slot in self.slots:
            cell = make_cell(slot)
            preprocess0: nn.Module | None = None
            preprocess1: nn.Module | None = None
            if preprocess:
                if inputs[slot.cell_type] == 2:
                    layer = FactorizedReduce if shrunk else ReLUConvBN
                    preprocess0 = layer(c0, slot.channels, affine, batch_statistics=batch_statistics)
                preprocess1 = ReLUConvBN(c1, slot.channels, affine, batch_statistics=batch_statistics)
            elif slot.channels > self.slots[max(slot.index - 1, 0)].channels:
                self.block_before[slot.index] = len(self.blocks)
                self.blocks.append(ResidualBlock(c1, slot.channels, batch_statistics))
            self.cells.append(PlacedCell(cell, preprocess0, preprocess1))
            shrunk = slot.cell_type == "reduce"
            c0, c1 = c1, int(cell.out_channels)  # type: ignore[arg-type]
        self.head = nn.Sequential()
        if head == "bn-relu" or not preprocess:
            self.head.add_module("bn", batch_norm(c1, True, batch_statistics))
            self.head.add_module("relu", nn.ReLU())
        self.classifier = nn.Linear(c1, classes)
        setattr(self.stem, _BUILT, True)
        firsts = [self.slots[:count] for count in range(len(self.slots) + 1)]
        self._divisors = [resolution_divisor(skeleton, slots, stem) for slots in firsts]
        self._divisors_of_maps = [resolution_divisor(skeleton, slots, None) for slots in firsts]
        self.divisor = self._divisors[-1]

    def forward(self, x: Tensor, context: Context = _no_context) -> Tensor:
        """Logits `(N, classes)` of images `(N, in_channels, H, W)`; `context(slot)` goes to its cell."""
        return self.classify(self.features(x, context)[0])

    def features(
        self, x: Tensor, context: Context = _no_context, tap: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The last cell's output, and that of cell `tap` (None: nothing), each `(N, channels, h, w)`."""
        tapped = None
        s0, s1 = self.begin(x)
        for index in range(len(self.cells)):
            s0, s1 = self.advance(index, s0, s1, context)
            if index == tap:
                tapped = s1
        return s1, tapped

    def begin(self, x: Tensor) -> States:
        """Return the inputs of the first cell for images `(N, in_channels, H, W)`."""
        count = len(self.cells)
        if count > len(self.slots):
            raise SpaceError(
                f"a network has as many cells as it was made with, or the first of them, but got {count} of "
                f"{len(self.slots)}; make a network of more layers"
            )
        built = getattr(self.stem, _BUILT, False)
        if built:
            check_images(x, self._divisors[count])
        states = self.stem(x)
        s0, s1 = states if isinstance(states, (tuple, list)) else (states, states)
        if not built:
            _check_maps(s1, self._divisors_of_maps[count])
        return s0, s1

    def advance(self, index: int, s0: Tensor, s1: Tensor, context: Context = _no_context) -> States:
        """Return the inputs of the cell after `index`, from those of that cell: the outputs of the two cells before."""
        if index in self.block_before:
            s1 = self.blocks[self.block_before[index]](s1)
        return s1, self.cells[index](s0, s1, *context(self.slots[index]))

    def classify(self, features: Tensor) -> Tensor:
        """Logits `(N, classes)` of the last cell's output."""
        return self.classifier(self.head(features).mean((2, 3)))

    def __prepare_scriptable__(self) -> nn.Module:
        """Say to `torch.jit.script` that it is not for these networks."""
        raise TopocellError(
            "torch.jit.script, which PyTorch has deprecated, does not read networks of cells; use torch.export, "
            "torch.compile or torch.jit.trace"
        )
