"""Retraining: the network of a genotype from scratch, several seeds, and the only place that sees the test split.

Accuracy is reported of the last epoch, or with early stopping of the one that is kept; the best epoch is reported
beside it and never alone, because choosing it uses the test split.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from topocell.config.retrain import RetrainPlan
from topocell.config.values import OnNan
from topocell.data.batches import Batches
from topocell.data.splits import Dataset
from topocell.errors import RunError
from topocell.genotype.genotype import Genotype
from topocell.io.checkpoint import places
from topocell.networks.scores import MOST_CLASSES, class_scores, over_seeds
from topocell.networks.seed_training import SeedTraining, Task
from topocell.networks.start import AFRESH, Start
from topocell.networks.together import at_once
from topocell.networks.trainings import Trainings
from topocell.nn.count import count
from topocell.nn.network import FixedNet
from topocell.runtime.hooks import Monitor, Silent
from topocell.runtime.precision import PLAIN, Execution


class Retraining(Trainings):
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
        round: number of the first seed in training.
        members: the trainings of the seeds that are trained at once, from that on.
        runs: entries in results.json of the seeds that are trained.
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
        super().__init__(seed, torch.device(device), monitor or Silent(), execution, on_nan)
        self.plan, self.data, self._start = plan, data, start
        self.task = Task(genotype, plan, data, seed, torch.device(device), execution, start)
        self.round, self._on_nan, self._most = 0, on_nan, 0
        self.runs: list[dict[str, Any]] = []
        self.confusions: list[Tensor] = []

    def run(self, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Train every seed, or resume from a `state_dict`; returns what results.json holds.

        Raises:
            RunError: a loss or a gradient is not finite, and `on_nan` is `stop`.
            Interrupted: the monitor was told to stop, after the state was saved.
        """
        if state is None:
            for note in self.task.chosen:
                self.monitor.say(note)
            if self._start.source:
                self.monitor.say(f"fine-tuning the weights of {self._start.source}")
            if taken := [str(entry["seed"]) for entry in self._start.earlier]:
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
            for member in self.members:
                entry, confusion = member.finish(self.monitor)
                self.runs.append(entry)
                self.confusions.append(confusion)
            if self.round + len(self.members) == len(self.plan.seeds):
                return self.results()
            self.round += len(self.members)
            self.loop.restart()
            self._begin()

    def _take_earlier(self) -> None:
        """Take over the seeds that are trained already; raises RunError where they are others."""
        for number, entry in enumerate(self._start.earlier):
            self.confusions.append(torch.as_tensor(entry["confusion"]))
            self.runs.append({key: value for key, value in entry.items() if key != "confusion"})
            if self.plan.seeds[number] != entry["seed"]:
                raise RunError(
                    f"the seeds trained already are the first ones, but {entry['seed']} is not; restore them"
                )
        self.round = min(len(self.runs), len(self.plan.seeds) - 1)

    @property
    def net(self) -> FixedNet:
        """The network in training, or the last one of those; after `run`, the one of the last seed."""
        return self.members[-1].net

    @property
    def tested(self) -> FixedNet:
        """The same network as it is tested and kept: its average, where there is one."""
        return self.members[-1].tested

    @property
    def batches(self) -> Batches:
        """The training images of the first seed in training."""
        return self.members[0].batches

    def results(self) -> dict[str, Any]:
        """Accuracy per seed, mean ± standard deviation (n − 1) of last and of best, and the size of the network.

        See `class_scores` for what is said of the classes. There is a confusion matrix of up to `MOST_CLASSES` classes.
        """
        with self.task.execution.plain():
            size = count(self.net, self.data.shape)
        measured = ["top_k"] if self.plan.top_k is not None else []
        classes, (train, test) = self.data.train.classes, (self.task.train, self.data.test)
        images = tuple(part.labels.bincount(minlength=len(classes)) for part in (train, test))
        shown = [of.tolist() if len(classes) <= MOST_CLASSES else None for of in self.confusions]
        runs = [{**run, "confusion": confusion} for run, confusion in zip(self.runs, shown, strict=True)]
        return {
            "dataset": self.data.name,
            "classes": len(self.data.train.classes),
            "train_images": len(self.task.train),
            **({} if self.task.held_out is None else {"validation_images": len(self.task.held_out)}),
            "test_images": len(self.data.test),
            "parameters": size.parameters,
            "multiply_adds": size.multiply_adds,
            "channels": self.task.channels,
            "layers": self.plan.layers,
            "epochs": self.plan.epochs,
            **({"initial_weights": self._start.source} if self._start.source else {}),
            "runs": runs,
            **over_seeds(self.runs, "last", "best", *measured),
            **({"k": self.plan.top_k} if measured else {}),
            **class_scores(classes, images, self.confusions),
        }

    def _begin(self) -> None:
        """Begin the training of the next seeds: as many at once as the plan and the machine allowed at first."""
        left = len(self.plan.seeds) - self.round
        if not self._most:
            self._most, words = at_once(self.task, left, self._on_nan)
            if words:
                self.monitor.say(words)
        self.start([SeedTraining(self.task, self.round + i) for i in range(min(self._most, left))])

    def on_step_end(self, steps: int) -> None:
        """Report the step."""
        seeds, epochs, size = len(self.plan.seeds), self.plan.epochs, len(self.members)
        done = (self.round * epochs + self.loop.epoch * size) * steps + self.loop.step * size
        first, last = self.round + 1, self.round + size
        which = f"seed {first}" if size == 1 else f"seeds {first} to {last}"
        self.loop.progress(f"retrain, {which}/{seeds}", done, seeds * epochs * steps)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the retraining depends on."""
        return {
            "round": self.round,
            "runs": self.runs,
            "confusions": self.confusions,
            **super().state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict` of a retraining of the same genotype, plan, data and seed."""
        (self.round,) = places(state["round"])
        self.runs = list(state["runs"])
        self.confusions = [torch.as_tensor(confusion) for confusion in state["confusions"]]
        (self._most,) = places(len(state["members"]))
        self._begin()
        super().load_state_dict(state)
