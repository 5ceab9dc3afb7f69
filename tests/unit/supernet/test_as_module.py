"""A supernet as any other module: what hooks set, what is made without weights, what is loaded, what is refused."""

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.nn.utils import parametrize, prune

from topocell import ArchState, FixedNet, Supernet, spaces
from topocell.errors import CheckpointError, SpaceError
from topocell.genotype.published import published
from topocell.nn.banks import Bank, ModuleBank
from topocell.nn.skeleton import PlacedCell
from topocell.runtime.constants import Constants
from topocell.supernet.cell import SuperCell
from topocell.supernet.weights import ArchWeights

SPACES = "darts", "nasbench201"


@pytest.fixture(autouse=True, params=["0", "1"], ids=["plain", "kernels"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPOCELL_NATIVE", request.param)


def supernet(space: str, relaxation: str = "softmax") -> tuple[Supernet, ArchState]:
    torch.manual_seed(0)
    spec = spaces.get(space, nodes=2) if space == "darts" else spaces.get(space)
    return Supernet(spec, 4, 5, 3), ArchState(spec, relaxation, init=1.0)


def images() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(4, 3, 8, 8, generator=draw), torch.arange(4) % 3


def stacked(net: nn.Module) -> Iterator[tuple[Bank, str]]:
    for bank in [module for module in net.modules() if isinstance(module, Bank)]:
        yield from ((bank, name) for name, _ in list(bank.named_parameters(recurse=False)))


def pruned(net: Supernet) -> Callable[[], None]:
    places = list(stacked(net))
    for bank, name in places:
        prune.l1_unstructured(bank, name, 0.4)

    def undo() -> None:
        for bank, name in places:
            prune.remove(bank, name)

    return undo


class Doubled:
    """As offloading and sharding do: before each call a parameter is made anew from what is kept elsewhere."""

    def __init__(self, net: Supernet) -> None:
        self.places = list(stacked(net))
        self.handles = [bank.register_forward_pre_hook(self.make(name)) for bank, name in self.places]

    def make(self, name: str) -> Callable[..., None]:
        def hook(bank: Any, _: Any) -> None:
            setattr(bank, name, 2 * bank.get_parameter(f"{name}_kept"))

        return hook

    def __call__(self) -> None:
        for handle, (bank, name) in zip(self.handles, self.places):
            handle.remove()
            delattr(bank, name)
            kept = bank.get_parameter(f"{name}_kept")
            bank.register_parameter(name, nn.Parameter(2 * kept.detach()))


def made_anew(net: Supernet) -> Callable[[], None]:
    doubled = Doubled(net)
    for bank, name in doubled.places:
        parameter = bank.get_parameter(name)
        delattr(bank, name)
        bank.register_parameter(f"{name}_kept", parameter)
        setattr(bank, name, torch.full_like(parameter, torch.nan))
    return doubled


@pytest.mark.parametrize("relaxation", ["softmax", "gumbel-straight-through"])
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("change", [pruned, made_anew])
def test_parameters_are_those_that_hooks_of_banks_have_set(
    change: Callable[[Supernet], Callable[[], None]], space: str, relaxation: str
) -> None:
    """Also after a step of training, when what was there before the call is of the step before."""
    net, arch = supernet(space, relaxation)
    undo = change(net)
    x, y = images()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(net(x, arch()), y).backward()
        optimizer.step()
    weights = arch()
    logits = net(x, weights)
    undo()
    torch.testing.assert_close(net(x, weights), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("space", SPACES)
def test_a_pruned_supernet_is_restricted_with_its_masks(space: str) -> None:
    net, arch = supernet(space)
    x, _ = images()
    twin = copy.deepcopy(net)
    pruned(twin)()
    pruned(net)
    masks = {name: torch.rand(mask.shape) < 0.6 for name, mask in net.masks().items()}
    for supernet_ in (net, twin):
        supernet_.restrict({name: mask.clone() for name, mask in masks.items()})
    torch.testing.assert_close(net(x, arch()), twin(x, arch()))


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("space", SPACES)
def test_a_supernet_made_without_weights_takes_those_of_another(space: str, assign: bool) -> None:
    net, arch = supernet(space)
    with torch.device("meta"):
        empty, _ = supernet(space)
    if not assign:
        empty.to_empty(device="cpu")
    empty.load_state_dict(net.state_dict(), assign=assign)
    x, _ = images()
    torch.testing.assert_close(empty(x, arch()), net(x, arch()))
    assert all(torch.equal(a, b) for a, b in zip(empty.masks().values(), net.masks().values()))
    restricted = {name: mask.clone() for name, mask in net.masks().items()}
    for mask in restricted.values():
        mask[0, :-1] = False
    for one in (net, empty):
        one.restrict(restricted)
    torch.testing.assert_close(empty(x, arch()), net(x, arch()))


def test_all_tensors_of_a_supernet_are_in_its_state() -> None:
    net, _ = supernet("darts")
    own = [name for name, _ in [*net.named_parameters(), *net.named_buffers()]]
    assert own == list(net.state_dict())


@pytest.mark.parametrize("space", SPACES)
def test_weights_of_other_candidates_are_refused_with_what_to_do(space: str) -> None:
    net, arch = supernet(space)
    x, _ = images()
    for mask in (masks := {name: arch.mask(name).clone() for name in net.space.cells}).values():
        mask[0, :-1] = False
    arch.restrict(masks)
    net.restrict(masks)
    again, state = supernet(space)
    with pytest.raises(CheckpointError, match="remove the same candidates first"):
        again.load_state_dict(net.state_dict())
    state.load_state_dict(arch.state_dict())
    again.restrict({name: state.mask(name) for name in net.space.cells})
    again.load_state_dict(net.state_dict())
    torch.testing.assert_close(again(x, state()), net(x, arch()))


@pytest.mark.parametrize("kind", ["supernet", "network"])
@pytest.mark.parametrize(
    ("given", "step"),
    [
        (torch.zeros(3, 8, 8), r"shape \(3, 8, 8\); write images\[None\]"),
        *[(torch.zeros(shape), r"write images\.view\(N, channels") for shape in ((8, 8), (8,), ())],
        (torch.zeros(2, 5, 3, 8, 8), r"images\.flatten\(0, 1\) for several views"),
        (torch.zeros(2, 8, 8, 3), r"images\.permute\(0, 3, 1, 2\)"),
        ([torch.zeros(3, 8, 8)], r"got a list; make one of it, e\.g\. by torch\.stack"),
        (np.zeros((2, 3, 8, 8)), r"got a ndarray; .* torch\.as_tensor"),
        (None, "got a NoneType"),
    ],
)
def test_what_is_no_batch_of_images_is_told_how_to_become_one(kind: str, given: Any, step: str) -> None:
    net, arch = supernet("darts")
    fixed = FixedNet(published("DARTS_V2").genotype, 4, 3, 5)
    with pytest.raises(SpaceError, match=step):
        net(given, arch()) if kind == "supernet" else fixed(given)


CELL_TYPES: list[Callable[[Supernet, ArchState, str], Any]] = [
    lambda net, arch, name: arch.mask(name),
    lambda net, arch, name: arch.ops(name),
    lambda net, arch, name: arch.edges(name),
    lambda net, arch, name: arch.decided(name),
    lambda net, arch, name: arch.strengths(name),
    lambda net, arch, name: arch.strengths_of_all(name),
    lambda net, arch, name: arch.edge_strengths(name),
    lambda net, arch, name: arch.restrict({name: arch.mask("normal")}),
    lambda net, arch, name: net.restrict({name: arch.mask("normal")}),
    lambda net, arch, name: net.prefix(images()[0], arch(), name),
    lambda net, arch, name: net.suffix(net.prefix(images()[0], arch(), "normal"), arch(), name),
]


@pytest.mark.parametrize("of", CELL_TYPES)
def test_cell_types_that_there_are_not_are_refused(of: Callable[[Supernet, ArchState, str], Any]) -> None:
    net, arch = supernet("darts")
    with pytest.raises(SpaceError, match=r"unknown cell type 'norml' \(did you mean 'normal'\?\); known: normal"):
        of(net, arch, "norml")
    of(net, arch, "normal")


@pytest.mark.parametrize("part", ["supernet", "architecture"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda mask: mask.float(), r"bool tensor of the shape .*, but that of normal is one of float32"),
        (lambda mask: mask.to(torch.int64), "one of int64"),
        (lambda mask: mask[:1], r"one of bool and \(1, "),
        (lambda mask: mask.flatten(), "one of bool and"),
        (lambda mask: "all", "that of normal is none"),
        (lambda mask: None, "that of normal is none"),
    ],
)
def test_masks_of_other_values_and_shapes_are_refused(part: str, change: Any, words: str) -> None:
    net, arch = supernet("darts")
    before, target = arch.mask("normal").clone(), net if part == "supernet" else arch
    with pytest.raises(SpaceError, match=words):
        target.restrict({"normal": change(before)})
    with pytest.raises(SpaceError, match=r"a mapping from cell types to tensors \(E, K\), but got a Tensor"):
        target.restrict(before)  # type: ignore[arg-type]
    assert torch.equal(arch.mask("normal"), before) and torch.equal(net.masks()["normal"], before)


@pytest.mark.parametrize("form", [lambda mask: mask, lambda mask: mask.numpy(), lambda mask: mask.tolist()])
def test_masks_of_every_form_restrict(form: Any) -> None:
    net, arch = supernet("darts")
    mask = arch.mask("normal").clone()
    mask[0, :-1] = False
    net.restrict({"normal": form(mask)})
    arch.restrict({"normal": form(mask)})
    assert torch.equal(net.masks()["normal"], mask) and torch.equal(arch.mask("normal"), mask)


def test_candidates_are_removed_while_the_last_loss_is_alive() -> None:
    """In a loop the name of the loss is, and so is its graph."""
    (net, arch), (x, _) = supernet("darts"), images()
    loss = net(x, arch()).square().mean()
    loss.backward()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    optimizer.step()
    masks = {name: arch.mask(name).clone() for name in net.space.cells}
    for mask in masks.values():
        mask[0, :-1] = False
    optimizer.zero_grad()
    net.restrict(masks)
    arch.restrict(masks)
    again = net(x, arch()).square().mean()
    again.backward()
    assert all(p.grad is None or p.grad.shape == p.shape for p in net.parameters())
    assert sum(p.grad is not None for p in net.parameters()) > 20 and loss.isfinite()


def test_weights_that_are_no_tensors_are_refused() -> None:
    net, arch = supernet("darts")
    arrays = {name: ArchWeights(*(part.detach().numpy() for part in weights)) for name, weights in arch().items()}
    with pytest.raises(SpaceError, match=r"ops of normal is a tensor, but got a ndarray; write torch\.as_tensor"):
        net(images()[0], arrays)


def test_constants_keep_no_tensors_of_a_device_in_copies() -> None:
    constants = Constants(places=torch.arange(3).numpy())
    constants.get("places", torch.zeros(1, device="meta"))
    for other in (copy.deepcopy(constants), pickle.loads(pickle.dumps(constants))):
        assert not other._converted and other.get("places", torch.zeros(1)).tolist() == [0, 1, 2]


def checkpointed(net: Supernet) -> None:
    apply_activation_checkpointing(net, check_fn=lambda module: isinstance(module, SuperCell))


def compiled(net: Supernet) -> None:
    for placed in net.skeleton.cells[:2]:  # a normal and a reduction cell: the compiler takes its time
        placed.cell = torch.compile(placed.cell, backend="eager")


def in_place(net: Supernet) -> None:
    apply_activation_checkpointing(net, check_fn=lambda module: isinstance(module, PlacedCell))


@pytest.mark.parametrize("wrap", [checkpointed, compiled, in_place])
def test_cells_in_wrappers_are_restricted_and_dropped_alike(wrap: Callable[[Supernet], None]) -> None:
    (plain, arch), (net, _), (x, _) = supernet("darts"), supernet("darts"), images()
    wrap(net)
    masks = {name: arch.mask(name).clone() for name in net.space.cells}
    for mask in masks.values():
        mask[:, 4:] = False
    for each in (plain, net):
        each.restrict(masks)
    arch.restrict(masks)
    assert net.structure() == plain.structure() and net.masks().keys() == plain.masks().keys()
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in plain.parameters())
    assert len(net.per_edge_state_dict()) == len(plain.per_edge_state_dict())
    torch.testing.assert_close(net(x, arch()), plain(x, arch()))
    net.drop_path = 0.5
    assert not torch.equal(net(x, arch()), net(x, arch()))


def test_tensors_may_be_swapped_on_conversion() -> None:
    net, arch = supernet("darts")
    before = copy.deepcopy(net.state_dict())
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        net(images()[0], arch()).sum().backward()
        net.float().to("cpu").share_memory()
        assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
        net.zero_grad()
        assert {p.dtype for p in net.double().parameters()} == {torch.float64}
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def test_a_supernet_made_on_meta_is_filled_by_reset_parameters() -> None:
    """As PyTorch fills modules: `to_empty`, then `reset_parameters` of each that has it."""
    spec = spaces.get("darts", nodes=2)
    with torch.device("meta"):
        net, arch = Supernet(spec, 4, 5, 3), ArchState(spec)
    for module in (net.to_empty(device="cpu"), arch.to_empty(device="cpu")):
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data.fill_(float("nan") if tensor.is_floating_point() else 0)
        for part in module.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()  # type: ignore[operator]
        assert all(p.isfinite().all() and p.std() > 0 for p in module.parameters() if p.numel() > 16)
    assert net(images()[0], arch()).isfinite().all()
    fresh = ArchState(spec)
    assert all(torch.equal(arch.mask(name), fresh.mask(name)) for name in spec.cells)


def test_operations_of_a_user_are_reset_by_their_own_parts() -> None:
    bank = ModuleBank(
        lambda c, s, affine: nn.Sequential(nn.Conv2d(c, c, 1), nn.BatchNorm2d(c, affine=affine)), 4, 1, [0, 2]
    )
    before = [tensor.detach().clone() for tensor in bank.tensors()]
    for part in bank.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()  # type: ignore[operator]
    assert all(not torch.equal(old, new) and new.abs().max() <= 0.5 for old, new in zip(before, bank.tensors()))
    assert not torch.equal(*bank.tensors()[0].unbind())


class Squeezed(nn.Module):
    """Norms of one and of two dimensions beside each other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.of_maps = nn.InstanceNorm2d(channels, track_running_stats=True)
        self.of_vectors = nn.BatchNorm1d(channels, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.of_maps(x) * self.of_vectors(x.mean((2, 3))).sigmoid()[:, :, None, None]


def test_norms_of_every_kind_take_the_statistics_of_the_batch_in_a_bank() -> None:
    bank = ModuleBank(lambda channels, stride, affine: Squeezed(channels), 4, 1, [0, 2])
    draw = torch.Generator().manual_seed(0)
    first, other = torch.randn(2, 6, 4, 5, 5, generator=draw)
    weight = torch.ones(8)
    before = bank(first, first.relu(), weight)
    bank(3 * other + 1, other.relu(), weight)
    assert not list(bank.buffers())
    torch.testing.assert_close(bank.eval()(first, first.relu(), weight), before)
    torch.testing.assert_close(before[:, :4], Squeezed(4).train()(first))


@pytest.mark.parametrize("weights", ["state", "expected", "constant"])
def test_symbolic_traces_are_refused_in_words(weights: str) -> None:
    net, arch = supernet("darts")
    constant = {name: ArchWeights(*(part.detach() for part in pair)) for name, pair in arch().items()}

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.arch = net, arch

        def forward(self, x: Tensor) -> Any:
            ways = {"state": self.arch, "expected": self.arch.expected, "constant": lambda: constant}
            return self.net(x, ways[weights]())

    with pytest.raises(SpaceError, match=r"symbolic_trace traces a FixedNet, but no supernet .*; use make_fx"):
        torch.fx.symbolic_trace(Model())


def without_one(state: dict[str, Any]) -> dict[str, Any]:
    name = next(name for name in state if ".banks." in name)
    return {key: value for key, value in state.items() if key != name}


OTHERS: list[Callable[[Supernet], dict[str, Any]]] = [
    lambda net: without_one(net.state_dict()),
    lambda net: {name.replace(".cell.", ".cell._orig_mod."): value for name, value in net.state_dict().items()},
    lambda net: Supernet(spaces.get("darts", nodes=3), 4, 5, 3).state_dict(),
    lambda net: Supernet(net.space, 4, 8, 3).state_dict(),
    lambda net: Supernet(net.space, 8, 5, 3).state_dict(),
    lambda net: {},
    lambda net: FixedNet(published("DARTS_V2").genotype, 4, 5, 3).state_dict(),
    lambda net: {name.replace(".dw1", ".dw1_orig"): value for name, value in net.state_dict().items()},
]


@pytest.mark.parametrize("other", OTHERS)
def test_weights_of_another_network_are_listed_by_pytorch(other: Callable[[Supernet], dict[str, Any]]) -> None:
    """Removing candidates would not help."""
    net, _ = supernet("darts")
    with pytest.raises(RuntimeError, match=r"Error\(s\) in loading state_dict for Supernet"):
        net.load_state_dict(other(net))


def test_weights_that_data_parallel_has_cut_are_told_so() -> None:
    (net, arch), (x, _) = supernet("darts"), images()
    cut = {name: ArchWeights(*(part[:3] for part in weights)) for name, weights in arch().items()}
    with pytest.raises(SpaceError, match=r"but got \(3, 8\); take the weights from an ArchState of the same space"):
        net(x, cut)
    replica = net._replicate_for_data_parallel()
    with pytest.raises(SpaceError, match=r"but got \(3, 8\); DataParallel has cut the weights like images: call the"):
        replica(x, cut)


class Doubling(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def parametrized(bank: Bank, name: str) -> None:
    parametrize.register_parametrization(bank, name, Doubling())


def pruned_at_once(bank: Bank, name: str) -> None:
    prune.identity(bank, name)


@pytest.mark.parametrize("change", [parametrized, pruned_at_once])
@pytest.mark.parametrize("of_a_user", [False, True])
def test_weights_of_edges_keep_their_names_where_one_is_computed(change: Callable[..., None], of_a_user: bool) -> None:
    """What is kept is what it is computed from; all others are as before."""
    if of_a_user:
        bank: Bank = ModuleBank(
            lambda c, s, affine: nn.Sequential(nn.Conv2d(c, 2 * c, 3), nn.BatchNorm2d(2 * c), nn.Conv2d(2 * c, c, 1)),
            4, 1, [0, 2],
        )  # fmt: skip
    else:
        bank = next(bank for bank in supernet("darts")[0].modules() if isinstance(bank, Bank) and 0 in bank.edges)
    before = {part: (parameter.detach().clone(), row) for part, (parameter, row) in bank.pieces(0).items()}
    change(bank, bank._stacked[0])
    found = bank.pieces(0)
    assert list(found) == list(before) and len(before) > 1
    for part, (parameter, row) in found.items():
        assert torch.equal(parameter, before[part][0]) and row == before[part][1]


def test_weights_of_edges_that_are_not_kept_as_such_are_refused() -> None:
    net, _ = supernet("darts")
    made_anew(net)
    with pytest.raises(
        SpaceError, match=r"slices of the parameter 'dw', but it is kept otherwise, in dw_kept, pw_kept"
    ):
        net.per_edge_state_dict()
