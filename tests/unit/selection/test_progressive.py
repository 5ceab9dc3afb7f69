"""Progressive decisions: the measures by hand, the schedule of SGAS, and a search that decides and is killed."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.identical import assert_identical
from torch import Tensor
from torch.optim import SGD, Adam

from topocell import spaces
from topocell.config.load import load_recipe
from topocell.config.mechanisms import Progressive
from topocell.config.search import SearchPlan
from topocell.config.selection import Rules
from topocell.data import splits
from topocell.data.splits import SearchData
from topocell.errors import RecipeError
from topocell.io import checkpoint
from topocell.runtime.hooks import Silent
from topocell.searching import mechanisms
from topocell.searching.loop import Search
from topocell.selection.decider import Decider
from topocell.selection.progressive import (
    CRITERIA,
    Progress,
    certainty,
    conditional,
    importance,
    normalised,
    scores,
    stability,
)
from topocell.selection.pruning import undecided
from topocell.selection.rules import derive
from topocell.supernet import Supernet, levels
from topocell.supernet.arch_state import ArchState
from topocell.supernet.learner import Learner
from topocell.supernet.levels import LEVELS

#: Without weights, so that deciding is all that takes time.
LIGHT = spaces.get("darts", nodes=4, candidates=("none", "max_pool_3x3", "skip_connect"))
TINY = spaces.get("darts", nodes=2, candidates=("none", "skip_connect", "sep_conv_3x3"))


def learner(init: float = 1.0, seed: int = 0) -> Learner:
    net = Supernet(LIGHT, 2, 3, 3, in_channels=1)
    arch = ArchState(LIGHT, init=init, generator=torch.Generator().manual_seed(seed))
    return Learner(net, arch, SGD(net.parameters(), lr=0.1), Adam(arch.alpha.values()), None, clip=None)


def progress(of: Learner, criterion: int = 1, in_degree: int = 2, window: int = 4) -> Progress:
    return Progress(criterion, in_degree, window, Decider(of))


# --- measures


def test_the_measures_by_hand() -> None:
    p = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.8, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    real = torch.tensor([[False, True, True]] * 3)
    assert torch.allclose(importance(p, real, []), torch.tensor([0.5, 0.8, 0.0], dtype=p.dtype))
    assert conditional(p, real).tolist() == [[0, 0.5, 0.5], [0, 1, 0], [0, 0, 0]]
    assert certainty(p, real, [])[:2].tolist() == pytest.approx([0, 1])
    assert stability(p, real, []).tolist() == [0, 0, 0]
    then = torch.tensor([[0, 0.9, 0.1], [0, 0.3, 0.7], [0, 0, 0]], dtype=p.dtype)
    now = conditional(p, real)
    assert stability(p, real, [then, now]).tolist() == pytest.approx([(0.6 + 1) / 2, (0.3 + 1) / 2, 0])


def test_certainty_is_relative_to_the_candidates_that_an_edge_has() -> None:
    p = torch.tensor([[0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3], [1.0, 0.0, 0.0]], dtype=torch.float64)
    real = torch.tensor([[True, True, False], [True, True, True], [True, False, False]])
    assert certainty(p, real, []).tolist() == pytest.approx([0, 0, 1], abs=1e-12)


def test_equal_logits_give_every_edge_the_score_zero() -> None:
    """EI = 7/8 on all edges of DARTS (none is one of eight candidates)."""
    p = torch.full((14, 8), 1 / 8, dtype=torch.float64)
    real = torch.ones(14, 8, dtype=torch.bool)
    real[:, 0] = False
    assert torch.allclose(importance(p, real, []), torch.full((14,), 7 / 8, dtype=p.dtype))
    history = [conditional(p, real)]
    for criterion in CRITERIA:
        assert scores(criterion, p, real, history).tolist() == [0] * 14


@given(seed=st.integers(0, 2**31), spread=st.floats(0.01, 10), criterion=st.sampled_from(sorted(CRITERIA)))
@settings(max_examples=30)
def test_scores_are_between_zero_and_one(seed: int, spread: float, criterion: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(4, 14, 8, generator=draws, dtype=torch.float64)
    real = torch.ones(14, 8, dtype=torch.bool)
    real[:, 0] = False
    *past, p = logits.softmax(2)
    found = scores(criterion, p, real, [conditional(q, real) for q in past])
    assert found.shape == (14,) and float(found.min()) >= 0 and float(found.max()) <= 1


@given(values=st.lists(st.floats(-5, 5), min_size=2, max_size=14))
def test_normalised_values_reach_both_ends(values: list[float]) -> None:
    found = normalised(torch.tensor(values, dtype=torch.float64))
    assert float(found.min()) == 0 and float(found.max()) in ((1,) if len(set(values)) > 1 else (0,))


# --- which edge, which operation


def test_the_best_edge_takes_its_best_real_operation() -> None:
    subject = learner(init=0.0)
    with torch.no_grad():
        subject.arch.alpha["normal"][5] = torch.tensor([2.0, 0.0, 1.0])  # none is the most likely, skip comes next
        subject.arch.alpha["normal"][7] = torch.tensor([0.0, 3.0, 0.0])  # sure, important
    (first, *_) = progress(subject, 1, 2, 4).after_epoch(due=True, last=False)
    assert (first.cell, first.edge, first.operation) == ("normal", LIGHT.cells["normal"].edges[7], "max_pool_3x3")
    assert subject.arch.mask("normal")[7].tolist() == [False, True, False]
    with torch.no_grad():  # only edge 5 differs from the others now, and edge 7, which is decided
        subject.arch.alpha["normal"][5] = torch.tensor([-2.0, 0.0, 1.0])
    (second, *_) = progress(subject, 1, 2, 4).after_epoch(due=True, last=False)
    assert (second.edge, second.operation) == (LIGHT.cells["normal"].edges[5], "skip_connect")


def test_decided_edges_enter_the_normalisation_with_the_logits_they_had() -> None:
    subject = learner()
    deciding = progress(subject)
    expected = scores(1, *_everything(subject), [])
    order = sorted(range(14), key=lambda e: -float(expected[e]))
    (first, *_) = deciding.after_epoch(due=True, last=False)
    (second, *_) = deciding.after_epoch(due=True, last=False)
    for decision, edge in zip((first, second), order):
        assert decision.edge == LIGHT.cells["normal"].edges[edge]
        assert decision.score == pytest.approx(float(expected[edge]))


def _everything(subject: Learner) -> tuple[Tensor, Tensor]:
    p = subject.arch.alpha["normal"].detach().double().softmax(1)
    real = torch.ones(14, 3, dtype=torch.bool)
    real[:, 0] = False
    return p, real


def test_eight_decisions_leave_eight_edges_two_per_node() -> None:
    for seed in range(3):
        subject = learner(seed=seed)
        deciding = progress(subject, 2)
        for number in range(8):
            made = deciding.after_epoch(due=True, last=False)
            assert [d.cell for d in made] == ["normal", "reduce"], number
        assert deciding.after_epoch(due=True, last=False) == []
        for name, cell in LIGHT.cells.items():
            mask = subject.arch.mask(name)
            assert undecided(mask) == [] and int(mask.any(1).sum()) == 8
            assert [int(mask[cell.incoming(node)].sum()) for node in cell.computed] == [2] * 4
            assert not mask[:, 0].any()  # never none
            derived = derive(subject.arch, Rules(edges="all")).cells[name]
            assert [len(pairs) for pairs in derived.nodes] == [2] * 4


@pytest.mark.parametrize("in_degree", [1, 3, 9])
def test_a_node_is_complete_with_in_degree_edges(in_degree: int) -> None:
    subject = learner()
    made = progress(subject, 1, in_degree, 4).after_epoch(due=False, last=True)
    expected = [min(in_degree, inputs) for inputs in (2, 3, 4, 5)]
    for name, cell in LIGHT.cells.items():
        mask = subject.arch.mask(name)
        assert [int(mask[cell.incoming(node)].any(1).sum()) for node in cell.computed] == expected
        assert sum(d.cell == name for d in made) == sum(expected)


def test_an_epoch_without_decisions_is_remembered() -> None:
    subject = learner()
    deciding = progress(subject, 2, 2, 3)
    for _ in range(5):
        assert deciding.after_epoch(due=False, last=False) == []
    state = deciding.state_dict()
    assert {name: len(past) for name, past in state["history"].items()} == {"normal": 3, "reduce": 3}
    again = progress(subject, 2, 2, 3)
    again.load_state_dict(state)
    assert again.next()["normal"][1] == deciding.next()["normal"][1]
    assert progress(subject, 2, 2, 3).next()["normal"][1].score == 0  # stability is zero without a past
    assert deciding.next()["normal"][1].score >= 0


def test_decisions_in_words() -> None:
    subject = learner()
    made = progress(subject, 1, 1, 4).after_epoch(due=True, last=False)
    words = made[0].words()
    source, node = made[0].edge
    assert words.startswith(f"normal: edge {source}→{node} is {made[0].operation} (score ")
    assert f"node {node} is complete, pruned " in words
    assert all(f"{s}→{d}" in words for s, d in made[0].pruned)


# --- when


def test_the_schedule_and_the_batches_of_the_paper() -> None:
    recipe = load_recipe("sgas-2")
    stage = recipe.search.stages[0]
    assert stage.mechanisms.progressive is not None
    falls = [epoch for epoch in range(stage.epochs) if stage.mechanisms.progressive.decides_after(epoch)]
    assert falls[:8] == [9, 14, 19, 24, 29, 34, 39, 44]
    sizes = [stage.mechanisms.progressive.batch_size(recipe.search.batch_size, epoch) for epoch in range(stage.epochs)]
    assert sizes == [64] * 10 + [64 + 8 * n for n in range(1, 9) for _ in range(5)]
    assert Progressive(batch_max=70).batch_size(64, 50) == 70
    assert Progressive(batch_max=32).batch_size(64, 50) == 64


@pytest.mark.parametrize("budget", ["small", "smoke"])
def test_a_budget_leaves_time_for_decisions(budget: str) -> None:
    stage = load_recipe("sgas-1", budget=budget).search.stages[0]
    assert stage.mechanisms.progressive is not None
    falls = sum(stage.mechanisms.progressive.decides_after(epoch) for epoch in range(stage.epochs))
    assert falls >= (8 if budget == "small" else 1)


# --- in a search


@pytest.fixture(scope="module")
def halves() -> SearchData:
    return splits.search_data(splits.load("digits", images=64, test_images=20), {"train": 0.5, "val": 0.5}, seed=0)


class Saver(Silent):
    """Saves every state that is offered, and keeps what is reported."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.before: list[int] = []
        self.records: list[dict[str, Any]] = []
        self.said: list[str] = []

    def metrics(self, record: Mapping[str, Any]) -> None:
        self.records.append(dict(record))

    def say(self, text: str) -> None:
        self.said.append(text)

    def checkpoint(self, state: Callable[[], dict[str, Any]], due: bool = False) -> None:
        if self.folder is not None:
            checkpoint.save(self.folder / f"{len(self.before)}.ckpt", state())
            self.before.append(len(self.records))


def plan(*stages: Mapping[str, Any]) -> SearchPlan:
    named = [{"name": f"stage-{number}"} | dict(stage) for number, stage in enumerate(stages)]
    sizes = {"channels": 4, "layers": 3, "batch_size": 8, "evaluation_batches": 1}
    return SearchPlan.model_validate(sizes | {"stages": named})


DECIDING = {"criterion": 2, "first": 1, "every": 1, "batch_growth": 4, "batch_max": 16, "history": 2}
PROGRESSIVE = plan(
    {"epochs": 3, "alpha": {"lr": 0.1}, "mechanisms": {"progressive": DECIDING}},
    {"epochs": 1, "weights": {"lr": 0.01}},
    {"epochs": 1, "shrink": 1, "channels": 6},
)
RULES = Rules(edges="all")


@pytest.fixture(scope="module")
def unbroken(halves: SearchData, tmp_path_factory: Any) -> tuple[Saver, Search]:
    saver = Saver(tmp_path_factory.mktemp("states"))
    search = Search(PROGRESSIVE, TINY, halves, rules=RULES, seed=3, monitor=saver)
    search.run()
    return saver, search


def test_a_killed_search_goes_on_bit_for_bit_between_and_after_decisions(halves: SearchData, unbroken: Any) -> None:
    saver, whole = unbroken
    assert len(saver.before) > 12
    assert saver.folder is not None
    for number in range(2, len(saver.before), 5):
        again = Saver()
        resumed = Search(PROGRESSIVE, TINY, halves, rules=RULES, seed=3, monitor=again)
        resumed.run(checkpoint.load(saver.folder / f"{number}.ckpt"))
        assert_identical(resumed.state_dict(), whole.state_dict())
        assert_identical(again.records, saver.records[saver.before[number] :])


def test_decisions_are_recorded_and_said(unbroken: Any) -> None:
    saver, _ = unbroken
    first, *rest = [r["decisions"] for r in saver.records if r["stage"] == "stage-0"]
    assert first == [] and all("decisions" not in r for r in saver.records[3:])
    made = [decision for decisions in rest for decision in decisions]
    assert len(rest[0]) == 2  # one of each cell type; all others after the last epoch
    assert [sum(d["cell"] == kind for d in made) for kind in TINY.cells] == [4, 4]
    assert len(saver.said) == len(made)
    for decision, words in zip(made, saver.said):
        assert set(decision) == {"cell", "edge", "operation", "score", "pruned", "reads"}
        assert decision["operation"] == max(decision["reads"], key=decision["reads"].__getitem__) != "none"
        assert f"{decision['cell']}: edge {decision['edge'][0]}→{decision['edge'][1]}" in words
    pruned = [edge for d in made for edge in d["pruned"] if d["cell"] == "normal"]
    assert len(pruned) == 1 and pruned[0][1] == 3


def test_what_was_decided_stays_decided_in_later_stages(halves: SearchData, unbroken: Any) -> None:
    saver, whole = unbroken
    cells = whole.learner.arch.retained()
    decided = [d for r in saver.records[:3] for d in r["decisions"]]
    for kind, cell in TINY.cells.items():
        kept = {tuple(d["edge"]): (d["operation"],) for d in decided if d["cell"] == kind}
        assert cells[kind] == tuple(kept.get(edge, ()) for edge in cell.edges)
    net = whole.learner.net
    assert {kind: mask.any(1).sum().item() for kind, mask in net.masks().items()} == {"normal": 4, "reduce": 4}
    edges = {name.split(".")[3] for name in net.per_edge_state_dict() if name.startswith("cells.0.edges.")}
    assert len(edges) <= 4
    nodes = saver.records[-1]["derived"]["normal"]["nodes"]
    assert [len(pairs) for pairs in nodes] == [2, 2]


def test_a_decided_network_goes_on_with_its_momentum(halves: SearchData, unbroken: Any) -> None:
    saver, _ = unbroken
    states = [checkpoint.load(saver.folder / f"{number}.ckpt") for number in range(len(saver.before))]
    last = max(i for i, s in enumerate(states) if s["stage"] == 0)
    entered = states[last + 1]
    assert entered["stage"] == 1 and entered["epoch"] == entered["step"] == 0
    assert_identical(entered["net"], states[last]["net"])
    assert_identical(entered["weights"]["state"], states[last]["weights"]["state"])
    assert_identical(entered["arch"], states[last]["arch"])


MEASURED = {**DECIDING, "first": 0, "decide_by": "perturbation", "metric": "loss"}


def measuring(monitor: Any, halves: SearchData, **options: Any) -> Search:
    stages = plan({"epochs": 2, "mechanisms": {"progressive": {**MEASURED, **options}}})
    return Search(stages, TINY, halves, rules=RULES, seed=3, monitor=monitor)


@pytest.mark.parametrize("options", [{"batches": 2}, {"racing": {"first": 1, "confidence": 0.6}}], ids=str)
def test_operations_can_go_by_perturbation_and_a_decision_be_killed(
    halves: SearchData, tmp_path: Path, options: dict[str, Any]
) -> None:
    saver = Saver(tmp_path)
    whole = measuring(saver, halves, **options)
    whole.run()
    made = [d for record in saver.records for d in record["decisions"]]
    assert len(made) == 8 and isinstance(deciding := whole.mechanisms["progressive"], mechanisms.Progressive)
    for decision in made:
        assert decision["operation"] == max(decision["reads"], key=decision["reads"].__getitem__)
        assert set(decision["reads"]) == {"skip_connect", "sep_conv_3x3"}
        assert ("race" in decision) == ("racing" in options)
    assert deciding.progress.decider.evaluations == 2 * len(made)
    states = [checkpoint.load(tmp_path / f"{number}.ckpt") for number in range(len(saver.before))]
    inside = [n for n, state in enumerate(states) if state["mechanisms"]["progressive"]["decider"]["trials"]]
    several = [n for n in inside if len(states[n]["mechanisms"]["progressive"]["decider"]["trials"]) == 2]
    later = [n for n in inside if states[n]["mechanisms"]["progressive"]["made"]]
    for number in (inside[0], several[-1], later[0]):
        again = Saver()
        resumed = measuring(again, halves, **options)
        resumed.run(states[number])
        assert_identical(resumed.state_dict(), whole.state_dict())
        assert_identical(again.records, saver.records[saver.before[number] :])


def test_the_recipe_of_sgas_with_perturbation() -> None:
    ours, theirs = (load_recipe(name).search.stages[0].mechanisms.progressive for name in ("sgas-pt", "sgas-1"))
    assert ours is not None and theirs is not None
    assert (ours.decide_by, ours.metric, ours.batches) == ("perturbation", "accuracy", None)
    assert ours.model_copy(update={"decide_by": "magnitude"}) == theirs
    small = load_recipe("sgas-pt", budget="small").search.stages[0].mechanisms.progressive
    assert small is not None and small.batches == 8
    with pytest.raises(RecipeError, match=r"progressive: perturbation measures on the split alpha_on of the st"):
        load_recipe("sgas-pt", ["search.stages.search.level=single", "data.splits={train: 1.0}"])


def test_batches_grow_after_epochs_of_decisions(halves: SearchData, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def spy(learner: Learner, train: levels.Batch, updates: Any) -> Any:
        seen.append((len(train[1]), *(len(update.batch[1]) for update in updates)))
        return levels.bilevel(learner, train, updates)

    monkeypatch.setitem(LEVELS, "bilevel", spy)
    growing = plan({"epochs": 4, "mechanisms": {"progressive": DECIDING}})
    Search(growing, TINY, halves, rules=RULES).run()
    images = 32  # of each split
    expected = []
    for size in (8, 8, 12, 16):
        cuts = [min(size, images - start) for start in range(0, images, size)]
        assert math.ceil(images / size) == len(cuts)
        expected += [(n, n) for n in cuts]
    assert seen == expected
