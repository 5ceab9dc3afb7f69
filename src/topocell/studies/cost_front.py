"""Accuracy against cost: one recipe under several weights of the penalty on cost."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from topocell.config.values import NonNegative, Positive
from topocell.errors import RecipeError
from topocell.genotype.genotype import Genotype
from topocell.reporting.tables import format_count
from topocell.spaces.costs import UNITS, Measure
from topocell.studies import _plots
from topocell.studies._items import Bench, Outcome, Record
from topocell.studies._options import Entries, Searches, Seeds, distinct, reserved
from topocell.studies._training import accuracies, begin, scale, spread, whole_run
from topocell.studies.compare import skips

Weights = Annotated[tuple[NonNegative, ...], Field(min_length=1), BeforeValidator(distinct)]


class CostFront(Searches):
    """Options of `cost-front`."""

    recipes: Entries = Field(("darts-v1",), description="recipes to search by, each a line of the figure")
    weights: Weights = Field((0.0, 0.1, 1.0), description="weights of the penalty, see search.cost.weight")
    measure: Measure = Field("parameters", description="parameters, multiply_adds or latency")
    target: Positive | None = Field(None, description="cost up to which nothing is penalised; unset: none")
    seeds: Seeds = Field((0, 1, 2), description="seeds of the searches; retrain.seeds=[0] unless changed")

    @model_validator(mode="after")
    def _penalty_is_the_studys(self) -> "CostFront":
        reserved(self, search_cost="use weights=[..], measure=.. and target=..")
        return self

    def penalty(self, weight: float) -> list[str]:
        """The changes to a recipe for one weight."""
        target = "null" if self.target is None else self.target
        return [f"search.cost.measure={self.measure}", f"search.cost.weight={weight}", f"search.cost.target={target}"]


def measure(bench: Bench, options: CostFront) -> Outcome:
    """Every recipe is searched, derived and retrained once per seed under each weight of the penalty on cost.

    Weight 0 is the search without a penalty. Costs are those of the derived cell's network as it is retrained; the ± is
    over the seeds of the search. `on the front` says that no other mean of the table is more accurate and no
    dearer, or cheaper and no less accurate.

    Raises:
        RecipeError: a recipe whose channels are chosen for a number of parameters.
    """
    arms = [(weight, arm) for weight in options.weights for arm in options.arms(*options.penalty(weight))]
    for _, arm in arms:
        if arm.any.retrain.parameters is not None:
            raise RecipeError(
                f"cost-front compares cells at equal channels, but retrain.parameters of {arm.label} chooses them for "
                f"each cell; set retrain.parameters=null and retrain.channels"
            )
    named = {f"{arm.label}, weight {weight:g}": arm.any for weight, arm in arms}
    begin(bench, len(arms) * len(options.seeds), named, options.seeds)
    rows: list[dict[str, Any]] = []
    points: list[_plots.Front] = []
    for weight, arm in arms:
        records = [
            bench.trained(f"{arm.key}-weight-{weight:g}-seed-{seed}", whole_run, recipe)
            for seed, recipe in arm.recipes.items()
        ]
        accuracy = [spread(accuracies(record))[0] for record in records]
        cost = [_cost(record, options.measure) for record in records]
        points.append(_plots.Front(arm.label, f"{weight:g}", cost, accuracy))
        mean, std = spread(accuracy)
        row = {"recipe": arm.label, "weight": weight, "n": len(records), "accuracy %": mean, "± %": std}
        names = dict.fromkeys([*("parameters", "multiply_adds"), str(options.measure)])
        sizes = {name: spread([_cost(record, name) for record in records])[0] for name in names}
        of_measure = spread(cost)[1]
        cells = [Genotype.from_dict(record["genotype"]) for record in records]
        last = {
            "skips": spread([skips(cell) for cell in cells])[0],
            "search seconds": spread([record["timings"]["search"] for record in records])[0],
        }
        rows.append({**row, **sizes, f"± {options.measure}": of_measure, **last})
    front = _plots.non_dominated([(row[options.measure], row["accuracy %"]) for row in rows])
    rows = [{**row, "on the front": number in front} for number, row in enumerate(rows)]
    unit = UNITS[options.measure]
    axis = f"latency, {unit}" if options.measure == "latency" else unit
    return Outcome(
        rows,
        lambda path: _plots.front(points, f"{axis} of the derived cell's network", "test accuracy, %", path),
        len(options.seeds),
        {"front": [{key: rows[i][key] for key in ("recipe", "weight", options.measure, "accuracy %")} for i in front]},
        [_in_words(rows, front, options.measure), scale(records[0])],
    )


def _cost(record: Record, name: str) -> float:
    """What a derived cell costs, as its genotype says."""
    return float(record["genotype"]["origin"]["cost"][name])


def _in_words(rows: Sequence[dict[str, Any]], front: Sequence[int], name: str) -> str:
    parts = []
    for row in (rows[i] for i in front):
        cost = f"{row[name]:.4g} ms" if name == "latency" else f"{format_count(row[name])} {UNITS[name]}"
        parts.append(f"{row['recipe']} with weight {row['weight']:g}: {row['accuracy %']:.2f} % at {cost}")
    return f"On the front, by cost: {'; '.join(parts)}."
