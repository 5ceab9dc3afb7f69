"""Retraining by recorded steps, in the manner of `tests/unit/searching/test_recorded_steps.py`."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tests.helpers.golden_genotypes import DARTS_V1, DARTS_V2
from tests.helpers.identical import assert_identical
from tests.helpers.tape import OneDevice, Recorded, Tape, Unrecordable

from topocell.config.retrain import RetrainPlan
from topocell.config.values import number_of
from topocell.data import splits
from topocell.data.splits import ImageSet
from topocell.networks.retraining import Retraining
from topocell.networks.seed_training import Task
from topocell.networks.start import AFRESH
from topocell.networks.trainings import CellTrainings
from topocell.runtime.hooks import Keeping

BY_STEP = {"shape": "cosine", "start": 0.05, "end": 0.0, "per": "step"}
PLANS: dict[str, tuple[Mapping[str, Any], str]] = {
    "cutout, drop path, auxiliary head, average": (
        {"drop_path": 0.5, "auxiliary": 0.4, "cutout": 4, "ema": 0.9, "weights": {"lr": BY_STEP}},
        "fp32",
    ),
    "mixed images, class weights, bf16": (
        {"auxiliary": 0, "mixup": 0.2, "cutmix": 1.0, "class_weights": "balanced", "label_smoothing": 0.1},
        "bf16",
    ),
    "three seeds, two of them at once": (
        {"seeds": (0, 1, 2), "together": 2, "drop_path": 0.5, "auxiliary": 0.4, "ema": 0.9, "batch_size": 30},
        "fp32",
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_replayed_retraining_is_the_retraining(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPOCELL_NATIVE", "0")
    options, precision = PLANS[name]
    plan = RetrainPlan.model_validate(
        {"channels": 4, "layers": 2, "epochs": 3, "batch_size": 20, "weights": {"lr": 0.05}, "test_every": 3} | options
    )
    data = splits.load("digits", images=60, test_images=10)

    def trained(recorder: Any, state: Any = None) -> tuple[Any, Keeping, dict[str, Any]]:
        monitor = Keeping()
        made = Retraining(DARTS_V2, plan, data, monitor=monitor, execution=Recorded(precision, given=recorder))
        results = made.run(state)
        assert made._most == number_of(plan.together), "fewer were trained at once"
        return results, monitor, made.state_dict()

    tape = Tape()
    results, replayed, state = trained(tape)
    called, plain, expected = trained(Unrecordable())
    assert tape.recorded and tape.replays >= 4, "nothing was replayed"
    assert results == called and replayed.records == plain.records
    assert_identical(state, expected)
    resumed, _, again = trained(Tape(), replayed.states[4])
    assert resumed == called
    assert_identical(again, expected)


def test_replayed_steps_of_several_cells_are_their_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPOCELL_NATIVE", "0")
    sizes: dict[str, Any] = {"channels": 4, "layers": 2, "epochs": 3, "batch_size": 20, "auxiliary": 0}
    plan = RetrainPlan.model_validate(sizes | {"drop_path": 0.5, "test_every": 3, "weights": {"lr": BY_STEP}})
    data, device = splits.load("digits", images=60, test_images=10), torch.device("cpu")

    def trained(recorder: Any) -> tuple[list[float], dict[str, Any]]:
        how = Recorded(given=recorder)
        tasks = [Task(cell, plan, data, 0, device, how, AFRESH) for cell in (DARTS_V2, DARTS_V1)]
        made = CellTrainings(tasks, Keeping())
        return made.run(), made.state_dict()

    tape = Tape()
    replayed, called = trained(tape), trained(Unrecordable())
    assert tape.recorded == 2 and tape.replays >= 4, "with and without drop path"
    assert replayed[0] == called[0]
    assert_identical(replayed[1], called[1])


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_all_of_a_step_is_on_its_device(seeds: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageSet, "__post_init__", lambda self: None)
    monkeypatch.setattr("topocell.runtime.optimizers.held_options", lambda kind, lr, device: {"lr": lr})
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: None)
    options = {"auxiliary": 0.4, "cutout": 4, "mixup": 0.2, "class_weights": "balanced", "drop_path": 0.5}
    sizes: dict[str, Any] = {"channels": 4, "layers": 2, "epochs": 2, "batch_size": 20}
    plan = RetrainPlan.model_validate(sizes | options | {"seeds": seeds, "together": len(seeds)})
    data = splits.load("digits", images=60, test_images=10)
    training = Retraining(DARTS_V2, plan, data, device="meta", execution=Recorded(given=Unrecordable()))
    training._begin()
    with OneDevice():
        training.loop.epoch = 1
        training.begin_epoch()
        seen = training.train_step()
        training.loop.meter.add(seen)
    assert seen.loss.device.type == seen.correct.device.type == "meta"
