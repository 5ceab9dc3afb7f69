"""The oracle itself, against published counts and against arithmetic written out by hand."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.reference.compare import Weights, random_weights
from tests.helpers.reference.supernet import (
    Cell,
    FactorizedReduce,
    MixedEdge,
    ReferenceSupernet,
    channel_shuffle,
    operation,
)
from torch import Tensor, nn

from topocell import spaces
from topocell.errors import SpaceError
from topocell.spaces import OPERATIONS, CellSpec, SpaceSpec, complete_edges

F64 = torch.float64
CONVOLUTIONS = [name for name in OPERATIONS if "conv" in name]


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def small_space(candidates: tuple[str, ...] = OPERATIONS[:11], nodes: int = 2) -> SpaceSpec:
    return spaces.get("darts", nodes=nodes, candidates=candidates)


# --- numbers of parameters (counted on the original networks)


@pytest.mark.parametrize(
    ("name", "options", "layers", "parameters"),
    [
        ("darts", {}, 5, 1_275_834),
        ("darts", {}, 8, 1_930_618),
        ("darts", {}, 20, 4_548_730),
        ("darts", {"candidates": spaces.DARTS_OPERATIONS_WITHOUT_NONE}, 8, 1_930_618),
        ("darts", {"candidates": ("skip_connect", "sep_conv_3x3")}, 8, 665_466),
        ("darts", {"candidates": ("none", "skip_connect", "sep_conv_3x3")}, 8, 665_466),
        ("nasbench201", {}, 17, 1_686_106),
    ],
)
def test_supernets_have_the_published_numbers_of_parameters(
    name: str, options: dict[str, tuple[str, ...]], layers: int, parameters: int
) -> None:
    with torch.device("meta"):
        assert count(ReferenceSupernet(spaces.get(name, **options), 16, layers, 10)) == parameters


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_has_the_parameters_of_its_formula(name: str, stride: int) -> None:
    c = 16
    formula = {
        "skip_connect": c * c if stride == 2 else 0,
        "conv_7x1_1x7": 2 * 7 * c * c,
        "nor_conv_1x1": c * c,
        "nor_conv_3x3": 9 * c * c,
        **{f"sep_conv_{k}x{k}": 2 * (c * k * k + c * c) for k in (3, 5, 7)},
        **{f"dil_conv_{k}x{k}": c * k * k + c * c for k in (3, 5)},
    }
    assert count(operation(name, c, stride, pool_norm=True)) == formula.get(name, 0)


@pytest.mark.parametrize(("channels", "parameters"), [(16, 3168), (32, 9408), (64, 31104)])
def test_a_mixed_edge_has_the_published_number_of_parameters(channels: int, parameters: int) -> None:
    edge = MixedEdge(spaces.DARTS_OPERATIONS, channels, 1, pool_norm=True, partial=1)
    assert count(edge) == parameters
    strided = MixedEdge(spaces.DARTS_OPERATIONS, channels, 2, pool_norm=True, partial=1)
    assert count(strided) == parameters + channels**2


def test_partial_channels_build_every_operation_with_a_part_of_the_channels() -> None:
    assert count(MixedEdge(spaces.DARTS_OPERATIONS, 64, 1, pool_norm=True, partial=4)) == 3168


# --- operations against arithmetic written out tap by tap


def convolve(x: Tensor, weight: Tensor, stride: tuple[int, int] = (1, 1), dilation: int = 1) -> Tensor:
    """Same-padded convolution as a sum over taps; a weight with one input channel is depthwise."""
    _, per_group, kh, kw = weight.shape
    rows, columns = dilation * (kh - 1) // 2, dilation * (kw - 1) // 2
    n, _, height, width = x.shape
    padded = x.new_zeros(n, x.shape[1], height + 2 * rows, width + 2 * columns)
    padded[:, :, rows : rows + height, columns : columns + width] = x
    total: Tensor | float = 0.0
    for i in range(kh):
        for j in range(kw):
            tap = padded[:, :, i * dilation : i * dilation + height, j * dilation : j * dilation + width]
            tap = tap[:, :, :: stride[0], :: stride[1]]
            w = weight[:, :, i, j]
            depthwise = per_group == 1 and x.shape[1] > 1
            term = w.view(1, -1, 1, 1) * tap if depthwise else torch.einsum("oc,nchw->nohw", w, tap)
            total = total + term
    assert isinstance(total, Tensor)
    return total


def normalise(x: Tensor) -> Tensor:
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = (x - mean).square().mean((0, 2, 3), keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt()


def by_hand(name: str, x: Tensor, w: dict[str, Tensor], stride: int) -> Tensor:
    s, relu = (stride, stride), torch.relu
    if name.startswith("sep_conv"):
        y = normalise(convolve(convolve(relu(x), w["dw1"], s), w["pw1"]))
        return normalise(convolve(convolve(relu(y), w["dw2"]), w["pw2"]))
    if name.startswith("dil_conv"):
        return normalise(convolve(convolve(relu(x), w["dw"], s, dilation=2), w["pw"]))
    if name.startswith("nor_conv"):
        return normalise(convolve(relu(x), w["conv"], s))
    if name == "conv_7x1_1x7":
        return normalise(convolve(convolve(relu(x), w["conv1"], (1, stride)), w["conv2"], (stride, 1)))
    raise AssertionError(name)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_equal_their_definition(name: str, stride: int) -> None:
    op = operation(name, 4, stride, pool_norm=True).double()
    weights = {key.removesuffix(".weight"): value for key, value in op.state_dict().items()}
    x = random(3, 4, 8, 8)
    torch.testing.assert_close(op(x), by_hand(name, x, weights, stride), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ["max_pool_3x3", "avg_pool_3x3"])
def test_pools_ignore_what_is_outside_the_image(name: str, stride: int) -> None:
    x = random(2, 3, 6, 6)
    windows = nn.functional.pad(x, (1, 1, 1, 1), value=float("nan"))
    windows = windows.unfold(2, 3, stride).unfold(3, 3, stride).flatten(-2)
    if name == "max_pool_3x3":
        expected = windows.nan_to_num(nan=-float("inf")).amax(-1)
    else:
        expected = windows.nanmean(-1)
    bare = operation(name, 3, stride, pool_norm=False)(x)
    torch.testing.assert_close(bare, expected)
    torch.testing.assert_close(operation(name, 3, stride, pool_norm=True)(x), normalise(expected))


def test_stride_one_skip_is_the_input_itself() -> None:
    x = random(2, 4, 4, 4)
    assert torch.equal(operation("skip_connect", 4, 1, pool_norm=True)(x), x)


def test_factorized_reduce_sees_one_diagonal_pixel_per_path() -> None:
    """On a 2 x 2 input path 1 sees pixel (0, 0) and path 2 pixel (1, 1)."""
    reduce: Any = FactorizedReduce(2, 4).double()
    reduce.bn = nn.Identity()
    x = random(3, 2, 2, 2).abs()
    out = reduce(x)
    w1, w2 = reduce.conv1.weight[:, :, 0, 0], reduce.conv2.weight[:, :, 0, 0]
    torch.testing.assert_close(out[:, :2, 0, 0], x[:, :, 0, 0] @ w1.T)
    torch.testing.assert_close(out[:, 2:, 0, 0], x[:, :, 1, 1] @ w2.T)
    assert not reduce(-x).any()  # ReLU comes first


def test_strided_skip_is_a_normalised_factorized_reduce() -> None:
    op: Any = operation("skip_connect", 5, 2, pool_norm=True).double()
    x = random(3, 5, 6, 6)
    w1, w2 = (conv.weight[:, :, 0, 0] for conv in (op.conv1, op.conv2))
    y = torch.relu(x)
    paths = [
        torch.einsum("oc,nchw->nohw", w1, y[:, :, 0::2, 0::2]),
        torch.einsum("oc,nchw->nohw", w2, y[:, :, 1::2, 1::2]),
    ]
    torch.testing.assert_close(op(x), normalise(torch.cat(paths, 1)))


def test_none_is_zero_and_noise_is_fresh_and_without_gradient() -> None:
    x = random(2, 4, 8, 8).requires_grad_()
    assert not operation("none", 4, 2, pool_norm=True)(x).any()
    noise = operation("noise", 4, 2, pool_norm=True)
    first, second = noise(x), noise(x)
    assert not torch.equal(first, second)
    assert not first.requires_grad
    assert not torch.equal(noise.eval()(x), first)
    assert abs(operation("noise", 4, 1, pool_norm=True)(random(64, 4, 16, 16)).std() - 1) < 0.02


@pytest.mark.parametrize("partial", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_keeps_the_channels_and_divides_the_size(name: str, stride: int, partial: int) -> None:
    edge = MixedEdge([name], 4, stride, pool_norm=True, partial=partial).double()
    assert edge(random(2, 4, 8, 8), torch.ones(1)).shape == (2, 4, 8 // stride, 8 // stride)


def test_an_operation_that_is_not_known_is_refused() -> None:
    with pytest.raises(SpaceError, match="sep_conv_9x9"):
        operation("sep_conv_9x9", 4, 1, pool_norm=True)


# --- partial channels


def test_the_shuffle_interleaves_the_groups() -> None:
    """K = 4, C = 16: output channels are 0, 4, 8, 12, 1, 5, ... of the concatenation."""
    x = torch.arange(16).view(1, 16, 1, 1)
    order = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15]
    assert channel_shuffle(x, 4).flatten().tolist() == order


@pytest.mark.parametrize("stride", [1, 2])
def test_only_the_first_channels_pass_through_the_mixed_operation(stride: int) -> None:
    edge = MixedEdge(["avg_pool_3x3", "none"], 8, stride, pool_norm=True, partial=4).double()
    x = random(3, 8, 4, 4)
    out = edge(x, torch.tensor([0.5, 7.0], dtype=F64))
    rest = x[:, 2:] if stride == 1 else x[:, 2:].unfold(2, 2, 2).unfold(3, 2, 2).amax((-2, -1))
    joined = torch.cat([0.5 * edge["avg_pool_3x3"](x[:, :2]), rest], 1)
    torch.testing.assert_close(out, joined[:, [0, 2, 4, 6, 1, 3, 5, 7]])


def test_partial_must_divide_the_channels() -> None:
    with pytest.raises(SpaceError, match="partial divides channels"):
        ReferenceSupernet(small_space(), 6, 3, 2, partial=4)


# --- cells


def test_a_node_is_the_weighted_sum_of_its_edges() -> None:
    spec = CellSpec(2, 2, complete_edges(2, 2), (("skip_connect", "max_pool_3x3"),) * 5, pool_norm=False)
    cell = Cell(spec, 3, partial=1)
    inputs = [random(2, 3, 4, 4, seed=s) for s in (1, 2)]
    ops, edges = random(5, 2, seed=3), random(5, seed=4)

    def mixed(x: Tensor, e: int) -> Tensor:
        return edges[e] * (ops[e, 0] * x + ops[e, 1] * nn.functional.max_pool2d(x, 3, 1, 1))

    node2 = mixed(inputs[0], 0) + mixed(inputs[1], 1)
    node3 = mixed(inputs[0], 2) + mixed(inputs[1], 3) + mixed(node2, 4)
    torch.testing.assert_close(cell(inputs, ops, edges), torch.cat([node2, node3], 1))


def test_the_last_node_alone_can_be_the_output() -> None:
    spec = CellSpec(1, 2, complete_edges(1, 2), (("skip_connect",),) * 3, output="last")
    x = random(1, 2, 4, 4)
    ops, edges = torch.ones(3, 1), torch.tensor([2.0, 3.0, 5.0])
    torch.testing.assert_close(Cell(spec, 2, partial=1)([x], ops, edges), (3 + 2 * 5) * x)


# --- networks


@pytest.mark.parametrize("partial", [1, 2])
@pytest.mark.parametrize("name", ["darts", "nasbench201"])
def test_zero_edge_weights_leave_nothing_but_the_bias(name: str, partial: int) -> None:
    space = small_space() if name == "darts" else spaces.get(name)
    layers = 4 if name == "darts" else 5
    net = ReferenceSupernet(space, 4, layers, 3, partial=partial).double()
    weights = random_weights(space)
    zero = {kind: Weights(w.ops, torch.zeros_like(w.edges)) for kind, w in weights.items()}
    outputs: list[Tensor] = []
    for cell in net.cells:
        cell.register_forward_hook(lambda module, args, out: outputs.append(out))
    net(random(2, 3, 16, 16), weights)
    assert all(out.any() for out in outputs)
    outputs.clear()
    logits = net(random(2, 3, 16, 16), zero)
    assert len(outputs) == len(net.cells)
    assert not any(out.any() for out in outputs)
    if name == "darts":
        torch.testing.assert_close(logits, net.classifier.bias.expand(2, 3))


@given(seed=st.integers(0, 2**31), edge=st.integers(0, 4), candidate=st.integers(0, 3))
@settings(max_examples=10)
def test_a_zero_weight_cuts_off_its_operation(seed: int, edge: int, candidate: int) -> None:
    """Whatever a zero-weight operation or edge holds, the logits do not change and its gradient is zero."""
    names = ("sep_conv_3x3", "dil_conv_3x3", "conv_7x1_1x7", "nor_conv_1x1")
    space = small_space(names)
    net: Any = ReferenceSupernet(space, 2, 3, 2).double()
    weights = random_weights(space, seed)
    weights["normal"].ops[edge, candidate] = 0
    weights["reduce"].edges[edge] = 0
    x = random(2, 3, 8, 8)
    logits = net(x, weights)
    logits.square().sum().backward()
    cut = [net.cells[0].edges[edge][names[candidate]], net.cells[1].edges[edge], net.cells[2].edges[edge]]
    assert net.types == ["normal", "reduce", "reduce"]
    for module in cut:
        for p in module.parameters():
            assert p.grad is not None
            assert not p.grad.any()
            p.data.normal_()
    torch.testing.assert_close(net(x, weights), logits, rtol=0, atol=1e-12)
    assert net.stem.conv.weight.grad.any()


def test_statistics_are_those_of_the_batch_in_training_and_in_evaluation() -> None:
    space = small_space(spaces.DARTS_OPERATIONS)
    net = ReferenceSupernet(space, 4, 3, 3).double()
    weights, x = random_weights(space), random(4, 3, 8, 8)
    trained = net.train()(x, weights)
    assert torch.equal(net.eval()(x, weights), trained)
    assert not torch.allclose(net(x[:2], weights), trained[:2])
    assert not list(net.buffers())


def test_weights_may_be_pairs_or_objects() -> None:
    class Held:
        def __init__(self, weights: Weights) -> None:
            self.ops, self.edges = weights

    space = small_space(("skip_connect", "sep_conv_3x3"))
    net = ReferenceSupernet(space, 2, 3, 2).double()
    weights, x = random_weights(space), random(2, 3, 8, 8)
    as_pairs = net(x, {kind: tuple(w) for kind, w in weights.items()})
    assert torch.equal(net(x, {kind: Held(w) for kind, w in weights.items()}), as_pairs)


def test_reductions_halve_the_size_and_double_the_channels() -> None:
    """L = 20, C = 36: 144 channels at 32 x 32, 288 at 16 x 16, 576 at 8 x 8."""
    space = small_space(("skip_connect",), nodes=4)
    with torch.device("meta"):
        net = ReferenceSupernet(space, 36, 20, 10)
        shapes: list[tuple[int, int]] = []
        for cell in net.cells:
            cell.register_forward_hook(lambda module, args, out: shapes.append((out.shape[1], out.shape[2])))
        weights = {kind: (torch.ones(14, 1), torch.ones(14)) for kind in space.cells}
        assert net(torch.zeros(2, 3, 32, 32), weights).shape == (2, 10)
    assert shapes == [(144, 32)] * 6 + [(288, 16)] * 7 + [(576, 8)] * 7


@pytest.mark.parametrize(
    ("layers", "reductions"),
    [(20, [6, 13]), (16, [5, 10]), (14, [4, 9]), (12, [4, 8]), (10, [3, 6]), (8, [2, 5]), (5, [1, 3])],
)
def test_reductions_stand_at_one_and_two_thirds(layers: int, reductions: list[int]) -> None:
    with torch.device("meta"):
        net = ReferenceSupernet(small_space(("skip_connect",)), 4, layers, 2)
    assert [i for i, kind in enumerate(net.types) if kind == "reduce"] == reductions


def test_nasbench201_has_three_groups_with_residual_blocks_between() -> None:
    space = spaces.get("nasbench201")
    net = ReferenceSupernet(space, 4, 8, 3).double()
    seen: list[tuple[object, ...]] = []
    for kind, modules in (("cell", net.cells), ("block", net.blocks)):
        for module in modules:
            module.register_forward_hook(lambda m, a, out, k=kind: seen.append((k, *out.shape[1:3])))
    assert net(random(2, 3, 16, 16), random_weights(space)).shape == (2, 3)
    assert seen == [
        *[("cell", 4, 16)] * 2,
        ("block", 8, 8),
        *[("cell", 8, 8)] * 2,
        ("block", 16, 4),
        *[("cell", 16, 4)] * 2,
    ]


def test_the_residual_block_equals_its_definition() -> None:
    block: Any = ReferenceSupernet(spaces.get("nasbench201"), 4, 5, 2).double().blocks[0]
    x = random(3, 4, 6, 6)
    y = normalise(convolve(torch.relu(x), block.conv_a.conv.weight, (2, 2)))
    y = normalise(convolve(torch.relu(y), block.conv_b.conv.weight))
    mean = x.unfold(2, 2, 2).unfold(3, 2, 2).mean((-2, -1))
    torch.testing.assert_close(block(x), y + convolve(mean, block.shortcut.weight))


@pytest.mark.parametrize("layers", [2, 6, 7])
def test_nasbench201_refuses_layers_that_its_skeleton_cannot_have(layers: int) -> None:
    with pytest.raises(SpaceError, match=f"3N \\+ 2 with N >= 1, but got {layers}"):
        ReferenceSupernet(spaces.get("nasbench201"), 4, layers, 2)


def test_cells_with_one_input_take_the_previous_cell_only() -> None:
    cells = {
        kind: CellSpec(1, 2, complete_edges(1, 2), (("skip_connect", "sep_conv_3x3"),) * 3, stride=stride)
        for kind, stride in (("normal", 1), ("reduce", 2))
    }
    space = SpaceSpec("one input", cells)
    net = ReferenceSupernet(space, 4, 6, 3).double()
    assert net(random(2, 3, 16, 16), random_weights(space)).shape == (2, 3)
    assert not any("preprocess0" in key for key in net.state_dict())
    assert any("preprocess1" in key for key in net.state_dict())


def test_the_bn_relu_head_normalises_before_pooling() -> None:
    space = small_space(("skip_connect", "sep_conv_3x3"))
    net = ReferenceSupernet(space, 2, 3, 2, head="bn-relu").double()
    plain = ReferenceSupernet(space, 2, 3, 2).double()
    extra = set(net.state_dict()) - set(plain.state_dict())
    assert extra == {"head.bn.weight", "head.bn.bias"}
    held: list[Tensor] = []
    net.cells[-1].register_forward_hook(lambda module, args, out: held.append(out))
    logits = net(random(2, 3, 16, 16), random_weights(space))
    pooled = torch.relu(normalise(held[0])).mean((2, 3))
    torch.testing.assert_close(logits, pooled @ net.classifier.weight.T + net.classifier.bias)
    with pytest.raises(SpaceError, match="head is 'plain' or 'bn-relu'"):
        ReferenceSupernet(space, 2, 3, 2, head="bn")


def test_images_and_classes_may_be_of_any_number() -> None:
    space = small_space(("skip_connect", "sep_conv_3x3"))
    net = ReferenceSupernet(space, 2, 3, 7, in_channels=1).double()
    assert net(random(2, 1, 8, 8), random_weights(space)).shape == (2, 7)


# --- names

PARTS: dict[str, dict[int, list[str]]] = {
    "none": {1: [], 2: []},
    "noise": {1: [], 2: []},
    "max_pool_3x3": {1: [], 2: []},
    "avg_pool_3x3": {1: [], 2: []},
    "skip_connect": {1: [], 2: ["conv1", "conv2"]},
    "conv_7x1_1x7": {1: ["conv1", "conv2"], 2: ["conv1", "conv2"]},
    **{f"sep_conv_{k}x{k}": {s: ["dw1", "pw1", "dw2", "pw2"] for s in (1, 2)} for k in (3, 5, 7)},
    **{f"dil_conv_{k}x{k}": {s: ["dw", "pw"] for s in (1, 2)} for k in (3, 5)},
    **{f"nor_conv_{k}x{k}": {s: ["conv"] for s in (1, 2)} for k in (1, 3)},
}


def edge_keys(c: int, spec: CellSpec) -> set[str]:
    return {
        f"cells.{c}.edges.{e}.{name}.{part}.weight"
        for e in range(spec.n_edges)
        for name in spec.candidates[e]
        for part in PARTS[name][spec.edge_stride(e)]
    }


def test_darts_weights_have_the_per_edge_names() -> None:
    assert set(PARTS) == set(OPERATIONS)
    space = small_space(OPERATIONS)
    net = ReferenceSupernet(space, 4, 3, 2)
    expected = {"stem.conv.weight", "stem.bn.weight", "stem.bn.bias", "classifier.weight", "classifier.bias"}
    for c, kind in enumerate(["normal", "reduce", "reduce"]):
        expected |= edge_keys(c, space.cells[kind])
        expected.add(f"cells.{c}.preprocess1.conv.weight")
    expected |= {f"cells.{c}.preprocess0.conv.weight" for c in (0, 1)}
    expected |= {f"cells.2.preprocess0.conv{i}.weight" for i in (1, 2)}
    assert set(net.state_dict()) == expected
    shapes = {key.removeprefix("cells.0.edges.0."): tuple(v.shape) for key, v in net.state_dict().items()}
    assert shapes["conv_7x1_1x7.conv1.weight"] == (4, 4, 1, 7)
    assert shapes["conv_7x1_1x7.conv2.weight"] == (4, 4, 7, 1)
    assert shapes["dil_conv_5x5.dw.weight"] == (4, 1, 5, 5)
    assert shapes["sep_conv_7x7.pw2.weight"] == (4, 4, 1, 1)


def test_nasbench201_weights_have_the_per_edge_names() -> None:
    space = spaces.get("nasbench201")
    net = ReferenceSupernet(space, 4, 8, 2)
    expected = {"stem.conv.weight", "classifier.weight", "classifier.bias"}
    expected |= {f"{bn}.bn.{part}" for bn in ("stem", "head") for part in ("weight", "bias")}
    for c in range(6):
        expected |= edge_keys(c, space.cells["cell"])
    for i in (0, 1):
        expected |= {f"blocks.{i}.{conv}.weight" for conv in ("conv_a.conv", "conv_b.conv", "shortcut")}
        expected |= {f"blocks.{i}.{bn}.{part}" for bn in ("conv_a.bn", "conv_b.bn") for part in ("weight", "bias")}
    assert set(net.state_dict()) == expected
