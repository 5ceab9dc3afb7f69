"""Races: they end as the whole split would as often as they say, keep the sums right, and know when to compare."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats
from tests.helpers.identical import assert_identical
from torch import Tensor

from topocell.config.selection import Racing
from topocell.selection.racing import SEPARATED, TIE, WHOLE, Race, best

CPU = torch.device("cpu")


def run(loss: Tensor, keep: int = 1, size: int = 16, metric: str = "loss", rules: Racing | None = None) -> Race:
    """A race over losses (candidates, images), batch by batch; of the answers those of a loss below one are correct."""
    batches = loss.split(size, 1)
    race = Race(len(loss), keep, metric, len(batches), loss.shape[1], rules, CPU)
    while race.ended is None:
        part = batches[race.batch][race.open]
        race.add(part, part < 1)
    return race


def losses(candidates: int, images: int, spread: float, gap: float, seed: int) -> Tensor:
    """Images differ much, candidates little and by a normal noise; candidate i is worth i · gap, in a random order."""
    draws = torch.Generator().manual_seed(seed)
    shared = torch.randn(1, images, generator=draws) + 1
    own = spread * torch.randn(candidates, images, generator=draws)
    return shared + own + gap * torch.randperm(candidates, generator=draws)[:, None]


@given(st.integers(2, 6), st.integers(1, 3), st.integers(0, 10**6), st.sampled_from(["loss", "accuracy"]))
@settings(max_examples=40)
def test_without_rules_the_whole_split_decides(candidates: int, keep: int, seed: int, metric: str) -> None:
    loss = losses(candidates, 40, 1.0, 0.0, seed)
    race = run(loss, min(keep, candidates), metric=metric)
    assert race.ended == WHOLE and race.images == [40] * candidates and race.comparisons == 0
    worth = loss.double().mean(1) if metric == "loss" else -(loss < 1).double().mean(1)
    assert race.kept == sorted(best(worth.tolist(), range(candidates), min(keep, candidates)))
    assert race.worth() == pytest.approx(worth.tolist())
    measured = race.measured(1)
    assert measured.loss == pytest.approx(float(loss[1].double().mean()))
    assert (measured.accuracy, measured.images) == (float((loss[1] < 1).double().mean()), 40)


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
@pytest.mark.parametrize("keep", [1, 2])
def test_a_race_decides_as_the_whole_split_as_often_as_it_says(metric: str, keep: int) -> None:
    """Candidates two standard errors of the whole split apart, so that many decisions hang on the last images."""
    rules, wrong, early, n = Racing(confidence=0.9), 0, 0, 60
    for seed in range(n):
        loss = losses(4, 1024, 0.5, 0.05, seed)
        race = run(loss, keep, 64, metric, rules)
        whole = run(loss, keep, 1024, metric)
        wrong += race.kept != whole.kept
        early += race.ended == SEPARATED
    assert wrong <= stats.binom.ppf(0.999, n, 0.1)
    assert early > 5


def test_a_clear_leader_saves_most_of_the_split() -> None:
    race = run(losses(7, 4096, 0.2, 0.3, 0), 1, 64, "loss", Racing())
    assert race.ended == SEPARATED and race.comparisons == 1 and race.images == [128] * 7
    assert sum(race.images) * 20 < 7 * 4096


def test_those_that_are_out_leave_while_the_others_go_on() -> None:
    loss = losses(4, 2048, 0.2, 0.0, 3)
    loss[0] += 0.02
    loss[1] += 0.01
    race = run(loss, 1, 16, "loss", Racing())
    assert race.kept == [0] and race.images[0] == race.images[1] > max(race.images[2:])
    two = run(loss, 2, 16, "loss", Racing())
    assert two.kept == [0, 1] and two.ended == SEPARATED
    assert run(loss, 3, 16, "loss", Racing()).kept == sorted(best(loss.mean(1).tolist(), range(4), 3))


def test_the_bound_is_that_of_a_paired_t_test_on_a_part_of_the_split() -> None:
    """At the first of two comparisons, of three candidates for one place."""
    loss = losses(3, 64, 1.0, 0.0, 1)
    rules = Racing(confidence=0.9, first=1)
    race = Race(3, 1, "loss", 4, 64, rules, CPU)
    assert rules.comparisons(4) == [1, 2]
    race._due = [9, 10]  # two comparisons that are never due
    race.add(loss[:, :16], loss[:, :16] < 1)
    lead, doubt = race._leads()
    difference = (loss[0, :16] - loss[2, :16]).double()
    error = float(difference.std()) / 4 * math.sqrt(1 - 16 / 64)
    assert float(lead[0, 2]) == pytest.approx(float(difference.mean())) == pytest.approx(-float(lead[2, 0]))
    assert float(doubt[0, 2]) == pytest.approx(float(stats.t.ppf(1 - 0.1 / (2 * 2), 15)) * error)


def test_nothing_is_told_from_what_does_not_differ() -> None:
    """A difference that is the same for all images has no spread to be judged by, and equal candidates have none."""
    loss = losses(1, 64, 0.0, 0.0, 0).repeat(3, 1)
    loss[1] += 0.5
    race = run(loss, 1, 16, "loss", Racing(first=1, margin=1.0))
    assert race.ended == WHOLE and race.kept == [1] and race.images == [64] * 3
    assert run(loss[[0, 0, 0]], 2, 16, "loss", Racing(first=1)).kept == [0, 1]  # the first of equals


def test_within_the_margin_the_leader_stays() -> None:
    loss = losses(4, 4096, 0.2, 0.001, 5)
    hard = run(loss, 1, 16, "loss", Racing())
    easy = run(loss, 1, 16, "loss", Racing(margin=0.05))
    assert easy.ended == TIE and sum(easy.images) * 4 < sum(hard.images)
    worth = loss.double().mean(1)
    assert float(worth[easy.kept[0]]) >= float(worth.max()) - 0.05


def test_one_candidate_needs_no_more_than_one_batch() -> None:
    assert run(losses(1, 64, 1.0, 0.0, 0), 1, 16, "loss", Racing(first=1)).images == [16]


@given(st.integers(1, 9), st.floats(1.01, 4), st.integers(1, 500))
def test_comparisons_grow_up_to_the_end_of_the_split(first: int, growth: float, batches: int) -> None:
    comparisons = Racing(first=first, growth=growth).comparisons(batches)
    assert comparisons[:1] == ([first] if first < batches else []) and comparisons == sorted(set(comparisons))
    assert all(at < batches for at in comparisons)
    assert all(after >= before * growth for before, after in pairwise(comparisons))
    assert Racing().comparisons(391) == [2, 4, 8, 16, 32, 64, 128, 256]


@pytest.mark.parametrize(
    "options", [{"confidence": 1}, {"confidence": 0.5}, {"first": 0}, {"growth": 1}, {"comparisons": 3}]
)
def test_rules_that_cannot_be(options: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Racing(**options)


def test_a_race_goes_on_from_its_state() -> None:
    loss = losses(5, 1024, 0.3, 0.01, 2)
    whole = run(loss, 2, 16, "loss", Racing())
    first = Race(5, 2, "loss", 64, 1024, Racing(), CPU)
    while first.comparisons < 3:
        part = loss[first.open, 16 * first.batch : 16 * (first.batch + 1)]
        first.add(part, part < 1)
    second = Race(5, 2, "loss", 64, 1024, Racing(), CPU)
    second.load_state_dict(first.state_dict())
    while second.ended is None:
        part = loss[second.open, 16 * second.batch : 16 * (second.batch + 1)]
        second.add(part, part < 1)
    assert_identical(second.state_dict(), whole.state_dict())
