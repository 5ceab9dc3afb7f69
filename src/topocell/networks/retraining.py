"""Retraining: the network of a genotype from scratch, several seeds, and the only place that sees the test split.

Accuracy is reported of the last epoch, or with early stopping of the one that is kept; the best epoch is reported
beside it and never alone, because choosing it uses the test split.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from topocell.config.retrain import RetrainPlan
from topocell.config.values import OnNan
from topocell.data.batches import Batches, Images
from topocell.data.splits import Dataset
from topocell.errors import RunError
from topocell.genotype.genotype import Genotype
from topocell.io.checkpoint import places, restore_optimizer
from topocell.networks.averaging import AveragedNet
from topocell.networks.early_stopping import BestEpoch
from topocell.networks.evaluation import Measured, classify, correct, evaluate
from topocell.networks.options import (
    class_weights,
    image_policy,
    initial_channels,
    mixing,
    training_images,
    training_loss,
)
from topocell.networks.scores import MOST_CLASSES, balanced_accuracy, class_scores, confusion_matrix, over_seeds
from topocell.networks.start import AFRESH, Start, load_initial
from topocell.nn.count import count
from topocell.nn.network import FixedNet
from topocell.nn.scheduled import hold
from topocell.runtime import distributed
from topocell.runtime.capture import Steps, take
from topocell.runtime.epoch_loop import EpochLoop
from topocell.runtime.epoch_meter import Seen
from topocell.runtime.hooks import Monitor, Silent, Trained
from topocell.runtime.micro_batches import micro_batches, seen_together
from topocell.runtime.nan_guard import Group, Place, Stateful, total_norm
from topocell.runtime.optimizers import build_optimizer, can_hold, rate_of, set_rate
from topocell.runtime.precision import PLAIN, Execution
from topocell.runtime.rng import derive as derive_seed
from topocell.runtime.rng import generator


class Retraining:
    """Retraining in progress; `run` trains one network per seed and returns the results.

    Args:
        genotype: the architecture.
        plan: how to train.
        data: training and test images.
        seed: of the run; each training's own seed comes on top.
        device: where the networks are trained.
        monitor: receives metrics, progress and states to save.
        execution: how the network is called in training; tests are in float32 and not compiled.
        start: what it begins with besides fresh weights.
        on_nan: what is done about a step that is not finite, see `topocell.runtime.nan_guard`.

    Attributes:
        net: the network in training; after `run`, the one of the last seed.
        average: average of its weights, where the plan has one.
        best: the best epoch so far, where the plan stops early.
    """

    def __init__(
        self,
        genotype: Genotype,
        plan: RetrainPlan,
        data: Dataset,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        monitor: Monitor | None = None,
        execution: Execution = PLAIN,
        start: Start = AFRESH,
        on_nan: OnNan = "stop",
    ) -> None:
        self.genotype, self.plan, self.data, self.seed = genotype, plan, data, seed
        self.device, self.monitor = torch.device(device), monitor or Silent()
        self.execution, self.start = execution, start
        self.recorder = execution.recorder(self.device) if on_nan == "stop" else None
        self._held = execution.holds(self.device)
        self.round = 0
        self.runs: list[dict[str, Any]] = []
        self.confusions: list[Tensor] = []
        self.tests: list[Measured] = []
        self.channels, self._chosen = initial_channels(genotype, plan, len(data.train.classes), data.shape)
        changes = {name: getattr(plan, name) for name in ("cutout", "rotation", "scaling", "shear", "translation")}
        self._augmentation = replace(data.augmentation, **changes)
        self._train, self._held_out = training_images(plan, data.train, derive_seed(seed, "retrain"))
        self._class_weights = class_weights(plan, self._train, self.device)
        self._loss, self._mixing = training_loss(plan, self._class_weights), mixing(plan)
        self.loop = EpochLoop(self, seed=seed, device=self.device, monitor=self.monitor, on_nan=on_nan)

    def run(self, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Train every seed, or resume from a `state_dict`; returns what results.json holds.

        Raises:
            RunError: a loss or a gradient is not finite, and `on_nan` is `stop`.
            Interrupted: the monitor was told to stop, after the state was saved.
        """
        if state is None:
            for note in self._chosen:
                self.monitor.say(note)
            if self.start.source:
                self.monitor.say(f"fine-tuning the weights of {self.start.source}")
            if taken := [str(entry["seed"]) for entry in self.start.earlier]:
                self.monitor.say(f"taken from the run, which has trained them: seed {', '.join(taken)}")
            self._take_earlier()
            self._begin()
            if len(self.runs) == len(self.plan.seeds):
                return self.results()
        else:
            with self.monitor.loading():
                self.load_state_dict(state)
        while True:
            self.loop.run(self.plan.epochs)
            self.runs.append(self._finished())
            if self.round + 1 == len(self.plan.seeds):
                return self.results()
            self.round, self.tests = self.round + 1, []
            self.loop.restart()
            self._begin()

    def _take_earlier(self) -> None:
        """Take over the seeds that are trained already; raises RunError where they are others."""
        for number, entry in enumerate(self.start.earlier):
            self.confusions.append(torch.tensor(entry["confusion"]))
            self.runs.append({key: value for key, value in entry.items() if key != "confusion"})
            if self.plan.seeds[number] != entry["seed"]:
                raise RunError(
                    f"the seeds trained already are the first ones, but {entry['seed']} is not; restore them"
                )
        self.round = min(len(self.runs), len(self.plan.seeds) - 1)

    def _finished(self) -> dict[str, Any]:
        """Hand over the network of this seed; returns its entry in results.json."""
        every, kept = self._tested_epochs()[: len(self.tests)], self._keep_best()
        every += [kept["kept_epoch"]] if kept else []
        accuracies = [tested.accuracy for tested in self.tests]
        seed, best, test = self.plan.seeds[self.round], max(accuracies), self.data.test
        with self.execution.plain():
            labels, probabilities = classify(self.tested, self.test_batches)
        weights = {k: v.detach().cpu().clone() for k, v in self.tested.state_dict().items()}
        weights = {name: value for name, value in weights.items() if not name.startswith("auxiliary_head.")}
        distributed.same_tensors(f"weights after the training with seed {seed}", weights)
        self.monitor.trained(Trained(self.round, seed, weights, labels, probabilities))
        self.confusions.append(confusion_matrix(test.labels, labels, len(test.classes)))
        return {
            "seed": seed,
            "last": accuracies[-1],
            "best": best,
            "best_epoch": every[accuracies.index(best)],
            **({} if self.tests[-1].top_k is None else {"top_k": self.tests[-1].top_k}),
            **kept,
            "balanced": balanced_accuracy(self.confusions[-1]),
        }

    @property
    def tested(self) -> FixedNet:
        """The network that is tested and kept: the average, where there is one."""
        return self.net if self.average is None else self.average.module

    def _keep_best(self) -> dict[str, Any]:
        """Return to the weights of the best epoch, and test them; returns what the results say of that."""
        if self.best is None:
            return {}
        self.tested.load_state_dict(self.best.weights)
        with self.execution.plain():
            self.tests.append(evaluate(self.tested, self.test_batches, self.plan.top_k))
        return self.best.results()

    def results(self) -> dict[str, Any]:
        """Accuracy per seed, mean ± standard deviation (n − 1) of last and of best, and the size of the network.

        See `class_scores` for what is said of the classes. There is a confusion matrix of up to `MOST_CLASSES` classes.
        """
        with self.execution.plain():
            size = count(self.net, self.data.shape)
        measured = ["top_k"] if self.plan.top_k is not None else []
        classes, (train, test) = self.data.train.classes, (self.data.train, self.data.test)
        images = tuple(part.labels.bincount(minlength=len(classes)) for part in (train, test))
        shown = [of.tolist() if len(classes) <= MOST_CLASSES else None for of in self.confusions]
        runs = [{**run, "confusion": confusion} for run, confusion in zip(self.runs, shown, strict=True)]
        return {
            "dataset": self.data.name,
            "classes": len(self.data.train.classes),
            "train_images": len(self._train),
            **({} if self._held_out is None else {"validation_images": len(self._held_out)}),
            "test_images": len(self.data.test),
            "parameters": size.parameters,
            "multiply_adds": size.multiply_adds,
            "channels": self.channels,
            "layers": self.plan.layers,
            "epochs": self.plan.epochs,
            **({"initial_weights": self.start.source} if self.start.source else {}),
            "runs": runs,
            **over_seeds(self.runs, "last", "best", *measured),
            **({"k": self.plan.top_k} if measured else {}),
            **class_scores(classes, images, self.confusions),
        }

    def _begin(self) -> None:
        plan, seed = self.plan, self.plan.seeds[self.round]
        torch.manual_seed(derive_seed(self.seed, "retrain", seed))
        net = FixedNet(
            self.genotype,
            self.channels,
            plan.layers,
            len(self.data.train.classes),
            in_channels=self.data.shape[0],
            stem=plan.stem,
            auxiliary=plan.auxiliary > 0,
            head=plan.head,
        )
        if self.start.weights is not None:
            load_initial(net, self.start.weights)
        self.net = net.to(self.device).to(memory_format=torch.channels_last)
        self.average = None if plan.ema is None else AveragedNet(self.net, plan.ema)
        self.best = None if plan.early_stop is None else BestEpoch(plan.early_stop.patience)
        self.execution.prepare(self.net.cells)
        lr = plan.weights.lr.value(0, plan.epochs)
        if self._held:
            hold(self.net, self.device)
        self.optimizer = build_optimizer(self.net.parameters(), plan.weights, lr, fused=True, held=self._held)
        self.steps = Steps(self.recorder if can_hold(type(self.optimizer)) else None, self.monitor.say)
        self.batches, self.test_batches = self._batches(self._train, "retrain"), self._batches(self.data.test, "test")
        self.batches.shared = True
        held_out = self._held_out
        self.validation_batches = None if held_out is None else self._batches(held_out, "validation")

    def _batches(self, images: Images, stream: str) -> Batches:
        train = stream == "retrain"
        return Batches(
            images,
            self.plan.batch_size if train else self.plan.micro_batch or self.plan.batch_size,
            mean=self.data.mean,
            std=self.data.std,
            augmentation=self._augmentation if train else None,
            device=self.device,
            seed=derive_seed(self.seed, "retrain", self.plan.seeds[self.round]),
            stream=stream,
            policy=image_policy(self.plan) if train else None,
            balanced=train and self.plan.sampling == "balanced",
        )

    # An epoch, as the loop calls it -------------------------------------------------------------------------

    def begin_epoch(self) -> int:
        """Set the learning rate and the probability of dropped paths."""
        plan, epoch = self.plan, self.loop.epoch
        self._set_rate()
        self.net.drop_path = plan.drop_path * epoch / plan.epochs
        self.net.train()
        return len(self.batches)

    def _set_rate(self) -> None:
        at = self.loop.epoch, self.plan.epochs, self.loop.step, len(self.batches)
        set_rate(self.optimizer, self.plan.weights.lr.at(*at))

    def stream(self) -> tuple[str | int, ...]:
        """The random stream of the steps."""
        return "retrain", self.plan.seeds[self.round]

    def train_step(self) -> Seen:
        """Update the weights on one batch."""
        epoch, step = self.loop.epoch, self.loop.step
        self._set_rate()
        x, y = self.batches.batch(epoch, step)
        if self._mixing is not None:
            draws = generator(self.batches.seed, "retrain", "mixing", epoch, step)
            x, y = self._mixing(x, y, len(self.data.train.classes), draws)
        if self.steps.records:
            seen = take(self.steps, self.loop.guard, (), self.net.drop_path > 0, self._update, (x, y))
        else:
            seen = self._update(x, y)
        if self.average is not None:
            self.average.update_parameters(self.net)
        return seen

    def on_step_end(self, steps: int) -> None:
        """Report the step."""
        seeds, epochs = len(self.plan.seeds), self.plan.epochs
        done = (self.round * epochs + self.loop.epoch) * steps + self.loop.step
        self.loop.progress(f"retrain, seed {self.round + 1}/{seeds}", done, seeds * epochs * steps)

    def _update(self, x: Tensor, y: Tensor) -> Seen:
        plan = self.plan
        self.optimizer.zero_grad(set_to_none=True)
        seen, totals = [], []
        for (images, target), share in micro_batches((x, y), plan.micro_batch, self._class_weights):
            out = self.execution(self.net, images)
            logits, extra = out if isinstance(out, tuple) else (out, None)
            loss = total = share * self._loss(logits, target)
            if extra is not None:
                total = loss + plan.auxiliary * (share * self._loss(extra, target))
            total.backward()
            totals.append(total.detach())
            seen.append(Seen(loss.detach(), correct(logits.detach(), target), len(target)))
        distributed.average(p.grad for p in self.net.parameters())
        self.loop.guard.see("the loss", sum(totals[1:], totals[0]))
        if plan.weights.clip is not None:
            norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), plan.weights.clip)
        else:
            norm = total_norm(p.grad for p in self.net.parameters())
        self.loop.guard.see("the gradient norm of the weights", norm)
        self.optimizer.step()
        return seen_together(seen)

    def on_epoch_end(self) -> bool:
        """Test where a test is due, and record the epoch."""
        test: Measured | None = None
        if self.loop.epoch in self._tested_epochs():
            with self.execution.plain():
                test = evaluate(self.tested, self.test_batches, self.plan.top_k)
            self.tests.append(test)
        stops, validation = self._validate()
        self.monitor.metrics(
            {
                "phase": "retrain",
                "seed": self.plan.seeds[self.round],
                **self.loop.record(),
                "test_loss": None if test is None else test.loss,
                "test_accuracy": None if test is None else test.accuracy,
                **({} if self.plan.top_k is None else {"test_top_k_accuracy": None if test is None else test.top_k}),
                **validation,
                "lr": rate_of(self.optimizer),
                "drop_path": self.net.drop_path,
            }
        )
        return stops

    def _validate(self) -> tuple[bool, dict[str, float]]:
        """Measure on what is held out: whether the training is to end, and what the record of the epoch says."""
        if self.best is None or self.validation_batches is None:
            return False, {}
        with self.execution.plain():
            loss, accuracy, _ = evaluate(self.tested, self.validation_batches)
        stops = self.best.add(self.loop.epoch, accuracy, self.tested)
        return stops, {"val_loss": loss, "val_accuracy": accuracy}

    def parts(self) -> Mapping[str, Stateful]:
        """Return what a step changes."""
        average = {} if self.average is None else {"average": self.average}
        return {"net": self.net, "optimizer": self.optimizer, **average}

    def place(self, step: int) -> Place:
        """Return where a step of this epoch happened, for the explanation of a fault."""
        epoch = self.loop.epoch
        numbers, images = self.batches.numbers(epoch, step), self.batches.batch(epoch, step)[0]
        rate = rate_of(self.optimizer)
        return Place(
            f"retraining with seed {self.plan.seeds[self.round]}, epoch {epoch}, step {step}",
            [Group("the weights", list(self.net.parameters()), "retrain.weights.lr", rate)],
            [("train", numbers, images)],
        )

    def _tested_epochs(self) -> list[int]:
        last, every = self.plan.epochs - 1, self.plan.test_every
        return [e for e in range(self.plan.epochs) if e == last or (e + 1) % every == 0]

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the retraining depends on."""
        return {
            "round": self.round,
            "runs": self.runs,
            "tests": [list(tested) for tested in self.tests],
            "confusions": self.confusions,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "best": None if self.best is None else self.best.state_dict(),
            **self.loop.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict` of a retraining of the same genotype, plan, data and seed."""
        (self.round,) = places(state["round"])
        self.runs, self.tests = list(state["runs"]), [Measured(*tested) for tested in state["tests"]]
        self.confusions = [torch.as_tensor(confusion) for confusion in state["confusions"]]
        self._begin()
        self.net.load_state_dict(state["net"])
        restore_optimizer(self.optimizer, state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.best is not None:
            self.best.load_state_dict(state["best"])
        self.loop.load_state_dict(state)
