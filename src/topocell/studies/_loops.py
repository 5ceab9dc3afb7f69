"""Trainings of a study that no run directory holds: they take the epoch loop, and are repeated as a whole."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from topocell.config.search import WeightOptimizer
from topocell.config.values import Curve
from topocell.data.batches import Batches, Draw
from topocell.data.splits import split_batches
from topocell.runs.setup import Setup
from topocell.runtime.epoch_loop import EpochLoop, Training
from topocell.runtime.epoch_meter import Seen
from topocell.runtime.hooks import Silent
from topocell.runtime.nan_guard import Group, Place, Stateful
from topocell.searching.loop import Search
from topocell.supernet.learner import ArchBatch, seen_of, weight_optimizer
from topocell.supernet.levels import bilevel


class _Unsaved(Training):
    """Hooks of `topocell.runtime.epoch_loop.Training` for work that shows, records and saves nothing.

    Args:
        seed, device: of the loop.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.loop = EpochLoop(self, seed=seed, device=device, monitor=Silent())

    def on_step_end(self, steps: int) -> None:
        """Show nothing."""

    def on_epoch_end(self) -> bool:
        """Continue with the next epoch."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """Save nothing."""
        return {}


class PlainTraining(_Unsaved):
    """Trains a plain network with the settings of a supernet's weights.

    Args:
        net: gives logits (N, classes).
        batches: of training images.
        options: of the optimizer.
        epochs: in all.
        seed, device: of the loop.
    """

    def __init__(
        self, net: nn.Module, batches: Batches, options: WeightOptimizer, epochs: int, seed: int, device: torch.device
    ) -> None:
        super().__init__(seed, device)
        self._net, self._batches, self._options, self._epochs = net, batches, options, epochs
        self._learnt = list(net.parameters())
        self._optimizer = weight_optimizer(net, options)

    def run(self) -> None:
        """Train, in place."""
        self._net.train()
        self.loop.run(self._epochs)

    def begin_epoch(self) -> int:
        """Return the number of batches."""
        return len(self._batches)

    def stream(self) -> tuple[str | int, ...]:
        """The random stream of the steps."""
        return ("plain network",)

    def train_step(self) -> Seen:
        """Descend the cross entropy of a batch."""
        at = self.loop.epoch, self._epochs, self.loop.step, len(self._batches)
        self._optimizer.param_groups[0]["lr"] = self._options.lr.at(*at)
        x, y = batch = self._batches.batch(self.loop.epoch, self.loop.step)
        self._optimizer.zero_grad(set_to_none=True)
        logits = self._net(x)
        loss = F.cross_entropy(logits, y)
        self.loop.guard.see("the loss", loss)
        loss.backward()
        if self._options.clip is not None:
            nn.utils.clip_grad_norm_(self._learnt, self._options.clip)
        self._optimizer.step()
        return seen_of(loss, logits, batch)

    def parts(self) -> Mapping[str, Stateful]:
        """Return what a step changes."""
        return {"net": self._net, "weights": self._optimizer}

    def place(self, step: int) -> Place:
        """Return where a step of this epoch happened."""
        lr = self._optimizer.param_groups[0]["lr"]
        group = Group("the weights", self._learnt, "search.stages.NAME.weights.lr", lr)
        return Place(f"plain network, epoch {self.loop.epoch}, step {step}", [group], [])


class Tuning(_Unsaved):
    """Tuning of a projection between two rounds: at each step the architecture, then the weights.

    Args:
        setup: of the search.
        search: finished; its learner is changed.
    """

    def __init__(self, setup: Setup, search: Search) -> None:
        super().__init__(setup.recipe.seed, search.device)
        self._learner, self._stage, self._plan = search.learner, search.stage, setup.recipe.selection.projection
        options = self._stage.weights.model_copy(update={"lr": Curve(start=self._plan.lr)})
        self._learner.weights_optimizer = weight_optimizer(self._learner.net, options)
        self._learner.epsilon, self._learner.see = self._plan.epsilon, self.loop.guard.see

        def batches(split: str, draw: Draw) -> Batches:
            size, seed, stream = setup.recipe.search.batch(self._stage), setup.recipe.seed, f"strength {split}"
            return split_batches(search.data, split, size, stream, seed=seed, device=search.device, draw=draw)

        self._train = batches(self._stage.weights_on, "epoch")
        self._alpha = batches(self._stage.alpha_on, self._stage.arch_draw)

    def run(self) -> None:
        """Tune for as many epochs as lie between two rounds."""
        self.loop.run(self._plan.tune_epochs)

    def begin_epoch(self) -> int:
        """Return the steps of the epoch; no value follows a curve in tuning."""
        return len(self._train)

    def stream(self) -> tuple[str | int, ...]:
        """The random stream of the steps."""
        return ("strength",)

    def train_step(self) -> Seen:
        """Update the architecture on held-out images, then the weights on training images."""
        at, updates = (self.loop.epoch, self.loop.step), []
        if self._plan.train_alpha:
            updates = [ArchBatch(self._alpha.batch(*at), True, self._learner.beta_optimizer is not None)]
        return bilevel(self._learner, self._train.batch(*at), updates)

    def parts(self) -> Mapping[str, Stateful]:
        """Return what a step changes."""
        return self._learner.parts

    def place(self, step: int) -> Place:
        """Return where a step of this epoch happened."""
        keys = {"weights": "selection.projection.lr"} | {
            name: f"search.stages.{self._stage.name}.{name}.lr" for name in ("alpha", "beta")
        }
        return Place(f"tuning epoch {self.loop.epoch}, step {step}", self._learner.groups(keys), [])
