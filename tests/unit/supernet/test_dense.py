"""Dense convolutions and pools around the compiled kernels, against the library's functions."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.helpers.kernels import needs_kernels
from tests.helpers.tables import BANKS
from torch import Tensor

from topocell import spaces
from topocell.nn.banks import Bank, ConvBank
from topocell.nn.fused_plan import Chain, Edges, Plan
from topocell.nn.pooling import avg_pool
from topocell.nn.separable import separable
from topocell.runtime.memory import DispatcherCalls, SavedBytes
from topocell.supernet import ArchWeights, OneHotWeights, Supernet
from topocell.supernet.learner import frozen

pytestmark = needs_kernels
CELL = spaces.get("nasbench201")
E, K = CELL.cells["cell"].n_edges, CELL.cells["cell"].n_candidates


def near(found: Tensor, wanted: Tensor, within: float) -> bool:
    found, wanted = found.detach().double(), wanted.detach().double()
    return float((found - wanted).norm()) <= within * float(wanted.norm()) + 1e-7


def added(bank: Bank, x: Tensor, scale: Tensor, tensors: list[Tensor], sums: list[Tensor]) -> None:
    """What the bank adds to the outputs of its edges, by the library."""
    out = bank.compute(x, x.relu(), scale.repeat_interleave(bank.channels), tensors)
    for e, piece in zip(bank.edges, out.split(bank.channels, 1)):
        sums[e] = sums[e] + piece


@settings(max_examples=25)
@given(
    channels=st.sampled_from([4, 8, 12, 16, 32]),
    height=st.integers(2, 9),
    width=st.integers(4, 9),
    images=st.integers(1, 3),
    stride=st.sampled_from([1, 2]),
    names=st.lists(st.sampled_from(["nor_conv_1x1", "nor_conv_3x3"]), min_size=1, max_size=3),
    chain=st.booleans(),
    low=st.booleans(),
    learns=st.sampled_from(["all", "architecture", "weights"]),
    data=st.data(),
)
def test_dense_convolutions_have_the_outputs_and_gradients_of_the_library(
    channels: int,
    height: int,
    width: int,
    images: int,
    stride: int,
    names: list[str],
    chain: bool,
    low: bool,
    learns: str,
    data: st.DataObject,
) -> None:
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    outputs, identity = data.draw(st.integers(1, 3)), stride == 1 and data.draw(st.booleans())
    some_edges = st.lists(st.integers(0, outputs - 1), min_size=1, max_size=outputs, unique=True).map(sorted)
    banks = [BANKS[name](channels, stride, data.draw(some_edges)) for name in ["sep_conv_3x3"] * chain + names]
    size = images, channels, (height - 1) // stride + 1, (width - 1) // stride + 1
    assume(images * size[2] * size[3] >= 8)  # the statistics of two pixels make rounding errors arbitrarily large
    x = torch.randn(images, channels, height, width).requires_grad_()
    ready = torch.randn(size).requires_grad_()
    count = sum(len(b.edges) for b in banks)
    weights = torch.rand(count + 2 * outputs).requires_grad_(learns != "weights")
    tensors = [t.detach().clone().requires_grad_(learns != "architecture") for b in banks for t in b.parameters()]
    inputs = [x, ready, weights, *tensors]

    positions = iter(range(count))
    places = [(tuple(b.edges), tuple(next(positions) for _ in b.edges)) for b in banks]
    mix = (tuple(range(count, count + outputs)),) * identity + (tuple(range(count + outputs, count + 2 * outputs)),)
    plan = Plan(
        tuple(Chain(3, 1, 2, *place) for place in places[:chain]),
        stride,
        (False,) * outputs,
        mix,
        tuple(Edges(*place) for place in places[chain:]),
        identity,
        low_memory=low,
    )
    found, _ = separable(x, plan, tensors, weights, [ready])
    towards = [torch.randn(size) for _ in range(outputs)]
    wanted_of = [t for t in inputs if t.requires_grad]
    gradients = torch.autograd.grad(sum((f * t).sum() for f, t in zip(found, towards)), wanted_of)

    exact = [t.detach().double().requires_grad_() for t in inputs]
    y, exact_ready, scales, *rest = exact
    expected = [scales[p] * exact_ready for p in mix[-1]]
    if identity:
        expected = [e + scales[p] * y for e, p in zip(expected, mix[0])]
    left = iter(rest)
    for b, (_, at) in zip(banks, places):
        added(b, y, scales[list(at)], [next(left) for _ in b.parameters()], expected)
    loss = sum((e * t).sum() for e, t in zip(expected, towards))
    exact_gradients = torch.autograd.grad(loss, [e for e, t in zip(exact, inputs) if t.requires_grad])
    assert all(near(f, e, 2e-5) for f, e in zip(found, expected))
    assert all(near(g, e, 2e-3) for g, e in zip(gradients, exact_gradients))  # a flipped ReLU moves whole pixels


@settings(max_examples=25)
@given(
    channels=st.sampled_from([4, 6, 8, 16]),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    stride=st.sampled_from([1, 2]),
    last=st.booleans(),
)
def test_the_average_pool_is_that_of_the_library(
    channels: int, height: int, width: int, stride: int, last: bool
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, channels, height, width)
    x = (x.contiguous(memory_format=torch.channels_last) if last else x).requires_grad_()
    found, wanted = avg_pool(x, stride), F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)
    assert found.shape == wanted.shape
    assert near(found, wanted, 1e-6)
    towards = torch.randn_like(wanted)
    (gradient,), (expected,) = (torch.autograd.grad((out * towards).sum(), x) for out in (found, wanted))
    assert near(gradient, expected, 1e-6)


def test_the_average_pool_follows_the_precision_that_is_asked_for() -> None:
    x = torch.randn(2, 4, 4, 4)
    assert avg_pool(x.double(), 1).dtype is torch.float64
    assert avg_pool(x.bfloat16(), 1).dtype is torch.bfloat16


def supernet(memory: str = "standard") -> Supernet:
    torch.manual_seed(0)
    return Supernet(CELL, 8, 5, 3, memory=memory)


def gradients_of(net: Supernet, weights: ArchWeights, x: Tensor) -> list[Tensor]:
    """The logits, and the gradients of the operations' weights and of the parameters."""
    logits = net(x, {"cell": weights})
    wanted = [weights.ops, *net.parameters()]
    found = torch.autograd.grad(logits.square().sum(), wanted, allow_unused=True)
    return [logits, *(torch.zeros_like(w) if g is None else g for g, w in zip(found, wanted))]


@pytest.mark.parametrize("kind", [ArchWeights, OneHotWeights])
@pytest.mark.parametrize("memory", ["standard", "low"])
def test_the_supernet_is_that_of_the_library_with_fewer_calls(
    kind: type[ArchWeights], memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = supernet(memory)
    x = torch.randn(4, 3, 8, 8)
    ops = torch.eye(K)[torch.arange(E) % K] if kind is OneHotWeights else torch.rand(E, K)
    weights = kind(ops.requires_grad_(), torch.ones(E))
    with DispatcherCalls() as few, SavedBytes(exclude=net.parameters()) as little:
        compiled = gradients_of(net, weights, x)
    monkeypatch.setenv("TOPOCELL_NATIVE", "0")
    with DispatcherCalls() as many, SavedBytes(exclude=net.parameters()) as much:
        library = gradients_of(net, weights, x)
    assert all(near(c, w, 5e-3) for c, w in zip(compiled, library))
    assert near(compiled[0], library[0], 1e-4)
    assert few.total < many.total
    assert little.total < much.total


def test_bfloat16_runs_by_the_library() -> None:
    net, x = supernet(), torch.randn(4, 3, 8, 8)
    weights = {"cell": ArchWeights(torch.full((E, K), 0.2), torch.ones(E))}
    with torch.autocast("cpu", torch.bfloat16):
        found = net(x, weights)
    assert near(found, net(x, weights), 0.1)


def test_the_first_architecture_update_computes_no_gradient_of_a_convolution() -> None:
    """What the first source needs for the architecture ends before its convolutions."""
    bank = ConvBank(4, 1, [0], 3)
    x, weights = torch.randn(2, 4, 4, 4), torch.ones(1, requires_grad=True)
    plan = Plan((), 1, (False,), dense=(Edges((0,), (0,)),))
    with frozen(bank.parameters()):
        (out,), _ = separable(x, plan, list(bank.parameters()), weights)
    with torch.profiler.profile() as profile:
        out.square().sum().backward()
    assert weights.grad is not None
    assert "aten::convolution_backward" not in {event.key for event in profile.key_averages()}
