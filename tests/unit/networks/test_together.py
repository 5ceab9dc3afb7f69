"""Seeds, and cells, that are trained at once: each ends as it does alone and resumes bit for bit.

What cannot be shared is said.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.identical import assert_identical
from tests.unit.networks.test_retraining import SMALL, Recorder, Saver, plan, trained

from topocell.config.retrain import RetrainPlan
from topocell.config.values import OnNan
from topocell.data import splits
from topocell.data.batches import Batches
from topocell.errors import RunError
from topocell.genotype.genotype import CellGenotype, Genotype
from topocell.io import checkpoint
from topocell.networks.retraining import Retraining
from topocell.networks.seed_training import SeedTraining, Task
from topocell.networks.start import AFRESH
from topocell.networks.together import at_once, obstacle
from topocell.networks.trainings import CellTrainings
from topocell.runtime import distributed
from topocell.runtime.precision import PLAIN, Execution

#: A cell without convolutions, one whose second cell takes other inputs than its first, and SMALL.
CELLS = [
    *(
        Genotype("any", {"normal": CellGenotype(2, normal, (2, 3)), "reduce": CellGenotype(2, reduce, (2, 3))})
        for normal, reduce in (
            (((("skip_connect", 0),), (("skip_connect", 2), ("avg_pool_3x3", 1))), SMALL.cells["reduce"].nodes),
            (((("sep_conv_3x3", 1),), (("dil_conv_5x5", 0),)), ((("max_pool_3x3", 0),), (("skip_connect", 2),))),
        )
    ),
    SMALL,
]
NB201 = Genotype.from_nasbench201("|nor_conv_3x3~0|+|avg_pool_3x3~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|")
BY_STEP = {"shape": "cosine", "start": 0.1, "end": 0.0, "per": "step"}
PLANS: dict[str, tuple[Genotype, dict[str, Any]]] = {
    "drop path, auxiliary head, average": (
        SMALL,
        {"drop_path": 0.5, "auxiliary": 0.4, "cutout": 3, "ema": 0.7, "head": "bn-relu", "weights": {"lr": BY_STEP}},
    ),
    "mixed images, class weights, adamw": (
        SMALL,
        {
            "mixup": 0.4,
            "cutmix": 1.0,
            "class_weights": "balanced",
            "sampling": "balanced",
            "top_k": 3,
            "weights": {"optimizer": "adamw", "lr": 0.01, "clip": None},
        },
    ),
    "NAS-Bench-201": (NB201, {"layers": 5, "label_smoothing": 0.1, "weights": {"nesterov": True, "clip": 0.5}}),
}


@pytest.fixture(scope="module")
def digits() -> splits.Dataset:
    return splits.load("digits", images=64, test_images=40)


def task(of: RetrainPlan, given: splits.Dataset, genotype: Genotype = SMALL, execution: Execution = PLAIN) -> Task:
    return Task(genotype, of, given, 7, torch.device("cpu"), execution, AFRESH)


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Networks, images and what is drawn for them are float64."""
    seeds, images, tests = SeedTraining.batch, Batches.batch, Batches.eval_batches

    def batch(self: SeedTraining, epoch: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = seeds(self, epoch, step)
        return x.double(), y if y.dim() == 1 else y.double()

    def doubled(self: Batches, *args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = images(self, *args)
        return x.double(), y

    def tested(self: Batches, *args: Any, **options: Any) -> Any:
        return ((x.double(), y) for x, y in tests(self, *args, **options))

    monkeypatch.setattr(SeedTraining, "batch", batch)
    monkeypatch.setattr(Batches, "batch", doubled)
    monkeypatch.setattr(Batches, "eval_batches", tested)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def of_seed(records: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    return [record for record in records if record["seed"] == seed]


@pytest.mark.parametrize("name", PLANS)
def test_each_seed_ends_as_it_does_alone(name: str, digits: splits.Dataset, in_float64: None) -> None:
    genotype, options = PLANS[name]
    if options.get("class_weights"):
        digits = replace(digits, train=digits.train.subset(digits.train.labels.argsort()[:50]))
    ends = []
    for together in (1, 2):
        recorder = Recorder()
        chosen = plan(seeds=(3, 4, 5), together=together, **options)
        done = Retraining(genotype, chosen, digits, seed=7, monitor=recorder)
        done.run()
        ends.append((done, recorder))
    (alone, told), (both, said) = ends
    assert len(alone.members) == 1 and both.loop.epoch == 2
    assert both.results() == alone.results()
    assert said.progress[0][0] == "retrain, seeds 1 to 2/3" and said.progress[-1][0] == "retrain, seed 3/3"
    assert said.progress[0][1] == 2 and said.progress[-1][1:] == told.progress[-1][1:]
    for found, expected in zip(said.networks, told.networks, strict=True):
        assert (found["number"], found["seed"]) == (expected["number"], expected["seed"])
        for key, value in expected["weights"].items():
            torch.testing.assert_close(found["weights"][key], value, rtol=0, atol=1e-10, msg=key)
        assert torch.equal(found["labels"], expected["labels"])
    for seed in (3, 4, 5):
        for one, other in zip(of_seed(said.records, seed), of_seed(told.records, seed), strict=True):
            numbers = {key: value for key, value in other.items() if isinstance(value, float)}
            assert one == other | {key: pytest.approx(value, rel=1e-6) for key, value in numbers.items()}


@pytest.mark.parametrize("name", ["drop path, auxiliary head, average", "mixed images, class weights, adamw"])
def test_each_cell_ends_as_it_does_alone(name: str, digits: splits.Dataset, in_float64: None) -> None:
    _, options = PLANS[name]
    chosen = plan(seeds=(3,), test_every=2, **options)
    recorder = Recorder()
    both = CellTrainings([task(chosen, digits, cell) for cell in CELLS], recorder)
    found = both.run()
    assert {member.batches for member in both.members} == {both.members[0].batches}
    assert [record["test_accuracy"] for record in recorder.records[-3:]] == found
    assert recorder.progress[0][0] == "train, cells 1 to 3" and recorder.progress[-1][1:] == (24, 24)
    for cell, accuracy, member in zip(CELLS, found, both.members, strict=True):
        alone = Retraining(cell, chosen, digits, seed=7)
        assert alone.run()["last_mean"] == accuracy
        unread = {key.rpartition(".")[0] for key, p in alone.net.named_parameters() if p.grad is None}
        for key, value in alone.tested.state_dict().items():
            if key.removeprefix("module.").rpartition(".")[0] not in unread:
                torch.testing.assert_close(member.tested.state_dict()[key], value, rtol=0, atol=1e-10, msg=key)


def test_cells_resume_bit_for_bit_from_each_of_their_states(digits: splits.Dataset, tmp_path: Path) -> None:
    chosen = plan(seeds=(3,), drop_path=0.5, ema=0.7, batch_size=32, test_every=2)

    def begun(monitor: Recorder) -> CellTrainings:
        return CellTrainings([task(chosen, digits, cell) for cell in CELLS], monitor)

    saver = Saver(tmp_path)
    whole = begun(saver)
    found = whole.run()
    assert len(saver.before) == 2 * 2
    for number in range(4):
        torch.manual_seed(number)
        resumed = begun(Recorder())
        assert resumed.run(checkpoint.load(tmp_path / f"{number}.ckpt")) == found
        assert_identical(resumed.state_dict(), whole.state_dict())


def test_cells_that_cannot_be_computed_as_one_are_named(digits: splits.Dataset) -> None:
    other = Genotype("any", {name: replace(cell, concat=(3,)) for name, cell in SMALL.cells.items()})
    tasks = [task(plan(), digits, cell) for cell in (SMALL, other)]
    words = "the networks of these cells cannot be computed as one (networks train together that have the same skeleton"
    assert obstacle(tasks, [0, 0], "stop").startswith(words)
    assert obstacle([tasks[0], task(plan(), digits, CELLS[0])], [0, 0], "stop") == ""


def test_a_fault_names_the_cell_that_has_it(digits: splits.Dataset) -> None:
    chosen = plan(weights={"lr": 1e30, "clip": None})
    fault = (
        r"^the (loss|gradient norm of the weights) of cell [12] of 2 must stay finite, .* with seed 0, epoch 0, step"
    )
    with pytest.raises(RunError, match=fault):
        CellTrainings([task(chosen, digits, cell) for cell in CELLS[1:]], Recorder()).run()


def test_in_float32_they_are_as_close_as_roundings(digits: splits.Dataset) -> None:
    ends = []
    for together in (1, 2):
        recorder = Recorder()
        trained(plan(seeds=(0, 1), together=together, drop_path=0.3, auxiliary=0.4), digits, recorder)
        ends.append(recorder)
    for found, expected in zip(ends[1].networks, ends[0].networks, strict=True):
        for key, value in expected["weights"].items():
            torch.testing.assert_close(found["weights"][key], value, rtol=1e-3, atol=1e-4, msg=key)


def test_they_resume_bit_for_bit_from_each_of_their_states(digits: splits.Dataset, tmp_path: Path) -> None:
    """In the middle of an epoch, at its end, and between some seeds and others; as many at once as at first."""
    options = {"seeds": (3, 4, 5), "drop_path": 0.5, "ema": 0.7, "batch_size": 32, "epochs": 1}
    saver = Saver(tmp_path)
    whole = trained(plan(**options, together=2), digits, saver, seed=7)
    assert len(saver.before) == 2 * 2
    for number, records_before in enumerate(saver.before):
        torch.manual_seed(number)
        recorder = Recorder()
        chosen = plan(**options, together=2 if number % 2 else "auto")  # which may come to mean another number
        resumed = Retraining(SMALL, chosen, digits, seed=7, monitor=recorder)
        assert resumed.run(checkpoint.load(tmp_path / f"{number}.ckpt")) == whole.results()
        assert_identical(resumed.state_dict(), whole.state_dict())
        assert_identical(recorder.networks, saver.networks[-len(recorder.networks) :])
        assert_identical(recorder.records, saver.records[records_before:])


@pytest.mark.parametrize(
    ("options", "compiled", "on_nan", "words"),
    [
        ({"early_stop": {}}, False, "stop", "early_stop ends each at an epoch of its own"),
        ({"micro_batch": 8}, False, "stop", "micro_batch computes less at once"),
        ({}, True, "stop", "compile=true"),
        ({}, False, "skip", "on_nan=skip is about one network"),
    ],
)
def test_what_cannot_be_shared_is_said(
    options: dict[str, Any], compiled: bool, on_nan: OnNan, words: str, digits: splits.Dataset
) -> None:
    of = task(plan(seeds=(0, 1), together=2, **options), digits, execution=Execution(compile=compiled))
    number, said = at_once(of, 2, on_nan)
    assert number == 1 and said.startswith("seeds are trained one after the other: ") and words in said


def test_bfloat16_is_for_networks_alone(digits: splits.Dataset) -> None:
    """Autocast does not reach into what is computed as one."""
    of = task(plan(seeds=(0, 1), together=2), digits, execution=Execution("bf16"))
    assert at_once(of, 2, "stop") == (1, "seeds are trained one after the other: precision=bf16 is for networks alone")


def test_operations_that_draw_are_trained_one_after_the_other(digits: splits.Dataset) -> None:
    cell = CellGenotype(2, ((("noise", 0), ("sep_conv_3x3", 1)),), (2,))
    noisy = Genotype("any", {"normal": cell, "reduce": cell})
    heard: list[str] = []

    class Listening(Recorder):
        def say(self, text: str) -> None:
            heard.append(text)

    done = trained(plan(seeds=(0, 1), together=2, epochs=1), digits, Listening(), genotype=noisy)
    assert len(done.members) == 1 and len(done.runs) == 2
    (said,) = heard
    assert "one after the other: the networks of this cell cannot be computed as one (operation noise draws" in said


def test_several_processes_share_batches_not_steps(digits: splits.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world", lambda: 2)
    assert "several processes" in at_once(task(plan(seeds=(0, 1), together=2), digits), 2, "stop")[1]


def test_so_many_are_trained_at_once_as_are_asked_for_and_left(digits: splits.Dataset) -> None:
    assert at_once(task(plan(seeds=(0, 1, 2, 3)), digits), 4, "stop") == (1, "")
    assert at_once(task(plan(seeds=(0, 1, 2), together=3), digits), 2, "stop") == (2, "")


def test_a_fault_names_the_seed_that_has_it(digits: splits.Dataset) -> None:
    fault = r"^the (loss|gradient norm of the weights) of seed [34] must stay finite, .*with seed 3, 4, epoch 0, step"
    with pytest.raises(RunError, match=fault):
        trained(plan(seeds=(3, 4), together=2, weights={"lr": 1e30, "clip": None}), digits)
