"""DARTS-PT, Proposition 1: the weights of a skip connection and a convolution that estimate a feature map best."""

import math
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from topocell.runtime.provenance import environment
from topocell.runtime.rng import generator
from topocell.studies import _drawings
from topocell.studies._items import Bench, Outcome
from topocell.studies._options import Options, Seeds
from topocell.studies._training import spread

#: Correlation of the input of the first edge with the optimal feature map.
START = 0.3


class SkipOptimum(Options):
    """Options of `skip-optimum`."""

    edges: int = Field(6, ge=1, description="edges in a row, each with a skip connection and a convolution")
    channels: int = Field(8, ge=2, description="channels of the feature map")
    estimate: Literal["every", "end"] = Field(
        "every", description="which edges are trained to estimate the feature map: every one, or the last alone"
    )
    steps: int = Field(300, ge=1, description="steps of Adam, 0.01, on the weights and α")
    moments: int = Field(6, ge=1, description="how often the edges are examined in the course of training")
    seeds: Seeds = Field((0, 1, 2), description="seeds of the networks")


class Moments(NamedTuple):
    """Variances of what a skip connection and a convolution estimate minus the feature map, and their covariance."""

    skip: float
    conv: float
    cov: float


def measure(bench: Bench, options: SkipOptimum) -> Outcome:
    """The best weight of a skip connection by the formula of the paper's proof, and found by minimising, edge by edge.

    The network is a row of edges, x ← θ_conv · o(x) + θ_skip · x, with 1×1 convolutions o over Gaussian features and
    everything brought to unit variance, as the proposition assumes. All is linear, so every variance is exact: a trace
    of products of matrices, and no sample. Weights and α are trained together to estimate the feature map m* on
    every edge. At several moments the weight θ_skip that minimises Var(θ_conv · o(x) + θ_skip · x − m*) is found by
    search over [0, 1] and set beside (Var(o − m*) − Cov) / (Var(o − m*) + Var(x − m*) − 2 Cov), the proof's Eq. 16,
    taken to the end of the interval where it lies outside. (Eq. 3 and 4 of the text leave out the covariance and the
    logarithm of Eq. 18 and 19: what holds is that the skip connection weighs more where x is closer to m*.) The ± is
    over networks.
    """
    found = environment("cpu", "", {str(i): seed for i, seed in enumerate(options.seeds)})
    bench.begin(len(options.seeds), {"start": START}, found)
    rows = [
        {"seed": seed, **row}
        for seed in options.seeds
        for row in bench.item(f"network-seed-{seed}", lambda seed: {"rows": examined(options, seed)}, seed)["rows"]
    ]
    worst = max(abs(row["formula %"] - row["minimised %"]) / 100 for row in rows)
    agreeing = sum((row["minimised %"] > 50) == (row["var skip"] < row["var conv"]) for row in rows)
    paths = [_path(seed, [row for row in rows if row["seed"] == seed]) for seed in options.seeds]
    first, last = (spread([path.y[i] for path in paths])[0] for i in (0, -1))
    x, y = "correlation of the last edge with the feature map", "optimal weight of skip − conv"
    return Outcome(
        rows,
        lambda path: _drawings.paths(paths, x, y, path),
        len(options.seeds),
        {"largest difference": worst, "closer weighs more": agreeing / len(rows), "gap": [first, last]},
        [
            f"The largest difference of formula and minimum is {worst:.1e}, over {len(rows)} edges.",
            f"The operation that is closer to the feature map weighs more on {agreeing} of {len(rows)} edges.",
            f"The mean gap goes from {first:.3f} before training to {last:.3f} after it.",
        ],
    )


def optimal_skip(moments: Moments) -> float:
    """Return the weight of the skip connection in [0, 1] with the least variance (Eq. 16); 1/2 where all are equal."""
    conv, skip = moments.conv - moments.cov, moments.skip - moments.cov
    whole = conv + skip  # Var(o - x), which is never negative
    return 0.5 if whole <= 0 else min(max(conv / whole, 0.0), 1.0)


def examined(options: SkipOptimum, seed: int) -> list[dict[str, Any]]:
    """Train one network; return a row for each edge at each moment, in the order of time."""
    draw, d = generator(seed, "skip optimum"), options.channels
    m, noise = (torch.linalg.qr(torch.randn(d, d, generator=draw, dtype=torch.float64))[0] for _ in range(2))
    first = START * m + math.sqrt(1 - START**2) * noise
    convs = torch.randn(options.edges, d, d, generator=draw, dtype=torch.float64).div_(math.sqrt(d)).requires_grad_()
    alpha = torch.zeros(options.edges, 2, dtype=torch.float64, requires_grad=True)  # skip, conv
    optimizer = torch.optim.Adam([convs, alpha], lr=0.01)
    seen = {round(i * options.steps / options.moments) for i in range(options.moments + 1)}
    rows: list[dict[str, Any]] = []
    for step in range(options.steps + 1):
        pairs, maps = _forward(first, convs, alpha)
        misses = torch.stack([variance(x - m) for x in maps])
        loss = misses.mean() if options.estimate == "every" else misses[-1]
        if step in seen:
            correlation = 1 - misses[-1].item() / 2  # of two maps of unit variance: their correlation
            rows += [{"step": step, "edge": e, "correlation": correlation, **_row(*p, m)} for e, p in enumerate(pairs)]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return rows


def variance(map_: Tensor) -> Tensor:
    """Variance per channel of features A·z with z ~ N(0, 1), from A (d, d): the trace of A Aᵀ over d."""
    return map_.square().sum() / len(map_)


def _forward(first: Tensor, convs: Tensor, alpha: Tensor) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor]]:
    """Skip connection and convolution of every edge, and what comes of them, all of unit variance."""
    x, pairs, maps = _unit(first), [], []
    for conv, weights in zip(convs, alpha.softmax(1)):
        o = _unit(conv @ x)
        pairs.append((x.detach(), o.detach()))
        x = _unit(weights[0] * x + weights[1] * o)
        maps.append(x)
    return pairs, maps


def _unit(map_: Tensor) -> Tensor:
    return map_ / variance(map_).sqrt()


def moments_of(x: Tensor, o: Tensor, m: Tensor) -> Moments:
    """Return the exact moments of two estimates of a feature map, all linear in the same Gaussian features."""
    cov = ((x - m) * (o - m)).sum() / len(m)
    return Moments(variance(x - m).item(), variance(o - m).item(), cov.item())


def minimised(x: Tensor, o: Tensor, m: Tensor) -> float:
    """The weight of the skip connection of least variance, by golden-section search over [0, 1]."""
    low, high, ratio = 0.0, 1.0, (math.sqrt(5) - 1) / 2
    while high - low > 1e-9:
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        at_a, at_b = (variance(weight * x + (1 - weight) * o - m).item() for weight in (a, b))
        low, high = (low, b) if at_a < at_b else (a, high)
    return (low + high) / 2


def _row(x: Tensor, o: Tensor, m: Tensor) -> dict[str, float]:
    found = moments_of(x, o, m)
    named = {"var skip": found.skip, "var conv": found.conv, "cov": found.cov}
    return {**named, "formula %": 100 * optimal_skip(found), "minimised %": 100 * minimised(x, o, m)}


def _path(seed: int, rows: list[dict[str, Any]]) -> _drawings.Path2D:
    by_step = {row["step"]: [r for r in rows if r["step"] == row["step"]] for row in rows}
    gaps = [spread([row["minimised %"] / 50 - 1 for row in mine])[0] for mine in by_step.values()]
    return _drawings.Path2D(f"seed {seed}", [mine[0]["correlation"] for mine in by_step.values()], gaps)
