"""Mechanisms: ending a stage ahead of time, attention that is added at every update, and those of a user's own."""

import copy
import inspect
import math
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError
from tests.helpers.identical import assert_identical

from topocell import ArchState, spaces
from topocell.config import mechanisms as options
from topocell.config.load import load_recipe
from topocell.config.mechanisms import Mechanisms
from topocell.config.search import SearchPlan, Stage
from topocell.data import splits
from topocell.data.splits import SearchData
from topocell.errors import RecipeError
from topocell.runs import setup
from topocell.runtime.hooks import Silent
from topocell.searching.loop import Search
from topocell.searching.mechanisms import MECHANISMS, EarlyStop, Mechanism, mechanisms_of, ranking

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
    sizes = {"channels": 4, "layers": 3, "batch_size": 16, "evaluation_batches": 1}
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
    stop = EarlyStop(skips=2, stable=None, first=0)
    assert stop.after_epoch(0, state(), FEW) is None  # four in the reduction cell do not count
    many = FEW | {"normal": {"skip_connect": 2}}
    assert stop.after_epoch(1, state(), many) == "the normal cell has 2 skip connections"
    assert EarlyStop(2, None, first=2).after_epoch(1, state(), many) is None
    assert EarlyStop(2, None, first=1).after_epoch(1, state(), many) is not None


def test_a_stage_ends_when_the_ranking_stands() -> None:
    stop = EarlyStop(skips=None, stable=2, first=0)
    a, b = state(sep_conv_3x3=1.0), state(dil_conv_3x3=1.0)
    said = [stop.after_epoch(e, arch, FEW) for e, arch in enumerate((a, a, b, b, state(dil_conv_3x3=2.0, none=5.0)))]
    assert said == [None] * 4 + ["the ranking of operations has not changed for 2 epochs"]


def test_the_standing_of_a_ranking_is_part_of_the_state() -> None:
    one, arch = EarlyStop(None, 2, 0), state(sep_conv_3x3=1.0)
    one.after_epoch(0, arch, FEW)
    one.after_epoch(1, arch, FEW)
    other = EarlyStop(None, 2, 0)
    other.load_state_dict(one.state_dict())
    assert other.after_epoch(2, arch, FEW) is not None
    assert_identical(EarlyStop(None, 2, 0).state_dict(), {"rankings": {}, "unchanged": 0})


def test_a_search_that_ends_early_goes_on_alike(halves: SearchData) -> None:
    whole = Records()
    first = Search(
        plan(mechanisms={"early_stop": {"stable": 1}}, epochs=6, alpha={"lr": 1e-9}), SPACE, halves, monitor=whole
    )
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
        {"name": "first", "epochs": 4, "mechanisms": {"early_stop": {"stable": 1}}, "alpha": {"lr": 1e-9}},
        {"name": "second", "epochs": 1},
    ]
    sizes = {"channels": 4, "layers": 3, "batch_size": 16, "evaluation_batches": 1}
    seen = Records()
    Search(SearchPlan.model_validate(sizes | {"stages": stages}), SPACE, halves, monitor=seen).run()
    assert [(r["stage"], r["epoch"]) for r in seen.records] == [("first", 0), ("first", 1), ("second", 0)]


def test_warm_up_does_not_end_a_stage(halves: SearchData) -> None:
    seen = Records()
    Search(
        plan(mechanisms={"early_stop": {"skips": 1, "stable": 1}}, warmup=3, epochs=3), SPACE, halves, monitor=seen
    ).run()
    assert len(seen.records) == 3


@pytest.mark.parametrize("level", ["bilevel", "unrolled", "single"])
def test_attention_is_added_after_every_update(level: str, halves: SearchData) -> None:
    constants = {"sep_conv_3x3": 0.25, "dil_conv_3x3": -0.5}
    frozen = {"lr": 0.0, "weight_decay": 0.0}
    few = {"epochs": 2, "level": level, "alpha": frozen, "arch_every": "epoch"}
    attention = {"mechanisms": {"attention": {"constants": constants}}}
    searches = [Search(plan(**few | change), SPACE, halves) for change in (attention, {})]
    with_it, without = (search.run().arch.alpha for search in searches)
    for name in SPACE.cells:
        moved = (with_it[name] - without[name]).detach()
        assert torch.allclose(moved, torch.tensor([0.0, 0.0, 0.5, -1.0]).expand(5, 4), atol=1e-6)


@pytest.mark.parametrize(
    ("mechanisms", "stage", "words"),
    [
        ({"early_stop": {}}, {}, "early_stop needs a criterion"),
        ({"early_stop": {"skips": 0}}, {}, "greater than or equal to 1"),
        ({"early_stop": {"skips": 2}}, {"level": "weights"}, "level weights learns nothing"),
        ({"early_stop": {"stable": 3}}, {"relaxation": "uniform", "topology": SETS}, "relaxation uniform learns none"),
        ({"early_stop": {"skips": 2}, "progressive": {}}, {}, "progressive decides edges until its last epoch"),
        ({"attention": {"constants": {"none": 1.0}}}, {"level": "weights"}, "attention follows updates of α"),
        ({"attention": {"constants": {"sep_conv_3": 1.0}}}, {}, "unknown operation 'sep_conv_3'"),
        ({"attention": {"constants": {}}}, {}, "at least 1 item"),
        (
            {"attention": {"constants": {"none": 1.0}}},
            {"relaxation": "uniform", "topology": SETS},
            "attention moves logits",
        ),
        ({"atention": {}}, {}, "unknown mechanism 'atention' .did you mean 'attention'"),
        ([{"name": "atention"}], {}, "unknown mechanism 'atention' .did you mean 'attention'"),
        (["attention"], {}, "valid dictionary"),
    ],
)
def test_mistakes(mechanisms: Any, stage: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Stage.model_validate({"name": "search", "epochs": 3, "mechanisms": mechanisms} | stage)


@pytest.mark.parametrize(
    ("name", "words", "fault"),
    [
        ("darts-s2", ["early_stop.stable=10"], "early_stop.stable needs an edge with two operations that have weights"),
        ("edarts", ["attention.constants.nor_conv_3x3=1"], "attention is for candidates of the space"),
    ],
)
def test_mistakes_that_the_space_shows(name: str, words: list[str], fault: str) -> None:
    with pytest.raises(RecipeError, match=fault):
        setup.check(load_recipe(name, [f"search.stages.search.mechanisms.{word}" for word in words]))


def test_what_a_recipe_recommends_can_be_checked() -> None:
    for word in ("early_stop={skips: 2, first: 3}", "early_stop.stable=10", "attention.constants.sep_conv_3x3=6.0e-4"):
        setup.check(load_recipe("edarts", [f"search.stages.search.mechanisms.{word}"]))


def test_mechanisms_are_read_as_a_mapping_or_as_a_list() -> None:
    for given in ({"early_stop": {"stable": 10}}, [{"name": "early_stop", "stable": 10}]):
        read = Stage.model_validate({"name": "s", "epochs": 1, "mechanisms": given}).mechanisms
        assert read == Mechanisms(early_stop=options.EarlyStop(stable=10))


def test_models_and_hooks_have_the_same_mechanisms_with_the_same_options() -> None:
    assert list(MECHANISMS) == list(Mechanisms.model_fields)
    for name, hook in MECHANISMS.items():
        (model,) = (kind for kind in get_args(Mechanisms.model_fields[name].annotation) if kind is not type(None))
        taken = inspect.signature(hook).parameters
        variable = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken.values())
        assert variable or list(taken) == list(model.model_fields), name


class Counting(Mechanism):
    """Counts what the search calls."""

    def __init__(self, limit: int, by: float = 1.0) -> None:
        self.limit, self.by, self.calls = limit, by, dict.fromkeys(("stage", "epoch", "step", "end"), 0.0)

    def on_stage_start(self, search: Search) -> None:
        self.calls["stage"] += self.by

    def on_epoch_start(self, search: Search) -> None:
        self.calls["epoch"] += self.by

    def on_step_end(self, search: Search) -> None:
        self.calls["step"] += self.by

    def on_epoch_end(self, search: Search) -> dict[str, Any]:
        self.calls["end"] += self.by
        return {"counted": dict(self.calls)}

    def reason_to_stop(self, search: Search, record: Any) -> str | None:
        return "counted enough" if record["counted"]["step"] >= self.limit else None

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: Any) -> None:
        self.calls = dict(state["calls"])


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MECHANISMS, "counting", Counting)


def test_a_mechanism_of_a_users_own(counting: None, halves: SearchData) -> None:
    """Its hooks are called, what it says is recorded, its state is saved, and a resumed search goes on alike."""
    whole = Records()
    own = plan(mechanisms={"counting": {"limit": 4}}, epochs=5)
    first = Search(own, SPACE, halves, monitor=whole)
    first.run()
    steps = len(halves.splits["train"]) // 16 + (len(halves.splits["train"]) % 16 > 0)
    ends = math.ceil(4 / steps)
    assert [r["counted"]["end"] for r in whole.records] == list(range(1, ends + 1))
    assert whole.records[-1]["counted"]["step"] == ends * steps
    assert [r.get("stopped") for r in whole.records] == [None] * (ends - 1) + ["counted enough"]
    for saved in whole.states:
        again = Search(own, SPACE, halves, monitor=Records())
        again.run(saved)
        if saved["step"] == 0:  # resumed inside an epoch, `on_epoch_start` is called once more
            assert_identical(again.state_dict(), first.state_dict())


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({}, "mechanism 'counting' needs the option 'limit'"),
        ({"limit": "four"}, "mechanism.limit: input should be a valid integer, but got 'four'"),
        ({"limit": 4, "bye": 2.0}, "mechanism 'counting' has no option 'bye' .did you mean 'by'"),
    ],
)
def test_options_of_a_users_own_mechanism_are_checked(counting: None, given: dict[str, Any], fault: str) -> None:
    stage = Stage.model_validate({"name": "s", "epochs": 1, "mechanisms": {"counting": given}})
    with pytest.raises(RecipeError, match=fault):
        mechanisms_of(stage)


def test_options_of_a_users_own_mechanism_are_a_mapping(counting: None) -> None:
    with pytest.raises(ValidationError, match="counting: a mechanism has a mapping of options, but got 4"):
        Stage.model_validate({"name": "s", "epochs": 1, "mechanisms": {"counting": 4}})


def test_null_drops_a_mechanism(counting: None) -> None:
    kept = Stage.model_validate({"name": "s", "epochs": 1, "mechanisms": {"counting": None, "early_stop": None}})
    assert mechanisms_of(kept) == {}
