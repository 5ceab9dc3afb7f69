"""DARTS-PT, Figures 1, 2 and 7: agreement of α with the strength of an operation in its supernet."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from topocell.config.recipe import Recipe
from topocell.errors import RecipeError
from topocell.reporting.terminal import Display
from topocell.runs import setup
from topocell.runtime.rng import generator
from topocell.runtime.workers import Task
from topocell.selection.probe import Ablation, without
from topocell.selection.pruning import decide, only
from topocell.spaces.cell import SpaceSpec
from topocell.studies import _drawings
from topocell.studies._items import Bench, Outcome, Record
from topocell.studies._loops import Tuning
from topocell.studies._options import Arm, Entries, Searches
from topocell.studies._snapshots import expected, held_out, photographed, revived
from topocell.studies._statistics import rank_correlation
from topocell.studies._training import begin, spread
from topocell.studies._worth import Rows, place

#: Cell type and index of an edge.
Place = tuple[str, int]


class OperationStrength(Searches):
    """Options of `operation-strength`."""

    recipes: Entries = Field(("darts-pt",), description="recipes whose supernets to examine")
    edges: int | None = Field(3, ge=1, description="edges of each supernet, drawn at random; null: all")


def measure(bench: Bench, options: OperationStrength) -> Outcome:
    """The weight of each operation of an edge against its strength, the accuracy of the supernet with it alone.

    For each operation the edge of the finished supernet is given that operation alone, the rest is tuned, and the
    supernet is measured: discretisation accuracy at convergence (`accuracy %`). Beside it stands the accuracy of the
    supernet as it is but for that operation (`without %`), which selection by perturbation goes by. The supernet is
    tuned for `selection.projection.tune_epochs` at its learning rate and measured on the split that moves its
    architecture, without augmentation. Kendall's τ-b and the share of edges on which both name the same operation say
    how far they agree.

    Raises:
        RecipeError: more edges than the cells have with two operations or more.
    """
    arms = options.arms()
    edges = {arm.key: {s: _edges(arm, options.edges, s) for s in arm.recipes} for arm in arms}
    every = [(arm, seed, recipe, place(arm, seed)) for arm in arms for seed, recipe in arm.recipes.items()]
    asked = []
    for arm, seed, recipe, key in every:
        space = setup.build_space(recipe)
        for cell_type, edge in edges[arm.key][seed]:
            cell = space.cells[cell_type]
            arrow = "→".join(map(str, cell.edges[edge]))
            for k, operation in enumerate(cell.candidates[edge]):
                item = f"{key}-{cell_type}-{arrow.replace('→', '-')}-{operation}"
                task = Task(item, strength, (recipe, bench.path / "runs" / f"{key}-search", (cell_type, edge), k))
                named = {"recipe": arm.label, "seed": seed, "cell": cell_type, "edge": arrow, "operation": operation}
                asked.append((named, task))
    begin(bench, len(every) + len(asked), {arm.label: arm.any for arm in arms}, options.seeds)
    bench.all_trained([Task(f"{key}-search", photographed, (recipe, ())) for _, _, recipe, key in every])
    records = bench.all_trained([task for _, task in asked])
    rows = [
        row for edge in _by_edge([_row(named, records[task.key]) for named, task in asked]) for row in _marked(edge)
    ]
    found = [_agreement(edge) for edge in _by_edge(rows)]
    shares = {
        name: sum(edge[name] for edge in found) / len(found) for name in ("largest is strongest", "missed is strongest")
    }
    return Outcome(
        rows,
        lambda path: _drawings.twins([_panel(edge) for edge in _by_edge(rows)], path),
        len(options.seeds),
        {"edges": found, **shares},
        [
            f"On {shares['largest is strongest']:.0%} of {len(found)} edges the operation of the largest weight is the "
            f"strongest, on {shares['missed is strongest']:.0%} the one that is missed most.",
            *(_in_words(name, found) for name in ("tau weight", "tau without")),
        ],
    )


def strength(recipe: Recipe, searched: Path, where: Place, candidate: int, path: Path, display: Display) -> Record:
    """Measure the strength of one candidate of one edge in the supernet of a finished search.

    Nothing is left in `path`, and nothing is shown: an item that is interrupted begins anew.

    Returns its `weight`; and the accuracy of the supernet as it is (`whole`), `without` the operation, and with it
    alone on its edge, `at once` and `tuned`.
    """
    search = revived(recipe, searched)
    learner, probe = search.learner, held_out(search, recipe, "strength")
    soft, (cell_type, edge) = expected(learner), where
    record = {
        "weight": float(soft[cell_type].ops[edge, candidate]),
        "whole": probe(soft, 0).accuracy,
        "without": probe(without(soft, Ablation(cell_type, edge, candidate)), 0).accuracy,
    }
    decide(learner, {cell_type: only(learner.arch.mask(cell_type).cpu(), edge, candidate)})
    record["at once"] = probe(expected(learner), 0).accuracy
    Tuning(setup.Setup.of(recipe), search).run()
    return record | {"tuned": probe(expected(learner), 0).accuracy}


def _edges(arm: Arm, n: int | None, seed: int) -> list[Place]:
    """Edges with a choice: all, or `n` drawn at random, in the order of the cells."""
    space: SpaceSpec = setup.build_space(arm.any)
    found = [(t, e) for t, cell in space.cells.items() for e, ops in enumerate(cell.candidates) if len(ops) > 1]
    if n is None:
        return found
    if n > len(found):
        raise RecipeError(
            f"edges is at most the number of edges with two operations or more, but {arm.label} has {len(found)} and "
            f"edges is {n}; use edges=null for all"
        )
    drawn = torch.randperm(len(found), generator=generator(seed, "operation strength"))[:n]
    return [found[i] for i in sorted(drawn.tolist())]


def _row(named: dict[str, Any], record: Record) -> dict[str, Any]:
    """A row of the table; the marks are set when the whole edge is known."""
    measured = {"accuracy %": record["tuned"], "at once %": record["at once"], "without %": record["without"]}
    shown = {name: 100 * value for name, value in measured.items()}
    return {**named, "weight": record["weight"], **shown, "supernet %": 100 * record["whole"]}


def _by_edge(rows: Rows) -> list[Rows]:
    grouped = groupby(rows, key=lambda row: (row["recipe"], row["seed"], row["cell"], row["edge"]))
    return [list(group) for _, group in grouped]


def _marked(edge: Rows) -> Rows:
    """The rows of an edge, saying which operation has the largest weight, is missed most, is strongest."""
    marks = {
        "largest weight": max(range(len(edge)), key=lambda i: edge[i]["weight"]),
        "missed most": min(range(len(edge)), key=lambda i: edge[i]["without %"]),
        "strongest": max(range(len(edge)), key=lambda i: edge[i]["accuracy %"]),
    }
    return [{**row, **{name: i == at for name, at in marks.items()}} for i, row in enumerate(edge)]


def _agreement(edge: Rows) -> dict[str, Any]:
    """Correlate weight and loss without an operation with its strength, on one edge."""
    strengths = [row["accuracy %"] for row in edge]
    strongest = max(strengths)
    picked = {name: next(row["accuracy %"] for row in edge if row[name]) for name in ("largest weight", "missed most")}
    return {
        **{name: edge[0][name] for name in ("recipe", "seed", "cell", "edge")},
        "tau weight": rank_correlation([row["weight"] for row in edge], strengths),
        "tau without": rank_correlation([-row["without %"] for row in edge], strengths),
        "largest is strongest": picked["largest weight"] == strongest,
        "missed is strongest": picked["missed most"] == strongest,
    }


def _in_words(name: str, found: Sequence[dict[str, Any]]) -> str:
    what = {"tau weight": "weight", "tau without": "loss of accuracy without it"}[name]
    taus = [edge[name] for edge in found if edge[name] is not None]
    if not taus:
        return f"Kendall's τ between {what} and strength is undefined on all edges: one side is the same throughout."
    mean, std = spread(taus)
    shown = f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}"
    return f"Kendall's τ between {what} and strength: {shown}, n = {len(taus)} edges."


def _panel(edge: Rows) -> _drawings.Twin:
    first = edge[0]
    title = f"{first['recipe']} {first['seed']}, {first['cell']} {first['edge']}"
    return _drawings.Twin(
        title, [r["operation"] for r in edge], [r["weight"] for r in edge], [r["accuracy %"] for r in edge]
    )
