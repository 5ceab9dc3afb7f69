"""Relaxations against per-edge formulas, with irregular candidate lists, removed candidates and cold temperatures."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from topocell import relaxation, spaces
from topocell.errors import RecipeError, SpaceError
from topocell.relaxation import (
    RELAXATIONS,
    Dirichlet,
    GroupedSoftmax,
    GumbelSoftmax,
    GumbelStraightThrough,
    Relaxation,
    Sigmoid,
    Softmax,
    Uniform,
    candidate_mask,
)
from topocell.spaces.cell import CellSpec

DARTS = spaces.get("darts").cells["normal"]
#: Edges with one to four candidates, in different orders.
RAGGED = CellSpec(
    2,
    2,
    ((0, 2), (1, 2), (0, 3), (2, 3)),
    (
        ("none", "skip_connect", "sep_conv_3x3"),
        ("sep_conv_3x3",),
        ("dil_conv_3x3", "none", "max_pool_3x3", "sep_conv_3x3"),
        ("none", "max_pool_3x3"),
    ),
)
THREE = ("skip_connect", "sep_conv_3x3", "max_pool_3x3")
CELLS = {"darts": DARTS, "ragged": RAGGED}
#: DOTS, Group-V2: operations that shape the topology, and the others.
GROUPS = [
    ["none", "max_pool_3x3", "avg_pool_3x3", "skip_connect"],
    ["sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"],
]
OPTIONS: dict[str, dict[str, object]] = {
    "softmax": {"offset": {"sep_conv_3x3": 0.6, "none": -0.4}},
    "grouped-softmax": {"groups": GROUPS},
    "gumbel-softmax": {"offset": {"sep_conv_3x3": 0.6, "none": -0.4}},
    "gumbel-straight-through": {},
    "sigmoid": {},
    "dirichlet": {},
    "uniform": {},
}
SAMPLED = {"gumbel-softmax", "gumbel-straight-through", "dirichlet"}
every_relaxation = pytest.mark.parametrize("name", list(RELAXATIONS))
every_sampled = pytest.mark.parametrize("name", sorted(SAMPLED))
every_cell = pytest.mark.parametrize("cell", list(CELLS.values()), ids=list(CELLS))


def built(name: str, cell: CellSpec) -> Relaxation:
    return relaxation.build(name, cell, **OPTIONS[name])


def shape(cell: CellSpec) -> tuple[int, int]:
    return cell.n_edges, cell.n_candidates


def random_alpha(cell: CellSpec, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape(cell), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_mask(cell: CellSpec, seed: int) -> torch.Tensor:
    """Live candidates after some were removed at random; the first edge has none left."""
    mask = candidate_mask(cell) & (torch.rand(shape(cell), generator=torch.Generator().manual_seed(seed)) < 0.6)
    mask[0] = False
    return mask


def per_edge_softmax(logits: list[float], live: list[bool], temperature: float) -> list[float]:
    exps = [math.exp(x / temperature) if on else 0.0 for x, on in zip(logits, live)]
    return [x / sum(exps) if sum(exps) else 0.0 for x in exps]


def members(cell: CellSpec, group: list[str]) -> torch.Tensor:
    """Bool (E, K): candidates that belong to the group."""
    rows = [[op in group for op in ops] + [False] * (cell.n_candidates - len(ops)) for ops in cell.candidates]
    return torch.tensor(rows)


def test_candidate_mask() -> None:
    assert candidate_mask(DARTS).tolist() == [[True] * 8] * 14
    assert candidate_mask(RAGGED).tolist() == [
        [True, True, True, False],
        [True, False, False, False],
        [True, True, True, True],
        [True, True, False, False],
    ]


@every_cell
@pytest.mark.parametrize("offset", [None, {"sep_conv_3x3": 0.6, "none": -0.4}])
def test_softmax_per_edge(cell: CellSpec, offset: dict[str, float] | None) -> None:
    relax = Softmax(cell, offset)
    for seed, temperature in ((0, 1.0), (1, 0.3), (2, 5.0)):
        alpha, mask = random_alpha(cell, seed), random_mask(cell, seed)
        weights = relax.weights(alpha, mask, temperature)
        for e, ops in enumerate(cell.candidates):
            logits = [a + (offset or {}).get(op, 0.0) for a, op in zip(alpha[e].tolist(), ops)]
            expected = per_edge_softmax(logits, mask[e].tolist(), temperature)
            expected += [0.0] * (cell.n_candidates - len(ops))
            assert weights[e].tolist() == pytest.approx(expected, abs=1e-12)


@every_cell
def test_grouped_softmax_per_edge_and_group(cell: CellSpec) -> None:
    for options in ({}, {"offset": {"none": 1.0}}):
        relax = GroupedSoftmax(cell, GROUPS, **options)
        logits = random_alpha(cell) + members(cell, ["none"]) * sum(options.get("offset", {}).values())
        for mask in (candidate_mask(cell), random_mask(cell, 3)):
            weights = relax.weights(random_alpha(cell), mask, 0.7)
            expected = torch.zeros(shape(cell), dtype=torch.float64)
            for group in GROUPS:
                live = mask & members(cell, group)
                rows = [per_edge_softmax(a, on, 0.7) for a, on in zip(logits.tolist(), live.tolist())]
                expected += torch.tensor(rows, dtype=torch.float64)
            torch.testing.assert_close(weights, expected)


def test_initial_weights() -> None:
    alpha, mask = torch.zeros(14, 8), torch.ones(14, 8, dtype=torch.bool)
    assert torch.equal(Softmax(DARTS).weights(alpha, mask), torch.full((14, 8), 1 / 8))
    assert torch.equal(GroupedSoftmax(DARTS, GROUPS).weights(alpha, mask), torch.full((14, 8), 1 / 4))
    mask[:, 0] = False
    torch.testing.assert_close(Softmax(DARTS).weights(alpha, mask)[:, 1:], torch.full((14, 7), 1 / 7))


@every_relaxation
@settings(max_examples=30)
@given(
    values=st.lists(st.floats(-8, 8, width=32), min_size=16, max_size=16),
    live=st.lists(st.booleans(), min_size=16, max_size=16),
    temperature=st.floats(0.05, 10),
)
def test_weights_sum_to_the_number_of_live_parts(
    name: str, values: list[float], live: list[bool], temperature: float
) -> None:
    relax = built(name, RAGGED)
    mask = candidate_mask(RAGGED) & torch.tensor(live).view(4, 4)
    alpha = torch.tensor(values, dtype=torch.float64).view(4, 4)
    groups = [members(RAGGED, g) for g in GROUPS] if name == "grouped-softmax" else [torch.tensor(True)]
    sums = sum((mask & g).any(1).double() for g in groups)
    for weights in (relax.weights(alpha, mask, temperature), relax.expected(alpha, mask, temperature)):
        assert (weights[~mask] == 0).all()
        assert (weights >= 0).all()
        assert (weights <= 1 + 1e-12).all()
        if relax.normalised:
            torch.testing.assert_close(weights.sum(1), sums)
    parts = relax.parts(mask)
    assert sum(part.int() for part in parts).tolist() == mask.int().tolist()


@every_relaxation
@every_cell
def test_edges_without_live_candidates_are_zero_also_in_gradients(name: str, cell: CellSpec) -> None:
    relax = built(name, cell)
    alpha = random_alpha(cell)
    mask = random_mask(cell, 1)
    alpha[~mask] = math.nan  # what is not live is never read
    alpha.requires_grad_()
    for temperature in (1.0, 1e-4):
        weights = relax.weights(alpha, mask, temperature)
        assert torch.isfinite(weights).all()
        assert (weights[0] == 0).all()
        expected = relax.expected(alpha, mask, temperature)
        assert torch.isfinite(expected).all()
        assert (expected[0] == 0).all()
        penalty = relax.penalty(alpha, mask)
        assert penalty.shape == () and torch.isfinite(penalty)
        for value in ((weights**2).sum(), (expected**2).sum(), penalty):
            gradient = torch.autograd.grad(value + 0 * alpha.nansum(), alpha)[0]
            assert torch.isfinite(gradient).all()
            assert (gradient[~mask] == 0).all()


@every_cell
@pytest.mark.parametrize("name", ["softmax", "grouped-softmax", "sigmoid"])
def test_gradients(name: str, cell: CellSpec) -> None:
    relax = built(name, cell)
    alpha = random_alpha(cell).requires_grad_()
    for mask in (candidate_mask(cell), random_mask(cell, 2)):
        assert torch.autograd.gradcheck(lambda a, m=mask: relax.weights(a, m, 0.7), (alpha,), fast_mode=True)
        assert torch.autograd.gradgradcheck(lambda a, m=mask: relax.weights(a, m, 0.7), (alpha,), fast_mode=True)


@every_cell
@pytest.mark.parametrize("name", ["softmax", "grouped-softmax"])
def test_temperature_limits(name: str, cell: CellSpec) -> None:
    relax = relaxation.build(name, cell, **({"groups": GROUPS} if name == "grouped-softmax" else {}))
    alpha, mask = random_alpha(cell).float(), random_mask(cell, 5)
    hard = torch.zeros(shape(cell))
    even = torch.zeros(shape(cell))
    for part in relax.parts(mask):
        best = alpha.masked_fill(~part, -math.inf).argmax(1)
        for e in range(cell.n_edges):
            if part[e].any():
                hard[e, best[e]] = 1
                even[e, part[e]] = 1 / part[e].sum()
    torch.testing.assert_close(relax.weights(alpha, mask, 1e-5), hard)
    torch.testing.assert_close(relax.weights(alpha, mask, 1e6), even, rtol=1e-4, atol=1e-5)


def test_uniform_ignores_alpha() -> None:
    relax = Uniform(RAGGED)
    mask = candidate_mask(RAGGED)
    mask[3] = False
    weights = relax.weights(random_alpha(RAGGED), mask)
    third = 1 / 3
    expected = [[third, third, third, 0], [1, 0, 0, 0], [0.25] * 4, [0] * 4]
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float64))


# ---- what is retained ----


def test_softmax_retains_the_best_operation_of_each_edge_but_not_none() -> None:
    relax = Softmax(RAGGED)
    mask = candidate_mask(RAGGED)
    weights = torch.tensor(
        [[0.6, 0.1, 0.3, 0.0], [1.0, 0.0, 0.0, 0.0], [0.1, 0.4, 0.2, 0.3], [0.9, 0.1, 0.0, 0.0]], dtype=torch.float64
    )
    assert relax.retained(weights, mask).int().tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0]]
    mask[0, 2] = mask[3, 1] = False  # an edge that has only `none` left keeps it
    mask[1, 0] = False  # an edge that has nothing left keeps nothing
    assert relax.retained(weights, mask).int().tolist() == [[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]]


def test_grouped_softmax_retains_one_operation_per_group_and_none_may_win() -> None:
    relax = GroupedSoftmax(DARTS, GROUPS)
    mask = candidate_mask(DARTS)
    for seed in range(10):
        alpha = random_alpha(DARTS, seed)
        kept = relax.retained(relax.weights(alpha, mask), mask)
        expected = torch.zeros(14, 8, dtype=torch.bool)
        for e in range(14):
            expected[e, alpha[e, :4].argmax()] = True
            expected[e, 4 + alpha[e, 4:].argmax()] = True
        assert torch.equal(kept, expected)
    assert kept[:, 0].any()  # `none` did win on some edge
    kept = GroupedSoftmax(RAGGED, GROUPS).retained(
        torch.tensor([[0.9, 0.1, 0, 0], [0, 0, 0, 0], [0, 0.9, 0.1, 0], [0.9, 0.1, 0, 0]]), candidate_mask(RAGGED)
    )
    # edge 3 has no candidate in the second group: `none` alone would be all that is left of it
    assert kept.int().tolist() == [[1, 0, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0]]


@every_relaxation
@every_cell
def test_retained_is_live_and_at_most_one_per_part(name: str, cell: CellSpec) -> None:
    relax = built(name, cell)
    for seed in range(10):
        mask = random_mask(cell, seed)
        kept = relax.retained(relax.weights(random_alpha(cell, seed), mask), mask)
        assert kept.dtype == torch.bool
        assert not (kept & ~mask).any()
        for part in relax.parts(mask):
            assert torch.equal((kept & part).sum(1), part.any(1).long())


def test_ties_go_to_the_first_candidate() -> None:
    mask = candidate_mask(DARTS)
    kept = Uniform(DARTS).retained(torch.full((14, 8), 1 / 8), mask)
    assert kept.int().tolist() == [[0, 1] + [0] * 6] * 14  # the first after `none`


# ---- entropy ----


def test_entropy_is_in_nats_over_what_is_still_open() -> None:
    mask = candidate_mask(DARTS)
    zeros = torch.zeros(14, 8)
    assert Softmax(DARTS).entropy(torch.full((14, 8), 1 / 8), mask).item() == pytest.approx(math.log(8))
    grouped = GroupedSoftmax(DARTS, GROUPS)
    assert grouped.entropy(grouped.weights(zeros, mask), mask).item() == pytest.approx(math.log(4))
    one_hot = zeros.clone()
    one_hot[:, 3] = 1
    assert Softmax(DARTS).entropy(one_hot, mask).item() == 0
    relax = Softmax(RAGGED)
    mask = candidate_mask(RAGGED)
    weights = relax.weights(random_alpha(RAGGED), mask)
    rows = [[w for w in row if w > 0] for row in weights.tolist()]
    each = [-sum(w * math.log(w) for w in row) for row in rows if len(row) > 1]
    assert len(each) == 3
    assert relax.entropy(weights, mask).item() == pytest.approx(sum(each) / 3)
    assert relax.entropy(weights, mask & False).item() == 0


def test_independent_weights_have_the_entropy_of_each_candidate() -> None:
    relax, mask = Sigmoid(RAGGED), candidate_mask(RAGGED)
    assert relax.entropy(relax.expected(torch.zeros(4, 4), mask), mask).item() == pytest.approx(math.log(2))
    alpha = random_alpha(RAGGED)
    p = [1 / (1 + math.exp(-a)) for a in alpha[mask].tolist()]
    each = [-x * math.log(x) - (1 - x) * math.log(1 - x) for x in p]
    assert relax.entropy(relax.expected(alpha, mask), mask).item() == pytest.approx(sum(each) / 10)
    assert relax.entropy(relax.expected(alpha, mask), mask & False).item() == 0


# ---- every relaxation ----


@every_relaxation
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_contract(name: str, dtype: torch.dtype) -> None:
    relax = built(name, RAGGED)
    alpha, mask = random_alpha(RAGGED).to(dtype), candidate_mask(RAGGED)
    weights = relax.weights(alpha, mask)
    assert (weights.shape, weights.dtype) == ((4, 4), dtype)
    assert relax.entropy(weights, mask).shape == ()
    assert relax.sampled == (name in SAMPLED)
    assert torch.equal(weights, relax.weights(alpha, mask)) != relax.sampled or relax.one_hot
    assert not torch.equal(weights, relax.weights(alpha, mask & random_mask(RAGGED, 1)))
    expected = relax.expected(alpha, mask)
    assert (expected.shape, expected.dtype) == ((4, 4), dtype)
    assert torch.equal(expected, relax.expected(alpha, mask))
    assert relax.penalty(alpha, mask).dtype == dtype


@every_relaxation
def test_a_seed_gives_the_same_weights_again(name: str) -> None:
    relax, alpha, mask = built(name, DARTS), random_alpha(DARTS), random_mask(DARTS, 1)
    drawn = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        drawn.append(relax.weights(alpha, mask))
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2]) != relax.sampled


@every_relaxation
def test_expected_weights_draw_nothing(name: str) -> None:
    relax, alpha, mask = built(name, DARTS), random_alpha(DARTS), candidate_mask(DARTS)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    relax.expected(alpha, mask)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", sorted(set(RELAXATIONS) - SAMPLED))
def test_without_sampling_the_weights_are_the_expected_ones(name: str) -> None:
    relax, alpha, mask = built(name, RAGGED), random_alpha(RAGGED), random_mask(RAGGED, 1)
    assert torch.equal(relax.weights(alpha, mask, 0.3), relax.expected(alpha, mask, 0.3))


@pytest.mark.parametrize("name", sorted(set(RELAXATIONS) - {"uniform"}))
def test_gradients_reach_every_live_logit(name: str) -> None:
    relax, alpha, mask = built(name, DARTS), random_alpha(DARTS).requires_grad_(), candidate_mask(DARTS)
    readout = torch.randn(shape(DARTS), generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    for weights in (relax.weights(alpha, mask), relax.expected(alpha, mask)):
        assert (torch.autograd.grad((weights * readout).sum(), alpha)[0] != 0).all()


# ---- samples ----


@every_sampled
def test_samples_are_those_of_the_distribution(name: str) -> None:
    """Means over many draws: how often each candidate wins, or its mean weight for Dirichlet; at any temperature."""
    relax = relaxation.build(name, spaces.get("darts", nodes=8, candidates=THREE).cells["normal"])  # 44 edges
    alpha = torch.tensor([[0.0, 1.0, -0.5], [2.0, 0.0, 0.0]] * 22, dtype=torch.float64)
    mask = torch.tensor([[True] * 3, [True, False, True]] * 22)
    torch.manual_seed(0)
    drawn = torch.stack([relax.weights(alpha, mask, 0.4) for _ in range(200)])
    if name != "dirichlet":
        drawn = torch.nn.functional.one_hot(drawn.argmax(2), 3).double()
    found = drawn.view(-1, 2, 3).mean(0)
    torch.testing.assert_close(found, relax.expected(alpha, mask, 0.4)[:2], rtol=0, atol=0.03)


def test_gumbel_softmax_is_a_softmax_of_noisy_logits() -> None:
    relax = GumbelSoftmax(DARTS, offset={"none": 0.5})
    alpha, mask = random_alpha(DARTS), random_mask(DARTS, 2)
    torch.manual_seed(1)
    weights = relax.weights(alpha, mask, 0.7)
    torch.manual_seed(1)
    noise = -torch.empty(shape(DARTS), dtype=torch.float64).exponential_().log()
    torch.testing.assert_close(weights, Softmax(DARTS, {"none": 0.5}).weights(alpha + noise, mask, 0.7))
    assert torch.equal(relax.expected(alpha, mask, 0.7), Softmax(DARTS, {"none": 0.5}).weights(alpha, mask))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1e-4, 0.1, 1.0, 10.0])
def test_straight_through_is_one_hot_forward_and_relaxed_backward(dtype: torch.dtype, temperature: float) -> None:
    mask = random_mask(DARTS, 2)
    readout = torch.randn(shape(DARTS), dtype=torch.float64).to(dtype)
    found = {}
    for kind in (GumbelStraightThrough, GumbelSoftmax):
        alpha = random_alpha(DARTS).to(dtype).requires_grad_()
        torch.manual_seed(5)
        weights = kind(DARTS).weights(alpha, mask, temperature)
        found[kind] = weights.detach(), torch.autograd.grad((weights * readout).sum(), alpha)[0]
    (hard, hard_gradient), (soft, soft_gradient) = found[GumbelStraightThrough], found[GumbelSoftmax]
    assert set(hard.flatten().tolist()) == {0.0, 1.0}
    assert torch.equal(hard.sum(1), mask.any(1).to(dtype))
    assert torch.equal(hard.argmax(1)[1:], soft.argmax(1)[1:])
    assert torch.equal(hard_gradient, soft_gradient)
    assert [relaxation.build(name, DARTS, **OPTIONS[name]).one_hot for name in OPTIONS].count(True) == 1


def test_dirichlet_of_extreme_logits_is_finite() -> None:
    relax = Dirichlet(RAGGED)
    mask = candidate_mask(RAGGED)
    for value in (-200.0, -10.0, 0.0, 10.0, 1e4):
        for dtype in (torch.float32, torch.float64):
            alpha = torch.full((4, 4), value, dtype=dtype, requires_grad=True)
            torch.manual_seed(0)
            weights = relax.weights(alpha, mask)
            torch.testing.assert_close(weights.sum(1), torch.ones(4, dtype=dtype))
            assert torch.isfinite(torch.autograd.grad(weights.square().sum(), alpha)[0]).all()
    torch.testing.assert_close(
        relax.expected(torch.tensor([[1.0, 0.0, -1.0, 9.0]] * 4), mask)[0],
        torch.tensor([2.0, 1.0, math.exp(-1), 0.0]) / (3 + math.exp(-1)),
    )


def test_dirichlet_ranks_by_a_softmax_and_others_by_what_is_expected() -> None:
    mask = candidate_mask(RAGGED)
    alpha = random_alpha(RAGGED).masked_fill(~mask, math.nan)
    assert torch.equal(Dirichlet(RAGGED).strengths(alpha, mask), Softmax(RAGGED).expected(alpha, mask))
    # means 4 : 1 and 2 : 0.22 make the second edge the stronger one, softmaxes of differences of 3 and 2.5 the first
    two = torch.tensor([[3.0, 0.0], [1.0, -1.5]])
    cell = CellSpec(1, 2, ((0, 1), (0, 2)), (("skip_connect", "sep_conv_3x3"),) * 2)
    live = candidate_mask(cell)
    mean, strengths = Dirichlet(cell).expected(two, live).max(1).values, Dirichlet(cell).strengths(two, live)
    assert mean[0] < mean[1] and strengths.max(1).values[0] > strengths.max(1).values[1]
    for name in RELAXATIONS.keys() - {"dirichlet"}:
        piece = relaxation.build(name, DARTS, **OPTIONS[name])
        torch.manual_seed(0)
        alpha, mask = random_alpha(DARTS), candidate_mask(DARTS)
        assert torch.equal(piece.strengths(alpha, mask), piece.expected(alpha, mask))


# ---- penalties ----


def test_the_zero_one_loss_is_a_mean_over_what_is_live() -> None:
    alpha, mask = random_alpha(RAGGED), candidate_mask(RAGGED)
    live = [1 / (1 + math.exp(-a)) - 0.5 for a in alpha[mask].tolist()]
    assert Sigmoid(RAGGED).penalty(alpha, mask).item() == pytest.approx(-sum(x * x for x in live) / 10)
    assert Sigmoid(RAGGED).penalty(alpha, mask & False) == 0
    assert Sigmoid(RAGGED).penalty(30 * alpha.sign(), mask).item() == pytest.approx(-0.25)


def test_the_anchor_of_dirichlet_is_a_concentration_of_one() -> None:
    mask = candidate_mask(RAGGED)
    alpha = torch.full((4, 4), 3.0).masked_fill(~mask, math.nan)
    alpha[0, 0] = -1.0
    expected = math.sqrt(9 * 3.0**2 + (math.exp(-1) - 1) ** 2)
    assert Dirichlet(RAGGED).penalty(alpha, mask).item() == pytest.approx(expected)
    zero = torch.zeros(4, 4, requires_grad=True)
    assert torch.autograd.grad(Dirichlet(RAGGED).penalty(zero, mask), zero)[0].eq(0).all()


def test_other_relaxations_have_no_penalty() -> None:
    with_penalty = {name for name, kind in RELAXATIONS.items() if kind.penalty is not Relaxation.penalty}
    assert with_penalty == {"sigmoid", "dirichlet"}
    assert Softmax(RAGGED).penalty(random_alpha(RAGGED), candidate_mask(RAGGED)) == 0


@every_relaxation
def test_first_use_in_inference_mode_leaves_autograd_usable(name: str) -> None:
    relax = built(name, RAGGED)
    mask = candidate_mask(RAGGED)
    with torch.inference_mode():
        relax.retained(relax.weights(random_alpha(RAGGED), mask), mask)
    alpha = random_alpha(RAGGED).requires_grad_()
    (relax.weights(alpha, mask).square().sum() + alpha.sum()).backward()
    assert alpha.grad is not None


def test_every_relaxation_is_in_these_tests() -> None:
    assert set(OPTIONS) == set(RELAXATIONS)


# ---- mistakes ----


@pytest.mark.parametrize(
    ("error", "words", "make_it"),
    [
        (RecipeError, "unknown relaxation 'softmx'.*did you mean 'softmax'", lambda: relaxation.build("softmx", DARTS)),
        (RecipeError, "no option 'ofset'.*'offset'", lambda: relaxation.build("softmax", DARTS, ofset={})),
        (RecipeError, "needs the option 'groups'", lambda: relaxation.build("grouped-softmax", DARTS)),
        (RecipeError, "got 'sep_conv_3'.*'sep_conv_3x3'", lambda: Softmax(DARTS, {"sep_conv_3": 1.0})),
        (RecipeError, r"candidates of the cell.*nor_conv", lambda: Softmax(DARTS, {"nor_conv_3x3": 1.0})),
        (RecipeError, "got 'skip'", lambda: GroupedSoftmax(DARTS, [["skip"]])),
        (RecipeError, "'avg_pool_3x3' is in none", lambda: GroupedSoftmax(DARTS, [GROUPS[0][:2], GROUPS[1]])),
        (RecipeError, "'none' is in 2", lambda: GroupedSoftmax(DARTS, [*GROUPS, ["none"]])),
        (RecipeError, "at least one operation", lambda: GroupedSoftmax(DARTS, [*GROUPS, []])),
        (SpaceError, r"\(14, 8\), but got \(14, 7\)", lambda: weigh(torch.zeros(14, 7), candidate_mask(DARTS))),
        (SpaceError, r"mask .*\(14, 8\), but got \(4, 4\)", lambda: weigh(torch.zeros(14, 8), candidate_mask(RAGGED))),
        (RecipeError, "temperature.*got -1", lambda: weigh(torch.zeros(14, 8), candidate_mask(DARTS), -1.0)),
    ],
)
def test_mistakes_are_explained(error: type[Exception], words: str, make_it: object) -> None:
    with pytest.raises(error, match=words) as caught:
        make_it()  # type: ignore[operator]
    assert "\n" not in str(caught.value)


def weigh(alpha: torch.Tensor, mask: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    return Softmax(DARTS).weights(alpha, mask, temperature)


def test_groups_and_offsets_may_name_operations_that_the_cell_does_not_offer() -> None:
    small = spaces.get("darts", candidates=("skip_connect", "sep_conv_3x3")).cells["normal"]
    relax = GroupedSoftmax(small, GROUPS, offset={"sep_conv_3x3": 6e-4, "dil_conv_5x5": -6e-4})
    assert relax.weights(torch.zeros(14, 2), candidate_mask(small)).tolist() == [[1.0, 1.0]] * 14
