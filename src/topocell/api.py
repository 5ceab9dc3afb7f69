"""What the commands do, as functions: a run, its steps alone, and an estimate of it.

A run goes search → select → retrain → report. Each step reads what the one before left in the run directory, so
that a run goes on wherever it was stopped, and each step can be taken alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from topocell.data import Dataset, search_data
from topocell.display import Display, Quiet
from topocell.estimate import (
    Estimate,
    estimate_retraining,
    estimate_search,
    free_memory,
)
from topocell.genotype import Genotype
from topocell.objects import build_space, check, check_images, execution, find_device, load_data, load_truth
from topocell.recipe import Recipe, resolved
from topocell.report.html import write_report
from topocell.rundir import RunDir
from topocell.steps import DONE, Work, run_environment
from topocell.tabular import Table


def run(recipe: Recipe, out: str | Path, display: Display | None = None) -> Path:
    """Search, derive, retrain and report; goes on if `out` holds an unfinished run of the same recipe.

    With a table of true accuracies (see `load_truth`) the cell is looked up instead of retrained.

    Returns the path of the report.

    Raises:
        RecipeError, SpaceError, DataError: what the recipe asks for cannot be.
        RunError, CheckpointError: `out` cannot be used, or what it holds is damaged.
        Interrupted: SIGINT or SIGTERM, after the state was saved.
    """
    with _opened(recipe, out, display) as work:
        work.search()
        work.select()
        work.retrain()
        return work.report()


def search(recipe: Recipe, out: str | Path, display: Display | None = None) -> Path:
    """Only the search; leaves `checkpoints/supernet.ckpt`. Returns the run directory. Raises as `run`."""
    with _opened(recipe, out, display) as work:
        work.search()
        return work.directory.path


def select(out: str | Path, display: Display | None = None, name: str | None = None, **changes: Any) -> Genotype:
    """Derive the cell of a searched run, with the recipe's rules or others, and write genotype.json.

    With a name the selection stands beside the run, in selections/NAME: a run directory of its own, which starts from
    a copy of the supernet and can be retrained and reported. The same call again goes on where it was stopped. A
    selection by perturbation of a run that has its cell already, and one with options of its own for the projection,
    stands beside the run in any case; its name is then OPERATIONS-EDGES.

    Args:
        changes: fields of `topocell.recipe.SelectionPlan` to use instead of the recipe's.

    Raises:
        RunError: the search is not finished, or `name` has other rules. RecipeError: a rule that does not exist.
    """
    with _reopened(out, display) as work:
        name = name or work.name_beside(changes)
        if name is None:
            return work.select(again=True, **changes)
        recipe, path = work.begin_beside(name, changes)
    with _opened(recipe, path, display) as work:
        return work.select()


def retrain(out: str | Path, display: Display | None = None) -> dict[str, Any]:
    """Retrain the derived cell of a run as its recipe says, or look its true accuracy up where there is a table.

    Returns what results.json holds.

    Raises:
        RunError: no cell has been derived yet. Otherwise as `run`.
    """
    with _reopened(out, display) as work:
        work.need_genotype()
        return work.retrain()


def report(out: str | Path) -> Path:
    """Write report.html from what a run directory holds so far; returns its path."""
    with RunDir.existing(out, lock=False) as directory:
        return write_report(directory.path)


def estimate(recipe: Recipe) -> Estimate:
    """What a run of the recipe will take, from probes of a few steps; nothing is written.

    Raises:
        RecipeError, SpaceError, DataError: what the recipe asks for cannot be.
    """
    check(recipe)
    truth, dataset, device = load_truth(recipe), load_data(recipe), find_device(recipe.device)
    options: dict[str, Any] = {
        "seed": recipe.seed,
        "device": device,
        "execution": execution(recipe),
        "free": free_memory(device),
    }
    parts, genotype = estimate_search(
        recipe.search,
        build_space(recipe),
        search_data(dataset, recipe.data.splits, recipe.seed),
        recipe.selection.rules(recipe.seed),
        recipe.selection.projection,
        **options,
    )
    if truth is None:
        check_images(recipe, dataset)
        parts.append(estimate_retraining(genotype, recipe.retrain, dataset, **options))
    return Estimate(str(device), options["free"], tuple(parts))


@contextmanager
def _opened(recipe: Recipe, out: str | Path, display: Display | None) -> Iterator[Work]:
    check(recipe)
    truth = load_truth(recipe)
    dataset = load_data(recipe)
    if truth is None:
        check_images(recipe, dataset)
    with RunDir.open(out, recipe.to_yaml(), env=run_environment(recipe, dataset, truth)) as directory:
        yield _work(recipe, directory, dataset, truth, display)


@contextmanager
def _reopened(out: str | Path, display: Display | None) -> Iterator[Work]:
    with RunDir.existing(out, lock=False) as found:
        recipe = resolved(found.recipe_yaml)
    with _opened(recipe, out, display) as work:
        yield work


def _work(recipe: Recipe, directory: RunDir, dataset: Dataset, truth: Table | None, display: Display | None) -> Work:
    work = Work(recipe, directory, dataset, truth, display or Quiet())
    if work.phase != DONE:
        for note in dataset.notes:
            work.monitor.say(f"data: {note}")
    return work
