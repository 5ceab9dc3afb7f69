"""What a cell is worth at other depths, and what a search would have derived at other times."""

import os
import shlex
from pathlib import Path
from typing import Any

from pydantic import Field

from topocell import objects
from topocell.display import Display
from topocell.errors import RecipeError
from topocell.genotype import Genotype
from topocell.recipe import Recipe
from topocell.report.figures import search_epochs
from topocell.report.rundirs import genotype_path
from topocell.study import figures
from topocell.study.bench import Bench, Outcome, Record
from topocell.study.options import Entries, Numbers, Searches, Seeds, Training, whole_searches
from topocell.study.training import accuracies, begin, parameters, retrained, scale, searched, spread


class Depth(Training):
    """Options of `depth`."""

    genotype: str = Field(description="genotype.json, or a run directory")
    retrain_as: str | None = Field(
        None, description="recipe whose data and retraining to use; unset: that of the run, or darts-v1 for a file"
    )
    layers: Numbers = Field((10, 12, 16, 20), description="numbers of cells of the network")


class Stability(Searches):
    """Options of `stability`."""

    recipes: Entries = Field(("toponas-fixed-darts",), description="recipes whose searches to follow")
    epochs: Numbers = Field(
        (20, 30, 40, 50), description="search epochs to derive a cell after, counted through all stages"
    )
    seeds: Seeds = Field((0, 1, 2), description="seeds of the searches; retrain.seeds=[0] unless changed")


def depth(bench: Bench, options: Depth) -> Outcome:
    """One cell, retrained in networks of different depth. The ± is over the retraining seeds of the recipe."""
    place = genotype_path(Path(options.genotype))
    genotype = Genotype.load(place)
    of_run = shlex.quote(str(place.with_name("recipe.yaml"))) if os.path.isdir(options.genotype) else "darts-v1"
    recipes = {n: options.recipe(options.retrain_as or of_run, last=[f"retrain.layers={n}"]) for n in options.layers}
    if any(map(objects.load_truth, recipes.values())):
        raise RecipeError("depth retrains cells, but a table of true accuracies is named; leave it out for this study")
    seeds = recipes[options.layers[0]].retrain.seeds
    named = {f"{n} layers": recipe for n, recipe in recipes.items()}
    begin(bench, len(recipes), named, seeds, genotype=genotype.to_dict())
    rows: list[dict[str, Any]] = []
    for layers, recipe in recipes.items():
        record = bench.trained(f"layers-{layers}", retrained, recipe, genotype)
        mean, std = spread(accuracies(record))
        size = {"parameters": parameters(record), "multiply_adds": record["results"]["multiply_adds"]}
        rows.append({"layers": layers, "n": len(accuracies(record)), "accuracy %": mean, "± %": std, **size})
    curve = figures.Curve(
        genotype.key, options.layers, [row["accuracy %"] for row in rows], [row["± %"] for row in rows]
    )
    return Outcome(
        rows,
        lambda path: figures.curves([curve], "cells of the network", "test accuracy, %", path),
        len(seeds),
        {"accuracy": {row["layers"]: row["accuracy %"] for row in rows}, "genotype": genotype.key},
        [f"Cell {genotype.key}. {scale(record)}"],
    )


def stability(bench: Bench, options: Stability) -> Outcome:
    """The cells that a search would derive after some of its epochs, each retrained. The ± is over searches.

    Cells come from the search's own log, where each epoch has the cell that the recipe's selection would derive. A
    cell that a search derives at several epochs is retrained once.

    Raises:
        RecipeError: an epoch that a search does not reach; a search that may end ahead of time.
    """
    arms = options.arms()
    for arm in arms:
        whole_searches(arm.label, arm.any)
        total = sum(stage.epochs for stage in arm.any.search.stages)
        if max(options.epochs) > total:
            raise RecipeError(
                f"epochs must be within the search, but {arm.label} has {total} epochs and epochs names "
                f"{max(options.epochs)}; use epochs=[..] up to {total}"
            )
    items = len(arms) * len(options.seeds) * (1 + len(options.epochs))
    begin(bench, items, {arm.label: arm.any for arm in arms}, options.seeds)
    rows: list[dict[str, Any]] = []
    for arm in arms:
        for seed, recipe in arm.recipes.items():
            key = f"{arm.key}-seed-{seed}"
            found = bench.trained(f"{key}-search", _cells, recipe)
            for epoch in sorted(options.epochs):
                genotype = Genotype.from_dict(found["cells"][epoch - 1])
                record = bench.trained(f"{key}-cell-{genotype.key}", retrained, recipe, genotype)
                row = {"recipe": arm.label, "seed": seed, "epoch": epoch, "cell": genotype.key}
                accuracy = spread(accuracies(record))[0]
                rows.append({**row, "accuracy %": accuracy, "parameters": parameters(record)})
    lines = [_line(arm.label, [row for row in rows if row["recipe"] == arm.label]) for arm in arms]
    return Outcome(
        rows,
        lambda path: figures.curves(lines, "search epoch", "test accuracy, %", path),
        len(options.seeds),
        {line.label: {"epochs": line.x, "mean": line.mean, "std": line.std} for line in lines},
        [*map(_in_words, lines), scale(record)],
    )


def _cells(recipe: Recipe, path: Path, display: Display) -> Record:
    """Search; the genotype derived after each epoch, in order."""
    rows = search_epochs(searched(recipe, path, display))
    header = {"format": 1, "space": objects.build_space(recipe).name}
    return {"cells": [Genotype.from_dict({**header, "cells": epoch.row["derived"]}).to_dict() for epoch in rows]}


def _line(label: str, rows: list[dict[str, Any]]) -> figures.Curve:
    epochs = sorted({row["epoch"] for row in rows})
    spreads = [spread([row["accuracy %"] for row in rows if row["epoch"] == epoch]) for epoch in epochs]
    return figures.Curve(label, epochs, [mean for mean, _ in spreads], [std for _, std in spreads])


def _in_words(line: figures.Curve) -> str:
    parts = [
        f"epoch {epoch:g}: {mean:.2f}{'' if std is None else f' ± {std:.2f}'} %"
        for epoch, mean, std in zip(line.x, line.mean, line.std)
    ]
    return f"{line.label}: {', '.join(parts)}."
