"""The search loop on tiny searches: what moves when, what a stage changes, and that a killed search goes on exactly."""

import gc
import importlib
import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.identical import assert_identical, flat
from torch import Tensor

from topocell import spaces
from topocell.config.search import SearchPlan
from topocell.config.selection import Rules
from topocell.data import splits
from topocell.data.augment import NO_AUGMENTATION, augment
from topocell.data.splits import Batches, SearchData
from topocell.errors import DataError, RunError
from topocell.io import checkpoint
from topocell.relaxation import RELAXATIONS
from topocell.runtime.hooks import Interrupted, Silent
from topocell.searching.diagnostics import observe, skip_warnings
from topocell.searching.loop import Search
from topocell.searching.perturbation import PERTURBATIONS
from topocell.selection.rules import derive
from topocell.supernet import levels
from topocell.supernet.learner import ArchBatch, Batch, Learner
from topocell.supernet.levels import LEVELS

THIRDS = {"train": 1 / 3, "val-alpha": 1 / 3, "val-beta": 1 / 3}
HALVES = {"train": 0.5, "val": 0.5}
SPACE = spaces.get("darts", nodes=2, candidates=("none", "skip_connect", "sep_conv_3x3"))
#: The noise of a step must not depend on the steps that this process has seen before.
NOISY = spaces.get("darts", nodes=2, candidates=("none", "skip_connect", "sep_conv_3x3", "noise"))
SETS = {"name": "subsets", "view": "source", "sizes": "any"}
PAIRS = {"name": "subsets", "view": "target", "sizes": 2, "norm": "mean", "scale": "none"}


@pytest.fixture(scope="module")
def dataset() -> splits.Dataset:
    return splits.load("digits", images=64, test_images=20)


@pytest.fixture(scope="module")
def halves(dataset: splits.Dataset) -> SearchData:
    """32 images for the weights, 32 for the architecture: two steps of 16 an epoch."""
    return splits.search_data(dataset, HALVES, seed=0)


@pytest.fixture(scope="module")
def thirds(dataset: splits.Dataset) -> SearchData:
    """21 images each for the weights, α and β: two steps an epoch, of 16 and of 5."""
    return splits.search_data(dataset, THIRDS, seed=0)


def plan(*stages: Mapping[str, Any], **options: Any) -> SearchPlan:
    named = [{"name": f"stage-{number}", "epochs": 1} | dict(stage) for number, stage in enumerate(stages)]
    sizes = {"channels": 4, "layers": 3, "batch_size": 16, "evaluation_batches": 1}
    return SearchPlan.model_validate(sizes | options | {"stages": named})


class Recorder(Silent):
    """Keeps the metrics, and calls `look` whenever a state may be saved."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.progress: list[tuple[str, int, int]] = []
        self.look: Callable[[bool], None] = lambda due: None

    def step(self, phase: str, done: int, total: int, figures: Callable[[], Mapping[str, float]]) -> None:
        assert set(figures()) == {"loss", "accuracy", "trained_images"}
        self.progress.append((phase, done, total))

    def metrics(self, record: Mapping[str, Any]) -> None:
        self.records.append(dict(record))

    def checkpoint(self, state: Callable[[], dict[str, Any]], due: bool = False) -> None:
        self.look(due)


class Saver(Recorder):
    """Saves every state that is offered to a numbered file, and notes how many records came before it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.before: list[int] = []
        self.due: list[bool] = []

    def checkpoint(self, state: Callable[[], dict[str, Any]], due: bool = False) -> None:
        checkpoint.save(self.folder / f"{len(self.before)}.ckpt", state())
        self.before.append(len(self.records))
        self.due.append(due)


def search(of: SearchPlan, given: SearchData, monitor: Any = None, **options: Any) -> Search:
    return Search(of, options.pop("space", SPACE), given, monitor=monitor, **options)


def finished(of: SearchPlan, given: SearchData, monitor: Any = None, **options: Any) -> Search:
    done = search(of, given, monitor, **options)
    done.run()
    return done


def logits(learner: Learner) -> list[Tensor]:
    return [p.detach().clone() for p in learner.arch.parameters()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# --- going on after a kill

#: Every kind of thing that must survive: shrink, sizes, alternate and joint updates, momentum carried over a stage.
SEARCHES: dict[str, tuple[dict[str, float], SearchPlan]] = {
    "two stages": (
        THIRDS,
        plan(
            {
                "epochs": 2,
                "warmup": 1,
                "topology": SETS,
                "alpha_on": "val-alpha",
                "beta_on": "val-beta",
                "penalty": 10,
                "relaxation": {
                    "name": "grouped-softmax",
                    "groups": [["none", "skip_connect"], ["sep_conv_3x3", "noise"]],
                },
            },
            {
                "level": "single",
                "weights_on": "all",
                "topology": PAIRS,
                "shrink": "best",
                "shrink_none": True,
                "channels": 6,
                "reset": ["weights"],
                "edge_temperature": {"shape": "exponential", "start": 10, "end": 0.02, "closed": True},
            },
        ),
    ),
    "one network": (
        HALVES,
        plan(
            {"level": "unrolled", "topology": SETS, "draw": "replacement", "arch_draw": "replacement"},
            {"level": "mixed", "topology": SETS, "arch_every": "epoch", "weights": {"lr": 0.01, "nesterov": True}},
            {"level": "weights", "shrink": 1},
            head="bn-relu",
            partial=2,
        ),
    ),
    "sampled and perturbed": (
        HALVES,
        plan(
            {"level": "bilevel-weights-first", "relaxation": "gumbel-straight-through", "topology": SETS, "partial": 2},
            {
                "mechanisms": {"perturbation": {"kind": "adversarial"}, "auxiliary_skip": {"weight": 0}},
                "arch_clip": 1.0,
            },
            {
                "relaxation": "dirichlet",
                "alpha_penalty": 0.1,
                "mechanisms": {
                    "auxiliary_skip": {},
                    "skip_dropout": {"rate": 0.2},
                    "drop_path": {"rate": {"shape": "linear", "start": 0.1, "end": 0.5}},
                    "cutout": {"probability": 0.5, "size": 3},
                },
            },
            {"level": "single", "relaxation": "gumbel-softmax", "op_temperature": 0.5, "topology": SETS},
        ),
    ),
    "other optimizers": (
        HALVES,
        plan(
            {
                "epochs": 2,
                "weights": {"optimizer": "adamw", "lr": {"start": 0.01, "warmup": 1}, "options": {"betas": [0.8, 0.9]}},
                "mechanisms": {"progressive": {"first": 0, "every": 1}},
            },
            {"weights": {"optimizer": "adamw", "lr": 0.001, "options": {"betas": [0.8, 0.9]}}},
            {"weights": {"optimizer": "adafactor", "lr": 0.01}},
            {"weights": {"optimizer": "rmsprop", "lr": 0.001, "options": {"momentum": 0.5}}, "level": "single"},
        ),
    ),
}


@pytest.fixture(scope="module", params=SEARCHES)
def unbroken(
    request: Any, dataset: splits.Dataset, tmp_path_factory: Any
) -> tuple[SearchPlan, SearchData, Saver, Search]:
    """A search that ran to its end, with all of its states in files."""
    fractions, chosen = SEARCHES[request.param]
    given = splits.search_data(dataset, fractions, seed=0)
    saver = Saver(tmp_path_factory.mktemp("states"))
    return chosen, given, saver, finished(chosen, given, saver, seed=5, space=NOISY)


def test_a_search_goes_on_bit_for_bit_from_each_of_its_states(unbroken: Any) -> None:
    """In the middle of an epoch, between epochs and between stages: logits, weights, optimizers and metrics."""
    chosen, given, saver, whole = unbroken
    assert len(saver.before) > 6
    assert {True, False} == set(saver.due)
    for number, records_before in enumerate(saver.before):
        torch.manual_seed(number)  # the state of the library's own generator is of no importance
        recorder = Recorder()
        resumed = search(chosen, given, recorder, seed=5, space=NOISY)
        resumed.run(checkpoint.load(saver.folder / f"{number}.ckpt"))
        assert_identical(resumed.state_dict(), whole.state_dict())
        assert_identical(recorder.records, saver.records[records_before:])


def test_states_can_be_saved_after_every_step_and_are_due_after_every_epoch_and_stage(unbroken: Any) -> None:
    chosen, given, saver, _ = unbroken
    expected = []
    for number, stage in enumerate(chosen.stages):
        steps = math.ceil(len(given.get(stage.weights_on)) / 16)
        expected += [True] * (number > 0) + ([False] * (steps - 1) + [True]) * stage.epochs
    assert saver.due == expected
    phases = dict.fromkeys(phase for phase, _, _ in saver.progress)
    assert list(phases) == [f"search {n + 1}/{len(chosen.stages)} {s.name}" for n, s in enumerate(chosen.stages)]
    for phase in phases:
        done = [(d, total) for p, d, total in saver.progress if p == phase]
        assert done == [(i + 1, len(done)) for i in range(len(done))]


class Stopper(Recorder):
    """Saves and interrupts at the `at`-th opportunity, as the monitor of a run does when it gets a signal."""

    def __init__(self, path: Path, at: int) -> None:
        super().__init__()
        self.path, self.left = path, at

    def checkpoint(self, state: Callable[[], dict[str, Any]], due: bool = False) -> None:
        self.left -= 1
        if self.left == 0:
            checkpoint.save(self.path, state())
            raise Interrupted(15)


def test_a_search_that_is_interrupted_again_and_again_reaches_the_same_end(unbroken: Any, tmp_path: Path) -> None:
    chosen, given, saver, whole = unbroken
    path, records, state = tmp_path / "state.ckpt", [], None
    for _ in range(100):
        stopper = Stopper(path, at=4)
        running = search(chosen, given, stopper, seed=5, space=NOISY)
        try:
            running.run(state)
        except Interrupted as stop:
            assert stop.signal_number == 15
            records += stopper.records
            state = checkpoint.load(path)
        else:
            records += stopper.records
            break
    assert_identical(running.state_dict(), whole.state_dict())
    assert_identical(records, saver.records)


def test_the_same_seed_gives_the_same_search_and_another_seed_another(halves: SearchData) -> None:
    short = plan({"init": 0.1})
    first, again, other = (finished(short, halves, seed=s) for s in (0, 0, 1))
    assert_identical(first.state_dict(), again.state_dict())
    assert not same(logits(first.learner), logits(other.learner))


# --- which update takes what


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Batch, list[ArchBatch]]]:
    """The batches that every step of level `bilevel` is given."""
    seen: list[tuple[Batch, list[ArchBatch]]] = []

    def spy(learner: Learner, train: Batch, given: Any) -> Any:
        seen.append((train, list(given)))
        return levels.bilevel(learner, train, given)

    monkeypatch.setitem(LEVELS, "bilevel", spy)
    return seen


def images(batch: Batch) -> set[bytes]:
    return {x.contiguous().numpy().tobytes() for x in batch[0]}


def split_images(given: SearchData, name: str) -> set[bytes]:
    """The images of a split as a network sees them without augmentation."""
    batch = augment(given.get(name).images, given.mean, given.std, None, None)
    return images((batch, torch.zeros(0)))


def test_alternate_updates_take_their_own_splits(thirds: SearchData, updates: Any) -> None:
    plain = replace(thirds, augmentation=NO_AUGMENTATION)
    finished(plan({"epochs": 2, "topology": SETS, "alpha_on": "val-alpha", "beta_on": "val-beta"}), plain)
    assert len(updates) == 4
    seen: dict[str, set[bytes]] = {"train": set(), "val-alpha": set(), "val-beta": set()}
    for train, (first, second) in updates:
        assert (first.alpha, first.beta, second.alpha, second.beta) == (True, False, False, True)
        for split, batch in (("train", train), ("val-alpha", first.batch), ("val-beta", second.batch)):
            seen[split] |= images(batch)
    assert seen == {split: split_images(plain, split) for split in seen}


def test_joint_updates_take_one_batch(halves: SearchData, updates: Any) -> None:
    plain = replace(halves, augmentation=NO_AUGMENTATION)
    finished(plan({"topology": SETS}), plain)
    assert len(updates) == 2
    for train, given in updates:
        assert [(u.alpha, u.beta) for u in given] == [(True, True)]
        assert images(train) <= split_images(plain, "train")
        assert images(given[0].batch) <= split_images(plain, "val")


def test_a_topology_without_logits_asks_for_no_update_of_beta(thirds: SearchData, updates: Any) -> None:
    finished(plan({"alpha_on": "val-alpha", "beta_on": "val-beta"}), thirds)
    assert [[(u.alpha, u.beta) for u in given] for _, given in updates] == [[(True, False)]] * 2


def test_the_architecture_may_learn_from_the_split_of_the_weights(halves: SearchData, updates: Any) -> None:
    finished(plan({"alpha_on": "train", "beta_on": "train"}), replace(halves, augmentation=NO_AUGMENTATION))
    assert all(torch.equal(train[0], given[0].batch[0]) for train, given in updates)


def test_warm_up_moves_the_weights_only(halves: SearchData) -> None:
    recorder = Recorder()
    running = search(plan({"epochs": 3, "warmup": 2, "topology": SETS}), halves, recorder)
    history: list[list[Tensor]] = []
    weights: list[Tensor] = []

    def look(due: bool) -> None:
        history.append(logits(running.learner))
        weights.append(next(running.learner.net.parameters()).detach().clone())

    recorder.look = look
    running.run()
    steps = 2
    assert all(same(step, history[0]) for step in history[: 2 * steps])
    assert not any(same(a, b) for a, b in zip(history[2 * steps - 1 :], history[2 * steps :]))
    assert not any(torch.equal(a, b) for a, b in pairwise(weights))
    assert {float(s["step"]) for s in running.learner.alpha_optimizer.state.values()} == {float(steps)}


def test_once_an_epoch_the_architecture_moves_at_the_last_step(halves: SearchData, updates: Any) -> None:
    running = finished(plan({"epochs": 2, "topology": SETS, "arch_every": "epoch"}), halves)
    assert [len(given) for _, given in updates] == [0, 1, 0, 1]
    assert {float(s["step"]) for s in running.learner.alpha_optimizer.state.values()} == {2.0}
    first, second = (given[0].batch[0] for _, given in updates if given)
    assert not torch.equal(first, second)


def test_once_an_epoch_the_architecture_moves_on_a_full_batch(thirds: SearchData, updates: Any) -> None:
    """Of 21 images the last step has five, which say little about where a step of the weights leads."""
    finished(plan({"epochs": 2, "alpha_on": "val-alpha", "beta_on": "val-beta", "arch_every": "epoch"}), thirds)
    assert [(len(train[0]), len(given)) for train, given in updates] == [(16, 1), (5, 0)] * 2
    assert [len(given[0].batch[0]) for _, given in updates if given] == [16, 16]


def test_batches_are_drawn_as_the_stage_says(thirds: SearchData, updates: Any) -> None:
    """Weights and architecture each by their own option; with replacement every step has a batch of full size."""
    own = {"alpha_on": "val-alpha", "beta_on": "val-beta", "topology": SETS}
    finished(plan({**own, "draw": "replacement"}, {**own, "arch_draw": "replacement"}), thirds)
    sizes = [(len(train[0]), *(len(u.batch[0]) for u in given)) for train, given in updates]
    assert sizes == [(16, 16, 16), (16, 5, 5), (16, 16, 16), (5, 16, 16)]


def test_level_weights_moves_no_logits_and_needs_one_split(halves: SearchData) -> None:
    only = replace(halves, splits={"train": halves.splits["train"]}, order={"train": halves.order["train"]})
    running = finished(plan({"level": "weights", "topology": SETS}), only)
    assert not running.learner.alpha_optimizer.state
    assert running.learner.beta_optimizer is not None
    assert not running.learner.beta_optimizer.state


# --- curves


def test_temperatures_and_learning_rates_follow_their_curves(halves: SearchData) -> None:
    stage = {
        "epochs": 3,
        "topology": SETS,
        "op_temperature": {"shape": "linear", "start": 2, "end": 1},
        "edge_temperature": {"shape": "exponential", "start": 10, "end": 0.1, "closed": True},
        "weights": {"lr": {"shape": "cosine", "start": 0.025, "end": 0.001}},
        "alpha": {"lr": {"shape": "linear", "start": 0.3, "end": 0.0}},
        "beta": {"lr": {"shape": "linear", "start": 0.6, "end": 0.0}},
    }
    recorder = Recorder()
    running = search(plan(stage), halves, recorder)
    rates: list[tuple[float, float]] = []

    def look(due: bool) -> None:
        assert running.learner.beta_optimizer is not None
        rates.append(
            (
                running.learner.alpha_optimizer.param_groups[0]["lr"],
                running.learner.beta_optimizer.param_groups[0]["lr"],
            )
        )

    recorder.look = look
    running.run()
    assert [r["op_temperature"] for r in recorder.records] == pytest.approx([2, 5 / 3, 4 / 3])
    assert [r["edge_temperature"] for r in recorder.records] == pytest.approx([10, 1, 0.1])
    cosine = [0.001 + 0.012 * (1 + math.cos(math.pi * e / 3)) for e in range(3)]
    assert [r["lr"] for r in recorder.records] == pytest.approx(cosine)
    assert [pytest.approx(pair) for pair in rates[::2]] == [(0.3, 0.6), (0.2, 0.4), (0.1, 0.2)]


def test_what_changes_per_step_does_so_at_every_step_and_the_rest_per_epoch(halves: SearchData) -> None:
    """Two batches an epoch."""
    stage = {
        "epochs": 2,
        "topology": SETS,
        "op_temperature": {"shape": "linear", "start": 4, "end": 1, "closed": True, "per": "step"},
        "edge_temperature": {"shape": "linear", "start": 4, "end": 2},
        "weights": {"lr": {"shape": "linear", "start": 0.4, "end": 0.0, "per": "step"}},
    }
    found: list[tuple[float, float, float]] = []
    recorder = Recorder()
    running = search(plan(stage), halves, recorder)

    def look(due: bool) -> None:
        arch, rate = running.learner.arch, running.learner.weights_optimizer.param_groups[0]["lr"]
        found.append((arch.op_temperature, arch.edge_temperature, rate))

    recorder.look = look
    running.run()
    expected = [(4, 4, 0.4), (3, 4, 0.3), (2, 3, 0.2), (1, 3, 0.1)]
    assert found == [pytest.approx(each) for each in expected]
    assert [row["op_temperature"] for row in recorder.records] == pytest.approx([3, 1])


def test_each_stage_has_its_own_size_of_batches(halves: SearchData) -> None:
    recorder = Recorder()
    finished(plan({"batch_size": 8}, {}, {"batch_size": 32}), halves, recorder)
    steps = {phase: total for phase, _, total in recorder.progress}
    assert list(steps.values()) == [4, 2, 1]  # of 32 images


def test_what_a_stage_schedules_reaches_the_learner(halves: SearchData) -> None:
    stage = {
        "epochs": 3,
        "mechanisms": {
            "auxiliary_skip": {"weight": {"shape": "linear", "start": 1, "end": 0}},
            "skip_dropout": {"rate": {"shape": "linear", "start": 0.3, "end": 0}},
        },
        "alpha_penalty": 0.5,
        "relaxation": "sigmoid",
        "arch_clip": 3,
    }
    found: list[tuple[float, float]] = []
    running = search(plan(stage, {"mechanisms": {"perturbation": {}}}), halves, recorder := Recorder())
    recorder.look = lambda due: found.append((running.learner.arch.auxiliary_skip, running.learner.net.skip_dropout))
    running.run()
    assert found[:6:2] == [pytest.approx(pair) for pair in [(1, 0.3), (2 / 3, 0.2), (1 / 3, 0.1)]]
    assert found[-1] == (0, 0)
    learner = running.learner
    assert (learner.alpha_penalty, learner.arch_clip, learner.epsilon) == (0, None, 0.03)
    assert learner.perturb is PERTURBATIONS["uniform"]
    first = finished(plan(stage), halves).learner
    assert (first.alpha_penalty, first.arch_clip, first.perturb) == (0.5, 3, None)


def test_drop_path_and_cutout_grow_with_the_epochs_and_are_for_what_is_learned_from(halves: SearchData) -> None:
    up = {"shape": "linear", "start": 0, "end": 0.6}
    of_stage = {"epochs": 3, "mechanisms": {"drop_path": {"rate": up}, "cutout": {"probability": up, "size": 3}}}
    found: list[tuple[float, ...]] = []
    running = search(plan(of_stage, {}), halves, recorder := Recorder())

    def look(due: bool) -> None:
        streams = running.streams
        plans = [batches.augmentation for batches in (streams.train, streams.alpha, streams.beta)]
        assert plans[0] is not None and plans[1:] == [plans[0]] * 2 and streams.held_out.augmentation is None
        share = plans[0].cutout_probability if plans[0].cutout else 0.0
        found.append((running.learner.net.drop_path, share, plans[0].cutout))

    recorder.look = look
    running.run()
    assert found[:6:2] == [(0, 0, 0), pytest.approx((0.2, 0.2, 3)), pytest.approx((0.4, 0.4, 3))]
    assert found[-1] == (0, 0, 0)


def test_drop_path_and_cutout_of_none_are_bit_for_bit_as_without(halves: SearchData) -> None:
    none = {"mechanisms": {"drop_path": {"rate": 0}, "cutout": {"probability": 0}}}
    with_none, without = (finished(plan(stage), halves).learner.net.state_dict() for stage in (none, {}))
    assert_identical(with_none, without)


def test_epsilon_of_sdarts_grows_with_the_epochs() -> None:
    """0.03 in epoch 0, 0.2946 in epoch 49: ε(e) = 0.03 + 0.27 e / E, not e / (E − 1)."""
    perturbation = plan({"epochs": 50, "mechanisms": {"perturbation": {}}}).stages[0].mechanisms.perturbation
    assert perturbation is not None and perturbation.epsilon.value(0, 50) == 0.03
    assert perturbation.epsilon.value(49, 50) == pytest.approx(0.2946)


@pytest.mark.parametrize("relaxation", ["gumbel-softmax", "gumbel-straight-through", "dirichlet"])
def test_decisions_and_figures_are_not_sampled(
    halves: SearchData, tmp_path: Path, relaxation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluation and the shrink ask for expected weights; a sample in either would fail here."""
    both = plan({"relaxation": relaxation}, {"epochs": 0, "shrink": "best"}, evaluation_batches=None)
    state = at_the_end_of_the_first_stage(both, halves, tmp_path)
    for kind in SPACE.cells:
        state["arch"][f"alpha.{kind}"] = on_each_edge([2.0, 1.0, 0.5])
    kind = RELAXATIONS[relaxation]
    monkeypatch.setattr(kind, "weights", lambda *_: pytest.fail("sampled"))
    done = continued(both, halves, state)
    assert {cell.candidates for cell in done.space.cells.values()} == {(("skip_connect",),) * 5}
    learner = restored(both, halves, state)
    val = Batches(
        halves.get("val"), 16, mean=halves.mean, std=halves.std, augmentation=None, device="cpu", seed=0, stream="any"
    )
    records = [observe(learner.net, learner.arch, Rules(), [val.batch(0, 0)]) for _ in range(2)]
    assert records[0] == records[1]
    assert learner.net.training


# --- from one stage to the next


def at_the_end_of_the_first_stage(of: SearchPlan, given: SearchData, folder: Path) -> dict[str, Any]:
    """The last state of the first stage, before anything is made of it."""
    saver = Saver(folder)
    finished(of.model_copy(update={"stages": of.stages[:1]}), given, saver)
    return checkpoint.load(folder / f"{len(saver.before) - 1}.ckpt")


def restored(of: SearchPlan, given: SearchData, state: dict[str, Any]) -> Learner:
    """The learner of a state, as the search that goes on from it finds it."""
    copy = search(of, given)
    copy.load_state_dict(state)
    return copy.learner


def continued(of: SearchPlan, given: SearchData, state: dict[str, Any]) -> Search:
    going_on = search(of, given)
    going_on.run(state)
    return going_on


def on_each_edge(choice: list[float]) -> Tensor:
    return torch.tensor([choice] * 5)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"shrink": "best"}, ("skip_connect",)),
        ({"shrink": "best", "shrink_none": True}, ("skip_connect",)),  # none alone is no candidate
        ({"shrink": 1}, ("skip_connect",)),
        ({"shrink": 1, "shrink_none": True}, ("none",)),
        ({"shrink": 2}, ("skip_connect", "sep_conv_3x3")),
        ({"shrink": 2, "shrink_none": True}, ("none", "skip_connect")),
        ({"shrink": 3, "shrink_none": True}, ("none", "skip_connect", "sep_conv_3x3")),
        ({"shrink": 9}, ("skip_connect", "sep_conv_3x3")),
    ],
    ids=str,
)
def test_shrinking_keeps_the_best_candidates_and_their_weights(
    halves: SearchData, tmp_path: Path, options: dict[str, Any], kept: tuple[str, ...]
) -> None:
    both = plan({}, {"epochs": 0, **options})
    state = at_the_end_of_the_first_stage(both, halves, tmp_path)
    for kind in SPACE.cells:
        state["arch"][f"alpha.{kind}"] = on_each_edge([2.0, 1.0, 0.0])
    done = continued(both, halves, state)
    for cell in done.space.cells.values():
        assert cell.candidates == (kept,) * 5
    assert {name: alpha.shape for name, alpha in done.learner.arch.alpha.items()} == {
        "normal": (5, len(kept)),
        "reduce": (5, len(kept)),
    }
    before = restored(both, halves, state).net.per_edge_state_dict()
    after = done.learner.net.per_edge_state_dict()
    stays = {name for name in before if ".edges." not in name or name.split(".")[4] in kept}
    assert set(after) == stays
    assert all(torch.equal(after[name], before[name]) for name in after)
    assert not done.learner.weights_optimizer.state
    assert not done.learner.alpha_optimizer.state


def test_candidates_that_stay_can_keep_their_alpha(halves: SearchData, tmp_path: Path) -> None:
    """DrNAS: by name, whatever column they move to; Adam and the network of another width are fresh all the same."""
    both = plan({}, {"epochs": 0, "shrink": 2, "shrink_alpha": True, "partial": 2})
    state = at_the_end_of_the_first_stage(both, halves, tmp_path)
    logits = {kind: torch.randn(5, 3, generator=torch.Generator().manual_seed(i)) for i, kind in enumerate(SPACE.cells)}
    for kind, alpha in logits.items():
        alpha[0, 0] = alpha[0].min() - 1  # the first edge loses `none`, which stands first
        state["arch"][f"alpha.{kind}"] = alpha
    done = continued(both, halves, state).learner
    assert not done.alpha_optimizer.state and not done.weights_optimizer.state
    for kind, cell in done.arch.space.cells.items():
        for e, kept in enumerate(cell.candidates):
            before = dict(zip(SPACE.cells[kind].candidates[e], logits[kind][e].tolist()))
            assert done.arch.alpha[kind][e].tolist() == [before[op] for op in kept]
        assert cell.candidates[0] == ("skip_connect", "sep_conv_3x3")


@pytest.mark.parametrize("shrink", ["best", 1])
def test_shrinking_after_an_annealing_keeps_the_best_of_the_losers(
    halves: SearchData, tmp_path: Path, shrink: str | int
) -> None:
    """`none` wins with weight 1 at that temperature, and may not stay alone."""
    both = plan({"op_temperature": 2e-5}, {"epochs": 0, "shrink": shrink})
    state = at_the_end_of_the_first_stage(both, halves, tmp_path)
    for kind in SPACE.cells:
        state["arch"][f"alpha.{kind}"] = on_each_edge([0.2, 0.0, 0.1])
    assert not restored(both, halves, state).arch.expected()["normal"].ops[:, 1:].any()
    for cell in continued(both, halves, state).space.cells.values():
        assert cell.candidates == (("sep_conv_3x3",),) * 5


def test_a_grouped_relaxation_keeps_a_winner_of_each_group(halves: SearchData, tmp_path: Path) -> None:
    groups = {"name": "grouped-softmax", "groups": [["none", "skip_connect"], ["sep_conv_3x3"]]}
    both = plan({"relaxation": groups}, {"epochs": 0, "shrink": "best", "shrink_none": True})
    state = at_the_end_of_the_first_stage(both, halves, tmp_path)
    alpha = on_each_edge([1.0, 2.0, -5.0])
    alpha[0] = torch.tensor([2.0, 1.0, -5.0])
    state["arch"]["alpha.normal"] = alpha
    cell = continued(both, halves, state).space.cells["normal"]
    assert cell.candidates == (("none", "sep_conv_3x3"),) + (("skip_connect", "sep_conv_3x3"),) * 4


def second_stage(halves: SearchData, folder: Path, **options: Any) -> tuple[Learner, Learner]:
    """The learner at the end of the first stage and at the start of the second."""
    both = plan({"topology": SETS}, {"epochs": 0, "topology": SETS, **options})
    state = at_the_end_of_the_first_stage(both, halves, folder)
    return restored(both, halves, state), continued(both, halves, state).learner


def changed(before: Learner, after: Learner) -> set[str]:
    """Which of the parts of a learner are not those of before."""
    parts = {
        "weights": (before.net.state_dict(), after.net.state_dict()),
        "alpha": (dict(before.arch.alpha), dict(after.arch.alpha)),
        "beta": (dict(before.arch.beta), dict(after.arch.beta)),
        "momentum": (before.weights_optimizer.state_dict()["state"], after.weights_optimizer.state_dict()["state"]),
        "moments of alpha": (before.alpha_optimizer.state_dict()["state"], after.alpha_optimizer.state_dict()["state"]),
    }
    assert before.beta_optimizer is not None
    if after.beta_optimizer is not None:
        parts["moments of beta"] = (
            before.beta_optimizer.state_dict()["state"],
            after.beta_optimizer.state_dict()["state"],
        )
    return {name for name, (old, new) in parts.items() if flat(_detached(old)) != flat(_detached(new))}


def _detached(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _detached(item) for key, item in value.items()}
    return value.detach() if isinstance(value, Tensor) else value


MOMENTS = {"momentum", "moments of alpha", "moments of beta"}


@pytest.mark.parametrize(
    ("options", "fresh"),
    [
        ({}, set()),
        ({"weights": {"lr": 0.5}, "level": "single"}, set()),
        ({"reset": ["weights"]}, {"weights", "momentum"}),
        ({"weights": {"optimizer": "adamw"}}, {"momentum"}),
        ({"reset": ["alpha"]}, {"alpha", "moments of alpha"}),
        ({"reset": ["beta"]}, {"beta", "moments of beta"}),
        ({"reset": ["optimizers"]}, MOMENTS),
        ({"reset": ["weights", "alpha", "beta"]}, {"weights", "alpha", "beta"} | MOMENTS),
        ({"relaxation": "uniform"}, set()),
        ({"topology": PAIRS}, {"beta", "moments of beta"}),
        ({"topology": "dense"}, {"beta"}),
        ({"layers": 2}, {"weights", "momentum"}),
        ({"channels": 6}, {"weights", "momentum"}),
        ({"partial": 2}, {"weights", "momentum"}),
        ({"partial": 1}, set()),
        ({"channels": 4, "layers": 3}, set()),  # the sizes that the plan has anyway
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_a_stage_makes_afresh(
    halves: SearchData, tmp_path: Path, options: dict[str, Any], fresh: set[str]
) -> None:
    before, after = second_stage(halves, tmp_path, **options)
    assert changed(before, after) == fresh
    if "weights" not in options:
        assert after.weights_optimizer.param_groups[0]["lr"] == 0.025


def test_a_stage_has_its_own_settings_beside_the_momentum_it_finds(halves: SearchData, tmp_path: Path) -> None:
    stage = {"weights": {"lr": 0.5, "weight_decay": 0.1, "nesterov": True, "clip": None}, "penalty": 3, "mixed": 0.5}
    before, after = second_stage(halves, tmp_path, **stage, alpha={"lr": 0.2, "betas": [0.9, 0.99]})
    group = after.weights_optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["nesterov"]) == (0.5, 0.1, True)
    assert (after.clip, after.penalty, after.mixed) == (None, 3, 0.5)
    assert after.alpha_optimizer.param_groups[0]["lr"] == 0.2
    assert after.alpha_optimizer.param_groups[0]["betas"] == (0.9, 0.99)
    assert (before.clip, before.penalty, before.mixed) == (5, 0, 1)
    assert changed(before, after) == set()


def test_layers_and_channels_of_a_stage(halves: SearchData) -> None:
    sizes: list[tuple[int, int, int]] = []
    recorder = Recorder()
    running = search(plan({"epochs": 1}, {"epochs": 1, "layers": 4}, {"channels": 6}), halves, recorder)

    def look(due: bool) -> None:
        slots = running.learner.net.slots
        sizes.append((running.number, len(slots), slots[0].channels))

    recorder.look = look
    running.run()
    assert list(dict.fromkeys(sizes)) == [(0, 3, 4), (1, 4, 4), (2, 3, 6)]


def test_partial_channels_of_a_stage_come_before_those_of_the_plan(halves: SearchData) -> None:
    """PC-DARTS for the operations, then all channels for the topology."""
    found: list[tuple[int, int]] = []
    running = search(plan({"partial": 1}, {}, {"partial": 1}, partial=2), halves, recorder := Recorder())
    recorder.look = lambda due: found.append((running.number, sum(p.numel() for p in running.learner.net.parameters())))
    running.run()
    sizes = dict(found)
    assert sizes[0] == sizes[2] > sizes[1]


def test_a_stage_of_no_epochs_trains_nothing(halves: SearchData) -> None:
    recorder = Recorder()
    done = finished(plan({"epochs": 0}), halves, recorder)
    assert (recorder.records, recorder.progress) == ([], [])
    assert not done.learner.weights_optimizer.state


# --- what is recorded


def test_the_records_describe_each_epoch(halves: SearchData) -> None:
    recorder = Recorder()
    stage = {"epochs": 2, "topology": SETS, "penalty": 10}
    done = finished(
        plan({**stage}, {"topology": "dense"}, evaluation_batches=None), halves, recorder, rules=Rules(in_degree=1)
    )
    assert [(r["phase"], r["stage"], r["stage_index"], r["epoch"]) for r in recorder.records] == [
        ("search", "stage-0", 0, 0),
        ("search", "stage-0", 0, 1),
        ("search", "stage-1", 1, 0),
    ]
    first, last = recorder.records[0], recorder.records[-1]
    assert first["penalty"] >= 0
    assert last["penalty"] is None
    assert set(first["beta_entropy"]) == {"normal", "reduce"}
    assert last["beta_entropy"] is None
    assert 1 < first["train_loss"] < 5  # ln 10 = 2.3 at the start
    assert all(0 <= r[name] <= 1 for r in recorder.records for name in ("train_accuracy", "val_accuracy"))
    derived = derive(done.learner.arch, Rules(in_degree=1))
    assert last["derived"]["normal"]["nodes"] == [[list(p) for p in n] for n in derived.cells["normal"].nodes]
    assert sum(last["operations"]["normal"].values()) == 2
    assert set(last["depth"]) == set(last["width"]) == {"normal", "reduce"}
    val = halves.get("val")
    watched = Batches(
        val, 16, mean=halves.mean, std=halves.std, augmentation=None, device="cpu", seed=0, stream="stage-1 watch"
    )
    soft = done.learner.arch.expected()
    with torch.no_grad():
        batches = [watched.batch(0, i) for i in range(len(watched))]  # batch norm takes its statistics from a batch
        correct = [
            sum((done.learner.net(part, weights).argmax(1) == y).sum().item() for part, y in batches)
            for weights in (soft, derived.weights(soft))
        ]
    assert last["gap"] == pytest.approx({"soft": correct[0] / len(val), "derived": correct[1] / len(val)})
    assert last["val_accuracy"] == last["gap"]["soft"]


def test_the_evaluation_mixes_the_classes_of_a_sorted_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch norm with the statistics of one class alone would show an accuracy that no mixed batch has."""
    dataset = splits.load("digits", images=96, test_images=20)
    by_class = dataset.train.subset(dataset.train.labels.argsort(stable=True))
    given = splits.search_data(replace(dataset, train=by_class), {"train": 0.5, "rest": 0.5}, seed=0)
    seen: list[Tensor] = []

    def look(net: Any, arch: Any, rules: Any, batches: Any) -> dict[str, Any]:
        seen.extend(labels for _, labels in batches)
        return {}

    monkeypatch.setattr(importlib.import_module("topocell.searching.loop"), "observe", look)
    finished(plan({"epochs": 1, "level": "weights", "weights_on": "all"}, evaluation_batches=None), given)
    assert len(seen) == 6
    assert all(len(labels.unique()) > 3 for labels in seen)
    assert len(given.get("all").labels[:16].unique()) <= 3


def test_the_training_figures_are_means_over_the_images_of_the_epoch(
    thirds: SearchData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of batches of 16 and of 5 images."""
    seen: list[tuple[float, int, int]] = []

    def spy(learner: Learner, train: Batch, given: Any) -> Any:
        found = levels.bilevel(learner, train, given)
        seen.append((float(found.loss), int(found.correct), found.images))
        return found

    monkeypatch.setitem(LEVELS, "bilevel", spy)
    recorder = Recorder()
    finished(plan({"epochs": 2, "alpha_on": "val-alpha", "beta_on": "val-beta"}), thirds, recorder)
    assert [images for _, _, images in seen] == [16, 5, 16, 5]
    for record, steps in zip(recorder.records, (seen[:2], seen[2:])):
        assert record["train_loss"] == pytest.approx(sum(loss * images for loss, _, images in steps) / 21)
        assert record["train_accuracy"] == pytest.approx(sum(correct for _, correct, _ in steps) / 21)


def test_skip_connections_that_take_over_are_reported_in_words() -> None:
    assert skip_warnings({"normal": {"skip_connect": 1, "sep_conv_3x3": 2}, "reduce": {}}) == []
    assert skip_warnings({"normal": {"skip_connect": 2, "sep_conv_3x3": 2}, "reduce": {"noise": 1}}) == [
        "skip connections take over the normal cell: 2 of 4 operations"
    ]


def test_a_search_learns() -> None:
    """Five epochs on 200 digits; a guess is right one time in ten."""
    given = splits.search_data(splits.load("digits", images=200, test_images=20), HALVES, seed=0)
    recorder = Recorder()
    finished(plan({"epochs": 5, "weights": {"lr": 0.1}}, batch_size=20), given, recorder)
    assert recorder.records[-1]["train_accuracy"] > 0.25
    assert recorder.records[-1]["train_loss"] < recorder.records[0]["train_loss"] - 0.3


# --- what must not happen


def test_a_search_holds_no_reference_to_the_test_images() -> None:
    dataset = splits.load("digits", images=40, test_images=20)
    test, pixels = weakref.ref(dataset.test), weakref.ref(dataset.test.images)
    running = search(plan({"epochs": 0}), splits.search_data(dataset, HALVES, seed=0))
    del dataset
    gc.collect()
    running.run()
    assert test() is None
    assert pixels() is None


def test_a_stage_that_asks_for_the_test_split_is_refused(halves: SearchData) -> None:
    with pytest.raises(DataError, match="the search never sees the test split"):
        finished(plan({"weights_on": "test", "level": "weights"}), halves)


def test_a_loss_that_is_no_longer_a_number_ends_the_search(halves: SearchData) -> None:
    with pytest.raises(RunError, match=r"must stay finite, .* stage 'stage-0', epoch 0, step 1: .*lower search\.st"):
        finished(plan({"weights": {"lr": 1e30, "clip": None}}), halves)
