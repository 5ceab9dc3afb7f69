"""Optimizers, averages, mixing, policies, sampling and early stopping in a retraining: by hand, and resumed exactly."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from tests.helpers.identical import assert_identical
from tests.unit.networks.test_retraining import SMALL, Recorder, Saver, digits, plan, trained
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import topocell
from topocell.cli import main
from topocell.config.budgets import small
from topocell.config.load import load_recipe
from topocell.config.retrain import RetrainPlan
from topocell.data import splits
from topocell.data.mixing import Mixing
from topocell.errors import RecipeError
from topocell.io import checkpoint
from topocell.networks import seed_training
from topocell.networks.early_stopping import BestEpoch
from topocell.networks.evaluation import Measured, evaluate
from topocell.networks.retraining import Retraining
from topocell.runs.setup import check, prepared
from topocell.runtime.epoch_meter import Seen
from topocell.runtime.losses import balanced_weights
from topocell.runtime.optimizers import OPTIMIZERS
from topocell.runtime.rng import generator

__all__ = ["digits"]

#: Features, each by itself and all together.
FEATURES: dict[str, dict[str, Any]] = {
    "ema": {"ema": 0.7},
    "mixup": {"mixup": 0.4},
    "cutmix": {"cutmix": 1.0},
    "both": {"mixup": 0.4, "cutmix": 1.0},
    "randaugment": {"augment": {"name": "randaugment", "magnitude": 5, "operations": 1}},
    "trivialaugment": {"augment": "trivialaugment"},
    "class weights": {"class_weights": "balanced"},
    "sampling": {"sampling": "balanced"},
    "early stop": {"early_stop": {"fraction": 0.2, "patience": 1}, "epochs": 4},
    "warm-up": {"weights": {"lr": {"shape": "step", "start": 0.1, "every": 1, "warmup": 1}}},
    **{name: {"weights": {"optimizer": name, "lr": 0.01, "weight_decay": 0}} for name in sorted(OPTIMIZERS)},
    "all": {
        "seeds": (3, 4),
        "epochs": 3,
        "drop_path": 0.5,
        "auxiliary": 0.4,
        "cutout": 3,
        "weights": {"optimizer": "adamw", "lr": 0.01, "options": {"amsgrad": True}},
        "ema": 0.7,
        "mixup": 0.4,
        "cutmix": 1.0,
        "augment": "randaugment",
        "class_weights": "balanced",
        "sampling": "balanced",
        "label_smoothing": 0.1,
        "early_stop": {"fraction": 0.2, "patience": 1},
    },
}


@pytest.mark.parametrize("name", FEATURES)
def test_a_retraining_resumes_bit_for_bit_from_each_of_its_states(
    name: str, digits: splits.Dataset, tmp_path: Path
) -> None:
    chosen = plan(**{"batch_size": 32} | FEATURES[name])
    saver = Saver(tmp_path)
    whole = trained(chosen, digits, saver, seed=7)
    for number, records_before in enumerate(saver.before):
        torch.manual_seed(number)
        recorder = Recorder()
        resumed = Retraining(SMALL, chosen, digits, seed=7, monitor=recorder)
        results = resumed.run(checkpoint.load(tmp_path / f"{number}.ckpt"))
        assert results == whole.results()
        assert_identical(resumed.state_dict(), whole.state_dict())
        assert_identical(resumed.tested.state_dict(), whole.tested.state_dict())
        assert_identical(recorder.records, saver.records[records_before:])


@pytest.mark.parametrize("on_nan", ["skip", "rollback"])
def test_a_skipped_batch_leaves_no_trace_in_the_average(digits: splits.Dataset, on_nan: Any) -> None:
    """A loss that is not finite at one step of the second epoch."""
    calls = 0

    def broken(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return F.cross_entropy(logits, target) * (float("nan") if calls == 6 else 1.0)

    topocell.register("loss", "my-broken", broken)
    done = trained(plan(ema=0.7, loss="my-broken"), digits, on_nan=on_nan)
    (member,) = done.members
    assert member.average is not None
    updates = {"skip": 7, "rollback": 6}[on_nan]  # of 8; a rollback forgets the one before the fault
    assert int(member.average.n_averaged) == updates
    assert all(bool(value.isfinite().all()) for value in done.tested.state_dict().values())


def by_hand(given: splits.Dataset, of: RetrainPlan, step: Callable[[Retraining, Any, Any], None]) -> Retraining:
    """A retraining whose steps are written out here, with the batches and the seeds of the loop."""

    class ByHand(Retraining):
        def _update(self, x: Any, y: Any) -> Any:
            step(self, x, y)
            return Seen(torch.zeros(()), torch.zeros((), dtype=torch.long), len(y))

    done = ByHand(SMALL, of, given, seed=1)
    done.run()
    return done


def test_adamw_is_the_plain_loop_of_torch(digits: splits.Dataset) -> None:
    options: dict[str, Any] = {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.05, "options": {"betas": [0.8, 0.9]}}
    chosen = plan(weights=options, drop_path=0.0)
    torches: list[Any] = []

    def step(training: Retraining, x: Any, y: Any) -> None:
        if not torches:
            mine = torch.optim.AdamW(
                training.net.parameters(), lr=0.01, betas=(0.8, 0.9), weight_decay=0.05, fused=True
            )
            torches.append(mine)
        torches[0].zero_grad()
        F.cross_entropy(training.net(x), y).backward()
        torch.nn.utils.clip_grad_norm_(training.net.parameters(), 5.0)
        torches[0].step()

    found = trained(chosen, digits, seed=1)
    assert_identical(found.tested.state_dict(), by_hand(digits, chosen, step).tested.state_dict())


def test_the_average_is_that_of_torch(digits: splits.Dataset) -> None:
    """Of weights and of statistics of batch norm; counters are copied. It is what is tested and kept."""
    copies: list[AveragedModel] = []

    class Spied(Retraining):
        def train_step(self) -> Any:
            if not copies:
                copies.append(AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(0.7), use_buffers=True))
            seen = super().train_step()
            copies[0].update_parameters(self.net)
            return seen

    done = Spied(SMALL, plan(ema=0.7), digits)
    done.run()
    expected = copies[0].module.state_dict()
    for name, value in done.tested.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert torch.equal(value, done.net.state_dict()[name])
        else:
            assert torch.equal(value, expected[name]), name
    assert done.members[0].tests[-1] == evaluate(done.tested, done.members[0].test_batches)
    assert done.tested is not done.net
    plain = trained(plan(), digits)
    assert_identical(done.net.state_dict(), plain.net.state_dict())  # it does not touch the training


def test_mixed_batches_and_their_loss_are_those_of_the_step(digits: splits.Dataset) -> None:
    chosen = plan(epochs=1, batch_size=64, mixup=0.4, weights={"lr": 0.0, "momentum": 0, "weight_decay": 0})
    recorder = Recorder()
    done = trained(chosen, digits, recorder)
    x, y = done.batches.batch(0, 0)
    draws = generator(done.batches.seed, "retrain", "mixing", 0, 0)
    mixed, target = Mixing(mixup=0.4)(x, y, 10, draws)
    net = copy.deepcopy(done.net).train()
    with torch.no_grad():
        logits = net(mixed)
    assert recorder.records[0]["train_loss"] == pytest.approx(float(F.cross_entropy(logits, target)), rel=1e-5)
    share = float(target.gather(1, logits.argmax(1, keepdim=True)).mean())
    assert recorder.records[0]["train_accuracy"] == pytest.approx(share, rel=1e-5)


def test_class_weights_enter_the_loss(digits: splits.Dataset) -> None:
    few = splits.load("digits", images=64, test_images=40)
    labels = few.train.labels
    keep = torch.cat([torch.nonzero(labels > 4).flatten(), torch.nonzero(labels <= 4).flatten()[:5]])
    uneven = splits.Dataset(**{**vars(few), "train": few.train.subset(keep)})
    chosen = plan(epochs=1, batch_size=64, class_weights="balanced", weights={"lr": 0.0, "weight_decay": 0})
    recorder = Recorder()
    done = trained(chosen, uneven, recorder)
    x, y = done.batches.batch(0, 0)
    with torch.no_grad():
        logits = copy.deepcopy(done.net).train()(x)
    expected = F.cross_entropy(logits, y, weight=balanced_weights(uneven.train.labels, 10))
    assert recorder.records[0]["train_loss"] == pytest.approx(float(expected), rel=1e-5)


# Early stopping


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float]], None]:
    """Let the accuracies on what is held out be these; those of tests are the number of the test / 100."""

    def script(accuracies: list[float]) -> None:
        coming, tests = iter(accuracies), iter(range(1, 100))

        def test(net: Any, batches: Any, top_k: int | None = None) -> Measured:
            return Measured(1.5, next(coming) if batches.stream == "validation" else next(tests) / 100)

        monkeypatch.setattr(seed_training, "evaluate", test)

    return script


@pytest.mark.parametrize(
    ("accuracies", "patience", "stopped", "kept"),
    [
        ([0.1, 0.3, 0.2, 0.3, 0.3, 0.9], 3, 4, 1),
        ([0.1, 0.3, 0.2, 0.3, 0.4, 0.3], 3, 5, 4),
        ([0.5, 0.4, 0.3, 0.2, 0.1, 0.0], 1, 1, 0),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 1, 5, 5),
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 2, 2, 0),
    ],
)
def test_a_training_stops_when_the_accuracy_rises_no_more(
    digits: splits.Dataset, scripted: Any, accuracies: list[float], patience: int, stopped: int, kept: int
) -> None:
    scripted(accuracies)
    recorder = Recorder()
    early = {"fraction": 0.2, "patience": patience}
    done = trained(plan(epochs=6, test_every=2, early_stop=early, batch_size=64), digits, recorder)
    assert [r["val_accuracy"] for r in recorder.records] == accuracies[: stopped + 1]
    tests = sum(r["test_accuracy"] is not None for r in recorder.records) + 1  # and one of what is kept
    found = {"seed": 0, "last": tests / 100, "best": tests / 100, "best_epoch": kept}
    found |= {"stopped_epoch": stopped, "kept_epoch": kept, "validation": accuracies[kept]}
    assert done.runs[0].items() >= found.items() and len(done.runs) == 1
    results = done.results()
    assert (results["train_images"], results["validation_images"]) == (52, 12)
    assert sum(entry["train_images"] for entry in results["per_class"]) == 52


def test_the_weights_of_the_best_epoch_are_kept(digits: splits.Dataset, scripted: Any) -> None:
    """They are those of a training of the same epochs that has no more; the images differ from those of a test."""
    scripted([0.1, 0.3, 0.2, 0.2])
    options: dict[str, Any] = {"batch_size": 16, "drop_path": 0.0, "weights": {"lr": 0.05}}
    early = {"early_stop": {"fraction": 0.2, "patience": 2}}
    stopped = trained(plan(epochs=9, **early, **options), digits)
    scripted([0.1, 0.3])
    short = trained(plan(epochs=2, **early, **options), digits)
    assert_identical(stopped.tested.state_dict(), short.tested.state_dict())


def test_what_is_held_out_is_of_the_training_images_and_trains_nothing(digits: splits.Dataset) -> None:
    done = Retraining(SMALL, plan(early_stop={"fraction": 0.25}), digits, seed=3)
    train, apart = done.task.train, done.task.held_out
    assert apart is not None
    images = torch.cat([train.images, apart.images]).flatten(1)
    assert sorted(map(tuple, images.tolist())) == sorted(map(tuple, digits.train.images.flatten(1).tolist()))
    done._begin()
    assert done.batches.data.images.shape[0] == len(train) and done.batches.policy is None
    validation = done.members[0].validation_batches
    assert validation is not None and validation.augmentation is None


def test_the_best_epoch_remembers_what_it_was_shown() -> None:
    first, net = BestEpoch(2), torch.nn.Linear(2, 2)
    assert not first.add(0, 0.5, net)
    kept = net.weight.detach().clone()
    with torch.no_grad():
        net.weight.zero_()
    assert not first.add(1, 0.5, net)
    again = BestEpoch(2)
    again.load_state_dict(first.state_dict())
    assert again.add(2, 0.4, net) and first.add(2, 0.4, net)
    assert again.results() == first.results() == {"stopped_epoch": 2, "kept_epoch": 0, "validation": 0.5}
    assert torch.equal(again.weights["weight"], kept)


# In a recipe and from the command line


def test_budgets_shorten_schedules_and_patience_in_proportion() -> None:
    steps = "retrain.weights.lr={shape: step, start: 0.1, milestones: [300, 450], warmup: 60}"
    given = [steps, "retrain.early_stop.patience=60"]
    short = small(load_recipe("darts-v1", given), set()).retrain
    assert short.epochs == 32 and short.weights.lr.milestones == (16, 24) and short.weights.lr.warmup == 3
    assert short.early_stop is not None and short.early_stop.patience == 3


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"ema": 1.0}, "less than 1"),
        ({"mixup": -0.1}, "greater than or equal to 0"),
        ({"augment": "autoaugment"}, "'none', 'randaugment' or 'trivialaugment'"),
        ({"augment": {"name": "trivialaugment", "magnitude": 3}}, "are options of randaugment, but the name is"),
        ({"augment": {"name": "randaugment", "magnitude": 31}}, "less than or equal to 30"),
        ({"class_weights": "balance"}, "'none' or 'balanced'"),
        ({"sampling": "even"}, "'natural' or 'balanced'"),
        ({"early_stop": {"patience": 0}}, "greater than or equal to 1"),
        ({"early_stop": {"fraction": 0.9}}, "less than or equal to 0.5"),
        ({"loss": "cross_entrop"}, "did you mean 'cross_entropy'"),
    ],
)
def test_plans_that_cannot_be(fault: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        plan(**fault)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["retrain.weights.optimizer=lbfgs"], "updates all weights from one gradient, but lbfgs evaluates the loss"),
        (
            ["retrain.weights.optimizer=adamm"],
            "retrain.weights.optimizer: unknown optimizer 'adamm' (did you mean 'adam",
        ),
        (
            ["retrain.weights.optimizer=adamw", "retrain.weights.options={beta: 1}"],
            "retrain.weights: optimizer 'adamw' has no option 'beta' (did you mean 'betas'?)",
        ),
        (["search.stages.search.weights.options={lr: 1}"], "search.stages.search.weights: options of an optimizer do"),
        (["retrain.loss.smoothing=0.1"], "retrain.loss: loss 'cross_entropy' has no option 'smoothing'"),
        (["retrain.loss=focal"], "retrain.loss: unknown loss 'focal'"),
        (["retrain.augment=auto"], "retrain.augment: input should be 'none', 'randaugment' or 'trivialaugment'"),
        (["retrain.early_stop.patience=0"], "retrain.early_stop.patience: input should be greater than or equal to 1"),
        (["retrain.early_stop.fraction=0.01"], "but 0.01 of 96 holds out 0; change the fraction, or add images"),
        (["retrain.ema=2"], "retrain.ema: input should be less than 1, but got 2"),
        (
            ["retrain.weights.lr={shape: step, start: 0.1}"],
            "retrain.weights.lr: a curve of shape 'step' needs milestones",
        ),
    ],
)
def test_a_mistake_is_one_line_before_anything_starts(
    words: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "darts-v1", *words, "--budget", "smoke", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.strip()
    assert line in error and "\n" not in error
    assert not (tmp_path / "run").exists()


def test_a_run_from_the_command_line_with_all_of_it(tmp_path: Path) -> None:
    words = [
        "search.stages.search.weights.optimizer=adamw",
        "search.stages.search.weights.lr=0.001",
        "retrain.weights.optimizer=rmsprop",
        "retrain.weights.lr={shape: cosine, start: 0.001, end: 0.0, warmup: 1}",
        *("retrain.ema=0.9", "retrain.mixup=0.2", "retrain.cutmix=1.0", "retrain.augment=randaugment"),
        *("retrain.class_weights=balanced", "retrain.sampling=balanced", "retrain.label_smoothing=0.1"),
        *("retrain.epochs=4", "retrain.early_stop.patience=1", "retrain.early_stop.fraction=0.2"),
    ]
    out = tmp_path / "run"
    assert main(["run", "darts-v1", *words, "--budget", "smoke", "--quiet", "--out", str(out)]) == 0
    (run,) = json.loads((out / "results.json").read_text())["runs"]
    assert run["kept_epoch"] <= run["stopped_epoch"] <= 3
    assert main(["run", str(out / "recipe.yaml"), "--quiet", "--out", str(out)]) == 0  # nothing left to do


def test_a_search_learns_by_the_loss_of_the_recipe() -> None:
    """Weights and architecture: one of its own that is cross entropy changes nothing, its double all logits."""
    seen: list[int] = []

    def scaled(logits: torch.Tensor, target: torch.Tensor, by: float = 1.0) -> torch.Tensor:
        seen.append(len(target))
        return by * F.cross_entropy(logits, target)

    topocell.register("loss", "my-scaled", scaled)
    found = []
    for changes in ([], ["search.loss=my-scaled"], ["search.loss=my-scaled", "search.loss.by=3.0"]):
        search = prepared(load_recipe("darts-v1", [*changes, "search.stages.search.epochs=1"], "smoke")).search()
        search.run()
        found.append({name: alpha.detach() for name, alpha in search.learner.arch.alpha.items()})
    assert len(seen) > 10
    assert_identical(found[0], found[1])
    assert not torch.equal(found[0]["normal"], found[2]["normal"])


def test_an_option_that_a_loss_does_not_take_is_found_by_python_too() -> None:
    with pytest.raises(RecipeError, match=r"search.loss: loss 'cross_entropy' has no option 'gamma'"):
        check(load_recipe("darts-v1", ["search.loss.gamma=2"], "smoke"))


def costly(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Costs of the ten digits, of labels alone."""
    each = F.cross_entropy(logits, target.flatten(), weight=torch.arange(1.0, 11.0), reduction="sum")
    return each / torch.arange(1.0, 11.0)[target].sum()


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["retrain.loss=my-costly"], ""),
        (["search.loss=my-costly"], ""),
        (["retrain.loss=my-costly", "retrain.mixup=0.2"], "probabilities (N, K) fails on a small example"),
        (
            ["retrain.loss=my-costly", "retrain.batch_size=16", "retrain.micro_batch=8"],
            "retrain.micro_batch needs a loss that is the mean over the images of a batch",
        ),
        (
            ["search.loss=my-costly", "search.batch_size=16", "search.micro_batch=8"],
            "search.micro_batch needs a loss that is the mean over the images of a batch",
        ),
    ],
)
def test_a_loss_of_ones_own_is_tried_with_the_classes_of_the_images_as_it_is_used(words: list[str], fault: str) -> None:
    topocell.register("loss", "my-costly", costly)
    recipe = load_recipe("darts-v1", words, "smoke")
    if not fault:
        assert len(prepared(recipe).dataset.train.classes) == 10
        return
    with pytest.raises(RecipeError, match=re.escape(fault)) as caught:
        prepared(recipe)
    assert "\n" not in str(caught.value)
