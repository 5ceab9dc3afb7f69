"""The parts of a run, each with its steps, its time and its memory."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from topocell.config.retrain import RetrainPlan
from topocell.config.search import SearchPlan, Stage
from topocell.config.selection import PERTURBATION, ProjectionPlan, Rules
from topocell.data.batches import Images
from topocell.data.splits import Dataset, SearchData, split_batches
from topocell.genotype.genotype import CellGenotype, Genotype
from topocell.networks.retraining import Retraining
from topocell.reporting.tables import format_seconds
from topocell.runs.estimate.memory import Knob, Memory, probing, smaller
from topocell.runs.estimate.probe import (
    Stopwatch,
    measure_call,
    measure_memory,
    measure_quickly,
    measure_time,
)
from topocell.runtime.precision import PLAIN, Execution
from topocell.searching.loop import Search
from topocell.selection.probe import Probe
from topocell.selection.projection import Projection
from topocell.selection.pruning import real_candidates, undecided
from topocell.selection.rules import derive
from topocell.spaces.cell import SpaceSpec
from topocell.spaces.costs import NetworkCosts
from topocell.supernet.arch_state import ArchState
from topocell.supernet.learner import ArchBatch, Learner
from topocell.supernet.levels import bilevel

#: What makes any search need less memory.
LOW = {"memory": "low"}

#: Receives the name of a part before it is measured; where it returns False the part is left out.
Begin = Callable[[str], object]


def unseen(name: str) -> None:
    """Nobody is told."""


@dataclass(frozen=True)
class Part:
    """One stage of the search, the selection, or the retraining.

    Attributes:
        steps: how many it has; of all seeds in retraining.
        step_seconds: of a step of its usual kind.
        seconds: all of it.
        parameters: of the network that is trained; None where none is built.
        seeds: how many trainings it has.
        memory: None where it needs no more than the search.
        knobs: what could be smaller in the recipe, the batch size first.
        switches: settings of the recipe that make it fit, if it does not.
    """

    name: str
    steps: int
    step_seconds: float
    seconds: float
    memory: Memory | None = None
    knobs: tuple[Knob, ...] = ()
    switches: tuple[str, ...] = ()
    parameters: int | None = None
    seeds: int = 1


@dataclass(frozen=True)
class Estimate:
    """The parts of a run on a device with `free` bytes of memory (None: unknown)."""

    device: str
    free: int | None
    parts: tuple[Part, ...]

    @property
    def seconds(self) -> float:
        """The whole run, without loading its data and without its report."""
        return sum(part.seconds for part in self.parts)

    def slowest(self) -> str:
        """A sentence that says which part takes longest, and how long each of its seeds."""
        part = max(self.parts, key=lambda part: part.seconds)
        each = f", {format_seconds(part.seconds / part.seeds)} for each of {part.seeds} seeds" if part.seeds > 1 else ""
        return f"longest: {part.name}, {100 * part.seconds / max(self.seconds, 1e-9):.0f} % of the time{each}"

    def advice(self) -> list[str]:
        """A sentence for each part that will not fit, with the largest settings that would.

        Such a part was timed at a quarter of its batch or less, and its time extended in proportion.
        """
        return [
            smaller(part.name, part.memory, part.knobs, part.switches, self.free, self.device)
            for part in self.parts
            if part.memory is not None and self.free is not None and not part.memory.fits(self.free)
        ]


# The search


def estimate_search(
    plan: SearchPlan,
    space: SpaceSpec,
    data: SearchData,
    rules: Rules,
    projection: ProjectionPlan,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    execution: Execution = PLAIN,
    free: int | None = None,
    begin: Begin = unseen,
    work: Mapping[str, float] | None = None,
    costs: NetworkCosts | None = None,
) -> tuple[list[Part], Genotype]:
    """The stages and the selection, and a cell such as the search may find; arguments as for `Search`.

    `begin` is called with the name of each part before it is measured. With `work`, the work of a step of each stage,
    times are measured quickly, memory is not, and the selection is left out.

    Raises:
        RunError: memory runs out in a probe.
    """
    device, parts = torch.device(device), []
    images = 2 * sum(split.nbytes for split in data.splits.values())
    options: dict[str, Any] = {"seed": seed, "device": device, "costs": costs}

    def searched(of: SearchPlan, index: int, batch: int, steps: int, stopwatch: Stopwatch) -> Search:
        few, short = _first(data, of.stages[index], batch * steps), _shortened(of, index, batch)
        search = Search(short, space, few, rules=rules, monitor=stopwatch, execution=execution, **options)
        search.run()
        stopwatch.parameters = sum(parameter.numel() for parameter in search.learner.net.parameters())
        return search

    for index, stage in enumerate(plan.stages):
        if stage.epochs == 0:
            continue

        name = f"search stage {stage.name}"
        if begin(name) is False:
            continue
        probe, lean = (partial(searched, of, index) for of in (plan, plan.model_copy(update=LOW)))
        batch = min(plan.batch(stage), len(data.get(stage.weights_on)))
        once = min(plan.micro_batch or batch, batch)
        sizes = once, images + 2 * _waiting(data.shape, batch - once), device, free
        with probing(name, device, stage_knobs(plan, stage)):
            memory = None if work is not None else measure_memory(probe, *sizes)
            stopwatch, factor = (
                measure_quickly(probe, batch, (work or {})[stage.name], device)
                if memory is None
                else measure_time(probe, memory, device, free, batch)
            )
            part = _stage_part(plan, stage, data, memory, stopwatch, factor)
            if memory is not None and not memory.fits(free) and measure_memory(lean, *sizes).fits(free):
                part = replace(part, switches=tuple(f"search.{key}={value}" for key, value in LOW.items()))
        parts.append(part)
    if work is not None:
        return parts, typical_cell(plan.stages[-1], space, rules)
    memories = [part.memory for part in parts if part.memory is not None]
    last = len(plan.stages) - 1
    begin("selection")
    with probing("selection", device, stage_knobs(plan, plan.stages[last])):
        if rules.project:
            if not memories:
                size = min(plan.batch(plan.stages[last]), len(data.get(plan.stages[last].weights_on)))
                size = min(plan.micro_batch or size, size)
                memories = [measure_memory(partial(searched, plan, last), size, images, device, free)]
            tried = [memory.trial(free) for memory in memories if memory.trial(free) < memory.batch]
            batch = min(tried, default=plan.batch(plan.stages[last]))
            search = searched(plan, last, batch, 1, Stopwatch(device))
            parts.append(_projection_part(search, plan, data, projection, rules, batch))
        else:
            search = searched(plan, last, 2, 1, Stopwatch(device))
            seconds = measure_call(lambda: derive(search.learner.arch, rules), device)
            parts.append(Part("selection", 0, 0.0, seconds))
    return parts, _typical(space, derive(search.learner.arch, rules).genotype(space))


def _shortened(plan: SearchPlan, index: int, batch: int) -> SearchPlan:
    """The plan up to a stage, which has an epoch of each of its kinds; the stages before it only hand on.

    Logits are drawn widely, so that what a stage before it keeps is a mixture.
    """
    stage = plan.stages[index]
    warm, learning = _kinds(stage)
    before = [s.model_copy(update={"epochs": 0, "warmup": 0, "init": 1.0}) for s in plan.stages[:index]]
    short = {"epochs": warm + learning, "warmup": warm if learning else 0, "arch_every": "step", "init": 1.0}
    stages = (*before, stage.model_copy(update=short | {"batch_size": batch}))
    return plan.model_copy(update={"stages": stages, "batch_size": batch, "evaluation_batches": 1})


def _kinds(stage: Stage) -> tuple[bool, bool]:
    """Return whether a stage has steps of the weights only, and steps of its level."""
    learning = stage.level != "weights" and stage.epochs > stage.warmup
    return not learning or stage.warmup > 0 or stage.arch_every == "epoch", learning


def _waiting(shape: tuple[int, int, int], images: int) -> int:
    """Bytes of the images (C, H, W) of a batch that are ready, while others are computed."""
    return 4 * math.prod(shape) * images


def _first(data: SearchData, stage: Stage, images: int) -> SearchData:
    """The first images of every split, so many that those of the weights' step are `images`."""
    each = -(-images // len(data.splits)) if stage.weights_on == "all" else images
    splits = {name: _head(split, each) for name, split in data.splits.items()}
    return replace(data, splits=splits, order={name: data.order[name][: len(s)] for name, s in splits.items()})


def _head(images: Images, count: int) -> Images:
    return images.subset(torch.arange(min(max(count, 2), len(images))))


def _stage_part(
    plan: SearchPlan, stage: Stage, data: SearchData, memory: Memory | None, stopwatch: Stopwatch, factor: float
) -> Part:
    of_weights, of_level = factor * stopwatch.usual(0), factor * stopwatch.usual(-1)
    steps = _steps(len(data.get(stage.weights_on)), plan.batch(stage))
    learning = stage.epochs - stage.warmup if _kinds(stage)[1] else 0
    total, of_its_level = stage.epochs * steps, learning * (1 if stage.arch_every == "epoch" else steps)
    held_out = stage.alpha_on if stage.alpha_on in data.splits else stage.weights_on
    evaluations = _steps(len(data.get(held_out)), plan.batch(stage))
    evaluations = min(plan.evaluation_batches or evaluations, evaluations)
    seconds = of_its_level * of_level + (total - of_its_level) * of_weights + stopwatch.once
    seconds += stage.epochs * (factor * evaluations * stopwatch.end + stopwatch.save)
    usual = of_level if 2 * of_its_level > total else of_weights
    knobs = stage_knobs(plan, stage)
    return Part(f"search stage {stage.name}", total, usual, seconds, memory, knobs, parameters=stopwatch.parameters)


def stage_knobs(plan: SearchPlan, stage: Stage) -> tuple[Knob, ...]:
    """Return the settings that the memory of a stage depends on."""
    size, own = plan.size(stage), f"search.stages.{stage.name}"
    batch = Knob(f"{own if stage.batch_size else 'search'}.batch_size", plan.batch(stage))
    return (
        batch if plan.micro_batch is None else Knob("search.micro_batch", plan.micro_batch),
        Knob(f"{own if stage.channels else 'search'}.channels", size["channels"], 2 * size["partial"]),
        Knob(f"{own if stage.layers else 'search'}.layers", size["layers"]),
    )


def _projection_part(
    search: Search, of: SearchPlan, data: SearchData, plan: ProjectionPlan, rules: Rules, batch: int
) -> Part:
    """A selection by perturbation, from one measurement and one tuning step at batch size `batch`.

    The supernet loses candidates with every decision: its cost is taken to fall in proportion to them, to one per edge.
    """
    learner, stage = search.learner, of.stages[-1]
    size = of.batch(stage)
    factor = size / batch
    options: dict[str, Any] = {"seed": search.seed, "device": search.device}
    whole = Projection(learner, data, stage, plan, rules, batch_size=size, **options)
    batches = split_batches(search.data, stage.alpha_on, batch, "probe", **options)
    probe, weights, images = Probe(learner, batches, 1, search.seed), learner.arch.expected(), batches.batch(0, 0)
    updates = [ArchBatch(images, True, learner.beta_optimizer is not None)] if plan.train_alpha else []
    evaluation = factor * measure_call(lambda: probe(weights, 0), search.device)
    step = factor * measure_call(lambda: bilevel(learner, images, updates), search.device)
    evaluations = _steps(len(data.get(stage.alpha_on)), size)
    evaluations = min(plan.batches or evaluations, evaluations) * _measurements(learner, plan, rules)
    steps = whole.epochs * _steps(len(data.get(stage.weights_on)), size)
    masks = [learner.arch.mask(t) for t in learner.arch.space.cells]
    left = sum(int(m.any(1).sum()) for m in masks) / sum(int(m.sum()) for m in masks)
    average = (1 + left) / 2
    return Part("selection", steps, average * step, average * (evaluations * evaluation + steps * step))


def _measurements(learner: Learner, plan: ProjectionPlan, rules: Rules) -> int:
    """Count the measurements of a projection, on the whole split: in a race at most; see `Projection`."""
    count = 0
    for name, cell in learner.arch.space.cells.items():
        mask = learner.arch.mask(name).cpu()
        allowed = mask if rules.none else mask & real_candidates(cell)
        if rules.operations == PERTURBATION:
            count += int(allowed[undecided(mask)].sum())
        if rules.edges == PERTURBATION:
            inputs = [int(allowed[cell.incoming(node)].any(1).sum()) for node in cell.computed]
            crowded = [n for n in inputs if n > rules.in_degree]
            count += sum(n if plan.same_images else sum(range(rules.in_degree + 1, n + 1)) for n in crowded)
    return count if plan.decide_by == PERTURBATION else 0


def typical_cell(stage: Stage, space: SpaceSpec, rules: Rules) -> Genotype:
    """A cell such as a search may find that ends with this stage, without a supernet."""
    arch = ArchState(space, stage.relaxation.model_dump(), stage.topology.model_dump())
    return _typical(space, derive(arch, rules).genotype(space))


def _typical(space: SpaceSpec, like: Genotype) -> Genotype:
    """Cells with the edges of `like` in which every candidate of the space occurs about equally often."""
    cells, turn = {}, 0
    for name, cell in like.cells.items():
        spec, nodes = space.cells[name], []
        for node, pairs in enumerate(cell.nodes, cell.inputs):
            chosen = []
            for _, source in pairs:
                options = [op for op in spec.candidates[spec.edges.index((source, node))] if op != "none"]
                chosen.append((options[turn % len(options)], source))
                turn += 1
            nodes.append(tuple(chosen))
        cells[name] = CellGenotype(cell.inputs, tuple(nodes), cell.concat)
    return Genotype(like.space, cells, skeleton=like.skeleton)


# Retraining


def estimate_retraining(
    genotype: Genotype,
    plan: RetrainPlan,
    data: Dataset,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    execution: Execution = PLAIN,
    free: int | None = None,
    begin: Begin = unseen,
    work: float | None = None,
) -> Part:
    """The retraining of a genotype with all seeds; arguments as for `Retraining`.

    `begin` is called with the name of the part before it is measured. With `work`, that of a step, time is measured
    quickly, and memory is not.

    Raises:
        RunError: memory runs out in a probe.
    """
    device = torch.device(device)
    begin("retraining")

    def trained(execution: Execution, batch: int, steps: int, stopwatch: Stopwatch) -> Retraining:
        whole = {"epochs": 2 if work is None else 1, "seeds": plan.seeds[:1], "test_every": 1, "early_stop": None}
        short = plan.model_copy(update={**whole, "batch_size": batch})
        few = replace(data, train=_head(data.train, batch * steps), test=_head(data.test, batch))
        training = Retraining(genotype, short, few, seed=seed, device=device, monitor=stopwatch, execution=execution)
        training.run()
        stopwatch.parameters = sum(parameter.numel() for parameter in training.net.parameters())
        return training

    images = data.train.nbytes + data.test.nbytes
    plain = partial(trained, replace(execution, compile=False))  # compiled code hides its tensors
    with probing("retraining", device, retrain_knobs(plan)):
        size = min(plan.batch_size, len(data.train))
        if work is None:
            once = min(plan.micro_batch or size, size)
            memory = measure_memory(plain, once, images + _waiting(data.shape, size - once), device, free)
            stopwatch, factor = measure_time(partial(trained, execution), memory, device, free, size)
        else:
            memory = None
            stopwatch, factor = measure_quickly(plain, size, work, device)
    steps, step = plan.epochs * _steps(len(data.train), plan.batch_size), factor * stopwatch.usual(-1)
    tests = factor * stopwatch.end * max(len(data.test) / plan.batch_size, 1) * -(-plan.epochs // plan.test_every)
    seconds = stopwatch.once + steps * step + tests + plan.epochs * stopwatch.save
    seeds = len(plan.seeds)
    sizes: dict[str, Any] = {"parameters": stopwatch.parameters, "seeds": seeds}
    return Part("retraining", seeds * steps, step, seeds * seconds, memory, retrain_knobs(plan), **sizes)


def retrain_knobs(plan: RetrainPlan) -> tuple[Knob, ...]:
    """Return the settings that the memory of the retraining depends on."""
    size = Knob("retrain.channels", plan.channels, 2)
    if plan.parameters is not None:
        size = Knob("retrain.parameters", plan.parameters)
    batch = Knob("retrain.batch_size", plan.batch_size)
    if plan.micro_batch is not None:
        batch = Knob("retrain.micro_batch", plan.micro_batch)
    return batch, size, Knob("retrain.layers", plan.layers)


def _steps(images: int, batch: int) -> int:
    """Steps of an epoch, as `Batches` has them."""
    full, rest = divmod(images, min(batch, images))
    return full + (rest > 1)
