"""Mechanisms: what a method adds to a stage of a search, as hooks that the search calls."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from topocell import registry
from topocell.config import mechanisms as options
from topocell.config.search import SearchPlan, Stage
from topocell.config.selection import Rules
from topocell.config.values import Curve
from topocell.data.splits import SearchData
from topocell.errors import RunError
from topocell.registry import Registry
from topocell.relaxation import candidate_table
from topocell.runtime.epoch_loop import EpochLoop
from topocell.runtime.hooks import Monitor
from topocell.searching.perturbation import PERTURBATIONS
from topocell.searching.streams import Streams
from topocell.selection.decider import decider
from topocell.selection.drawing import CellSpace
from topocell.selection.progressive import Progress
from topocell.spaces.cell import CellSpec, SpaceSpec
from topocell.spaces.operations import KNOWN_OPERATIONS
from topocell.supernet.arch_state import ArchState
from topocell.supernet.learner import Batch, Learner
from topocell.supernet.weights import ArchWeights


class Running(Protocol):
    """The search that a mechanism is part of: what it may read of `topocell.searching.loop.Search`.

    `learner` has the supernet, the architecture and their optimizers; `loop.epoch` and `loop.step` are 0-based.
    """

    learner: Learner
    streams: Streams
    loop: EpochLoop
    space: SpaceSpec
    plan: SearchPlan
    data: SearchData
    seed: int
    device: torch.device
    monitor: Monitor

    rules: Rules

    @property
    def stage(self) -> Stage:
        """The stage in progress."""


class Mechanism:
    """Base of the mechanisms of a method; a user's own overrides some of these hooks, which do nothing here.

    Its keyword arguments are the options that a recipe gives it. It is built afresh for every stage. Draws in a step
    are reproducible: torch's generator is seeded before each.
    """

    #: Whether steps can be recorded on a GPU with it: what it changes within an epoch is in tensors, in place.
    recordable = False

    def on_stage_start(self, search: Running) -> None:
        """Prepare for the stage, or for what is left of it: the learner is complete."""

    def on_epoch_start(self, search: Running) -> None:
        """Set what follows a schedule, after the learning rates; called again where an epoch is resumed."""

    def on_step_end(self, search: Running) -> None:
        """Act on a step that has just been taken."""

    def on_epoch_end(self, search: Running) -> Mapping[str, Any]:
        """Change the supernet before it is evaluated; return its additions to the record of the epoch."""
        return {}

    def reason_to_stop(self, search: Running, record: Mapping[str, Any]) -> str | None:
        """Return why the stage ends with this epoch, in words, or None; asked where α and β were updated.

        `record` is the line of the epoch in metrics.jsonl.
        """
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed search needs: plain values and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, after `on_stage_start`."""


class Attention(Mechanism):
    """Adds constants to logits after each update of α (eDARTS).

    Args:
        constants: operation → constant, on every edge that offers the operation.
    """

    recordable = True

    def __init__(self, constants: Mapping[str, float]) -> None:
        self._constants = constants

    def on_stage_start(self, search: Running) -> None:
        """Let the learner add the table (E, K) of each cell type to its logits."""
        tables = {
            name: torch.tensor(candidate_table(cell, self._constants, 0.0), dtype=torch.float32, device=search.device)
            for name, cell in search.space.cells.items()
        }

        def add(arch: ArchState) -> None:
            for name, alpha in arch.alpha.items():
                alpha.add_(tables[name])

        search.learner.after_alpha.append(add)


class AuxiliarySkip(Mechanism):
    """Adds a weight to skip connections in the supernet (DARTS−). `weight` is a curve over the epochs."""

    recordable = True

    def __init__(self, weight: Curve) -> None:
        self._weight = weight

    def on_epoch_start(self, search: Running) -> None:
        """Set the weight of the epoch."""
        search.learner.arch.auxiliary_skip = self._weight.value(search.loop.epoch, search.stage.epochs)


class SkipDropout(Mechanism):
    """Drops elements of what skip connections put out (P-DARTS). `rate` is a curve over the epochs."""

    recordable = True

    def __init__(self, rate: Curve) -> None:
        self._rate = rate

    def on_epoch_start(self, search: Running) -> None:
        """Set the rate of the epoch."""
        search.learner.net.skip_dropout = self._rate.value(search.loop.epoch, search.stage.epochs)


class DropPath(Mechanism):
    """Drops edges for single images in training (RobustDARTS, SNAS). `rate` is a curve over the epochs."""

    recordable = True

    def __init__(self, rate: Curve) -> None:
        self._rate = rate

    def on_epoch_start(self, search: Running) -> None:
        """Set the rate of the epoch."""
        search.learner.net.drop_path = self._rate.value(search.loop.epoch, search.stage.epochs)


class Cutout(Mechanism):
    """Blanks a square of the images that are learned from (RobustDARTS).

    Args:
        probability: that an image has one, over the epochs.
        size: side of the square in pixels.
    """

    recordable = True

    def __init__(self, probability: Curve, size: int) -> None:
        self._probability, self._size = probability, size

    def on_epoch_start(self, search: Running) -> None:
        """Set the probability of the epoch."""
        search.streams.cut_out(self._size, self._probability.value(search.loop.epoch, search.stage.epochs))


class Perturbation(Mechanism):
    """Trains the weights under perturbed operation weights (SDARTS).

    Args:
        kind: a row of `PERTURBATIONS`.
        epsilon: size of the perturbation over the epochs.
    """

    recordable = True

    def __init__(self, kind: str, epsilon: Curve) -> None:
        self._kind, self._epsilon = kind, epsilon

    def on_stage_start(self, search: Running) -> None:
        """Let the weights' step see perturbed weights."""
        search.learner.perturb = PERTURBATIONS[self._kind]

    def on_epoch_start(self, search: Running) -> None:
        """Set the size of the epoch."""
        search.learner.epsilon = self._epsilon.value(search.loop.epoch, search.stage.epochs)


class Progressive(Mechanism):
    """Decides one edge of each cell type after another (SGAS). Options: `topocell.config.mechanisms.Progressive`."""

    recordable = True

    progress: Progress

    def __init__(self, **given: Any) -> None:
        self._plan = options.Progressive(**given)

    def on_stage_start(self, search: Running) -> None:
        """Prepare the decisions of the stage; the search may save its state within one."""
        plan, stage, seed = self._plan, search.stage, search.seed
        chooser = decider(
            search.learner,
            search.data,
            stage.alpha_on,
            plan,
            search.plan.batch(stage),
            f"{stage.name} probe",
            seed=seed,
            device=search.device,
            seen=lambda figures: search.loop.save(),
        )
        self.progress = Progress(plan.criterion, plan.in_degree, plan.history, chooser)

    def on_epoch_start(self, search: Running) -> None:
        """Enlarge the batches as the decisions of earlier epochs allow."""
        search.streams.resize(self._plan.batch_size(search.plan.batch(search.stage), search.loop.epoch))

    def on_epoch_end(self, search: Running) -> Mapping[str, Any]:
        """Decide where the epoch is one of decisions; all that is left after the last."""
        epoch = search.loop.epoch
        made = self.progress.after_epoch(self._plan.decides_after(epoch), epoch + 1 == search.stage.epochs)
        for decision in made:
            search.monitor.say(decision.words())
        return {"decisions": [decision.record() for decision in made]}

    def state_dict(self) -> dict[str, Any]:
        """The decisions in progress, and the distributions of the last epochs."""
        return self.progress.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume the decisions."""
        self.progress.load_state_dict(state)


def ranking(arch: ArchState, cell_type: str) -> Tensor:
    """(E, K) long: the candidates of every edge from the most to the least likely; those without weights come last.

    Only operations with weights are ranked (DARTS+: "the ranking of α for learnable operations").
    """
    cell = arch.space.cells[cell_type]
    learnable = torch.from_numpy(
        candidate_table(cell, {name: False for name, row in KNOWN_OPERATIONS.items() if row.weightless}, True)
    )
    weights = arch.strengths(cell_type).masked_fill(~(arch.mask(cell_type).cpu() & learnable), -1.0)
    return weights.sort(dim=1, descending=True, stable=True).indices


def has_ranking(cell: CellSpec) -> bool:
    """Return whether some edge has two candidates with weights, which can change places."""
    return any(sum(not KNOWN_OPERATIONS[op].weightless for op in candidates) > 1 for candidates in cell.candidates)


class EarlyStop(Mechanism):
    """Ends a stage early, by the two criteria of DARTS+ (Liang et al., 2019), with which eDARTS compares its search.

    Args:
        skips: end when the derived cell of stride 1 has so many skip connections (DARTS+, criterion 1: 2), or never.
        stable: end when the ranking of the operations with weights was the same on every edge for so many epochs
            (criterion 2: 10), or never.
        first: the first 0-based epoch after which it may end.
    """

    recordable = True

    def __init__(self, skips: int | None = None, stable: int | None = None, first: int = 0) -> None:
        self.skips, self.stable, self.first = skips, stable, first
        self._rankings: dict[str, Tensor] = {}
        self._unchanged = 0

    def reason_to_stop(self, search: Running, record: Mapping[str, Any]) -> str | None:
        """Return which criterion is met after this epoch, if one is."""
        return self.after_epoch(search.loop.epoch, search.learner.arch, record["operations"])

    def after_epoch(self, epoch: int, arch: ArchState, operations: Mapping[str, Mapping[str, int]]) -> str | None:
        """Return why to end after this 0-based epoch, or None; `operations` counts those of the derived cells."""
        now = {name: ranking(arch, name) for name in arch.space.cells}
        same = bool(self._rankings) and all(torch.equal(now[name], before) for name, before in self._rankings.items())
        self._rankings, self._unchanged = now, self._unchanged + 1 if same else 0
        if epoch < self.first:
            return None
        for name, counts in operations.items():
            found = counts.get("skip_connect", 0)
            if self.skips is not None and arch.space.cells[name].stride == 1 and found >= self.skips:
                return f"the {name} cell has {found} skip connections"
        if self.stable is not None and self._unchanged >= self.stable:
            return f"the ranking of operations has not changed for {self._unchanged} epochs"
        return None

    def state_dict(self) -> dict[str, Any]:
        """The last ranking, (E, K) per cell type, and for how many epochs it has stood."""
        return {"rankings": dict(self._rankings), "unchanged": self._unchanged}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The state of `state_dict`."""
        self._rankings = {name: order.cpu() for name, order in state["rankings"].items()}
        self._unchanged = state["unchanged"]


class RandomCell(Mechanism):
    """Trains the weights of one cell at each step, drawn uniformly (Li and Talwalkar 2019, RandomNAS).

    Cells are those that the rules of the selection may derive, see `topocell.selection.drawing.CellSpace`: with
    `random` for operations and edges any cell of the space. Only the operations of the cell run.
    """

    def on_stage_start(self, search: Running) -> None:
        """Let the weights' step see a cell that is drawn anew."""
        arch, rules = search.learner.arch, search.rules
        space = CellSpace.of(arch, rules)

        def draw(learner: Learner, weights: dict[str, ArchWeights], batch: Batch) -> dict[str, ArchWeights]:
            seed = int(torch.randint(2**62, ()))  # of the stream of the step
            cells = space.random(torch.Generator().manual_seed(seed))
            if learner.net.masked:  # weights on the host say which operations to run; nothing is masked
                weights = {t: ArchWeights(*(torch.empty(part.shape) for part in w)) for t, w in weights.items()}
            return space.weights(cells, weights)

        search.learner.perturb = draw


#: By name, as recipes have them; those that come with topocell in the order of `topocell.config.mechanisms.Mechanisms`.
MECHANISMS = Registry[type[Mechanism]](
    "mechanism",
    {
        "progressive": Progressive,
        "perturbation": Perturbation,
        "attention": Attention,
        "auxiliary_skip": AuxiliarySkip,
        "skip_dropout": SkipDropout,
        "drop_path": DropPath,
        "cutout": Cutout,
        "early_stop": EarlyStop,
        "random_cell": RandomCell,
    },
    Mechanism,
)


def mechanisms_of(stage: Stage) -> dict[str, Mechanism]:
    """Build the mechanisms of a stage, in the order in which their hooks are called; a user's own come last.

    Raises:
        RecipeError: a mechanism of a user's own does not take the options given.
    """
    built: dict[str, Mechanism] = {name: MECHANISMS[name](**dict(own)) for name, own in stage.mechanisms.built_in}
    for name, own in (stage.mechanisms.model_extra or {}).items():
        if own is not None:
            built[name] = registry.build("mechanism", MECHANISMS, name, **own)
    return built


def with_records(
    mechanisms: Mapping[str, Mechanism], search: Running, evaluate: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Let mechanisms act at the end of an epoch, then evaluate it; return the record of the epoch with what they add.

    Raises:
        RunError: a mechanism adds a key that the record has already.
    """
    own = {name: mechanism.on_epoch_end(search) or {} for name, mechanism in mechanisms.items()}
    record = evaluate()
    added: dict[str, Any] = {}
    for name, entries in own.items():
        if taken := entries.keys() & (record.keys() | added.keys() | {"stopped"}):
            raise RunError(
                f"a mechanism adds keys of its own to the record of an epoch, but {name} adds {min(taken)!r}; rename it"
            )
        added |= entries
    return added | record
