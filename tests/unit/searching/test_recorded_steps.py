"""Steps that are recorded and replayed compute, bit by bit, what they compute when they are called.

On the CPU the recorder is `tests.helpers.tape`: nothing that Python knows reaches a step that is replayed, as in a CUDA
graph, and no operator in a step may wait for the device.
"""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tests.helpers.identical import assert_identical
from tests.helpers.stages import CHANGING, SPACE, STAGES, started
from tests.helpers.tape import OneDevice, Recorded, Tape, Unrecordable

from topocell.config.selection import ProjectionPlan, Rules
from topocell.data import splits
from topocell.data.splits import ImageSet, SearchData
from topocell.errors import RunError
from topocell.runtime.hooks import Keeping, Silent
from topocell.searching.loop import Search
from topocell.selection.probe import Ablation, Probe
from topocell.selection.projection import Projection


class Records(Silent):
    """Keeps the lines of metrics.jsonl."""

    def __init__(self) -> None:
        self.records: list[Mapping[str, Any]] = []

    def metrics(self, record: Mapping[str, Any]) -> None:
        self.records.append(record)


@pytest.fixture(autouse=True)
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: PyTorch's own functions."""
    monkeypatch.setenv("TOPOCELL_NATIVE", "0")


@pytest.fixture(scope="module")
def data() -> SearchData:
    dataset = splits.load("digits", images=60)
    return splits.search_data(dataset, {"train": 0.5, "val": 0.5}, 0)


@pytest.fixture
def without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optimizers that do nothing, and labels that are not checked: both need values."""
    monkeypatch.setattr(ImageSet, "__post_init__", lambda self: None)
    monkeypatch.setattr("topocell.supernet.learner.held_options", lambda kind, lr, device: {"lr": lr})
    monkeypatch.setattr("topocell.runtime.optimizers.held_options", lambda kind, lr, device: {"lr": lr})
    for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
        monkeypatch.setattr(kind, "step", lambda self: None)


def searched(stage: Mapping[str, Any], data: SearchData, recorder: Any, monitor: Any, state: Any = None) -> Search:
    search = started(stage, data, Recorded(given=recorder), monitor=monitor)
    search.run(state)
    return search


@pytest.mark.parametrize("name", STAGES | CHANGING)
def test_a_replayed_search_is_the_search(name: str, data: SearchData) -> None:
    stage, tape = (STAGES | CHANGING)[name], Tape()
    seen = Keeping() if name in CHANGING else Records()
    replayed, called, plain = searched(stage, data, tape, seen), Records(), Records()
    expected = searched(stage, data, Unrecordable(), plain).state_dict()
    assert tape.recorded and tape.replays >= 2, "nothing was replayed"
    assert_identical(replayed.state_dict(), expected)
    assert seen.records == plain.records
    if isinstance(seen, Keeping):
        middle = seen.states[len(seen.states) // 2]
        assert_identical(searched(stage, data, Tape(), called, middle).state_dict(), expected)


def test_a_replayed_projection_is_the_projection(data: SearchData) -> None:
    """Candidates leave on the way: what was recorded with them is recorded anew."""
    results = []
    for recorder in (tape := Tape(), Unrecordable()):
        search, monitor = searched({}, data, recorder, Records()), Records()
        rules = Rules(operations="perturbation", edges="perturbation")
        sizes = {"tune_epochs": 1, "epochs": 2, "batches": 1}
        options: dict[str, Any] = {"batch_size": 10, "monitor": monitor}
        of = Projection(search.learner, data, search.stage, ProjectionPlan(**sizes), rules, **options)
        of.run()
        results.append((of.state_dict(), monitor.records))
    assert tape.recorded > 2
    assert_identical(*(state for state, _ in results))
    assert results[0][1] == results[1][1]


def test_replayed_measurements_are_the_measurements(data: SearchData) -> None:
    """Of candidates one by one, and side by side; noise is drawn alike for all of them."""
    found = []
    for recorder in (tape := Tape(), Unrecordable()):
        learner = searched({}, data, recorder, Records()).learner
        probe = Probe(learner, splits.split_batches(data, "val", 10, "probe", seed=0, device="cpu"), 3, 0)
        weights = {t: w.detach() for t, w in learner.arch.expected().items()}
        ablations = [Ablation("normal", 0, k) for k in range(3)]
        found.append([*(probe.side_by_side(weights, ablations, 0, step) for step in range(3)), probe(weights, 1)])
    assert_identical(*[{"found": [list(pair) if isinstance(pair, tuple) else pair for pair in of]} for of in found])
    assert tape.recorded == 3


@pytest.mark.parametrize("name", ["gdas", "dots", "edarts, second order", "drnas, drop path and dropout"])
def test_all_of_a_step_is_on_its_device(name: str, data: SearchData, without_values: None) -> None:
    """The device is `meta`, which holds no values: a step that mixes devices, or reads a value, fails there."""
    stage = dict((STAGES | CHANGING)[name])
    if stage.get("relaxation") == "dirichlet":  # torch's gradient of a gamma variable knows no such device
        stage |= {"relaxation": "softmax", "alpha_penalty": 0.0}
    search = started(stage, data, Recorded(given=Unrecordable()), device="meta")
    search._enter(*search.build.first(SPACE))
    with OneDevice():
        search.loop.epoch = stage.get("warmup", 0)
        search.begin_epoch()
        seen = search.train_step()
        search.loop.meter.add(seen)
        assert seen.loss.device.type == seen.correct.device.type == "meta"


def test_what_is_elsewhere_is_found(data: SearchData, without_values: None) -> None:
    """A constant on the CPU, or a value that is read, is what the test above would find."""
    search = started({}, data, Recorded(given=Unrecordable()), device="meta")
    search._enter(*search.build.first(SPACE))
    with OneDevice():
        search.begin_epoch()
        search.learner.loss = lambda logits, labels: (logits @ torch.ones(10)).sum()
        with pytest.raises(AssertionError, match="mixes devices"):
            search.train_step()
        search.learner.loss = lambda logits, labels: logits.sum() * float(logits.detach().sum())
        with pytest.raises(RunError, match=r"item\(\) cannot be called"):
            search.train_step()
