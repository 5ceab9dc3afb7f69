"""Retraining: the network of a genotype from scratch, several seeds, and the only place that sees the test split.

Accuracy is reported of the last epoch; the best epoch is reported beside it and never alone, because choosing it
uses the test split.
"""

import statistics
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.optim import SGD

from topocell.checkpoint import places, restore_optimizer
from topocell.data import Augmentation, Batches, Dataset
from topocell.execution import PLAIN, Execution
from topocell.genotype import Genotype
from topocell.guard import Group, Guard, OnNan, Place, total_norm
from topocell.monitor import Monitor, Silent
from topocell.network import FixedNet, channels_for, count
from topocell.rng import derive as derive_seed
from topocell.running import Running
from topocell.search.plan import BatchSize, Channels, Curve, Layers, Model, WeightOptimizer

#: Devices on which torch updates all weights in one pass over memory.
FUSED = ("cpu", "cuda")


class RetrainPlan(Model):
    """How the network of a genotype is trained (DARTS on CIFAR: 36 channels, 20 cells, 600 epochs).

    Attributes:
        parameters: choose the channels that come closest to this number of parameters, instead of `channels`.
        drop_path: probability at the end of training; it grows linearly from 0.
        auxiliary: weight of the auxiliary head's loss; 0 for none.
        cutout: side of the square that is blanked, in pixels; 0 for none.
        rotation, shear: degrees by which an image is turned and slanted at most, either way; 0 for none.
        scaling, translation: share by which its height and its width grow or shrink, and of them by which it is moved,
            at most, each by itself; 0 for none.
        label_smoothing: of the cross entropy.
        seeds: one training each.
        test_every: epochs between two tests; the last epoch is always tested.
    """

    channels: Channels = 36
    parameters: Annotated[int, Field(ge=1)] | None = None
    layers: Layers = 20
    epochs: int = Field(600, ge=1)
    batch_size: BatchSize = 96
    weights: WeightOptimizer = WeightOptimizer(lr=Curve(shape="cosine", start=0.025, end=0.0))
    drop_path: float = Field(0.2, ge=0, lt=1)
    auxiliary: float = Field(0.4, ge=0)
    cutout: int = Field(16, ge=0)
    rotation: float = Field(0.0, ge=0, lt=360)
    scaling: float = Field(0.0, ge=0, lt=1)
    shear: float = Field(0.0, ge=0, lt=90)
    translation: float = Field(0.0, ge=0, lt=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    test_every: int = Field(1, ge=1)
    stem: Literal["cifar", "imagenet"] = "cifar"
    head: Literal["plain", "bn-relu"] = "plain"


class ShallowPlan(RetrainPlan):
    """The shallow evaluation of eDARTS: small networks that tell good cells from bad ones before a full retraining.

    5 cells, 16 channels, 100 epochs, batches of 64, drop path 0.2, no cutout, no auxiliary head, ten seeds (Section
    IV-A).

    Attributes:
        threshold: the mean test accuracy, a fraction, that a cell has to exceed to be worth the full retraining
            (Section IV-A: 93 % on CIFAR-10).
    """

    channels: Channels = 16
    layers: Layers = 5
    epochs: int = Field(100, ge=1)
    batch_size: BatchSize = 64
    auxiliary: float = Field(0.0, ge=0)
    cutout: int = Field(0, ge=0)
    seeds: tuple[int, ...] = Field(tuple(range(10)), min_length=1)
    threshold: float = Field(0.93, ge=0, lt=1)

    def plan(self) -> RetrainPlan:
        """How its networks are trained."""
        return RetrainPlan(**self.model_dump(exclude={"threshold"}))


#: Protocol → whether a cell is evaluated in shallow networks, whether it is retrained in full.
PROTOCOLS: dict[str, tuple[bool, bool]] = {"full": (False, True), "shallow": (True, False), "filter": (True, True)}


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
        on_nan: what is done about a step that is not finite, see `topocell.guard`.

    Attributes:
        net: the network in training; after `run`, the one of the last seed.
        first_weights: weights of the network of the first seed once it is trained.
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
        on_nan: OnNan = "stop",
    ) -> None:
        self.genotype, self.plan, self.data, self.seed = genotype, plan, data, seed
        self.device, self.monitor = torch.device(device), monitor or Silent()
        self.execution = execution
        self.round = self.epoch = self.step = 0
        self.runs: list[dict[str, Any]] = []
        self.tests: list[float] = []
        self.first_weights: dict[str, Tensor] = {}
        self.channels = plan.channels
        if plan.parameters is not None:
            sizes = plan.layers, len(data.train.classes), data.shape[0], plan.stem, plan.head
            self.channels = channels_for(genotype, plan.parameters, *sizes)
        base = data.augmentation
        self._augmentation = Augmentation(
            base.padding, base.flip, plan.cutout, plan.rotation, plan.scaling, plan.shear, plan.translation
        )
        self.running = Running(self.device)
        self.guard = Guard(
            on_nan,
            self.device,
            lambda: {"net": self.net, "optimizer": self.optimizer},
            self._place,
            self.monitor.say,
        )

    def run(self, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Train every seed, or go on from a `state_dict`; returns what results.json holds.

        Raises:
            RunError: a loss or a gradient is not finite, and `on_nan` does not say to go on.
            Interrupted: the monitor was told to stop, after the state was saved.
        """
        if state is None:
            self._begin()
        else:
            with self.monitor.loading():
                self.load_state_dict(state)
        while True:
            self._train()
            best = max(self.tests)
            every = self._tested_epochs()
            self.runs.append(
                {
                    "seed": self.plan.seeds[self.round],
                    "last": self.tests[-1],
                    "best": best,
                    "best_epoch": every[self.tests.index(best)],
                }
            )
            if self.round == 0:
                self.first_weights = {k: v.detach().cpu().clone() for k, v in self.net.state_dict().items()}
            if self.round + 1 == len(self.plan.seeds):
                return self.results()
            self.round, self.epoch, self.step, self.tests = self.round + 1, 0, 0, []
            self._begin()

    def results(self) -> dict[str, Any]:
        """Accuracy per seed, mean ± standard deviation (n − 1) of last and of best, and the size of the network."""
        with self.execution.plain():
            size = count(self.net, self.data.shape)
        last, best = ([run[key] for run in self.runs] for key in ("last", "best"))
        return {
            "dataset": self.data.name,
            "classes": len(self.data.train.classes),
            "train_images": len(self.data.train),
            "test_images": len(self.data.test),
            "parameters": size.parameters,
            "multiply_adds": size.multiply_adds,
            "channels": self.channels,
            "layers": self.plan.layers,
            "epochs": self.plan.epochs,
            "runs": self.runs,
            "last_mean": statistics.fmean(last),
            "last_std": statistics.stdev(last) if len(last) > 1 else None,
            "best_mean": statistics.fmean(best),
            "best_std": statistics.stdev(best) if len(best) > 1 else None,
            "n": len(last),
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
        self.net = net.to(self.device).to(memory_format=torch.channels_last)
        self.execution.prepare(self.net.cells)
        self.optimizer = SGD(
            self.net.parameters(),
            lr=plan.weights.lr.value(0, plan.epochs),
            momentum=plan.weights.momentum,
            weight_decay=plan.weights.weight_decay,
            nesterov=plan.weights.nesterov,
            fused=self.device.type in FUSED,
        )
        self.batches = self._batches(train=True)

    def _batches(self, train: bool) -> Batches:
        return Batches(
            self.data.train if train else self.data.test,
            self.plan.batch_size,
            mean=self.data.mean,
            std=self.data.std,
            augmentation=self._augmentation if train else None,
            device=self.device,
            seed=derive_seed(self.seed, "retrain", self.plan.seeds[self.round]),
            purpose="retrain" if train else "test",
        )

    def _train(self) -> None:
        plan, seed = self.plan, self.plan.seeds[self.round]
        test = self._batches(train=False)
        steps = len(self.batches)
        while self.epoch < plan.epochs:
            self.optimizer.param_groups[0]["lr"] = plan.weights.lr.value(self.epoch, plan.epochs)
            self.net.drop_path = plan.drop_path * self.epoch / plan.epochs
            self.net.train()
            if self.step == 0:
                self.guard.begin_epoch()
            while self.step < steps:
                torch.manual_seed(derive_seed(self.seed, "retrain", seed, self.epoch, self.step))
                act = partial(self._train_step, *self.batches.batch(self.epoch, self.step))
                seen = self.guard.step(self.step, steps, act)
                self.step += 1
                if seen is not None:
                    self.running.add(*seen)
                done = (self.round * plan.epochs + self.epoch) * steps + self.step
                name = f"retrain, seed {self.round + 1}/{len(plan.seeds)}"
                self.monitor.step(name, done, len(plan.seeds) * plan.epochs * steps, self.running.figures)
                if self.step < steps:
                    self.monitor.checkpoint(self._sound_state)
            self.guard.settle()
            self._end_epoch(test)
            self.monitor.checkpoint(self._sound_state, due=True)

    def _train_step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, int]:
        """One update of the weights; returns the loss and the number of correct predictions (0-dim), and of images."""
        plan = self.plan
        self.optimizer.zero_grad(set_to_none=True)
        out = self.execution(self.net, x)
        logits, extra = out if isinstance(out, tuple) else (out, None)
        loss = F.cross_entropy(logits, y, label_smoothing=plan.label_smoothing)
        total = loss
        if extra is not None:
            total = loss + plan.auxiliary * F.cross_entropy(extra, y, label_smoothing=plan.label_smoothing)
        total.backward()
        self.guard.see("the loss", total)
        if plan.weights.clip is not None:
            norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), plan.weights.clip)
        else:
            norm = total_norm(p.grad for p in self.net.parameters())
        self.guard.see("the gradient norm of the weights", norm)
        self.optimizer.step()
        return loss.detach(), (logits.detach().argmax(1) == y).sum(), len(y)

    def _end_epoch(self, test: Batches) -> None:
        figures = self.running.figures()
        tested = self.epoch in self._tested_epochs()
        with self.execution.plain():
            test_loss, test_accuracy = evaluate(self.net, test) if tested else (None, None)
        if test_accuracy is not None:
            self.tests.append(test_accuracy)
        self.monitor.metrics(
            {
                "phase": "retrain",
                "seed": self.plan.seeds[self.round],
                "epoch": self.epoch,
                "train_loss": figures["loss"],
                "train_accuracy": figures["accuracy"],
                "test_loss": test_loss,
                "test_accuracy": test_accuracy,
                "lr": self.optimizer.param_groups[0]["lr"],
                "drop_path": self.net.drop_path,
                **({"left_out": self.guard.left_out} if self.guard.left_out else {}),
            }
        )
        self.epoch, self.step = self.epoch + 1, 0
        self.running.clear()
        self.guard.end_epoch()

    def _place(self, step: int) -> Place:
        """Where a step of this epoch happened, for the explanation of a fault."""
        numbers, images = self.batches.numbers(self.epoch, step), self.batches.batch(self.epoch, step)[0]
        rate = self.optimizer.param_groups[0]["lr"]
        return Place(
            f"retraining with seed {self.plan.seeds[self.round]}, epoch {self.epoch}, step {step}",
            [Group("the weights", list(self.net.parameters()), "retrain.weights.lr", rate)],
            [("train", numbers, images)],
        )

    def _tested_epochs(self) -> list[int]:
        last, every = self.plan.epochs - 1, self.plan.test_every
        return [e for e in range(self.plan.epochs) if e == last or (e + 1) % every == 0]

    def _sound_state(self) -> dict[str, Any]:
        """`state_dict`, to be saved. Raises RunError where something in it is not finite."""
        self.guard.settle()
        return self.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the retraining depends on."""
        return {
            "round": self.round,
            "epoch": self.epoch,
            "step": self.step,
            "runs": self.runs,
            "tests": self.tests,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "first_weights": self.first_weights,
            "running": self.running.state_dict(),
            "guard": self.guard.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the retraining that `state_dict` was taken from (same genotype, plan, data and seed)."""
        self.round, self.epoch, self.step = places(state["round"], state["epoch"], state["step"])
        self.runs, self.tests = list(state["runs"]), list(state["tests"])
        self.first_weights = dict(state["first_weights"])
        self._begin()
        self.net.load_state_dict(state["net"])
        restore_optimizer(self.optimizer, state["optimizer"])
        self.running.load_state_dict(state["running"])
        self.guard.load_state_dict(state.get("guard"))


def evaluate(net: FixedNet, batches: Batches) -> tuple[float, float]:
    """Mean cross entropy and accuracy (fraction) of a network over all batches, in evaluation mode."""
    training = net.training
    net.eval()
    loss = correct = torch.zeros(())
    images = 0
    with torch.no_grad():
        for x, y in batches.eval_batches():
            logits = net(x)
            loss = loss + F.cross_entropy(logits, y, reduction="sum").cpu()
            correct = correct + (logits.argmax(1) == y).sum().cpu()
            images += len(y)
    net.train(training)
    return float(loss) / images, float(correct) / images
