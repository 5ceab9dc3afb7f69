"""Accuracy of the cells that a study has found: looked up where there is a table, otherwise by retraining."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from topocell.config.recipe import Recipe
from topocell.data.accuracy_table import AccuracyTable
from topocell.genotype.genotype import Genotype
from topocell.runs import setup
from topocell.runtime.workers import Task
from topocell.studies._items import Bench, Record
from topocell.studies._options import Arm
from topocell.studies._plots import Curve
from topocell.studies._training import accuracies, retrained, scale, spread
from topocell.studies.compare import skips

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Found:
    """A cell, the search it comes from, and further values of its row, by column."""

    arm: Arm
    seed: int
    genotype: Genotype
    named: Mapping[str, Any]

    @property
    def recipe(self) -> Recipe:
        """The recipe of its search."""
        return self.arm.recipes[self.seed]

    @property
    def item(self) -> str:
        """Name of the item that retrains it: equal cells of one search share it."""
        return f"{place(self.arm, self.seed)}-cell-{self.genotype.key}"


def place(arm: Arm, seed: int) -> str:
    """Return the prefix of the items of one search."""
    return f"{arm.key}-seed-{seed}"


def valued(bench: Bench, found: Sequence[Found], columns: Sequence[str] = ()) -> tuple[Rows, str]:
    """A table row per cell, and a sentence on what the accuracies rest on.

    Rows have `recipe`, `seed`, what the cell is named by, `cell`, `accuracy %`, `regret %` (the distance to the best
    cell of the table; None for a retrained cell) and `skips`. Equal cells of one search are retrained once.
    With `columns` of the table there is a row for each of them, which it names as `column`, in place of one in that of
    the recipe.
    """
    tables = {
        one.arm.key: (one.recipe, setup.load_ground_truth(one.recipe)) for one in {f.arm.key: f for f in found}.values()
    }
    tasks = {f.item: Task(f.item, retrained, (f.recipe, f.genotype)) for f in found if tables[f.arm.key][1] is None}
    records = bench.all_trained(list(tasks.values()))
    rows: Rows = []
    for one in found:
        recipe, table = tables[one.arm.key]
        for column in columns or (recipe.ground_truth.column,):
            accuracy, regret = _worth(one, column, table, records)
            place = {"recipe": one.arm.label, "seed": one.seed, **({"column": column} if columns else {})}
            named = {**place, **one.named, "cell": one.genotype.key}
            rows.append({**named, "accuracy %": accuracy, "regret %": regret, "skips": skips(one.genotype)})
    if records:
        return rows, scale(next(iter(records.values())))
    read = dict.fromkeys(columns or [recipe.ground_truth.column for recipe, _ in tables.values()])
    words = f"column{'s'[: len(read) > 1]} {', '.join(read)}"
    return rows, f"Accuracies are those of the {words} of the table of true accuracies."


def _worth(
    one: Found, column: str, table: AccuracyTable | None, records: Mapping[str, Record]
) -> tuple[float, float | None]:
    """Accuracy of a cell and, with a table, its regret, both in percent."""
    if table is None:
        return spread(accuracies(records[one.item]))[0], None
    return table.lookup(one.genotype).accuracy[column], table.regret(one.genotype, column)


def curves_of(rows: Rows, x: str, y: str, *by: str) -> list[Curve]:
    """A curve of column `y` over the whole numbers in column `x` for each value of the columns `by`."""
    lines = []
    for names in dict.fromkeys(tuple(row[column] for column in by) for row in rows):
        mine = [row for row in rows if tuple(row[column] for column in by) == names]
        at = sorted({row[x] for row in mine})
        spreads = [spread([row[y] for row in mine if row[x] == value]) for value in at]
        lines.append(Curve(", ".join(names), at, [mean for mean, _ in spreads], [std for _, std in spreads]))
    return lines


def as_summary(lines: Sequence[Curve], x: str) -> dict[str, Any]:
    """Curves for study.json."""
    return {line.label: {x: line.x, "mean": line.mean, "std": line.std} for line in lines}


def in_words(line: Curve, x: str) -> str:
    """A curve at its first, best and last point."""
    best = max(range(len(line.x)), key=lambda i: line.mean[i])
    parts = [
        f"{x} {line.x[i]:g}: {line.mean[i]:.2f}{'' if (std := line.std[i]) is None else f' ± {std:.2f}'} %"
        for i in sorted({0, best, len(line.x) - 1})
    ]
    return f"{line.label}: {', '.join(parts)} (first, best and last)."
