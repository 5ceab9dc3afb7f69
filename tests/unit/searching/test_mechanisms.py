"""Ending a stage ahead of time, and attention that is added at every update."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tests.helpers.identical import assert_identical

from topocell import ArchState, spaces
from topocell.config.load import load_recipe
from topocell.config.search import SearchPlan, Stage, Stop
from topocell.data import splits
from topocell.data.splits import SearchData
from topocell.errors import RecipeError
from topocell.runs import setup
from topocell.runtime.hooks import Silent
from topocell.searching.loop import Search
from topocell.searching.mechanisms import Stopping, ranking

SPACE = spaces.get("darts", nodes=2, candidates=("none", "skip_connect", "sep_conv_3x3", "dil_conv_3x3"))
SETS = {"name": "subsets", "view": "source", "sizes": "any"}
NONE, SKIP, SEP, DIL = range(4)
FEW = {"normal": {"skip_connect": 1, "sep_conv_3x3": 3}, "reduce": {"skip_connect": 4}}


@pytest.fixture(scope="module")
def halves() -> SearchData:
    return splits.search_data(splits.load("digits", images=40, test_images=20), {"train": 0.5, "val": 0.5}, seed=0)


def state(**values: float) -> ArchState:
    """All logits equal but those of edge 0 of the normal cell."""
    arch = ArchState(SPACE, init=0.0)
    with torch.no_grad():
        for name, value in values.items():
            arch.alpha["normal"][0, SPACE.cells["normal"].candidates[0].index(name)] = value
    return arch


def plan(**stage: Any) -> SearchPlan:
    sizes = {"channels": 4, "layers": 3, "batch_size": 16, "watch_batches": 1}
    return SearchPlan.model_validate(sizes | {"stages": [{"name": "search", "epochs": 3} | stage]})


class Records(Silent):
    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.states: list[Any] = []

    def metrics(self, record: Any) -> None:
        self.records.append(dict(record))

    def checkpoint(self, state: Any, due: bool = False) -> None:
        self.states.append(copy.deepcopy(state()))

    def say(self, text: str) -> None:
        self.said.append(text)


def test_only_operations_with_weights_are_ranked() -> None:
    first = ranking(state(none=9.0, skip_connect=8.0, dil_conv_3x3=1.0), "normal")
    assert first[0].tolist() == [DIL, SEP, NONE, SKIP] and first[1].tolist() == [SEP, DIL, NONE, SKIP]


def test_operations_are_ranked_however_low_the_temperature_is() -> None:
    arch = state(none=0.3, sep_conv_3x3=0.1, dil_conv_3x3=0.2)
    arch.op_temperature = 2e-5
    assert not arch.expected()["normal"].ops[0, [SEP, DIL]].any()
    assert ranking(arch, "normal")[0].tolist() == [DIL, SEP, NONE, SKIP]


def test_a_stage_ends_with_skip_connections_in_the_normal_cell() -> None:
    stop = Stopping(skips=2, stable=None, first=0)
    assert stop.after_epoch(0, state(), FEW) is None  # four in the reduction cell do not count
    many = FEW | {"normal": {"skip_connect": 2}}
    assert stop.after_epoch(1, state(), many) == "the normal cell has 2 skip connections"
    assert Stopping(2, None, first=2).after_epoch(1, state(), many) is None
    assert Stopping(2, None, first=1).after_epoch(1, state(), many) is not None


def test_a_stage_ends_when_the_ranking_stands() -> None:
    stop = Stopping(skips=None, stable=2, first=0)
    a, b = state(sep_conv_3x3=1.0), state(dil_conv_3x3=1.0)
    said = [stop.after_epoch(e, arch, FEW) for e, arch in enumerate((a, a, b, b, state(dil_conv_3x3=2.0, none=5.0)))]
    assert said == [None] * 4 + ["the ranking of operations has not changed for 2 epochs"]


def test_the_standing_of_a_ranking_is_part_of_the_state() -> None:
    one, arch = Stopping(None, 2, 0), state(sep_conv_3x3=1.0)
    one.after_epoch(0, arch, FEW)
    one.after_epoch(1, arch, FEW)
    other = Stopping(None, 2, 0)
    other.load_state_dict(one.state_dict())
    assert other.after_epoch(2, arch, FEW) is not None
    assert_identical(Stopping(None, 2, 0).state_dict(), {"rankings": {}, "unchanged": 0})


def test_a_search_that_ends_early_goes_on_alike(halves: SearchData) -> None:
    whole = Records()
    first = Search(plan(stop={"stable": 1}, epochs=6, alpha={"lr": 1e-9}), SPACE, halves, monitor=whole)
    first.run()
    assert [r["epoch"] for r in whole.records] == [0, 1] and "stopped" not in whole.records[0]
    assert whole.records[1]["stopped"] == "the ranking of operations has not changed for 1 epochs"
    assert whole.said == [f"stage search ends after epoch 2 of 6: {whole.records[1]['stopped']}"]
    for saved in (whole.states[0], whole.states[-1]):
        other = Search(first.plan, SPACE, halves, monitor=Records())
        other.run(saved)
        assert_identical(other.state_dict(), first.state_dict())


def test_a_stage_that_ended_early_hands_on(halves: SearchData, tmp_path: Path) -> None:
    stages = [
        {"name": "first", "epochs": 4, "stop": {"stable": 1}, "alpha": {"lr": 1e-9}},
        {"name": "second", "epochs": 1},
    ]
    sizes = {"channels": 4, "layers": 3, "batch_size": 16, "watch_batches": 1}
    seen = Records()
    Search(SearchPlan.model_validate(sizes | {"stages": stages}), SPACE, halves, monitor=seen).run()
    assert [(r["stage"], r["epoch"]) for r in seen.records] == [("first", 0), ("first", 1), ("second", 0)]


def test_warm_up_does_not_end_a_stage(halves: SearchData) -> None:
    seen = Records()
    Search(plan(stop={"skips": 1, "stable": 1}, warmup=3, epochs=3), SPACE, halves, monitor=seen).run()
    assert len(seen.records) == 3


@pytest.mark.parametrize("level", ["bilevel", "unrolled", "single"])
def test_attention_is_added_after_every_update(level: str, halves: SearchData) -> None:
    constants = {"sep_conv_3x3": 0.25, "dil_conv_3x3": -0.5}
    frozen = {"lr": 0.0, "weight_decay": 0.0}
    few = {"epochs": 2, "level": level, "alpha": frozen, "arch_every": "epoch", "attention": constants}
    searches = [Search(plan(**few | change), SPACE, halves) for change in ({}, {"attention": {}})]
    with_it, without = (search.run().arch.alpha for search in searches)
    for name in SPACE.cells:
        moved = (with_it[name] - without[name]).detach()
        assert torch.allclose(moved, torch.tensor([0.0, 0.0, 0.5, -1.0]).expand(5, 4), atol=1e-6)


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ({"stop": {}}, "stop needs a criterion"),
        ({"stop": {"skips": 0}}, "greater than or equal to 1"),
        ({"stop": {"skips": 2}, "level": "weights"}, "level weights learns nothing"),
        ({"stop": {"stable": 3}, "relaxation": "uniform", "topology": SETS}, "relaxation uniform learns none"),
        ({"attention": {"none": 1.0}, "level": "weights"}, "attention follows updates of α"),
        ({"stop": {"skips": 2}, "progressive": {}}, "progressive decides edges until its last epoch"),
        ({"attention": {"sep_conv_3": 1.0}}, "unknown operation 'sep_conv_3'"),
        ({"attention": {"none": 1.0}, "relaxation": "uniform", "topology": SETS}, "attention moves logits"),
    ],
)
def test_mistakes(stage: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Stage.model_validate({"name": "search", "epochs": 3} | stage)


@pytest.mark.parametrize(
    ("name", "words", "fault"),
    [
        ("darts-s2", ["stop.stable=10"], "stop.stable needs an edge with two operations that have weights"),
        ("edarts", ["attention.nor_conv_3x3=1"], "attention is for candidates of the space"),
    ],
)
def test_mistakes_that_the_space_shows(name: str, words: list[str], fault: str) -> None:
    with pytest.raises(RecipeError, match=fault):
        setup.check(load_recipe(name, [f"search.stages.search.{word}" for word in words]))


def test_what_a_recipe_recommends_can_be_checked() -> None:
    for word in ("stop={skips: 2, first: 3}", "stop.stable=10", "attention.sep_conv_3x3=6.0e-4"):
        setup.check(load_recipe("edarts", [f"search.stages.search.{word}"]))


def test_a_stop_is_read() -> None:
    assert Stage.model_validate({"name": "s", "epochs": 1, "stop": {"stable": 10}}).stop == Stop(stable=10)
