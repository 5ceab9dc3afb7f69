"""Every Triton kernel in Triton's interpreter, on the CPU, against PyTorch's functions in float64.

Run by test_gpu.py in a process of its own: Triton decides when it is imported whether it interprets. The longer form,
TOPOCELL_LONG=1, has more shapes.
"""

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.reference.supernet import ReferenceSupernet
from torch import Tensor, nn

from topocell.nn import fused_check, fused_gpu, pooling
from topocell.nn.fused_library import by_library
from topocell.nn.fused_plan import Chain, Edges, Plan
from topocell.nn.kernels.gpu import launch, state
from topocell.spaces import CellSpec, SpaceSpec, complete_edges
from topocell.supernet import ArchWeights, Supernet

EXAMPLES = 60 if os.environ.get("TOPOCELL_LONG") == "1" else 4
CHAINS = {"sep": (1, 2), "dil": (2, 1)}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def checked() -> None:
    """The kernels are taken without a check, which has a test of its own."""
    state._found.clear()
    state._found[CPU] = None


def near(found: Tensor, wanted: Tensor, within: float) -> bool:
    """By the norm of the difference: a pixel next to zero may pass a ReLU on one side only."""
    found, wanted = found.detach().double(), wanted.detach().double()
    return float((found - wanted).norm()) <= within * float(wanted.norm()) + 1e-6


@settings(max_examples=EXAMPLES, derandomize=EXAMPLES < 10)
@given(
    channels=st.integers(2, 20),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    images=st.integers(1, 3),
    stride=st.sampled_from([1, 2]),
    kinds=st.lists(st.tuples(st.sampled_from(list(CHAINS)), st.sampled_from([3, 5, 7])), min_size=1, max_size=2),
    low=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float32, torch.bfloat16]),
    data=st.data(),
)
def test_outputs_and_all_gradients_are_those_of_the_library(
    channels: int,
    height: int,
    width: int,
    images: int,
    stride: int,
    kinds: list[tuple[str, int]],
    low: bool,
    dtype: torch.dtype,
    data: st.DataObject,
) -> None:
    if images * height * width < 16:
        height, images = 8, 2  # batch norm of a few pixels magnifies every rounding
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    outputs, position = data.draw(st.integers(1, 3)), iter(range(1000))
    some = st.lists(st.integers(0, outputs - 1), min_size=1, max_size=outputs, unique=True)

    def edges() -> tuple[tuple[int, ...], tuple[int, ...]]:
        slots = tuple(data.draw(some))
        return slots, tuple(next(position) for _ in slots)

    chains = tuple(Chain(kernel, *CHAINS[kind], *edges()) for kind, kernel in kinds)
    dense, pools = tuple(Edges(*edges()) for _ in range(data.draw(st.integers(0, 1)))), (Edges(*edges()),)
    identity = stride == 1 and data.draw(st.booleans())
    on = st.lists(st.booleans(), min_size=outputs, max_size=outputs)
    mix = tuple(tuple(next(position) if o else -1 for o in data.draw(on)) for _ in range(1 + identity))
    plan = Plan(chains, stride, tuple(data.draw(on)), mix, dense, identity, pools, low_memory=low)
    size = images, channels, (height - 1) // stride + 1, (width - 1) // stride + 1
    maps, bases = [torch.randn(size)], [torch.randn(size) for based in plan.based if based]
    tensors = []
    for chain in chains:
        m, kernel = len(chain.slots), chain.kernel
        for _ in range(chain.stages):
            tensors += [torch.randn(m, channels, 1, kernel, kernel), torch.randn(m, channels, channels, 1, 1)]
    tensors += [torch.randn(len(d.slots), channels, channels, 3, 3) for d in dense] + [torch.randn(size)]
    x, weights = torch.randn(images, channels, height, width), torch.rand(next(position)) + 0.5
    learns = [data.draw(st.booleans()) for _ in tensors]
    exact = [t.to(dtype).double() for t in (x, weights, *maps, *bases, *tensors)]
    ours = [t.to(dtype) for t in exact]
    wanted_of = [True, data.draw(st.booleans()), True, *[True] * len(bases), *learns]
    for pair in zip(exact, ours, wanted_of):
        for tensor in pair[:2]:
            tensor.requires_grad_(pair[2])
    first = 3 + len(bases)
    found = fused_gpu.fused(ours[0], plan, ours[first:], ours[1], ours[2:3], ours[3:first])
    wanted = by_library(exact[0], plan, exact[1], exact[2:3], exact[3:first], exact[first:])
    towards = [torch.randn(size).to(dtype) for _ in found]
    mine, theirs = ([t for t in side if t.requires_grad] for side in (ours, exact))
    kept = [(f, w, t) for f, w, t in zip(found, wanted, towards) if w.requires_grad]
    gradients = torch.autograd.grad([f for f, _, _ in kept], mine, [t for *_, t in kept], allow_unused=True)
    expected = torch.autograd.grad([w for _, w, _ in kept], theirs, [t.double() for *_, t in kept], allow_unused=True)
    exactly = dtype == torch.float32
    assert all(f.dtype == dtype and near(f, w, 2e-5 if exactly else 0.03) for f, w in zip(found, wanted))
    for g, w in zip(gradients, expected):
        assert w is None or (g is not None and near(g, w, 2e-3 if exactly else 0.3))  # flipped ReLUs move whole pixels
        assert w is not None or g is None or not g.any()


@pytest.mark.parametrize(("stride", "size"), [(1, (3, 5)), (2, (5, 4))])
def test_pools_are_those_of_the_library(size: tuple[int, int], stride: int) -> None:
    """Ties as well: the gradient goes to the first of equal pixels; and NaN is larger than all."""
    torch.manual_seed(0)
    given = torch.randn(2, 6, *size).round(decimals=1).requires_grad_()
    assert fused_check.on_gpu(given, 6)
    for ours, wanted in (
        (pooling.max_pool(given, stride), nn.functional.max_pool2d(given, 3, stride, 1)),
        (pooling.avg_pool(given, stride), nn.functional.avg_pool2d(given, 3, stride, 1, count_include_pad=False)),
    ):
        assert "GpuPool" in type(ours.grad_fn).__name__
        torch.testing.assert_close(ours, wanted)
        towards = torch.randn_like(wanted)
        found, expected = (torch.autograd.grad((y * towards).sum(), given)[0] for y in (ours, wanted))
        torch.testing.assert_close(found, expected)
    spoilt = given.detach().clone()
    spoilt[0, 0, 0, 0], spoilt[1] = float("nan"), float("-inf")
    wanted = nn.functional.max_pool2d(spoilt, 3, stride, 1)
    torch.testing.assert_close(pooling.max_pool(spoilt, stride), wanted, equal_nan=True)


def test_the_same_bits_whatever_order_programs_run_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sum is added to by two programs: their order backwards changes nothing."""
    from triton.runtime import interpreter

    torch.manual_seed(0)
    plan = Plan((Chain(3, 1, 2, (0, 1), (0, 1)),), 1, (False, False), ((2, 3),), (), True)
    given = [torch.randn(3, 4, 7, 7), torch.rand(4), *(torch.randn(s) for s in [(2, 4, 1, 3, 3), (2, 4, 4, 1, 1)] * 2)]

    def run() -> list[Tensor]:
        x, weights, *tensors = (t.clone().requires_grad_() for t in given)
        out = fused_gpu.fused(x, plan, tensors, weights, [], [])
        return [*out, *torch.autograd.grad(sum(o.square().sum() for o in out), [x, weights, *tensors])]

    forwards = run()
    place = interpreter.InterpreterBuilder.set_grid_idx

    def backwards(self: object, x: int, y: int, z: int) -> None:
        dim = self.grid_dim  # type: ignore[attr-defined]
        place(self, *(n - 1 - i for n, i in zip(dim, (x, y, z))))

    monkeypatch.setattr(interpreter.InterpreterBuilder, "set_grid_idx", backwards)
    assert all(torch.equal(a, b) for a, b in zip(forwards, run(), strict=True))


@pytest.mark.parametrize(
    ("ops", "pool_norm"),
    [
        (("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3"), True),
        (("avg_pool_3x3", "dil_conv_3x3", "nor_conv_3x3"), False),
    ],
)
def test_a_supernet_is_the_one_of_a_module_per_edge(ops: tuple[str, ...], pool_norm: bool) -> None:
    """Outputs, gradients of α and of all weights; normal and reduction cells."""
    edges = complete_edges(2, 1)
    cells = {
        kind: CellSpec(2, 1, edges, tuple(ops for _ in edges), "concat", stride, pool_norm=pool_norm)
        for kind, stride in (("normal", 1), ("reduce", 2))
    }
    space = SpaceSpec("of the test", cells)
    torch.manual_seed(0)
    net = Supernet(space, 4, 3, 3)
    oracle = ReferenceSupernet(space, 4, 3, 3).double()
    oracle.load_state_dict({k: v.double() for k, v in net.per_edge_state_dict().items()}, strict=False)
    weights = {t: ArchWeights(torch.rand(2, len(ops)), torch.rand(2)) for t in cells}
    exact = {t: ArchWeights(w.ops.double(), w.edges.double()) for t, w in weights.items()}
    x = torch.randn(2, 3, 8, 8)
    for side in (weights, exact):
        for w in side.values():
            w.ops.requires_grad_()
    found, wanted = net(x, weights), oracle(x.double(), exact)
    found.square().sum().backward()
    wanted.square().sum().backward()
    assert near(found, wanted, 1e-4)
    for t in cells:
        assert near(weights[t].ops.grad, exact[t].ops.grad, 1e-2)
    theirs = {name: p.grad for name, p in oracle.named_parameters()}
    assert all(near(g, theirs[name], 1e-2) for name, g in net.per_edge_grad_dict().items())


def test_the_check_passes_and_finds_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_check, "IMAGES", 2)
    assert fused_check.check(CPU) is None
    monkeypatch.setattr(fused_check, "WITHIN", {torch.float32: 1e-3})
    right = launch.finish_sums
    monkeypatch.setattr(launch, "finish_sums", lambda partial: right(partial) * 1.01)
    fault = fused_check.check(CPU)
    assert fault is not None and "wrong by" in fault and "gradients" in fault
    state._found.clear()
    with pytest.warns(UserWarning, match="PyTorch's own functions do the work") as said:
        x = torch.randn(2, 4, 4, 4)
        assert not fused_check.on_gpu(x, 4) and not fused_check.on_gpu(x, 4)
    assert len(said) == 1
    assert state.words(CPU).startswith("left: a fused step in torch.float32")


def test_a_kernel_that_does_not_compile_is_left_forward_and_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime.errors import OutOfResources

    def refuse(*_: object, **__: object) -> None:
        raise OutOfResources(300000, 232448, "shared memory")

    plan, weights = Plan((Chain(3, 1, 1, (0,), (0,)),), 1), torch.ones(1)
    tensors = [torch.randn(1, 4, 1, 3, 3), torch.randn(1, 4, 4, 1, 1)]
    x = torch.randn(2, 4, 4, 4, requires_grad=True)
    towards = torch.randn(2, 4, 4, 4)
    (wanted,) = torch.autograd.grad(by_library(x, plan, weights, [], [], tensors), x, [towards])
    for name in ("mix_forward", "gradient_sums"):
        state._found[CPU] = None
        with monkeypatch.context() as patch, pytest.warns(UserWarning, match="OutOfResources"):
            patch.setattr(launch, name, refuse)
            (y,) = fused_gpu.fused(x, plan, tensors, weights, [], [])
            assert near(torch.autograd.grad(y, x, towards)[0], wanted, 1e-4)
        assert not fused_check.on_gpu(x, 4)
