"""A study of cells in networks of several depths (TopoNAS, Tables 3 and 4; Stretchable Cells, Figure 1)."""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import Field, model_validator

from topocell.config.load import resolved
from topocell.reporting.style import labels
from topocell.runs.directory import RunDir
from topocell.runtime.workers import Task
from topocell.studies import _plots
from topocell.studies._cells import NamedCell, named_cells, refuse_ground_truth
from topocell.studies._items import Bench, Outcome, Record
from topocell.studies._options import Entries, Numbers, Training, reserved
from topocell.studies._training import accuracies, begin, parameters, retrained, scale, spread

#: Stem → published cell → cells of the network → test accuracy in percent: on CIFAR-10 with 36 channels (TopoNAS,
#: Table 3), on ImageNet with 48 (Table 4).
PUBLISHED: Mapping[str, Mapping[str, Mapping[int, float]]] = {
    "cifar": {"darts-v2": {10: 96.98, 12: 96.99, 16: 97.16, 20: 97.26}},
    "imagenet": {"darts-v2": {10: 72.1, 12: 73.2, 14: 74.2, 16: 74.6, 20: 74.8}},
}


class Depth(Training):
    """Options of `depth`."""

    growing = frozenset({"genotypes", "layers"})

    genotypes: Entries = Field(description="published cells, genotype.json files, run directories, or texts")
    retrain_as: str | None = Field(
        None,
        description="recipe whose data and retraining to use; unset: that of the first cell's run, or darts-v1 where "
        "it comes from no run",
    )
    layers: Numbers = Field((10, 12, 16, 20), description="numbers of cells of the network")

    @model_validator(mode="after")
    def _own_changes(self) -> "Depth":
        reserved(self, retrain_layers="use layers=[..]", protocol="cells are retrained in full here; leave it out")
        return self


def measure(bench: Bench, options: Depth) -> Outcome:
    """Every cell, retrained in networks of different depth. The ± is over the retraining seeds of the recipe.

    All cells are retrained as one recipe says. `search layers` is the depth of the supernet that a run has found its
    cell with; the figure has an open marker there. `published %` is 100 minus the error of TopoNAS: Table 3 for
    networks of 36 channels on CIFAR-10, Table 4 for networks with the ImageNet stem.

    Raises:
        GenotypeError: no such cell, or one cell under two names. SpaceError: a cell whose network cannot be built.
        RecipeError: a table of true accuracies is named.
    """
    cells = named_cells(options.genotypes)
    place = cells[0].recipe_path
    entry = options.retrain_as or ("darts-v1" if place is None else shlex.quote(str(place)))
    recipes = {n: options.recipe(entry, last=[f"retrain.layers={n}", "protocol=full"]) for n in options.layers}
    refuse_ground_truth("depth", recipes.values())
    searched = {cell.item: search_layers(cell) for cell in cells}
    seeds = recipes[options.layers[0]].retrain.seeds
    named = {f"{n} layers": recipe for n, recipe in recipes.items()}
    begin(bench, len(cells) * len(recipes), named, seeds, [cell.genotype for cell in cells])
    tasks = {
        (cell.item, n): Task(f"{cell.item}-layers-{n}", retrained, (recipe, cell.genotype))
        for cell in cells
        for n, recipe in recipes.items()
    }
    made = bench.all_trained(list(tasks.values()))
    known = PUBLISHED[recipes[options.layers[0]].retrain.stem]
    rows = [
        _row(cell, n, made[tasks[cell.item, n].key], searched[cell.item], known.get(cell.item, {}).get(n))
        for cell in cells
        for n in options.layers
    ]
    lines = [_line(cell, [row for row in rows if row["cell"] == cell.genotype.key]) for cell in cells]
    drawn = [replace(line, label=label) for line, label in zip(lines, labels(line.label for line in lines))]
    return Outcome(
        rows,
        lambda path: _plots.curves(drawn, "cells of the network", "test accuracy, %", path),
        len(seeds),
        {line.label: {"layers": line.x, "mean": line.mean, "std": line.std} for line in lines},
        [*map(_in_words, lines), scale(made[next(reversed(made))])],
    )


def search_layers(cell: NamedCell) -> int | None:
    """Return the cells of the supernet that a run had at the end of its search; None for a cell that was not searched.

    Raises as `RunDir.existing`.
    """
    if cell.recipe_path is None:
        return None
    with RunDir.existing(cell.recipe_path.parent, lock=False) as directory:
        if not directory.has_named("supernet"):
            return None
        search = resolved(directory.recipe_yaml).search
    return search.stages[-1].layers or search.layers


def _row(cell: NamedCell, layers: int, record: Record, searched: int | None, published: float | None) -> dict[str, Any]:
    mean, std = spread(accuracies(record))
    return {
        "genotype": cell.label,
        "cell": cell.genotype.key,
        "layers": layers,
        "n": len(accuracies(record)),
        "accuracy %": mean,
        "± %": std,
        "channels": record["results"]["channels"],
        "parameters": parameters(record),
        "multiply_adds": record["results"]["multiply_adds"],
        "search layers": searched,
        "published %": published,
    }


def _line(cell: NamedCell, rows: list[dict[str, Any]]) -> _plots.Curve:
    """The curve of a cell, by growing depth."""
    rows = sorted(rows, key=lambda row: row["layers"])
    at, mean, std = ([row[column] for row in rows] for column in ("layers", "accuracy %", "± %"))
    return _plots.Curve(cell.label, at, mean, std, [n for n in at if n == rows[0]["search layers"]])


def _in_words(line: _plots.Curve) -> str:
    best = max(range(len(line.x)), key=lambda i: line.mean[i])
    return f"{line.label}: best with {line.x[best]} cells, {line.mean[best]:.2f} %."
