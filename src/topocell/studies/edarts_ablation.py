"""eDARTS, Table II: what fewer images and fewer architecture updates do to the skip connections of DARTS."""

from typing import Any

from pydantic import Field, model_validator

from topocell.config.load import shallow_of
from topocell.errors import RecipeError
from topocell.runs import setup
from topocell.runtime.workers import Task
from topocell.studies import _plots
from topocell.studies._items import Bench, Outcome
from topocell.studies._options import TRAININGS, Entries, Searches, Seeds, shallow_only
from topocell.studies._training import accuracies, begin, parameters, scale, spread, whole_run
from topocell.studies.subspaces import skips_of


class Ablation(Searches):
    """Options of `edarts-ablation`."""

    recipes: Entries = Field(
        ("darts-v2", "darts-subset", "darts-sparse", "darts-subset-sparse"),
        description="the recipes, the reference first",
    )
    seeds: Seeds = Field(tuple(range(5)), description=f"seeds of the searches; {TRAININGS}")

    _shallow = model_validator(mode="after")(shallow_only)


def measure(bench: Bench, options: Ablation) -> Outcome:
    """Skip connections, shallow accuracy, size and cost of the cells that searches find, once per recipe and seed.

    Skip connections are summed over the searches, as in the paper. The ± is over the searches, `n`; the accuracy of a
    cell is the mean of its `trainings`. Accuracy and parameters are means, and the seconds of the search are given as
    mean and as minimum. `times faster` compares minima with the first recipe.

    Raises:
        RecipeError: a space without the two cell types of DARTS.
    """
    arms = options.arms(*options.shallow_seeds)
    recipes = {(arm.label, seed): shallow_of(recipe) for arm in arms for seed, recipe in arm.recipes.items()}
    for arm in arms:
        if (cells := setup.build_space(arm.any).cells.keys()) != {"normal", "reduce"}:
            raise RecipeError(
                f"this study counts skip connections of the cells normal and reduce, but the space of {arm.label} has "
                f"{', '.join(cells)}; use a recipe of the DARTS space"
            )
    named = {arm.label: recipes[arm.label, options.seeds[0]] for arm in arms}
    begin(bench, len(recipes), named, options.seeds)
    keys = {(arm.label, seed): f"{arm.key}-seed-{seed}" for arm in arms for seed in options.seeds}
    made = bench.all_trained([Task(keys[at], whole_run, (recipe,)) for at, recipe in recipes.items()])
    values: dict[str, list[float]] = {}
    rows: list[dict[str, Any]] = []
    for arm in arms:
        records = [made[keys[arm.label, seed]] for seed in options.seeds]
        values[arm.label] = [spread(accuracies(record))[0] for record in records]
        mean, std = spread(values[arm.label])
        seconds = [record["timings"]["search"] for record in records]
        rows.append(
            {
                "recipe": arm.label,
                "n": len(records),
                "skips normal": skips_of(records, "normal"),
                "skips reduce": skips_of(records, "reduce"),
                "accuracy %": mean,
                "± %": std,
                "trainings": len(accuracies(records[0])),
                "parameters": spread([parameters(record) or 0 for record in records])[0],
                "search seconds": spread(seconds)[0],
                "least seconds": min(seconds),
                "times faster": (rows[0]["least seconds"] if rows else min(seconds)) / min(seconds),
                "published": arm.any.published,
            }
        )
    return Outcome(
        rows,
        lambda path: _plots.bars(values, "shallow test accuracy, %", path),
        len(options.seeds),
        {"accuracies": values, "skips": {r["recipe"]: r["skips normal"] + r["skips reduce"] for r in rows}},
        [f"Searches per recipe: {len(options.seeds)}. {scale(records[0])}"],
    )
