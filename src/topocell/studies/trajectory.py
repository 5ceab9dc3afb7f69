"""DARTS-PT, Figures 4 and 8: what would be selected from one supernet in the course of its search."""

from collections.abc import Sequence

from pydantic import Field

from topocell.config.recipe import Recipe
from topocell.config.selection import PERTURBATION
from topocell.errors import RecipeError
from topocell.genotype.genotype import Genotype
from topocell.relaxation import RELAXATIONS
from topocell.runs import setup
from topocell.runtime.workers import Task
from topocell.studies._courses import LookedUp, course
from topocell.studies._items import Bench, Outcome
from topocell.studies._options import Arm, Entries, Numbers, Seeds
from topocell.studies._snapshots import epochs_to_see, photographed, selected, snapshot
from topocell.studies._training import begin
from topocell.studies._worth import Found, place, valued


class Trajectory(LookedUp):
    """Options of `trajectory`."""

    recipes: Entries = Field(
        ("nb201-pt", "nb201-pt-blank"), description="recipes whose searches to follow, each with its own selection"
    )
    epochs: Numbers | None = Field(
        None, description="search epochs to project the supernet after; unset: five of the last stage, evenly spaced"
    )
    seeds: Seeds = Field((0, 1, 2), description="seeds of the searches; retrain.seeds=[0] unless changed")


def measure(bench: Bench, options: Trajectory) -> Outcome:
    """Accuracy of the cells that magnitude and perturbation select in the course of a search. The ± is over searches.

    Each recipe is searched once per seed, and its supernet kept after the epochs that are named; there it is projected
    as the recipe's selection says. The cell of the largest weights comes from the search's own log: at every epoch
    where a table has its true accuracy, at the named epochs where cells are retrained. Of a search that never moves
    its weights of operations (fixed α) that cell means nothing and is left out. Epochs count through all stages.

    Raises:
        RecipeError: an epoch outside the last stage of a search, or a recipe with nothing to select.
    """
    arms = options.checked_arms()
    epochs = {arm.key: epochs_to_see(arm.label, arm.any, options.epochs) for arm in arms}
    for arm in arms:
        if not (_learns(arm.any) or arm.any.selection.rules(0).project):
            raise RecipeError(
                f"a trajectory needs a search that moves α or a selection by perturbation, but {arm.label} has "
                f"neither; use selection.operations=perturbation"
            )
    items = sum(len(arm.recipes) * _items(arm.any, len(epochs[arm.key])) for arm in arms)
    begin(bench, items, {arm.label: arm.any for arm in arms}, options.seeds)
    rows, scale = valued(bench, _followed(bench, arms, epochs), options.columns)
    by, n = ("recipe", "selection"), len(options.seeds)
    return course(rows, scale, options.columns, x="epoch", by=by, label="search epoch", n=n)


def _learns(recipe: Recipe) -> bool:
    """Return whether the search moves weights of operations."""
    return any(
        stage.level != "weights" and stage.epochs > stage.warmup and RELAXATIONS[stage.relaxation.name].learned
        for stage in recipe.search.stages
    )


def _items(recipe: Recipe, epochs: int) -> int:
    """The search, its projections and, at most, cells to retrain."""
    projects = recipe.selection.rules(0).project
    retrained = 0 if setup.load_ground_truth(recipe) else epochs * (_learns(recipe) + projects)
    return 1 + epochs * projects + retrained


def _followed(bench: Bench, arms: Sequence[Arm], epochs: dict[str, list[int]]) -> list[Found]:
    """All searches, all projections of their supernets, and the cells of both."""
    every = [(arm, seed, recipe, place(arm, seed)) for arm in arms for seed, recipe in arm.recipes.items()]
    searches = bench.all_trained(
        [Task(f"{key}-search", photographed, (recipe, epochs[arm.key])) for arm, _, recipe, key in every]
    )
    projections = bench.all_trained(
        [
            Task(f"{key}-epoch-{epoch}", selected, (recipe, bench.path / "runs" / f"{key}-search", snapshot(epoch)))
            for arm, _, recipe, key in every
            for epoch in epochs[arm.key]
            if recipe.selection.rules(0).project
        ]
    )
    told = {arm.key: setup.load_ground_truth(arm.any) is not None for arm in arms}
    found: list[Found] = []
    for arm, seed, recipe, key in every:
        rule, decide_by = recipe.selection.operations, recipe.selection.projection.decide_by
        for epoch, record in enumerate(searches[f"{key}-search"]["epochs"], start=1):
            if _learns(recipe) and (told[arm.key] or epoch in epochs[arm.key]):
                named = {"epoch": epoch, "selection": "magnitude" if rule == PERTURBATION else rule}
                found.append(Found(arm, seed, Genotype.from_dict(record["genotype"]), named))
        for epoch in epochs[arm.key]:
            if (projected := projections.get(f"{key}-epoch-{epoch}")) is not None:
                way = decide_by if decide_by == PERTURBATION else f"{decide_by} with tuning"
                named = {"epoch": epoch, "selection": way}
                found.append(Found(arm, seed, Genotype.from_dict(projected["genotype"]), named))
    return found
