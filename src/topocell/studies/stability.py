"""A study of cells derived at several epochs of a search (TopoNAS, Table 10)."""

from pathlib import Path
from typing import Any

from pydantic import Field

from topocell.config.recipe import Recipe
from topocell.errors import RecipeError
from topocell.genotype.genotype import Genotype
from topocell.reporting.epochs import search_epochs
from topocell.reporting.terminal import Display
from topocell.runs import setup
from topocell.studies import _plots
from topocell.studies._items import Bench, Outcome, Record
from topocell.studies._options import Entries, Numbers, Searches, Seeds, whole_searches
from topocell.studies._training import accuracies, begin, parameters, retrained, scale, searched, spread


class Stability(Searches):
    """Options of `stability`."""

    recipes: Entries = Field(("toponas-fixed-darts",), description="recipes whose searches to follow")
    epochs: Numbers = Field(
        (20, 30, 40, 50), description="search epochs to derive a cell after, counted through all stages"
    )
    seeds: Seeds = Field((0, 1, 2), description="seeds of the searches; retrain.seeds=[0] unless changed")


def measure(bench: Bench, options: Stability) -> Outcome:
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
        lambda path: _plots.curves(lines, "search epoch", "test accuracy, %", path),
        len(options.seeds),
        {line.label: {"epochs": line.x, "mean": line.mean, "std": line.std} for line in lines},
        [*map(_in_words, lines), scale(record)],
    )


def _cells(recipe: Recipe, path: Path, display: Display) -> Record:
    """Search; the genotype derived after each epoch, in order."""
    rows = search_epochs(searched(recipe, path, display))
    space = setup.build_space(recipe)
    header = {"format": 1, "space": space.name, "skeleton": space.skeleton}
    return {"cells": [Genotype.from_dict({**header, "cells": epoch.row["derived"]}).to_dict() for epoch in rows]}


def _line(label: str, rows: list[dict[str, Any]]) -> _plots.Curve:
    epochs = sorted({row["epoch"] for row in rows})
    spreads = [spread([row["accuracy %"] for row in rows if row["epoch"] == epoch]) for epoch in epochs]
    return _plots.Curve(label, epochs, [mean for mean, _ in spreads], [std for _, std in spreads])


def _in_words(line: _plots.Curve) -> str:
    parts = [
        f"epoch {epoch:g}: {mean:.2f}{'' if std is None else f' ± {std:.2f}'} %"
        for epoch, mean, std in zip(line.x, line.mean, line.std)
    ]
    return f"{line.label}: {', '.join(parts)}."
