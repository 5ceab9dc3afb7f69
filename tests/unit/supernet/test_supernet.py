"""The batched supernet against the plain one, and what a caller may rely on when it is cut down."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.reference.compare import assert_matches, random_weights, repeatable_noise
from tests.helpers.reference.supernet import ReferenceSupernet
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from topocell import ArchState, spaces
from topocell.errors import CheckpointError, SpaceError
from topocell.nn.functional import depthwise, normalise
from topocell.spaces import DARTS_OPERATIONS, OPERATIONS, CellSpec, SpaceSpec, complete_edges
from topocell.supernet import ArchWeights, Branches, Supernet, uniform_weights
from topocell.supernet.cell import SuperCell
from topocell.supernet.learner import frozen

F32, F64 = torch.float32, torch.float64
#: One primitive of each kind: weightless with and without batch norm, separable, dilated, dense.
MIX = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3")
#: Largest difference to the reference, absolute and relative to the largest entry of a tensor.
PRECISION = {F64: 1e-9, F32: 1e-4}
both_precisions = pytest.mark.parametrize("dtype", list(PRECISION), ids=["float64", "float32"])


def random(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


#: What needs no random numbers in a forward pass.
QUIET = tuple(op for op in OPERATIONS if op != "noise")


def darts(nodes: int = 2, candidates: tuple[str, ...] = OPERATIONS) -> SpaceSpec:
    return spaces.get("darts", nodes=nodes, candidates=candidates)


def both_cells(inputs: int, nodes: int, edges: Any, candidates: Any, **options: Any) -> SpaceSpec:
    """A space whose normal and reduction cell differ in their stride only."""
    cells = {
        kind: CellSpec(inputs, nodes, edges, candidates, stride=stride, **options)
        for kind, stride in (("normal", 1), ("reduce", 2))
    }
    return SpaceSpec("of the test", cells)


def supernet(
    space: SpaceSpec, layers: int = 3, channels: int = 4, dtype: torch.dtype = F64, **options: Any
) -> Supernet:
    torch.manual_seed(0)
    return Supernet(space, channels, layers, 3, **options).to(dtype)


def check(
    space: SpaceSpec,
    layers: int = 3,
    channels: int = 4,
    dtype: torch.dtype = F64,
    masks: Mapping[str, Tensor] | None = None,
    net: Supernet | None = None,
    weights: Mapping[str, Any] | None = None,
    x: Tensor | None = None,
    **options: Any,
) -> None:
    """The engine equals a float64 reference: logits, gradients of ops and edges, gradients of every weight.

    A number within rounding of zero may pass a ReLU in float32 and not in float64, which shows in a gradient: of
    three float32 batches one must agree.
    """
    net = supernet(space, layers, channels, dtype, **options) if net is None else net
    reference = ReferenceSupernet(space, channels, layers, 3, **options).double()
    weights = random_weights(space, zero_share=0.1) if weights is None else weights
    tolerance, tries = PRECISION[dtype], 3 if dtype is F32 else 1
    for seed in range(tries):
        batch = random(4, options.get("in_channels", 3), 8, 8, seed=seed) if x is None else x
        try:
            assert_matches(net, reference, space, batch.to(dtype), weights, tolerance, tolerance, masks)
            return
        except AssertionError:
            if seed == tries - 1:
                raise


def count(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


# --- the same function as the reference, with the same derivatives


@both_precisions
def test_a_cell_with_every_primitive(dtype: torch.dtype) -> None:
    check(darts(), dtype=dtype)


@both_precisions
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_primitive_alone(name: str, dtype: torch.dtype) -> None:
    """Three layers are a normal and two reduction cells: edges of stride 1 and of stride 2."""
    check(darts(candidates=(name,)), dtype=dtype)


@pytest.mark.parametrize("nodes", [1, 3, 4, 5, 6])
def test_cells_of_any_number_of_nodes(nodes: int) -> None:
    """The last node takes up to seven inputs, a source feeds up to six edges."""
    check(darts(nodes, ("none", "avg_pool_3x3", "skip_connect", "sep_conv_3x3")))


@pytest.mark.parametrize("layers", [1, 2, 4, 5])
def test_any_number_of_layers(layers: int) -> None:
    check(darts(candidates=MIX), layers)


@pytest.mark.parametrize("options", [{"partial": 2}, {"partial": 4}, {"head": "bn-relu"}, {"in_channels": 1}], ids=str)
@both_precisions
def test_options_of_the_network(options: dict[str, Any], dtype: torch.dtype) -> None:
    check(darts(candidates=MIX), channels=8, dtype=dtype, **options)


def test_the_imagenet_stem() -> None:
    """Three halvings before the first cell, which reduces the first of its inputs: what PC-DARTS and DOTS search in."""
    check(darts(candidates=MIX), 4, stem="imagenet", head="bn-relu", x=random(4, 3, 64, 32))


@pytest.mark.parametrize("partial", [1, 2])
@both_precisions
def test_nasbench201(partial: int, dtype: torch.dtype) -> None:
    check(spaces.get("nasbench201"), 5, dtype=dtype, partial=partial)
    check(spaces.get("nasbench201", nodes=4), 8, 2, dtype, partial=partial)


@st.composite
def user_spaces(draw: st.DrawFn) -> SpaceSpec:
    """Irregular cells: any inputs, edges, output and pool norm; candidate lists differ in length and content."""
    inputs, nodes = draw(st.integers(1, 2)), draw(st.integers(1, 4))
    complete = complete_edges(inputs, nodes)
    edges = {draw(st.sampled_from([e for e in complete if e[1] == node])) for node in range(inputs, inputs + nodes)}
    edges |= draw(st.sets(st.sampled_from(complete), max_size=6))
    names = st.lists(st.sampled_from(OPERATIONS), unique=True, min_size=1, max_size=4)
    candidates = draw(st.lists(names, min_size=len(edges), max_size=len(edges)))
    output = draw(st.sampled_from(["concat", "last"]))
    edges_given = draw(st.permutations(sorted(edges)))
    return both_cells(inputs, nodes, edges_given, candidates, output=output, pool_norm=draw(st.booleans()))


@given(space=user_spaces(), partial=st.sampled_from([1, 2]), layers=st.integers(1, 3), seed=st.integers(0, 2**31))
@settings(max_examples=15)
def test_cells_that_a_user_writes(space: SpaceSpec, partial: int, layers: int, seed: int) -> None:
    check(space, layers, weights=random_weights(space, seed, zero_share=0.3), partial=partial)


@pytest.mark.parametrize("share", [0.6, 1.0])
def test_weights_of_zero(share: float) -> None:
    """Of operations, of whole edges and of all: the gradients of what weighs nothing are right, too."""
    space = darts(candidates=DARTS_OPERATIONS)
    weights = random_weights(space, zero_share=share)
    weights["normal"].edges[[0, 3]] = 0
    check(space, weights=weights)


def test_images_in_any_memory_format() -> None:
    space = darts(candidates=MIX)
    x = random(4, 3, 8, 8)
    check(space, x=x.contiguous(memory_format=torch.channels_last))
    check(space, x=x.transpose(2, 3))
    net, weights = supernet(space), random_weights(space)
    once = net(x, weights)
    assert torch.equal(net(x.contiguous(memory_format=torch.channels_last), weights), once)


def test_entries_that_no_candidate_has_are_not_read() -> None:
    """Beyond an edge's own candidates, and of what has been removed."""
    space = both_cells(1, 2, complete_edges(1, 2), [("skip_connect",), ("avg_pool_3x3", "nor_conv_1x1"), ("none",)])
    net, x, weights = supernet(space), random(2, 3, 8, 8), random_weights(space)
    mask = torch.tensor([[True, False], [False, True], [True, False]])
    net.restrict({"normal": mask, "reduce": mask})
    logits = net(x, weights)
    for w in weights.values():
        w.ops[~mask] = float("inf")
    assert torch.equal(net(x, weights), logits)


def test_batch_norm_takes_the_statistics_of_the_batch_in_training_and_in_evaluation() -> None:
    space = darts(candidates=DARTS_OPERATIONS)
    net, x, weights = supernet(space, head="bn-relu"), random(4, 3, 8, 8), random_weights(space)
    trained = net.train()(x, weights)
    assert torch.equal(net.eval()(x, weights), trained)
    assert not torch.allclose(net(x[:2], weights), trained[:2])
    assert not any("running" in name for name in net.state_dict())


@pytest.mark.parametrize(
    ("space", "layers"),
    [(darts(candidates=QUIET), 6), (darts(candidates=QUIET), 2), (spaces.get("nasbench201"), 8)],
    ids=["darts-6", "darts-2", "nasbench201"],
)
@both_precisions
def test_a_network_goes_on_from_the_first_cell_of_a_type(space: SpaceSpec, layers: int, dtype: torch.dtype) -> None:
    """Two layers are two reduction cells: without a normal cell all lies before the first one."""
    net, x = supernet(space, layers, dtype=dtype), random(4, 3, 8, 8, dtype=dtype)
    weights = random_weights(space, seed=1, dtype=dtype)
    whole = net(x, weights)
    for kind, cell in space.cells.items():
        states = net.prefix(x, weights, kind)
        assert_close(net.suffix(states, weights, kind), whole)
        branches = [weights]
        for edge in range(3):
            cut = weights[kind].ops.clone()
            cut[edge, cell.n_candidates - 1] = 0
            branches.append({**weights, kind: weights[kind]._replace(ops=cut)})
        found = Branches(net)(x, branches, kind)
        assert found.shape == (4, 4, 3)
        for one, alone in zip(found, branches):
            assert_close(one, net(x, alone))


def test_the_first_cells_of_a_supernet_go_on_alike() -> None:
    space = darts(candidates=QUIET)
    net, x, weights = supernet(space, 6), random(4, 3, 8, 8), random_weights(space, seed=1)
    net.skeleton.cells = net.skeleton.cells[:2]  # no reduction cell is left
    net.skeleton.classifier = torch.nn.Identity()
    for kind in space.cells:
        assert_close(net.suffix(net.prefix(x, weights, kind), weights, kind), net(x, weights))


def test_branches_draw_what_a_pass_of_its_own_draws() -> None:
    space = darts(candidates=("noise", "skip_connect"))
    net, x, weights = supernet(space, 4), random(2, 3, 8, 8), random_weights(space, seed=1)
    torch.manual_seed(5)
    found = Branches(net)(x, [weights, weights], "reduce")
    torch.manual_seed(5)
    alone = net(x, weights)
    assert torch.equal(found[0], found[1])
    assert_close(found[0], alone)


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert float((found - expected).detach().abs().max()) <= 0.1 * PRECISION[found.dtype]


def test_noise_is_fresh_on_every_edge_and_every_forward_pass() -> None:
    space = both_cells(2, 1, [(0, 2), (1, 2)], [("noise",), ("noise",)])
    net, x = supernet(space, layers=1), random(2, 3, 8, 8)
    ones = {kind: ArchWeights(torch.ones(2, 1), torch.ones(2)) for kind in space.cells}
    opposed = {kind: ArchWeights(torch.tensor([[1.0], [-1.0]]), torch.ones(2)) for kind in space.cells}
    assert not torch.equal(net(x, ones), net(x, ones))
    with repeatable_noise():  # the same noise on both edges cancels
        assert torch.equal(net(x, opposed), net.skeleton.classifier.bias.expand(2, 3))
    assert not torch.equal(net(x, opposed), net.skeleton.classifier.bias.expand(2, 3))


@given(
    seed=st.integers(0, 2**31),
    stride=st.sampled_from([1, 2]),
    dilation=st.sampled_from([1, 2]),
    kernel=st.sampled_from([1, 3, 5, 7]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
)
@settings(max_examples=25)
def test_the_depthwise_convolution_has_the_gradients_of_the_library(
    seed: int, stride: int, dilation: int, kernel: int, height: int, width: int
) -> None:
    """Of any size: the spatial sizes need not be divisible by the stride."""
    x = random(2, 3, height, width, seed=seed).requires_grad_()
    weight = random(3, 1, kernel, kernel, seed=seed + 1).requires_grad_()
    plain = torch.nn.functional.conv2d(x, weight, None, stride, dilation * (kernel // 2), dilation, 3)
    ours = depthwise(x, weight, stride, dilation)
    torch.testing.assert_close(ours, plain)
    up = random(*plain.shape, seed=seed + 2)
    for got, wanted in zip(*(torch.autograd.grad(out, (x, weight), up) for out in (ours, plain))):
        torch.testing.assert_close(got, wanted)


def test_batch_norm_with_a_weight_is_batch_norm_times_that_weight() -> None:
    x, weight = random(3, 4, 5, 5), random(4, seed=1)
    torch.testing.assert_close(normalise(x, weight), normalise(x) * weight.view(1, 4, 1, 1))
    torch.testing.assert_close(normalise(x).mean((0, 2, 3)), torch.zeros(4, dtype=F64))


# --- removal


def drawn_masks(space: SpaceSpec, seed: int, share: float) -> dict[str, Tensor]:
    """Random candidates stay; some edges, and in every other draw all edges into the last node, go as a whole."""
    g = torch.Generator().manual_seed(seed)
    masks = {}
    for kind, cell in sorted(space.cells.items()):
        live = torch.tensor(cell.live)
        mask = live & (torch.rand(live.shape, generator=g) < share) & (torch.rand(cell.n_edges, 1, generator=g) < 0.8)
        if seed % 2:
            mask[cell.incoming(cell.computed[seed % cell.nodes])] = False
        masks[kind] = mask
    return masks


def test_after_removal_no_buffer_of_a_bank_is_left_over() -> None:
    space = spaces.get("darts", nodes=2)
    net = Supernet(space, 4, 2, 3)
    masks = {name: torch.zeros_like(mask) for name, mask in net.masks().items()}
    for mask in masks.values():
        mask[:, 5] = True
    net.restrict(masks)
    for cell in (m for m in net.modules() if isinstance(m, SuperCell)):
        assert not list(cell.named_buffers())


@given(seed=st.integers(0, 2**31), share=st.floats(0.2, 1.0), partial=st.sampled_from([1, 2]), again=st.booleans())
@settings(max_examples=12)
def test_after_removal_the_rest_is_the_same_function(seed: int, share: float, partial: int, again: bool) -> None:
    space = darts(3, (*MIX, "noise"))
    net = supernet(space, partial=partial)
    masks = drawn_masks(space, seed, share)
    net.restrict(masks)
    if again:  # what the second mask has but the first has not stays gone
        more = drawn_masks(space, seed + 1, share)
        net.restrict({"reduce": more["reduce"]})
        masks["reduce"] = masks["reduce"] & more["reduce"]
    assert all(torch.equal(mask, masks[kind]) for kind, mask in net.masks().items())
    check(space, net=net, masks=masks, partial=partial)


def test_after_removal_in_nasbench201() -> None:
    space = spaces.get("nasbench201")
    net = supernet(space, 5)
    masks = {"cell": torch.rand(6, 5, generator=torch.Generator().manual_seed(1)) < 0.5}
    net.restrict(masks)
    check(space, 5, net=net, masks=masks)


def test_removal_keeps_the_weights_of_what_stays() -> None:
    space = darts(candidates=DARTS_OPERATIONS)
    net = supernet(space)
    before = net.per_edge_state_dict()
    masks = drawn_masks(space, 2, 0.5)
    net.restrict(masks)
    after = net.per_edge_state_dict()
    kinds = [slot.cell_type for slot in net.slots]
    for name, weight in before.items():
        found = re.fullmatch(r"cells\.(\d+)\.edges\.(\d+)\.(\w+)\..*", name)
        if found is None:
            live = True
        else:
            c, e, op = int(found[1]), int(found[2]), found[3]
            live = bool(masks[kinds[c]][e, DARTS_OPERATIONS.index(op)])
        assert (name in after) == live
        if live:
            assert torch.equal(after[name], weight)


def test_removal_removes_parameters() -> None:
    """One sep_conv_3x3 of C channels has 2 (9C + C²) weights, one strided skip connection C²."""
    space = darts(candidates=("skip_connect", "sep_conv_3x3"))
    net = supernet(space, layers=3)  # normal of 4 channels, reductions of 8 and of 16
    everything = count(net)
    mask = torch.ones(5, 2, dtype=torch.bool)
    mask[0, 1] = False
    net.restrict({"normal": mask})
    assert everything - count(net) == 2 * (9 * 4 + 4 * 4)
    mask = torch.ones(5, 2, dtype=torch.bool)
    mask[3, 0] = False  # from node 1 into node 3: stride 2
    net.restrict({"reduce": mask})
    assert everything - count(net) == 2 * (9 * 4 + 4 * 4) + 8 * 8 + 16 * 16
    net.restrict({kind: torch.zeros(5, 2, dtype=torch.bool) for kind in space.cells})
    assert not any("edges" in name for name in net.per_edge_state_dict())
    assert net(random(2, 3, 8, 8), random_weights(space)).isfinite().all()


class Calls(TorchDispatchMode):
    """Counts the calls of each library function, and the multiply-adds of the convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.multiply_adds = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.names[name] += 1
        if name == "convolution":
            self.multiply_adds += out.numel() * args[1][0].numel()
        return out


def calls(net: Supernet, weights: Mapping[str, Any]) -> Calls:
    with Calls() as seen:
        net(random(2, 3, 8, 8), weights).sum().backward()
    return seen


def test_removal_removes_work() -> None:
    """An operation that is gone everywhere costs no call; an edge less makes the calls smaller."""
    space = darts(candidates=("max_pool_3x3", "sep_conv_3x3", "dil_conv_5x5"))
    net, weights = supernet(space), random_weights(space)
    full = calls(net, weights)
    mask = torch.ones(5, 3, dtype=torch.bool)
    mask[0, 1] = False  # another edge from node 0 keeps its sep_conv_3x3
    net.restrict({"normal": mask})
    smaller = calls(net, weights)
    assert smaller.names["convolution"] == full.names["convolution"]
    size, images = 8 * 8, 2
    assert full.multiply_adds - smaller.multiply_adds > images * size * 2 * (9 * 4 + 4 * 4)  # and its input gradients
    mask[:, 2] = False
    net.restrict(dict.fromkeys(space.cells, mask))
    without = calls(net, weights)
    sources = 3  # nodes 0, 1 and 2 of each of 3 cells: 2 convolutions forward, and what is called in backward
    assert without.names["convolution"] <= smaller.names["convolution"] - 3 * sources * 2
    mask[:, 0] = False
    net.restrict(dict.fromkeys(space.cells, mask))
    assert without.names["max_pool2d_with_indices"] == 9
    assert calls(net, weights).names["max_pool2d_with_indices"] == 0


def test_what_restrict_returns_lets_momentum_follow() -> None:
    """Training with sliced momentum after a removal equals training the reference that never had the rest."""
    space = darts(candidates=("skip_connect", "sep_conv_3x3", "dil_conv_3x3"))
    net, x, weights = supernet(space), random(4, 3, 8, 8), random_weights(space)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        net(x, weights).square().sum().backward()
        optimizer.step()

    step()
    step()
    where = {name: (piece.parameter, piece.row) for name, piece in net._pieces().items()}
    momenta = {
        name: (m if row is None else m[row]).clone()
        for name, (p, row) in where.items()
        if (m := optimizer.state[p].get("momentum_buffer")) is not None
    }
    kept = net.restrict(drawn_masks(space, 3, 0.6))
    assert kept
    live = {id(p) for p in net.parameters()}
    for parameter, index in kept:
        assert id(parameter) in live
        assert parameter.grad is None
        buffer = optimizer.state[parameter]["momentum_buffer"][index]
        assert buffer.shape == parameter.shape
        optimizer.state[parameter]["momentum_buffer"] = buffer
    assert len({id(p) for p, _ in kept}) == len(kept)
    after = {
        name: piece.of(optimizer.state[piece.parameter]["momentum_buffer"]) for name, piece in net._pieces().items()
    }
    assert 0 < len(after) < len(momenta)
    for name, momentum in after.items():
        assert torch.equal(momentum, momenta[name]), name
    step()  # the shapes agree


# --- weights by name


def test_the_per_edge_state_goes_round() -> None:
    space = darts(candidates=DARTS_OPERATIONS)
    first, second = supernet(space), supernet(space)
    for p in second.parameters():
        p.data.normal_()
    state = first.per_edge_state_dict()
    second.load_per_edge_state_dict(state)
    x, weights = random(2, 3, 8, 8), random_weights(space)
    assert torch.equal(second(x, weights), first(x, weights))
    assert all(torch.equal(second.per_edge_state_dict()[name], weight) for name, weight in state.items())
    state["classifier.bias"] += 1  # what is handed out is a copy
    assert not torch.equal(first.per_edge_state_dict()["classifier.bias"], state["classifier.bias"])
    assert sum(weight.numel() for weight in state.values()) == count(first)


@pytest.mark.parametrize(
    ("space", "layers"), [(darts(), 3), (spaces.get("nasbench201"), 8)], ids=["darts", "nasbench201"]
)
def test_the_names_and_shapes_are_those_of_the_per_edge_layout(space: SpaceSpec, layers: int) -> None:
    net = supernet(space, layers, head="bn-relu")
    reference = ReferenceSupernet(space, 4, layers, 3, head="bn-relu")
    shapes = {name: weight.shape for name, weight in net.per_edge_state_dict().items()}
    assert shapes == {name: weight.shape for name, weight in reference.state_dict().items()}


def test_states_that_do_not_fit_are_refused_and_change_nothing() -> None:
    space = darts(candidates=("skip_connect", "sep_conv_3x3"))
    net = supernet(space)
    state = net.per_edge_state_dict()
    name = "cells.0.edges.0.sep_conv_3x3.dw1.weight"
    changed = {key: weight + 1 for key, weight in state.items()}
    with pytest.raises(CheckpointError, match=rf"lacks weight '{re.escape(name)}' \(1 in all\)"):
        net.load_per_edge_state_dict({key: weight for key, weight in changed.items() if key != name})
    with pytest.raises(CheckpointError, match=r"has the unexpected weight 'cells\.9' \(1 in all\)"):
        net.load_per_edge_state_dict(changed | {"cells.9": torch.zeros(1)})
    with pytest.raises(
        CheckpointError, match=rf"'{re.escape(name)}' must have shape \(4, 1, 3, 3\), but got \(4, 3, 3\)"
    ):
        net.load_per_edge_state_dict(changed | {name: torch.zeros(4, 3, 3)})
    assert all(torch.equal(weight, state[key]) for key, weight in net.per_edge_state_dict().items())
    net.load_per_edge_state_dict({name: changed[name], "cells.9": torch.zeros(1)}, strict=False)
    loaded = net.per_edge_state_dict()
    assert {key for key in state if not torch.equal(loaded[key], state[key])} == {name}


# --- only the gradients that are needed


def test_the_architecture_step_leaves_the_network_without_gradients_and_the_weight_step_the_architecture() -> None:
    space = darts(candidates=DARTS_OPERATIONS)
    net, x = supernet(space), random(2, 3, 8, 8)
    leaves = {
        kind: ArchWeights(w.ops.requires_grad_(), w.edges.requires_grad_()) for kind, w in random_weights(space).items()
    }
    with frozen(net.parameters()), Calls() as seen:
        net(x, leaves).sum().backward()
    assert all(p.grad is None for p in net.parameters())
    assert all(w.ops.grad is not None and w.edges.grad is not None for w in leaves.values())
    for w in leaves.values():
        w.ops.grad = w.edges.grad = None
    with Calls() as trained:
        net(x, {kind: w.detach() for kind, w in leaves.items()}).sum().backward()
    assert all(w.ops.grad is None and w.edges.grad is None for w in leaves.values())
    assert set(net.per_edge_grad_dict()) == set(net.per_edge_state_dict())
    everything = calls(net, leaves)
    # a frozen network calls for no weight gradient of a depthwise convolution, which has a call of its own
    assert seen.names["convolution_backward"] < trained.names["convolution_backward"]
    assert seen.names.total() < everything.names.total()


# --- counts, uniform weights, errors


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
    """16 channels, 10 classes; the numbers are those of the published code."""
    with torch.device("meta"):
        assert count(Supernet(spaces.get(name, **options), 16, layers, 10)) == parameters


def test_weights_are_drawn_as_the_library_draws_those_of_single_convolutions() -> None:
    """Uniform in ± 1 / sqrt(fan in) for each edge by itself, whatever the number of edges in a bank."""
    net = Supernet(darts(4), 16, 1, 10)
    for name, weight in net.per_edge_state_dict().items():
        if ".edges." in name:
            bound = weight[0].numel() ** -0.5
            assert weight.abs().max() <= bound, name
            assert weight.abs().max() > 0.8 * bound, name


def test_uniform_weights_share_each_edge_among_its_live_candidates() -> None:
    mask = torch.tensor([[True, True, False], [False, False, False], [True, True, True]])
    ops, edges = uniform_weights(3, mask)
    torch.testing.assert_close(ops, torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0], [1 / 3] * 3]))
    assert edges.tolist() == [1, 1, 1]


def test_channels_that_cannot_be_divided_are_refused() -> None:
    with pytest.raises(SpaceError, match=r"divisible by partial=4, .* got channels=6; choose a multiple of 8"):
        supernet(darts(), channels=6, partial=4)
    with pytest.raises(SpaceError, match="even after that where a cell reduces, but got channels=3"):
        SuperCell(darts().cells["reduce"], 3)


def test_odd_channels_are_enough_where_nothing_is_halved() -> None:
    """Three channels, one of them partial, are 6 and 2 in the reduction."""
    check(darts(candidates=MIX), channels=3, partial=3)


@pytest.mark.parametrize(
    ("ops", "edges", "words"),
    [
        ((5, 3), (5,), r"ops of normal has the shape \(5, 2\) of edges and candidates, but got \(5, 3\)"),
        ((1, 2), (5,), r"but got \(1, 2\)"),
        ((5,), (5,), r"but got \(5,\)"),
        ((5, 2), (1,), r"edges of normal has the shape \(5,\)"),
        ((5, 2), (5, 1), r"but got \(5, 1\)"),
    ],
)
def test_weights_of_another_shape_are_refused(ops: tuple[int, ...], edges: tuple[int, ...], words: str) -> None:
    """They would be broadcast or cut, and the numbers wrong."""
    space = spaces.get("darts", nodes=2, candidates=("skip_connect", "avg_pool_3x3"))
    net, x, good = supernet(space, layers=1), random(2, 3, 8, 8), ArchWeights(torch.ones(5, 2), torch.ones(5))
    net(x, {"normal": good, "reduce": good})
    with pytest.raises(SpaceError, match=words):
        net(x, {"normal": ArchWeights(torch.ones(ops), torch.ones(edges)), "reduce": good})
    with pytest.raises(SpaceError, match="reduce has none among normal"):
        net(x, {"normal": good})


def test_what_is_no_weights_is_told() -> None:
    space = spaces.get("darts", nodes=1, candidates=("skip_connect",))
    net, x, arch = supernet(space, layers=1), random(2, 3, 8, 8), ArchState(space)
    for other in (arch, None, tuple(arch().values())):
        with pytest.raises(SpaceError, match=r"takes the weights of each cell type, .*; write net\(images, arch\(\)\)"):
            net(x, other)
    with pytest.raises(SpaceError, match=r"are an ArchWeights\(ops, edges\), but normal has a tuple; make one"):
        net(x, {name: tuple(weights) for name, weights in arch().items()})
