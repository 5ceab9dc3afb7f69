"""The search: a list of stages run by one loop. Read this file first.

An epoch of a stage is `for step: level(learner, train batch, architecture updates)`. Everything that differs
between methods is in the stage (plan.py), the level (levels.py), the relaxation and the topology. All random
draws are functions of (seed, purpose, epoch, step), so a state saved after any step continues bit for bit.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam

from topocell.arch import ArchState
from topocell.checkpoint import places
from topocell.data import Batches, SearchData
from topocell.engine import Supernet
from topocell.execution import PLAIN, Execution
from topocell.guard import Guard, OnNan, Place
from topocell.monitor import Monitor, Silent
from topocell.rng import derive as derive_seed
from topocell.rng import generator
from topocell.running import Running
from topocell.search.build import adam, attention, progress, sgd, split_batches
from topocell.search.levels import LEVELS, ArchBatch, Learner, weights_only
from topocell.search.plan import SearchPlan, Stage
from topocell.search.progressive import Progress
from topocell.search.robust import PERTURBATIONS
from topocell.search.selection import Rules
from topocell.search.stopping import Stopping
from topocell.search.watch import observe
from topocell.spaces.cell import SpaceSpec

Candidates = Mapping[str, Sequence[Sequence[str]]]


class Search:
    """A search in progress; `run` brings it to its end.

    Args:
        plan: stages and sizes.
        space: the search space that the first stage starts from.
        data: the training images, cut into splits; the test images are out of reach.
        rules: how cells are derived when the search is watched.
        seed, device: of the whole search.
        monitor: receives metrics, progress and states to save.
        execution: how the supernet is called in training; what is watched is in float32.
        on_nan: what is done about a step that is not finite, see `topocell.guard`.

    Attributes:
        learner: the supernet, the architecture state and their optimizers at this moment.
    """

    learner: Learner

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
    ) -> None:
        self.plan, self.space, self.data, self.rules = plan, space, data, rules or Rules()
        self.seed, self.device, self.monitor = seed, torch.device(device), monitor or Silent()
        self.stage = self.epoch = self.step = 0
        self.execution = execution
        self.running = Running(self.device)
        self.guard = Guard(on_nan, self.device, lambda: self.learner.parts, self._place, self.monitor.say)
        self.progress: Progress | None = None
        self.stopping: Stopping | None = None

    def run(self, state: Mapping[str, Any] | None = None) -> Learner:
        """Search from the beginning, or go on from a `state_dict`; returns the trained learner.

        Raises:
            RunError: a loss or a gradient is not finite, and `on_nan` does not say to go on.
            Interrupted: the monitor was told to stop, after the state was saved.
        """
        if state is None:
            self._enter(None)
        else:
            with self.monitor.loading():
                self.load_state_dict(state)
        while True:
            self._finish_stage()
            if self.stage + 1 == len(self.plan.stages):
                return self.learner
            before, self.stage = self.plan.stages[self.stage], self.stage + 1
            self._enter(before)
            self.epoch = self.step = 0
            self.monitor.checkpoint(self._sound_state, due=True)

    # One stage ----------------------------------------------------------------------------------------------

    def _finish_stage(self) -> None:
        stage = self.plan.stages[self.stage]
        train, alpha, beta = self._streams(stage)
        held_out = stage.alpha_on if stage.alpha_on in self.data.splits else stage.weights_on
        watched = self._batches(held_out, f"{stage.name} watch", augmented=False)
        while self.epoch < stage.epochs:
            self._set_schedules(stage)
            learning = self.epoch >= stage.warmup and stage.level != "weights"
            level = LEVELS[stage.level] if learning else weights_only
            self._grow_batches(stage, train, alpha, beta)
            if self.step == 0:
                self.guard.begin_epoch()
            while self.step < len(train):
                torch.manual_seed(derive_seed(self.seed, "step", stage.name, self.epoch, self.step))
                due = learning and (stage.arch_every == "step" or self.step == train.last_full)
                updates = self._updates(stage, alpha, beta) if due else []
                act = partial(level, self.learner, train.batch(self.epoch, self.step), updates)
                seen = self.guard.step(self.step, len(train), act)
                self.step += 1
                if seen is not None:
                    self.running.add(seen.loss, seen.correct, seen.images)
                self._report_step(stage, len(train))
                if self.step < len(train):
                    self.monitor.checkpoint(self._sound_state)
            self.guard.settle()
            decisions = self._decide(stage)
            record = self._record(stage, watched) | decisions
            stopped = self._stopped(stage, record) if learning else {}
            self.monitor.metrics(record | stopped)
            self.epoch, self.step = stage.epochs if stopped else self.epoch + 1, 0
            self.running.clear()
            self.guard.end_epoch()
            self.monitor.checkpoint(self._sound_state, due=True)

    def _streams(self, stage: Stage) -> tuple[Batches, Batches, Batches]:
        """Batches of the weights, α and β; one and the same where they share a split."""
        train = self._batches(stage.weights_on, f"{stage.name} weights")
        if not stage.splits_needed - {stage.weights_on}:
            return train, train, train
        alpha = self._batches(stage.alpha_on, f"{stage.name} alpha")
        shared = stage.beta_on == stage.alpha_on
        return train, alpha, alpha if shared else self._batches(stage.beta_on, f"{stage.name} beta")

    def _updates(self, stage: Stage, alpha: Batches, beta: Batches) -> list[ArchBatch]:
        """α and β jointly on one batch, or one after the other on their own splits."""
        has_beta = self.learner.beta is not None
        if stage.level == "single":
            empty = torch.empty(0)
            return [ArchBatch((empty, empty), True, has_beta)]
        at = self.step if stage.arch_every == "step" else 0
        first = alpha.batch(self.epoch, at)
        if not has_beta or beta is alpha:
            return [ArchBatch(first, True, has_beta)]
        return [ArchBatch(first, True, False), ArchBatch(beta.batch(self.epoch, at), False, True)]

    def _set_schedules(self, stage: Stage) -> None:
        learner, at = self.learner, (self.epoch, stage.epochs)
        learner.arch.op_temperature = stage.op_temperature.value(*at)
        learner.arch.edge_temperature = stage.edge_temperature.value(*at)
        learner.arch.auxiliary_skip = stage.auxiliary_skip.value(*at)
        learner.net.skip_dropout = stage.skip_dropout.value(*at)
        learner.epsilon = stage.epsilon.value(*at)
        learner.weights.param_groups[0]["lr"] = stage.weights.lr.value(*at)
        learner.alpha.param_groups[0]["lr"] = stage.alpha.lr.value(*at)
        if learner.beta is not None:
            learner.beta.param_groups[0]["lr"] = stage.beta.lr.value(*at)

    def _grow_batches(self, stage: Stage, *streams: Batches) -> None:
        """Let the batches of this epoch be as large as the decisions before it allow."""
        if stage.progressive is not None:
            size = stage.progressive.batch_size(self.plan.batch_size, self.epoch)
            for batches in streams:
                batches.batch_size = min(size, len(batches.data))

    def _decide(self, stage: Stage) -> dict[str, Any]:
        """Progressive decisions at the end of an epoch; returns what they add to its record."""
        if stage.progressive is None or self.progress is None:
            return {}
        due, last = stage.progressive.decides_after(self.epoch), self.epoch + 1 == stage.epochs
        made = self.progress.after_epoch(due, last)
        for decision in made:
            self.monitor.say(decision.words())
        return {"decisions": [decision.record() for decision in made]}

    def _stopped(self, stage: Stage, record: Mapping[str, Any]) -> dict[str, str]:
        """What the end of a stage ahead of time adds to the record of its last epoch; nothing where it goes on."""
        if self.stopping is None:
            return {}
        why = self.stopping.after_epoch(self.epoch, self.learner.arch, record["operations"])
        if why is None:
            return {}
        self.monitor.say(f"stage {stage.name} ends after epoch {self.epoch + 1} of {stage.epochs}: {why}")
        return {"stopped": why}

    # Entering a stage ---------------------------------------------------------------------------------------

    def _enter(self, before: Stage | None) -> None:
        """Build what the stage makes afresh, keep the rest of the learner."""
        stage = self.plan.stages[self.stage]
        old = self.learner if before is not None else None
        masks = {t: old.arch.mask(t) for t in self.space.cells} if old is not None else {}
        if old is not None and stage.shrink is not None:
            self.space, masks = self._shrunk(stage, old.arch)
        resized = before is None or self.plan.size(before) != self.plan.size(stage)
        shrunk = stage.shrink is not None and old is not None
        fresh_net = resized or "weights" in stage.reset
        fresh_alpha = before is None or shrunk or "alpha" in stage.reset
        fresh_beta = before is None or before.topology != stage.topology or "beta" in stage.reset
        net, arch = self._build(stage)
        if old is not None:
            arch.restrict(masks)
            net.restrict(masks)
            if not fresh_net:
                net.load_per_edge_state_dict(_shared(old.net, net), strict=False)
            with torch.no_grad():
                for name in self.space.cells:
                    if not fresh_alpha:
                        arch.alpha[name].copy_(old.arch.alpha[name])
                    if not fresh_beta:
                        arch.beta[name].copy_(old.arch.beta[name])
        self.learner = self._learner(stage, net, arch)
        self.progress, self.stopping = self._progress(stage), self._stopping(stage)
        if old is None or "optimizers" in stage.reset:
            return
        thinned = any(not torch.equal(arch.mask(t).cpu(), mask.cpu()) for t, mask in masks.items())
        if not (fresh_net or shrunk or thinned):
            self.learner.weights.load_state_dict(_settings_of(self.learner.weights, old.weights))
        if not fresh_alpha:
            self.learner.alpha.load_state_dict(_settings_of(self.learner.alpha, old.alpha))
        if not fresh_beta and self.learner.beta is not None and old.beta is not None:
            self.learner.beta.load_state_dict(_settings_of(self.learner.beta, old.beta))

    def _shrunk(self, stage: Stage, arch: ArchState) -> tuple[SpaceSpec, dict[str, Tensor]]:
        """The space of the candidates that are kept, and masks of its cells: an edge of which none is kept is pruned.

        A cell lists at least one candidate on every edge, so a pruned edge lists its first.
        """
        cells, masks = {}, {}
        for name, cell in self.space.cells.items():
            mask, ops = arch.mask(name).cpu(), arch.strengths(name)
            if not stage.shrink_none:
                is_none = torch.tensor([[op == "none" for op in _padded(c, mask)] for c in cell.candidates])
                mask = mask & ~is_none
            if stage.shrink == "best":
                keep = arch.relaxations[name].retained(ops, mask)
            else:
                order = ops.masked_fill(~mask, -1.0).sort(dim=1, descending=True, stable=True).indices
                keep = torch.zeros_like(mask).scatter(1, order[:, : int(stage.shrink or 1)], True) & mask
            kept = [[op for op, k in zip(names, row) if k] for names, row in zip(cell.candidates, keep.tolist())]
            cells[name] = cell.with_candidates([new or old[:1] for new, old in zip(kept, cell.candidates)])
            masks[name] = torch.tensor(cells[name].live) & keep.any(1, keepdim=True)
        return self.space.with_cells(cells), masks

    def _build(self, stage: Stage) -> tuple[Supernet, ArchState]:
        torch.manual_seed(derive_seed(self.seed, "supernet", stage.name))
        net = Supernet(
            self.space,
            classes=len(self.data.classes),
            in_channels=self.data.shape[0],
            head=self.plan.head,
            memory=self.plan.memory,
            **self.plan.size(stage),
        )
        draw = generator(self.seed, "architecture", stage.name)
        choices = stage.relaxation.model_dump(), stage.topology.model_dump()
        arch = ArchState(self.space, *choices, init=stage.init, generator=draw)
        net.restrict({t: arch.mask(t) for t in self.space.cells})
        return net.to(self.device), arch.to(self.device)

    def _learner(self, stage: Stage, net: Supernet, arch: ArchState) -> Learner:
        beta = [b for b in arch.beta.values() if b.numel()]
        return Learner(
            net,
            arch,
            sgd(net, stage.weights),
            adam(arch.alpha.values(), stage.alpha),
            adam(beta, stage.beta) if beta else None,
            stage.weights.clip,
            stage.penalty,
            stage.mixed,
            alpha_penalty=stage.alpha_penalty,
            arch_clip=stage.arch_clip,
            perturb=PERTURBATIONS[stage.perturbation] if stage.perturbation else None,
            execution=self.execution,
            attention=attention(self.space, stage.attention, self.device),
            see=self.guard.see,
        )

    def _progress(self, stage: Stage) -> Progress | None:
        size, save = self.plan.batch_size, partial(self.monitor.checkpoint, self._sound_state)
        return progress(self.learner, self.data, stage, size, seed=self.seed, device=self.device, save=save)

    def _stopping(self, stage: Stage) -> Stopping | None:
        plan = stage.stop
        return Stopping(plan.skips, plan.stable, plan.first) if plan is not None else None

    def _batches(self, split: str, purpose: str, augmented: bool = True) -> Batches:
        size, where = self.plan.batch_size, self.device
        return split_batches(self.data, split, size, purpose, seed=self.seed, device=where, augmented=augmented)

    # What is seen and saved ---------------------------------------------------------------------------------

    def _report_step(self, stage: Stage, steps: int) -> None:
        done, total = self.epoch * steps + self.step, stage.epochs * steps
        name = f"search {self.stage + 1}/{len(self.plan.stages)} {stage.name}"
        self.monitor.step(name, done, total, self.running.figures)

    def _record(self, stage: Stage, watched: Batches) -> dict[str, Any]:
        figures = self.running.figures()
        torch.manual_seed(derive_seed(self.seed, "watch", stage.name, self.epoch))
        arch = self.learner.arch
        looks = range(min(self.plan.watch_batches or len(watched), len(watched)))
        return {
            "phase": "search",
            "stage": stage.name,
            "stage_index": self.stage,
            "epoch": self.epoch,
            "train_loss": figures["loss"],
            "train_accuracy": figures["accuracy"],
            "lr": self.learner.weights.param_groups[0]["lr"],
            "op_temperature": arch.op_temperature,
            "edge_temperature": arch.edge_temperature,
            "penalty": float(arch.penalty().detach()) if stage.penalty else None,
            **({"left_out": self.guard.left_out} if self.guard.left_out else {}),
            **observe(self.learner.net, arch, self.rules, (watched.batch(self.epoch, i) for i in looks)),
        }

    def _place(self, step: int) -> Place:
        """Where a step of this epoch happened, for the explanation of a fault."""
        stage, learner, key = self.plan.stages[self.stage], self.learner, "search.stages.{}.{}.lr"
        streams = self._streams(stage)
        self._grow_batches(stage, *streams)
        at = (step, *[step if stage.arch_every == "step" else 0] * 2)
        splits = (stage.weights_on, stage.alpha_on, stage.beta_on)
        return Place(
            f"stage {stage.name!r}, epoch {self.epoch}, step {step}",
            learner.groups({name: key.format(stage.name, name) for name in ("weights", "alpha", "beta")}),
            [
                (split, stream.numbers(self.epoch, i), stream.batch(self.epoch, i)[0])
                for split, stream, i in zip(splits, streams, at)
            ],
        )

    def _sound_state(self) -> dict[str, Any]:
        """`state_dict`, to be saved. Raises RunError where something in it is not finite."""
        self.guard.settle()
        return self.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the search depends on."""
        return {
            "stage": self.stage,
            "epoch": self.epoch,
            "step": self.step,
            "candidates": {t: [list(c) for c in cell.candidates] for t, cell in self.space.cells.items()},
            **self.learner.state_dict(),
            "running": self.running.state_dict(),
            "guard": self.guard.state_dict(),
            "progress": None if self.progress is None else self.progress.state_dict(),
            "stopping": None if self.stopping is None else self.stopping.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the search that `state_dict` was taken from (same plan, data and seed)."""
        self.stage, self.epoch, self.step = places(state["stage"], state["epoch"], state["step"])
        candidates: Candidates = state["candidates"]
        self.space = self.space.with_cells(
            {t: cell.with_candidates(candidates[t]) for t, cell in self.space.cells.items()}
        )
        stage = self.plan.stages[self.stage]
        net, arch = self._build(stage)
        arch.load_state_dict(state["arch"])
        net.restrict({t: arch.mask(t) for t in self.space.cells})
        self.learner = self._learner(stage, net, arch)
        self.learner.load_state_dict(state)
        self.running.load_state_dict(state["running"])
        self.guard.load_state_dict(state.get("guard"))
        self.progress, self.stopping = self._progress(stage), self._stopping(stage)
        if self.progress is not None:
            self.progress.load_state_dict(state["progress"])
        if self.stopping is not None:
            self.stopping.load_state_dict(state["stopping"])


def _settings_of(new: SGD | Adam, old: SGD | Adam) -> dict[str, Any]:
    """The running state of `old` under the settings of `new`."""
    return {"state": old.state_dict()["state"], "param_groups": new.state_dict()["param_groups"]}


def _shared(old: Supernet, new: Supernet) -> dict[str, Tensor]:
    names = new.per_edge_state_dict().keys()
    return {name: weight for name, weight in old.per_edge_state_dict().items() if name in names}


def _padded(names: Sequence[str], mask: Tensor) -> list[str]:
    return [*names, *[""] * (mask.shape[1] - len(names))]
