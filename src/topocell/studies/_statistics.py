"""Statistics of comparisons: intervals, Welch's test, a paired bootstrap, places in a space, several comparisons."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy import stats

#: Chance of a false "better" or "worse" in all comparisons of a table together.
ALPHA = 0.05
#: Resamples of the bootstrap, drawn from one seed: the same values give the same result.
RESAMPLES = 10_000
#: Of the bootstrap of a rank correlation, which looks at all pairs of what is ranked.
RANK_RESAMPLES = 2_000
#: Pairs below which a bootstrap is too sure of itself to be shown.
LEAST_PAIRS = 4


@dataclass(frozen=True)
class Summary:
    """Some values.

    Attributes:
        n, mean: number and mean.
        std: sample standard deviation (n − 1); None of one value.
        low, high: interval that covers the mean of the population with a probability of 95 %, by Student's t; None of
            one value.
    """

    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Comparison:
    """The difference of the means of two samples, and whether they are told apart.

    Attributes:
        difference: of the means, the first less the second.
        low, high: its 95 % interval by Welch's t; None where a sample has one value, or neither has a spread.
        p: of Welch's test, two-sided; None as before.
        pairs: how many pairs there are.
        paired_low, paired_high: 95 % interval of the mean of the differences of the pairs, by the bootstrap (bias
            corrected and accelerated, Efron 1987); None below `LEAST_PAIRS`, or where all differences are equal.
        paired_p: two-sided, by the same bootstrap of differences that are shifted to a mean of zero.
    """

    difference: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    pairs: int = 0
    paired_low: float | None = None
    paired_high: float | None = None
    paired_p: float | None = None


def summary(values: Sequence[float]) -> Summary:
    """Mean, deviation and interval of one or more values."""
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Summary(n, mean, None, None, None)
    std = float(np.std(values, ddof=1))
    half = float(stats.t.ppf(0.975, n - 1)) * std / math.sqrt(n)
    return Summary(n, mean, std, mean - half, mean + half)


def compare(own: Mapping[int, float], base: Mapping[int, float], paired: bool = True) -> Comparison:
    """Compare two samples.

    Args:
        own, base: values by what makes them pairs, such as the seed; each at least one.
        paired: whether equal keys are pairs.
    """
    a, b = list(own.values()), list(base.values())
    difference = float(np.mean(a) - np.mean(b))
    found = _welch(a, b) or {}
    both = [key for key in own if key in base] if paired else []
    changes = np.array([own[key] - base[key] for key in both])
    found |= _bootstrap(changes) or {}
    return Comparison(difference, pairs=len(both), **found)


def _welch(a: Sequence[float], b: Sequence[float]) -> dict[str, float] | None:
    """Welch's test (1947): means of samples whose variances may differ."""
    if min(len(a), len(b)) < 2 or not (np.ptp(a) > 0 or np.ptp(b) > 0):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where all values of one sample are equal
        result = stats.ttest_ind(a, b, equal_var=False)
    interval = result.confidence_interval(0.95)
    return {"low": float(interval.low), "high": float(interval.high), "p": float(result.pvalue)}


def _bootstrap(changes: np.ndarray) -> dict[str, float] | None:
    """Interval of the mean of differences (n,), and the share of means under the null that lie as far from zero."""
    n = len(changes)
    if n < LEAST_PAIRS or not np.ptp(changes) > 0:
        return None
    draws = np.random.default_rng(0)
    result = stats.bootstrap((changes,), np.mean, n_resamples=RESAMPLES, confidence_level=0.95, random_state=draws)
    mean = changes.mean()
    null = result.bootstrap_distribution - mean
    beyond = int((np.abs(null) >= abs(mean) * (1 - 1e-12)).sum())
    low, high = map(float, result.confidence_interval)
    return {"paired_low": low, "paired_high": high, "paired_p": (beyond + 1) / (RESAMPLES + 1)}


@dataclass(frozen=True)
class RankCorrelation:
    """Kendall's τ-b, the mean of several.

    Attributes:
        each: τ of each pair of rankings; None where one side has no order.
        mean: of those that there are; None without any.
        low, high: its 95 % interval, for other things of the kind that were ranked; None as before.
    """

    each: tuple[float | None, ...]
    mean: float | None
    low: float | None = None
    high: float | None = None

    def in_words(self) -> str:
        """`0.31 (95 % 0.20 to 0.42)`; `undefined` without an order."""
        if self.mean is None:
            return "undefined"
        return f"{self.mean:.2f} (95 % {self.low:.2f} to {self.high:.2f})"


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Kendall's τ-b; None where one side has no order."""
    tau = float(stats.kendalltau(x, y).statistic)
    return None if math.isnan(tau) else tau


def rank_correlations(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> RankCorrelation:
    """Kendall's τ-b of pairs of rankings of the same n things, with an interval of the mean.

    The interval is a percentile bootstrap over the things: a resample draws n of them with replacement, the same for
    all pairs. With c the number of times that each was drawn and A, B the signs of the differences of both sides,
    τ = cᵀ(A∘B)c / √(cᵀ|A|c · cᵀ|B|c), which is τ-b of the resample, whose repetitions are ties.

    Args:
        pairs: of values (n,), each.
    """
    each = tuple(rank_correlation(x, y) for x, y in pairs)
    known = {place: tau for place, tau in enumerate(each) if tau is not None}
    if not known:
        return RankCorrelation(each, None)
    n = len(pairs[0][0])
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RANK_RESAMPLES).astype(float)
    taus = []
    for place in known:
        a, b = (np.sign(np.subtract.outer(values, values)) for values in map(np.asarray, pairs[place]))
        agreement, untied_a, untied_b = (((counts @ m) * counts).sum(1) for m in (a * b, np.abs(a), np.abs(b)))
        untied = np.sqrt(untied_a * untied_b)
        taus.append(np.divide(agreement, untied, out=np.full(len(untied), np.nan), where=untied > 0))
    low, high = np.nanpercentile(np.mean(taus, axis=0), [2.5, 97.5])
    return RankCorrelation(each, float(np.mean(list(known.values()))), float(low), float(high))


def uniform_p(percentiles: Sequence[float]) -> float | None:
    """Whether cells stand otherwise among all cells of their space than cells drawn uniformly do.

    The probability that as many independent numbers, uniform in 0 to 100, have a mean as far from 50, on either side:
    that of the Irwin-Hall distribution, F(x) = Σₖ (−1)ᵏ C(n, k) (x − k)ⁿ / n! over k ≤ x of the sum x of n shares, in
    exact fractions. All cells of the space are compared with, where Welch's test knows a few random ones alone.

    Args:
        percentiles: of each found cell, the share of all cells that it exceeds, in percent; none gives None.
    """
    n = len(percentiles)
    if not n:
        return None
    total = sum((Fraction(value) / 100 for value in percentiles), Fraction())
    tail = min(total, n - total)
    terms = ((-1) ** k * math.comb(n, k) * (tail - k) ** n for k in range(math.floor(tail) + 1))
    return min(1.0, 2 * float(sum(terms, Fraction()) / math.factorial(n)))


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for there being several (Holm 1979): any false one is as rare as asked for. None stays."""
    known = sorted((value, place) for place, value in enumerate(values) if value is not None)
    corrected: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (value, place) in enumerate(known):
        largest = max(largest, min(1.0, value * (len(known) - rank)))
        corrected[place] = largest
    return corrected


def verdict(name: str, base: str, found: Comparison, p: float | None, comparisons: int) -> str:
    """A comparison in a sentence.

    Args:
        name, base: of the two.
        found: the comparison.
        p: that of Welch's test, corrected.
        comparisons: for how many it is.
    """
    points = f"{found.difference:+.2f} points"
    if p is None or found.low is None or found.high is None:
        return f"{name}: {points} to {base}; not tested, which takes two or more runs of each that differ"
    interval, tested = f"95 % interval {found.low:+.2f} to {found.high:+.2f}", _tested("Welch", p, comparisons)
    if p >= ALPHA:
        return f"{name}: not told apart from {base}, {points}, {interval}, {tested}"
    return f"{name}: {'better' if found.difference > 0 else 'worse'} than {base}, {points}, {interval}, {tested}"


def place_verdict(name: str, mean: float, p: float, comparisons: int) -> str:
    """How the cells of a method stand in their space, in a sentence.

    Args:
        name: of the method.
        mean: share of all cells that they exceed, in percent.
        p: of `uniform_p`, corrected.
        comparisons: for how many it is.
    """
    found = "not told apart from" if p >= ALPHA else "better than" if mean > 50 else "worse than"
    tested = _tested("percentiles", p, comparisons)
    return f"{name}: {found} cells drawn from the space, above {mean:.1f} % of them, {tested}"


def _tested(test: str, p: float, comparisons: int) -> str:
    corrected = f", corrected for {comparisons} comparisons" * (comparisons > 1)
    return f"p {format_p(p) if p < 0.001 else f'= {format_p(p)}'} ({test}{corrected})"


def format_p(p: float | None) -> str:
    """`0.031`, `< 0.001`; an em dash without one."""
    if p is None:
        return "—"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def interval_text(low: float | None, high: float | None) -> str | None:
    """`91.20 to 93.10`; None without one."""
    return None if low is None or high is None else f"{low:.2f} to {high:.2f}"
