"""Trials of a run: what its recipe's evaluator needs, and the evaluation by several processes."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from topocell.config.load import resolved
from topocell.config.retrain import RetrainPlan, short_plan
from topocell.config.selection import Rules
from topocell.config.trials import SharedWeights, Training, TrialsPlan, ZeroCost
from topocell.data.accuracy_table import AccuracyTable
from topocell.data.splits import Dataset, split_batches
from topocell.errors import RecipeError
from topocell.networks.retraining import Retraining
from topocell.networks.zero_cost import SCORES
from topocell.nn.network import FixedNet
from topocell.runs.directory import RunDir
from topocell.runs.setup import Setup, execution
from topocell.runtime.hooks import Monitor, Silent
from topocell.runtime.rng import derive as derive_seed
from topocell.runtime.workers import Task, make_all
from topocell.searching.loop import Search
from topocell.selection.drawing import CellSpace
from topocell.selection.probe import Probe
from topocell.selection.rules import Derived
from topocell.selection.trials import Evaluator, Score, Trials
from topocell.spaces.cell import SpaceSpec
from topocell.supernet.arch_state import ArchState
from topocell.supernet.weights import OneHotWeights

#: Gives the search as it ended, where an evaluator needs its supernet.
Searched = Callable[[], Search]


def trials_of(setup: Setup, arch: ArchState, rules: Rules, monitor: Monitor, searched: Searched, path: Path) -> Trials:
    """The trials of a run, before the first one.

    Args:
        setup: of the run.
        arch: the architecture as the search left it.
        rules: of the selection.
        monitor: of the run.
        searched: gives the search as it ended.
        path: of the run directory, which other processes read.

    Raises:
        RecipeError: several workers would need images that no recipe names.
    """
    plan = setup.recipe.selection.trials
    assert plan is not None
    space, evaluator = CellSpace.of(arch, rules), evaluator_of(setup, plan, searched)
    options: dict[str, Any] = {"seed": setup.recipe.seed, "monitor": monitor}
    if plan.workers > 1:
        if setup.recipe.data.dataset == "given":
            raise RecipeError(
                f"several workers read the images that the recipe names, but these were given, and "
                f"selection.trials.workers is {plan.workers}; set it to 1"
            )
        options["parallel"] = partial(together, plan.workers, setup.recipe.to_yaml(), path)
    return Trials(space, plan, rules, evaluator, **options)


def together(
    workers: int, recipe: str, path: Path, cells: Sequence[Derived], done: Callable[[int, float, float], None]
) -> None:
    """Evaluate cells by several processes of one thread each; see `topocell.selection.trials.Parallel`.

    Raises as `topocell.runtime.workers.make_all`.
    """
    tasks = [Task(str(place), evaluated, (recipe, path, derived)) for place, derived in enumerate(cells)]
    make_all(tasks, workers, lambda key: None, lambda key, made, _: done(int(key), made["score"], made["seconds"]))


def evaluated(recipe: str, path: Path, derived: Derived) -> dict[str, float]:
    """Evaluate a cell in a process of its own; what its evaluator needs is kept for the next one."""
    evaluator, start = _evaluator(recipe, path), time.monotonic()
    found = evaluator.score(derived, Silent(), None)
    return {"score": found.value, "seconds": time.monotonic() - start if found.seconds is None else found.seconds}


@functools.cache
def _evaluator(recipe: str, path: Path) -> Evaluator:
    setup = Setup.of(resolved(recipe))
    plan = setup.recipe.selection.trials
    assert plan is not None

    def searched() -> Search:
        search = setup.search()
        with RunDir.existing(path, lock=False) as directory:
            search.load_state_dict(directory.load_named("supernet"))
        return search

    return evaluator_of(setup, plan, searched)


def evaluator_of(setup: Setup, plan: TrialsPlan, searched: Searched) -> Evaluator:
    """What a cell is judged by."""
    options = plan.evaluator
    if isinstance(options, SharedWeights):
        return InSupernet(setup, options, searched())
    if isinstance(options, ZeroCost):
        return Untrained(setup, options, plan.evaluate.name)
    assert isinstance(options, Training)
    if setup.ground_truth is not None and options.column is not None:
        return LookedUp(setup.ground_truth, options, setup.space)
    return ShortTraining(setup, options)


def trained_in_trials(setup: Setup) -> tuple[int, RetrainPlan] | None:
    """The number of short trainings, and their settings; None where trials train nothing, or end by time alone."""
    plan = setup.recipe.selection.trials
    if plan is None or plan.number is None or plan.evaluate.name != "training":
        return None
    if setup.ground_truth is not None and plan.column is not None:
        return None
    return plan.number, trial_plan(setup.recipe.retrain, plan.evaluator)


class LookedUp:
    """Validation accuracies of a table, as fractions."""

    finalists = 0

    def __init__(self, table: AccuracyTable, options: Training, space: SpaceSpec) -> None:
        assert options.column is not None
        self._table, self._options, self._space = table, options, space

    def score(self, derived: Derived, inner: Monitor, state: Mapping[str, Any] | None) -> Score:
        """Look the cell up."""
        found = self._table.lookup(derived.genotype(self._space)).accuracy[self._options.column or ""]
        return Score(found / 100, self._options.charge)

    def final(self, derived: Derived) -> Score:
        """Not called: there are no finalists."""
        raise NotImplementedError


class ShortTraining:
    """Accuracy on held-out training images after a short training, with the same seeds for all cells."""

    finalists = 0

    def __init__(self, setup: Setup, options: Training) -> None:
        self._setup, self._data = setup, held_out_data(setup)
        self.plan = trial_plan(setup.recipe.retrain, options)

    def score(self, derived: Derived, inner: Monitor, state: Mapping[str, Any] | None) -> Score:
        """Train the network of the cell, or what is left of it."""
        setup = self._setup
        training = Retraining(
            derived.genotype(setup.space),
            self.plan,
            self._data,
            seed=derive_seed(setup.recipe.seed, "trials"),
            device=setup.device,
            monitor=inner,
            execution=execution(setup.recipe),
            on_nan=setup.recipe.on_nan,
        )
        return Score(training.run(state)["last_mean"])

    def final(self, derived: Derived) -> Score:
        """Not called: there are no finalists."""
        raise NotImplementedError


def trial_plan(retrain: RetrainPlan, options: Training) -> RetrainPlan:
    """The settings of a trial: those of a short training, with the sizes that are set and the first seed."""
    changes: dict[str, Any] = {
        "layers": options.layers or retrain.layers,
        "batch_size": options.batch_size or retrain.batch_size,
        "seeds": retrain.seeds[:1],
    }
    if options.channels is not None:
        sizes = dict.fromkeys(("parameters", "max_parameters", "max_multiply_adds"))
        changes |= {"channels": options.channels, **sizes}
    return short_plan(retrain, options.epochs).model_copy(update=changes)


def held_out_data(setup: Setup) -> Dataset:
    """The dataset whose training and test images are two splits of the search, see `Recipe.held_out`."""
    fit, held = setup.recipe.held_out()
    return dataclasses.replace(setup.dataset, train=setup.search_data.get(fit), test=setup.search_data.get(held))


class InSupernet:
    """Accuracy of the cell in the supernet, on the same held-out images for all cells (Li and Talwalkar 2019)."""

    def __init__(self, setup: Setup, options: SharedWeights, search: Search) -> None:
        self._learner, self.finalists = search.learner, options.finalists
        size, stage = setup.recipe.search.batch_size, setup.recipe.search.stages[-1]
        seed, device = setup.recipe.seed, setup.device
        batches = split_batches(search.data, stage.alpha_on, size, "trials", seed=seed, device=device, augmented=False)
        self._few = Probe(search.learner, batches, options.batches, seed)
        self._all = Probe(search.learner, batches, None, seed)
        with torch.no_grad():
            self._like = search.learner.arch()

    def score(self, derived: Derived, inner: Monitor, state: Mapping[str, Any] | None) -> Score:
        """Measure on a few batches."""
        return self._measured(self._few, derived)

    def final(self, derived: Derived) -> Score:
        """Measure on the whole split."""
        return self._measured(self._all, derived)

    def _measured(self, probe: Probe, derived: Derived) -> Score:
        weights = {t: OneHotWeights(*one) for t, one in derived.weights(self._like).items()}
        return Score(probe(weights, 0).accuracy)


class Untrained:
    """A score of the network of the cell before training, on one batch of training images, the same for all cells."""

    finalists = 0

    def __init__(self, setup: Setup, options: ZeroCost, name: str) -> None:
        self._setup, self._score = setup, SCORES[name]
        search = setup.recipe.search
        self._sizes = options.channels or search.channels, options.layers or search.layers
        seed, stage = setup.recipe.seed, search.stages[-1]
        size = options.batch_size or search.batch_size
        batches = split_batches(setup.search_data, stage.weights_on, size, "trials", seed=seed, device=setup.device)
        self._x, self._y = batches.batch(0, 0)

    def score(self, derived: Derived, inner: Monitor, state: Mapping[str, Any] | None) -> Score:
        """Build the network, and score it."""
        setup = self._setup
        torch.manual_seed(derive_seed(setup.recipe.seed, "trials", "network"))
        data = setup.dataset
        net = FixedNet(derived.genotype(setup.space), *self._sizes, len(data.train.classes), data.shape[0])
        net = net.to(setup.device).double()
        return Score(self._score(net, self._x.double(), self._y))

    def final(self, derived: Derived) -> Score:
        """Not called: there are no finalists."""
        raise NotImplementedError
