"""What works on a network of plain modules works on ours, with the same numbers: a table of wrappers and transforms.

Each wrapper takes a network and images, and returns tensors; ours and its plain twin have to return the same.
"""

import contextlib
import copy
import io
import itertools
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.helpers.golden_genotypes import DARTS_V2
from tests.helpers.reference.supernet import ReferenceSupernet
from tests.helpers.twins import (
    CLASSES,
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
from torch.ao.quantization.quantize_fx import prepare_qat_fx
from torch.func import functional_call, grad, hessian, jvp, vmap
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.feature_extraction import create_feature_extractor

from topocell import ArchState, Supernet, spaces
from topocell.genotype.genotype import CellGenotype, Genotype
from topocell.nn.functional import normalise
from topocell.nn.kernels.cpu import kernels
from topocell.nn.network import FixedNet, drop_samples


def frozen_batch_norm(net: Any, x: Tensor, y: Tensor) -> Found:
    before = [b.clone() for b in net.buffers()]
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    found = step(net, x, y)
    assert all(torch.equal(a, b) for a, b in zip(before, net.buffers()))
    return found


def autocast(net: Any, x: Tensor, y: Tensor) -> Found:
    with torch.autocast(x.device.type, torch.bfloat16):
        loss = F.cross_entropy(net(x), y)
    loss.backward()
    return [loss.detach().float(), *(p.grad for p in net.parameters() if p.grad is not None)]


def second_derivative(net: Any, x: Tensor, y: Tensor) -> Found:
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    loss = F.cross_entropy(net(x), y)
    wanted = [x, *net.parameters()]
    first = torch.autograd.grad(loss, wanted, create_graph=True, allow_unused=True)
    penalty = sum((g.square().sum() for g in first if g is not None), torch.zeros(()))
    return [g for g in torch.autograd.grad(penalty, wanted, allow_unused=True) if g is not None]


def hooks(net: Any, x: Tensor, y: Tensor) -> Found:
    fired: dict[str, int] = {}
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            fired[name] = 0

            def count(*_: Any, name: str = name) -> None:
                fired[name] += 1

            module.register_forward_hook(count)
            module.register_full_backward_hook(count)
    found = step(net, x, y)
    assert set(fired.values()) == {3}  # forward once, backward twice
    return found


def global_hook(net: Any, x: Tensor, y: Tensor) -> Found:
    seen: list[str] = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(type(module).__name__))
    try:
        found = step(net, x, y)
    finally:
        handle.remove()
    return [*found, torch.tensor(sum(name == "BatchNorm2d" for name in seen))]


class Halved(nn.Module):
    """A parametrization."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def parametrized(net: Any, x: Tensor, y: Tensor) -> Found:
    for module in convolutions(net):
        parametrize.register_parametrization(module, "weight", Halved())
    return step(net, x, y)


def weight_norm(net: Any, x: Tensor, y: Tensor) -> Found:
    for module in convolutions(net):
        parametrizations.weight_norm(module)
    return step(net, x, y)


def pruned(net: Any, x: Tensor, y: Tensor) -> Found:
    for module in convolutions(net):
        prune.l1_unstructured(module, "weight", 0.3)
    return step(net, x, y)


def averaged(net: Any, x: Tensor, y: Tensor) -> Found:
    average = AveragedModel(net)
    for _ in range(2):
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(0.9)
        average.update_parameters(net)
    update_bn([(x, y), (x.flip(0), y)], average)
    with torch.no_grad():
        return [average.eval()(x), *(b for b in average.buffers() if b.is_floating_point())]


def traced(net: Any, x: Tensor, y: Tensor) -> Found:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(net.eval(), x), file)
    file.seek(0)
    with torch.no_grad():
        return [torch.jit.load(file)(x), net(x)]


def of_functions(net: Any, x: Tensor, y: Tensor) -> Found:
    net.eval()  # in training, running statistics would change inside the transform, which torch refuses

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(functional_call(net, weights, (x,)), y)

    return list(grad(loss)({name: p.detach() for name, p in net.named_parameters()}).values())


def per_sample(net: Any, x: Tensor, y: Tensor) -> Found:
    net.eval()

    def loss(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(net, weights, (image[None],)), label[None])

    weights = {name: p.detach() for name, p in net.named_parameters()}
    return list(vmap(grad(loss), in_dims=(None, 0, 0))(weights, x, y).values())


def forward_mode(net: Any, x: Tensor, y: Tensor) -> Found:
    return list(jvp(net.eval(), (x,), (torch.ones_like(x),)))


def dual_numbers(net: Any, x: Tensor, y: Tensor) -> Found:
    forward_ad = torch.autograd.forward_ad
    with forward_ad.dual_level():
        out = net.eval()(forward_ad.make_dual(x, torch.ones_like(x)))
        return [part for part in forward_ad.unpack_dual(out) if part is not None]


def copied(net: Any, x: Tensor, y: Tensor) -> Found:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    copies = copy.deepcopy(net), pickle.loads(pickle.dumps(net)), torch.load(file, weights_only=False)
    return [tensor for each in copies for tensor in step(each, x, y)]


def doubled(net: Any, x: Tensor, y: Tensor) -> Found:
    return step(net.double(), x.double(), y)


def halved(net: Any, x: Tensor, y: Tensor) -> Found:
    with torch.no_grad():
        return [net.eval().half()(x.half()).float()]


def in_bfloat16(net: Any, x: Tensor, y: Tensor) -> Found:
    return [tensor.float() for tensor in step(net.bfloat16(), x.bfloat16(), y)]


def other_weights(net: Any, x: Tensor, y: Tensor) -> Found:
    weights = {name: p.detach().double().requires_grad_() for name, p in net.named_parameters()}
    weights |= {name: b.double() for name, b in net.named_buffers() if b.is_floating_point()}
    loss = F.cross_entropy(functional_call(net, weights, (x.double(),)), y)
    loss.backward()
    return [w.grad for w in weights.values() if w.grad is not None]


def meta(net: Any, x: Tensor, y: Tensor) -> Found:
    return [torch.tensor(net.to("meta")(x.to("meta")).shape)]


def symbolic(net: Any, x: Tensor, y: Tensor) -> Found:
    with torch.no_grad():
        return [torch.fx.symbolic_trace(net.eval())(x)]


def exported(net: Any, x: Tensor, y: Tensor) -> Found:
    with torch.no_grad():
        return [torch.export.export(net.eval(), (x,)).module()(x)]


def compiled(net: Any, x: Tensor, y: Tensor) -> Found:
    """Of the plain twin as it is: ours, compiled, has to give what that gives without, in half the time."""
    called = torch.compile(net, backend="aot_eager") if isinstance(net, FixedNet) else net
    loss = F.cross_entropy(called(x), y)
    loss.backward()
    return [loss.detach(), *(p.grad for p in net.parameters() if p.grad is not None)]


def checkpointed(net: Any, x: Tensor, y: Tensor) -> Found:
    net.eval()
    loss = F.cross_entropy(checkpoint(net, x, use_reentrant=False), y)
    loss.backward()
    return [p.grad for p in net.parameters() if p.grad is not None]


def saved_elsewhere(net: Any, x: Tensor, y: Tensor) -> Found:
    with torch.autograd.graph.save_on_cpu():
        return step(net, x, y)


def saved_in_another_layout(net: Any, x: Tensor, y: Tensor) -> Found:
    """As hooks that keep tensors in pinned memory, in files or compressed give them back."""
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().contiguous(), lambda t: t):
        return step(net, x, y)


def anomaly_detection(net: Any, x: Tensor, y: Tensor) -> Found:
    with torch.autograd.detect_anomaly(check_nan=True):
        return step(net, x, y)


def counted(net: Any, x: Tensor, y: Tensor) -> Found:
    with FlopCounterMode(display=False) as counter:  # of the forward pass: gradients of depthwise ones are our own
        net(x)
    return [torch.tensor(counter.get_total_flops())]


def profiled(net: Any, x: Tensor, y: Tensor) -> Found:
    with torch.profiler.profile():
        return step(net, x, y)


def inference(net: Any, x: Tensor, y: Tensor) -> Found:
    with torch.inference_mode():
        return [net(x).clone(), net.eval()(x).clone()]


WRAPPERS: dict[str, tuple[Wrapper, dict[str, float]]] = {
    **{f.__name__: (f, EXACT) for f in (step, frozen_batch_norm, second_derivative, hooks, global_hook, parametrized)},
    **{f.__name__: (f, EXACT) for f in (weight_norm, pruned, averaged, traced, of_functions, per_sample)},
    **{f.__name__: (f, EXACT) for f in (forward_mode, dual_numbers, copied, doubled, other_weights, meta, symbolic)},
    **{f.__name__: (f, EXACT) for f in (exported, compiled, checkpointed, saved_elsewhere, anomaly_detection)},
    "saved_in_another_layout": (saved_in_another_layout, EXACT),
    **{f.__name__: (f, EXACT) for f in (counted, profiled, inference)},
    **{f.__name__: (f, LOOSE) for f in (autocast, halved, in_bfloat16)},
}


LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
#: The compiler takes its time over each operation it meets: all of them are met in the full form alone.
COMPILED = [("mixed", "nhwc"), ("nasbench201", "nchw")]
FULL = os.environ.get("TOPOCELL_FAULTS") == "full"
CASES = [
    case
    for case in itertools.product(WRAPPERS, GENOTYPES, LAYOUTS)
    if FULL or case[0] != "compiled" or case[1:] in COMPILED
]


@pytest.mark.parametrize(("name", "genotype", "layout"), CASES)
def test_a_network_is_like_its_plain_twin(name: str, genotype: str, layout: str) -> None:
    check_like_plain(*WRAPPERS[name], network(genotype), LAYOUTS[layout])


# The supernet


def supernets(space: str, layout: torch.memory_format) -> tuple[Any, Any, ArchState, Tensor, Tensor]:
    """Ours and the one of one module per edge and operation, with the same weights."""
    torch.manual_seed(0)
    spec = spaces.get(space, nodes=2) if space == "darts" else spaces.get(space)
    layers = 5
    theirs = ReferenceSupernet(spec, 4, layers, CLASSES)
    ours = Supernet(spec, 4, layers, CLASSES)
    ours.load_per_edge_state_dict(theirs.state_dict())
    return ours, theirs, ArchState(spec, init=1.0), *images(layout)


@pytest.mark.parametrize("space", ["darts", "nasbench201"])
@pytest.mark.parametrize("memory", ["standard", "low"])
def test_a_supernet_whose_saved_tensors_come_back_in_another_layout(space: str, memory: str) -> None:
    ours, _, arch, x, y = supernets(space, torch.channels_last)
    net = Supernet(ours.space, 4, 5, CLASSES, memory=memory)
    net.load_state_dict(ours.state_dict())
    wanted, found = [*arch.alpha.values(), *net.parameters()], []
    for pack in (lambda t: t, lambda t: t.detach().contiguous()):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss = F.cross_entropy(net(x, arch()), y)
        found.append(torch.autograd.grad(loss, wanted, allow_unused=True))
    for a, b in zip(*found):
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_second_derivatives_by_torch_func_of_a_batch_norm_that_weighs() -> None:
    """How the ends of operations in a supernet are computed; its Hessian in α is of such."""
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 3, 4, 5, 5, generator=draw, dtype=torch.float64)

    def loss(weight: Tensor) -> Tensor:
        return (normalise((x * weight.mean()).tanh(), weight).tanh() * y).sum()

    weight = torch.rand(4, generator=draw, dtype=torch.float64)
    torch.testing.assert_close(hessian(loss)(weight), torch.autograd.functional.hessian(loss, weight))


def weights_of(arch: ArchState) -> dict[str, tuple[Tensor, Tensor]]:
    return {name: (w.ops, w.edges) for name, w in arch().items()}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("space", ["darts", "nasbench201"])
@pytest.mark.parametrize("memory", ["standard", "low"])
def test_second_derivatives_of_a_supernet(space: str, layout: torch.memory_format, memory: str) -> None:
    """Hessian-vector products in α, in the weights and across both, as one module per operation has them."""
    ours, theirs, arch, x, y = supernets(space, layout)
    if memory == "low":
        low = Supernet(ours.space, 4, 5, CLASSES, memory="low")
        low.load_state_dict(ours.state_dict())
        ours = low
    found = []
    for net, weights in ((ours, arch()), (theirs, weights_of(arch))):
        alpha = list(arch.alpha.values())
        loss = F.cross_entropy(net(x, weights), y)
        own = [p for p in net.parameters() if p.requires_grad]
        slopes = torch.autograd.grad(loss, [*alpha, own[0]], create_graph=True, allow_unused=True)
        penalty = sum((s.square().sum() for s in slopes if s is not None), torch.zeros(()))
        stem = own[0]
        found.append(torch.autograd.grad(penalty, [*alpha, stem], allow_unused=True))
    for a, b in zip(*found):
        assert a is not None and b is not None
        torch.testing.assert_close(a / b.abs().max(), b / b.abs().max(), rtol=1e-3, atol=1e-4)


def test_hooks_and_parametrizations_of_banks_are_honoured() -> None:
    ours, _, arch, x, _ = supernets("darts", torch.channels_last)
    fired: list[int] = []
    bank = ours.skeleton.cells[0].cell.banks[0]
    bank.register_forward_hook(lambda *_: fired.append(1))
    whole = ours(x, arch())
    assert fired == [1]
    name = next(name for name, _ in bank.named_parameters())
    parametrize.register_parametrization(bank, name, Halved())
    halved_bank = ours(x, arch())
    parametrize.remove_parametrizations(bank, name, leave_parametrized=False)
    with torch.no_grad():
        getattr(bank, name).div_(2)
    torch.testing.assert_close(halved_bank, ours(x, arch()))
    assert not torch.allclose(halved_bank, whole)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_another_type_are_refused_or_computed_and_never_misread(dtype: torch.dtype) -> None:
    """Kernels read float32; a supernet called with other weights is the library's affair."""
    ours, _, arch, x, _ = supernets("darts", torch.channels_last)
    weights = {name: p.to(dtype) for name, p in ours.named_parameters() if p.dim() > 2}
    with contextlib.suppress(RuntimeError):  # the library refuses products of two types
        out = functional_call(ours, weights, (x, arch()))
        torch.testing.assert_close(out.float(), ours(x, arch()), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("space", ["darts", "nasbench201"])
def test_a_supernet_is_moved_as_other_networks_are(space: str) -> None:
    ours, _, arch, x, y = supernets(space, torch.channels_last)
    wanted = torch.autograd.grad(F.cross_entropy(ours(x, arch()), y), [*ours.parameters()], allow_unused=True)
    values = {name: p.clone() for name, p in ours.state_dict().items()}
    moved = ours.to(memory_format=torch.channels_last)
    for name, value in moved.state_dict().items():
        assert torch.equal(value, values[name])
    found = torch.autograd.grad(F.cross_entropy(moved(x, arch()), y), [*moved.parameters()], allow_unused=True)
    for a, b in zip(found, wanted):
        if b is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert all(p.dtype == torch.float64 and p.is_shared() for p in moved.double().share_memory().parameters())
    assert {name: p.shape for name, p in moved.to("meta").state_dict().items()} == {
        n: p.shape for n, p in values.items()
    }


def test_a_compiled_supernet_warns_of_nothing(recwarn: pytest.WarningsRecorder) -> None:
    """Dynamo warns of functions that remember what they returned; none is to be on the way."""
    torch.manual_seed(0)
    space, (x, _) = spaces.get("darts", nodes=1), images(torch.channels_last)
    ours, arch = Supernet(space, 4, 3, CLASSES), ArchState(space, init=1.0)
    torch._dynamo.reset()
    compiled = torch.compile(ours, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, arch()), ours(x, arch()), rtol=1e-4, atol=1e-5)
    assert not [str(warning.message) for warning in recwarn if "Dynamo" in str(warning.message)]


def test_functions_of_a_supernet() -> None:
    ours, _, arch, x, y = supernets("darts", torch.channels_last)
    fixed = {name: w.detach() for name, w in arch().items()}

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(functional_call(ours, weights, (x, fixed)), y)

    found = grad(loss)({name: p.detach() for name, p in ours.named_parameters()})
    expected = torch.autograd.grad(F.cross_entropy(ours(x, fixed), y), list(ours.parameters()), allow_unused=True)
    for a, b in zip(found.values(), expected):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("space", ["darts", "nasbench201"])
def test_a_supernet_sees_one_image_at_a_time_under_vmap(space: str) -> None:
    """Each with the statistics of its own pixels, and the gradients of each: of ours, and of plain modules."""
    ours, theirs, arch, x, y = supernets(space, torch.channels_last)
    fixed = {name: w.detach() for name, w in arch().items()}
    pairs = {name: (w.ops, w.edges) for name, w in fixed.items()}
    found = []
    for net, weights in ((ours, fixed), (theirs, pairs)):

        def loss(image: Tensor, label: Tensor, net: Any = net, weights: Any = weights) -> Tensor:
            return F.cross_entropy(net(image[None], weights), label[None])

        found.append(vmap(grad(loss))(x, y))
    alone = []
    for image, label in zip(x, y):
        image = image[None].clone().requires_grad_()
        F.cross_entropy(ours(image, fixed), label[None]).backward()
        assert image.grad is not None
        alone.append(image.grad[0])
    for other in (found[1], torch.stack(alone)):
        torch.testing.assert_close(found[0], other, rtol=1e-3, atol=1e-4)


def test_weights_with_and_without_auxiliary_head() -> None:
    torch.manual_seed(0)
    trained = FixedNet(DARTS_V2, 4, 5, CLASSES, auxiliary=True)
    used = FixedNet(DARTS_V2, 4, 5, CLASSES)
    used.load_state_dict(trained.state_dict())
    x, _ = images(torch.channels_last)
    torch.testing.assert_close(used.eval()(x), trained.eval()(x))
    with pytest.raises(RuntimeError, match="auxiliary_head"):
        trained.load_state_dict(used.state_dict())


@pytest.mark.parametrize("size", [16, 28, 32])
def test_an_auxiliary_head_is_traced_without_sizes(size: int) -> None:
    """Extractors of features trace a network in training too, whatever is asked of it later."""
    torch.manual_seed(0)
    net = FixedNet(DARTS_V2, 4, 5, CLASSES, auxiliary=True)
    traced = torch.fx.symbolic_trace(copy.deepcopy(net))
    x = torch.randn(2, 3, size, size)
    for found, expected in zip(traced(x), net(x)):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    outputs = create_feature_extractor(net, {"cells.4": "last"}).eval()(x)
    torch.testing.assert_close(outputs["last"], net.eval().features(x)[0])


TRACERS: dict[str, Callable[[FixedNet, Tensor], Any]] = {
    "symbolic_trace": lambda net, x: torch.fx.symbolic_trace(net),
    "create_feature_extractor": lambda net, x: create_feature_extractor(net, {"classifier": "logits"}),
    "prepare_qat_fx": lambda net, x: prepare_qat_fx(net, get_default_qat_qconfig_mapping("x86"), (x,)),
}


@pytest.mark.parametrize("tracer", TRACERS)
def test_a_network_that_drops_paths_is_traced_and_drops_them_in_training(tracer: str) -> None:
    torch.manual_seed(0)
    net, (x, _) = FixedNet(GENOTYPES["mixed"], 8, 3, CLASSES, drop_path=0.2), images(torch.channels_last)
    wanted, traced = [], TRACERS[tracer](copy.deepcopy(net), x)
    losing = sum(not isinstance(o, nn.Identity) for placed in net.cells for o in placed.cell.operations)
    assert sum(node.target is drop_samples for node in traced.graph.nodes) == losing > 3
    for each in (traced, net):
        torch.manual_seed(0)
        found = each(x)
        wanted.append(found["logits"] if isinstance(found, dict) else found)
    if tracer != "prepare_qat_fx":  # whose numbers are rounded
        torch.testing.assert_close(*wanted, rtol=1e-3, atol=1e-4)
    if tracer == "create_feature_extractor":
        torch.testing.assert_close(traced.eval()(x)["logits"], net.eval()(x))


def test_one_compiled_network_is_for_all_probabilities_to_drop() -> None:
    """The probability is set anew in each epoch; a graph for each of them would soon be too many."""
    torch.manual_seed(0)
    net, graphs = FixedNet(GENOTYPES["mixed"], 8, 2, CLASSES, drop_path=0.1), []
    torch._dynamo.reset()
    compiled = torch.compile(net, backend=lambda graph, _: graphs.append(graph) or graph, fullgraph=True)
    x, _ = images(torch.channels_last)
    for probability in (0.1, 0.2, 0.3, 0.9):
        net.drop_path = probability
        outputs = []
        for each in (compiled, net):
            torch.manual_seed(0)
            outputs.append(each(x))
        torch.testing.assert_close(*outputs, rtol=1e-3, atol=1e-3)
    assert len(graphs) == 1


def test_kernels_are_there_in_these_tests() -> None:
    if kernels(8, torch.zeros(1)) is None:
        pytest.skip("no C compiler: nothing but the library's operations is tested here")


def supernet_of_one_sample() -> tuple[nn.Module, tuple[Any, ...]]:
    space = spaces.get("darts", nodes=2)
    return Supernet(space, 4, 3, CLASSES), (ArchState(space, "gumbel-straight-through")(),)


def of_cells(*nodes: Any, concat: tuple[int, ...]) -> tuple[nn.Module, tuple[Any, ...]]:
    cell = CellGenotype(2, nodes, concat)
    return FixedNet(Genotype("unread", dict.fromkeys(("normal", "reduce"), cell)), 4, 3, CLASSES), ()


#: What docs/how-to/pytorch.md lists: a network, what it takes besides images, and where weights without a gradient are.
UNUSED: dict[str, tuple[Callable[[], tuple[nn.Module, tuple[Any, ...]]], str]] = {
    "nasbench201": (
        lambda: (
            FixedNet(
                Genotype.from_nasbench201("|nor_conv_3x3~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|"),
                *(4, 5, CLASSES),
            ),
            (),
        ),
        ".operations.0.",
    ),
    "an input that is not read": (lambda: of_cells((("sep_conv_3x3", 1),), concat=(2,)), ".preprocess0."),
    "a node that leads nowhere": (
        lambda: of_cells((("sep_conv_3x3", 0),), (("sep_conv_3x3", 0), ("skip_connect", 1)), concat=(3,)),
        ".operations.0.",
    ),
    "a supernet under a sample": (supernet_of_one_sample, ".banks."),
}


@pytest.mark.parametrize("case", UNUSED)
def test_a_network_of_several_processes_with_weights_that_reach_nothing(case: str, tmp_path: Path) -> None:
    """As docs/how-to/pytorch.md says: with `find_unused_parameters` they are no fault."""
    torch.manual_seed(0)
    (plain, given), where = UNUSED[case][0](), UNUSED[case][1]
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        net = nn.parallel.DistributedDataParallel(plain, find_unused_parameters=True)
        x, y = images(torch.channels_last)
        for _ in range(2):
            F.cross_entropy(net(x, *given), y).backward(retain_graph=bool(given))
        careless = nn.parallel.DistributedDataParallel(copy.deepcopy(plain))
        with pytest.raises(RuntimeError, match="find_unused_parameters"):
            for _ in range(2):
                F.cross_entropy(careless(x, *given), y).backward(retain_graph=bool(given))
    finally:
        torch.distributed.destroy_process_group()
    unused = [name for name, p in plain.named_parameters() if p.grad is None]
    assert unused and all(where in name for name in unused)
    torch.manual_seed(0)
    alone, given = UNUSED[case][0]()
    for _ in range(2):
        F.cross_entropy(alone(x, *given), y).backward(retain_graph=bool(given))
    for found, wanted in zip(plain.parameters(), alone.parameters(), strict=True):
        assert (found.grad is None) == (wanted.grad is None)
        if found.grad is not None:
            torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-4, atol=1e-6)
