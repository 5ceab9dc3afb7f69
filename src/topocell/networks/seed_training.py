"""The training of one network of a retraining: its weights, its images and draws, its optimizer, its tests."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from topocell.config.retrain import RetrainPlan
from topocell.data.batches import Batches, Images
from topocell.data.splits import Dataset
from topocell.genotype.genotype import Genotype
from topocell.io.checkpoint import restore_optimizer
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
    weights_of_shares,
)
from topocell.networks.scores import balanced_accuracy, confusion_matrix
from topocell.networks.start import Start, load_initial
from topocell.nn.network import FixedNet
from topocell.nn.scheduled import hold
from topocell.runtime import distributed
from topocell.runtime.epoch_meter import Seen
from topocell.runtime.hooks import Monitor, Trained
from topocell.runtime.micro_batches import micro_batches, seen_together
from topocell.runtime.nan_guard import Group, Stateful, total_norm
from topocell.runtime.optimizers import build_optimizer, rate_of, set_rate
from topocell.runtime.precision import Execution
from topocell.runtime.rng import derive as derive_seed
from topocell.runtime.rng import generator


class Task:
    """What the trainings of all seeds have in common; arguments as for `topocell.networks.retraining.Retraining`.

    Attributes:
        channels: initial channels of the network.
        chosen: a sentence where a limit chose them.
        train, held_out: the images to train on, and those that early stopping looks at.
    """

    def __init__(
        self,
        genotype: Genotype,
        plan: RetrainPlan,
        data: Dataset,
        seed: int,
        device: torch.device,
        execution: Execution,
        start: Start,
    ) -> None:
        self.genotype, self.plan, self.data, self.seed = genotype, plan, data, seed
        self.device, self.execution, self.start = device, execution, start
        self.channels, self.chosen = initial_channels(genotype, plan, len(data.train.classes), data.shape)
        changes = {name: getattr(plan, name) for name in ("cutout", "rotation", "scaling", "shear", "translation")}
        self.augmentation = replace(data.augmentation, **changes)
        self.train, self.held_out = training_images(plan, data.train, derive_seed(seed, "retrain"))
        self.class_weights = class_weights(plan, self.train, device)
        self.loss, self.mixing = training_loss(plan, self.class_weights, device), mixing(plan)
        self.share_weights = weights_of_shares(plan, self.class_weights)

    def network(self, number: int) -> FixedNet:
        """Return the network of a seed before its training."""
        plan = self.plan
        torch.manual_seed(derive_seed(self.seed, "retrain", plan.seeds[number]))
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
        if self.execution.holds(self.device):
            hold(net, self.device)
        return net.to(self.device).to(memory_format=torch.channels_last)


class SeedTraining:
    """The training of one seed, step by step; `begin` comes first, once its weights have their place in memory.

    Args:
        task: what is trained, and how.
        number: of the seed in the plan.
        label: what tells it from others that are trained at once; default its seed.
        like: a training with the same seed on the same data, whose images are not kept once more.

    Attributes:
        seed: its training's own.
        net: the network in training.
        average: average of its weights, where the plan has one.
        best: the best epoch so far, where the plan stops early.
        tests: of the epochs so far.
    """

    optimizer: torch.optim.Optimizer
    batches: Batches
    test_batches: Batches
    validation_batches: Batches | None

    def __init__(self, task: Task, number: int, label: str = "", like: "SeedTraining | None" = None) -> None:
        self.task, self.number, self.seed = task, number, task.plan.seeds[number]
        self.label = label or f"seed {self.seed}"
        self.net = task.network(number)
        self.average = None if task.plan.ema is None else AveragedNet(self.net, task.plan.ema)
        stop = task.plan.early_stop
        self.best = None if stop is None else BestEpoch(stop.patience)
        self.tests: list[Measured] = []
        if like is not None:
            self.batches, self.test_batches = like.batches, like.test_batches
            self.validation_batches = like.validation_batches
            return
        self.batches, self.test_batches = self._batches(task.train, "retrain"), self._batches(task.data.test, "test")
        self.batches.shared = True
        self.validation_batches = None if task.held_out is None else self._batches(task.held_out, "validation")

    def begin(self) -> None:
        """Build the optimizer."""
        task, weights = self.task, self.task.plan.weights
        task.execution.prepare(self.net.cells)
        lr, held = weights.lr.value(0, task.plan.epochs), task.execution.holds(task.device)
        self.optimizer = build_optimizer(self.net.parameters(), weights, lr, fused=True, held=held)

    def _batches(self, images: Images, stream: str) -> Batches:
        task, plan, train = self.task, self.task.plan, stream == "retrain"
        return Batches(
            images,
            plan.batch_size if train else plan.micro_batch or plan.batch_size,
            mean=task.data.mean,
            std=task.data.std,
            augmentation=task.augmentation if train else None,
            device=task.device,
            seed=derive_seed(task.seed, "retrain", self.seed),
            stream=stream,
            policy=image_policy(plan) if train else None,
            balanced=train and plan.sampling == "balanced",
        )

    # An epoch -----------------------------------------------------------------------------------------------

    def begin_epoch(self, epoch: int, step: int) -> None:
        """Set the learning rate and the probability of dropped paths."""
        plan = self.task.plan
        self.set_rate(epoch, step)
        self.net.drop_path = plan.drop_path * epoch / plan.epochs
        self.net.train()

    def set_rate(self, epoch: int, step: int) -> None:
        """Set the learning rate of a step."""
        plan = self.task.plan
        set_rate(self.optimizer, plan.weights.lr.at(epoch, plan.epochs, step, len(self.batches)))

    def stream(self) -> tuple[str | int, ...]:
        """The random stream of the steps."""
        return "retrain", self.seed

    def batch(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) of a step, and labels (B,) or, of mixed images, probabilities (B, K)."""
        x, y = self.batches.batch(epoch, step)
        if self.task.mixing is not None:
            draws = generator(self.batches.seed, "retrain", "mixing", epoch, step)
            x, y = self.task.mixing(x, y, len(self.task.data.train.classes), draws)
        return x, y

    def losses(self, out: Any, target: Tensor, share: float | Tensor = 1.0) -> tuple[Tensor, Seen]:
        """The loss that is lowered (0-dim), and what was seen.

        Args:
            out: logits (B, K) of the network, or both logits with an auxiliary head.
            target: of the images.
            share: of these images in the loss of the batch.
        """
        logits, extra = out if isinstance(out, tuple) else (out, None)
        loss = total = share * self.task.loss(logits, target)
        if extra is not None:
            total = loss + self.task.plan.auxiliary * (share * self.task.loss(extra, target))
        return total, Seen(loss.detach(), correct(logits.detach(), target), len(target))

    def backward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Seen]:
        """Compute the gradients of a batch; returns the loss (0-dim) that is lowered, and what was seen."""
        seen, totals = [], []
        pieces = micro_batches((x, y), self.task.plan.micro_batch, self.task.share_weights)
        for (images, target), share in pieces:
            total, of = self.losses(self.task.execution(self.net, images), target, share)
            total.backward()
            totals.append(total.detach())
            seen.append(of)
        distributed.average(p.grad for p in self.net.parameters())
        return sum(totals[1:], totals[0]), seen_together(seen)

    def clip(self) -> Tensor:
        """Clip the gradients where the plan says so; returns their norm before (0-dim)."""
        clip = self.task.plan.weights.clip
        if clip is None:
            return total_norm(p.grad for p in self.net.parameters())
        return torch.nn.utils.clip_grad_norm_(self.net.parameters(), clip)

    def end_epoch(self, epoch: int, figures: Mapping[str, Any], monitor: Monitor) -> bool:
        """Test where a test is due, and record the epoch; returns whether it is the last one, ahead of time."""
        test: Measured | None = None
        plan = self.task.plan
        if epoch in self._tested_epochs():
            with self.task.execution.plain():
                test = evaluate(self.tested, self.test_batches, plan.top_k)
            self.tests.append(test)
        stops, validation = self._validate(epoch)
        monitor.metrics(
            {
                "phase": "retrain",
                "seed": self.seed,
                **figures,
                "test_loss": None if test is None else test.loss,
                "test_accuracy": None if test is None else test.accuracy,
                **({} if plan.top_k is None else {"test_top_k_accuracy": None if test is None else test.top_k}),
                **validation,
                "lr": rate_of(self.optimizer),
                "drop_path": self.net.drop_path,
            }
        )
        return stops

    def _validate(self, epoch: int) -> tuple[bool, dict[str, float]]:
        """Measure on what is held out: whether the training is to end, and what the record of the epoch says."""
        if self.best is None or self.validation_batches is None:
            return False, {}
        with self.task.execution.plain():
            loss, accuracy, _ = evaluate(self.tested, self.validation_batches)
        stops = self.best.add(epoch, accuracy, self.tested)
        return stops, {"val_loss": loss, "val_accuracy": accuracy}

    def _tested_epochs(self) -> list[int]:
        last, every = self.task.plan.epochs - 1, self.task.plan.test_every
        return [e for e in range(self.task.plan.epochs) if e == last or (e + 1) % every == 0]

    # Its end ------------------------------------------------------------------------------------------------

    @property
    def tested(self) -> FixedNet:
        """The network that is tested and kept: the average, where there is one."""
        return self.net if self.average is None else self.average.module

    def finish(self, monitor: Monitor) -> tuple[dict[str, Any], Tensor]:
        """Hand over the network; returns its entry in results.json, and its confusion matrix (K, K)."""
        every, kept = self._tested_epochs()[: len(self.tests)], self._keep_best()
        every += [kept["kept_epoch"]] if kept else []
        accuracies = [tested.accuracy for tested in self.tests]
        best, test = max(accuracies), self.task.data.test
        with self.task.execution.plain():
            labels, probabilities = classify(self.tested, self.test_batches)
        weights = {k: v.detach().cpu().clone() for k, v in self.tested.state_dict().items()}
        weights = {name: value for name, value in weights.items() if not name.startswith("auxiliary_head.")}
        distributed.same_tensors(f"weights after the training with seed {self.seed}", weights)
        monitor.trained(Trained(self.number, self.seed, weights, labels, probabilities))
        confusion = confusion_matrix(test.labels, labels, len(test.classes))
        entry = {
            "seed": self.seed,
            "last": accuracies[-1],
            "best": best,
            "best_epoch": every[accuracies.index(best)],
            **({} if self.tests[-1].top_k is None else {"top_k": self.tests[-1].top_k}),
            **kept,
            "balanced": balanced_accuracy(confusion),
        }
        return entry, confusion

    def _keep_best(self) -> dict[str, Any]:
        """Return to the weights of the best epoch, and test them; returns what the results say of that."""
        if self.best is None:
            return {}
        self.tested.load_state_dict(self.best.weights)
        with self.task.execution.plain():
            self.tests.append(evaluate(self.tested, self.test_batches, self.task.plan.top_k))
        return self.best.results()

    # What it depends on -------------------------------------------------------------------------------------

    def parts(self) -> dict[str, Stateful]:
        """Return what a step changes."""
        average = {} if self.average is None else {"average": self.average}
        return {"net": self.net, "optimizer": self.optimizer, **average}

    def group(self) -> Group:
        """Return the weights, as what a fault may lie in."""
        return Group("the weights", list(self.net.parameters()), "retrain.weights.lr", rate_of(self.optimizer))

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the training depends on."""
        return {
            "tests": [list(tested) for tested in self.tests],
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "best": None if self.best is None else self.best.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict` of a training of the same task and seed that has begun."""
        self.tests = [Measured(*tested) for tested in state["tests"]]
        self.net.load_state_dict(state["net"])
        restore_optimizer(self.optimizer, state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.best is not None:
            self.best.load_state_dict(state["best"])
