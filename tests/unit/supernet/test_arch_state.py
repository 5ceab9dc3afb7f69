"""The architecture state: logits in, two tensors per cell type out, and what a checkpoint must keep."""

import copy
import io
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from topocell import spaces
from topocell.errors import RecipeError, SpaceError
from topocell.relaxation import RELAXATIONS
from topocell.spaces import DARTS_OPERATIONS, DARTS_OPERATIONS_WITHOUT_NONE, CellSpec, SpaceSpec, complete_edges
from topocell.supernet import OneHotWeights
from topocell.supernet.arch_state import SCHEDULED, ArchState
from topocell.topology import TOPOLOGIES

GROUPS = [list(DARTS_OPERATIONS[:4]), list(DARTS_OPERATIONS[4:])]
RELAXATION_CHOICES: dict[str, Any] = {
    "softmax": "softmax",
    "grouped-softmax": {"name": "grouped-softmax", "groups": GROUPS},
    "gumbel-softmax": "gumbel-softmax",
    "gumbel-straight-through": "gumbel-straight-through",
    "sigmoid": "sigmoid",
    "dirichlet": "dirichlet",
    "uniform": "uniform",
}
TOPOLOGY_CHOICES: dict[str, Any] = {
    "dense": "dense",
    "edge-softmax": "edge-softmax",
    "edge-sigmoid": "edge-sigmoid",
    "subsets": {"name": "subsets", "view": "target", "norm": "mean", "scale": "none"},
    "fixed": {"name": "fixed", "edges": list(range(14))},
}
GRADIENT_FREE = {"uniform", "dense", "fixed"}

PAIRS = {"name": "subsets", "view": "target", "sizes": 2}
SOURCES = {"name": "subsets", "view": "source", "sizes": 2}


def state(space: SpaceSpec | None = None, *choices: Any, seed: int = 0, **options: Any) -> ArchState:
    draw = torch.Generator().manual_seed(seed)
    return ArchState(space or spaces.get("darts"), *choices, generator=draw, **options)


def uneven() -> SpaceSpec:
    """Edges with one, two and three candidates."""
    lists = [["skip_connect"], ["none", "sep_conv_3x3"], ["max_pool_3x3", "skip_connect", "none"]] + [["noise"]] * 2
    cells = {
        kind: CellSpec(2, 2, complete_edges(2, 2), lists, stride=stride)
        for kind, stride in (("normal", 1), ("reduce", 2))
    }
    return SpaceSpec("uneven", cells)


def test_every_choice_of_the_tables_is_tested() -> None:
    assert set(RELAXATION_CHOICES) == set(RELAXATIONS)
    assert set(TOPOLOGY_CHOICES) == set(TOPOLOGIES)


# --- sizes


@pytest.mark.parametrize(
    ("name", "options", "entries"),
    [
        ("darts", {}, 224),
        ("darts", {"candidates": DARTS_OPERATIONS_WITHOUT_NONE}, 196),
        ("darts", {"candidates": ("skip_connect", "sep_conv_3x3")}, 56),
        ("darts", {"candidates": ("none", "skip_connect", "sep_conv_3x3")}, 84),
        ("darts", {"nodes": 6, "candidates": DARTS_OPERATIONS_WITHOUT_NONE}, 378),
        ("nasbench201", {}, 30),
    ],
)
def test_alpha_has_the_published_numbers_of_entries(name: str, options: dict[str, Any], entries: int) -> None:
    assert sum(alpha.numel() for alpha in state(spaces.get(name, **options)).alpha.values()) == entries


@pytest.mark.parametrize(
    ("nodes", "topology", "entries"),
    [
        (4, PAIRS, 20),
        (4, {**PAIRS, "sizes": "any"}, 56),
        (4, SOURCES, 18),
        (4, {**SOURCES, "sizes": "any"}, 41),
        (5, {**SOURCES, "sizes": "any"}, 88),
        (6, {**SOURCES, "sizes": "any"}, 183),
        (8, {**SOURCES, "sizes": "any"}, 757),
        (4, {**SOURCES, "sizes": "any-or-none"}, 46),
        (6, {**SOURCES, "sizes": "any-or-none"}, 190),
        (4, "edge-softmax", 14),
        (4, "dense", 0),
    ],
)
def test_beta_has_the_published_numbers_of_entries(nodes: int, topology: Any, entries: int) -> None:
    """Per cell type; the stretchable and the arbitrary cells of TopoNAS, the pairs and sets of DOTS."""
    arch = state(spaces.get("darts", nodes=nodes, candidates=("skip_connect",)), "softmax", topology)
    assert {name: beta.numel() for name, beta in arch.beta.items()} == {"normal": entries, "reduce": entries}


@pytest.mark.parametrize("topology", TOPOLOGY_CHOICES.values(), ids=TOPOLOGY_CHOICES)
@pytest.mark.parametrize("relaxation", RELAXATION_CHOICES.values(), ids=RELAXATION_CHOICES)
def test_every_pair_of_choices_gives_the_two_tensors_of_each_cell_type(relaxation: Any, topology: Any) -> None:
    arch = state(None, relaxation, topology)
    torch.manual_seed(0)
    weights = arch()
    assert list(weights) == ["normal", "reduce"]
    torch.manual_seed(0)
    for name, (ops, edges) in weights.items():
        assert (ops.shape, edges.shape) == ((14, 8), (14,))
        assert torch.equal(ops, arch.ops(name))
        assert torch.equal(edges, arch.edges(name))
        assert (ops >= 0).all()
        assert (edges >= 0).all()
        assert isinstance(weights[name], OneHotWeights) == (relaxation == "gumbel-straight-through")
        expected = arch.expected()[name]
        assert torch.equal(expected.edges, edges)
        assert torch.equal(expected.ops, ops) != arch.relaxations[name].sampled
        assert not isinstance(expected, OneHotWeights)


# --- initial values


@pytest.mark.parametrize("candidates", [DARTS_OPERATIONS, DARTS_OPERATIONS_WITHOUT_NONE])
def test_the_initial_weights_are_equal_but_for_a_thousandth(candidates: tuple[str, ...]) -> None:
    """1/8 = .125 or 1/7 = .142857 with a relative spread of 1e-3 (one standard deviation)."""
    ops = torch.cat([w.ops for w in state(spaces.get("darts", candidates=candidates))().values()])
    relative = ops * len(candidates) - 1
    assert relative.abs().max() < 5e-3
    assert 0.8e-3 < relative.std() < 1.2e-3
    assert not torch.equal(ops[:14], ops[14:])  # normal and reduction cell are drawn each for itself


def test_an_init_of_zero_is_exactly_uniform() -> None:
    """DOTS: each of two groups of operations sums to one, each of n incoming edges weighs 1/n."""
    arch = state(None, RELAXATION_CHOICES["grouped-softmax"], TOPOLOGY_CHOICES["subsets"], init=0.0)
    ops, edges = arch()["normal"]
    assert torch.equal(ops, torch.full((14, 8), 0.25))
    n = torch.tensor([2] * 2 + [3] * 3 + [4] * 4 + [5] * 5)
    torch.testing.assert_close(edges, 1 / n)


def test_the_initial_logits_are_a_function_of_the_generator() -> None:
    first, again, other = (state(None, "softmax", PAIRS, seed=s) for s in (0, 0, 1))
    for a, b, c in zip(first.parameters(), again.parameters(), other.parameters()):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
    wide = state(None, "softmax", PAIRS, init=2.0)
    torch.testing.assert_close(wide.alpha["reduce"] / 2.0, first.alpha["reduce"] / 1e-3)


# --- masks


@given(seed=st.integers(0, 2**31), relaxation=st.sampled_from(sorted(RELAXATION_CHOICES)))
@settings(max_examples=20)
def test_what_is_removed_weighs_exactly_nothing(seed: int, relaxation: str) -> None:
    arch = state(None, RELAXATION_CHOICES[relaxation], init=3.0)
    mask = torch.rand(14, 8, generator=torch.Generator().manual_seed(seed)) < 0.5
    arch.restrict({"normal": mask})
    ops, parts = arch.ops("normal"), arch.relaxations["normal"].parts(mask)
    assert not ops[~mask].any()
    for part in parts if arch.relaxations["normal"].normalised else ():
        live = part.any(1).to(ops)
        torch.testing.assert_close((ops * part).sum(1), live)
    assert (arch.expected()["reduce"].ops > 0).all()


def test_removal_is_for_good() -> None:
    arch = state(uneven())
    first = torch.tensor([[True] * 3, [False, True, True], [True, False, True], [True] * 3, [False] * 3])
    arch.restrict({"normal": first})
    arch.restrict({"normal": ~first | torch.tensor([[False], [True], [True], [True], [True]])})
    live = [[False] * 3, [False, True, False], [True, False, True], [True, False, False], [False] * 3]
    assert arch.mask("normal").tolist() == live
    assert arch.retained() == {
        "normal": ((), ("sep_conv_3x3",), ("max_pool_3x3", "none"), ("noise",), ()),
        "reduce": uneven().cells["reduce"].candidates,
    }


def test_edges_with_fewer_candidates_have_padding_that_weighs_nothing() -> None:
    arch = state(uneven(), init=1.0)
    ops = arch.ops("normal")
    assert (ops > 0).tolist() == [list(row) for row in uneven().cells["normal"].live]
    torch.testing.assert_close(ops.sum(1), torch.ones(5))
    ops.square().sum().backward()
    gradient = arch.alpha["normal"].grad
    assert gradient is not None
    assert not gradient[~arch.mask("normal")].any()


# --- gradients


@pytest.mark.parametrize("topology", TOPOLOGY_CHOICES)
@pytest.mark.parametrize("relaxation", RELAXATION_CHOICES)
def test_gradients_reach_the_logits(relaxation: str, topology: str) -> None:
    arch = state(None, RELAXATION_CHOICES[relaxation], TOPOLOGY_CHOICES[topology], init=1.0)
    torch.manual_seed(0)
    loss = sum((w.ops.square().sum() + w.edges.square().sum() for w in arch().values()), torch.zeros(()))
    if not loss.requires_grad:
        assert {relaxation, topology} <= GRADIENT_FREE
        return
    loss.backward()
    for group, choice in ((arch.alpha, relaxation), (arch.beta, topology)):
        for logits in group.values():
            reached = logits.grad is not None and bool(logits.grad.any())
            assert reached == (choice not in GRADIENT_FREE)


def test_the_first_step_of_adam_moves_every_logit_by_the_learning_rate() -> None:
    arch = state(init=1.0)
    before = {name: alpha.detach().clone() for name, alpha in arch.alpha.items()}
    optimizer = torch.optim.Adam(arch.alpha.values(), lr=3e-4, betas=(0.5, 0.999))
    sum((w.ops.square().sum() for w in arch().values()), torch.zeros(())).backward()
    optimizer.step()
    for name, alpha in arch.alpha.items():
        torch.testing.assert_close((alpha - before[name]).abs(), torch.full((14, 8), 3e-4), rtol=1e-2, atol=0)


# --- temperatures


def test_temperatures_sharpen_operations_and_edges_each_for_itself() -> None:
    arch = state(None, "softmax", PAIRS, init=1.0)
    ops, edges = arch()["normal"]
    arch.op_temperature = 0.1
    sharper, same = arch()["normal"]
    assert torch.equal(same, edges)
    torch.testing.assert_close(sharper, torch.softmax(arch.alpha["normal"] / 0.1, 1))
    arch.op_temperature, arch.edge_temperature = 1.0, 0.1
    same, sharper = arch()["normal"]
    assert torch.equal(same, ops)
    assert not torch.equal(sharper, edges)
    topology = arch.topologies["normal"]
    assert torch.equal(sharper, topology.weights(arch.beta["normal"], 0.1))


# --- auxiliary skip connections


@pytest.mark.parametrize("relaxation", RELAXATION_CHOICES)
def test_decisions_read_the_weights_at_temperature_1_in_float64(relaxation: str) -> None:
    """Without samples and auxiliary skips, among live candidates or all; and so the weights of edges."""
    arch = state(None, RELAXATION_CHOICES[relaxation], "edge-softmax", init=1.0)
    mask = torch.ones(14, 8, dtype=torch.bool)
    mask[2, 3:] = mask[5] = False
    arch.restrict({"normal": mask})
    exact = state(None, RELAXATION_CHOICES[relaxation], "edge-softmax").double()
    exact.load_state_dict(arch.state_dict())
    warm = exact.expected()["normal"]
    arch.op_temperature = arch.edge_temperature = 1e-3
    arch.auxiliary_skip = 0.4
    live, whole, edges = arch.strengths("normal"), arch.strengths_of_all("normal"), arch.edge_strengths("normal")
    assert {live.dtype, whole.dtype, edges.dtype} == {torch.float64}
    assert not any(tensor.requires_grad for tensor in (live, whole, edges))
    expected = warm.ops
    if relaxation == "dirichlet":  # its code decides by softmax(α), which ranks the candidates of an edge alike
        expected = torch.softmax(arch.alpha["normal"].double().masked_fill(~mask, -torch.inf), 1).nan_to_num(0.0)
        for row in range(14):
            one, other = expected[row][mask[row]], warm.ops[row][mask[row]]
            assert torch.equal(one.argsort(), other.argsort())
    torch.testing.assert_close(live, expected.detach(), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(edges, warm.edges, rtol=1e-12, atol=0)
    arch.mask("normal").fill_(True)
    torch.testing.assert_close(whole, arch.strengths("normal"), rtol=0, atol=0)


@pytest.mark.parametrize("relaxation", RELAXATION_CHOICES)
def test_an_auxiliary_skip_is_added_to_live_skips_in_what_the_supernet_sees_alone(relaxation: str) -> None:
    arch = state(None, RELAXATION_CHOICES[relaxation], init=1.0)
    mask = torch.ones(14, 8, dtype=torch.bool)
    mask[2, 3] = mask[5] = False  # skip_connect is the fourth candidate
    arch.restrict({"normal": mask})
    expected, found = arch.expected()["normal"].ops, []
    for auxiliary in (0.0, 0.4):
        arch.auxiliary_skip = auxiliary
        torch.manual_seed(0)
        found.append(arch()["normal"])
    difference = torch.zeros(14, 8)
    difference[:, 3] = 0.4
    difference[[2, 5], 3] = 0
    torch.testing.assert_close(found[1].ops - found[0].ops, difference)
    assert torch.equal(arch.expected()["normal"].ops, expected)
    assert not isinstance(found[1], OneHotWeights)


def test_the_auxiliary_skip_survives_in_the_state_dict() -> None:
    arch, other = state(), state(seed=1)
    arch.auxiliary_skip = 0.25
    other.load_state_dict(through_a_file(arch.state_dict()))
    assert other.auxiliary_skip == 0.25


# --- penalty, entropy


def test_the_penalty_of_alpha_is_the_sum_over_the_cell_types() -> None:
    for relaxation in ("sigmoid", "dirichlet"):
        arch = state(None, relaxation, init=1.0)
        each = [r.penalty(arch.alpha[t], arch.mask(t)) for t, r in arch.relaxations.items()]
        torch.testing.assert_close(arch.alpha_penalty(), each[0] + each[1])
        arch.alpha_penalty().backward()
        assert all(alpha.grad is not None and alpha.grad.any() for alpha in arch.alpha.values())
    assert state().alpha_penalty() == 0


def test_entropies_of_sampled_relaxations_are_those_of_their_distributions() -> None:
    for relaxation in ("gumbel-softmax", "gumbel-straight-through", "dirichlet"):
        arch = state(None, relaxation, init=0.0)
        assert arch.alpha_entropy() == pytest.approx({"normal": math.log(8), "reduce": math.log(8)})


def test_the_penalty_is_the_sum_over_the_cell_types() -> None:
    arch = state(None, "softmax", SOURCES, init=0.0)
    with torch.no_grad():
        for name, favour in (("normal", 1.0), ("reduce", 2.0)):
            arch.beta[name][[5, 11]] = favour  # both inputs feed nodes 4 and 5: none feeds node 2
    each = [arch.topologies[t].penalty(arch.beta[t]) for t in ("normal", "reduce")]
    assert 0 < each[0] < each[1]
    torch.testing.assert_close(arch.penalty(), each[0] + each[1])
    arch.penalty().backward()
    assert all(beta.grad is not None and beta.grad.any() for beta in arch.beta.values())
    assert state().penalty() == 0


def test_entropies_in_nats() -> None:
    arch = state(None, "softmax", PAIRS, init=0.0)
    assert arch.alpha_entropy() == pytest.approx({"normal": math.log(8), "reduce": math.log(8)})
    pairs = sum(map(math.log, (3, 6, 10))) / 3  # the first node has one pair only: nothing to choose
    assert arch.beta_entropy() == pytest.approx({"normal": pairs, "reduce": pairs})
    with torch.no_grad():
        arch.alpha["normal"][:, 4] = 50.0
        arch.beta["normal"][[0, 1, 4, 10]] = 50.0
    assert arch.alpha_entropy() == pytest.approx({"normal": 0.0, "reduce": math.log(8)}, abs=1e-6)
    entropy = arch.beta_entropy()
    assert entropy is not None
    assert entropy == pytest.approx({"normal": 0.0, "reduce": pairs}, abs=1e-6)
    arch.edge_temperature = 1e6
    assert arch.beta_entropy() == pytest.approx({"normal": pairs, "reduce": pairs})


def test_entropy_counts_live_candidates_of_undecided_edges_only() -> None:
    arch = state(uneven(), init=0.0)
    expected = (math.log(2) + math.log(3)) / 2
    assert arch.alpha_entropy()["normal"] == pytest.approx(expected)
    mask = arch.mask("normal").clone()
    mask[2, 0] = False
    arch.restrict({"normal": mask})
    assert arch.alpha_entropy()["normal"] == pytest.approx(math.log(2))


@pytest.mark.parametrize("topology", ["dense", TOPOLOGY_CHOICES["fixed"]], ids=["dense", "fixed"])
def test_where_nothing_about_edges_is_learned_there_is_no_entropy(topology: Any) -> None:
    assert state(None, "softmax", topology).beta_entropy() is None


# --- state dict


def through_a_file(saved: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_the_state_dict_keeps_logits_masks_and_temperatures() -> None:
    arch = state(None, "softmax", PAIRS, init=1.0)
    arch.restrict({"reduce": torch.arange(112).view(14, 8) % 3 > 0})
    arch.op_temperature, arch.edge_temperature = 0.01, 2.5
    other = state(None, "softmax", PAIRS, seed=1)
    other.load_state_dict(through_a_file(arch.state_dict()))
    assert (other.op_temperature, other.edge_temperature) == (0.01, 2.5)
    assert other.retained() == arch.retained()
    for (_, first), (_, second) in zip(arch().items(), other().items()):
        assert torch.equal(first.ops, second.ops)
        assert torch.equal(first.edges, second.edges)
    assert {name.split("_")[0] for name, _ in other.named_buffers()} == {"mask"}


@pytest.mark.parametrize(
    "number", [np.linspace(1, 0.5, 3)[2], np.float32(0.5), torch.tensor(0.5), torch.tensor([0.5]), Fraction(1, 2), 0.5]
)
def test_scheduled_numbers_of_every_type_survive_in_the_state_dict(number: Any) -> None:
    """A curve of NumPy gives NumPy's numbers, which `weights_only` refuses to read."""
    arch = state(None, "softmax", PAIRS)
    for name in SCHEDULED:
        setattr(arch, name, number)
    found = through_a_file(arch.state_dict())["_extra_state"]
    assert torch.equal(found.sum(0), torch.full((len(SCHEDULED),), 0.5))
    assert all(isinstance(value, Tensor) for value in arch.state_dict().values())  # as safetensors and averages ask


@pytest.mark.parametrize("numbers", [(0.1, 2e-5, 1 / 3), (1e-9, 1e9, math.pi), (1.0, math.nextafter(1, 2), 0.0)])
def test_scheduled_numbers_are_kept_exactly_in_a_type_that_every_device_knows(numbers: tuple[float, ...]) -> None:
    """Also in averages over the values of state dicts."""
    arch, other = state(None, "softmax", PAIRS), state(None, "softmax", PAIRS)
    for name, number in zip(SCHEDULED, numbers):
        setattr(arch, name, number)
    saved = through_a_file(arch.state_dict())
    assert torch.float64 not in {value.dtype for value in saved.values()}
    other.load_state_dict(saved)
    assert tuple(getattr(other, name) for name in SCHEDULED) == numbers
    halved = {**saved, "_extra_state": 0.5 * saved["_extra_state"]}
    other.load_state_dict(halved)
    assert tuple(getattr(other, name) for name in SCHEDULED) == tuple(number / 2 for number in numbers)


def test_weights_have_the_dtype_of_the_logits() -> None:
    weights: list[Tensor] = [t for w in state(None, "softmax", PAIRS).double()().values() for t in (w.ops, w.edges)]
    assert {w.dtype for w in weights} == {torch.float64}


# --- errors


def test_unknown_choices_are_refused_by_name() -> None:
    with pytest.raises(RecipeError, match=r"unknown relaxation 'sofmax' \(did you mean 'softmax'\?\)"):
        state(None, "sofmax")
    with pytest.raises(RecipeError, match="unknown topology 'subset'"):
        state(None, "softmax", {"name": "subset"})
    with pytest.raises(RecipeError, match="topology 'subsets' has no option 'size'"):
        state(None, "softmax", {"name": "subsets", "size": 2})


def test_scheduled_numbers_are_not_learned() -> None:
    """They would be without a gradient, and nobody would know."""
    arch = state(None, "softmax", PAIRS)
    for name in SCHEDULED:
        with pytest.raises(SpaceError, match=f"{name} is a number without gradients, .* give its value, tensor.item"):
            setattr(arch, name, torch.tensor(0.5, requires_grad=True))


@pytest.mark.parametrize(
    ("init", "rule"), [(-1.0, ""), (math.nan, "a finite number, "), (math.inf, "a finite number, ")]
)
def test_an_init_is_a_standard_deviation(init: float, rule: str) -> None:
    with pytest.raises(SpaceError, match=f"init is {rule}0 or more, but got init={init}"):
        state(None, "softmax", PAIRS, init=init)


class Seen(nn.Module):
    """What a supernet sees, as one tensor."""

    def __init__(self, arch: ArchState) -> None:
        super().__init__()
        self.arch = arch

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.cat([(w.ops * w.edges[:, None]).flatten() for w in self.arch().values()]).sum()


@pytest.mark.parametrize("topology", ["dense", {"name": "subsets", "view": "target", "sizes": 2}])
@pytest.mark.parametrize("strict", [None, False, True], ids=["trace", "export", "strict export"])
def test_a_state_that_was_traced_or_exported_is_as_before(strict: bool | None, topology: Any) -> None:
    """No tensor of a trace stays behind in it."""
    torch.manual_seed(0)
    net, x = Seen(ArchState(spaces.get("darts", nodes=3), "softmax", topology, init=1.0)), torch.ones(2)
    wanted = copy.deepcopy(net)(x).detach()
    if strict is None:
        other: Any = torch.jit.trace(net, x)  # and once more, to compare
    else:
        other = torch.export.export(net, (x,), strict=strict).module()
    assert type(net(x)) is Tensor
    torch.testing.assert_close(net(x).detach(), wanted)
    torch.testing.assert_close(other(x), wanted)
