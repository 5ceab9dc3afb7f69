"""eDARTS, Table III: whether the accuracy of a small network tells how good a cell is in the large one."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from topocell.config.load import shallow_of
from topocell.config.recipe import Recipe
from topocell.runtime.workers import Task
from topocell.studies import _plots
from topocell.studies._cells import NamedCell, named_cells, refuse_ground_truth
from topocell.studies._items import Bench, Outcome, Record
from topocell.studies._options import Entries, Seeds, Training, reserved
from topocell.studies._training import accuracies, begin, parameters, retrained, scale, spread
from topocell.studies.wirings import agreement, agreement_in_words

#: Published cell → mean test accuracy in percent of ten shallow networks on CIFAR-10 (eDARTS, Table III).
PUBLISHED: Mapping[str, float] = {"darts-v1": 90.14, "darts-v2": 91.37, "p-darts": 92.76, "pc-darts-cifar": 93.00}


class ShallowFinal(Training):
    """Options of `shallow-final`."""

    growing = frozenset({"genotypes"})

    genotypes: Entries = Field(
        tuple(PUBLISHED), description="published cells, genotype.json files, run directories, or texts"
    )
    retrain_as: str = Field("darts-v1", description="recipe whose data, shallow evaluation and retraining to use")
    seeds: Seeds | None = Field(
        None,
        description="trainings of both networks of each cell; unset: shallow.seeds, ten as published, and "
        "retrain.seeds, [0] unless changed",
    )

    @model_validator(mode="after")
    def _own_changes(self) -> "ShallowFinal":
        reserved(self, protocol="every cell is trained both ways here; leave it out")
        if self.seeds is not None:
            both = "seeds=[..] sets them for both networks; leave one of them out"
            reserved(self, shallow_seeds=both, retrain_seeds=both)
        return self

    def both(self) -> dict[str, Recipe]:
        """The recipes of the shallow networks and of the final ones. Raises RecipeError."""
        seeds = None if self.seeds is None else f"[{','.join(map(str, self.seeds))}]"
        last = [] if seeds is None else [f"shallow.seeds={seeds}", f"retrain.seeds={seeds}"]
        final = self.recipe(self.retrain_as, "retrain.seeds=[0]", last=[*last, "protocol=full"])
        return {"shallow": shallow_of(final), "final": final}


def measure(bench: Bench, options: ShallowFinal) -> Outcome:
    """Every cell trained as the shallow evaluation of eDARTS says, and retrained in full. The ± are over their seeds.

    Final networks of all cells are trained alike, where Table III quotes the papers of the cells, which differ in
    batch size and drop path. `published shallow %` is from Table III, `published final %` 100 minus the error that the
    paper of a cell gives for CIFAR-10. Kendall's τ-b and Spearman's ρ compare the order of the cells.

    Raises:
        GenotypeError: no such cell, or one cell under two names. SpaceError: a cell whose network cannot be built.
        RecipeError: a table of true accuracies is named.
    """
    cells, recipes = named_cells(options.genotypes), options.both()
    refuse_ground_truth("shallow-final", recipes.values())
    seeds = recipes["shallow"].retrain.seeds
    begin(bench, len(cells) * len(recipes), recipes, seeds, [cell.genotype for cell in cells])
    tasks = {
        (cell.item, kind): Task(f"{cell.item}-{kind}", retrained, (recipe, cell.genotype))
        for kind, recipe in recipes.items()  # all shallow networks first
        for cell in cells
    }
    made = bench.all_trained(list(tasks.values()))
    records = {cell.item: {kind: made[tasks[cell.item, kind].key] for kind in recipes} for cell in cells}
    rows = [_row(cell, **records[cell.item]) for cell in cells]
    found = agreement([row["shallow %"] for row in rows], [row["final %"] for row in rows])
    first = records[cells[0].item]
    return Outcome(
        rows,
        lambda path: _plots.scatter(_panels(rows), "shallow test accuracy, %", "final test accuracy, %", path),
        min(len(recipe.retrain.seeds) for recipe in recipes.values()),
        {
            "agreement": found,
            "accuracies": {
                cell.label: {kind: accuracies(record) for kind, record in records[cell.item].items()} for cell in cells
            },
        },
        [
            f"Shallow and final accuracy of {len(cells)} cells: {agreement_in_words(found)}.",
            *(f"{kind.capitalize()}, {r.retrain.layers} cells: {scale(first[kind])}" for kind, r in recipes.items()),
        ],
    )


def _row(cell: NamedCell, shallow: Record, final: Record) -> dict[str, Any]:
    (small, small_std), (large, large_std) = spread(accuracies(shallow)), spread(accuracies(final))
    return {
        "genotype": cell.label,
        "cell": cell.genotype.key,
        "n shallow": len(accuracies(shallow)),
        "shallow %": small,
        "shallow ± %": small_std,
        "n final": len(accuracies(final)),
        "final %": large,
        "final ± %": large_std,
        "shallow parameters": parameters(shallow),
        "final parameters": parameters(final),
        "published shallow %": PUBLISHED.get(cell.item),
        "published final %": cell.published_accuracy,
    }


def _panels(rows: list[dict[str, Any]]) -> dict[str, list[_plots.Named]]:
    """The points as measured, and as published where there are several."""
    measured = [
        _plots.Named(r["genotype"], r["shallow %"], r["final %"], r["shallow ± %"], r["final ± %"]) for r in rows
    ]
    columns = "published shallow %", "published final %"
    known = [
        _plots.Named(row["genotype"], *(row[column] for column in columns))
        for row in rows
        if None not in [row[column] for column in columns]
    ]
    return {"measured": measured} | ({"published, CIFAR-10": known} if len(known) > 1 else {})
