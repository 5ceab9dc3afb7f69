"""Statistics of comparisons against closed forms, enumeration and scipy, and how often they are wrong."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from topocell.studies._statistics import (
    ALPHA,
    LEAST_PAIRS,
    Comparison,
    compare,
    format_p,
    holm,
    interval_text,
    place_verdict,
    rank_correlation,
    rank_correlations,
    summary,
    uniform_p,
    verdict,
)


def numbered(values: list[float]) -> dict[int, float]:
    return dict(enumerate(values))


def test_the_interval_of_a_mean_is_that_of_students_t() -> None:
    """t of 0.975 with 4 degrees of freedom is 2.776 in any table."""
    found = summary([90.0, 91.0, 92.0, 93.0, 94.0])
    assert (found.n, found.mean) == (5, 92.0) and found.std == pytest.approx(math.sqrt(2.5))
    assert found.low == pytest.approx(92 - 2.776445 * math.sqrt(2.5 / 5), abs=1e-5)
    assert found.high == pytest.approx(92 + 2.776445 * math.sqrt(2.5 / 5), abs=1e-5)


def test_one_value_has_no_spread() -> None:
    assert summary([90.0]) == type(summary([90.0]))(1, 90.0, None, None, None)


def test_welchs_test_is_its_formula() -> None:
    """t = Δ / √(s₁²/n₁ + s₂²/n₂), degrees of freedom by Welch and Satterthwaite."""
    a, b = [91.2, 90.1, 92.3, 93.0], [89.0, 90.5, 88.1, 89.9, 90.2]
    found = compare(numbered(a), numbered(b))
    va, vb = np.var(a, ddof=1) / len(a), np.var(b, ddof=1) / len(b)
    t = (np.mean(a) - np.mean(b)) / math.sqrt(va + vb)
    df = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(t), df)) and found.difference == pytest.approx(2.11)
    half = stats.t.ppf(0.975, df) * math.sqrt(va + vb)
    assert (found.low, found.high) == (pytest.approx(2.11 - half), pytest.approx(2.11 + half))


@pytest.mark.parametrize(("a", "b"), [([90.0], [91.0, 92.0]), ([90.0, 90.0], [91.0, 91.0]), ([90.0], [91.0])])
def test_without_a_spread_nothing_is_tested(a: list[float], b: list[float]) -> None:
    found = compare(numbered(a), numbered(b))
    assert found.p is None and found.low is None and found.difference == pytest.approx(np.mean(a) - np.mean(b))
    assert "not tested" in verdict("x", "y", found, None, 0)


def test_one_sample_of_equal_values_is_tested(recwarn: pytest.WarningsRecorder) -> None:
    """A search that always finds the same cell of a table against one that does not: t with n − 1 degrees."""
    a, b = [90.0] * 4, [88.0, 89.0, 90.0, 91.0]
    found = compare(numbered(a), numbered(b))
    assert found.p == pytest.approx(stats.ttest_1samp(b, 90.0).pvalue)
    assert not len(recwarn)


def test_the_bootstrap_of_few_pairs_is_that_of_all_resamples() -> None:
    """With 4 pairs there are 4⁴ resamples: the p-value is the share of their means that lie as far from zero."""
    changes = [1.0, -0.5, 2.0, 0.7]
    base = numbered([90.0, 91.0, 92.0, 93.0])
    found = compare({seed: base[seed] + changes[seed] for seed in base}, base)
    mean = float(np.mean(changes))
    means = np.array([np.mean(of) for of in itertools.product(changes, repeat=4)])
    exact = float((np.abs(means - mean) >= abs(mean) - 1e-9).mean())
    assert found.pairs == 4 and found.paired_p == pytest.approx(exact, abs=0.01)
    assert found.paired_low is not None and found.paired_high is not None
    assert min(changes) <= found.paired_low < mean < found.paired_high <= max(changes)


def test_pairs_are_of_equal_seeds() -> None:
    """The same values under other seeds are no pairs; with a common part of the noise pairs tell more apart."""
    noise = [3.0, -2.0, 5.0, -4.0, 1.0, 0.0]
    base = numbered([90 + x for x in noise])
    own = {seed: base[seed] + 0.5 + 0.1 * (seed % 3) for seed in base}
    found = compare(own, base)
    assert found.p is not None and found.p > 0.5
    assert found.pairs == 6 and found.paired_p is not None and found.paired_p < 0.01
    assert found.paired_low is not None and found.paired_low > 0.4
    apart = compare({seed + 100: value for seed, value in own.items()}, base)
    assert apart.pairs == 0 and apart.paired_p is None and apart.p == found.p
    assert compare(own, base, paired=False).pairs == 0


def test_few_pairs_are_not_resampled() -> None:
    few = {seed: 90.0 + seed for seed in range(LEAST_PAIRS - 1)}
    assert compare(few, dict.fromkeys(few, 89.0)).paired_p is None


def test_equal_values_give_equal_statistics() -> None:
    own, base = numbered([91.0, 92.5, 90.2, 93.3, 91.1]), numbered([90.0, 92.0, 90.4, 91.0, 90.9])
    assert compare(own, base) == compare(own, base)


@pytest.mark.parametrize(
    ("values", "corrected"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # 0.01 · 3; 0.03 · 2; 0.04 · 1, no less than before
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([None, 0.02, None, 0.01], [None, 0.02, None, 0.02]),
        ([], []),
    ],
)
def test_holms_correction(values: list[float | None], corrected: list[float | None]) -> None:
    assert holm(values) == [None if p is None else pytest.approx(p) for p in corrected]


def test_holm_rejects_what_closed_testing_by_bonferroni_does() -> None:
    """Holm is the closure of Bonferroni: p is the largest Bonferroni p of all sets that contain the hypothesis."""
    draws = np.random.default_rng(1)
    for _ in range(20):
        values = draws.uniform(0, 0.2, size=4)
        found = holm(list(values))
        for one in range(4):
            sets = [s for n in range(1, 5) for s in itertools.combinations(range(4), n) if one in s]
            assert found[one] == pytest.approx(max(min(1.0, len(s) * min(values[list(s)])) for s in sets))


def test_without_differences_few_tables_claim_one() -> None:
    """Of 100 tables of 3 comparisons of equal means, at most 5 % and chance claim any, small and unequal samples."""
    draws, claims = np.random.default_rng(2), 0
    for _ in range(100):
        base = numbered(list(draws.normal(90, 1, 3)))
        arms = [numbered(list(draws.normal(90, spread, n))) for spread, n in ((0.2, 3), (1, 4), (3, 3))]
        corrected = holm([_p(arm, base) for arm in arms])
        claims += any(p is not None and p < ALPHA for p in corrected)
    assert claims <= 100 * ALPHA + 2.6 * math.sqrt(100 * ALPHA * (1 - ALPHA))


def _p(own: dict[int, float], base: dict[int, float]) -> float | None:
    return compare(own, base, paired=False).p


def test_a_difference_is_said_in_words() -> None:
    base = numbered([88.0, 88.4, 88.2, 88.3])
    better = compare(numbered([91.0, 91.2, 90.9, 91.4]), base)
    said = verdict("dots", "random", better, better.p, 1)
    assert said.startswith("dots: better than random, +2.90 points, 95 % interval +2.")
    assert said.endswith(", p < 0.001 (Welch)")
    assert "worse than" in verdict("x", "y", compare(base, numbered([91.0, 91.2, 90.9])), 0.001, 3)
    near = compare(numbered([88.1, 88.5, 88.0]), base)
    assert verdict("x", "y", near, near.p, 3).startswith("x: not told apart from y, -0.0")
    assert "corrected for 3 comparisons" in verdict("x", "y", near, near.p, 3)
    # a correction may take away what a single comparison would claim
    assert "not told apart" in verdict("x", "y", better, 0.06, 9)


def test_figures_as_text() -> None:
    assert [format_p(p) for p in (None, 0.0004, 0.0312, 0.25, 1.0)] == ["—", "< 0.001", "0.031", "0.25", "1.00"]
    assert interval_text(1.0, 2.346) == "1.00 to 2.35" and interval_text(None, 2.0) is None
    assert Comparison(1.0).p is None


def test_tau_is_that_of_scipy_and_its_interval_that_of_scipys_resamples() -> None:
    draw = np.random.default_rng(3)
    x = draw.integers(0, 12, 40).astype(float)  # with ties
    y = x + draw.normal(0, 4, 40).round()
    found = rank_correlations([(x.tolist(), y.tolist()), ([1.0] * 40, y.tolist())])
    tau = float(stats.kendalltau(x, y).statistic)
    assert found.each == (tau, None) and found.mean == tau
    places = [draw.integers(0, 40, 40) for _ in range(600)]
    resampled = [stats.kendalltau(x[at], y[at]).statistic for at in places]
    low, high = np.percentile(resampled, [2.5, 97.5])
    assert found.low == pytest.approx(low, abs=0.03) and found.high == pytest.approx(high, abs=0.03)


def test_one_resample_gives_the_tau_of_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a single resample both ends of the interval are its τ-b."""
    monkeypatch.setattr("topocell.studies._statistics.RANK_RESAMPLES", 1)
    x, y = [3.0, 1.0, 2.0, 2.0, 5.0, 4.0], [1.0, 1.0, 3.0, 2.0, 4.0, 6.0]
    counts = np.random.default_rng(0).multinomial(6, np.full(6, 1 / 6), size=1)[0]
    at = np.repeat(np.arange(6), counts)
    found = rank_correlations([(x, y)])
    assert found.low == found.high == pytest.approx(stats.kendalltau(np.array(x)[at], np.array(y)[at]).statistic)


def test_rankings_without_an_order_have_no_tau() -> None:
    found = rank_correlations([([1.0, 1.0, 1.0], [1.0, 2.0, 3.0])])
    assert found.each == (None,) and found.mean is found.low is found.high is None and found.in_words() == "undefined"
    perfect = rank_correlations([([1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 5.0, 9.0])])
    assert rank_correlation([1, 2, 3], [1, 1, 1]) is None and rank_correlation([1, 2, 3], [4, 5, 6]) == 1
    assert perfect.mean == perfect.low == perfect.high == 1.0


def test_p_of_percentiles_is_that_of_sums_of_uniform_numbers() -> None:
    """The density of one number is 1, of the sum of two a triangle: P(sum <= x) = x² / 2 up to 1."""
    assert uniform_p([]) is None
    assert uniform_p([10.0]) == pytest.approx(0.2) and uniform_p([97.0]) == pytest.approx(0.06)
    assert uniform_p([30.0, 10.0]) == pytest.approx(0.4**2) and uniform_p([50.0, 50.0]) == 1.0
    assert uniform_p([70.0, 90.0]) == pytest.approx(0.4**2)
    assert uniform_p([100.0] * 8) == 0.0 and uniform_p([99.0] * 8) == pytest.approx(2 * 0.08**8 / math.factorial(8))


def test_p_of_percentiles_is_what_enumeration_counts() -> None:
    """Of all triples of 100 equally likely cells the share as far out; those just there count half."""
    places = np.arange(100) + 0.5  # the middle of each cell
    sums = np.add.outer(np.add.outer(places, places), places).ravel()
    for triple in ([62.5, 80.5, 71.5], [20.5, 33.5, 9.5], [99.5, 40.5, 60.5]):
        far = abs(sum(triple) - 150)
        away = np.abs(sums - 150)
        share = (away > far + 1e-9).mean() + (np.abs(away - far) < 1e-9).mean() / 2
        assert uniform_p(triple) == pytest.approx(share, abs=1e-3)


def test_many_percentiles_have_a_p_without_cancellation() -> None:
    """200 numbers: the sum is normal but for its far tails."""
    values = np.random.default_rng(3).uniform(0, 100, 200)
    z = (values.mean() - 50) / (100 / math.sqrt(12 * 200))
    assert uniform_p(values.tolist()) == pytest.approx(2 * stats.norm.sf(abs(z)), abs=2e-3)


@pytest.mark.parametrize(
    ("mean", "p", "said"),
    [
        (82.0, 0.0104, "dots: better than cells drawn from the space, above 82.0 % of them, p = 0.010 (percentiles)"),
        (9.0, 1e-5, "dots: worse than cells drawn from the space, above 9.0 % of them, p < 0.001 (percentiles)"),
        (
            60.0,
            0.5,
            "dots: not told apart from cells drawn from the space, above 60.0 % of them, p = 0.50 (percentiles)",
        ),
    ],
)
def test_the_place_of_cells_in_their_space_is_said_in_a_sentence(mean: float, p: float, said: str) -> None:
    assert place_verdict("dots", mean, p, 1) == said
    assert place_verdict("dots", mean, p, 12).endswith("(percentiles, corrected for 12 comparisons)")
