"""DARTS-PT, Figures 6 and 9: what tuning between decisions does, and what the decisions themselves do."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from topocell.config.load import reselected
from topocell.config.recipe import Recipe
from topocell.errors import RecipeError
from topocell.genotype.genotype import Genotype
from topocell.reporting.terminal import Display
from topocell.runs.directory import RunDir
from topocell.runs.monitor import RunHook, RunMonitor
from topocell.runs.phases import Phase
from topocell.runs.setup import Setup
from topocell.runtime.workers import Task
from topocell.selection.rules import derive
from topocell.studies._courses import LookedUp, course
from topocell.studies._items import Bench, Outcome, Record
from topocell.studies._options import Arm, Entries, Seeds
from topocell.studies._snapshots import FINISHED, expected, held_out, photographed, revived, selected
from topocell.studies._training import begin
from topocell.studies._worth import Found, place, valued

#: What decides in the two projections of `progressive-tuning`: PT, and PT-Mag.
WAYS = ("perturbation", "magnitude")


class TuningEpochs(LookedUp):
    """Options of `tuning-epochs`."""

    recipes: Entries = Field(("nb201-pt",), description="recipes that select by perturbation")
    tune_epochs: Seeds = Field((0, 1, 2, 5, 10), description="epochs of tuning from one round of decisions to the next")
    seeds: Seeds = Field((0, 1, 2), description="seeds of the searches; retrain.seeds=[0] unless changed")


def measure(bench: Bench, options: TuningEpochs) -> Outcome:
    """Accuracy of the selected cell against the epochs of tuning between decisions. The ± is over searches.

    Each supernet is projected once for each entry of `tune_epochs`; after the last round it is tuned for one epoch, or
    none where there is none in between. (`selection.projection.epochs`, the total of one schedule, is left out.)

    Raises:
        RecipeError: a recipe that does not select by perturbation.
    """
    arms = projecting(options.checked_arms())
    runs = len(arms) * len(options.seeds)
    items = runs * (1 + 2 * len(options.tune_epochs))
    begin(bench, items, {arm.label: arm.any for arm in arms}, options.seeds)
    changes = {str(n): {"tune_epochs": n, "epochs": None} for n in options.tune_epochs}
    found = [
        Found(arm, seed, Genotype.from_dict(record["genotype"]), {"tuning epochs": int(n)})
        for arm, seed, n, record in _selections(bench, arms, _finished, changes)
    ]
    rows, scale = valued(bench, found, options.columns)
    label, n = "epochs of tuning between decisions", len(options.seeds)
    return course(rows, scale, options.columns, x="tuning epochs", by=["recipe"], label=label, n=n)


def projecting(arms: list[Arm]) -> list[Arm]:
    """The recipes of a study that compares projections. Raises RecipeError for one that does not project."""
    for arm in arms:
        if not arm.any.selection.rules(0).project:
            raise RecipeError(
                f"this study compares projections of a supernet, but {arm.label} does not select by perturbation; "
                f"use selection.operations=perturbation"
            )
    return arms


def _selections(
    bench: Bench, arms: Sequence[Arm], select: Callable[..., Record], changes: Mapping[str, Mapping[str, Any]]
) -> list[tuple[Arm, int, str, Record]]:
    """Run every search, and `select` on its supernet under each change to the projection, by name."""
    every = [(arm, seed, recipe, place(arm, seed)) for arm in arms for seed, recipe in arm.recipes.items()]
    bench.all_trained([Task(f"{key}-search", photographed, (recipe, ())) for _, _, recipe, key in every])
    tasks, names = [], []
    for arm, seed, recipe, key in every:
        for name, change in changes.items():
            changed, searched = reselected(recipe, {"projection": change}), bench.path / "runs" / f"{key}-search"
            tasks.append(Task(f"{key}-{name}", select, (changed, searched)))
            names.append((arm, seed, name))
    records = bench.all_trained(tasks)
    return [(*name, records[task.key]) for name, task in zip(names, tasks)]


def _finished(recipe: Recipe, searched: Path, path: Path, display: Display) -> Record:
    return selected(recipe, searched, FINISHED, path, display)


class Measuring(RunHook):
    """Adds `val_accuracy`, what `measure` finds, to every record of a projection: its decisions and tuning epochs."""

    measure: Callable[[], float]

    def on_record(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """Measure the supernet."""
        return {"val_accuracy": self.measure()}


def evaluated(recipe: Recipe, searched: Path, path: Path, display: Display) -> Record:
    """Project the supernet of a finished search and evaluate it on the way; resumes between any two measurements.

    Returns `genotype`, and `course`: accuracies of the supernet, before the first decision and after each with the
    tuning that followed it. Raises as `Projection.run`.
    """
    prepared = Setup.of(recipe)
    with RunDir.open(path, recipe.to_yaml(), env=prepared.environment()) as directory:
        search, rules, hook = revived(recipe, searched), prepared.rules, Measuring()
        monitor = RunMonitor(directory, display, [hook])
        monitor.phase = Phase.SELECT
        projection = prepared.projection(search, rules, monitor)
        probe = held_out(search, recipe, "progress")
        hook.measure = lambda: probe(expected(search.learner), 0).accuracy
        course = [hook.measure()]
        saved = directory.latest()
        with monitor.listening():
            projection.run(saved["state"] if saved else None)
        for row in directory.metrics():
            if row["phase"] == Phase.SELECT:
                course.append(row["val_accuracy"])
            else:
                course[-1] = row["val_accuracy"]
    genotype = derive(search.learner.arch, rules).genotype(search.space)
    return {"genotype": genotype.to_dict(), "course": course}
