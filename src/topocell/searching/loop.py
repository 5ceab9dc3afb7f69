"""The search: stages, each of which the epoch loop takes through its epochs. Read this file first.

An epoch of a stage is `for step: level(learner, training batch, architecture updates)`. Everything that differs
between methods is in the stage (config/search.py), the level (supernet/levels.py), the relaxation, the topology and
mechanisms.py; what a stage takes over from the one before in transition.py. Random draws are functions of
(seed, stream, epoch, step).
"""

from collections.abc import Mapping
from typing import Any

import torch

from topocell.config.search import SearchPlan, Stage
from topocell.config.selection import Rules
from topocell.config.values import OnNan
from topocell.data.splits import SearchData
from topocell.io.checkpoint import places
from topocell.runtime import distributed
from topocell.runtime.capture import Steps
from topocell.runtime.epoch_loop import EpochLoop
from topocell.runtime.epoch_meter import Seen
from topocell.runtime.hooks import Monitor, Silent
from topocell.runtime.nan_guard import Place, Stateful
from topocell.runtime.precision import PLAIN, Execution
from topocell.runtime.rng import derive as derive_seed
from topocell.searching.cost import cost_penalty
from topocell.searching.diagnostics import observe
from topocell.searching.mechanisms import Mechanism, mechanisms_of, with_records
from topocell.searching.schedules import scheduled, set_schedules, updates_architecture
from topocell.searching.streams import Streams
from topocell.searching.transition import Builder
from topocell.spaces.cell import SpaceSpec
from topocell.spaces.costs import NetworkCosts
from topocell.supernet.learner import Learner
from topocell.supernet.levels import LEVELS, weights_only
from topocell.supernet.recording import can_record, level_step


class Search:
    """A search in progress; `run` brings it to its end.

    Args:
        plan: stages and sizes.
        space: the search space that the first stage starts from.
        data: the training images, cut into splits; the test images are out of reach.
        rules: how the cells are derived that the diagnostics of an epoch show.
        seed, device: of the whole search.
        monitor: receives metrics, progress and states to save.
        execution: how the supernet is called in training; evaluations are in float32.
        on_nan: what is done about a step that is not finite, see `topocell.runtime.nan_guard`.
        costs: of the networks of the space, if the plan has a penalty on cost.

    Attributes:
        learner: the supernet, the architecture state and their optimizers at this moment.
        number: 0-based, of the stage in progress.
        loop: takes the stage through its epochs.
        mechanisms: what the method adds to the stage, by name.
    """

    learner: Learner
    streams: Streams
    steps: Steps

    def __init__(
        self,
        plan: SearchPlan,
        space: SpaceSpec,
        data: SearchData,
        *,
        rules: Rules | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        monitor: Monitor | None = None,
        execution: Execution = PLAIN,
        on_nan: OnNan = "stop",
        costs: NetworkCosts | None = None,
    ) -> None:
        self.plan, self.space, self.data, self.rules = plan, space, data, rules or Rules()
        self.seed, self.device, self.monitor = seed, torch.device(device), monitor or Silent()
        self.number = 0
        self.loop = EpochLoop(self, seed=seed, device=self.device, monitor=self.monitor, on_nan=on_nan)
        self.build = Builder(plan, data, seed, self.device, execution, self.loop.guard.see)
        self.recorder = execution.recorder(self.device) if on_nan == "stop" else None
        self.mechanisms: dict[str, Mechanism] = {}
        self.always = cost_penalty(plan, space, self.rules, costs)

    @property
    def stage(self) -> Stage:
        """The stage in progress."""
        return self.plan.stages[self.number]

    def run(self, state: Mapping[str, Any] | None = None) -> Learner:
        """Search from the beginning, or resume from a `state_dict`; return the trained learner.

        Raises:
            RunError: a loss or a gradient is not finite, and `on_nan` is `stop`.
            Interrupted: the monitor was told to stop, after the state was saved.
        """
        if state is not None:
            with self.monitor.loading():
                self.load_state_dict(state)
        else:
            self._enter(*self.build.first(self.space))
        while True:
            self.loop.run(self.stage.epochs)
            logits = {**self.learner.arch.alpha, **{f"beta.{t}": beta for t, beta in self.learner.arch.beta.items()}}
            distributed.same_tensors(f"architecture after stage {self.stage.name!r}", logits)
            if self.number + 1 == len(self.plan.stages):
                return self.learner
            self.number += 1
            self._enter(*self.build.next(self.number, self.space, self.learner))
            self.loop.restart()
            self.loop.save(due=True)

    def _enter(self, space: SpaceSpec, learner: Learner) -> None:
        """Begin the stage, or what is left of it, with what it starts from."""
        stage, self.space, self.learner = self.stage, space, learner
        self.streams = Streams(self.data, stage, self.plan.batch(stage), self.seed, self.device)
        self.mechanisms = {**mechanisms_of(stage), **self.always}
        for mechanism in self.mechanisms.values():
            mechanism.on_stage_start(self)
        learner.recordable = all(mechanism.recordable for mechanism in self.mechanisms.values())
        self.steps = Steps(self.recorder if can_record(learner) else None, self.monitor.say)

    # An epoch, as the loop calls it -------------------------------------------------------------------------

    def begin_epoch(self) -> int:
        """Set learning rates, temperatures and all that follows a curve, and the batch size."""
        set_schedules(self.learner, self.stage, self.loop.epoch, self.loop.step, len(self.streams.train))
        for mechanism in self.mechanisms.values():
            mechanism.on_epoch_start(self)
        return len(self.streams.train)

    def stream(self) -> tuple[str | int, ...]:
        """The random stream of the steps."""
        return "step", self.stage.name

    def train_step(self) -> Seen:
        """Update α and β where they are due, and the weights, in the order of the level."""
        epoch, step, has_beta = self.loop.epoch, self.loop.step, self.learner.beta_optimizer is not None
        set_schedules(self.learner, self.stage, epoch, step, len(self.streams.train), within=True)
        batch = self.streams.train.batch(epoch, step)
        moves = updates_architecture(self.stage, epoch)
        level = LEVELS[self.stage.level] if moves else weights_only
        updates = self.streams.updates(epoch, step, has_beta) if moves else []
        return level_step(self.steps, self.loop.guard, level, self.learner, batch, updates)

    def on_step_end(self, steps: int) -> None:
        """Report the step."""
        for mechanism in self.mechanisms.values():
            mechanism.on_step_end(self)
        name, done = f"search {self.number + 1}/{len(self.plan.stages)} {self.stage.name}", self.loop.epoch * steps
        self.loop.progress(name, done + self.loop.step, self.stage.epochs * steps)

    def on_epoch_end(self) -> bool:
        """Let mechanisms act, evaluate, record; say whether the stage ends here."""
        record = with_records(self.mechanisms, self, self._record)
        why = self._reason_to_stop(record) if record["updates_architecture"] else None
        self.monitor.metrics(record | ({"stopped": why} if why else {}))
        return why is not None

    def _record(self) -> dict[str, Any]:
        torch.manual_seed(derive_seed(self.seed, "watch", self.stage.name, self.loop.epoch))
        learner, batches = self.learner, self.streams.evaluation(self.loop.epoch, self.plan.evaluation_batches)
        return {
            "phase": "search",
            "stage": self.stage.name,
            "stage_index": self.number,
            **self.loop.record(),
            **scheduled(learner, self.stage, self.loop.epoch),
            **observe(learner.net, learner.arch, self.rules, batches),
        }

    def _reason_to_stop(self, record: Mapping[str, Any]) -> str | None:
        reasons = [mechanism.reason_to_stop(self, record) for mechanism in self.mechanisms.values()]
        why = next((reason for reason in reasons if reason is not None), None)
        if why is not None:
            epochs = f"{self.loop.epoch + 1} of {self.stage.epochs}"
            self.monitor.say(f"stage {self.stage.name} ends after epoch {epochs}: {why}")
        return why

    def parts(self) -> Mapping[str, Stateful]:
        """Return what a step changes."""
        return self.learner.parts

    def place(self, step: int) -> Place:
        """Return where a step of this epoch happened, for the explanation of a fault."""
        keys = {name: f"search.stages.{self.stage.name}.{name}.lr" for name in ("weights", "alpha", "beta")}
        words = f"stage {self.stage.name!r}, epoch {self.loop.epoch}, step {step}"
        return Place(words, self.learner.groups(keys), self.streams.images(self.loop.epoch, step))

    # State --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the search depends on."""
        return {
            "stage": self.number,
            "candidates": {t: [list(c) for c in cell.candidates] for t, cell in self.space.cells.items()},
            **self.learner.state_dict(),
            **self.loop.state_dict(),
            "mechanisms": {name: mechanism.state_dict() for name, mechanism in self.mechanisms.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict` of a search of the same plan, data and seed."""
        (self.number,) = places(state["stage"])
        self._enter(*self.build.restored(self.number, self.space, state))
        self.loop.load_state_dict(state)
        for name, mechanism in self.mechanisms.items():
            mechanism.load_state_dict(state["mechanisms"][name])
