"""Perturbations of the operation weights: inside the ε-ball, rows that sum to one, losses that do not fall."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.optim import SGD, Adam

from topocell import spaces
from topocell.searching.perturbation import PERTURBATIONS
from topocell.supernet import ArchWeights, OneHotWeights, Supernet
from topocell.supernet.arch_state import ArchState
from topocell.supernet.learner import Batch, Learner

F64 = torch.float64
SPACE = spaces.get("darts", nodes=2, candidates=("none", "skip_connect", "sep_conv_3x3"))
GROUPS = {"name": "grouped-softmax", "groups": [["none", "skip_connect"], ["sep_conv_3x3"]]}
every_perturbation = pytest.mark.parametrize("name", PERTURBATIONS)


def learner(epsilon: float, relaxation: Any = "softmax", init: float = 1.0, seed: int = 0) -> Learner:
    torch.manual_seed(0)
    net = Supernet(SPACE, 4, 2, 3, in_channels=1).double()
    draw = torch.Generator().manual_seed(seed)
    arch = ArchState(SPACE, relaxation, init=init, generator=draw).double()
    arch.restrict(
        {"normal": torch.tensor([[True] * 3, [True, False, True], [False, True, False], [False] * 3, [True] * 3])}
    )
    return Learner(net, arch, SGD(net.parameters(), lr=0.1), Adam(arch.alpha.values()), None, None, epsilon=epsilon)


def batch(seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(4, 1, 8, 8, generator=g, dtype=F64), torch.randint(3, (4,), generator=g)


def perturbed(name: str, of: Learner, seed: int = 0) -> tuple[dict[str, ArchWeights], dict[str, ArchWeights]]:
    """Operation weights before and after."""
    before = {t: w.detach() for t, w in of.arch().items()}
    torch.manual_seed(seed)
    return before, PERTURBATIONS[name](of, before, batch())


def in_ball(origin: Tensor, row: Tensor, epsilon: float) -> bool:
    """Whether a row that was scaled to a sum of one comes from a point of the ε-ball around `origin`, cut to [0, 1]."""
    low, high = (origin - epsilon).clamp(0, 1), (origin + epsilon).clamp(0, 1)
    positive = row > 1e-12
    if (low[~positive] > 1e-9).any():
        return False
    least, most = (low[positive] / row[positive]).max(), (high[positive] / row[positive]).min()
    return bool(least <= most * (1 + 1e-9))


@every_perturbation
@settings(max_examples=8)
@given(epsilon=st.floats(0.01, 1.5), init=st.sampled_from([0.0, 0.5, 3.0, 20.0]), seed=st.integers(0, 1000))
def test_rows_stay_in_the_ball_and_sum_to_one(name: str, epsilon: float, init: float, seed: int) -> None:
    of = learner(epsilon, init=init, seed=seed)
    before, after = perturbed(name, of, seed)
    for kind, (ops, edges) in after.items():
        mask = of.arch.mask(kind)
        assert (ops[~mask] == 0).all()
        assert ((ops >= 0) & (ops <= 1)).all()
        torch.testing.assert_close(ops.sum(1), mask.any(1).double())
        assert all(in_ball(o[m], r[m], epsilon) for o, r, m in zip(before[kind].ops, ops, mask) if m.any())
        assert torch.equal(edges, before[kind].edges)
        assert not isinstance(after[kind], OneHotWeights) and not ops.requires_grad


@every_perturbation
def test_the_size_of_the_perturbation_is_epsilon(name: str) -> None:
    moved = []
    for epsilon in (0.0, 0.01, 0.3):
        before, after = perturbed(name, learner(epsilon))
        moved.append(max(float((after[t].ops - before[t].ops).abs().max()) for t in after))
    assert moved[0] < 1e-15
    assert 0.003 < moved[1] < 0.03
    assert moved[2] > 0.05


@every_perturbation
def test_a_seed_gives_the_same_perturbation_again(name: str) -> None:
    of = learner(0.3)
    first, again, other = (perturbed(name, of, seed)[1] for seed in (1, 1, 2))
    for kind in first:
        assert torch.equal(first[kind].ops, again[kind].ops)
        assert not torch.equal(first[kind].ops, other[kind].ops)


def test_uniform_noise_is_added_before_rows_are_scaled() -> None:
    of = learner(0.2)
    before, after = perturbed("uniform", of, seed=7)
    torch.manual_seed(7)
    for kind in after:
        noise = 0.2 * (2 * torch.rand(5, 3, dtype=F64) - 1)
        rows = (before[kind].ops + noise).clamp(0, 1) * of.arch.mask(kind)
        expected = rows / rows.sum(1, keepdim=True).clamp(min=1e-12)
        torch.testing.assert_close(after[kind].ops[:3], expected[:3])


def test_a_row_that_is_clipped_to_nothing_goes_to_the_largest_of_what_it_was_before_clipping() -> None:
    """By hand: of probabilities (0.6, 0.3, 0.1) less (0.9, 0.4, 0.3) the second is left largest, at -0.1."""
    of = learner(0.0)
    rows = torch.tensor([[-0.3, -0.1, -0.2], [-0.2, 5.0, -0.3], [-0.2, -0.1, -0.3], [-0.1] * 3, [0.0, -0.1, 0.0]])
    given = {t: ArchWeights(rows.double(), torch.ones(5, dtype=F64)) for t in SPACE.cells}
    after = PERTURBATIONS["uniform"](of, given, batch())["normal"].ops
    # the whole row; one of its candidates is not live; only the second is; none is; a tie goes to the first
    assert after.tolist() == [[0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]]


def test_noise_that_clips_a_row_to_nothing_leaves_its_largest() -> None:
    of = learner(2.0, init=0.0)
    with torch.no_grad():
        for alpha in of.arch.alpha.values():
            alpha[:, 2] = 0.1
    met = set()
    for seed in range(40):  # one row of three in eight is below zero everywhere
        _, after = perturbed("uniform", of, seed)
        rows = after["reduce"].ops
        torch.testing.assert_close(rows.sum(1), torch.ones(5, dtype=F64))
        torch.manual_seed(seed)
        torch.rand(5, 3, dtype=F64)  # of the normal cell
        raw = of.arch.ops("reduce").detach() + 2.0 * (2 * torch.rand(5, 3, dtype=F64) - 1)
        nothing = (raw <= 0).all(1)
        wanted = F.one_hot(raw.argmax(1), 3).double()
        assert torch.equal(rows[nothing], wanted[nothing])
        met |= set(raw.argmax(1)[nothing].tolist())
    assert met == {0, 1, 2}  # not only the winner of the probabilities, the third


@every_perturbation
def test_each_group_of_operations_is_perturbed_for_itself(name: str) -> None:
    of = learner(0.3, GROUPS)
    _, after = perturbed(name, of)
    for kind, (ops, _) in after.items():
        for part in of.arch.relaxations[kind].parts(of.arch.mask(kind)):
            torch.testing.assert_close((ops * part).sum(1), part.any(1).double())


# --- the adversary


def loss(of: Learner, weights: dict[str, ArchWeights]) -> float:
    with torch.no_grad():
        return float(F.cross_entropy(of.net(batch()[0], weights), batch()[1]))


@pytest.mark.parametrize("seed", range(4))
def test_the_adversary_never_lowers_the_loss(seed: int) -> None:
    of = learner(0.3, seed=seed)
    before, after = perturbed("adversarial", of, seed)
    _, random = perturbed("uniform", of, seed)
    assert loss(of, after) > loss(of, before)
    assert loss(of, after) > loss(of, random)  # where it starts


def test_an_adversary_that_gains_nothing_changes_nothing() -> None:
    of = learner(0.3)
    of.loss = lambda out, _: 0 * out.sum()
    before, after = perturbed("adversarial", of)
    for kind in before:
        assert torch.equal(after[kind].ops, before[kind].ops)


def test_the_adversary_takes_seven_steps_and_leaves_the_network_as_it_was() -> None:
    of = learner(0.3)
    passes: list[bool] = []
    of.net.register_forward_hook(lambda net, *_: passes.append(net.training))
    weights = {name: p.clone() for name, p in of.net.state_dict().items()}
    perturbed("adversarial", of)
    assert passes == [False] * (7 + 2)  # seven gradients, the loss before and after
    assert of.net.training
    assert all(p.requires_grad and p.grad is None for p in of.net.parameters())
    assert all(torch.equal(p, weights[name]) for name, p in of.net.state_dict().items())
    assert all(alpha.grad is None for alpha in of.arch.alpha.values())
