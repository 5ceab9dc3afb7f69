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
from topocell.config.retrain import SIZES, RetrainPlan, short_plan
from topocell.config.selection import Rules
from topocell.config.trials import SharedWeights, Training, TrialsPlan, ZeroCost
from topocell.config.values import number_of
from topocell.data.accuracy_table import AccuracyTable
from topocell.data.splits import Dataset, split_batches
from topocell.errors import RecipeError
from topocell.genotype.genotype import Genotype
from topocell.networks.retraining import Retraining
from topocell.networks.seed_training import Task as NetworkTask
from topocell.networks.start import AFRESH
from topocell.networks.together import obstacle
from topocell.networks.trainings import CellTrainings
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
from topocell.selection.trials import Done, Evaluator, OneByOne, Score, Trials
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
        say = functools.cache(monitor.say)  # each sentence once
        options["parallel"] = partial(by_workers, plan, setup.recipe.to_yaml(), path, say)
    return Trials(space, plan, rules, evaluator, **options)


def by_workers(
    plan: TrialsPlan, recipe: str, path: Path, say: Callable[[str], None], cells: Sequence[Derived], done: Done
) -> None:
    """Evaluate cells by several processes of one thread each; see `topocell.selection.trials.Parallel`.

    Raises as `topocell.runtime.workers.make_all`.
    """
    size = number_of(getattr(plan.evaluator, "together", 1))
    tasks = [Task(str(at), evaluated, (recipe, path, cells[at : at + size])) for at in range(0, len(cells), size)]

    def made(key: str, record: Mapping[str, Any], _: float) -> None:
        if record["words"]:
            say(record["words"])
        done(int(key), record["found"])

    make_all(tasks, plan.workers, lambda key: None, made)


def evaluated(recipe: str, path: Path, cells: Sequence[Derived]) -> dict[str, Any]:
    """Evaluate cells in a process of its own, at once where they can be; what their evaluator needs is kept.

    Returns score and seconds of each, and a sentence where they cannot.
    """
    evaluator, found, words = _evaluator(recipe, path), list[tuple[float, float]](), ""
    while left := cells[len(found) :]:
        start, (size, said) = time.monotonic(), evaluator.at_once(left)
        words = words or said
        scores = evaluator.scores(left[:size], Silent(), None)
        each = (time.monotonic() - start) / size
        found += [(of.value, each if of.seconds is None else of.seconds) for of in scores]
    return {"found": found, "words": words}


@functools.cache
def _evaluator(recipe: str, path: Path) -> Evaluator:
    setup = Setup.of(resolved(recipe), out=path, resumes=True)
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


class LookedUp(OneByOne):
    """Validation accuracies of a table, as fractions."""

    def __init__(self, table: AccuracyTable, options: Training, space: SpaceSpec) -> None:
        assert options.column is not None
        self._table, self._options, self._space = table, options, space

    def scores(self, cells: Sequence[Derived], inner: Monitor, state: Mapping[str, Any] | None) -> list[Score]:
        """Look the cells up."""
        found = [self._table.lookup(derived.genotype(self._space)) for derived in cells]
        return [Score(of.accuracy[self._options.column or ""] / 100, self._options.charge) for of in found]


class ShortTraining(OneByOne):
    """Accuracy on held-out training images after a short training, with the same seeds for all cells."""

    def __init__(self, setup: Setup, options: Training) -> None:
        self._setup, self._data = setup, held_out_data(setup)
        self.plan, self._most = trial_plan(setup.recipe.retrain, options), number_of(options.together)

    def at_once(self, cells: Sequence[Derived]) -> tuple[int, str]:
        """As many as the plan says, where their networks can be computed as one."""
        if self._most == 1 or len(cells) == 1:
            return 1, ""
        tasks = [self._task(derived) for derived in cells[: self._most]]
        if fault := obstacle(tasks, [0] * len(tasks), self._setup.recipe.on_nan):
            return 1, f"cells are trained one after the other: {fault}"
        return len(tasks), ""

    def scores(self, cells: Sequence[Derived], inner: Monitor, state: Mapping[str, Any] | None) -> list[Score]:
        """Train the networks of the cells, or what is left of it."""
        on_nan = self._setup.recipe.on_nan
        if len(cells) > 1:
            training = CellTrainings([self._task(derived) for derived in cells], inner, on_nan)
            return [Score(accuracy) for accuracy in training.run(state)]
        (genotype, plan, data), how = self._what(cells[0]), self._how()
        return [Score(Retraining(genotype, plan, data, **how, monitor=inner, on_nan=on_nan).run(state)["last_mean"])]

    def _what(self, derived: Derived) -> tuple[Genotype, RetrainPlan, Dataset]:
        return derived.genotype(self._setup.space), self.plan, self._data

    def _how(self) -> dict[str, Any]:
        recipe = self._setup.recipe
        seed = derive_seed(recipe.seed, "trials")
        return {"seed": seed, "device": self._setup.device, "execution": execution(recipe), "start": AFRESH}

    def _task(self, derived: Derived) -> NetworkTask:
        return NetworkTask(*self._what(derived), **self._how())


def trial_plan(retrain: RetrainPlan, options: Training) -> RetrainPlan:
    """The settings of a trial: those of a short training, with the sizes that are set and the first seed."""
    changes: dict[str, Any] = {
        "layers": options.layers or retrain.layers,
        "batch_size": options.batch_size or retrain.batch_size,
        "seeds": retrain.seeds[:1],
    }
    if options.channels is not None:
        changes |= {"channels": options.channels, **dict.fromkeys(SIZES)}
    return short_plan(retrain, options.epochs).model_copy(update=changes)


def held_out_data(setup: Setup) -> Dataset:
    """The dataset whose training and test images are two splits of the search, see `Recipe.held_out`."""
    fit, held = setup.recipe.held_out()
    return dataclasses.replace(setup.dataset, train=setup.search_data.get(fit), test=setup.search_data.get(held))


class InSupernet(OneByOne):
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

    def scores(self, cells: Sequence[Derived], inner: Monitor, state: Mapping[str, Any] | None) -> list[Score]:
        """Measure on a few batches."""
        return [self._measured(self._few, derived) for derived in cells]

    def final(self, derived: Derived) -> Score:
        """Measure on the whole split."""
        return self._measured(self._all, derived)

    def _measured(self, probe: Probe, derived: Derived) -> Score:
        weights = {t: OneHotWeights(*one) for t, one in derived.weights(self._like).items()}
        return Score(probe(weights, 0).accuracy)


class Untrained(OneByOne):
    """A score of the network of the cell before training, on one batch of training images, the same for all cells."""

    def __init__(self, setup: Setup, options: ZeroCost, name: str) -> None:
        self._setup, self._score = setup, SCORES[name]
        search = setup.recipe.search
        self._sizes = options.channels or search.channels, options.layers or search.layers
        seed, stage = setup.recipe.seed, search.stages[-1]
        size = options.batch_size or search.batch_size
        batches = split_batches(setup.search_data, stage.weights_on, size, "trials", seed=seed, device=setup.device)
        self._x, self._y = batches.batch(0, 0)

    def scores(self, cells: Sequence[Derived], inner: Monitor, state: Mapping[str, Any] | None) -> list[Score]:
        """Build the networks, and score them."""
        return [self._of(derived) for derived in cells]

    def _of(self, derived: Derived) -> Score:
        setup = self._setup
        torch.manual_seed(derive_seed(setup.recipe.seed, "trials", "network"))
        data = setup.dataset
        net = FixedNet(derived.genotype(setup.space), *self._sizes, len(data.train.classes), data.shape[0])
        net = net.to(setup.device).double()
        return Score(self._score(net, self._x.double(), self._y))
