"""What a topology search adds to an operation search: the cell by the policy of DARTS, and by DOTS' search of edges."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from topocell.config.load import reselected
from topocell.config.recipe import Recipe
from topocell.errors import RecipeError
from topocell.genotype.genotype import Genotype
from topocell.reporting.terminal import Display
from topocell.runs import setup
from topocell.runs.moments import moment_of
from topocell.selection.rules import derive
from topocell.studies import _plots
from topocell.studies._items import Bench, Outcome, Record
from topocell.studies._options import Arm, Entries, Searches, Seeds, reserved
from topocell.studies._training import accuracies, begin, retrained, scale, searched, spread
from topocell.supernet.arch_state import ArchState

#: The two cells of a search, in the order of the table.
KINDS = ("without", "with")

#: Accuracy in percent without and with the topology search in DOTS, Table 2, by recipe and dataset.
PUBLISHED = {
    ("dots-over-darts", "cifar10"): (97.02, 97.40),
    ("dots-over-darts-2nd", "cifar10"): (97.01, 97.12),
    ("dots-over-gdas", "cifar10"): (96.84, 97.06),
    ("dots-over-snas", "cifar10"): (97.05, 97.26),
    ("dots-over-pc-darts", "cifar10"): (97.28, 97.45),
    ("dots-over-darts", "cifar100"): (80.74, 83.07),
    ("dots-over-darts-2nd", "cifar100"): (81.37, 83.28),
    ("dots-over-gdas", "cifar100"): (82.75, 83.01),
    ("dots-over-snas", "cifar100"): (81.92, 83.25),
    ("dots-over-pc-darts", "cifar100"): (81.74, 82.36),
}


class TopologySearch(Searches):
    """Options of `topology-search`."""

    recipes: Entries = Field(
        tuple(f"dots-over-{method}" for method in ("darts", "darts-2nd", "gdas", "snas", "pc-darts")),
        description="recipes that search for operations first, then for edges",
    )
    stage: str = Field("operations", description="stage after which the policy of DARTS derives its cell")
    seeds: Seeds = Field((0, 1, 2), description="seeds of the searches; retrain.seeds=[0] unless changed")

    @model_validator(mode="after")
    def _moments_are_the_studys(self) -> "TopologySearch":
        reserved(self, selection_stage="use stage=..")
        return self


def measure(bench: Bench, options: TopologySearch) -> Outcome:
    """Two cells of one operation search: by the policy of DARTS at its end, and by the topology search that follows.

    Each recipe is searched once per seed. `without` is the cell after the stage of the operations: of each edge the
    strongest operation besides none, of each node the two strongest edges. `with` is the cell at the end of the search,
    as the recipe derives it. Both are retrained alike; equal cells of a search once. The ± is over the seeds of the
    search, and the difference is that of the two cells of each search. The cells of the first seed are drawn, with the
    operations of all edges, as in Figure 4.

    Raises:
        RecipeError: a recipe without that stage, or whose search ends with it.
    """
    arms = options.arms()
    for arm in arms:
        _check(arm, options.stage)
    begin(bench, 3 * len(arms) * len(options.seeds), {arm.label: arm.any for arm in arms}, options.seeds)
    rows: list[dict[str, Any]] = []
    values: dict[str, dict[str, list[float]]] = {}
    drawings: dict[str, Record] = {}
    said = ""
    for arm in arms:
        values[arm.label] = {kind: [] for kind in KINDS}
        for seed, recipe in arm.recipes.items():
            key = f"{arm.key}-seed-{seed}"
            found = bench.trained(f"{key}-search", _cells, recipe, options.stage)
            if seed == options.seeds[0]:
                drawings |= {f"cells-{arm.key}-{kind}": found[kind] for kind in ("operations", *KINDS)}
            for kind in KINDS:
                cell = Genotype.from_dict(found[kind])
                record = bench.trained(f"{key}-cell-{cell.key}", retrained, recipe, cell)
                values[arm.label][kind].append(spread(accuracies(record))[0])
                said = scale(record)
        rows += _rows(arm, values[arm.label])
    return Outcome(
        rows,
        lambda path: _plots.grouped_bars(_named(values), "test accuracy, %", path),
        len(options.seeds),
        {"accuracies": values},
        [
            f"Searches per recipe: {len(options.seeds)}; both cells of a search have the operations of one stage. "
            f"{said}",
            "The figures of the paper are those of its Table 2, whose retraining is that of budget paper.",
        ],
        drawings,
    )


def _check(arm: Arm, stage: str) -> None:
    """Raise RecipeError for a search that has no topology search after the stage."""
    made = reselected(arm.any, {"stage": stage})
    if made.search.stages[-1].name == stage:
        raise RecipeError(
            f"a topology search follows the stage of the operations, but {stage!r} is the last stage of {arm.label}; "
            f"take a recipe like dots-over-darts, or name an earlier stage"
        )


def _cells(recipe: Recipe, stage: str, path: Path, display: Display) -> Record:
    """Search; the cell after a stage by the policy of DARTS, the one at the end, and the operations of all edges."""
    records = searched(recipe, path, display)
    made = setup.Setup.of(recipe)
    moments = [moment_of(reselected(recipe, {"stage": s.name}), path, records) for s in recipe.search.stages]
    ends = {moment.stage.name: moment for moment in moments if moment is not None}
    last = ends[recipe.search.stages[-1].name]
    darts = replace(made.rules, operations="magnitude", edges="magnitude")
    rules = {"operations": replace(darts, edges="all", budget=None), "without": darts, "with": last.rules(made.rules)}

    def cell(arch: ArchState, kind: str) -> dict[str, Any]:
        return derive(arch, rules[kind]).genotype(made.space, {"recipe": recipe.name, "seed": recipe.seed}).to_dict()

    early, late = ends[stage].architecture(made.space), last.architecture(made.space)
    return {"operations": cell(early, "operations"), "without": cell(early, "without"), "with": cell(late, "with")}


def _rows(arm: Arm, values: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """The two rows of a recipe; `difference %` is the mean over its searches of what the topology search adds."""
    paper = PUBLISHED.get((arm.any.name, arm.any.data.dataset), (None, None))
    rows: list[dict[str, Any]] = []
    for kind, published in zip(KINDS, paper, strict=True):
        mean, std = spread(values[kind])
        added, around = spread([own - before for own, before in zip(values[kind], values["without"], strict=True)])
        row = {"recipe": arm.label, "topology search": kind, "n": len(values[kind]), "accuracy %": mean, "± %": std}
        rows.append({**row, "difference %": added, "difference ± %": around, "paper %": published})
    return rows


def _named(values: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, list[float]]]:
    return {
        label.removeprefix("dots-over-"): {f"{kind} topology search": of[kind] for kind in KINDS}
        for label, of in values.items()
    }
