import pytest
import torch
import torch.nn.functional as F
from torch import nn

from topocell.errors import SpaceError
from topocell.nn.modules import FactorizedReduce, ReLUConvBN
from topocell.nn.primitives import PRIMITIVES, make
from topocell.spaces import OPERATIONS
from topocell.spaces.operations import RESIDUAL_OPERATIONS

C = 8


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_table_has_every_operation_of_the_spaces() -> None:
    assert tuple(PRIMITIVES) == (*OPERATIONS, *RESIDUAL_OPERATIONS)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPERATIONS)
def test_shape_layout_and_untouched_input(name: str, stride: int, layout: torch.memory_format) -> None:
    x = torch.randn(2, C, 6, 10).contiguous(memory_format=layout)
    before = x.clone()
    y = make(name, C, stride, affine=True).to(memory_format=layout)(x)
    assert y.shape == (2, C, 6 // stride, 10 // stride)
    assert y.is_contiguous(memory_format=layout)
    assert torch.equal(x, before)


def separable(k: int) -> int:
    return 2 * (C * k * k + C * C)


# The formulas of DARTS' layers; the second number is the affine terms of batch norm.
COUNTS = {
    ("none", 1): (0, 0),
    ("none", 2): (0, 0),
    ("noise", 2): (0, 0),
    ("max_pool_3x3", 2): (0, 0),
    ("avg_pool_3x3", 1): (0, 0),
    ("skip_connect", 1): (0, 0),
    ("skip_connect", 2): (C * C, 2 * C),
    ("sep_conv_3x3", 1): (separable(3), 4 * C),
    ("sep_conv_5x5", 2): (separable(5), 4 * C),
    ("sep_conv_7x7", 1): (separable(7), 4 * C),
    ("dil_conv_3x3", 2): (9 * C + C * C, 2 * C),
    ("dil_conv_5x5", 1): (25 * C + C * C, 2 * C),
    ("conv_7x1_1x7", 2): (14 * C * C, 2 * C),
    ("nor_conv_1x1", 1): (C * C, 2 * C),
    ("nor_conv_3x3", 1): (9 * C * C, 2 * C),
}


@pytest.mark.parametrize(("name", "stride"), COUNTS)
def test_parameters(name: str, stride: int) -> None:
    weights, norm = COUNTS[name, stride]
    assert parameters(make(name, C, stride, affine=True)) == weights + norm
    assert parameters(make(name, C, stride, affine=False)) == weights


@pytest.mark.parametrize("k", [3, 5])
def test_sep_conv_is_two_rounds_of_relu_depthwise_pointwise_norm(k: int) -> None:
    op = make(f"sep_conv_{k}x{k}", C, 2, affine=True)
    x = torch.randn(4, C, 8, 8)
    y = F.conv2d(F.relu(x), op.dw1.weight, stride=2, padding=k // 2, groups=C)
    y = F.batch_norm(F.conv2d(y, op.pw1.weight), None, None, training=True)
    y = F.conv2d(F.relu(y), op.dw2.weight, padding=k // 2, groups=C)
    y = F.batch_norm(F.conv2d(y, op.pw2.weight), None, None, training=True)
    torch.testing.assert_close(op(x), y)


@pytest.mark.parametrize("k", [3, 5])
def test_dil_conv_has_dilation_two(k: int) -> None:
    op = make(f"dil_conv_{k}x{k}", C, 1, affine=True)
    x = torch.randn(4, C, 8, 8)
    y = F.conv2d(F.relu(x), op.dw.weight, padding=k - 1, dilation=2, groups=C)
    y = F.batch_norm(F.conv2d(y, op.pw.weight), None, None, training=True)
    torch.testing.assert_close(op(x), y)


def test_average_pool_leaves_padding_out_of_the_mean() -> None:
    pool = make("avg_pool_3x3", C, 1, affine=True)
    torch.testing.assert_close(pool(torch.ones(1, C, 4, 4)), torch.ones(1, C, 4, 4))


def test_factorized_reduce_sees_even_pixels_first_and_odd_pixels_second() -> None:
    x = torch.tensor([[1.0, 20.0], [300.0, 4000.0]]).reshape(1, 1, 2, 2)
    op = FactorizedReduce(1, 2, affine=False).eval()
    nn.init.ones_(op.conv1.weight)
    nn.init.ones_(op.conv2.weight)
    y = op(x).flatten() * (1 + op.bn.eps) ** 0.5  # fresh running statistics: mean 0, variance 1
    torch.testing.assert_close(y, torch.tensor([1.0, 4000.0]))


@pytest.mark.parametrize("channels", [(6, 4), (5, 3)])
def test_factorized_reduce_makes_the_channels_asked_for(channels: tuple[int, int]) -> None:
    assert FactorizedReduce(*channels, affine=True)(torch.randn(2, channels[0], 4, 4)).shape == (2, channels[1], 2, 2)


@pytest.mark.parametrize("module", [ReLUConvBN, FactorizedReduce])
def test_batch_statistics_hold_in_evaluation_and_keep_nothing(module: type) -> None:
    layer = module(C, C, affine=False, batch_statistics=True).eval()
    y = layer(5 * torch.randn(16, C, 8, 8))
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(C), atol=1e-5, rtol=0)
    assert [name for name in layer.state_dict() if "bn" in name] == []


def test_noise_is_fresh_standard_normal_and_passes_no_gradient() -> None:
    torch.manual_seed(0)
    noise = make("noise", C, 2, affine=True).eval()
    x = torch.full((32, C, 16, 16), 7.0, requires_grad=True)
    first, second = noise(x), noise(x)
    assert not torch.equal(first, second)
    assert abs(first.mean()) < 0.05
    assert abs(first.std() - 1) < 0.05
    assert not first.requires_grad


def test_none_is_zero_even_for_values_that_are_not_finite() -> None:
    assert make("none", 1, 2, affine=True)(torch.full((1, 1, 4, 4), float("nan"))).eq(0).all()


def test_unknown_operation() -> None:
    with pytest.raises(SpaceError, match=r"unknown operation 'sep_conv_3' \(did you mean 'sep_conv_3x3'\?\)"):
        make("sep_conv_3", C, 1, affine=True)
