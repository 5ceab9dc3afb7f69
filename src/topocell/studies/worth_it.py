"""True accuracy against the seconds of the search, for searches with gradients and without, on NAS-Bench-201."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field

from topocell.config.load import resolved
from topocell.config.recipe import Recipe
from topocell.config.values import NonNegative
from topocell.data.accuracy_table import AccuracyTable
from topocell.errors import RecipeError, RunError
from topocell.reporting.ground_truth import ground_truth_of
from topocell.runs import setup
from topocell.runs.directory import RunDir
from topocell.runs.phases import Phase
from topocell.runtime.workers import Task
from topocell.studies import _drawings
from topocell.studies._items import Bench, Outcome, Record
from topocell.studies._options import Arm, Entries, Searches, Seeds, distinct
from topocell.studies._training import begin, left_by, spread, whole_run

#: Shares of all cells that are below a line of the figure, in percent.
SHARES = (5, 25, 50, 75, 95)


class WorthIt(Searches):
    """Options of `worth-it`."""

    recipes: Entries = Field(
        (
            *("nb201-random", "nb201-random-search", "nb201-evolution", "nb201-local-search"),
            *("nb201-zero-cost", "nb201-random-nas", "nb201-darts", "nb201-dots", "nb201-pt"),
        ),
        description="recipes in space nasbench201 to search by",
    )
    runs: Annotated[tuple[str, ...], BeforeValidator(distinct)] = Field(
        (), description="directories of finished runs that are shown too; those of one recipe are one method"
    )
    charge: NonNegative = Field(
        0.0, description="seconds that a look-up of an accuracy after a short training counts as, in all searches"
    )
    seeds: Seeds = Field((0, 1, 2), description="seeds of the searches")


def measure(bench: Bench, options: WorthIt) -> Outcome:
    """Search by every recipe once per seed, and look the found cells up in the table. The ± is over searches.

    `seconds` are those of search and selection together, as the run took them; where a selection looks accuracies up
    that others have trained for, each different cell counts as `charge` seconds on top. `cells below %` is the share of
    all cells of the table with a lower accuracy: 50 is what one random cell reaches on average. `random cells` is how
    many random cells have so good a cell among them on average, one over the share of cells that are as good. The
    figure has all searches as points, their means with labels, and the middle half and nine tenths of all cells as
    bands.

    Raises:
        RecipeError: a recipe without a table. RunError: a run that did not end with a look-up.
    """
    arms = options.arms()
    table, column = _table(arms)
    known = {run: _finished(Path(run), column) for run in options.runs}
    every = [(arm, seed, recipe, f"{arm.key}-seed-{seed}") for arm in arms for seed, recipe in arm.recipes.items()]
    inputs: dict[str, Any] = {"runs": {run: recipe.model_dump(mode="json") for run, recipe in known.items()}}
    begin(bench, len(every) + len(known), {arm.label: arm.any for arm in arms}, options.seeds, **inputs)
    records = bench.all_trained([Task(key, whole_run, (recipe,)) for *_, recipe, key in every])
    found: dict[str, list[tuple[float, float]]] = {}
    for arm, _, recipe, key in every:
        found.setdefault(arm.label, []).append(_point(recipe, records[key], bench.path / "runs" / key, options.charge))
    for number, (run, recipe) in enumerate(known.items(), start=1):
        record = bench.item(f"run-{number}", left_by, Path(run))
        found.setdefault(recipe.name, []).append(_point(recipe, record, Path(run), options.charge))
    values = np.sort(table.values(column))
    rows = [_row(label, points, values) for label, points in found.items()]
    lines = {share: float(np.percentile(values, share)) for share in SHARES}
    words = ", ".join(f"{share} %: {value:.2f} %" for share, value in lines.items())
    return Outcome(
        rows,
        lambda path: _drawings.against_seconds(found, lines, "seconds of the search", f"{column}, %", path),
        min(len(points) for points in found.values()),
        {row["recipe"]: {"seconds": row["seconds"], "accuracy %": row["accuracy %"]} for row in rows},
        [
            f"Accuracies are those of the column {column} of the {table.title} table; shares of its cells that are "
            f"below: {words}.",
            f"A look-up of an accuracy after a short training counts as {options.charge:g} s.",
        ],
    )


def _table(arms: list[Arm]) -> tuple[AccuracyTable, str]:
    """The table of the recipes, and its column. Raises RecipeError."""
    table, column = None, arms[0].any.ground_truth.column
    for arm in arms:
        table = setup.load_ground_truth(arm.any)
        if table is None:
            raise RecipeError(
                f"worth-it compares true accuracies, but {arm.label} has no table; use recipes in space nasbench201 "
                f"and name the table with ground_truth.table=PATH, or in {setup.GROUND_TRUTH_VARIABLE}"
            )
    assert table is not None
    return table, column


def _finished(run: Path, column: str) -> Recipe:
    """The recipe of a finished run. Raises RunError where it did not end with a look-up in the same column."""
    with RunDir.existing(run, lock=False) as directory:
        recipe = resolved(directory.recipe_yaml)
        results = directory.read_json("results.json") if directory.has("results.json") else {}
    if ground_truth_of(results).get("column") != column:
        raise RunError(
            f"worth-it shows runs that ended with a look-up of {column}, but {run} did not; finish it with "
            f"ground_truth.table=PATH, or leave it out"
        )
    return recipe


def _point(recipe: Recipe, record: Record, path: Path, charge: float) -> tuple[float, float]:
    """Seconds of a search and its selection, and the true accuracy of the cell in percent."""
    timings: Mapping[str, float] = record["timings"]
    seconds = sum(timings.get(phase, 0.0) for phase in (Phase.SEARCH, Phase.SELECT))
    trials = recipe.selection.trials
    if charge and trials is not None and trials.column is not None:
        with RunDir.existing(path, lock=False) as directory:
            tried = [row["derived"] for row in directory.metrics() if row.get("phase") == Phase.TRIAL]
        seconds += charge * len({json.dumps(cells, sort_keys=True) for cells in tried})
    return seconds, record["results"]["ground_truth"]["accuracy"]


def _row(label: str, points: list[tuple[float, float]], values: np.ndarray) -> dict[str, Any]:
    """The row of a method; `values` are the accuracies of all cells, ascending."""
    seconds, accuracy = zip(*points)
    mean, std = spread(accuracy)
    below = [int(np.searchsorted(values, value - 1e-9)) for value in accuracy]
    return {
        "recipe": label,
        "n": len(points),
        "seconds": spread(seconds)[0],
        "accuracy %": mean,
        "± %": std,
        "regret %": float(values[-1]) - mean,
        "cells below %": 100 * spread([number / len(values) for number in below])[0],
        "random cells": len(values) / spread([len(values) - number for number in below])[0],
    }
