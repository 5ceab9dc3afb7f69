"""A study of one cell in networks of several depths (TopoNAS, Table 3)."""

import os
import shlex
from pathlib import Path
from typing import Any

from pydantic import Field

from topocell.errors import RecipeError
from topocell.reporting.rundirs import genotype_of
from topocell.runs import setup
from topocell.studies import _plots
from topocell.studies._items import Bench, Outcome
from topocell.studies._options import Numbers, Training
from topocell.studies._training import accuracies, begin, parameters, retrained, scale, spread


class Depth(Training):
    """Options of `depth`."""

    genotype: str = Field(description="a published cell, genotype.json, a run directory, or a text")
    retrain_as: str | None = Field(
        None, description="recipe whose data and retraining to use; unset: that of the run, or darts-v1 for a file"
    )
    layers: Numbers = Field((10, 12, 16, 20), description="numbers of cells of the network")


def measure(bench: Bench, options: Depth) -> Outcome:
    """One cell, retrained in networks of different depth. The ± is over the retraining seeds of the recipe."""
    genotype = genotype_of(options.genotype)
    place = Path(options.genotype, "recipe.yaml")
    of_run = shlex.quote(str(place)) if os.path.isdir(options.genotype) else "darts-v1"
    recipes = {n: options.recipe(options.retrain_as or of_run, last=[f"retrain.layers={n}"]) for n in options.layers}
    if any(map(setup.load_ground_truth, recipes.values())):
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
    curve = _plots.Curve(
        genotype.key, options.layers, [row["accuracy %"] for row in rows], [row["± %"] for row in rows]
    )
    return Outcome(
        rows,
        lambda path: _plots.curves([curve], "cells of the network", "test accuracy, %", path),
        len(seeds),
        {"accuracy": {row["layers"]: row["accuracy %"] for row in rows}, "genotype": genotype.key},
        [f"Cell {genotype.key}. {scale(record)}"],
    )
