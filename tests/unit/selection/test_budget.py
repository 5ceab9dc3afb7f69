"""The most likely cell within a budget: brute force over small spaces, the network that it limits, and refusals."""

import itertools
import math
import time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from topocell import count, spaces
from topocell.config.cost import CostBudget
from topocell.config.selection import Rules
from topocell.errors import RecipeError
from topocell.genotype.genotype import Genotype
from topocell.nn.costs import NetworkSize, network_costs
from topocell.nn.network import FixedNet
from topocell.selection.budget import least_cost
from topocell.selection.rules import derive, edge_strengths
from topocell.spaces import SpaceSpec
from topocell.spaces.costs import NetworkCosts
from topocell.supernet.arch_state import ArchState
from topocell.topology.assignments import without_dead_ends, without_orphans

THREE = ("none", "skip_connect", "max_pool_3x3", "sep_conv_3x3")
SMALL = spaces.get("darts", nodes=2, candidates=THREE)
LONG = spaces.get("darts", nodes=3, candidates=("none", "sep_conv_3x3"))
NB201 = spaces.get("nasbench201")
TWO_OPERATIONS = spaces.get("nasbench201", candidates=["skip_connect", "nor_conv_3x3"])
SIZE = NetworkSize(4, 5, 3, (3, 8, 8))
COSTS = {id(space): network_costs(space, SIZE) for space in (SMALL, LONG, NB201, TWO_OPERATIONS)}

CASES: dict[str, tuple[SpaceSpec, Any, dict[str, Any]]] = {
    "magnitude": (SMALL, "dense", {"edges": "magnitude", "in_degree": 1}),
    "magnitude of DARTS": (SMALL, "dense", {"edges": "topology"}),
    "magnitude of PC-DARTS": (SMALL, "edge-softmax", {"edges": "magnitude"}),
    "edge-softmax": (SMALL, {"name": "edge-softmax", "keep": 1}, {"edges": "topology"}),
    "edge-sigmoid": (SMALL, {"name": "edge-sigmoid", "threshold": 0.6}, {"edges": "topology"}),
    "TopoNAS": (SMALL, {"name": "subsets", "sizes": "any"}, {"edges": "topology"}),
    "stretchable": (SMALL, {"name": "subsets", "sizes": "any-or-none"}, {"edges": "topology"}),
    "stretchable of three nodes": (LONG, {"name": "subsets", "sizes": "any-or-none"}, {"edges": "topology"}),
    "stretchable with dead ends": (
        SMALL,
        {"name": "subsets", "sizes": "any-or-none", "drop": "no-input"},
        {"edges": "topology"},
    ),
    "stretchable inputs": (SMALL, {"name": "subsets", "view": "target", "sizes": "any-or-none"}, {"edges": "topology"}),
    "DOTS": (SMALL, {"name": "subsets", "view": "target", "sizes": 2, "norm": "mean"}, {"edges": "topology"}),
    "fixed": (SMALL, {"name": "fixed", "edges": [0, 2, 4]}, {"edges": "topology"}),
    "NAS-Bench-201": (NB201, "dense", {"edges": "all", "none": True}),
    "NAS-Bench-201 stretchable": (TWO_OPERATIONS, {"name": "subsets", "sizes": "any-or-none"}, {"edges": "topology"}),
}


def drawn(space: SpaceSpec, topology: Any, seed: int, scale: float = 2.0) -> ArchState:
    return ArchState(space, "softmax", topology, init=scale, generator=torch.Generator().manual_seed(seed)).double()


def groups_of(arch: ArchState, t: str, rules: Rules) -> tuple[list[list[tuple[list[int], float]]], bool]:
    """The sets of edges of each group and their scores, written down once more from the equations."""
    cell, topology, beta = arch.space.cells[t], arch.topologies[t], arch.beta[t].detach()
    incoming = [cell.incoming(node) for node in cell.computed]
    kind = type(topology).__name__
    allowed = torch.tensor([[n != "none" for n in names] for names in cell.candidates]) & arch.mask(t)
    if rules.edges == "all":
        return [[(edges, 0.0)] for edges in incoming], False
    if kind == "Fixed":
        return [[([0, 2, 4], 0.0)]], False
    if kind == "Subsets":
        groups = [
            [
                ([e for e, on in zip(g.edges, row) if on], math.log(p))
                for row, p in zip(g.choices.tolist(), topology.probabilities(beta)[g.slice].tolist())
            ]
            for g in topology.groups  # type: ignore[attr-defined]
        ]
        return groups, any(not edges for group in groups for edges, _ in group)
    if kind == "EdgeSigmoid" and rules.edges == "topology":
        threshold = math.log(0.6 / 0.4)
        values = [float(b) - threshold for b in beta]
        sizes = [(edges, n) for edges in incoming for n in range(1, len(edges) + 1)]
        return [
            [(list(c), sum(values[e] for e in c)) for own, n in sizes if own is edges or own == edges
             for c in itertools.combinations(edges, n)]
            for edges in incoming
        ], False  # fmt: skip
    if kind == "EdgeSoftmax" and rules.edges == "topology":
        keep, ranks = 1, torch.cat([beta[edges].softmax(0) for edges in incoming])
    else:
        keep, ranks = rules.in_degree, edge_strengths(arch, t, allowed)[1]
    return [
        [(list(c), sum(math.log(ranks[e]) for e in c)) for c in itertools.combinations(edges, min(keep, len(edges)))]
        for edges in incoming
    ], False


def trimming(arch: ArchState, t: str, rules: Rules) -> Any:
    """What removes nodes that leave the cell."""
    return without_dead_ends if rules.edges == "topology" and arch.topologies[t].drops_dead_ends else without_orphans


def every_cell(arch: ArchState, t: str, rules: Rules, costs: NetworkCosts) -> list[tuple[float, float]]:
    """(cost beyond `fixed`, score) of every cell that could be derived."""
    cell, own, strengths = arch.space.cells[t], costs.cells[t], arch.strengths(t)
    table = own.table(cell)
    groups, may_drop = groups_of(arch, t, rules)
    choosable = [
        [k for k, name in enumerate(names) if (rules.none or name != "none") and arch.mask(t)[e, k]]
        for e, names in enumerate(cell.candidates)
    ]
    best = [max((float(strengths[e, k]) for k in ks), default=1.0) for e, ks in enumerate(choosable)]
    found = []
    trim = trimming(arch, t, rules)
    for assignment in itertools.product(*groups):
        edges, dropped = trim(cell, sorted(e for chosen, _ in assignment for e in chosen))
        if len(dropped) == cell.nodes or (dropped and not may_drop):
            continue
        width = own.widths[cell.nodes - len(dropped) - 1] if cell.output == "concat" else 0.0
        score = sum(s for _, s in assignment)
        for ops in itertools.product(*(choosable[e] for e in edges)):
            cost = width + sum(table[e][k] for e, k in zip(edges, ops))
            logs = score + sum(math.log(float(strengths[e, k]) / best[e]) for e, k in zip(edges, ops))
            found.append((cost, logs))
    return found


def score_of(arch: ArchState, rules: Rules, derived: Any) -> float:
    total = 0.0
    for t, cell in arch.space.cells.items():
        groups, _ = groups_of(arch, t, rules)
        strengths, kept = arch.strengths(t), set(derived.kept[t])
        best = []
        for assignment in itertools.product(*groups):
            edges = [e for chosen, _ in assignment for e in chosen]
            if rules.none or set(trimming(arch, t, rules)(cell, sorted(edges))[0]) == kept:
                best.append(sum(s for _, s in assignment))
        total += max(best)
        for e, names in enumerate(cell.candidates):
            k = derived.chosen[t][e]
            if e in kept or (rules.none and k is not None):
                among = [float(strengths[e, i]) for i, n in enumerate(names) if rules.none or n != "none"]
                total += math.log(float(strengths[e, k]) / max(among))
    return total


@pytest.mark.parametrize("case", CASES)
@given(seed=st.integers(0, 10_000), share=st.floats(0, 1))
@settings(max_examples=12)
def test_it_equals_brute_force(case: str, seed: int, share: float) -> None:
    space, topology, options = CASES[case]
    arch, costs = drawn(space, topology, seed), COSTS[id(space)]
    plain = Rules(**options)
    lists = [np.array(every_cell(arch, t, plain, costs)) for t in space.cells]
    cost, score = lists[0].T
    for other in lists[1:]:
        cost, score = (cost[:, None] + other[:, 0]).ravel(), (score[:, None] + other[:, 1]).ravel()
    cost = cost + costs.fixed
    limit = float(math.ceil(cost.min() + share * (cost.max() - cost.min())))
    rules = Rules(**options, budget=CostBudget(limit=limit), costs=costs)
    found = derive(arch, rules)
    genotype = found.genotype(space)
    net = FixedNet(genotype, SIZE.channels, SIZE.layers, SIZE.classes)
    assert count(net, SIZE.shape).parameters <= limit
    assert math.isclose(score_of(arch, plain, found), score[cost <= limit].max(), rel_tol=1e-9, abs_tol=1e-9)
    assert least_cost(arch, plain, costs) == cost.min()


@pytest.mark.parametrize("case", CASES)
def test_without_a_binding_limit_it_is_the_cell_of_the_rules(case: str) -> None:
    space, topology, options = CASES[case]
    for seed in range(5):
        arch = drawn(space, topology, seed)
        rules = Rules(**options, budget=CostBudget(limit=1e12), costs=COSTS[id(space)])
        assert derive(arch, rules).cells == derive(arch, Rules(**options)).cells
        assert derive(arch, rules).notes == derive(arch, Rules(**options)).notes


def test_a_limit_that_no_cell_meets_is_said_with_the_least_cost() -> None:
    arch, costs = drawn(SMALL, "dense", 0), COSTS[id(SMALL)]
    least = least_cost(arch, Rules(edges="magnitude"), costs)
    meets = Rules(edges="magnitude", budget=CostBudget(limit=least), costs=costs)
    derive(arch, meets)
    with pytest.raises(RecipeError, match=f"cheapest cell, {least:,.0f} parameters, but got") as fault:
        derive(arch, Rules(edges="magnitude", budget=CostBudget(limit=least - 1), costs=costs))
    assert "\n" not in str(fault.value) and "raise it" in str(fault.value)


def test_removed_candidates_are_not_chosen() -> None:
    arch, costs = drawn(SMALL, "dense", 3), COSTS[id(SMALL)]
    masks = {t: torch.tensor(cell.live) for t, cell in SMALL.cells.items()}
    for mask in masks.values():
        mask[0, 1:3] = False  # the first edge has none and sep_conv_3x3 left
        mask[2] = False  # the third edge is gone
    arch.restrict(masks)
    plain = Rules(edges="magnitude")
    rules = Rules(edges="magnitude", budget=CostBudget(limit=least_cost(arch, plain, costs)), costs=costs)
    for nodes in (cell.nodes for cell in derive(arch, rules).cells.values()):
        assert nodes[0][0] == ("sep_conv_3x3", 0)
        assert all(source != 0 for _, source in nodes[1])


def test_the_note_names_both_costs() -> None:
    arch, costs = drawn(SMALL, "dense", 3), COSTS[id(SMALL)]
    least = least_cost(arch, Rules(), costs)
    (note,) = derive(arch, Rules(budget=CostBudget(limit=least), costs=costs)).notes
    assert f"above selection.budget.limit={least:g}" in note and f"{least:,.0f} parameters" in note


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"operations": "random"}, "selection.operations"),
        ({"edges": "perturbation"}, "selection.edges"),
        ({"edges": "magnitude-outgoing"}, "selection.edges"),
        ({"max_skips": 1}, "selection.max_skips"),
        ({"edges": "magnitude", "threshold": 0.5}, "selection.threshold"),
        ({"edges": "magnitude", "none": True}, "selection.none"),
    ],
)
def test_other_rules_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        derive(drawn(SMALL, "dense", 0), Rules(**options, budget=CostBudget(limit=1e9), costs=COSTS[id(SMALL)]))


def test_a_budget_without_costs_is_refused() -> None:
    with pytest.raises(RecipeError, match="network_costs"):
        derive(drawn(SMALL, "dense", 0), Rules(budget=CostBudget(limit=1e9)))


@pytest.mark.parametrize("measure", ["parameters", "multiply_adds"])
def test_the_whole_space_of_darts_takes_little_time(measure: Any) -> None:
    """All of DARTS with sets of any size that may be empty: ten million labels without bounds."""
    space = spaces.get("darts")
    costs = network_costs(space, NetworkSize(36, 20, 10, (3, 32, 32)), measure)
    for topology in ("dense", {"name": "subsets", "sizes": "any-or-none"}):
        arch = drawn(space, topology, 1, 0.5)
        least, most = (
            least_cost(arch, Rules(), costs),
            costs.of(derive(arch, Rules()).cells, {"normal": 1, "reduce": 2}),
        )
        budget = CostBudget(measure=measure, limit=math.ceil(least + 0.5 * (most - least)))
        begin = time.perf_counter()
        found = derive(arch, Rules(budget=budget, costs=costs))
        assert time.perf_counter() - begin < 20
        with torch.device("meta"):
            net = FixedNet(Genotype("darts", found.cells), 36, 20, 10)
        assert getattr(count(net, (3, 32, 32)), measure) <= budget.limit
