import copy
import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.golden_genotypes import ALL, DARTS_V1, DARTS_V2, DOTS_C100, PARAMETERS, PDARTS
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchvision.ops import DeformConv2d

from topocell import ArchState, Supernet, api, spaces, testing
from topocell.config.load import load_recipe
from topocell.errors import GenotypeError, RecipeError, SpaceError
from topocell.genotype.genotype import CellGenotype, Genotype
from topocell.genotype.published import published
from topocell.nn.count import Count, channels_for, count
from topocell.nn.network import AuxiliaryHead, FixedCell, FixedNet, drop_samples
from topocell.nn.skeleton import CifarStem
from topocell.spaces import NASBENCH201_OPERATIONS, OPERATIONS, SKELETONS, Slot, Stacking


def meta(genotype: Genotype, *args: Any, **options: Any) -> FixedNet:
    with torch.device("meta"):
        return FixedNet(genotype, *args, **options)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def nasbench201(*names: str) -> Genotype:
    a, b, c, d, e, f = names
    return Genotype.from_nasbench201(f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|")


def darts(nodes: Any, concat: tuple[int, ...], inputs: int = 2) -> Genotype:
    cell = CellGenotype(inputs, nodes, concat)
    return Genotype("darts", {"normal": cell, "reduce": cell})


# --- published sizes ---


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_of_published_cifar_networks(name: str) -> None:
    genotype, expected = PARAMETERS[name]
    assert parameters(meta(genotype, 36, 20, 10)) == expected


def test_parameters_for_one_hundred_classes() -> None:
    assert parameters(meta(DOTS_C100, 36, 20, 100)) == 4_061_368


@pytest.mark.parametrize(
    ("channels", "layers", "millions"),
    [
        (36, 8, 1.1549),
        (36, 10, 1.5960),
        (36, 12, 1.7327),
        (36, 16, 2.6932),
        (36, 20, 3.3493),
        (48, 12, 3.0319),
        (48, 20, 5.8660),
        (32, 12, 1.3798),
        (32, 20, 2.6660),
    ],
)
def test_parameters_by_channels_and_layers(channels: int, layers: int, millions: float) -> None:
    assert round(parameters(meta(DARTS_V2, channels, layers, 10)) / 1e6, 4) == millions


@pytest.mark.parametrize(
    ("genotype", "expected_parameters", "millions", "in_all"),
    [(DARTS_V2, 4_718_752, 529.9, 545.8), (PDARTS, 4_944_352, 542.8, 558.6)],
)
def test_imagenet_networks(genotype: Genotype, expected_parameters: int, millions: float, in_all: float) -> None:
    net = meta(genotype, 48, 14, 1000, stem="imagenet", auxiliary=True)
    size, other = count(net, (3, 224, 224)), count(net, (3, 224, 224), include="all")
    assert size.parameters == other.parameters == expected_parameters
    assert round(size.multiply_adds / 1e6, 1) == millions
    assert round(other.multiply_adds / 1e6, 1) == in_all


@pytest.mark.parametrize(
    ("operation", "expected"), [("none", Count(73_306, 7_783_040)), ("nor_conv_3x3", Count(1_531_546, 220_119_680))]
)
def test_nasbench201_networks(operation: str, expected: Count) -> None:
    assert count(FixedNet(nasbench201(*[operation] * 6), 16, 17, 10), (3, 32, 32)) == expected


@pytest.mark.parametrize(
    ("channels", "layers", "classes", "stem", "expected"),
    [(36, 20, 10, "cifar", 476_426), (36, 20, 100, "cifar", 545_636), (48, 14, 1000, "imagenet", 1_260_776)],
)
def test_auxiliary_heads(channels: int, layers: int, classes: int, stem: str, expected: int) -> None:
    net = meta(DARTS_V2, channels, layers, classes, stem=stem, auxiliary=True)
    assert net.auxiliary_head is not None
    assert parameters(net.auxiliary_head) == expected
    without = meta(DARTS_V2, channels, layers, classes, stem=stem)
    assert parameters(net) - parameters(without) == expected


def test_resolutions_and_widths_of_the_published_network() -> None:
    net = FixedNet(DARTS_V2, 36, 20, 10).eval()
    shapes = []
    for cell in net.cells:
        cell.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
    with torch.no_grad():
        net(torch.zeros(1, 3, 32, 32))
    assert shapes == [(1, 144, 32, 32)] * 6 + [(1, 288, 16, 16)] * 7 + [(1, 576, 8, 8)] * 7


# --- forward ---


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", ALL)
def test_published_networks_train(name: str, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    net = FixedNet(ALL[name], 4, 5, 7, in_channels=1, auxiliary=True, drop_path=0.2).to(memory_format=layout)
    x = torch.randn(4, 1, 16, 16).contiguous(memory_format=layout)
    logits, auxiliary = net(x)
    assert logits.shape == auxiliary.shape == (4, 7)
    (logits.square().sum() + auxiliary.square().sum()).backward()
    assert [n for n, p in net.named_parameters() if p.grad is None] == []
    assert net.eval()(x).shape == (4, 7)


def test_layouts_agree() -> None:
    torch.manual_seed(0)
    net = FixedNet(DARTS_V2, 4, 5, 7).double().eval()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    expected = net(x)
    last = net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(last(x.contiguous(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_has_a_place_in_both_cells(name: str) -> None:
    genotype = darts((((name, 0), (name, 1)), ((name, 1), (name, 2))), (2, 3))
    net = FixedNet(genotype, 4, 3, 5, stem="imagenet", head="bn-relu")
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 5)


@settings(max_examples=15)
@given(st.lists(st.sampled_from(NASBENCH201_OPERATIONS), min_size=6, max_size=6))
def test_any_nasbench201_cell_gives_logits(names: list[str]) -> None:
    net = FixedNet(nasbench201(*names), 4, 5, 10).to(memory_format=torch.channels_last)
    assert net(torch.randn(2, 3, 8, 8)).isfinite().all()


def test_nodes_sum_any_number_of_inputs_and_dropped_nodes_are_left_out() -> None:
    skip, pool = "skip_connect", "max_pool_3x3"
    nodes = (((skip, 0),), (), ((skip, 0), (skip, 1), (pool, 1), (skip, 2), (skip, 0)), ((pool, 4),))
    cell = FixedCell(CellGenotype(2, nodes, (5, 2, 4)), 3, stride=1)
    a, b = torch.randn(2, 2, 3, 6, 6)
    largest = nn.MaxPool2d(3, 1, 1)
    node4 = a + b + largest(b) + a + a
    expected = torch.cat([largest(node4), a, node4], dim=1)
    torch.testing.assert_close(cell([a, b]), expected)
    assert cell.out_channels == 9


def test_only_edges_from_inputs_stride() -> None:
    pool = "max_pool_3x3"
    cell = FixedCell(CellGenotype(2, (((pool, 0),), ((pool, 1), (pool, 2))), (3,)), 3, stride=2)
    assert cell([torch.randn(1, 3, 8, 8)] * 2).shape == (1, 3, 4, 4)
    assert [op.stride for op in cell.operations] == [2, 2, 1]


def test_a_nasbench201_node_without_inputs_is_zero() -> None:
    nodes = ((), (("skip_connect", 0), ("skip_connect", 1)), (("skip_connect", 1), ("skip_connect", 2)))
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(FixedCell(CellGenotype(1, nodes, (3,)), 3, stride=1)([x]), x)
    empty = FixedCell(CellGenotype(1, ((), (), ()), (3,)), 3, stride=1)
    assert torch.equal(empty([x]), torch.zeros_like(x))


@pytest.mark.parametrize("size", [8, 16, 24, 32, 40])
def test_any_resolution_and_any_number_of_nodes(size: int) -> None:
    nodes = tuple((("sep_conv_3x3", node - 1),) for node in range(2, 8))
    net = FixedNet(darts(nodes, (6, 7)), 4, 3, 5, auxiliary=True)
    logits, auxiliary = net(torch.randn(2, 3, size, size))
    assert logits.shape == auxiliary.shape == (2, 5)


def test_cells_of_one_input() -> None:
    net = FixedNet(darts(((("sep_conv_3x3", 0),),), (1,), inputs=1), 4, 5, 10)
    assert net(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_a_canonical_genotype_names_a_network_of_the_same_size() -> None:
    for genotype in (PDARTS, ALL["AMOEBANET_A"]):
        net = FixedNet(genotype, 8, 5, 10)
        assert count(FixedNet(genotype.canonical(), 8, 5, 10), (3, 16, 16)) == count(net, (3, 16, 16))


def test_auxiliary_logits_come_in_training_only_from_cell_two_thirds() -> None:
    net = FixedNet(DARTS_V1, 4, 8, 10, auxiliary=True)
    x = torch.randn(4, 3, 32, 32)
    seen = []
    assert net.auxiliary_head is not None
    net.auxiliary_head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    net.cells[5].register_forward_hook(lambda module, inputs, output: seen.append(output))
    net(x)
    assert seen[0] is seen[1]
    assert isinstance(net.eval()(x), torch.Tensor)


@pytest.mark.parametrize(("size", "stride"), [(8, 3), (7, 2)])
def test_the_published_poolings_of_the_auxiliary_head(size: int, stride: int) -> None:
    head = AuxiliaryHead(4, 10, last_norm=True).eval()
    seen = []
    head.conv1.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    x = torch.randn(2, 4, size, size)
    head(x)
    torch.testing.assert_close(seen[0], nn.AvgPool2d(5, stride, count_include_pad=False)(x.relu()))


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 5), (8, 7), (16, 16)])
def test_other_maps_are_pooled_to_two_by_two(size: tuple[int, int]) -> None:
    assert AuxiliaryHead(4, 10, last_norm=False)(torch.randn(2, 4, *size)).shape == (2, 10)


# --- drop path ---


def test_drop_samples_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    y = drop_samples(torch.ones(20_000, 2, 1, 3), 0.25)
    values = y[:, 0, 0, 0]
    assert torch.equal(y, values[:, None, None, None].expand_as(y))
    torch.testing.assert_close(values.unique(), torch.tensor([0.0, 4 / 3]))
    assert abs(values.mean() - 1) < 0.02
    assert abs((values == 0).float().mean() - 0.25) < 0.01


def test_identities_are_exempt_from_drop_path_and_all_else_is_not() -> None:
    x = torch.ones(64, 4, 4, 4)
    for name, stride in itertools.product(OPERATIONS, (1, 2)):
        cell = FixedCell(CellGenotype(1, (((name, 0),),), (1,)), 4, stride)
        dropped = cell([x], 0.9).flatten(1).eq(0).all(1).float().mean()
        exempt = name == "skip_connect" and stride == 1
        assert dropped == 0 if exempt else dropped > 0.6, (name, stride)


def test_drop_path_follows_the_attribute_and_is_off_in_evaluation() -> None:
    torch.manual_seed(0)
    net = FixedNet(DARTS_V2, 4, 3, 10, drop_path=0.5)
    x = torch.randn(8, 3, 8, 8)
    assert not torch.equal(net(x), net(x))
    net.drop_path = 0.0
    assert torch.equal(net(x), net(x))
    net.drop_path = 0.5
    assert torch.equal(net.eval()(x), net(x))


# --- counting and budgets ---


def test_count_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1, groups=2), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6 * 16, 5))
    assert count(net, (4, 8, 8)) == Count(
        parameters=6 * 2 * 9 + 6 + 12 + 5 * 96 + 5, multiply_adds=16 * 6 * 2 * 9 + 5 * 96
    )


def test_what_count_says_of_itself_is_what_it_counts() -> None:
    said = " ".join((count.__doc__ or "").split())
    assert all(words in said for words in ("529.9 M for DARTS_V2", "the paper prints 574 M", "545.8 M"))
    assert "as in the papers' tables" not in said


def test_count_of_everything_by_hand() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 6, 3, 1, 1)
            self.plain, self.affine = nn.BatchNorm2d(6, affine=False), nn.BatchNorm2d(6)
            self.pools = nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2))
            self.classifier = nn.Linear(6, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            x = torch.relu(self.affine(x)) + self.plain(x) + 1
            return self.classifier(self.pools(x).mean((2, 3)))

    elements = 6 * 8 * 8
    products = elements * 4 * 9 + 6 * 5
    extra = elements + 5  # biases
    extra += elements * (2 + 1 + 1 + 1)  # batch norm, ReLU, batch norm without gain and bias, sum
    extra += elements + elements // 4 + elements // 16  # inputs of three poolings
    for device in ("cpu", "meta"):
        assert count(Net().to(device), (4, 8, 8)).multiply_adds == products
        assert count(Net().to(device), (4, 8, 8), include="all").multiply_adds == products + extra


def test_everything_is_counted_alike_where_kernels_compute() -> None:
    net = FixedNet(DARTS_V2, 16, 3, 10)
    expected = count(meta(DARTS_V2, 16, 3, 10), (3, 16, 16), "all")
    assert count(net, (3, 16, 16), "all") == count(net.to(memory_format=torch.channels_last), (3, 16, 16), "all")
    assert count(net, (3, 16, 16), "all") == expected
    with pytest.raises(SpaceError, match="include must be one of convolutions, all, but got 'every'"):
        count(net, (3, 16, 16), "every")  # type: ignore[arg-type]


def test_count_leaves_the_network_as_it_was() -> None:
    net = FixedNet(DARTS_V2, 4, 3, 10, auxiliary=True, drop_path=0.2).double()
    net.cells[0].eval()
    modes = [module.training for module in net.modules()]
    state = copy.deepcopy(net.state_dict())
    first = count(net, (3, 16, 16))
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())
    assert count(net, (3, 16, 16)) == first == count(meta(DARTS_V2, 4, 3, 10), (3, 16, 16))


def test_what_takes_more_than_images_is_not_counted() -> None:
    net = Supernet(spaces.get("darts", nodes=2), 4, 3, 5)
    with pytest.raises(SpaceError, match=r"got a Supernet \(missing a required argument: 'weights'\); put it into"):
        count(net, (3, 16, 16))


@pytest.mark.parametrize(
    "form",
    [
        lambda net, x: torch.export.export(net, (x,)).module(),
        torch.jit.trace,
        lambda net, x: torch.fx.symbolic_trace(net),
        lambda net, x: nn.DataParallel(net),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")
def test_other_forms_of_a_network_are_counted_alike(form: Any) -> None:
    net = FixedNet(DARTS_V2, 4, 3, 10).eval()
    assert count(form(net, torch.zeros(1, 3, 16, 16)), (3, 16, 16)) == count(net, (3, 16, 16))


@pytest.mark.parametrize("wrap", [nn.Sequential, AveragedModel, torch.compile])
@pytest.mark.filterwarnings("error")
def test_no_wrapper_makes_an_auxiliary_head_count(wrap: Any) -> None:
    net = FixedNet(DARTS_V2, 4, 3, 10, auxiliary=True)
    assert count(wrap(net), (3, 16, 16)) == count(net, (3, 16, 16)) == count(FixedNet(DARTS_V2, 4, 3, 10), (3, 16, 16))


class Recurrent(nn.Module):
    """Rows of an image as a sequence."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(12, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.rnn(x.permute(0, 2, 1, 3).flatten(2))[0]
        return out


@pytest.mark.parametrize(("kind", "gates"), [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
def test_recurrent_layers_are_counted(kind: type[nn.RNNBase], gates: int) -> None:
    assert count(Recurrent(kind), (3, 6, 4)).multiply_adds == 6 * gates * 5 * (12 + 5)


class Tokens(nn.Module):
    """16 pixels of 64 channels as a sequence, given to a function of it and of a matrix (64, 32)."""

    def __init__(self, function: Callable[[Any, Tensor, Tensor], Tensor], inner: nn.Module | None = None) -> None:
        super().__init__()
        self.function, self.inner = function, inner
        self.matrix = nn.Parameter(torch.zeros(64, 32))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.inner, x.flatten(2).transpose(1, 2), self.matrix)


def _heads(x: Tensor) -> Tensor:
    return x.unflatten(2, (4, 16)).transpose(1, 2)


#: Products of an attention of 16 pixels and 64 channels, with the four layers around it; of the two of a block.
ATTENTION, LAYERS, BLOCK = 2 * 16 * 16 * 64, 4 * 64 * 64 * 16, 2 * 64 * 128 * 16
PRODUCTS: dict[str, tuple[Callable[[Any, Tensor, Tensor], Tensor], nn.Module | None, int]] = {
    "of matrices": (lambda _, x, m: x[0] @ m, None, 16 * 64 * 32),
    "of batches of matrices": (lambda _, x, m: torch.addbmm(x[0, :, :32], x, m[None]), None, 16 * 64 * 32),
    "with a vector": (lambda _, x, m: x[0] @ m[:, 0], None, 16 * 64),
    "with a vector and a sum": (lambda _, x, m: torch.addmv(x[0, :, 0], x[0], m[:, 0]), None, 16 * 64),
    "of vectors": (lambda _, x, m: torch.dot(x[0, 0], m[:, 0]), None, 64),
    "einsum": (lambda _, x, m: torch.einsum("nlc,cd->nld", x, m), None, 16 * 64 * 32),
    "bilinear": (lambda inner, x, _: inner(x, x), nn.Bilinear(64, 64, 8), 16 * 64 * 64 * 8),
    "a function of attention": (
        lambda _, x, __: F.scaled_dot_product_attention(_heads(x), _heads(x), _heads(x)),
        None,
        ATTENTION,
    ),
    "attention": (
        lambda inner, x, _: inner(x, x, x, need_weights=False)[0],
        nn.MultiheadAttention(64, 4, batch_first=True),
        ATTENTION + LAYERS,
    ),
    "a layer of a transformer": (
        lambda inner, x, _: inner(x),
        nn.TransformerEncoderLayer(64, 4, 128, batch_first=True),
        ATTENTION + LAYERS + BLOCK,
    ),
    "a transformer": (
        lambda inner, x, _: inner(x),
        nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 2),
        2 * (ATTENTION + LAYERS + BLOCK),
    ),
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_counted_whichever_function_computes_them(name: str, device: str) -> None:
    """PyTorch's own counter misses what is one fused operator on this device."""
    function, inner, wanted = PRODUCTS[name]
    fast = torch.backends.mha.get_fastpath_enabled()
    assert count(Tokens(function, copy.deepcopy(inner)).to(device), (64, 4, 4)).multiply_adds == wanted
    assert torch.backends.mha.get_fastpath_enabled() == fast


class Unseen(nn.Module):
    """Products that no operator of a float network computes, or of another package."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.offsets, self.deformed = nn.Conv2d(3, 18, 3, padding=1), DeformConv2d(3, 8, 3, padding=1)
        self.linear = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(192, 10)), {nn.Linear})
        self.sparse = torch.eye(10, 192).to_sparse()

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "deformed":
            return self.deformed(x, self.offsets(x))
        return self.linear(x.flatten(1)) if self.kind == "quantised" else torch.sparse.mm(self.sparse, x.flatten(1).T)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("kind", "name"), [("quantised", "quantized::linear_dynamic"), ("sparse", "aten::_sparse")])
def test_products_that_cannot_be_seen_are_refused(kind: str, name: str) -> None:
    with pytest.raises(SpaceError, match=f"products must be of operators that can be counted, but {name}.* is none"):
        count(Unseen(kind), (3, 8, 8))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_deformed_convolutions_are_counted() -> None:
    assert count(Unseen("deformed"), (3, 8, 8)).multiply_adds == 64 * 27 * (18 + 8)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_frozen_trace_is_counted() -> None:
    net = FixedNet(DARTS_V2, 4, 3, 10).eval()
    frozen = torch.jit.freeze(torch.jit.trace(net, torch.zeros(1, 3, 16, 16)))
    assert count(frozen, (3, 16, 16)).multiply_adds == count(net, (3, 16, 16)).multiply_adds


def test_a_graph_for_other_images_is_not_counted() -> None:
    graph = torch.export.export(FixedNet(DARTS_V2, 4, 3, 10).eval(), (torch.zeros(2, 3, 16, 16),)).module()
    words = (
        r"takes images \(1, 3, 16, 16\) of torch.float32, but a GraphModule does not \(.*; count the network that it"
    )
    with pytest.raises(SpaceError, match=words):
        count(graph, (3, 16, 16))


def test_a_failed_count_leaves_the_network_as_it_was() -> None:
    net = FixedNet(DARTS_V2, 4, 3, 10)
    with pytest.raises(SpaceError, match="divisible by 4"):
        count(net, (3, 15, 15))
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize(
    ("genotype", "layers", "options"),
    [
        (DARTS_V2, 8, {}),
        (ALL["AMOEBANET_A"], 5, {"stem": "imagenet", "head": "bn-relu", "in_channels": 1}),
        (nasbench201(*["nor_conv_3x3"] * 6), 5, {}),
    ],
)
@pytest.mark.parametrize("budget", [1, 300_000, 2_000_000])
def test_channels_for_comes_closest(genotype: Genotype, layers: int, options: dict[str, Any], budget: int) -> None:
    chosen = channels_for(genotype, budget, layers, 10, **options)
    assert chosen % 2 == 0
    candidates = [c for c in (chosen - 2, chosen, chosen + 2) if c > 0]
    misses = [abs(parameters(meta(genotype, c, layers, 10, **options)) - budget) for c in candidates]
    assert misses[candidates.index(chosen)] == min(misses)


def test_channels_for_finds_the_published_width() -> None:
    assert channels_for(DARTS_V2, 3_349_342, 20, 10) == 36


# --- refusals ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop_path": 1.0}, "drop_path is a probability below 1, but got drop_path=1.0"),
        ({"drop_path": -0.1}, "drop_path is a probability below 1"),
        ({"stem": "mnist"}, "stem is 'cifar' or 'imagenet'"),
        ({"head": "mnist"}, "head is 'plain' or 'bn-relu'"),
    ],
)
def test_impossible_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        FixedNet(DARTS_V2, 4, 5, 10, **options)


@pytest.mark.parametrize("value", [1.0, 1.5, 20, -0.1, float("nan"), float("inf")])
def test_what_a_schedule_sets_is_in_its_range(value: float) -> None:
    """As dropout of PyTorch says it; more would drop all, less would draw other numbers, in silence."""
    spec = spaces.get("darts", nodes=2)
    net, supernet, arch = FixedNet(DARTS_V2, 4, 5, 10), Supernet(spec, 4, 3, 10), ArchState(spec)
    below_1, finite = "a probability below 1", "" if math.isfinite(value) else "a finite number, "
    places: list[tuple[Any, str, str]] = [(net, "drop_path", below_1), (supernet, "drop_path", below_1)]
    for place, name, rule in [*places, *[(supernet, "skip_dropout", "a probability")] * (value != 1)]:
        setattr(place, name, 0.2)
        with pytest.raises(SpaceError, match=f"^{name} is {finite}{rule}, but got {name}={value}"):
            setattr(place, name, value)
        assert getattr(place, name) == 0.2
    if not 0 < value < float("inf"):
        for name, rule in (("op_temperature", "above 0"), ("edge_temperature", "above 0"), ("auxiliary_skip", "0 or")):
            with pytest.raises(SpaceError, match=f"^{name} is {finite}{rule}"):
                setattr(arch, name, value)
    with pytest.raises(SpaceError, match="edge_temperature is above 0, but got edge_temperature=0"):
        arch.edge_temperature = 0


def test_what_stands_in_the_place_of_an_object_is_told() -> None:
    """A name, a text, a file, or a published cell with its figures."""
    way = r"but got .*; topocell\.genotype\.published\.published\(NAME\)\.genotype, Genotype\.load"
    for other in ("darts-v2", published("darts-v2"), "runs/a/genotype.json", None):
        with pytest.raises(SpaceError, match=f"^genotype must be a Genotype, {way}"):
            FixedNet(other, 4, 3, 3)  # type: ignore[arg-type]
    with pytest.raises(GenotypeError, match=f"^genotype must be a Genotype, {way}"):
        api.retrain_cell("darts-v2", load_recipe("quickstart"), "new")  # type: ignore[arg-type]
    for build in (lambda space: Supernet(space, 4, 3, 3), ArchState):
        with pytest.raises(SpaceError, match=r"^space must be a SpaceSpec, but got space=.darts.; topocell.spaces"):
            build("darts")  # type: ignore[arg-type]
    for command in (api.run, api.search, lambda recipe, _: api.estimate(recipe)):
        with pytest.raises(RecipeError, match=r"^recipe must be a Recipe, but got recipe=.quickstart.; topocell"):
            command("quickstart", "new")  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match=r"^net must be a Module, but got net='darts-v2'"):
        count("darts-v2", (3, 32, 32))  # type: ignore[arg-type]
    assert not Path("new").exists()


def test_products_are_counted_whatever_computes_them() -> None:
    """By functions, and by modules whose weights are made of others; PyTorch's own counter says as much."""

    class Standardised(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return nn.functional.conv2d(input, weight, self.bias, self.stride, self.padding)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.matrix = Standardised(3, 8, 3, padding=1), nn.Parameter(torch.randn(8, 5))

        def forward(self, x: Tensor) -> Tensor:
            rows = self.conv(x).flatten(2).transpose(1, 2)
            mixed = nn.functional.scaled_dot_product_attention(rows, rows, rows)
            return (mixed @ self.matrix).mean(1)

    n = 4 * 4
    wanted = n * 8 * 27 + 2 * n * n * 8 + n * 8 * 5
    assert count(Net(), (3, 4, 4)).multiply_adds == wanted
    assert count(nn.Identity(), (3, 4, 4)) == (0, 0)


def test_nasbench201_has_no_auxiliary_head() -> None:
    with pytest.raises(SpaceError, match="an auxiliary head needs skeleton 'darts'"):
        FixedNet(nasbench201(*["none"] * 6), 4, 5, 10, auxiliary=True)


def test_a_budget_is_positive() -> None:
    with pytest.raises(SpaceError, match="a parameter budget is at least 1, but got parameters=0"):
        channels_for(DARTS_V2, 0, 20, 10)


def test_networks_can_be_copied_and_pickled(tmp_path: Any) -> None:
    net = FixedNet(DARTS_V2, 4, 3, 10).eval()
    x = torch.randn(1, 3, 8, 8)
    torch.save(net, tmp_path / "net.pt")
    for again in (copy.deepcopy(net), torch.load(tmp_path / "net.pt", weights_only=False)):
        assert torch.equal(again(x), net(x))
        assert again.genotype == DARTS_V2


def test_another_stem_gives_one_tensor_to_both_inputs() -> None:
    net, x = FixedNet(DARTS_V2, 4, 3, 10), torch.randn(2, 3, 16, 16)
    own = net.stem
    assert isinstance(own, CifarStem)
    both = net(x)
    net.stem = nn.Sequential(own.conv, own.bn)
    assert torch.equal(net(x), both)
    assert torch.equal(torch.fx.symbolic_trace(net)(x), both)


def test_the_first_cells_alone_are_a_network() -> None:
    net, x = FixedNet(DARTS_V2, 4, 3, 10), torch.randn(2, 3, 16, 16)
    s0, s1 = net.begin(x)
    for index in range(2):
        s0, s1 = net.advance(index, s0, s1, lambda slot: (None,))
    net.cells = net.cells[:2]
    net.classifier = nn.Linear(s1.shape[1], 10)
    assert torch.equal(net(x), net.classify(s1))
    for _ in range(2):
        net.cells.append(net.cells[0])
    with pytest.raises(SpaceError, match="as many cells as it was made with, or the first of them, but got 4 of 3"):
        net(x)


def test_an_auxiliary_head_reads_the_last_cell_where_its_own_is_gone() -> None:
    net, x = FixedNet(DARTS_V2, 4, 6, 10, auxiliary=True), torch.randn(2, 3, 16, 16)
    net.cells = net.cells[:4]
    last = net.features(x)[0]
    net.classifier, net.auxiliary_head = nn.Linear(last.shape[1], 10), AuxiliaryHead(last.shape[1], 10, True)
    seen: list[Tensor] = []
    net.auxiliary_head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    logits, auxiliary = net(x)
    assert logits.shape == auxiliary.shape == (2, 10) and net.tap == 3
    torch.testing.assert_close(seen[0], last)


@pytest.mark.parametrize(("layers", "cells", "tap"), [(20, 10, 6), (8, 4, 2), (3, 1, 0)])
def test_the_auxiliary_head_stands_at_two_thirds_of_the_cells_that_there_are(
    layers: int, cells: int, tap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = Stacking(lambda channels, layers: [Slot("normal", channels, i) for i in range(layers // 2)])
    monkeypatch.setitem(SKELETONS, "half", half)
    net = meta(dataclasses.replace(DARTS_V2, skeleton="half"), 4, layers, 10, auxiliary=True)
    assert (len(net.cells), net.tap) == (cells, tap)
    testing.check_skeleton("half")


@pytest.mark.parametrize("include", ["convolutions", "all"])
def test_it_counts_the_same_in_inference_mode(include: Any) -> None:
    """There operators reach what counts them as wholes, which PyTorch's counter does not know."""
    attention = nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(64, 4, 16, batch_first=True))
    convolutions = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    for net in (attention, convolutions):
        outside = count(net, (3, 8, 8), include)
        with torch.inference_mode():
            assert count(net, (3, 8, 8), include) == outside and outside.multiply_adds > 0
