"""Retraining: exact resumption, honest results, and the one place where the test images are looked at."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tests.helpers.golden_genotypes import DARTS_V2
from tests.helpers.identical import assert_identical
from torch import Tensor
from torch.nn import functional

import topocell
from topocell.config.retrain import RetrainPlan
from topocell.data import splits
from topocell.data.augment import Augmentation, augment
from topocell.data.batches import Batches
from topocell.errors import RunError, SpaceError
from topocell.genotype.genotype import Genotype
from topocell.io import checkpoint
from topocell.networks import seed_training
from topocell.networks.evaluation import Measured, evaluate
from topocell.networks.options import initial_channels
from topocell.networks.retraining import Retraining
from topocell.nn.count import channels_for, count
from topocell.nn.network import FixedNet
from topocell.reporting.scores import score_headline, score_lines
from topocell.runtime.hooks import Interrupted, Silent, Trained

SMALL = Genotype.from_dict(
    {
        "format": 1,
        "space": "darts",
        "cells": {
            kind: {
                "inputs": 2,
                "nodes": [[["sep_conv_3x3", 0], ["max_pool_3x3", 1]], [["skip_connect", 1], ["dil_conv_3x3", 2]]],
                "concat": [2, 3],
            }
            for kind in ("normal", "reduce")
        },
    }
)


@pytest.fixture(scope="module")
def digits() -> splits.Dataset:
    return splits.load("digits", images=64, test_images=40)


def plan(**options: Any) -> RetrainPlan:
    """Four steps of 16 images an epoch."""
    sizes = {"channels": 4, "layers": 3, "epochs": 2, "batch_size": 16, "auxiliary": 0.0, "cutout": 0}
    return RetrainPlan.model_validate(sizes | options)


class Recorder(Silent):
    """Keeps the metrics."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.progress: list[tuple[str, int, int]] = []
        self.networks: list[dict[str, Any]] = []

    def trained(self, network: Trained) -> None:
        self.networks.append(network._asdict())

    def step(self, phase: str, done: int, total: int, figures: Callable[[], Mapping[str, float]]) -> None:
        assert set(figures()) == {"loss", "accuracy", "trained_images"}
        self.progress.append((phase, done, total))

    def metrics(self, record: Mapping[str, Any]) -> None:
        self.records.append(dict(record))


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


def trained(of: RetrainPlan, given: splits.Dataset, monitor: Any = None, **options: Any) -> Retraining:
    done = Retraining(options.pop("genotype", SMALL), of, given, monitor=monitor, **options)
    done.run()
    return done


def batches_of_test_images(of: splits.Dataset, size: int) -> Batches:
    options = {"augmentation": None, "device": "cpu", "seed": 0, "stream": "test"}
    return Batches(of.test, size, mean=of.mean, std=of.std, **options)


# --- going on after a kill


@pytest.fixture(scope="module")
def unbroken(digits: splits.Dataset, tmp_path_factory: Any) -> Any:
    """A retraining with everything switched on, and all of its states in files."""
    options = {"seeds": (3, 4), "auxiliary": 0.4, "drop_path": 0.5, "cutout": 3, "label_smoothing": 0.1}
    chosen = plan(**options, batch_size=32, head="bn-relu", weights={"nesterov": True})
    saver = Saver(tmp_path_factory.mktemp("states"))
    return chosen, saver, trained(chosen, digits, saver, seed=7)


def test_a_retraining_goes_on_bit_for_bit_from_each_of_its_states(unbroken: Any, digits: splits.Dataset) -> None:
    """In the middle of an epoch, between epochs and between seeds."""
    chosen, saver, whole = unbroken
    assert saver.due == [False, True] * 4
    for number, records_before in enumerate(saver.before):
        torch.manual_seed(number)  # the state of the library's own generator is of no importance
        recorder = Recorder()
        resumed = Retraining(SMALL, chosen, digits, seed=7, monitor=recorder)
        results = resumed.run(checkpoint.load(saver.folder / f"{number}.ckpt"))
        assert results == whole.results()
        assert_identical(resumed.state_dict(), whole.state_dict())
        assert_identical(recorder.networks, saver.networks[-len(recorder.networks) :])
        assert_identical(recorder.records, saver.records[records_before:])


def test_an_interrupted_retraining_has_saved_its_state(digits: splits.Dataset, unbroken: Any, tmp_path: Path) -> None:
    chosen, _, whole = unbroken

    class Stopper(Silent):
        left = 5

        def checkpoint(self, state: Callable[[], dict[str, Any]], due: bool = False) -> None:
            self.left -= 1
            if not self.left:
                checkpoint.save(tmp_path / "state.ckpt", state())
                raise Interrupted(2)

    with pytest.raises(Interrupted):
        trained(chosen, digits, Stopper(), seed=7)
    resumed = Retraining(SMALL, chosen, digits, seed=7)
    resumed.run(checkpoint.load(tmp_path / "state.ckpt"))
    assert_identical(resumed.state_dict(), whole.state_dict())


def test_progress_counts_the_steps_of_all_seeds(unbroken: Any) -> None:
    _, saver, _ = unbroken
    assert [(done, total) for _, done, total in saver.progress] == [(i + 1, 8) for i in range(8)]
    assert list(dict.fromkeys(name for name, _, _ in saver.progress)) == ["retrain, seed 1/2", "retrain, seed 2/2"]


# --- seeds


def test_each_seed_is_a_training_of_its_own(digits: splits.Dataset) -> None:
    recorder = Recorder()
    both, first, second, other = (
        trained(plan(seeds=seeds, epochs=1), digits, recorder, seed=seed)
        for seeds, seed in (((0, 1), 5), ((0,), 5), ((1,), 5), ((0,), 6))
    )
    of_both, of_first = recorder.networks[0], recorder.networks[2]
    assert both.runs == [*first.runs, *second.runs]
    assert_identical(of_both, of_first)
    assert_identical(both.net.state_dict(), second.net.state_dict())
    for different in (second, other):
        key = "classifier.weight"
        assert not torch.equal(different.net.state_dict()[key], first.net.state_dict()[key])


def test_the_networks_handed_over_are_those_that_were_tested(digits: splits.Dataset) -> None:
    recorder = Recorder()
    done = trained(plan(seeds=(3, 1), weights={"lr": 0.1}, auxiliary=0.4), digits, recorder)
    test = Batches(digits.test, 7, mean=digits.mean, std=digits.std, augmentation=None, device="cpu", seed=0, stream="")
    assert [(network["number"], network["seed"]) for network in recorder.networks] == [(0, 3), (1, 1)]
    for network, run, confusion in zip(recorder.networks, done.runs, done.confusions, strict=True):
        net = FixedNet(SMALL, 4, 3, 10, in_channels=1)  # without auxiliary head
        assert net.load_state_dict(network["weights"]) and net.state_dict().keys() == network["weights"].keys()
        assert evaluate(net, test)[1] == run["last"] == (network["labels"] == digits.test.labels).double().mean()
        assert confusion.sum() == 40 and confusion.diag().sum() == round(40 * run["last"])
        net.eval()
        with torch.no_grad():
            logits = torch.cat([net(x) for x, _ in test.eval_batches()])
        torch.testing.assert_close(network["probabilities"], logits.softmax(1).max(1).values)


# --- results


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float]], list[Any]]:
    """Let tests have the given accuracies, one after the other; returns the list of networks that were tested."""

    def script(accuracies: list[float]) -> list[Any]:
        coming, tested = iter(accuracies), []

        def test(net: FixedNet, batches: Batches, top_k: int | None = None) -> Measured:
            tested.append(net)
            return Measured(1.5, next(coming))

        monkeypatch.setattr(seed_training, "evaluate", test)
        return tested

    return script


def test_last_and_best_are_reported_side_by_side(digits: splits.Dataset, scripted: Any) -> None:
    scripted([0.5, 0.8, 0.6, 0.3, 0.2, 0.7, 0.6, 0.9, 0.9])
    results = trained(plan(seeds=(4, 5, 6), epochs=3), digits).results()
    told = [{key: run[key] for key in ("seed", "last", "best", "best_epoch")} for run in results["runs"]]
    assert told == [
        {"seed": 4, "last": 0.6, "best": 0.8, "best_epoch": 1},
        {"seed": 5, "last": 0.7, "best": 0.7, "best_epoch": 2},
        {"seed": 6, "last": 0.9, "best": 0.9, "best_epoch": 1},
    ]
    assert results["n"] == 3
    assert results["last_mean"] == pytest.approx((0.6 + 0.7 + 0.9) / 3)
    assert results["best_mean"] == pytest.approx((0.8 + 0.7 + 0.9) / 3)
    deviations = [(x - results["last_mean"]) ** 2 for x in (0.6, 0.7, 0.9)]
    assert results["last_std"] == pytest.approx((sum(deviations) / 2) ** 0.5)
    assert results["best_std"] == pytest.approx(statistics.stdev([0.8, 0.7, 0.9])) == pytest.approx(0.1)


def test_one_seed_has_no_deviation(digits: splits.Dataset, scripted: Any) -> None:
    scripted([0.5])
    results = trained(plan(epochs=1), digits).results()
    assert (results["last_std"], results["best_std"], results["n"]) == (None, None, 1)


DESCRIBED = ("dataset", "classes", "train_images", "test_images", "parameters", "multiply_adds", "channels", "layers")
DESCRIBED += ("epochs",)


def test_results_describe_data_and_network(digits: splits.Dataset) -> None:
    done = trained(plan(epochs=1, auxiliary=0.4), digits)
    results = done.results()
    size = count(FixedNet(SMALL, 4, 3, 10, in_channels=1), (1, 8, 8))
    described = {key: value for key, value in results.items() if key in DESCRIBED}
    assert described == {
        "dataset": "digits",
        "classes": 10,
        "train_images": 64,
        "test_images": 40,
        "parameters": size.parameters,  # without the auxiliary head
        "multiply_adds": size.multiply_adds,
        "channels": 4,
        "layers": 3,
        "epochs": 1,
    }


# --- the test images


@pytest.mark.parametrize(
    ("epochs", "every", "tested"), [(5, 2, [1, 3, 4]), (4, 2, [1, 3]), (3, 9, [2]), (2, 1, [0, 1])]
)
def test_the_test_images_are_looked_at_in_tested_epochs_only(
    digits: splits.Dataset, scripted: Any, epochs: int, every: int, tested: list[int]
) -> None:
    accuracies = [0.1 * (i + 1) for i in range(len(tested))][::-1]
    networks = scripted(accuracies)
    recorder = Recorder()
    results = trained(plan(epochs=epochs, test_every=every, batch_size=64), digits, recorder).results()
    assert len(networks) == len(tested)
    seen = {r["epoch"]: r["test_accuracy"] for r in recorder.records}
    assert seen == dict.fromkeys(range(epochs)) | dict(zip(tested, accuracies))
    assert [r["test_loss"] for r in recorder.records] == [1.5 if e in tested else None for e in range(epochs)]
    wanted = {"seed": 0, "last": accuracies[-1], "best": accuracies[0], "best_epoch": tested[0]}
    assert results["runs"][0].items() >= wanted.items()


def test_training_does_not_depend_on_the_test_images(digits: splits.Dataset) -> None:
    """Five or twenty of them, tested after every epoch or every other."""
    few, other = (replace(digits, test=digits.test.subset(torch.arange(*ends))) for ends in ((35, 40), (0, 20)))
    first = trained(plan(drop_path=0.3), few)
    second = trained(plan(drop_path=0.3, test_every=2), other)
    assert_identical(first.net.state_dict(), second.net.state_dict())


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, dict[str, Any]]]:
    """Number of images and options of all `Batches` that are made."""
    found: list[tuple[int, dict[str, Any]]] = []

    class Spy(Batches):
        def __init__(self, images: splits.ImageSet, *args: Any, **options: Any) -> None:
            found.append((len(images), options))
            super().__init__(images, *args, **options)

    monkeypatch.setattr(seed_training, "Batches", Spy)
    return found


def test_only_training_images_are_augmented_and_cut_out(digits: splits.Dataset, made: Any) -> None:
    trained(plan(epochs=1, cutout=5), digits)
    base = digits.augmentation
    augmentations = {images: options["augmentation"] for images, options in made}
    assert augmentations == {64: Augmentation(base.padding, base.flip, cutout=5), 40: None}


def test_every_seed_draws_its_own_batches(digits: splits.Dataset, made: Any) -> None:
    trained(plan(epochs=1, seeds=(0, 1), batch_size=64), digits)
    trained(plan(epochs=1, batch_size=64), digits, seed=1)
    seeds = [options["seed"] for images, options in made if images == 64]
    assert len(set(seeds)) == len(seeds) == 3


def test_evaluation_takes_every_image_once_in_evaluation_mode(digits: splits.Dataset) -> None:
    torch.manual_seed(0)
    net = FixedNet(SMALL, 4, 3, 10, in_channels=1, auxiliary=True, drop_path=0.5).train()
    x = augment(digits.test.images, digits.mean, digits.std, None, None)
    net(x)  # running statistics
    modes = {name: module.training for name, module in net.named_modules()}
    losses = []
    for size in (7, 13, 40):
        losses.append(evaluate(net, batches_of_test_images(digits, size), 3))
    assert {name: module.training for name, module in net.named_modules()} == modes
    net.eval()
    with torch.no_grad():
        logits = net(x)
    assert isinstance(logits, Tensor)
    by_hand = -torch.log_softmax(logits, 1)[torch.arange(40), digits.test.labels].mean()
    right = (logits.argmax(1) == digits.test.labels).float().mean()
    among = (logits.topk(3, 1).indices == digits.test.labels[:, None]).any(1).float().mean()
    for loss, accuracy, top_k in losses:
        assert top_k == pytest.approx(float(among)) and accuracy <= float(among)
        assert loss == pytest.approx(float(by_hand), rel=1e-5)
        assert accuracy == pytest.approx(float(right))


# --- what the plan says


def test_drop_path_and_learning_rate_follow_their_curves(digits: splits.Dataset) -> None:
    recorder = Recorder()
    curve = {"shape": "linear", "start": 0.1, "end": 0.0}
    options = {"epochs": 4, "drop_path": 0.4, "batch_size": 64, "weights": {"lr": curve}}
    done = trained(plan(**options), digits, recorder)
    assert [r["drop_path"] for r in recorder.records] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert [r["lr"] for r in recorder.records] == pytest.approx([0.1, 0.075, 0.05, 0.025])
    assert [(r["phase"], r["seed"], r["epoch"]) for r in recorder.records] == [("retrain", 0, e) for e in range(4)]
    group = done.members[0].optimizer.param_groups[0]
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 3e-4, False)


class Grouped(torch.optim.SGD):
    """Biases and batch norms are not decayed, and take steps of twice the size."""

    def __init__(self, params: Any, lr: float, weight_decay: float = 0.0) -> None:
        params = list(params)
        maps, others = ([p for p in params if (p.dim() > 1) is wanted] for wanted in (True, False))
        doubled = {"params": others, "lr": 2 * lr, "weight_decay": 0.0}
        super().__init__([{"params": maps}, doubled], lr=lr, momentum=0.9, weight_decay=weight_decay)


def test_an_optimizer_of_several_groups_follows_the_curve_and_resumes(digits: splits.Dataset, tmp_path: Path) -> None:
    topocell.register("optimizer", "my-groups", Grouped)
    weights = {"optimizer": "my-groups", "lr": {"shape": "linear", "start": 0.1, "end": 0.0}}
    saver = Saver(tmp_path)
    whole = trained(plan(weights=weights, epochs=3), digits, saver)
    assert [r["lr"] for r in saver.records] == pytest.approx([0.1, 0.1 * 2 / 3, 0.1 / 3])
    rates = [group["lr"] for group in whole.members[0].optimizer.param_groups]
    assert rates == pytest.approx([0.1 / 3, 0.2 / 3])
    for number in range(len(saver.before)):
        resumed = Retraining(SMALL, whole.task.plan, digits)
        resumed.run(checkpoint.load(tmp_path / f"{number}.ckpt"))
        assert_identical(resumed.state_dict(), whole.state_dict())


def test_channels_can_be_chosen_by_a_number_of_parameters(digits: splits.Dataset) -> None:
    done = trained(plan(parameters=6000, epochs=1), digits)
    assert done.task.channels == channels_for(SMALL, 6000, 3, 10, 1) != 4
    results = done.results()
    assert results["channels"] == done.task.channels
    sizes = {
        c: count(FixedNet(SMALL, c, 3, 10, in_channels=1), (1, 8, 8)).parameters
        for c in (done.task.channels - 2, done.task.channels, done.task.channels + 2)
    }
    assert results["parameters"] == sizes[done.task.channels]
    assert min(sizes, key=lambda c: abs(sizes[c] - 6000)) == done.task.channels


def test_published_networks_are_found_by_their_number_of_parameters(digits: splits.Dataset) -> None:
    """DARTS_V2 has 36 channels at 3.35 M parameters (3 image channels; 1 here)."""
    assert Retraining(DARTS_V2, RetrainPlan(parameters=3_349_342), digits).task.channels == 36


@pytest.mark.parametrize(("written", "meant"), [("600M", 600_000_000), ("5.3M", 5_300_000), ("0.1k", 100), (7, 7)])
def test_limits_are_written_in_full_or_in_short(written: Any, meant: int) -> None:
    assert plan(max_multiply_adds=written).max_multiply_adds == meant == plan(parameters=written).parameters


def test_the_widest_network_of_the_mobile_setting() -> None:
    """DARTS_V2 has 529.9 M with 48 channels; papers that count more (574 M) have 48 as the most below 600 M."""
    mobile = RetrainPlan(max_multiply_adds="600M", layers=14, stem="imagenet")  # type: ignore[arg-type]
    found, (words,) = initial_channels(DARTS_V2, mobile, 1000, (3, 224, 224))
    assert found == 50
    assert words.startswith("retrain.channels=50, the most within retrain.max_multiply_adds=600000000: ")


def one_step(digits: splits.Dataset, **options: Any) -> dict[str, Tensor]:
    """Weights after one step of plain gradient descent on all images, always from the same weights."""
    descent = {"lr": 1.0, "momentum": 0, "weight_decay": 0, "clip": None}
    done = trained(plan(**{"epochs": 1, "batch_size": 64, "weights": descent, **options}), digits)
    return {name: weight.double() for name, weight in done.net.state_dict().items() if "running" not in name}


def test_the_auxiliary_loss_enters_with_its_weight(digits: splits.Dataset) -> None:
    """A step is linear in the weight, and the head itself only learns from its own loss."""
    half, one, two = (one_step(digits, auxiliary=weight) for weight in (0.5, 1.0, 2.0))
    assert any(name.startswith("auxiliary_head.") for name in one)
    reached = 0
    for name in one:
        first, second = two[name] - one[name], 2 * (one[name] - half[name])
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-5)
        reached += bool(first.abs().max() > 1e-4)
    assert reached > 10
    assert not any(name.startswith("auxiliary_head.") for name in one_step(digits, auxiliary=0.0))


def test_gradients_are_clipped_to_the_norm_of_the_plan(digits: splits.Dataset) -> None:
    start = one_step(digits, weights={"lr": 0.0, "momentum": 0, "weight_decay": 0})
    free = one_step(digits)
    clipped = one_step(digits, weights={"lr": 1.0, "momentum": 0, "weight_decay": 0, "clip": 0.01})

    def moved(to: dict[str, Tensor]) -> float:
        return float(torch.cat([(to[name] - start[name]).flatten() for name in start]).norm())

    assert moved(free) > 0.1
    assert moved(clipped) == pytest.approx(0.01, rel=1e-3)


def test_label_smoothing_enters_the_loss(digits: splits.Dataset) -> None:
    """Without training, the loss is linear in the smoothing: (1 − s) · plain + s · mean over the classes."""
    losses = []
    for smoothing in (0.0, 0.4, 0.8):
        recorder = Recorder()
        still = {"lr": 0.0, "momentum": 0, "weight_decay": 0}
        trained(plan(epochs=1, weights=still, label_smoothing=smoothing), digits, recorder)
        losses.append(recorder.records[0]["train_loss"])
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-3)
    assert abs(losses[1] - losses[0]) > 1e-3


def test_a_network_learns(digits: splits.Dataset) -> None:
    """Eight epochs on 64 digits; a guess is right one time in ten."""
    recorder = Recorder()
    trained(plan(epochs=8, drop_path=0.0, test_every=8), digits, recorder)
    assert recorder.records[-1]["train_accuracy"] > 0.35
    assert recorder.records[-1]["test_accuracy"] > 0.2


def test_top_k_counts_the_classes_among_the_most_probable(digits: splits.Dataset) -> None:
    recorder = Recorder()
    done = trained(plan(top_k=3, seeds=[0, 1]), digits, recorder)
    results = done.results()
    x, y = next(iter(batches_of_test_images(digits, 40).eval_batches()))
    with torch.no_grad():
        ranks = (done.net.eval()(x) > done.net(x).gather(1, y[:, None])).sum(1)  # classes that are more probable
    among = float((ranks < 3).double().mean())
    assert results["runs"][1]["top_k"] == recorder.records[-1]["test_top_k_accuracy"] == pytest.approx(among)
    assert results["runs"][1]["last"] < among < 1
    assert results["k"] == 3
    assert results["top_k_mean"] == statistics.fmean(run["top_k"] for run in results["runs"])
    assert results["top_k_std"] == statistics.stdev(run["top_k"] for run in results["runs"])
    assert any(line.startswith("top-3 accuracy, last epoch: ") and "n = 2" in line for line in score_lines(results))
    assert any(line.startswith("Top-3 accuracy") for line in score_headline(results)["details"].splitlines())
    plain = trained(plan(epochs=1), digits).results()
    assert "k" not in plain and "top_k" not in plain["runs"][0]
    assert not any("top-" in line for line in score_lines(plain))


def small_step(digits: splits.Dataset, **options: Any) -> dict[str, Tensor]:
    """Weights after one step on 16 images in float64, with batch norms that have fixed statistics."""
    descent = {"lr": 0.5, "momentum": 0.9, "clip": 0.05}
    subject = Retraining(SMALL, plan(epochs=1, drop_path=0.0, auxiliary=0.4, weights=descent, **options), digits)
    subject._begin()
    subject.net.double().train()
    for module in subject.net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    if subject.task.class_weights is not None:  # those of the loss are the same tensor
        subject.task.class_weights.data = subject.task.class_weights.double()
        subject.task.loss.keywords["weight"].data = subject.task.class_weights  # type: ignore[attr-defined]
    x, y = subject.batches.batch(0, 0)
    if subject.task.mixing is not None:
        x, y = subject.task.mixing(x, y, 10, torch.Generator().manual_seed(0))
    seen = subject._update(x.double(), y if y.dim() == 1 else y.double())
    return {"loss": seen.loss, "correct": seen.correct, **subject.net.state_dict()}


def weighted(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """The mean over the images of what each has with its weight, where cross entropy is divided by the weights."""
    return functional.cross_entropy(logits, target, weight=weight, reduction="none").mean()


@pytest.mark.parametrize("micro_batch", [8, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"class_weights": "balanced", "label_smoothing": 0.1},
        {"class_weights": "balanced", "loss": "my-weighted"},
        {"mixup": 1.0},
    ],
    ids=str,
)
def test_micro_batches_give_the_step_of_the_whole_batch(
    options: dict[str, Any], micro_batch: int, digits: splits.Dataset
) -> None:
    """Where no batch norm looks at all images together; else each micro batch has its own statistics."""
    topocell.register("loss", "my-weighted", weighted)
    few = replace(digits, train=digits.train.subset(digits.train.labels.argsort()[:50]))  # classes of other sizes
    whole, parts = (small_step(few, **options, **more) for more in ({}, {"micro_batch": micro_batch}))
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name].double(), value.double(), rtol=1e-9, atol=1e-12, msg=name)


def test_a_training_in_micro_batches_sees_every_image_once(digits: splits.Dataset) -> None:
    seen, recorder = [], Recorder()
    odd = replace(digits, train=digits.train.subset(torch.arange(41)))  # 16, 16 and 9 images

    class Counting(Retraining):
        def _begin(self) -> None:
            super()._begin()
            self.net.register_forward_pre_hook(lambda _, x: seen.append((len(x[0]), self.net.training)))

    Counting(SMALL, plan(epochs=1, micro_batch=4), odd, monitor=recorder).run()
    assert [size for size, training in seen if training] == [4] * 8 + [4, 5]
    assert {size for size, training in seen if not training} == {4, 1}  # those to test; one image to count
    assert 0 <= recorder.records[0]["train_accuracy"] <= 1


# --- errors


def test_a_loss_that_is_no_longer_a_number_ends_the_retraining(digits: splits.Dataset) -> None:
    with pytest.raises(RunError, match=r"must stay finite, .* with seed 0, epoch 0, step 1: .*; lower retrain\."):
        trained(plan(weights={"lr": 1e30, "clip": None}), digits)


def test_an_auxiliary_head_needs_the_skeleton_of_darts(digits: splits.Dataset) -> None:
    cell = Genotype.from_nasbench201("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|")
    with pytest.raises(SpaceError, match="an auxiliary head needs skeleton 'darts'"):
        trained(plan(auxiliary=0.4, layers=5), digits, genotype=cell)
    assert trained(plan(layers=5, epochs=1), digits, genotype=cell).results()["n"] == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"seeds": []}, "at least 1 item"),
        ({"drop_path": 1.0}, "less than 1"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"stem": "svhn"}, "'cifar' or 'imagenet'"),
        ({"epoch": 3}, "Extra inputs are not permitted"),
    ],
)
def test_plans_that_cannot_be(fault: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        plan(**fault)


def test_the_defaults_are_those_of_darts() -> None:
    default = RetrainPlan()
    assert (default.channels, default.layers, default.epochs, default.batch_size) == (36, 20, 600, 96)
    assert (default.drop_path, default.auxiliary, default.cutout, default.seeds) == (0.2, 0.4, 16, (0,))
    assert (default.weights.lr.value(0, 600), default.weights.lr.value(600, 600)) == (0.025, 0.0)
