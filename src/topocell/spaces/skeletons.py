"""Skeletons by name: how cells are stacked into a network. What they are built of is in `topocell.nn.skeleton`.

Skeleton `darts` (Liu et al., 2019): `layers` cells of which those at L // 3 and 2L // 3 halve the resolution and double
the channels.

Skeleton `nasbench201` (Dong and Yang, 2020): three stages of N cells with a residual block of stride 2 between them.
`layers` = 3N + 2 counts the two blocks.

Skeleton `uniform`: `layers` normal cells with the preprocess layers of DARTS and no reduction; with one layer, a single
cell. Skeleton `uniform-half`: the same at half the resolution, which its stem makes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from topocell.errors import SpaceError, check_known
from topocell.registry import Registry


@dataclass(frozen=True)
class Slot:
    """The place of one cell: its type, its channels C (those of one node), its 0-based index."""

    cell_type: str
    channels: int
    index: int


@dataclass(frozen=True)
class Stacking:
    """The way in which cells are stacked.

    Args:
        layout: from initial channels C ≥ 1 and the number of layers to the slots of a network, in order. Raises
            SpaceError for a number of layers it cannot have.
        preprocess: whether a cell takes the outputs of the two cells before it, brought to its shape by preprocess
            layers, as in DARTS; its cell types are `normal`, and `reduce`, which halves the resolution. If not, a cell
            takes the last output as it is, as in NAS-Bench-201; its cell type is `cell`, and where a slot has more
            channels than the one before, a residual block of stride 2 stands between them.
        small_layers: what budgets take for `layers`; None for that of the budget.
        reduces: whether there are cells of type `reduce`, where there are preprocess layers.
        stem_stride: stride of the CIFAR stem.
    """

    layout: Callable[[int, int], list[Slot]]
    preprocess: bool = True
    small_layers: int | None = None
    reduces: bool = True
    stem_stride: int = 1

    @property
    def strides(self) -> Mapping[str, int]:
        """Cell type → stride of its cell."""
        if not self.preprocess:
            return {"cell": 1}
        return {"normal": 1, "reduce": 2} if self.reduces else {"normal": 1}


def darts_layout(channels: int, layers: int) -> list[Slot]:
    """Slots with reductions at a third and two thirds of the depth."""
    if layers < 1:
        raise SpaceError(f"a network has at least one layer, but got layers={layers}")
    slots = []
    for index in range(layers):
        reduction = index in (layers // 3, 2 * layers // 3)
        channels *= 2 if reduction else 1
        slots.append(Slot("reduce" if reduction else "normal", channels, index))
    return slots


def uniform_layout(channels: int, layers: int) -> list[Slot]:
    """Slots of normal cells alike, at full resolution."""
    if layers < 1:
        raise SpaceError(f"a network has at least one layer, but got layers={layers}")
    return [Slot("normal", channels, index) for index in range(layers)]


def nasbench201_layout(channels: int, layers: int) -> list[Slot]:
    """Slots in three stages of N cells, of C, 2C and 4C channels."""
    cells, rest = divmod(layers - 2, 3)
    if rest or cells < 1:
        raise SpaceError(
            f"skeleton 'nasbench201' has 3N + 2 layers (two residual blocks, N cells a stage), but got layers={layers}"
        )
    return [Slot("cell", channels << (index // cells), index) for index in range(3 * cells)]


SKELETONS = Registry[Stacking](
    "skeleton",
    {
        "darts": Stacking(darts_layout),
        "nasbench201": Stacking(nasbench201_layout, False, small_layers=5),
        "uniform": Stacking(uniform_layout, small_layers=1, reduces=False),
        "uniform-half": Stacking(uniform_layout, small_layers=3, reduces=False, stem_stride=2),
    },
    Stacking,
)


def stacking(skeleton: str) -> Stacking:
    """Return a skeleton by name. Raises SpaceError for an unknown one."""
    check_known("skeleton", skeleton, SKELETONS, SpaceError)
    return SKELETONS[skeleton]


def layout(skeleton: str, channels: int, layers: int) -> list[Slot]:
    """Return the slots of a network, in order, for `channels` initial channels.

    Raises:
        SpaceError: unknown skeleton, less than one channel, or a number of layers it cannot have.
    """
    if channels < 1:
        raise SpaceError(f"a network has at least one channel, but got channels={channels}")
    return stacking(skeleton).layout(channels, layers)


def resolution_divisor(skeleton: str, slots: Sequence[Slot], stem: str | None) -> int:
    """Return of which number height and width of the images are multiples, for cells that halve them evenly.

    Args:
        skeleton: its name.
        slots: of the network.
        stem: `imagenet` divides them by 8 before the cells, `cifar` by its stride in the skeleton; None for the number
            that the cells alone ask for, of what some stem returns.
    """
    if stacking(skeleton).preprocess:
        halvings = sum(slot.cell_type == "reduce" for slot in slots)
    else:
        halvings = sum(after.channels > before.channels for before, after in pairwise(slots))
    reductions = {None: 1, "imagenet": 8}
    return int(2**halvings * reductions.get(stem, stacking(skeleton).stem_stride))


def check_resolution(divisor: int, height: int, width: int, of_stem: bool = False) -> None:
    """Raise SpaceError where height or width is no multiple of a `resolution_divisor`.

    They are those of images, or of what a stem of the user's own returns.
    """
    if height % divisor or width % divisor:
        what, step = (" of what the stem returns", ", or change the stem") if of_stem else ("", "")
        raise SpaceError(
            f"height and width{what} must be divisible by {divisor} for this network, but got {height}x{width}; resize "
            f"or pad the images{step}"
        )


def unplaced(skeleton: str, layers: int) -> list[str]:
    """Return the cell types of which a network of this depth has no cell: `normal` for one or two layers of DARTS."""
    placed = {slot.cell_type for slot in layout(skeleton, 1, layers)}
    return [name for name in stacking(skeleton).strides if name not in placed]


def least_layers(skeleton: str, above: int) -> int | None:
    """Return the least number of layers above `above` with a cell of each type; None if 100 more do not suffice."""
    for layers in range(above + 1, above + 101):
        try:
            if not unplaced(skeleton, layers):
                return layers
        except SpaceError:  # a number of layers it cannot have
            continue
    return None


def small_and_large(stacked: Stacking) -> list[int]:
    """Return numbers of layers that a skeleton can have, to try it with: a small one, and one from 8 on."""
    small = [*range(3, 101), 1, 2] if stacked.small_layers is None else [stacked.small_layers]
    found = [next((layers for layers in some if can_have(stacked, layers)), None) for some in (small, range(8, 101))]
    return [layers for layers in dict.fromkeys(found) if layers is not None]


def can_have(stacked: Stacking, layers: int) -> bool:
    """Return whether a network of a skeleton may have so many layers."""
    try:
        stacked.layout(4, layers)
    except SpaceError:
        return False
    return True
