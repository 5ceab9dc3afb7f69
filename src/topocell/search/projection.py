"""Selection by perturbation (DARTS-PT): operations and edges are kept for what the supernet loses without them.

On a trained supernet, round by round: an undecided edge of each cell type loses one candidate at a time, without
renormalisation; the candidate that is missed most is kept and the others leave the supernet, which is then tuned for
a few epochs. When all edges are decided, nodes with too many inputs lose theirs in the same way (Wang et al.,
Rethinking Architecture Selection in Differentiable NAS, 2021, Algorithms 1 and 2).

The state can be saved after any measurement and any step of tuning. All draws are functions of (seed, purpose,
decision, epoch, step).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from topocell.checkpoint import places
from topocell.data import SearchData
from topocell.guard import Guard, OnNan, Place
from topocell.monitor import Figures, Monitor, Silent
from topocell.rng import derive as derive_seed
from topocell.rng import generator
from topocell.running import Running
from topocell.search.build import decider, sgd, split_batches
from topocell.search.damage import Cut
from topocell.search.decisions import decide, only, real_candidates, undecided, without_edges
from topocell.search.levels import ArchBatch, Learner, bilevel
from topocell.search.plan import Curve, Deciding, NonNegative, Positive, Stage
from topocell.search.selection import OPERATION_RULES, PERTURBATION, Rules
from topocell.spaces.cell import CellSpec


class ProjectionPlan(Deciding):
    """How a supernet is projected. The defaults are the published schedule.

    Round i of n falls before tuning epoch i · tune_epochs. The supernet is tuned for tune_epochs · (n − 1) + 1 epochs,
    the last one after the last round, or for `epochs` where that is given; rounds that find no epoch left fall
    before the last one. DARTS: 14 rounds of operations and 3 of edges, 81 epochs; NAS-Bench-201: 6 rounds, and
    epochs = 25 in the authors' code, so that the last round comes before epoch 24.

    Attributes:
        order: the next edge or node is drawn at random, or taken in the order of the cell.
        tune_epochs: from one round to the next.
        epochs: of tuning in all.
        lr: constant learning rate of the weights while tuning; momentum, weight decay and clip stay, momentum
            starts afresh. (The authors create a cosine schedule and never step it.)
        train_alpha: tuning moves the architecture as well, first order on the held-out split; not for fixed α.
        epsilon: size of the perturbation while tuning, where the search perturbs (SDARTS-RS+PT: 0.3).
    """

    order: Literal["random", "given"] = "random"
    tune_epochs: int = Field(5, ge=0)
    epochs: int | None = Field(None, ge=0)
    lr: Positive = 0.0025
    train_alpha: bool = True
    epsilon: NonNegative = 0.3


class Projection:
    """A projection in progress; `run` brings it to its end.

    Args:
        learner: the trained supernet with its architecture; both are changed. What `rules` do not decide by
            perturbation is left: operations take theirs before the first round, edges when the cell is derived.
        data: the splits that it was searched on; the test images are out of reach.
        stage: the stage that it was trained in: splits, and settings of its optimizers.
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
        self.round = self.turn = self.epoch = self.step = 0
        options = stage.weights.model_copy(update={"lr": Curve(start=plan.lr)})
        learner.weights = sgd(learner.net, options)
        learner.epsilon = plan.epsilon
        self.guard = Guard(on_nan, self.device, lambda: learner.parts, self._place, self.monitor.say)
        learner.see = self.guard.see
        if rules.operations != PERTURBATION:
            self._settle_operations()
        self.running = Running(self.device)
        cells, edges = learner.arch.space.cells, rules.edges == PERTURBATION
        open_edges = [len(self._open(t)) for t in cells]
        self.operation_rounds = max(open_edges) if rules.operations == PERTURBATION else 0
        self.rounds = self.operation_rounds + (max(len(self._crowded(t)) for t in cells) if edges else 0)
        default = plan.tune_epochs * (self.rounds - 1) + 1 if plan.tune_epochs else 0
        self.epochs = (default if plan.epochs is None else plan.epochs) if self.rounds else 0

        def batches(split: str, purpose: str) -> Any:
            return split_batches(data, split, batch_size, f"projection {purpose}", seed=seed, device=self.device)

        self._train, self._alpha = batches(stage.weights_on, "weights"), batches(stage.alpha_on, "alpha")
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
        """Project from the beginning, or go on from a `state_dict`; returns the learner, with what is left live.

        Raises:
            RunError: a loss or a gradient of the tuning is not finite, and `on_nan` does not say to go on.
            Interrupted: the monitor was told to stop, after the state was saved.
        """
        if state is not None:
            with self.monitor.loading():
                self.load_state_dict(state)
        while True:
            while self.round < self.rounds and self._due() <= self.epoch:
                self._take_turn()
            if self.epoch >= self.epochs:
                return self.learner
            self._tune()

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
        self.decider.settle()
        self.round, self.turn = divmod(self.round * len(cells) + self.turn + 1, len(cells))
        if decision is not None:
            record, words = decision
            counts = {name: getattr(self.decider, name) for name in ("evaluations", "image_evaluations")}
            self.monitor.metrics({"phase": "select", "epoch": self.epoch, "cell": cell_type, **record, **counts})
            self.monitor.say(f"{cell_type}: {words}")
        self.monitor.checkpoint(self.state_dict, due=True)

    def _decide_operation(self, cell_type: str) -> tuple[dict[str, Any], str] | None:
        """Keep the operation of an undecided edge that is worth most, the first of equals."""
        cell, mask = self._cell(cell_type), self.learner.arch.mask(cell_type).cpu()
        if not (edges := self._open(cell_type)):
            return None
        edge = self._pick(edges, cell_type)
        candidates = torch.nonzero(self._allowed(cell_type)[edge]).flatten().tolist()
        verdict = self.decider([Cut(cell_type, edge, k) for k in candidates], 1)
        (best,) = verdict.kept
        decide(self.learner, {cell_type: only(mask, edge, candidates[best])})
        names = [cell.candidates[edge][k] for k in candidates]
        place, reads = _arrow(cell, edge), dict(zip(names, verdict.reads))
        record = {"decided": place, "kept": names[best], self._measure_name: reads, **verdict.record}
        return record, f"edge {place} keeps {names[best]} ({self._measure_name} {verdict.reads[best]:.4g})"

    def _decide_node(self, cell_type: str) -> tuple[dict[str, Any], str] | None:
        """Take from a node the edges that are worth least, the last of equals."""
        cell, mask = self._cell(cell_type), self.learner.arch.mask(cell_type).cpu()
        if not (nodes := self._crowded(cell_type)):
            return None
        node = self._pick(nodes, cell_type)
        edges = self._inputs(cell_type, node)
        verdict = self.decider([Cut(cell_type, e) for e in edges], self.rules.in_degree)
        left = [edges[i] for i in verdict.kept]
        decide(self.learner, {cell_type: without_edges(mask, [e for e in edges if e not in left])})
        kept, names = (", ".join(_arrow(cell, e) for e in left)), [_arrow(cell, e) for e in edges]
        reads = dict(zip(names, verdict.reads))
        record = {"decided": f"node {node}", "kept": kept, self._measure_name: reads, **verdict.record}
        return record, f"node {node} keeps {kept}"

    def seen(self, figures: Figures) -> None:
        """What a decider calls after a measurement."""
        self.monitor.step("select, deciding", self.round, self.rounds, figures)
        self.monitor.checkpoint(self.state_dict)

    @property
    def _measure_name(self) -> str:
        return f"{self.plan.metric} without" if self.plan.decide_by == PERTURBATION else "weight"

    def _pick(self, among: Sequence[int], cell_type: str) -> int:
        if self.plan.order == "given":
            return among[0]
        draw = generator(self.seed, "projection order", cell_type, self.round)
        return among[int(torch.randint(len(among), (), generator=draw))]

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

    def _settle_operations(self) -> None:
        """Operations by a rule that looks at the architecture alone, all at once."""
        masks = {}
        for t in self.learner.arch.space.cells:
            chosen = OPERATION_RULES[self.rules.operations](self.learner.arch, t, self.rules, self._allowed(t))
            mask = torch.zeros_like(self.learner.arch.mask(t).cpu())
            for edge, k in enumerate(chosen):
                if k is not None:
                    mask[edge, k] = True
            masks[t] = mask
        decide(self.learner, masks)

    # Tuning -------------------------------------------------------------------------------------------------

    def _tune(self) -> None:
        """One epoch: at each step the architecture on held-out images, then the weights on training images."""
        learner, steps = self.learner, len(self._train)
        if self.step == 0:
            self.guard.begin_epoch()
        while self.step < steps:
            torch.manual_seed(derive_seed(self.seed, "tune", self.epoch, self.step))
            updates = []
            if self._learns_architecture():
                updates = [ArchBatch(self._alpha.batch(self.epoch, self.step), True, learner.beta is not None)]
            act = partial(bilevel, learner, self._train.batch(self.epoch, self.step), updates)
            seen = self.guard.step(self.step, steps, act)
            self.step += 1
            if seen is not None:
                self.running.add(seen.loss, seen.correct, seen.images)
            self.monitor.step(
                "select, tuning", self.epoch * steps + self.step, self.epochs * steps, self.running.figures
            )
            if self.step < steps:
                self.monitor.checkpoint(self._sound_state)
        self.guard.settle()
        figures = self.running.figures()
        tuned = {"train_loss": figures["loss"], "train_accuracy": figures["accuracy"]}
        left_out = {"left_out": self.guard.left_out} if self.guard.left_out else {}
        self.monitor.metrics({"phase": "tune", "stage": "tuning", "epoch": self.epoch, **tuned, **left_out})
        self.epoch, self.step = self.epoch + 1, 0
        self.running.clear()
        self.guard.end_epoch()
        self.monitor.checkpoint(self._sound_state, due=True)

    def _place(self, step: int) -> Place:
        """Where a step of this epoch happened, for the explanation of a fault."""
        keys = {"weights": "selection.projection.lr"} | {
            name: f"search.stages.{self.stage.name}.{name}.lr" for name in ("alpha", "beta")
        }
        streams = [(self.stage.weights_on, self._train)]
        if self._learns_architecture():
            streams.append((self.stage.alpha_on, self._alpha))
        at = self.epoch, step
        batches = [(split, stream.numbers(*at), stream.batch(*at)[0]) for split, stream in streams]
        return Place(f"tuning epoch {self.epoch}, step {step}", self.learner.groups(keys), batches)

    def _learns_architecture(self) -> bool:
        has_open = self.learner.beta is not None or any(map(self._open, self.learner.arch.space.cells))
        return self.plan.train_alpha and has_open

    # State --------------------------------------------------------------------------------------------------

    def _sound_state(self) -> dict[str, Any]:
        """`state_dict`, to be saved. Raises RunError where something in it is not finite."""
        self.guard.settle()
        return self.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the projection depends on."""
        return {
            "at": [self.round, self.turn, self.epoch, self.step],
            "rules": asdict(self.rules),
            "decider": self.decider.state_dict(),
            **self.learner.state_dict(),
            "running": self.running.state_dict(),
            "guard": self.guard.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the projection that `state_dict` was taken from (same supernet, plan, data and seed)."""
        learner = self.learner
        self.round, self.turn, self.epoch, self.step = places(*state["at"])
        self.decider.load_state_dict(state["decider"])
        decide(learner, {t: state["arch"][f"mask_{t}"] for t in learner.arch.space.cells})
        learner.load_state_dict(state)
        self.running.load_state_dict(state["running"])
        self.guard.load_state_dict(state.get("guard"))


def _arrow(cell: CellSpec, edge: int) -> str:
    return f"{cell.edges[edge][0]}→{cell.edges[edge][1]}"
