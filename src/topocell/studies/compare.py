"""Recipes side by side: the same seeds, data and retraining, accuracy of the cells that their searches find."""

from typing import Any

from pydantic import Field

from topocell.genotype.genotype import Genotype
from topocell.studies import _plots
from topocell.studies._items import Bench, Outcome, Record
from topocell.studies._options import Entries, Searches, Seeds
from topocell.studies._statistics import Comparison, format_p, holm, interval_text, summary, verdict
from topocell.studies._statistics import compare as against
from topocell.studies._training import accuracies, begin, parameters, scale, spread, whole_run


class Compared(Searches):
    """Options of `compare`."""

    seeds: Seeds = Field((0, 1, 2), description="seeds of the searches; retrain.seeds=[0] unless changed")


class Views(Compared):
    """Options of `views`."""

    recipes: Entries = Field(
        ("toponas-fixed-darts", "toponas-input-view", "darts-v2", "darts-v2 selection.edges=magnitude-outgoing"),
        description="the recipes, the reference first",
    )


class Joint(Compared):
    """Options of `joint`."""

    recipes: Entries = Field(
        ("toponas-fixed-darts", "toponas-joint", "toponas-arbitrary-darts", "toponas-joint-arbitrary"),
        description="the recipes, the reference first",
    )


def measure(bench: Bench, options: Compared) -> Outcome:
    """Every recipe is searched, derived and retrained once per seed. The ± is over the seeds of the search.

    A run's accuracy is the mean over its retraining seeds, last epoch. `difference %` is the mean of the differences
    to the first recipe at equal seeds. p is that of Welch's test against it, corrected for all recipes; `topocell
    sweep` does the same with several workers, settings and protocols.
    """
    arms = options.arms()
    begin(bench, len(arms) * len(options.seeds), {arm.label: arm.any for arm in arms}, options.seeds)
    values: dict[str, list[float]] = {}
    rows: list[dict[str, Any]] = []
    tests: dict[str, Comparison] = {}
    for arm in arms:
        records = [bench.trained(f"{arm.key}-seed-{s}", whole_run, recipe) for s, recipe in arm.recipes.items()]
        values[arm.label] = [spread(accuracies(record))[0] for record in records]
        found = summary(values[arm.label])
        own, first_ones = (dict(enumerate(values[label])) for label in (arm.label, arms[0].label))
        if arm is not arms[0]:
            tests[arm.label] = against(own, first_ones)
        differences = [own - first for own, first in zip(values[arm.label], values[arms[0].label])]
        cells = [Genotype.from_dict(record["genotype"]) for record in records]
        rows.append(
            {
                "recipe": arm.label,
                "n": len(records),
                "accuracy %": found.mean,
                "± %": found.std,
                "95 % interval": interval_text(found.low, found.high),
                "difference %": spread(differences)[0],
                "difference ± %": spread(differences)[1],
                "parameters": _mean_parameters(records),
                "skips": spread([skips(cell) for cell in cells])[0],
                "search seconds": spread([record["timings"]["search"] for record in records])[0],
                "published": arm.any.published,
            }
        )
    corrected = dict(zip(tests, holm([test.p for test in tests.values()])))
    for row in rows:
        row["p (Welch)"] = format_p(corrected[row["recipe"]]) if row["recipe"] in tests else None
    several = sum(test.p is not None for test in tests.values())
    verdicts = [verdict(label, arms[0].label, test, corrected[label], several) for label, test in tests.items()]
    return Outcome(
        rows,
        lambda path: _plots.dots(values, "test accuracy, %", path),
        len(options.seeds),
        {"accuracies": values},
        [*verdicts, f"Searches per recipe: {len(options.seeds)}. {scale(records[0])}"],
    )


def _mean_parameters(records: list[Record]) -> float | None:
    found = [size for record in records if (size := parameters(record)) is not None]
    return spread(found)[0] if found else None


def skips(genotype: Genotype) -> int:
    """Skip connections in all cell types."""
    return sum(genotype.operations(cell_type)["skip_connect"] for cell_type in genotype.cells)
