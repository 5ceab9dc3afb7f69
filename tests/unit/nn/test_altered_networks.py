"""Networks whose modules a user has changed, and networks in surroundings of a user's own, like their plain twins."""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from types import MethodType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.helpers.kernels import needs_kernels
from tests.helpers.twins import (
    EXACT,
    GENOTYPES,
    LOOSE,
    Found,
    Wrapper,
    all_kernels,  # noqa: F401
    check_like_plain,
    convolutions,
    images,
    network,
    step,
)
from torch import Tensor, nn
from torch.ao.quantization import get_default_qat_qconfig_mapping
from torch.ao.quantization.quantize_fx import convert_fx, prepare_qat_fx
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.flop_counter import FlopCounterMode

from topocell import ArchState, CellSpec, SpaceSpec, Supernet, spaces, testing
from topocell.nn.banks import Bank, ConvBank, SepConvBank
from topocell.nn.functional import normalise
from topocell.nn.kernels import cpu
from topocell.nn.kernels.mode import mode
from topocell.nn.modules import REPLACEABLE, FactorizedReduce, ReLUConvBN
from topocell.nn.primitives import PRIMITIVES, Pool, Primitive
from topocell.nn.skeleton import PlacedCell
from topocell.spaces import KNOWN_OPERATIONS
from topocell.supernet import ArchWeights
from topocell.supernet.cell import SuperCell


def norms(net: nn.Module) -> Iterator[Any]:
    return (module for module in list(net.modules()) if isinstance(module, nn.BatchNorm2d))


def exchange(net: nn.Module, kind: type[nn.Module], by: Any) -> None:
    """Put `by(module)` in the place of each module of a kind."""
    for name, child in net.named_children():
        if isinstance(child, kind):
            setattr(net, name, by(child))
        else:
            exchange(child, kind, by)


# Changes to modules


def without_tracking(net: Any, x: Tensor, y: Tensor) -> Found:
    """As in virtual adversarial training."""
    for norm in norms(net):
        norm.track_running_stats = False
    return step(net, x, y)


def without_counting(net: Any, x: Tensor, y: Tensor) -> Found:
    for norm in norms(net):
        norm.num_batches_tracked = None
    return step(net, x, y)


def with_biases(net: Any, x: Tensor, y: Tensor) -> Found:
    for convolution in convolutions(net):
        convolution.bias = nn.Parameter(torch.arange(float(convolution.out_channels)).sin())
    return step(net, x, y)


def with_own_forward(net: Any, x: Tensor, y: Tensor) -> Found:
    """As libraries that place the weights of a network elsewhere do."""
    for convolution in convolutions(net):
        convolution.forward = MethodType(lambda self, x: type(self).forward(self, x) + x.mean(), convolution)
    return step(net, x, y)


def with_own_convolution(net: Any, x: Tensor, y: Tensor) -> Found:
    """As tools do that make images which can be tiled."""
    for conv in convolutions(net):
        conv._conv_forward = MethodType(lambda self, x, w, b: nn.Conv2d._conv_forward(self, x, 1.5 * w, b), conv)
    return step(net, x, y)


class Adapted(nn.Module):
    """A convolution with something small beside it that is trained."""

    def __init__(self, base: nn.Conv2d) -> None:
        super().__init__()
        self.base, self.scale = base, nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) * (1 + self.scale)


def adapted(net: Any, x: Tensor, y: Tensor) -> Found:
    exchange(net, nn.Conv2d, Adapted)
    return step(net, x, y)


def group_norms(net: Any, x: Tensor, y: Tensor) -> Found:
    exchange(net, nn.BatchNorm2d, lambda norm: nn.GroupNorm(4, norm.num_features))
    return step(net, x, y)


def folded(net: Any, x: Tensor, y: Tensor) -> Found:
    """Batch norms into the 1×1 convolutions before them."""
    net.eval()
    for module in list(net.modules()):
        for conv, bn in (("pw1", "bn1"), ("pw2", "bn2"), ("pw", "bn"), ("conv", "bn")):
            if isinstance(getattr(module, bn, None), nn.BatchNorm2d) and hasattr(module, conv):
                setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, bn)))
                setattr(module, bn, nn.Identity())
    return [net(x), net.train()(x)]


def narrowed(net: Any, x: Tensor, y: Tensor) -> Found:
    """Half of the channels inside separable convolutions."""
    for module in net.modules():
        if hasattr(module, "dw2"):
            pw, bn, dw, last = module.pw1, module.bn1, module.dw2, module.pw2
            half = pw.out_channels // 2
            for owner, name in ((pw, "weight"), (bn, "weight"), (bn, "bias"), (dw, "weight")):
                setattr(owner, name, nn.Parameter(getattr(owner, name)[:half].detach().clone()))
            last.weight = nn.Parameter(last.weight[:, :half].detach().clone())
            bn.running_mean, bn.running_var = bn.running_mean[:half].clone(), bn.running_var[:half].clone()
            pw.out_channels = bn.num_features = dw.in_channels = dw.out_channels = dw.groups = last.in_channels = half
    return step(net, x, y)


def circular(net: Any, x: Tensor, y: Tensor) -> Found:
    """Images that can be tiled."""
    for convolution in convolutions(net):
        convolution.padding_mode = "circular"
        convolution._reversed_padding_repeated_twice = [p for p in reversed(convolution.padding) for _ in range(2)]
    return step(net, x, y)


def dilated(net: Any, x: Tensor, y: Tensor) -> Found:
    for convolution in convolutions(net):
        if convolution.groups > 1:
            convolution.dilation = (3, 3)
            convolution.padding = tuple(3 * (k // 2) for k in convolution.kernel_size)
    return step(net, x, y)


# Surroundings


def default_type(net: Any, x: Tensor, y: Tensor) -> Found:
    torch.set_default_dtype(torch.float64)
    try:
        return step(net, x, y)
    finally:
        torch.set_default_dtype(torch.float32)


def default_device(net: Any, x: Tensor, y: Tensor) -> Found:
    with torch.device("meta"):
        return step(net, x, y)


def backward_under_autocast(net: Any, x: Tensor, y: Tensor) -> Found:
    loss = F.cross_entropy(net(x), y)
    with torch.autocast("cpu", torch.bfloat16):
        loss.backward()
    return [p.grad for p in net.parameters() if p.grad is not None]


def batches_of_gradients(net: Any, x: Tensor, y: Tensor) -> Found:
    out = net(x)
    towards = torch.eye(out.shape[1])[:, None].expand(-1, *out.shape)
    found = torch.autograd.grad(out, list(net.parameters()), towards, is_grads_batched=True, allow_unused=True)
    return [*(g for g in found if g is not None), torch.autograd.functional.jacobian(net.double(), x.double())]


def traced_by_dispatch(net: Any, x: Tensor, y: Tensor) -> Found:
    return [make_fx(copy.deepcopy(net))(x)(1.5 * x).detach()]


def quantized(net: Any, x: Tensor, y: Tensor) -> Found:
    prepared = prepare_qat_fx(net, get_default_qat_qconfig_mapping("x86"), (x,))
    prepared(x)
    return [convert_fx(prepared.eval())(x).detach()]


CHANGES: dict[str, Wrapper] = {
    **{f.__name__: f for f in (without_tracking, without_counting, with_biases, with_own_forward, adapted)},
    with_own_convolution.__name__: with_own_convolution,
    **{f.__name__: f for f in (group_norms, folded, narrowed, circular, dilated)},
}
SURROUNDINGS: dict[str, tuple[Wrapper, dict[str, float]]] = {
    **{f.__name__: (f, EXACT) for f in (default_type, default_device, backward_under_autocast, batches_of_gradients)},
    "traced_by_dispatch": (traced_by_dispatch, EXACT),
    "quantized": (quantized, LOOSE),
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("genotype", GENOTYPES)
@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_network_is_like_its_plain_twin(name: str, genotype: str, layout: torch.memory_format) -> None:
    check_like_plain(CHANGES[name], EXACT, network(genotype), layout)


@pytest.mark.parametrize(("owner", "name", "function"), REPLACEABLE, ids=lambda part: getattr(part, "__name__", part))
def test_what_stands_in_the_place_of_a_function_of_pytorch_is_called(
    owner: Any, name: str, function: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As counters of operations, quantizers and others put something there, for all networks."""

    def other(*args: Any, **kwargs: Any) -> Any:
        out = function(*args, **kwargs)
        return out if name == "__call__" and not isinstance(args[0], nn.Conv2d | nn.BatchNorm2d) else 1.25 * out

    def within(net: Any, x: Tensor, y: Tensor) -> Found:
        before = step(copy.deepcopy(net), x, y)
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, other)
            found = step(net, x, y)
        assert any(a.shape != b.shape or not torch.allclose(a, b) for a, b in zip(before, found))
        return found

    net = network("nasbench201" if name == "avg_pool2d" else "mixed")
    check_like_plain(within, EXACT, net, torch.channels_last)


@pytest.mark.parametrize("genotype", ["mixed", "nasbench201"])
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_a_network_in_surroundings_of_a_user_s_own(name: str, genotype: str) -> None:
    check_like_plain(*SURROUNDINGS[name], network(genotype), torch.channels_last)


@pytest.mark.parametrize("genotype", GENOTYPES)
def test_modules_that_learn_are_of_pytorch_s_own_classes(genotype: str) -> None:
    """What counts operations, quantizes or prunes goes by the type of a module, or by its name."""
    learning = [module for module in network(genotype).modules() if any(True for _ in module.parameters(recurse=False))]
    assert {type(module) for module in learning} == {nn.Conv2d, nn.BatchNorm2d, nn.Linear}


def operations_of_a_step(net: Any, x: Tensor, y: Tensor) -> Found:
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(net(x), y).backward()
    return [torch.tensor(counter.get_total_flops())]


@pytest.mark.parametrize("genotype", GENOTYPES)
def test_operations_of_both_passes_are_counted(genotype: str) -> None:
    check_like_plain(operations_of_a_step, EXACT, network(genotype), torch.channels_last)


SINGLE = "Expected more than 1 value per channel"


@pytest.mark.parametrize("genotype", GENOTYPES)
def test_a_single_value_is_refused_by_norms_that_train(genotype: str) -> None:
    x = images(torch.channels_last)[0][:1, :, :4, :4]
    net = network(genotype)
    with pytest.raises(ValueError, match=SINGLE):
        net(x)
    assert net.eval()(x).shape == (1, 5)


def supernet(memory: str = "standard") -> tuple[Supernet, ArchState]:
    torch.manual_seed(0)
    operations = "sep_conv_3x3", "max_pool_3x3", "none"
    normal, reduce = (CellSpec(2, 1, ((0, 2), (1, 2)), (operations,) * 2, stride=s, pool_norm=False) for s in (1, 2))
    space = SpaceSpec("small", {"normal": normal, "reduce": reduce})
    return Supernet(space, 4, 3, 5, memory=memory), ArchState(space, init=1.0)


def test_a_single_value_is_refused_by_a_supernet() -> None:
    net, arch = supernet()
    with pytest.raises(ValueError, match=SINGLE):
        net(torch.randn(1, 3, 4, 4), arch())


@needs_kernels
@pytest.mark.parametrize("memory", ["standard", "low"])
@pytest.mark.parametrize("where", ["autocast", "batches", "type", "device"])
def test_a_supernet_in_surroundings_of_a_user_s_own(where: str, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same gradients with kernels and without."""
    found = []
    for native in ("0", "1"):
        monkeypatch.setenv("TOPOCELL_NATIVE", native)
        net, arch = supernet(memory)
        x, weights = images(torch.channels_last)[0], arch()
        wanted, batched = [*arch.alpha.values(), *net.parameters()], where == "batches"
        torch.set_default_dtype(torch.float64 if where == "type" else torch.float32)
        try:
            with torch.device("meta" if where == "device" else "cpu"):
                out = net(x, weights)
                towards = out.detach().expand(2, *out.shape) if batched else out.detach()
                with torch.autocast("cpu", torch.bfloat16, enabled=where == "autocast"):
                    found.append(torch.autograd.grad(out, wanted, towards, allow_unused=True, is_grads_batched=batched))
        finally:
            torch.set_default_dtype(torch.float32)
    for a, b in zip(*found):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            scale = a.abs().max().clamp_min(1)
            torch.testing.assert_close(b / scale, a / scale, **(LOOSE if where == "autocast" else EXACT))


PARTS = {"placed": (PlacedCell,), "cell": (SuperCell,), "layers": (ReLUConvBN, FactorizedReduce)}


@needs_kernels
@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("kernels", ["plain", "fused"])
@pytest.mark.parametrize("space", ["darts", "nasbench201"])
def test_checkpointed_parts_of_a_supernet_are_computed_again_by_the_same_kernels(
    space: str, kernels: str, parts: tuple[type, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TOPOCELL_NATIVE")
    torch.manual_seed(0)
    spec = spaces.get(space, nodes=2) if space == "darts" else spaces.get(space)
    net, arch = Supernet(spec, 4, 5, 5, kernels=kernels), ArchState(spec, init=1.0)
    x, wanted = images(torch.channels_last)[0], [*arch.alpha.values(), *net.parameters()]
    asked: list[str] = []
    monkeypatch.setattr(cpu, "mode", lambda: asked.append(mode()) or asked[-1])
    found = [torch.autograd.grad(net(x, arch()).square().sum(), wanted, allow_unused=True)]
    apply_activation_checkpointing(net, check_fn=lambda module: isinstance(module, parts))
    found.append(torch.autograd.grad(net(x, arch()).square().sum(), wanted, allow_unused=True))
    assert set(asked) == {kernels}
    for a, b in zip(*found):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b)


class TwiceChain(SepConvBank):
    def compute(self, x: Tensor, active: Tensor, weight: Tensor, tensors: Any) -> Tensor:
        return 2 * super().compute(x, active, weight, tensors)


class TwiceDense(ConvBank):
    def forward(self, x: Tensor, active: Tensor, weight: Tensor, rows: Tensor | None = None) -> Tensor:
        return 2 * super().forward(x, active, weight, rows)


def alone(row: Primitive, monkeypatch: pytest.MonkeyPatch) -> SuperCell:
    """A cell of one edge with one candidate, with the same weights each time."""
    monkeypatch.setitem(PRIMITIVES, "mine", row)
    monkeypatch.setitem(KNOWN_OPERATIONS, "mine", KNOWN_OPERATIONS["max_pool_3x3"])
    torch.manual_seed(0)
    return SuperCell(CellSpec(1, 1, ((0, 1),), (("mine",),)), 8)


def thrice(cell: SuperCell) -> Tensor:
    x = torch.arange(4 * 8 * 36.0).sin().view(4, 8, 6, 6).contiguous(memory_format=torch.channels_last)
    return cell([x], ArchWeights(torch.full((1, 1), 3.0), torch.ones(1)))


def pooled(x: Tensor, stride: int) -> Tensor:
    return F.avg_pool2d(x, 5, stride, 2)


@pytest.mark.parametrize("native", ["0", "1"])
@pytest.mark.parametrize("norm", [False, True], ids=["bare", "normalised"])
def test_a_pool_of_a_user_s_own_is_normalised_where_it_says_so(
    norm: bool, native: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its colour in drawings."""
    monkeypatch.setenv("TOPOCELL_NATIVE", native)
    weightless = Pool(pooled) if norm else lambda x, stride, norm: pooled(x, stride)
    row = Primitive(lambda channels, stride, affine: nn.AvgPool2d(5, stride, 2), weightless=weightless, family="pool")
    testing.check_operation(row)
    identity = thrice(alone(PRIMITIVES["skip_connect"], monkeypatch)) / 3
    expected = 3 * (normalise(pooled(identity, 1)) if norm else pooled(identity, 1))
    torch.testing.assert_close(thrice(alone(row, monkeypatch)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("native", ["0", "1"])
@pytest.mark.parametrize("way", ["class", "method"])
@pytest.mark.parametrize(("name", "kind"), [("sep_conv_3x3", TwiceChain), ("nor_conv_3x3", TwiceDense)])
def test_a_bank_that_computes_otherwise_than_one_with_kernels_is_called(
    name: str, kind: Callable[..., Bank], way: str, native: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOPOCELL_NATIVE", native)
    row = PRIMITIVES[name]
    cell = alone(Primitive(row.module, partial(kind, kernel=3)) if way == "class" else row, monkeypatch)
    if way == "method":
        bank: Any = cell.banks[0]
        bank.compute = lambda *args: 2 * type(bank).compute(bank, *args)
    torch.testing.assert_close(thrice(cell), 2 * thrice(alone(row, monkeypatch)), rtol=1e-4, atol=1e-5)
