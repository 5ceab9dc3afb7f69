"""Trainings of a study that no run directory holds: they take the epoch loop, and are repeated as a whole."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topocell.config.search import WeightOptimizer
from topocell.config.values import Curve
from topocell.data.batches import Batches, Draw
from topocell.data.splits import split_batches
from topocell.networks.evaluation import Measured, evaluate, evaluate_each
from topocell.networks.together import Joint
from topocell.nn.network import FixedNet
from topocell.runs.setup import Setup
from topocell.runtime.capture import Recorder, Steps, take
from topocell.runtime.epoch_loop import EpochLoop, Training
from topocell.runtime.epoch_meter import Seen
from topocell.runtime.hooks import Silent
from topocell.runtime.nan_guard import Group, Place, Stateful
from topocell.runtime.optimizers import can_hold, rate_of, set_rate
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
    """Trains plain networks with the settings of a supernet's weights, all with the same images in the same order.

    Several are trained at once, as one batched network, each with the result that it has alone up to rounding: its
    gradients are clipped alone, and its optimizer is its own.

    Args:
        nets: give logits (B, classes); several are `FixedNet` of one skeleton.
        batches: of training images.
        options: of the optimizer.
        epochs: in all.
        seed, device: of the loop.
        recorder: records the steps, of networks that are held (`topocell.nn.scheduled`); None to take them as they are.

    Raises:
        SpaceError: several networks that cannot be computed as one.
    """

    def __init__(
        self,
        nets: Sequence[nn.Module],
        batches: Batches,
        options: WeightOptimizer,
        epochs: int,
        seed: int,
        device: torch.device,
        recorder: Recorder | None = None,
    ) -> None:
        super().__init__(seed, device)
        self._nets, self._batches, self._options, self._epochs = nets, batches, options, epochs
        self._joint = Joint(cast(Sequence[FixedNet], nets)) if len(nets) > 1 else None
        self._learnt = [list(net.parameters()) for net in nets]
        self._optimizers = [weight_optimizer(net, options) for net in nets]
        self._steps = Steps(recorder if can_hold(type(self._optimizers[0])) else None)

    def run(self) -> None:
        """Train, in place."""
        for net in self._nets:
            net.train()
        self.loop.run(self._epochs)

    def evaluated(self, batches: Batches) -> list[Measured]:
        """Evaluate each of the networks on all batches."""
        if self._joint is None:
            return [evaluate(cast(FixedNet, self._nets[0]), batches)]
        return evaluate_each(self._joint.net, batches)

    def begin_epoch(self) -> int:
        """Return the number of batches."""
        return len(self._batches)

    def stream(self) -> tuple[str | int, ...]:
        """The random stream of the steps."""
        return ("plain network",)

    def train_step(self) -> Seen:
        """Descend the cross entropy of a batch."""
        at = self.loop.epoch, self._epochs, self.loop.step, len(self._batches)
        for optimizer in self._optimizers:
            set_rate(optimizer, self._options.lr.at(*at))
        batch = self._batches.batch(self.loop.epoch, self.loop.step)
        if self._steps.records:
            return take(self._steps, self.loop.guard, (), None, self._update, batch)
        return self._update(*batch)

    def _update(self, x: Tensor, y: Tensor) -> Seen:
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        losses, seen = self._backward(x, y)
        for loss, learnt, which in zip(losses, self._learnt, self._which(), strict=True):
            self.loop.guard.see(f"the loss{which}", loss)
            if self._options.clip is not None:
                nn.utils.clip_grad_norm_(learnt, self._options.clip)
        for optimizer in self._optimizers:
            optimizer.step()
        return seen

    def _backward(self, x: Tensor, y: Tensor) -> tuple[list[Tensor], Seen]:
        """Compute the gradients; returns the loss of each network (0-dim), and what was seen."""

        def lost(logits: Tensor, target: Tensor) -> tuple[Tensor, Seen]:
            loss = F.cross_entropy(logits, target)
            return loss, seen_of(loss, logits, (x, target))

        if self._joint is not None:
            return self._joint.backward([lost] * len(self._nets), x, [y] * len(self._nets))
        loss, seen = lost(self._nets[0](x), y)
        loss.backward()
        return [loss.detach()], seen

    def _which(self) -> list[str]:
        """What tells the networks apart in messages, where there are several."""
        return [f" of network {number}" for number in range(1, len(self._nets) + 1)] if self._joint else [""]

    def parts(self) -> Mapping[str, Stateful]:
        """Return what a step changes."""
        found: dict[str, Stateful] = {}
        for net, optimizer, which in zip(self._nets, self._optimizers, self._which(), strict=True):
            found |= {f"net{which}": net, f"weights{which}": optimizer}
        return found

    def place(self, step: int) -> Place:
        """Return where a step of this epoch happened."""
        groups = [
            Group(f"the weights{which}", learnt, "search.stages.NAME.weights.lr", rate_of(optimizer))
            for which, learnt, optimizer in zip(self._which(), self._learnt, self._optimizers, strict=True)
        ]
        return Place(f"plain network, epoch {self.loop.epoch}, step {step}", groups, [])


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
