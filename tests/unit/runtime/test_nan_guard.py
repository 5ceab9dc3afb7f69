"""A step that is not finite is found, explained in one line, and leaves no trace that it should not leave."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.helpers.identical import assert_identical, flat
from torch import nn

from topocell import spaces
from topocell.config.load import load_recipe
from topocell.config.retrain import RetrainPlan
from topocell.config.search import SearchPlan
from topocell.config.values import OnNan
from topocell.data import splits
from topocell.data.splits import Batches, Dataset, SearchData
from topocell.errors import RecipeError, RunError
from topocell.genotype.genotype import Genotype
from topocell.networks.retraining import Retraining
from topocell.runtime.hooks import Silent
from topocell.runtime.nan_guard import READ_EVERY, Group, Guard, Place, total_norm
from topocell.searching.loop import Search

# --- the guard alone


class Training:
    """Regression with momentum and batch norm: everything that a step can change."""

    def __init__(self, on_nan: OnNan, device: str = "cpu", rate: float = 0.1) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
        self.optimizer = torch.optim.SGD(self.net.parameters(), rate, momentum=0.9)
        self.said: list[str] = []
        parts = {"net": self.net, "optimizer": self.optimizer}
        self.guard = Guard(on_nan, torch.device(device), lambda: parts, self.place, self.said.append)
        self.number = 0

    def batch(self, number: int) -> torch.Tensor:
        return torch.randn(4, 3, generator=torch.Generator().manual_seed(number))

    def place(self, number: int) -> Place:
        parameters = list(self.net.parameters())
        groups = [Group("the weights", parameters, "weights.lr", self.optimizer.param_groups[0]["lr"])]
        return Place(f"step {number}", groups, [("train", torch.arange(10, 14), self.batch(number))])

    def run(self, steps: int, bad: tuple[int, ...] = (), of: int = 100) -> "Training":
        for _ in range(steps):
            self.guard.step(self.number, of, lambda: self.step(self.number in bad))
            self.number += 1
        return self

    def step(self, bad: bool) -> bool:
        self.optimizer.zero_grad()
        loss = self.net(self.batch(self.number)).square().mean() * (math.nan if bad else 1.0)
        loss.backward()
        self.guard.see("the loss", loss)
        self.guard.see("the gradient norm", total_norm(p.grad for p in self.net.parameters()))
        self.optimizer.step()
        return True

    def state(self) -> dict[str, Any]:
        return copy.deepcopy({"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()})


def test_it_changes_nothing_where_all_is_finite() -> None:
    states = []
    for on_nan in ("stop", "skip", "rollback"):
        training = Training(on_nan)
        training.guard.begin_epoch()
        states.append(training.run(5).state())
    assert_identical(states[0], states[1])
    assert_identical(states[0], states[2])


def test_stop_keeps_the_weights_of_before() -> None:
    training = Training("stop").run(3)
    before = [p.detach().clone() for p in training.net.parameters()]
    with pytest.raises(RunError, match="the loss must stay finite, but is nan in step 3: ") as caught:
        training.run(1, bad=(3,))
    assert all(torch.equal(p, b) for p, b in zip(training.net.parameters(), before))
    assert "\n" not in str(caught.value)
    assert "topocell run RUN/recipe.yaml on_nan=skip --out RUN" in str(caught.value)


def test_skip_leaves_no_trace_of_the_batch() -> None:
    training = Training("skip").run(3)
    before = training.state()
    assert training.guard.step(3, 100, lambda: training.step(True)) is None
    assert_identical(training.state(), before)
    assert training.guard.skipped == 1 and len(training.said) == 1 and "the batch is skipped" in training.said[0]
    assert all(p.grad is None for p in training.net.parameters())


def test_skipping_the_very_first_batch_leaves_no_momentum() -> None:
    training = Training("skip")
    before = training.state()
    training.run(1, bad=(0,))
    assert_identical(training.state(), before)
    assert training.optimizer.state_dict()["state"] == {}


def test_rollback_goes_back_to_the_start_of_the_epoch_and_on_behind_the_batch() -> None:
    training = Training("rollback").run(2)
    start = training.state()
    training.guard.begin_epoch()
    training.run(3)
    assert flat(training.state()) != flat(start)
    training.run(1, bad=(5,))
    assert_identical(training.state(), start)
    training.run(2)

    other = Training("stop").run(2)
    other.number = 6
    assert_identical(training.state(), other.run(2).state())


@pytest.mark.parametrize("on_nan", ["skip", "rollback"])
def test_a_resumed_epoch_does_as_the_whole_one(on_nan: OnNan) -> None:
    def begun() -> Training:
        training = Training(on_nan)
        training.guard.begin_epoch()
        return training.run(3, bad=(1,))

    whole = begun()
    state = copy.deepcopy(whole.state() | {"guard": whole.guard.state_dict()})
    whole.run(3, bad=(4,))
    resumed = Training(on_nan)
    resumed.net.load_state_dict(state["net"])
    resumed.optimizer.load_state_dict(state["optimizer"])
    resumed.guard.load_state_dict(state["guard"])
    resumed.number = 3
    resumed.run(3, bad=(4,))
    assert_identical(resumed.state(), whole.state())
    assert resumed.guard.skipped == whole.guard.skipped == 2


def test_one_batch_in_ten_may_be_skipped() -> None:
    training = Training("skip").run(20, bad=(3, 7), of=20)
    with pytest.raises(RunError, match=r"at most one batch in ten .* number 3 of 20"):
        training.run(1, bad=(20,), of=20)
    training.guard.end_epoch()
    assert training.guard.skipped == 0
    with pytest.raises(RunError, match="number 2 of 4"):
        Training("skip").run(4, bad=(0, 3), of=4)


def test_on_a_device_values_are_read_seldom_and_the_step_is_named_all_the_same() -> None:
    training = Training("stop", device="cuda").run(7, bad=(4,))  # none is read yet
    with pytest.raises(
        RunError, match="the loss must stay finite, but is nan in step 4: the weights have grown to nan"
    ):
        training.guard.check()
    training = Training("stop", device="cuda")
    with pytest.raises(RunError, match="in step 2"):
        training.run(READ_EVERY, bad=(2,))
    assert training.number < READ_EVERY


def test_an_overflowing_update_is_found_before_it_is_saved() -> None:
    training = Training("stop").run(1)
    with torch.no_grad():
        training.net[0].weight[1, 1] = math.inf  # as a step of a finite gradient can leave it
    with pytest.raises(RunError, match=r"every parameter must stay finite, .*; lower weights\.lr"):
        training.guard.check()
    Training("stop").run(1).guard.check()


def test_the_likely_cause_is_the_images_then_what_has_grown_then_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(training: Training) -> str:
        with pytest.raises(RunError) as caught:
            training.run(1, bad=(training.number,))
        return str(caught.value)

    assert "images, weights and logits before it are finite; lower weights.lr" in fault(Training("stop"))
    training = Training("stop", rate=1e20).run(1)
    assert "the weights have grown to" in fault(training) and "at a learning rate of 1e+20" in fault(training)
    broken = torch.zeros(4, 3)
    broken[[1, 3], 0] = math.inf
    monkeypatch.setattr(Training, "batch", lambda self, number: broken)
    assert "image 11, 13 of the split 'train' is not finite; mend it" in fault(Training("stop", rate=1e20))


# --- in a search and in retraining

SPACE = spaces.get("darts", nodes=2, candidates=("none", "skip_connect", "sep_conv_3x3"))
SETS = {"name": "subsets", "view": "source", "sizes": "any"}
LEVELS = ["weights", "single", "bilevel", "bilevel-weights-first", "unrolled", "mixed"]
PARTS = ("net", "arch", "weights", "alpha", "beta")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return splits.load("digits", images=96, test_images=20)


@pytest.fixture(scope="module")
def halves(digits: Dataset) -> SearchData:
    """Three steps of 16 an epoch."""
    return splits.search_data(digits, {"train": 0.5, "val": 0.5}, seed=0)


class States(Silent):
    """Keeps every state and every line."""

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []
        self.records: list[Any] = []
        self.said: list[str] = []

    def checkpoint(self, state: Callable[[], dict[str, Any]], due: bool = False) -> None:
        self.states.append(copy.deepcopy(state()))

    def metrics(self, record: Any) -> None:
        self.records.append(record)

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes image 5 of one batch infinite: of a stream that ends in a word, at an epoch and step."""

    def breaks(stream: str, epoch: int, step: int) -> None:
        real = Batches.batch

        def batch(self: Batches, *at: int) -> tuple[torch.Tensor, torch.Tensor]:
            x, y = real(self, *at)
            if self.stream.endswith(stream) and at == (epoch, step):
                x[5] = math.inf
            return x, y

        monkeypatch.setattr(Batches, "batch", batch)

    return breaks


def plan(level: str, **options: Any) -> SearchPlan:
    stage = {"name": "only", "epochs": 2, "level": level, "topology": SETS, **options}
    return SearchPlan.model_validate(
        {"channels": 4, "layers": 3, "batch_size": 16, "evaluation_batches": 1, "stages": [stage]}
    )


@pytest.mark.parametrize("level", LEVELS)
def test_a_broken_image_stops_a_search_with_one_line(level: str, halves: SearchData, broken: Any) -> None:
    broken("weights", 1, 2)
    monitor = States()
    search = Search(plan(level), SPACE, halves, monitor=monitor)
    with pytest.raises(RunError) as caught:
        search.run()
    text = str(caught.value)
    assert "must stay finite" in text and "stage 'only', epoch 1, step 2" in text and "\n" not in text
    number = int(search.streams.train.numbers(1, 2)[5])
    assert f"image {number} of the split 'train' is not finite" in text
    assert (monitor.states[-1]["epoch"], monitor.states[-1]["step"]) == (1, 2)
    Search(plan(level), SPACE, halves).load_state_dict(monitor.states[-1])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("stream", ["weights", "alpha"])
def test_a_skipped_batch_leaves_no_trace_in_a_search(level: str, stream: str, halves: SearchData, broken: Any) -> None:
    if stream == "alpha" and level in ("weights", "single"):
        return  # they draw no other batches
    broken(stream, 0, 1)
    monitor = States()
    Search(plan(level), SPACE, halves, monitor=monitor, on_nan="skip").run()
    before, after = monitor.states[:2]
    assert (before["step"], after["step"]) == (1, 2)
    assert_identical({part: before[part] for part in PARTS}, {part: after[part] for part in PARTS})
    assert [record.get("skipped") for record in monitor.records] == [1, None]
    assert len(monitor.said) == 1 and "image " in monitor.said[0]
    assert monitor.states[-1]["meter"]["images"] == 0


def test_a_rolled_back_search_goes_on_exactly_after_a_kill(halves: SearchData, broken: Any) -> None:
    broken("weights", 1, 1)
    whole, resumed, constant = States(), States(), plan("bilevel", weights={"lr": 0.02})
    Search(constant, SPACE, halves, monitor=whole, on_nan="rollback").run()
    at = [(state["epoch"], state["step"]) for state in whole.states]
    start, behind = (whole.states[at.index(place)] for place in ((1, 0), (1, 2)))
    assert_identical({part: start[part] for part in PARTS}, {part: behind[part] for part in PARTS})
    second = Search(constant, SPACE, halves, monitor=resumed, on_nan="rollback")
    second.run(whole.states[at.index((1, 1))])
    assert_identical(resumed.states[-1], whole.states[-1])


@pytest.mark.parametrize(
    ("group", "named"),
    [("weights", "the weights have"), ("alpha", "the logits of alpha"), ("beta", "the logits of beta")],
)
def test_the_group_whose_learning_rate_is_to_blame_is_named(group: str, named: str, halves: SearchData) -> None:
    rate = {"lr": 1e38} | ({"clip": None} if group == "weights" else {})
    with pytest.raises(RunError, match=rf"{named}.*; lower search\.stages\.only\.{group}\.lr"):
        Search(plan("bilevel", **{group: rate}), SPACE, halves).run()


CELL = [[("sep_conv_3x3", 0), ("skip_connect", 1)], [("sep_conv_3x3", 1), ("max_pool_3x3", 2)]]
SMALL = {"channels": 4, "layers": 3, "epochs": 2, "batch_size": 32, "auxiliary": 0.0, "cutout": 0}


def retraining(digits: Dataset, monitor: States, on_nan: OnNan = "stop", **options: Any) -> Retraining:
    cell = {"inputs": 2, "nodes": [[list(edge) for edge in node] for node in CELL], "concat": [2, 3]}
    genotype = Genotype.from_dict({"format": 1, "space": "darts", "cells": {"normal": cell, "reduce": cell}})
    return Retraining(genotype, RetrainPlan(**SMALL | options), digits, monitor=monitor, on_nan=on_nan)


def test_a_skipped_batch_leaves_no_trace_in_retraining_not_even_in_batch_norm(digits: Dataset, broken: Any) -> None:
    broken("retrain", 1, 1)
    monitor = States()
    retraining(digits, monitor, "skip").run()
    at = [(state["epoch"], state["step"]) for state in monitor.states]
    before, after = (monitor.states[at.index(place)] for place in ((1, 1), (1, 2)))
    assert any("running_mean" in name for name in before["members"][0]["net"])
    assert_identical(before["members"], after["members"])
    assert [record.get("skipped") for record in monitor.records] == [None, 1]


@pytest.mark.parametrize("clip", [5.0, None])
def test_a_learning_rate_that_is_too_large_stops_retraining(digits: Dataset, clip: float | None) -> None:
    monitor = States()
    with pytest.raises(
        RunError, match=r"retraining with seed 0, epoch 0, .*; lower retrain\.weights\.lr; the state be"
    ):
        retraining(digits, monitor, weights={"lr": 1e38, "clip": clip}).run()
    for state in monitor.states:
        assert all(t.isfinite().all() for t in state["members"][0]["net"].values())


# --- in a recipe


def test_a_recipe_says_what_to_do_and_faults_are_named() -> None:
    assert load_recipe("quickstart").on_nan == "stop"
    assert load_recipe("quickstart", ["on_nan=rollback"]).on_nan == "rollback"
    with pytest.raises(RecipeError, match=r"on_nan: .*'stop', 'skip' or 'rollback', but got 'ignore'"):
        load_recipe("quickstart", ["on_nan=ignore"])
