"""DOTS, Figure 1: agreement of a search's scores of pairs of edges with the accuracy of cells with these pairs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from pydantic import Field

from topocell.config.recipe import Recipe
from topocell.errors import RecipeError, RunError
from topocell.genotype.genotype import CellGenotype, Genotype
from topocell.reporting.terminal import Display
from topocell.runs import setup
from topocell.selection.rules import derive, edge_strengths
from topocell.spaces.cell import CellSpec, SpaceSpec
from topocell.studies import _plots
from topocell.studies._items import Bench, Outcome, Record
from topocell.studies._options import Arm, Entries, Searches
from topocell.studies._training import accuracies, begin, finished_search, retrained, scale, searched, spread
from topocell.supernet.arch_state import ArchState
from topocell.topology import Subsets

Pair = tuple[int, int]

#: Epochs of each retraining in the paper.
PUBLISHED_EPOCHS = 300


class EdgeRanking(Searches):
    """Options of `edge-ranking`."""

    recipes: Entries = Field(("darts-v1", "dots"), description="recipes whose rankings to test")


def measure(bench: Bench, options: EdgeRanking) -> Outcome:
    """Kendall's τ between the weights of the pairs of inputs of the last node and the accuracy of cells with them.

    Each recipe is searched and its cell derived. For every pair of inputs of the last node of the normal cell that
    node is given this pair, each edge with its own best operation, and the cell is retrained (the paper: 300 epochs,
    which budget paper takes unless retrain.epochs says otherwise). The weight of a pair is the probability of the
    pair where the topology is a distribution over sets of incoming edges (DOTS); otherwise the sum over its edges of
    edge weight times largest operation weight, by which DARTS ranks edges.

    Raises:
        RecipeError: a last node with fewer than three inputs, which has no pairs to rank.
    """
    arms = options.arms(*([f"retrain.epochs={PUBLISHED_EPOCHS}"] if options.budget == "paper" else []))
    items = len(options.seeds) * sum(1 + _n_pairs(arm) for arm in arms)
    begin(bench, items, {arm.label: arm.any for arm in arms}, options.seeds)
    rankings = [_ranking(bench, arm, seed) for arm in arms for seed in arm.recipes]
    return Outcome(
        [row for ranking in rankings for row in ranking.rows],
        lambda path: _plots.clouds([r.panel() for r in rankings], "weight of the pair", "test accuracy, %", path),
        len(options.seeds),
        {"kendall_tau": {r.title: {"tau": r.tau, "p": r.p, "pairs": len(r.rows)} for r in rankings}},
        [*(r.in_words() for r in rankings), rankings[0].scale],
    )


@dataclass(frozen=True)
class _Ranking:
    """One search: its table rows, what its weights are, Kendall's τ-b and p-value (None if undefined), the scale."""

    title: str
    rows: list[dict[str, Any]]
    weights: str
    tau: float | None
    p: float | None
    scale: str

    def panel(self) -> _plots.Cloud:
        x, y = [row["weight"] for row in self.rows], [row["accuracy %"] for row in self.rows]
        marked = next((number for number, row in enumerate(self.rows) if row["derived"]), None)
        return _plots.Cloud(f"{self.title}: τ {'undefined' if self.tau is None else f'{self.tau:.2f}'}", x, y, marked)

    def in_words(self) -> str:
        what = f"between {self.weights} and accuracy, {len(self.rows)} pairs"
        if self.tau is None:
            return f"{self.title}: Kendall's τ {what}, is undefined, since one of them is the same for all pairs."
        return f"{self.title}: Kendall's τ {self.tau:.2f} (p = {self.p:.2g}) {what}."


def _n_pairs(arm: Arm) -> int:
    space = setup.build_space(arm.any)
    n = len(_pairs(space.cells[_ranked_type(space)]))
    if n < 2:
        raise RecipeError(
            f"ranking needs a last node with three inputs or more, but that of {arm.label} has fewer; use another space"
        )
    return n


def _ranking(bench: Bench, arm: Arm, seed: int) -> _Ranking:
    """Search by an arm's recipe, and retrain the cell of every pair."""
    recipe, key = arm.recipes[seed], f"{arm.key}-seed-{seed}"
    searched_for = bench.trained(f"{key}-search", _ranked, recipe)
    rows, said = [], ""
    for found in searched_for["pairs"]:
        place = f"{key}-inputs-{'-'.join(map(str, found['inputs']))}"
        record = bench.trained(place, retrained, recipe, Genotype.from_dict(found["genotype"]))
        said = scale(record)
        named = {"recipe": arm.label, "seed": seed, "inputs": " + ".join(map(str, found["inputs"]))}
        measured = {"weight": found["weight"], "accuracy %": spread(accuracies(record))[0]}
        rows.append({**named, **measured, "derived": found["derived"]})
    tau, p = _tau([row["weight"] for row in rows], [row["accuracy %"] for row in rows])
    return _Ranking(f"{arm.label}, seed {seed}", rows, searched_for["weights"], tau, p, said)


def pair_weights(arch: ArchState, cell_type: str) -> tuple[str, dict[Pair, float]]:
    """Score every pair of edges that enter the last node of a cell, as a search does.

    Returns what the weights are, in words, and pair of edge indices → weight. Probabilities of pairs are taken at
    temperature 1: at the end of DOTS' annealing all but one of them are zero, though their logits are still in order.
    """
    cell, topology = arch.space.cells[cell_type], arch.topologies[cell_type]
    if isinstance(topology, Subsets) and topology.view == "target":
        p = topology.probabilities(arch.beta[cell_type].detach().cpu().double())
        group = topology.groups[-1]
        choices = [[e for e, kept in zip(group.edges, row) if kept] for row in group.choices.tolist()]
        found = {(c[0], c[1]): float(value) for c, value in zip(choices, p[group.slice]) if len(c) == 2}
        return "the probabilities of pairs", found
    _, strengths = edge_strengths(arch, cell_type, arch.mask(cell_type).cpu())
    importance = strengths.clamp(min=0).tolist()  # an edge without an operation has none
    sums = {(a, b): importance[a] + importance[b] for a, b in _pairs(cell)}
    return "the sums of edge weight × largest operation weight", sums


def _ranked(recipe: Recipe, path: Path, display: Display) -> Record:
    """Search; what the weights of pairs are, and inputs, weight and genotype of every pair."""
    searched(recipe, path, display)
    arch = finished_search(path).learner.arch
    cell_type = _ranked_type(arch.space)
    cell = arch.space.cells[cell_type]
    derived = derive(arch, replace(recipe.selection.rules(recipe.seed), none=False, budget=None))
    nodes, chosen = derived.cells[cell_type].nodes, derived.chosen[cell_type]
    kept = set(derived.kept[cell_type]) & set(cell.incoming(cell.computed[-1]))
    words, weights = pair_weights(arch, cell_type)
    found = []
    for pair, weight in weights.items():
        inputs = [cell.edges[e][0] for e in pair]
        ops = [cell.candidates[e][k] for e in pair if (k := chosen[e]) is not None]
        if len(ops) < 2 or any(node >= cell.inputs and not nodes[node - cell.inputs] for node in inputs):
            continue  # an edge without an operation, or from a node that the cell has dropped
        concat = (*derived.cells[cell_type].concat, cell.computed[-1])
        changed = CellGenotype(cell.inputs, (*nodes[:-1], tuple(zip(ops, inputs))), tuple(dict.fromkeys(concat)))
        genotype = Genotype(arch.space.name, {**derived.cells, cell_type: changed}, skeleton=arch.space.skeleton)
        measured = {"inputs": inputs, "weight": weight, "derived": set(pair) == kept}
        found.append({**measured, "genotype": genotype.to_dict()})
    if not found:
        raise RunError(
            f"ranking needs two inputs that the last node can choose from, but the cell of {recipe.name}, seed "
            f"{recipe.seed}, has none; search longer or with another seed"
        )
    return {"weights": words, "pairs": found}


def _ranked_type(space: SpaceSpec) -> str:
    """The normal cell, or the only one."""
    return "normal" if "normal" in space.cells else next(iter(space.cells))


def _pairs(cell: CellSpec) -> list[Pair]:
    """All pairs of edges that enter the last node."""
    return list(combinations(cell.incoming(cell.computed[-1]), 2))


def _tau(weights: Sequence[float], accuracy: Sequence[float]) -> tuple[float | None, float | None]:
    """Kendall's τ-b and its p-value; None where one side has no order."""
    from scipy.stats import kendalltau

    tau, p = (float(x) for x in kendalltau(weights, accuracy))
    return (None, None) if math.isnan(tau) else (tau, p)
