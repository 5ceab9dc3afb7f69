"""What a search knows of its cells: rankings by its architecture and by its supernet against true accuracy."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from topocell.config.cost import CostPlan
from topocell.config.recipe import Recipe
from topocell.data.accuracy_table import AccuracyTable
from topocell.errors import RecipeError, RunError
from topocell.genotype.genotype import Genotype
from topocell.runs import setup
from topocell.runtime.workers import Task
from topocell.selection.cell_scores import chosen_operations
from topocell.spaces.skeletons import stacking
from topocell.studies import _drawings
from topocell.studies._cell_rankings import drawn, ranked, searched_cell
from topocell.studies._items import Bench, Outcome, Record
from topocell.studies._options import Entries, Searches, distinct
from topocell.studies._snapshots import FINISHED
from topocell.studies._statistics import RankCorrelation, interval_text, rank_correlation, rank_correlations
from topocell.studies._training import begin, spread


class SupernetRanking(Searches):
    """Options of `supernet-ranking`."""

    growing: ClassVar[frozenset[str]] = frozenset({"runs"})

    recipes: Entries = Field(
        ("nb201-darts", "nb201-pc-darts", "nb201-subsets-incoming"),
        description="recipes with true accuracies to search by; unread with runs",
    )
    runs: Annotated[tuple[str, ...], BeforeValidator(distinct)] = Field(
        (), description="finished runs, or sweeps of which the finished runs count, in place of searching"
    )
    cells: int = Field(150, ge=3, description="cells to rank, drawn at random, the same for all")
    images: int | None = Field(1000, ge=1, description="held-out images per cell in the supernet; null: all")


@dataclass
class _Method:
    """The searches of one recipe: by seed its recipe, item, and the directory of a run that is taken as it is."""

    label: str
    recipes: dict[int, Recipe] = field(default_factory=dict)
    keys: dict[int, str] = field(default_factory=dict)
    runs: dict[int, Path] = field(default_factory=dict)

    @property
    def any(self) -> Recipe:
        return next(iter(self.recipes.values()))


def measure(bench: Bench, options: SupernetRanking) -> Outcome:
    """Rank the same random cells by what a search has learned and by their true accuracy.

    A cell has two scores. `weights`: the logarithm of its probability under α and β at temperature 1, less that under
    equal logits, so that cells of few edges are not taken for preferred ones. `supernet`: its accuracy in the supernet
    with its operations and edges alone, on held-out images, with the statistics of the batch. τ is Kendall's τ-b with
    the true accuracy, the mean over the searches of a recipe; its 95 % interval is a bootstrap over the cells. What
    random search with the supernet would choose is `supernet's best %`, the true accuracy of the cell that is best in
    the supernet; `derived %` is that of the cell which the recipe derives, and `derived beats %` the share of the
    drawn cells that are worse than it. `α entropy %` and `β entropy %` are in percent of that of equal logits, at
    temperature 1: 100 has decided nothing.

    Where operations are decided before the search ends, α and the supernet are those before; a finished run has
    kept that α alone. The cells are those that random search draws in the space of the first recipe, without
    repetitions and without those that another recipe cannot derive.

    Raises:
        RecipeError: a recipe without a table of true accuracies, or recipes that have no cells in common.
        RunError: a run that is not finished.
    """
    methods = _methods(options)
    table, column = _ground_truth(methods)
    first = next(iter(methods))
    cells = drawn([method.any for method in methods], options.cells)
    asked = [(method, seed) for method in methods for seed in method.recipes]
    items = sum(1 if seed in method.runs else 2 for method, seed in asked)
    keys = hashlib.sha256(" ".join(cell.key for cell in cells).encode()).hexdigest()[:16]
    searches = {method.keys[seed]: str(method.runs.get(seed, "")) for method, seed in asked}
    recipes = {method.label: method.any for method in methods}
    begin(bench, items, recipes, sorted({seed for _, seed in asked}), searches=searches, cells=keys)
    own = [(method, seed) for method, seed in asked if seed not in method.runs]
    bench.all_trained([Task(f"{m.keys[s]}-search", searched_cell, (m.recipes[s],)) for m, s in own])
    tasks = {}
    for method, seed in asked:
        path = method.runs.get(seed) or bench.path / "runs" / f"{method.keys[seed]}-search"
        args = (method.recipes[seed], path, [cell.to_dict() for cell in cells], options.images)
        tasks[method.keys[seed]] = Task(f"{method.keys[seed]}-ranking", ranked, args)
    records = bench.all_trained(list(tasks.values()))
    truth = _Truth.of(table, column, cells)
    better = truth.favoured([truth.values])
    size = rank_correlations([(sizes := _parameters(first.any, cells), truth.values)])
    found = [_Found.of(m, [records[tasks[m.keys[s]].key] for s in m.recipes], truth) for m in methods]
    return Outcome(
        [each.row() for each in found],
        lambda path: _drawings.rankings(
            [each.panel() for each in found], size.mean, "accuracy in the supernet, %", f"{column}, %", path
        ),
        min(len(method.recipes) for method in methods),
        {"cells": [cell.key for cell in cells], "true accuracy": truth.values, "parameters": _summary(size)}
        | {"operations": better, "recipes": {each.label: each.summary() for each in found}},
        [
            f"{len(cells)} cells, drawn as random search does with {first.label}; true accuracies are those of the "
            f"column {column}: {min(truth.values):.2f} to {max(truth.values):.2f} %, mean "
            f"{spread(truth.values)[0]:.2f} %. Intervals are over cells, for these searches.",
            f"True accuracy {_extremes(better)}; these are τ with the number of such operations in the cell.",
            f"The number of parameters, for which nothing is searched, has τ {size.in_words()}; the cell of most "
            f"parameters has {truth.values[_best(sizes)]:.2f} %.",
            *(each.in_words() for each in found),
        ],
    )


@dataclass(frozen=True)
class _Truth:
    """True accuracies in percent of the cells that are ranked, and how often each has each operation."""

    table: AccuracyTable
    column: str
    values: list[float]
    counts: dict[str, list[int]]

    @classmethod
    def of(cls, table: AccuracyTable, column: str, cells: Sequence[Genotype]) -> "_Truth":
        """Look the cells up."""
        chosen = [[op for own in cell.cells.values() for op in chosen_operations(own).values()] for cell in cells]
        counts = {op: [ops.count(op) for ops in chosen] for op in sorted({op for ops in chosen for op in ops})}
        return cls(table, column, [table.lookup(cell).accuracy[column] for cell in cells], counts)

    def favoured(self, rankings: Sequence[Sequence[float]]) -> dict[str, float]:
        """Operation → mean τ of its number with each ranking of the cells, where there is an order."""
        taus = {op: [rank_correlation(number, values) for values in rankings] for op, number in self.counts.items()}
        known = {op: [tau for tau in of if tau is not None] for op, of in taus.items()}
        return {op: spread(of)[0] for op, of in known.items() if of}


@dataclass(frozen=True)
class _Found:
    """What the searches of one recipe know; τ with the true accuracy unless it says otherwise.

    `weights` is that of α and β together, `alpha` and `beta` are those of each alone; `favoured` is that of the number
    of each operation with the accuracy in the supernet, and `favoured_by_weights` with what α and β say.
    """

    label: str
    n: int
    weights: RankCorrelation
    alpha: RankCorrelation
    beta: RankCorrelation
    supernet: RankCorrelation
    better_half: RankCorrelation
    between: RankCorrelation
    derived: list[float]
    beats: list[float]
    best: list[float]
    favourite: list[float]
    entropy: dict[str, list[float]]
    favoured: dict[str, float]
    favoured_by_weights: dict[str, float]
    seen: bool
    cloud: _drawings.Ranked

    @classmethod
    def of(cls, method: _Method, records: Sequence[Record], known: _Truth) -> "_Found":
        """Correlate the records of the searches of a recipe with the truth."""
        truth = known.values
        pairs = [(_weights(record), record["supernet"]) for record in records]
        weights = [of for of, _ in pairs if of is not None]
        supernets = [of for _, of in pairs if of is not None]
        half = [i for i, value in enumerate(truth) if value >= sorted(truth)[len(truth) // 2]]
        cells = [known.table.lookup(Genotype.from_dict(record["derived"])) for record in records]
        derived = [cell.accuracy[known.column] for cell in cells]
        entropy = {
            name: [record[f"{name}_entropy"] for record in records if record[f"{name}_entropy"] is not None]
            for name in ("alpha", "beta")
        }
        return cls(
            method.label,
            len(records),
            rank_correlations([(w, truth) for w in weights]),
            rank_correlations([(r["operations"], truth) for r in records if r["operations"] is not None]),
            rank_correlations([(r["wiring"], truth) for r in records if r["wiring"] is not None]),
            rank_correlations([(s, truth) for s in supernets]),
            rank_correlations([([s[i] for i in half], [truth[i] for i in half]) for s in supernets]),
            rank_correlations([(w, s) for w, s in pairs if w is not None and s is not None]),
            derived,
            [100 * sum(value < own for value in truth) / len(truth) for own in derived],
            [truth[_best(s)] for s in supernets],
            [truth[_best(w)] for w in weights],
            entropy,
            known.favoured(supernets),
            known.favoured(weights),
            any(record["seen"] for record in records),
            _cloud(records[0], truth, derived[0]),
        )

    def row(self) -> dict[str, Any]:
        """The row of the table."""
        return {
            "recipe": self.label,
            "n": self.n,
            "weights τ": _rounded(self.weights.mean),
            "weights interval": interval_text(self.weights.low, self.weights.high),
            "α τ": _rounded(self.alpha.mean),
            "β τ": _rounded(self.beta.mean),
            "supernet τ": _rounded(self.supernet.mean),
            "supernet interval": interval_text(self.supernet.low, self.supernet.high),
            "better half τ": _rounded(self.better_half.mean),
            "weights–supernet τ": _rounded(self.between.mean),
            "derived %": _mean(self.derived),
            "derived beats %": _mean(self.beats),
            "weights' best %": _mean(self.favourite),
            "supernet's best %": _mean(self.best),
            "α entropy %": _mean([100 * share for share in self.entropy["alpha"]]),
            "β entropy %": _mean([100 * share for share in self.entropy["beta"]]),
        }

    def summary(self) -> dict[str, Any]:
        """Key figures of every search, for study.json."""
        names = ("weights", "alpha", "beta", "supernet", "better_half", "between")
        taus = {name.replace("_", " "): _summary(getattr(self, name)) for name in names}
        cells = {"derived": self.derived, "beats": self.beats, "weights' best": self.favourite}
        liked = {"by supernet": self.favoured, "by weights": self.favoured_by_weights}
        return {**taus, **cells, "supernet's best": self.best, "entropy": self.entropy, "favoured": liked}

    def panel(self) -> _drawings.Ranked:
        """The figure's panel, of the first search, and τ of all of them."""
        taus = {"weights": self.weights, "supernet": self.supernet}
        return replace(self.cloud, title=self.label, taus={name: tau.each for name, tau in taus.items()})

    def in_words(self) -> str:
        """The findings in a few sentences."""
        parts = [f"its weights rank the cells with τ {self.weights.in_words()}{_told(self.weights)}"]
        if self.weights.mean is None:
            parts = ["it learns no weights"]
        if self.supernet.mean is None:
            parts.append("its supernet had lost operations of the cells before the run ended, so none was measured")
        else:
            seen = ", on images that its weights have seen" if self.seen else ""
            parts.append(f"its supernet with τ {self.supernet.in_words()}{_told(self.supernet)}{seen}")
            parts.append(f"the supernet {_extremes(self.favoured)}")
        moved = [
            f"{symbol} ended at {100 * spread(values)[0]:.0f} % of the entropy of equal logits"
            for symbol, values in zip("αβ", self.entropy.values())
            if values
        ]
        best = f", the best in the supernet {_mean(self.best):.2f} %" if self.best else ""
        cells = f"The derived cell has {_mean(self.derived):.2f} %{best}"
        return f"{self.label}: {'; '.join([*parts, *moved])}. {cells}; it beats {_mean(self.beats):.0f} % of the cells."


def _methods(options: SupernetRanking) -> list[_Method]:
    """The searches, by recipe. Raises RecipeError, RunError."""
    methods: dict[str, _Method] = {}
    if not options.runs:
        for arm in options.arms():
            keys = {seed: f"{arm.key}-seed-{seed}" for seed in arm.recipes}
            methods[arm.label] = _Method(arm.label, arm.recipes, keys)
        return list(methods.values())
    for run in dict.fromkeys(run for entry in options.runs for run in _finished(Path(entry))):
        recipe = options.recipe(str(run / "recipe.yaml"))
        number, label = 1, recipe.name
        while label in methods and not _belongs(methods[label], recipe):
            number, label = number + 1, f"{recipe.name} ({number + 1})"
        method = methods.setdefault(label, _Method(label))
        method.recipes[recipe.seed], method.runs[recipe.seed] = recipe, run
        method.keys[recipe.seed] = f"{recipe.name}{f'-{number}' if number > 1 else ''}-seed-{recipe.seed}"
    return list(methods.values())


def _belongs(method: _Method, recipe: Recipe) -> bool:
    """Return whether a recipe is that of a method with a seed that it lacks."""
    return recipe.seed not in method.recipes and recipe == method.any.model_copy(update={"seed": recipe.seed})


def _finished(entry: Path) -> list[Path]:
    """The run of a directory, or the finished ones of a sweep, by recipe and seed. Raises RunError."""

    def has_ended(run: Path) -> bool:
        return (run / "genotype.json").is_file() and (run / "checkpoints" / f"{FINISHED}.ckpt").is_file()

    own = (entry / "recipe.yaml").is_file()
    ended = [run for run in ([entry] if own else (entry / "runs").glob("*")) if has_ended(run)]
    if not ended:
        raise RunError(
            f"runs names finished runs, or sweeps with some, but {entry} is none; finish it, or leave it out"
        )
    return sorted(ended, key=lambda run: (run.name.rpartition("-")[0], len(run.name), run.name))


def _ground_truth(methods: Sequence[_Method]) -> tuple[AccuracyTable, str]:
    """The table of true accuracies and its column. Raises RecipeError."""
    columns = {method.any.ground_truth.column: method.label for method in methods}
    if len(columns) > 1:
        (one, label), (other, another) = list(columns.items())[:2]
        raise RecipeError(
            f"cells are ranked by one true accuracy, but ground_truth.column is {one} in {label} and {other} in "
            f"{another}; choose one"
        )
    table = None
    for method in methods:
        table = setup.load_ground_truth(method.any)
        if table is None:
            raise RecipeError(
                f"this study needs the true accuracy of every cell, but {method.label} has no table of them; name it "
                f"with ground_truth.table=PATH, and use recipes in its space"
            )
    assert table is not None
    return table, next(iter(columns))


def _parameters(recipe: Recipe, cells: Sequence[Genotype]) -> list[float]:
    """Parameters of the network of each cell at the size of the retraining."""
    costs = setup.Setup.of(recipe).costs(CostPlan(measure="parameters", weight=0.0))
    return [costs.of(cell.cells, stacking(cell.skeleton).strides) for cell in cells]


def _weights(record: Record) -> list[float] | None:
    """What α and β say of each cell; None where neither is learned."""
    learned = [record[name] for name in ("operations", "wiring") if record[name] is not None]
    return [sum(of) for of in zip(*learned)] if learned else None


def _cloud(record: Record, truth: Sequence[float], derived: float) -> _drawings.Ranked:
    """The points of one search."""
    measured = None if record["supernet"] is None else [100 * value for value in record["supernet"]]
    return _drawings.Ranked("", measured, _weights(record), list(truth), derived, {})


def _best(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda i: values[i])


def _mean(values: Sequence[float]) -> float | None:
    return spread(values)[0] if values else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _extremes(taus: Mapping[str, float]) -> str:
    """What is favoured most and least, in words."""
    if not taus:
        return "tells no cells apart"
    most, least = max(taus, key=lambda op: taus[op]), min(taus, key=lambda op: taus[op])
    return f"favours {most} most ({taus[most]:+.2f}) and {least} least ({taus[least]:+.2f})"


def _told(found: RankCorrelation) -> str:
    """Say where a ranking is not told apart from none."""
    return (
        ", not told apart from none" if found.low is None or found.high is None or found.low <= 0 <= found.high else ""
    )


def _summary(found: RankCorrelation) -> dict[str, Any]:
    return {"tau": found.mean, "low": found.low, "high": found.high, "each": list(found.each)}
