"""Levels against plain autograd, and the second-order gradient against closed forms."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.reference.levels import f12_case
from tests.helpers.reference.levels import unrolled_gradient as exact_unrolled_gradient
from torch import Tensor, nn
from torch.optim import SGD, Adam

from topocell import spaces
from topocell.relaxation import Sigmoid
from topocell.supernet import ArchWeights, Supernet, levels
from topocell.supernet.arch_state import ArchState
from topocell.supernet.learner import ArchBatch, Batch, Learner, frozen
from topocell.supernet.levels import LEVELS, unrolled_gradient

F64 = torch.float64
PENALTY = 0.7
SPACE = spaces.get("darts", nodes=2, candidates=("skip_connect", "sep_conv_3x3"))


def learner(topology: Any = None, penalty: float = PENALTY, mixed: float = 0.6, lr: float = 0.1) -> Learner:
    """A small supernet in float64 on a topology whose penalty is positive; α and β follow Adam."""
    torch.manual_seed(0)
    net = Supernet(SPACE, 4, 3, 3, in_channels=1).double()
    draw = torch.Generator().manual_seed(0)
    topology = topology or {"name": "subsets", "view": "source", "sizes": "any"}
    arch = ArchState(SPACE, "softmax", topology, init=0.5, generator=draw).double()
    beta = [b for b in arch.beta.values() if b.numel()]
    for b in beta:  # both inputs would rather feed node 3 than node 2
        b.data[[1, 4]] += 2.0
    return Learner(
        net,
        arch,
        SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=3e-4),
        Adam(arch.alpha.values(), lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3),
        Adam(beta, lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3) if beta else None,
        clip=0.5,
        penalty=penalty,
        mixed=mixed,
    )


def batch(seed: int) -> Batch:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(4, 1, 8, 8, generator=g, dtype=F64), torch.randint(3, (4,), generator=g)


def copies(of: Learner) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Weights, α and β as they are now."""
    return tuple(  # type: ignore[return-value]
        [p.detach().clone() for p in group]
        for group in (of.net.parameters(), of.arch.alpha.values(), of.arch.beta.values())
    )


def same(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second))


# --- what moves

CHOSEN = {"alpha": (True, False), "beta": (False, True), "both": (True, True)}


@pytest.mark.parametrize("chosen", CHOSEN)
@pytest.mark.parametrize("level", LEVELS)
def test_each_update_moves_its_own_logits_only(level: str, chosen: str) -> None:
    alpha, beta = CHOSEN[chosen]
    subject = learner()
    w, a, b = copies(subject)
    seen = LEVELS[level](subject, batch(0), [ArchBatch(batch(1), alpha, beta)])
    new_w, new_a, new_b = copies(subject)
    moves = level != "weights"
    assert not any(torch.equal(old, new) for old, new in zip(w, new_w))
    assert same(a, new_a) != (moves and alpha)
    assert same(b, new_b) != (moves and beta)
    assert subject.beta_optimizer is not None
    assert bool(subject.alpha_optimizer.state) == (moves and alpha)
    assert bool(subject.beta_optimizer.state) == (moves and beta)
    assert seen.images == 4
    assert 0 <= int(seen.correct) <= 4
    assert not seen.loss.requires_grad


@pytest.mark.parametrize("level", LEVELS)
def test_without_updates_every_level_is_a_step_of_the_weights(level: str) -> None:
    plain, subject = learner(), learner()
    first = plain.weights_step(batch(0))
    second = LEVELS[level](subject, batch(0), [])
    assert torch.equal(first.loss, second.loss)
    assert all(p.grad is None for p in subject.arch.parameters())
    for a, b in zip(copies(plain), copies(subject)):
        assert same(a, b)


class Mixture(nn.Module):
    """A network of two layers whose outputs are weighted; nothing in it looks at several images together."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 3) for _ in range(2))
        self.idle = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, weights: dict[str, ArchWeights]) -> Tensor:
        shares = sum((w.ops * w.edges.unsqueeze(1)).square().sum(0) for w in weights.values())
        return sum(share * layer(x.flatten(1)).tanh() for share, layer in zip(shares, self.layers))


@pytest.mark.parametrize("relaxation", ["softmax", "gumbel-softmax"])
@pytest.mark.parametrize("level", [name for name in LEVELS if name != "unrolled"])
def test_micro_batches_give_the_updates_of_the_whole_batch(level: str, relaxation: str) -> None:
    """Of four images in parts of 4, 3 + 1 (joined), and 2: weights, α, β and what was seen; penalties count once."""
    ends = []
    for size in (None, 3, 2):
        subject = learner()
        torch.manual_seed(1)
        net = Mixture().double()
        arch = ArchState(SPACE, relaxation, {"name": "subsets", "view": "source", "sizes": "any"}, init=0.5).double()
        optimizers = SGD(net.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1), Adam(arch.alpha.values())
        subject = replace(
            subject,
            net=net,  # type: ignore[arg-type]
            arch=arch,
            weights_optimizer=optimizers[0],
            alpha_optimizer=optimizers[1],
            beta_optimizer=Adam(arch.beta.values()),
            micro_batch=size,
        )
        torch.manual_seed(2)  # of the samples
        seen = LEVELS[level](subject, batch(0), [ArchBatch(batch(1), True, True)])
        ends.append([seen.loss, seen.correct, *(t for group in copies(subject) for t in group)])
        assert seen.images == 4 and net.idle.item() == 1  # what has no gradient does not decay
    for other in ends[1:]:
        for first, second in zip(ends[0], other, strict=True):
            torch.testing.assert_close(second.double(), first.double(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("level", LEVELS)
def test_a_topology_without_logits_needs_no_optimizer(level: str) -> None:
    subject = learner(topology="dense")
    assert subject.beta_optimizer is None
    _, before, _ = copies(subject)
    LEVELS[level](subject, batch(0), [ArchBatch(batch(1), True, True)])
    assert same(copies(subject)[1], before) == (level == "weights")


def test_gradients_are_needed_again_after_the_network_was_frozen() -> None:
    net = learner().net
    held = next(net.parameters())
    held.requires_grad_(False)
    with pytest.raises(ValueError, match="inside"), frozen(net.parameters()):
        assert not any(p.requires_grad for p in net.parameters())
        raise ValueError("inside")
    assert [p.requires_grad for p in net.parameters()] == [p is not held for p in net.parameters()]


# --- the same steps by hand


def move(
    optimizer: torch.optim.Optimizer | None, parameters: Sequence[nn.Parameter], gradient: Sequence[Tensor]
) -> None:
    assert optimizer is not None
    optimizer.zero_grad()
    for p, g in zip(parameters, gradient):
        p.grad = g
    optimizer.step()


def logits(of: Learner, alpha: bool, beta: bool) -> list[nn.Parameter]:
    return [*(of.arch.alpha.values() if alpha else ()), *(of.arch.beta.values() if beta else ())]


def gradient(of: Learner, data: Batch, parameters: Sequence[nn.Parameter], penalised: bool) -> list[Tensor]:
    loss = F.cross_entropy(of.net(data[0], of.arch()), data[1])
    if penalised:
        loss = loss + of.penalty * of.arch.penalty()
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters)]


def move_arch(of: Learner, update: ArchBatch, found: Sequence[Tensor]) -> None:
    split = len(logits(of, update.alpha, False))
    if update.alpha:
        move(of.alpha_optimizer, logits(of, True, False), found[:split])
    if update.beta:
        move(of.beta_optimizer, logits(of, False, True), found[split:])


def move_weights(of: Learner, train: Batch) -> None:
    parameters = list(of.net.parameters())
    found = gradient(of, train, parameters, penalised=False)
    norm = torch.cat([g.flatten() for g in found]).norm()
    assert of.clip is not None
    assert norm > of.clip
    move(of.weights_optimizer, parameters, [g * (of.clip / (norm + 1e-6)) for g in found])  # as torch clips


def by_hand_single(of: Learner, train: Batch, updates: Sequence[ArchBatch]) -> None:
    chosen = ArchBatch(train, any(u.alpha for u in updates), any(u.beta for u in updates))
    found = gradient(of, train, logits(of, chosen.alpha, chosen.beta), chosen.beta)
    move_weights(of, train)
    move_arch(of, chosen, found)


def by_hand_bilevel(of: Learner, train: Batch, updates: Sequence[ArchBatch]) -> None:
    for u in updates:
        move_arch(of, u, gradient(of, u.batch, logits(of, u.alpha, u.beta), u.beta))
    move_weights(of, train)


def by_hand_weights_first(of: Learner, train: Batch, updates: Sequence[ArchBatch]) -> None:
    move_weights(of, train)
    for u in updates:
        move_arch(of, u, gradient(of, u.batch, logits(of, u.alpha, u.beta), u.beta))


def by_hand_mixed(of: Learner, train: Batch, updates: Sequence[ArchBatch]) -> None:
    move_weights(of, train)
    for u in updates:
        parameters = logits(of, u.alpha, u.beta)
        on_val = gradient(of, u.batch, parameters, u.beta)
        on_train = gradient(of, train, parameters, penalised=False)
        move_arch(of, u, [v + of.mixed * t for v, t in zip(on_val, on_train)])


BY_HAND: dict[str, Callable[[Learner, Batch, Sequence[ArchBatch]], None]] = {
    "single": by_hand_single,
    "bilevel": by_hand_bilevel,
    "bilevel-weights-first": by_hand_weights_first,
    "mixed": by_hand_mixed,
}


@pytest.mark.parametrize("alternate", [False, True], ids=["joint", "alternate"])
@pytest.mark.parametrize("level", BY_HAND)
def test_two_steps_equal_plain_autograd(level: str, alternate: bool) -> None:
    """With momentum and the moments of Adam from the first step, clipping and the penalty."""
    ours, plain = learner(), learner()
    for step in (0, 10):
        updates = (
            [ArchBatch(batch(step + 1), True, False), ArchBatch(batch(step + 2), False, True)]
            if alternate
            else [ArchBatch(batch(step + 1), True, True)]
        )
        LEVELS[level](ours, batch(step), updates)
        BY_HAND[level](plain, batch(step), updates)
    for a, b in zip(copies(ours), copies(plain)):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_no_clipping_where_none_is_asked_for() -> None:
    norms = []
    for clip in (0.5, None):
        subject = learner()
        subject.clip = clip
        subject.weights_step(batch(0))
        norms.append(
            torch.cat([p.grad.flatten() for p in subject.net.parameters() if p.grad is not None]).norm().item()
        )
    assert norms[0] == pytest.approx(0.5, rel=1e-4)
    assert norms[1] > 0.6


def passes(level: str, mixed: float = 0.6, updates: int = 2) -> int:
    """Forward passes of the network in one step."""
    subject = learner(mixed=mixed)
    seen: list[int] = []
    subject.net.register_forward_hook(lambda *_: seen.append(1))
    LEVELS[level](subject, batch(0), [ArchBatch(batch(1), i == 0, i == 1) for i in range(updates)])
    return len(seen)


def test_no_level_takes_more_passes_than_it_needs() -> None:
    assert passes("weights") == 1
    assert passes("single") == 1
    assert passes("bilevel") == 2 + 1
    assert passes("bilevel-weights-first") == 1 + 2
    assert passes("unrolled") == 2 * 4 + 1
    assert passes("mixed") == 1 + 2 * 2
    assert passes("mixed", mixed=0.0) == 1 + 2


# --- the penalty


@pytest.mark.parametrize("level", sorted(set(LEVELS) - {"weights"}))
@pytest.mark.parametrize("chosen", CHOSEN)
def test_the_penalty_enters_beta_exactly_once(level: str, chosen: str) -> None:
    """α and β follow plain gradient descent of rate 1 here: how far they move is the gradient."""
    alpha, beta = CHOSEN[chosen]
    moved = {}
    for penalty in (0.0, PENALTY):
        subject = learner(penalty=penalty)
        subject.alpha_optimizer = SGD(subject.arch.alpha.values(), lr=1.0)  # type: ignore[assignment]
        subject.beta_optimizer = SGD(subject.arch.beta.values(), lr=1.0)  # type: ignore[assignment]
        expected = torch.autograd.grad(subject.arch.penalty(), list(subject.arch.beta.values()))
        LEVELS[level](subject, batch(0), [ArchBatch(batch(1), alpha, beta)])
        moved[penalty] = copies(subject)
    assert all(r.any() for r in expected)
    assert same(moved[0.0][1], moved[PENALTY][1])
    for without, with_penalty, r in zip(moved[0.0][2], moved[PENALTY][2], expected):
        torch.testing.assert_close(without - with_penalty, PENALTY * beta * r, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("level", sorted(set(LEVELS) - {"weights"}))
@pytest.mark.parametrize("chosen", CHOSEN)
def test_the_penalty_of_the_relaxation_enters_alpha_exactly_once(level: str, chosen: str) -> None:
    alpha, beta = CHOSEN[chosen]
    moved = {}
    for penalty in (0.0, 5.0):
        subject = learner()
        subject.alpha_penalty = penalty
        subject.arch.relaxations = {t: Sigmoid(cell) for t, cell in SPACE.cells.items()}  # type: ignore[assignment]
        subject.alpha_optimizer = SGD(subject.arch.alpha.values(), lr=1.0)  # type: ignore[assignment]
        expected = torch.autograd.grad(subject.arch.alpha_penalty(), list(subject.arch.alpha.values()))
        LEVELS[level](subject, batch(0), [ArchBatch(batch(1), alpha, beta)])
        moved[penalty] = copies(subject)
    assert all(r.any() for r in expected)
    assert same(moved[0.0][2], moved[5.0][2])
    for without, with_penalty, r in zip(moved[0.0][1], moved[5.0][1], expected):
        torch.testing.assert_close(without - with_penalty, 5.0 * alpha * r, rtol=1e-8, atol=1e-12)


def test_the_gradient_of_the_logits_is_clipped_as_a_whole() -> None:
    norms = []
    for clip in (None, 1e-3):
        subject = learner()
        subject.arch_clip = clip
        before = subject.arch_parameters(True, True)
        start = [p.detach().clone() for p in before]
        subject.alpha_optimizer = SGD(subject.arch.alpha.values(), lr=1.0)  # type: ignore[assignment]
        subject.beta_optimizer = SGD(subject.arch.beta.values(), lr=1.0)  # type: ignore[assignment]
        LEVELS["bilevel"](subject, batch(0), [ArchBatch(batch(1), True, True)])
        norms.append(torch.cat([(p.detach() - s).flatten() for p, s in zip(before, start)]).norm().item())
    assert norms[0] > 2e-3
    assert norms[1] == pytest.approx(1e-3, rel=1e-2)


# --- perturbation


def test_a_perturbation_is_what_the_weights_see_and_the_architecture_does_not() -> None:
    """With a perturbation that keeps the first candidate alone, on the batch of the weights."""
    seen: list[tuple[Tensor, Tensor, bool]] = []

    def first_only(of: Learner, weights: dict[str, ArchWeights], given: Batch) -> dict[str, ArchWeights]:
        assert torch.equal(given[0], batch(0)[0])
        assert not any(w.ops.requires_grad for w in weights.values())
        only = torch.tensor([1.0, 0.0], dtype=F64).expand(5, 2)
        return {t: w._replace(ops=only) for t, w in weights.items()}

    subject = learner()
    subject.perturb = first_only
    real = {t: w.ops.detach() for t, w in subject.arch().items()}

    def look(_: nn.Module, inputs: tuple[Tensor, dict[str, ArchWeights]]) -> None:
        ops = inputs[1]["normal"].ops
        seen.append((inputs[0], ops.detach(), ops.requires_grad))

    subject.net.register_forward_pre_hook(look)
    LEVELS["bilevel"](subject, batch(0), [ArchBatch(batch(1), True, True)])
    (on_val, ops_val, learning), (on_train, ops_train, fixed) = seen
    assert torch.equal(on_val, batch(1)[0]) and torch.equal(ops_val, real["normal"]) and learning
    assert torch.equal(on_train, batch(0)[0]) and not fixed
    assert ops_train.tolist() == [[1.0, 0.0]] * 5


# --- second order


class Functional(nn.Module):
    """A network whose output on the batch `x` is a given loss of its weights and the ops of cell type `cell`."""

    def __init__(self, w: Tensor, losses: Sequence[Callable[[Tensor, Tensor], Tensor]]) -> None:
        super().__init__()
        self.parts = nn.ParameterList(w.clone().split([1, len(w) - 1]) if len(w) > 1 else [w.clone()])
        self.losses = losses

    def forward(self, x: Tensor, weights: dict[str, ArchWeights]) -> Tensor:
        return self.losses[int(x)](torch.cat(list(self.parts)), weights["cell"].ops)


class Logits(nn.Module):
    """An architecture state whose weights are its logits."""

    def __init__(self, alpha: Tensor) -> None:
        super().__init__()
        self.alpha = nn.ParameterDict({"cell": alpha.clone()})
        self.beta = nn.ParameterDict({"cell": torch.zeros(0)})

    def forward(self) -> dict[str, ArchWeights]:
        return {"cell": ArchWeights(self.alpha["cell"], torch.zeros(0))}


def functional_learner(net: Any, alpha: Tensor, **optimizer: float) -> Learner:
    arch: Any = Logits(alpha)
    return Learner(
        net, arch, SGD(net.parameters(), **optimizer), Adam(arch.alpha.values()), None, None, loss=lambda out, _: out
    )


TRAIN, VAL = ((torch.tensor(i), torch.zeros(0)) for i in (0, 1))


@given(seed=st.integers(0, 2**31), n=st.integers(1, 8), m=st.integers(1, 8), xi=st.floats(0.001, 1.0))
@settings(max_examples=30)
def test_the_unrolled_gradient_of_a_bilinear_loss_is_exact(seed: int, n: int, m: int, xi: float) -> None:
    """L_train = wᵀAw/2 + wᵀBα and L_val = ‖w − t‖²/2 have the gradient −ξ Bᵀ(w' − t), w' = w − ξ(Aw + Bα)."""
    case = f12_case(seed, n, m, xi)
    net = Functional(case.w, (case.loss_train, case.loss_val))
    (got,) = unrolled_gradient(functional_learner(net, case.alpha, lr=xi), TRAIN, ArchBatch(VAL, True, False))
    scale = 1 + float(case.gradient.abs().max())
    torch.testing.assert_close(got, case.gradient, rtol=0, atol=1e-8 * scale)
    assert torch.equal(torch.cat(list(net.parts)), case.w)


@given(seed=st.integers(0, 2**31), momentum=st.sampled_from([0.0, 0.9]), decay=st.sampled_from([0.0, 0.1]))
@settings(max_examples=15)
def test_the_unrolled_gradient_follows_the_optimizer_of_the_weights(seed: int, momentum: float, decay: float) -> None:
    """Against the exact derivative of a smooth model, with the momentum of two steps that came before."""
    g = torch.Generator().manual_seed(seed)
    w, alpha, mix = (2 * torch.rand(*shape, generator=g, dtype=F64) - 1 for shape in ((5,), (3,), (5, 3)))

    def loss_train(w: Tensor, a: Tensor) -> Tensor:
        return torch.sin(w * (mix @ a)).sum() + 0.1 * w.pow(4).sum()

    def loss_val(w: Tensor, a: Tensor) -> Tensor:
        return torch.cos(w).sum() * a.square().sum() + a.pow(3).sum()

    xi = 0.05
    net = Functional(w, (loss_train, loss_val))
    subject = functional_learner(net, alpha, lr=xi, momentum=momentum, weight_decay=decay)
    for _ in range(2):
        subject.weights_optimizer.zero_grad()
        loss_train(torch.cat(list(net.parts)), alpha).backward()
        subject.weights_optimizer.step()
    now = torch.cat(list(net.parts)).detach()
    velocity = (
        torch.cat([subject.weights_optimizer.state[p]["momentum_buffer"] for p in net.parts]) if momentum else None
    )
    exact = exact_unrolled_gradient(loss_train, loss_val, now, alpha, xi, velocity, momentum, decay)
    (got,) = unrolled_gradient(subject, TRAIN, ArchBatch(VAL, True, False))
    torch.testing.assert_close(got, exact, rtol=1e-4, atol=1e-4)


def test_the_unrolled_gradient_of_a_supernet_is_that_of_the_papers_formula() -> None:
    """g − ξ [∇α L_train(w⁺) − ∇α L_train(w⁻)] / 2ε, w± = w ± ε d, d = ∇w' L_val(w'), ε = 0.01 / ‖d‖."""
    subject, plain = learner(), learner()
    for of in (subject, plain):
        of.weights_step(batch(5))
    train, update, xi = batch(0), ArchBatch(batch(1), True, True), 0.1
    got = unrolled_gradient(subject, train, update)

    weights, chosen = list(plain.net.parameters()), logits(plain, True, True)
    origin = [p.detach().clone() for p in weights]
    found = gradient(plain, train, weights, penalised=False)
    for p, g in zip(weights, found):
        momentum = plain.weights_optimizer.state[p]["momentum_buffer"]
        p.data -= xi * (g + 3e-4 * p.data + 0.9 * momentum)
    outer = gradient(plain, update.batch, chosen, penalised=True)
    d = gradient(plain, update.batch, weights, penalised=False)
    epsilon = 0.01 / torch.cat([part.flatten() for part in d]).norm()
    ends = []
    for sign in (1, -1):
        for p, w, part in zip(weights, origin, d):
            p.data = w + sign * epsilon * part
        ends.append(gradient(plain, train, chosen, penalised=False))
    for result, g, up, down in zip(got, outer, *ends):
        torch.testing.assert_close(result, g - xi * (up - down) / (2 * epsilon), rtol=1e-7, atol=1e-10)


class Broken(RuntimeError):
    """What the network raises below."""


@pytest.mark.parametrize("fails_at", [None, 1, 2, 3, 4])
def test_the_weights_come_back_bit_for_bit_whatever_happens(fails_at: int | None) -> None:
    subject = learner()
    subject.weights_step(batch(5))
    before, momenta = copies(subject), copy.deepcopy(subject.weights_optimizer.state_dict()["state"])
    count: Iterator[int] = iter(range(1, 10))

    def breaks(*_: Any) -> None:
        if next(count) == fails_at:
            raise Broken

    handle = subject.net.register_forward_hook(breaks)
    try:
        found = unrolled_gradient(subject, batch(0), ArchBatch(batch(1), True, True))
        assert fails_at is None
        assert all(g.any() for g in found[:2])
    except Broken:
        assert fails_at is not None
    handle.remove()
    for old, new in zip(before, copies(subject)):
        assert same(old, new)
    for index, state in subject.weights_optimizer.state_dict()["state"].items():
        assert torch.equal(state["momentum_buffer"], momenta[index]["momentum_buffer"])
    assert all(p.requires_grad for p in subject.net.parameters())


def test_levels_are_told_apart() -> None:
    """From one state, every level takes the architecture somewhere else."""
    assert len(LEVELS) == 6
    found = []
    for level in LEVELS.values():
        subject = learner(lr=1.0)
        subject.alpha_optimizer = SGD(subject.arch.alpha.values(), lr=1.0)  # type: ignore[assignment]
        level(subject, batch(0), [ArchBatch(batch(1), True, True)])
        found.append(subject.arch.alpha["reduce"].detach())
    assert all(not torch.equal(a, b) for i, a in enumerate(found) for b in found[:i])
    assert LEVELS["unrolled"] is levels.unrolled
