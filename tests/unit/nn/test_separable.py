"""The compiled kernels against the library's functions, in the supernet and in networks of one architecture."""

import copy
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.kernels import needs_kernels
from tests.helpers.tables import BANKS
from torch import Tensor, nn

from topocell.errors import RunError
from topocell.nn.banks import ChainBank
from topocell.nn.fused_plan import Chain, Plan
from topocell.nn.kernels.cpu import build
from topocell.nn.modules import FactorizedReduce, ReLUConvBN
from topocell.nn.pooling import avg_pool, max_pool
from topocell.nn.primitives import make
from topocell.nn.separable import separable, usable
from topocell.runtime.memory import DispatcherCalls, SavedBytes
from topocell.spaces import CellSpec, SpaceSpec, complete_edges
from topocell.supernet import ArchWeights, OneHotWeights, Supernet
from topocell.supernet.cell import SuperCell
from topocell.supernet.learner import frozen

CHAINS = ("sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7", "dil_conv_3x3", "dil_conv_5x5")

pytestmark = needs_kernels


def near(found: Tensor, wanted: Tensor, within: float = 2e-5) -> bool:
    """By the norm of the difference: a pixel next to zero may pass a ReLU on one side only."""
    found, wanted = found.detach().double(), wanted.detach().double()
    return float((found - wanted).norm()) <= within * float(wanted.norm()) + 1e-7


def bank(name: str, channels: int, stride: int, edges: list[int]) -> ChainBank:
    made = BANKS[name](channels, stride, edges)
    assert isinstance(made, ChainBank)
    return made


def test_where_there_is_a_compiler_the_kernels_compile() -> None:
    assert all(usable(torch.zeros(1), channels) for channels in (1, 4, 6, 8, 16, 36))


def test_the_library_does_what_the_kernels_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    like = torch.zeros(1)
    assert not usable(like, 8, kernel=9)
    assert not usable(like.double(), 8)
    assert not usable(like.to("meta"), 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert not usable(like, 8)
    monkeypatch.setenv("TOPOCELL_NATIVE", "0")
    assert not usable(like, 8)


def test_the_kernels_are_kept_for_the_user_alone_and_compiled_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOPOCELL_CACHE", str(tmp_path))
    compiler = shutil.which(os.environ.get("CC") or "cc")
    assert compiler is not None
    path = build.compiled(compiler, "kernels.c", ("-DLANES=4",))
    made = path.stat().st_mtime_ns
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0
    assert build.compiled(compiler, "kernels.c", ("-DLANES=4",)) == path
    assert path.stat().st_mtime_ns == made
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_compiler_that_fails_leaves_the_work_to_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    monkeypatch.setenv("TOPOCELL_CACHE", str(tmp_path / "cache"))
    assert build._load.__wrapped__("kernels.c", "-DLANES=16") is None


def test_a_compiler_that_takes_too_long_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "cc"
    slow.write_text('#!/bin/sh\ncase "$1" in --version) echo 1;; *) exec sleep 60;; esac\n')
    slow.chmod(0o755)
    monkeypatch.setenv("CC", str(slow))
    monkeypatch.setenv("TOPOCELL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "LONGEST", 0.2)
    with pytest.raises(RunError, match=r"in 0.2 seconds at most, but .*cc took longer; try again"):
        build._load.__wrapped__("kernels.c", "-DLANES=16")


@settings(max_examples=25)
@given(
    channels=st.integers(2, 20) | st.sampled_from([24, 32, 36]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    images=st.integers(1, 3),
    stride=st.sampled_from([1, 2]),
    names=st.lists(st.sampled_from(CHAINS), min_size=1, max_size=3),
    low=st.booleans(),
    data=st.data(),
)
def test_outputs_and_all_gradients_are_those_of_the_library(
    channels: int, height: int, width: int, images: int, stride: int, names: list[str], low: bool, data: st.DataObject
) -> None:
    if images * height * width < 8:
        height = 8  # batch norm of a few pixels magnifies every rounding
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    outputs = data.draw(st.integers(1, 3))
    some_edges = st.lists(st.integers(0, outputs - 1), min_size=1, max_size=outputs, unique=True).map(sorted)
    banks = [bank(name, channels, stride, data.draw(some_edges)) for name in names]
    x = torch.randn(images, channels, height, width).requires_grad_()
    size = images, channels, (height - 1) // stride + 1, (width - 1) // stride + 1
    maps = [torch.randn(size).requires_grad_() for _ in range(data.draw(st.integers(0, 2)))]
    mix = torch.rand(len(maps), outputs).requires_grad_()
    based = data.draw(st.lists(st.booleans(), min_size=outputs, max_size=outputs))
    bases = [torch.randn(size).requires_grad_() for b in based if b]
    scales = [torch.rand(len(b.edges)).requires_grad_() for b in banks]
    weights = [w for b in banks for w in b.parameters()]
    inputs = [x, *maps, *([mix] if maps else []), *bases, *scales, *weights]

    positions = iter(range(sum(len(s) for s in scales)))
    chains = tuple(
        Chain(b.kernel, b.dilation, b.stages, tuple(b.edges), tuple(next(positions) for _ in b.edges)) for b in banks
    )
    first = sum(len(s) for s in scales)
    rows = tuple(tuple(first + p * outputs + m for m in range(outputs)) for p in range(len(maps)))
    plan = Plan(chains, stride, tuple(based), rows, low_memory=low)
    found, _ = separable(x, plan, weights, torch.cat([*scales, mix.flatten()]), maps, bases)
    towards = [torch.randn(size) for _ in range(outputs)]
    gradients = torch.autograd.grad(sum((f * t).sum() for f, t in zip(found, towards)), inputs, allow_unused=True)

    exact = [t.detach().double().requires_grad_() for t in inputs]
    given_x, rest = exact[0], iter(exact[1:])
    exact_maps = [next(rest) for _ in maps]
    exact_mix = next(rest) if maps else None
    exact_bases = [next(rest) for _ in bases]
    exact_scales = [next(rest) for _ in scales]
    exact_weights = iter(list(rest))
    started = iter(exact_bases)
    wanted = [next(started) if b else torch.zeros(size, dtype=torch.double) for b in based]
    for m in range(outputs):
        for p, ready in enumerate(exact_maps):
            assert exact_mix is not None
            wanted[m] = wanted[m] + exact_mix[p, m] * ready
    for b, scale in zip(banks, exact_scales):
        mine = [next(exact_weights) for _ in b.parameters()]
        out = b.compute(given_x, given_x.relu(), scale.repeat_interleave(channels), mine)
        for e, piece in zip(b.edges, out.split(channels, 1)):
            wanted[e] = wanted[e] + piece
    expected = torch.autograd.grad(sum((w * t).sum() for w, t in zip(wanted, towards)), exact, allow_unused=True)
    assert all(near(f, w) for f, w in zip(found, wanted))
    for g, w in zip(gradients, expected):
        assert (g is None) == (w is None)
        assert g is None or near(g, w, 2e-3)  # a flipped ReLU moves whole pixels


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", CHAINS)
def test_an_operation_of_a_fixed_network_trains_as_the_library_does(name: str, stride: int) -> None:
    torch.manual_seed(0)
    ours = make(name, 8, stride, affine=True).to(memory_format=torch.channels_last)
    for norm in (m for m in ours.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
    plain = copy.deepcopy(ours).double()
    x = torch.randn(4, 8, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = x.detach().double().requires_grad_()
    for _ in range(2):
        found, wanted = ours(x), plain(y)
        assert "Separable" in type(found.grad_fn).__name__
        assert near(found, wanted)
        towards = torch.randn_like(found)
        gradients = torch.autograd.grad((found * towards).sum(), [x, *ours.parameters()])
        expected = torch.autograd.grad((wanted * towards).sum(), [y, *plain.parameters()])
        assert all(near(g, w, 2e-3) for g, w in zip(gradients, expected))
    for (key, value), other in zip(ours.state_dict().items(), plain.state_dict().values()):
        assert near(value.float(), other), key
    assert near(ours.eval()(x), plain.eval()(y))


def cells(candidates: tuple[str, ...]) -> SpaceSpec:
    edges = complete_edges(2, 3)
    return SpaceSpec(
        "of the test",
        {
            kind: CellSpec(2, 3, edges, tuple(candidates for _ in edges), "concat", stride)
            for kind, stride in (("normal", 1), ("reduce", 2))
        },
    )


OPS = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_5x5")


def drawn(space: SpaceSpec, seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        t: torch.eye(len(OPS))[torch.randint(len(OPS), (c.n_edges,), generator=draw)] for t, c in space.cells.items()
    }


def step(net: Supernet, weights: dict[str, ArchWeights], x: Tensor) -> tuple[Tensor, list[Tensor]]:
    logits = net(x, weights)
    wanted = [w.ops for w in weights.values() if w.ops.requires_grad] + [p for p in net.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(logits.square().sum(), wanted, allow_unused=True)
    return logits, [torch.zeros_like(w) if g is None else g for g, w in zip(gradients, wanted)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["library", "compiled"])
@pytest.mark.parametrize("partial", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_one_hot_weights_run_the_drawn_operations_alone(seed: int, partial: int, dtype: torch.dtype) -> None:
    space = cells(OPS)
    torch.manual_seed(0)
    net = Supernet(space, 8, 3, 3, partial=partial).to(dtype)
    x = torch.randn(4, 3, 8, 8, dtype=dtype)
    samples = {t: s.to(dtype) for t, s in drawn(space, seed).items()}
    edges = {t: torch.rand(c.n_edges, dtype=dtype) for t, c in space.cells.items()}
    dense = {t: ArchWeights(s, edges[t]) for t, s in samples.items()}
    sparse = {t: OneHotWeights(s, edges[t]) for t, s in samples.items()}
    (logits, gradients), (wanted, expected) = step(net, sparse, x), step(net, dense, x)
    assert near(logits, wanted)
    assert all(near(g, w, 2e-3) for g, w in zip(gradients, expected))
    with DispatcherCalls() as few, torch.no_grad():
        net(x, sparse)
    with DispatcherCalls() as many, torch.no_grad():
        net(x, dense)
    assert few.total < many.total or dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["library", "compiled"])
def test_operations_that_were_not_drawn_count_as_added_scalars(dtype: torch.dtype) -> None:
    """GDAS: an edge is h_k o_k(x) + Σ_{j≠k} h_j, so the gradient of a zero is that of the sum of the node."""
    edges = complete_edges(2, 1)
    candidates = (("skip_connect", "sep_conv_3x3"),) * 2
    kinds = (("normal", 1), ("reduce", 2))
    space = SpaceSpec("of the test", {t: CellSpec(2, 1, edges, candidates, "concat", s) for t, s in kinds})
    torch.manual_seed(0)
    net = Supernet(space, 4, 3, 3).to(dtype)
    x = torch.randn(2, 3, 8, 8, dtype=dtype)
    ops = torch.eye(2, dtype=dtype).requires_grad_()
    pair = torch.ones(2, dtype=dtype)

    def loss(normal: ArchWeights) -> Tensor:
        reduce = ArchWeights(torch.eye(2, dtype=dtype), pair)
        total: Tensor = net(x, {"normal": normal, "reduce": reduce}).square().sum()
        return total

    with frozen(net.parameters()):
        (gradient,) = torch.autograd.grad(loss(OneHotWeights(ops, pair)), ops)
    # Edge 0 drew its skip connection and edge 1 its convolution: both other entries move the one node alike.
    assert near(gradient[0, 1], gradient[1, 0], 1e-6)
    assert gradient[0, 1] != 0


def test_low_memory_is_the_same_function_and_keeps_less() -> None:
    space = cells(OPS)
    found = []
    for memory in ("standard", "low"):
        torch.manual_seed(0)
        net = Supernet(space, 8, 3, 3, memory=memory)
        x = torch.randn(4, 3, 8, 8)
        weights = {t: ArchWeights(torch.full((9, 5), 0.2).requires_grad_(), torch.ones(9)) for t in space.cells}
        with SavedBytes(exclude=net.parameters()) as saved:
            kept = net(x, weights)
        total = saved.total
        del kept
        found.append((*step(net, weights, x), total))
    (logits, gradients, much), (same, equal, little) = found
    assert torch.equal(logits, same)
    assert all(torch.equal(a, b) for a, b in zip(gradients, equal))
    assert little < 0.7 * much


def test_dropout_of_skip_connections_is_for_training_alone() -> None:
    space = cells(("skip_connect", "max_pool_3x3"))
    torch.manual_seed(0)
    net = Supernet(space, 4, 3, 3)
    x = torch.randn(4, 3, 8, 8)
    weights = {t: ArchWeights(torch.full((9, 2), 0.5), torch.ones(9)) for t in space.cells}

    def outputs() -> list[Tensor]:
        torch.manual_seed(1)
        return [net(x, weights) for _ in range(2)]

    same, again = outputs()
    assert torch.equal(same, again)
    net.skip_dropout = 0.5
    one, other = outputs()
    assert not torch.equal(one, other)
    assert all(torch.equal(a, b) for a, b in zip((one, other), outputs()))
    net.eval()
    assert torch.equal(outputs()[0], same)


def test_the_number_of_threads_changes_nothing_but_rounding() -> None:
    space = cells(OPS)
    torch.manual_seed(0)
    net = Supernet(space, 8, 3, 3)
    x = torch.randn(5, 3, 8, 8)
    weights = {t: ArchWeights(torch.full((9, 5), 0.2).requires_grad_(), torch.ones(9)) for t in space.cells}
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3, 3):
            torch.set_num_threads(threads)
            found.append(step(net, weights, x))
    finally:
        torch.set_num_threads(before)
    one, three, again = found
    assert all(near(a, b, 1e-4) for a, b in zip((one[0], *one[1]), (three[0], *three[1])))
    assert all(torch.equal(a, b) for a, b in zip((again[0], *again[1]), (three[0], *three[1])))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [1, 3, 4, 8, 12, 16, 20])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 8), (9, 7)])
def test_pools_are_those_of_the_library(channels: int, size: tuple[int, int], stride: int) -> None:
    """Ties as well: the gradient goes to the first of equal pixels; and NaN is larger than all."""
    torch.manual_seed(0)
    x = torch.randn(3, channels, *size).round(decimals=1).contiguous(memory_format=torch.channels_last)
    given = x.requires_grad_()
    for ours, wanted in (
        (max_pool(given, stride), nn.functional.max_pool2d(given, 3, stride, 1)),
        (avg_pool(given, stride), nn.functional.avg_pool2d(given, 3, stride, 1, count_include_pad=False)),
    ):
        towards = torch.randn_like(wanted)
        torch.testing.assert_close(ours, wanted)
        found, expected = (torch.autograd.grad((y * towards).sum(), given)[0] for y in (ours, wanted))
        torch.testing.assert_close(found, expected)
    spoilt = x.detach().clone()
    spoilt[0, 0, 0, 0] = float("nan")
    spoilt[1] = float("-inf")
    wanted = nn.functional.max_pool2d(spoilt, 3, stride, 1)
    torch.testing.assert_close(max_pool(spoilt, stride), wanted, equal_nan=True)


def test_a_single_channel() -> None:
    """Its batch norm undoes every scaling, so the gradients of the weights before it are nothing but rounding."""
    torch.manual_seed(0)
    made = bank("sep_conv_3x3", 1, 1, [0])
    x = torch.randn(2, 1, 8, 8).requires_grad_()
    chain = Chain(made.kernel, made.dilation, made.stages, (0,), (0,))
    scale = torch.rand(1).requires_grad_()
    (found,), _ = separable(x, Plan((chain,), 1), list(made.parameters()), scale)
    exact, weight = x.detach().double().requires_grad_(), scale.detach().double().requires_grad_()
    wanted = made.compute(exact, exact.relu(), weight, [p.double() for p in made.parameters()])
    towards = torch.randn_like(found)
    assert near(found, wanted)
    gradients = torch.autograd.grad((found * towards).sum(), [x, scale])
    expected = torch.autograd.grad((wanted * towards).sum(), [exact, weight])
    assert all(near(g, e, 1e-4) for g, e in zip(gradients, expected))


@settings(max_examples=20)
@given(
    inputs=st.integers(3, 40),  # of one, the gradient of its weight is nothing but rounding
    outputs=st.integers(2, 20),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    reduce=st.booleans(),
    affine=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_projections_are_those_of_the_library(
    inputs: int, outputs: int, height: int, width: int, reduce: bool, affine: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    build = FactorizedReduce(inputs, outputs, affine) if reduce else ReLUConvBN(inputs, outputs, affine)
    with torch.no_grad():
        for parameter in build.bn.parameters():
            parameter.uniform_(0.5, 1.5)
    exact, x = copy.deepcopy(build).double(), torch.randn(24, inputs, 2 * height, 2 * width)
    last = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    given_exact = x.double().requires_grad_()
    with DispatcherCalls() as calls:
        found = build(last)
    assert calls.total < 30 and "_Projected" in type(found.grad_fn).__name__
    wanted = exact(given_exact)
    towards = torch.randn_like(found)
    gradients = torch.autograd.grad((found * towards).sum(), [last, *build.parameters()])
    expected = torch.autograd.grad((wanted * towards).sum(), [given_exact, *exact.parameters()])
    assert near(found, wanted)
    assert all(near(g, e, 2e-3) for g, e in zip(gradients, expected))
    if build.bn.running_mean is not None:
        torch.testing.assert_close(build.bn.running_mean.double(), exact.bn.running_mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(build.bn.running_var.double(), exact.bn.running_var, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("change", ["a frozen norm", "a hook", "a parametrization", "evaluation"])
@pytest.mark.parametrize("build", [lambda: make("sep_conv_3x3", 4, 1, True), lambda: ReLUConvBN(4, 4, True)])
def test_modules_that_ask_for_more_are_the_library_s(build: Callable[[], nn.Module], change: str) -> None:
    """The same outputs and buffers as in NCHW, which the kernels never touch."""
    torch.manual_seed(0)
    module = build()
    seen: list[object] = []
    if change == "a frozen norm":
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eval()
    elif change == "a hook":
        for part in list(module.modules())[1:]:
            part.register_forward_hook(lambda *_: seen.append(None))
    elif change == "a parametrization":
        for part in list(module.modules()):
            if isinstance(part, nn.Conv2d):
                nn.utils.parametrizations.weight_norm(part)
    else:
        module.eval()
    plain, x = copy.deepcopy(module) if change != "a hook" else module, torch.randn(4, 4, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(module(x.contiguous(memory_format=torch.channels_last)), plain(x))
    for name, buffer in module.state_dict().items():
        torch.testing.assert_close(buffer, plain.state_dict()[name])
    if change == "a hook":
        assert len(seen) == 2 * (len(list(module.modules())) - 1)


@pytest.mark.parametrize("name", ["projection", "reduction", "sep_conv_3x3", "dil_conv_5x5"])
def test_a_mean_that_is_large_against_the_spread_costs_no_digits(name: str) -> None:
    """Images that nobody normalised: variances from sums of squares would lose twice as many digits."""
    torch.manual_seed(0)
    module = {"projection": ReLUConvBN, "reduction": FactorizedReduce}.get(name)
    built = make(name, 12, 1, True) if module is None else module(12, 12, True)
    exact, x = copy.deepcopy(built).double(), 300 + torch.randn(4, 12, 16, 16)
    found, wanted = built(x.contiguous(memory_format=torch.channels_last)), exact(x.double())
    border = 0 if module else 4  # beyond which zeros are no outliers
    inner = slice(border, found.shape[2] - border)
    assert near(found[..., inner, inner], wanted[..., inner, inner], 3e-4)
    norms = [m for m in built.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm, other in zip(norms, [m for m in exact.modules() if isinstance(m, nn.BatchNorm2d)]):
        assert near(norm.running_var, other.running_var, 1e-4)


def test_nor_in_a_cell_of_the_supernet() -> None:
    torch.manual_seed(0)
    cell = SuperCell(CellSpec(1, 2, ((0, 1), (0, 2), (1, 2)), ("max_pool_3x3", "sep_conv_3x3")), 12)
    exact, x = copy.deepcopy(cell).double(), 300 + torch.randn(4, 12, 16, 16)
    weights = ArchWeights(torch.rand(3, 2), torch.ones(3))
    found = cell([x.contiguous(memory_format=torch.channels_last)], weights)
    assert near(found, exact([x.double()], ArchWeights(*(part.double() for part in weights))), 1e-4)


@pytest.mark.parametrize("name", ["projection", "reduction", "sep_conv_3x3", "dil_conv_5x5"])
def test_where_an_input_is_not_a_number_all_gradients_are_those_of_the_library(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What skips or clips steps asks which of them are numbers; a ReLU lets the gradient pass at NaN."""
    torch.manual_seed(0)
    module = {"projection": ReLUConvBN, "reduction": FactorizedReduce}.get(name)
    first = make(name, 8, 1, True) if module is None else module(8, 8, True)
    x = torch.randn(2, 8, 8, 8).contiguous(memory_format=torch.channels_last)
    x[0, 0, 0, 0] = float("nan")
    found = []
    for native in ("1", "0"):
        monkeypatch.setenv("TOPOCELL_NATIVE", native)
        built, given_x = copy.deepcopy(first), x.clone(memory_format=torch.preserve_format).requires_grad_()
        built(given_x).sum().backward()
        gradients = [given_x.grad, *(p.grad for p in built.parameters())]
        found.append([g.isnan() for g in gradients if g is not None])
    assert len(found[0]) == len(found[1]) and all(map(torch.equal, *found))
