import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from topocell.errors import SpaceError
from topocell.nn.modules import FactorizedReduce, ReLUConvBN
from topocell.nn.skeleton import Skeleton
from topocell.spaces.skeletons import Slot, layout


class Probe(nn.Module):
    """A cell that notes its input shapes and context, and returns the sum of its inputs, strided, `width` times."""

    def __init__(self, slot: Slot, width: int) -> None:
        super().__init__()
        self.out_channels = width * slot.channels
        self.stride = 2 if slot.cell_type == "reduce" else 1
        self.width = width
        self.seen: list[tuple[int, ...]] = []
        self.context: tuple = ()

    def forward(self, states: list[Tensor], *context: object) -> Tensor:
        self.seen = [tuple(s.shape[1:]) for s in states]
        self.context = context
        total = torch.stack(states).sum(0)[:, :, :: self.stride, :: self.stride]
        return torch.cat([total] * self.width, dim=1)


def build(width: int = 2, inputs: int = 2, **options: Any) -> Skeleton:
    defaults: dict[str, Any] = {
        "skeleton": "darts",
        "channels": 4,
        "layers": 8,
        "classes": 10,
        "affine": True,
        "batch_statistics": False,
    }
    types = {"normal": inputs, "reduce": inputs, "cell": 1}
    return Skeleton(make_cell=lambda slot: Probe(slot, width), inputs=types, **{**defaults, **options})


def nasbench201(**options: Any) -> Skeleton:
    return build(width=1, skeleton="nasbench201", layers=8, **options)


@pytest.mark.parametrize(
    ("layers", "reductions"),
    [(8, [2, 5]), (20, [6, 13]), (14, [4, 9]), (12, [4, 8]), (16, [5, 10]), (10, [3, 6]), (5, [1, 3]), (1, [0])],
)
def test_reductions_are_at_the_thirds_and_double_the_channels(layers: int, reductions: list[int]) -> None:
    slots = layout("darts", 16, layers)
    assert [s.index for s in slots] == list(range(layers))
    assert [s.index for s in slots if s.cell_type == "reduce"] == reductions
    assert [s.channels for s in slots] == [16 << sum(r <= i for r in reductions) for i in range(layers)]


def test_nasbench201_has_three_stages() -> None:
    slots = layout("nasbench201", 16, 17)
    assert [s.channels for s in slots] == [16] * 5 + [32] * 5 + [64] * 5
    assert {s.cell_type for s in slots} == {"cell"}


@pytest.mark.parametrize(
    ("skeleton", "channels", "layers", "message"),
    [
        ("darts", 0, 8, "at least one channel"),
        ("darts", 16, 0, "at least one layer"),
        ("nasbench201", 16, 2, "3N \\+ 2 layers"),
        ("nasbench201", 16, 16, "3N \\+ 2 layers"),
        ("nasbench", 16, 17, "unknown skeleton 'nasbench' .did you mean 'nasbench201'.*known: darts, nasbench201"),
    ],
)
def test_impossible_layouts(skeleton: str, channels: int, layers: int, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        layout(skeleton, channels, layers)


def test_cells_get_their_channels_and_resolution() -> None:
    net = build()
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    sizes = [(4, 32)] * 2 + [(8, 32)] + [(8, 16)] * 2 + [(16, 16)] + [(16, 8)] * 2
    assert [cell.cell.seen for cell in net.cells] == [[(c, size, size)] * 2 for c, size in sizes]
    kinds = [type(cell.preprocess0) for cell in net.cells]
    assert [i for i, kind in enumerate(kinds) if kind is FactorizedReduce] == [3, 6]
    assert all(type(cell.preprocess1) is ReLUConvBN for cell in net.cells)
    assert net.classifier.in_features == 2 * 16


def test_cells_of_one_input_see_the_last_cell_only() -> None:
    net = build(inputs=1)
    net(torch.randn(2, 3, 32, 32))
    assert all(cell.preprocess0 is None and len(cell.cell.seen) == 1 for cell in net.cells)


def test_imagenet_stem_divides_by_eight_and_counts_as_a_reduction() -> None:
    net = build(stem="imagenet", stem_multiplier=1, layers=14)
    assert net(torch.randn(2, 3, 64, 64)).shape == (2, 10)
    assert [tuple(s.shape) for s in net.stem(torch.randn(2, 3, 64, 64))] == [(2, 4, 16, 16), (2, 4, 8, 8)]
    assert type(net.cells[0].preprocess0) is FactorizedReduce
    assert net.cells[0].cell.seen == [(4, 8, 8)] * 2


def test_nasbench201_residual_blocks_stand_between_the_stages() -> None:
    net = nasbench201()
    assert net(torch.randn(2, 3, 16, 16)).shape == (2, 10)
    assert [c.cell.seen for c in net.cells] == [[(4 << s, 16 >> s, 16 >> s)] for s in (0, 0, 1, 1, 2, 2)]
    assert len(net.blocks) == 2
    assert all(c.preprocess0 is None and c.preprocess1 is None for c in net.cells)


def test_a_residual_block_with_dead_convolutions_is_its_shortcut() -> None:
    block = nasbench201().blocks[0].eval()
    nn.init.zeros_(block.conv_b.conv.weight)
    x = torch.randn(2, 4, 6, 6)
    expected = nn.functional.conv2d(nn.functional.avg_pool2d(x, 2), block.shortcut.weight)
    torch.testing.assert_close(block(x), expected)


def test_heads() -> None:
    assert list(build().head) == []
    assert [name for name, _ in build(head="bn-relu").head.named_children()] == ["bn", "relu"]
    assert [name for name, _ in nasbench201().head.named_children()] == ["bn", "relu"]


def test_context_reaches_the_cell_of_its_slot() -> None:
    net = build(layers=3)
    net(torch.randn(2, 3, 8, 8), lambda slot: (slot.cell_type, slot.index))
    assert [c.cell.context for c in net.cells] == [("normal", 0), ("reduce", 1), ("reduce", 2)]


def test_tap_is_the_output_of_that_cell() -> None:
    net = build().eval()
    x = torch.randn(2, 3, 32, 32)
    last, tapped = net.features(x, tap=5)
    assert tapped is not None
    assert tapped.shape == (2, 32, 8, 8)
    assert torch.equal(net.classify(last), net(x))
    same, last_tap = net.features(x, tap=7)
    assert last_tap is same
    assert net.features(x)[1] is None


@pytest.mark.parametrize("make", [build, nasbench201])
def test_only_preprocess_layers_lose_their_affine_terms(make: Any) -> None:
    norms = {n: m for n, m in make(affine=False).named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {m.affine for n, m in norms.items() if "preprocess" in n} <= {False}
    assert {m.affine for n, m in norms.items() if "preprocess" not in n} == {True}


@pytest.mark.parametrize("make", [build, nasbench201])
def test_batch_statistics_reach_every_norm(make: Any) -> None:
    for wanted in (True, False):
        net = make(batch_statistics=wanted)
        norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms
        assert {m.track_running_stats for m in norms} == {not wanted}


@pytest.mark.parametrize(
    ("net", "size", "divisor"),
    [
        (build, (30, 32), 4),
        (build, (32, 30), 4),
        (nasbench201, (18, 16), 4),
        (lambda: build(stem="imagenet"), (48, 48), 32),
        (lambda: build(layers=1), (7, 8), 2),
    ],
)
def test_odd_resolutions_are_refused(net: Any, size: tuple[int, int], divisor: int) -> None:
    message = f"must be divisible by {divisor} for this network, but got {size[0]}x{size[1]}"
    with pytest.raises(SpaceError, match=message):
        net()(torch.randn(2, 3, *size))


def patches(channels: int, size: int) -> nn.Module:
    """A stem of one convolution of so many pixels at once."""
    return nn.Conv2d(3, channels, size, size)


class LastChannels(nn.Module):
    """A stem that takes (N, H, W, C)."""

    def __init__(self, stem: nn.Module) -> None:
        super().__init__()
        self.stem = stem

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.stem(x.permute(0, 3, 1, 2))


@pytest.mark.parametrize("make", [build, nasbench201])
def test_another_stem_is_asked_for_maps_that_the_cells_can_halve(make: Any) -> None:
    def with_stem(change: Any) -> Skeleton:
        net = make()
        net.stem = change(net.stem)
        return net

    larger = with_stem(lambda stem: nn.Sequential(nn.Upsample((32, 32)), stem))
    assert larger(torch.randn(2, 3, 30, 30)).shape == (2, 10)
    assert with_stem(LastChannels)(torch.randn(2, 32, 32, 3)).shape == (2, 10)
    patched = with_stem(lambda stem: patches(stem.conv.out_channels, 4))
    assert patched(torch.randn(2, 3, 48, 32)).shape == (2, 10)
    message = (
        r"what the stem returns must be divisible by 4 for this network, but got 9x8; resize or pad the images, or"
    )
    with pytest.raises(SpaceError, match=message):
        patched(torch.randn(2, 3, 36, 32))


class Sharded(nn.Module):
    """What `fully_shard` puts before the class of a module."""


def swapped(stem: nn.Module) -> nn.Module:
    stem.__class__ = type("Swapped", (Sharded, type(stem)), {})
    return stem


@pytest.mark.parametrize("wrap", [swapped, lambda stem: torch.compile(stem, backend="eager"), copy.deepcopy])
@pytest.mark.parametrize(("make", "divisor"), [(build, 4), (lambda: build(stem="imagenet"), 32), (nasbench201, 4)])
def test_the_stem_that_a_network_was_made_with_stays_that_however_it_is_wrapped(
    make: Any, divisor: int, wrap: Any
) -> None:
    """The images are asked for, before they are computed with, and with fewer cells for less."""
    net = make()
    net.stem = wrap(net.stem)
    for left in (divisor, divisor // 2):
        with pytest.raises(SpaceError, match=f"^height and width must be divisible by {left} for this network"):
            net(torch.randn(2, 3, 2 * left, 2 * left + 1))
        assert net.features(torch.randn(2, 3, 2 * left, 2 * left))[0].shape[2:] == (2, 2)
        net.cells = net.cells[:4]


@pytest.mark.parametrize(
    ("make", "cells", "divisor"),
    [
        *((build, cells, divisor) for cells, divisor in ((2, 1), (3, 2), (5, 2), (6, 4))),
        *((nasbench201, cells, divisor) for cells, divisor in ((2, 1), (3, 2), (4, 2), (5, 4))),
    ],
)
def test_of_fewer_cells_those_that_are_left_count(make: Any, cells: int, divisor: int) -> None:
    net = make()
    net.cells = net.cells[:cells]
    assert net.features(torch.randn(2, 3, 7 * divisor, 5 * divisor))[0].shape[2:] == (7, 5)
    if divisor > 1:
        with pytest.raises(SpaceError, match=f"must be divisible by {divisor} for this network"):
            net.features(torch.randn(2, 3, 8 * divisor, 8 * divisor + 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stem": "svhn"}, "stem is 'cifar' or 'imagenet', but got 'svhn'"),
        ({"head": "fancy"}, "head is 'plain' or 'bn-relu', but got 'fancy'"),
        ({"classes": 0}, "at least one class"),
        ({"classes": 2.0}, "classes must be a whole number, but got classes=2.0"),
        ({"channels": 3.5}, "channels must be a whole number, but got channels=3.5"),
        ({"layers": True}, "layers must be a whole number, but got layers=True"),
        ({"in_channels": "3"}, "in_channels must be a whole number, but got in_channels='3'"),
        ({"in_channels": 0}, "an image has at least one channel, but got in_channels=0"),
        ({"skeleton": "nasbench201", "stem": "imagenet"}, "has the stem 'cifar', but got 'imagenet'"),
    ],
)
def test_impossible_choices(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        build(**options)


def test_gradients_reach_every_parameter_in_channels_last() -> None:
    for net in (build(in_channels=1), nasbench201(in_channels=1)):
        net = net.to(memory_format=torch.channels_last)
        x = torch.randn(4, 1, 16, 16).contiguous(memory_format=torch.channels_last)
        net(x).square().sum().backward()
        assert [name for name, p in net.named_parameters() if p.grad is None] == []
