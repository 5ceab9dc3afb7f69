"""Proposition 1 of DARTS-PT: its formula against brute force, and its variances against samples."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from tests.helpers.studies import rows_of

from topocell import studies
from topocell.errors import RecipeError
from topocell.studies import skip_optimum
from topocell.studies.skip_optimum import Moments, moments_of, optimal_skip, variance


def maps(seed: int, correlation: float, d: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A skip connection, a convolution and a feature map of unit variance."""
    draw = torch.Generator().manual_seed(seed)
    m, a, b = torch.randn(3, d, d, generator=draw, dtype=torch.float64)
    x, o = correlation * m + a, (1 - correlation) * m + b
    return tuple(each / variance(each).sqrt() for each in (x, o, m))


@pytest.mark.parametrize(("seed", "correlation"), list(itertools.product(range(3), (0.0, 0.4, 3.0, -2.0))))
def test_the_formula_is_the_minimum_over_all_weights(seed: int, correlation: float) -> None:
    x, o, m = maps(seed, correlation)
    weights = torch.linspace(0, 1, 20001, dtype=torch.float64)
    mixed = weights[:, None, None] * x + (1 - weights[:, None, None]) * o - m
    best = float(weights[mixed.square().sum((1, 2)).argmin()])
    found = moments_of(x, o, m)
    assert optimal_skip(found) == pytest.approx(best, abs=6e-5)
    assert skip_optimum.minimised(x, o, m) == pytest.approx(best, abs=6e-5)
    assert (optimal_skip(found) > 0.5) == (found.skip < found.conv)


def test_alpha_is_the_logarithm_of_variance_minus_covariance() -> None:
    """Eq. 18 and 19: softmax over α gives the weights, where both differences are positive."""
    moments = Moments(skip=0.4, conv=1.0, cov=0.1)
    alpha = torch.tensor([math.log(moments.conv - moments.cov), math.log(moments.skip - moments.cov)])
    assert optimal_skip(moments) == pytest.approx(float(alpha.softmax(0)[0])) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("moments", "weight"),
    [
        (Moments(0.2, 1.0, 0.5), 1.0),  # Var(x - m) below the covariance: any convolution makes it worse
        (Moments(1.0, 0.2, 0.5), 0.0),
        (Moments(0.7, 0.7, 0.7), 0.5),  # two estimates that are one
        (Moments(1.0, 1.0, -0.3), 0.5),
    ],
)
def test_optima_at_the_ends_and_in_the_middle(moments: Moments, weight: float) -> None:
    assert optimal_skip(moments) == weight


def test_variances_are_those_of_gaussian_features() -> None:
    x, o, m = maps(0, 0.4)
    z = torch.randn(400_000, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    a, b = z @ (x - m).T, z @ (o - m).T
    sampled = [float(values.mean()) for values in (a.square(), b.square(), a * b)]
    assert list(moments_of(x, o, m)) == pytest.approx(sampled, rel=0.01)
    assert [float(variance(each)) for each in (x, o, m)] == pytest.approx([1, 1, 1])


def test_the_study_and_that_gaps_grow_as_the_estimate_gets_better(tmp_path: Path) -> None:
    words = ["edges=3", "channels=4", "steps=120", "moments=1", "seeds=0,1"]
    folder = studies.run("skip-optimum", words, tmp_path / "a")
    rows = rows_of(folder)
    assert [(r["seed"], r["step"], r["edge"]) for r in rows] == [
        (seed, step, edge) for seed in "01" for step in ("0", "120") for edge in "012"
    ]
    for row in rows:
        moments = Moments(float(row["var skip"]), float(row["var conv"]), float(row["cov"]))
        assert float(row["formula %"]) == pytest.approx(100 * optimal_skip(moments))
        assert float(row["minimised %"]) == pytest.approx(float(row["formula %"]), abs=1e-4)
    summary = json.loads((folder / "study.json").read_text())["summary"]
    assert summary["largest difference"] < 1e-6 and summary["closer weighs more"] == 1
    assert summary["gap"][1] > summary["gap"][0] + 0.1
    assert float(rows[3]["correlation"]) > 0.9 > float(rows[0]["correlation"])
    assert (folder / "figure.svg").exists()


@pytest.mark.parametrize("word", ["edges=0", "channels=1", "steps=0", "estimate=first", "epochs=3"])
def test_networks_that_cannot_be(word: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"study skip-optimum: .*{word.partition('=')[0]}"):
        studies.run("skip-optimum", [word], tmp_path / "a")
    assert not (tmp_path / "a").exists()
