"""How long a run will still take: the steps of its parts, a rough measure of their work, and times measured so far."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from topocell.config.retrain import RetrainPlan
from topocell.config.search import SearchPlan, Stage
from topocell.config.selection import PERTURBATION, Rules
from topocell.runs.setup import Setup
from topocell.runs.trials import trained_in_trials
from topocell.spaces.cell import SpaceSpec
from topocell.spaces.operations import KNOWN_OPERATIONS

#: Power of the channels that time grows with: between 1, where memory limits it, and 2, where products do.
GROWTH = 1.5
#: Steps of a network's training below which it is often left near chance (n = 2 walks with some 300 photos: 160 steps
#: ended there, 1,800 did not).
FEW_STEPS = 500
#: How much a step does besides forward and backward on training images, by the name of its level.
_LEVELS = {"weights": 1.0, "single": 1.0, "bilevel": 2.0, "mixed": 3.0, "unrolled": 5.0}


@dataclass(frozen=True)
class Part:
    """A part of a run that reports its steps.

    Attributes:
        name: what its reports begin with, up to a comma: `search 1/2 operations`, `select`, `retrain`.
        steps: how many it has at most.
        work: of a step, in passes of a pixel with one channel through one operation, forward and backward.
        stage: of a search.
        light: how many steps at the beginning, those of a warm-up, have `light_work` instead.
    """

    name: str
    steps: int
    work: float
    stage: str = ""
    light: int = 0
    light_work: float = 0.0

    def work_until(self, done: int) -> float:
        """Return the work of the first steps."""
        return min(done, self.light) * self.light_work + max(done - self.light, 0) * self.work


def parts_of(setup: Setup) -> tuple[Part, ...]:
    """Return the parts of a whole run in order. Nothing is computed: sizes alone decide."""
    recipe, dataset = setup.recipe, setup.dataset
    pixels, train = math.prod(dataset.shape[1:]), len(dataset.train)
    plan, splits = recipe.search, recipe.data.splits
    sizes = {name: share * train for name, share in splits.items()} | {"all": sum(splits.values()) * train}
    parts, live = [], _operations(setup.space)
    for number, stage in enumerate(plan.stages, start=1):
        live = min(live, _kept(stage, setup.space))
        batches = _batches(sizes[stage.weights_on], plan.batch(stage))
        light = _step(plan, stage, pixels) * live
        work, warm = light * _LEVELS.get(stage.level, 2.0), stage.warmup * batches
        name = f"search {number}/{len(plan.stages)} {stage.name}"
        parts.append(Part(name, stage.epochs * batches, work, stage.name, warm, light))
    if setup.rules.project:
        parts.append(_projection(setup, sizes, _step(plan, plan.stages[-1], pixels) * live))
    kept = sum(min(setup.rules.in_degree, cell.inputs) * cell.nodes for cell in setup.space.cells.values())
    each = kept / len(setup.space.cells)
    if (trained := trained_in_trials(setup)) is not None:
        number, short = trained
        fit, held = recipe.held_out()
        one = _retraining(short, round(sizes[fit]), round(sizes[held]), pixels, each)
        parts.append(Part("select", number * one.steps, one.work))
    if setup.ground_truth is None:
        parts += [_retraining(training, train, len(dataset.test), pixels, each) for training in recipe.trainings]
    return tuple(part for part in parts if part.steps)


def few_steps(setup: Setup) -> str | None:
    """Return a line on a retraining of so few steps that its network may learn little; None for one of more.

    A single epoch, as the smoke budget has it, is meant to be short.
    """
    plan, images = setup.recipe.retrain, len(setup.dataset.train)
    steps = plan.epochs * _batches(images, plan.batch_size)
    if setup.ground_truth is not None or "retrain" not in setup.recipe.named_trainings or plan.epochs == 1:
        return None
    if steps >= FEW_STEPS:
        return None
    size = min(plan.batch_size, 16)
    epochs = 10 * math.ceil(2 * FEW_STEPS / _batches(images, size) / 10)
    return (
        f"the network will be trained for {steps} steps only ({plan.epochs} epochs of {images} images), which can "
        f"leave it near chance; retrain.epochs={epochs} retrain.batch_size={size} makes "
        f"{epochs * _batches(images, size)}"
    )


def total_work(parts: Sequence[Part]) -> float:
    """Return the work of all steps."""
    return sum(part.work_until(part.steps) for part in parts)


def _batches(images: float, size: int) -> int:
    """Steps of an epoch, as `topocell.data.batches.Batches` has them, up to the rounding of a split."""
    full, rest = divmod(round(images), min(size, max(round(images), 1)))
    return full + (rest > 1)


def _operations(space: SpaceSpec) -> float:
    """Operations of a cell on average; those without weights count a quarter."""
    counts = [
        sum(0.25 if op in KNOWN_OPERATIONS and KNOWN_OPERATIONS[op].weightless else 1.0 for op in candidates)
        for cell in space.cells.values()
        for candidates in cell.candidates
    ]
    return sum(counts) / len(space.cells)


def _kept(stage: Stage, space: SpaceSpec) -> float:
    """Operations of a cell that a stage begins with at most."""
    if stage.shrink is None:
        return math.inf
    edges = sum(cell.n_edges for cell in space.cells.values()) / len(space.cells)
    return edges * (stage.shrink if isinstance(stage.shrink, int) else 1)


def _step(plan: SearchPlan, stage: Stage, pixels: int) -> float:
    """Work of one operation in all layers, for the images of a step."""
    size = plan.size(stage)
    return plan.batch(stage) * _seen(pixels, plan.stem) * size["channels"] ** GROWTH * size["layers"] / size["partial"]


def _seen(pixels: int, stem: str) -> float:
    """Pixels of an image that the first cell sees."""
    return pixels / 64 if stem == "imagenet" else pixels


def _projection(setup: Setup, sizes: dict[str, float], step: float) -> Part:
    """A selection by perturbation: tuning steps, and measurements, each a third of a step, as steps."""
    plan, search, rules = setup.recipe.selection.projection, setup.recipe.search, setup.rules
    stage, cells = search.stages[-1], setup.space.cells.values()
    rounds = _rounds(setup.space, rules)
    tuning = (plan.epochs or plan.tune_epochs * rounds) * _batches(sizes[stage.weights_on], search.batch(stage))
    batches = _batches(sizes[stage.alpha_on], search.batch(stage))
    measured = sum(len(candidates) for cell in cells for candidates in cell.candidates)
    if plan.decide_by != PERTURBATION:
        measured = 0
    measuring = measured * min(plan.batches or batches, batches) // 3
    return Part("select", tuning + measuring, step)


def _rounds(space: SpaceSpec, rules: Rules) -> int:
    cells = space.cells.values()
    rounds = max(cell.n_edges for cell in cells) if rules.operations == PERTURBATION else 0
    return rounds + (max(cell.nodes for cell in cells) if rules.edges == PERTURBATION else 0)


def _retraining(plan: RetrainPlan, images: int, test_images: int, pixels: int, operations: float) -> Part:
    steps = len(plan.seeds) * plan.epochs * _batches(images, plan.batch_size)
    work = plan.batch_size * _seen(pixels, plan.stem) * plan.channels**GROWTH * plan.layers * operations
    return Part("retrain", steps, work * (1 + test_images / (3 * images * plan.test_every)))


class Outlook:
    """Seconds left, from reports of steps.

    The part in progress is extended from its own pace, those to come from the pace of all parts so far in proportion
    to their work. Times are those of this process; the first step of a part, which builds and compiles, does not count.

    Args:
        parts: in order.
        clock: in seconds.

    Attributes:
        whole: whether the parts that follow the search, or the selection, will follow in this command.
    """

    def __init__(self, parts: Sequence[Part], clock: Callable[[], float] = time.monotonic) -> None:
        self._parts, self._clock = tuple(parts), clock
        self._since: dict[str, tuple[float, int]] = {}
        self._measured: dict[str, tuple[float, float]] = {}
        self.whole = False

    def left(self, phase: str, done: int, total: int) -> float | None:
        """Return the seconds left when `done` of `total` steps of a phase are taken; None as long as none is known.

        Args:
            phase: as for `topocell.runtime.hooks.Monitor.step`.
            done, total: of the phase.
        """
        now = self._clock()
        began, first = self._since.setdefault(phase, (now, done))
        if done <= first:
            return None
        taken, name = max(now - began, 0.0), phase.partition(",")[0]
        part = next((part for part in self._parts if part.name == name and name != "select"), None)
        if part is None:
            part = Part(name, total, 1.0)  # of a pace of its own, like the rounds of a selection, which are no steps
        else:
            self._measured[name] = taken, part.work_until(done) - part.work_until(first)
        here = taken / (part.work_until(done) - part.work_until(first))
        left = here * (part.work_until(total) - part.work_until(done))
        ahead = self._ahead(name)
        if not ahead:
            return left
        seconds = sum(each for each, _ in self._measured.values())
        work = sum(each for _, each in self._measured.values())
        return left + total_work(ahead) * seconds / work if work else None

    def _ahead(self, name: str) -> list[Part]:
        """The parts after one; of two trainings the second is in progress, the first has its own directory."""
        places = [place for place, part in enumerate(self._parts) if part.name == name]
        after = self._parts[places[-1] + 1 :] if places else ()
        return [part for part in after if self.whole or _kind(part.name) == _kind(name)]


def _kind(name: str) -> str:
    return name.partition(" ")[0]
