"""Selection by perturbation (DARTS-PT): operations and edges are kept by the accuracy drop without them.

On a trained supernet, round by round: an undecided edge of each cell type loses one candidate at a time, without
renormalisation; the candidate that is missed most is kept and the others leave the supernet, which is then tuned for
a few epochs. When all edges are decided, nodes with too many inputs lose theirs in the same way (Wang et al.,
Rethinking Architecture Selection in Differentiable NAS, 2021, Algorithms 1 and 2).

The state can be saved after any measurement and any step of tuning. All draws are functions of (seed, stream,
decision, epoch, step).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from topocell.config.search import Stage
from topocell.config.selection import PERTURBATION, ProjectionPlan, Rules
from topocell.config.values import Curve, OnNan
from topocell.data.batches import Batches, Draw
from topocell.data.splits import SearchData, split_batches
from topocell.io.checkpoint import places
from topocell.runtime.capture import Steps
from topocell.runtime.epoch_loop import EpochLoop
from topocell.runtime.epoch_meter import Seen
from topocell.runtime.hooks import Figures, Monitor, Silent
from topocell.runtime.nan_guard import Place, Stateful
from topocell.runtime.rng import below, generator
from topocell.selection.decider import decider
from topocell.selection.probe import Ablation
from topocell.selection.pruning import decide, only, real_candidates, undecided, without_edges
from topocell.selection.rules import OPERATION_RULES
from topocell.spaces.cell import CellSpec
from topocell.supernet.learner import ArchBatch, Learner, weight_optimizer
from topocell.supernet.levels import bilevel
from topocell.supernet.recording import can_record, level_step


class Projection:
    """A projection in progress; `run` brings it to its end.

    Args:
        learner: the trained supernet with its architecture; both are changed. What `rules` do not decide by
            perturbation is left: operations take theirs before the first round, edges when the cell is derived.
        data: the splits that it was searched on; the test images are out of reach.
        stage: the stage that it was trained in: splits, settings of its optimizers, and how batches of α are drawn.
            Those of the weights take each image once an epoch, as in the authors' code.
        plan: the schedule.
        rules: which of operations and edges are decided here, and how many inputs a node keeps.
        batch_size: of tuning and of measuring.
        seed, device, monitor, on_nan: as for a search.

    Attributes:
        decider: makes the decisions, and counts what they took.
    """

    def __init__(
        self,
        learner: Learner,
        data: SearchData,
        stage: Stage,
        plan: ProjectionPlan,
        rules: Rules,
        *,
        batch_size: int = 64,
        seed: int = 0,
        device: torch.device | str = "cpu",
        monitor: Monitor | None = None,
        on_nan: OnNan = "stop",
    ) -> None:
        self.learner, self.stage, self.plan, self.rules = learner, stage, plan, rules
        self.seed, self.device, self.monitor = seed, torch.device(device), monitor or Silent()
        self.round = self.turn = 0
        options = stage.weights.model_copy(update={"lr": Curve(start=plan.lr)})
        learner.weights_optimizer = weight_optimizer(learner.net, options)
        learner.epsilon = plan.epsilon
        self.loop = EpochLoop(self, seed=seed, device=self.device, monitor=self.monitor, on_nan=on_nan)
        learner.see = self.loop.guard.see
        recorder = learner.execution.recorder(self.device)
        recordable = on_nan == "stop" and learner.held and can_record(learner)
        self.steps = Steps(recorder if recordable else None, self.monitor.say)
        if rules.operations != PERTURBATION:
            self._decide_operations()
        cells, edges = learner.arch.space.cells, rules.edges == PERTURBATION
        open_edges = [len(self._open(t)) for t in cells]
        self.operation_rounds = max(open_edges) if rules.operations == PERTURBATION else 0
        self.rounds = self.operation_rounds + (max(len(self._crowded(t)) for t in cells) if edges else 0)
        default = plan.tune_epochs * (self.rounds - 1) + 1 if plan.tune_epochs else 0
        self.epochs = (default if plan.epochs is None else plan.epochs) if self.rounds else 0

        def batches(split: str, stream: str, draw: Draw) -> Batches:
            name, device = f"projection {stream}", self.device
            return split_batches(data, split, batch_size, name, seed=seed, device=device, draw=draw)

        self._train = batches(stage.weights_on, "weights", "epoch")
        self._alpha = batches(stage.alpha_on, "alpha", stage.arch_draw)
        self._train.shared = self._alpha.shared = True
        self.decider = decider(
            learner,
            data,
            stage.alpha_on,
            plan,
            batch_size,
            "projection probe",
            seed=seed,
            device=self.device,
            seen=self.seen,
        )

    def run(self, state: Mapping[str, Any] | None = None) -> Learner:
        """Project from the beginning, or resume from a `state_dict`; returns the learner, with what is left live.

        Raises:
            RunError: a loss or a gradient of the tuning is not finite, and `on_nan` is `stop`.
            Interrupted: the monitor was told to stop, after the state was saved.
        """
        if state is not None:
            with self.monitor.loading():
                self.load_state_dict(state)
        while True:
            while self.round < self.rounds and self._due() <= self.loop.epoch:
                self._take_turn()
            if self.loop.epoch >= self.epochs:
                return self.learner
            self.loop.run(self.loop.epoch + 1)

    def _due(self) -> int:
        """The tuning epoch before which the next round falls."""
        return min(self.round * self.plan.tune_epochs, max(self.epochs - 1, 0))

    # Deciding -----------------------------------------------------------------------------------------------

    def _take_turn(self) -> None:
        """Decide an edge or a node of one cell type; the round is over when all types had their turn."""
        cells = self.learner.arch.space.cells
        cell_type = list(cells)[self.turn]
        one = self._decide_operation if self.round < self.operation_rounds else self._decide_node
        decision = one(cell_type)
        self.decider.complete()
        self.round, self.turn = divmod(self.round * len(cells) + self.turn + 1, len(cells))
        if decision is not None:
            record, words = decision
            counts = {name: getattr(self.decider, name) for name in ("evaluations", "image_evaluations")}
            self.monitor.metrics({"phase": "select", "epoch": self.loop.epoch, "cell": cell_type, **record, **counts})
            self.monitor.say(f"{cell_type}: {words}")
        self.monitor.checkpoint(self.state_dict, due=True)

    def _decide_operation(self, cell_type: str) -> tuple[dict[str, Any], str] | None:
        """Keep the operation of an undecided edge that is worth most, the first of equals."""
        cell, mask = self._cell(cell_type), self.learner.arch.mask(cell_type).cpu()
        if not (edges := self._open(cell_type)):
            return None
        edge = self._pick(edges, cell_type)
        candidates = torch.nonzero(self._allowed(cell_type)[edge]).flatten().tolist()
        decided = self.decider([Ablation(cell_type, edge, k) for k in candidates], 1)
        (best,) = decided.kept
        decide(self.learner, {cell_type: only(mask, edge, candidates[best])})
        names = [cell.candidates[edge][k] for k in candidates]
        place, reads = _arrow(cell, edge), dict(zip(names, decided.reads))
        record = {"decided": place, "kept": names[best], self._measure_name: reads, **decided.record}
        return record, f"edge {place} keeps {names[best]} ({self._measure_name} {decided.reads[best]:.4g})"

    def _decide_node(self, cell_type: str) -> tuple[dict[str, Any], str] | None:
        """Take from a node the edges that are worth least, the last of equals."""
        cell, mask = self._cell(cell_type), self.learner.arch.mask(cell_type).cpu()
        if not (nodes := self._crowded(cell_type)):
            return None
        node = self._pick(nodes, cell_type)
        edges = self._inputs(cell_type, node)
        decided = self.decider([Ablation(cell_type, e) for e in edges], self.rules.in_degree)
        left = [edges[i] for i in decided.kept]
        decide(self.learner, {cell_type: without_edges(mask, [e for e in edges if e not in left])})
        kept, names = (", ".join(_arrow(cell, e) for e in left)), [_arrow(cell, e) for e in edges]
        reads = dict(zip(names, decided.reads))
        record = {"decided": f"node {node}", "kept": kept, self._measure_name: reads, **decided.record}
        return record, f"node {node} keeps {kept}"

    def seen(self, figures: Figures) -> None:
        """Report a measurement of the decider, and let the state be saved."""
        self.monitor.step("select, deciding", self.round, self.rounds, figures)
        self.monitor.checkpoint(self.state_dict)

    @property
    def _measure_name(self) -> str:
        return f"{self.plan.metric} without" if self.plan.decide_by == PERTURBATION else "weight"

    def _pick(self, among: Sequence[int], cell_type: str) -> int:
        if self.plan.order == "given":
            return among[0]
        draw = generator(self.seed, "projection order", cell_type, self.round)
        return among[below(len(among), draw)]

    # What is left -------------------------------------------------------------------------------------------

    def _cell(self, cell_type: str) -> CellSpec:
        return self.learner.arch.space.cells[cell_type]

    def _allowed(self, cell_type: str) -> Tensor:
        """(E, K) bool: live candidates that may be chosen."""
        mask = self.learner.arch.mask(cell_type).cpu()
        return mask if self.rules.none else mask & real_candidates(self._cell(cell_type))

    def _open(self, cell_type: str) -> list[int]:
        """Edges with an operation to decide."""
        allowed = self._allowed(cell_type)
        return [e for e in undecided(self.learner.arch.mask(cell_type).cpu()) if bool(allowed[e].any())]

    def _inputs(self, cell_type: str, node: int) -> list[int]:
        """Edges into a node that carry something."""
        cell = self._cell(cell_type)
        live = (self.learner.arch.mask(cell_type).cpu() & real_candidates(cell)).any(1)
        return [e for e in cell.incoming(node) if live[e]]

    def _crowded(self, cell_type: str) -> list[int]:
        """Nodes with more inputs than they keep."""
        computed = self._cell(cell_type).computed
        return [node for node in computed if len(self._inputs(cell_type, node)) > self.rules.in_degree]

    def _decide_operations(self) -> None:
        """Decide all operations at once, by a rule that reads the architecture alone."""
        masks = {}
        for t in self.learner.arch.space.cells:
            chosen = OPERATION_RULES[self.rules.operations](self.learner.arch, t, self.rules, self._allowed(t))
            mask = torch.zeros_like(self.learner.arch.mask(t).cpu())
            for edge, k in enumerate(chosen):
                if k is not None:
                    mask[edge, k] = True
            masks[t] = mask
        decide(self.learner, masks)

    # Tuning: an epoch, as the loop calls it -----------------------------------------------------------------

    def begin_epoch(self) -> int:
        """Return the steps of the epoch; no value follows a curve in tuning."""
        return len(self._train)

    def stream(self) -> tuple[str | int, ...]:
        """The random stream of the steps."""
        return ("tune",)

    def train_step(self) -> Seen:
        """Update the architecture on held-out images, then the weights on training images."""
        at, updates = (self.loop.epoch, self.loop.step), []
        if self._learns_architecture():
            updates = [ArchBatch(self._alpha.batch(*at), True, self.learner.beta_optimizer is not None)]
        return level_step(self.steps, self.loop.guard, bilevel, self.learner, self._train.batch(*at), updates)

    def on_step_end(self, steps: int) -> None:
        """Report the step."""
        self.loop.progress("select, tuning", self.loop.epoch * steps + self.loop.step, self.epochs * steps)

    def on_epoch_end(self) -> bool:
        """Record the epoch."""
        self.monitor.metrics({"phase": "tune", "stage": "tuning", **self.loop.record()})
        return False

    def parts(self) -> Mapping[str, Stateful]:
        """Return what a step changes."""
        return self.learner.parts

    def place(self, step: int) -> Place:
        """Return where a step of this epoch happened, for the explanation of a fault."""
        keys = {"weights": "selection.projection.lr"} | {
            name: f"search.stages.{self.stage.name}.{name}.lr" for name in ("alpha", "beta")
        }
        streams = [(self.stage.weights_on, self._train)]
        if self._learns_architecture():
            streams.append((self.stage.alpha_on, self._alpha))
        at = self.loop.epoch, step
        batches = [(split, stream.numbers(*at), stream.batch(*at)[0]) for split, stream in streams]
        return Place(f"tuning epoch {self.loop.epoch}, step {step}", self.learner.groups(keys), batches)

    def _learns_architecture(self) -> bool:
        has_open = self.learner.beta_optimizer is not None or any(map(self._open, self.learner.arch.space.cells))
        return self.plan.train_alpha and has_open

    # State --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the projection depends on."""
        return {
            "round": self.round,
            "turn": self.turn,
            "rules": asdict(self.rules),
            "decider": self.decider.state_dict(),
            **self.learner.state_dict(),
            **self.loop.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict` of a projection of the same supernet, plan, data and seed."""
        learner = self.learner
        self.round, self.turn = places(state["round"], state["turn"])
        self.decider.load_state_dict(state["decider"])
        decide(learner, {t: state["arch"][f"mask_{t}"] for t in learner.arch.space.cells})
        learner.load_state_dict(state)
        self.loop.load_state_dict(state)


def _arrow(cell: CellSpec, edge: int) -> str:
    return f"{cell.edges[edge][0]}→{cell.edges[edge][1]}"
