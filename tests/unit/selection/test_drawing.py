"""Cells as choices: draws against counts of all cells, neighbours against brute force over all of them."""

import itertools
import math
from collections import Counter
from typing import Any

import pytest
import torch

from topocell import spaces
from topocell.config.selection import Rules
from topocell.errors import RecipeError
from topocell.runtime.rng import generator
from topocell.selection.drawing import CellChoices, CellSpace, Pick, decoded, encoded
from topocell.spaces import SpaceSpec
from topocell.supernet.arch_state import ArchState

PAIRS = {"name": "subsets", "view": "target", "sizes": 2}
OUTGOING = {"name": "subsets", "view": "source", "sizes": "any"}
RANDOM = Rules(operations="random", edges="random")


def drawn(space: SpaceSpec, topology: Any = "dense", rules: Rules = RANDOM) -> CellSpace:
    return CellSpace.of(ArchState(space, topology=topology, init=0.0), rules)


def darts(nodes: int, *candidates: str) -> SpaceSpec:
    return spaces.get("darts", nodes=nodes, candidates=candidates or ("skip_connect", "sep_conv_3x3"))


def every(choices: CellChoices, wirings: list[tuple[int, ...]]) -> list[Pick]:
    """All cells with one of these sets of edges."""
    return [
        tuple(zip(edges, ops)) for edges in wirings for ops in itertools.product(*(choices.allowed[e] for e in edges))
    ]


def valid(space: SpaceSpec, keep: Any) -> list[tuple[int, ...]]:
    """All sets of edges of the first cell that pass `keep`, given the (source, node) pairs, with an input per node."""
    cell = next(iter(space.cells.values()))
    found = []
    for on in itertools.product((False, True), repeat=cell.n_edges):
        edges = tuple(e for e, kept in enumerate(on) if kept)
        pairs = [cell.edges[e] for e in edges]
        if all(any(d == node for _, d in pairs) for node in cell.computed) and keep(pairs):
            found.append(edges)
    return found


def pairs_only(pairs: list[tuple[int, int]]) -> bool:
    return all(n == 2 for n in Counter(d for _, d in pairs).values())


def all_leave(nodes: int) -> Any:
    """Every node but the last has an outgoing edge."""
    return lambda pairs: {s for s, _ in pairs} == set(range(nodes + 1))


def first(space: CellSpace) -> CellChoices:
    return next(iter(space.choices.values()))


@pytest.mark.parametrize(("topology", "wirings"), [("dense", 180), (PAIRS, 180), (OUTGOING, 3224)])
def test_wirings_are_those_of_the_papers(topology: Any, wirings: int) -> None:
    """180 pairs of inputs (eDARTS); 4,725 sets of outgoing edges, of which 3,224 give every node an input."""
    assert first(drawn(darts(4), topology)).n_wirings == wirings


def chi_squared(counts: Counter[Any], cells: int) -> float:
    """Distance from uniform in standard deviations of χ²: about standard normal where draws are uniform."""
    expected = sum(counts.values()) / cells
    total = sum((n - expected) ** 2 for n in counts.values()) / expected + (cells - len(counts)) * expected
    return (total - (cells - 1)) / math.sqrt(2 * (cells - 1))


@pytest.mark.parametrize(("topology", "wirings"), [("dense", 18), (PAIRS, 18), (OUTGOING, 112)])
def test_draws_are_uniform_over_wirings(topology: Any, wirings: int) -> None:
    """Three nodes: all wirings come, equally often."""
    space = darts(3)
    choices = first(drawn(space, topology))
    allowed = valid(space, all_leave(3) if topology is OUTGOING else pairs_only)
    draw = generator(0, "test")
    counts = Counter(tuple(e for e, _ in choices.random(draw)) for _ in range(40 * wirings))
    assert len(allowed) == wirings and set(counts) == set(allowed)
    assert abs(chi_squared(counts, wirings)) < 4


def test_draws_of_nasbench201_reach_all_cells_evenly() -> None:
    """Each of five operations on each of six edges, edges independent of each other: 5⁶ = 15,625."""
    choices = first(drawn(spaces.get("nasbench201"), rules=Rules(operations="random", edges="all", none=True)))
    draw, picks = generator(1, "test"), []
    for _ in range(2500):
        picks.append(choices.random(draw))
    assert math.prod(len(row) for row in choices.allowed) == 15625 and choices.n_wirings == 1
    assert all(tuple(e for e, _ in pick) == tuple(range(6)) for pick in picks)
    for a, b in itertools.combinations(range(6), 2):
        assert abs(chi_squared(Counter((pick[a][1], pick[b][1]) for pick in picks), 25)) < 4.5


def test_operations_are_uniform_on_a_wiring() -> None:
    choices = first(drawn(darts(1, "none", "skip_connect", "sep_conv_3x3", "max_pool_3x3"), PAIRS))
    draw = generator(2, "test")
    counts = Counter(tuple(k for _, k in choices.random(draw)) for _ in range(900))
    assert set(counts) == set(itertools.product((1, 2, 3), repeat=2))  # none is not drawn
    assert abs(chi_squared(counts, 9)) < 4


def differs_by_one(a: Pick, b: Pick, groups: list[set[int]], names: Any) -> bool:
    """One operation, or one edge added, removed or put in the place of another of its group, keeping its operation."""
    one, two = dict(a), dict(b)
    gone, new = one.keys() - two.keys(), two.keys() - one.keys()
    changed = [e for e in one.keys() & two.keys() if one[e] != two[e]]
    if not gone and not new:
        return len(changed) == 1
    if changed or len(gone) > 1 or len(new) > 1:
        return False
    if gone and new:
        (old,), (fresh,) = gone, new
        together = any({old, fresh} <= group for group in groups)
        return together and names[old][one[old]] == names[fresh][two[fresh]]
    return True


@pytest.mark.parametrize("topology", ["dense", PAIRS, OUTGOING], ids=["dense", "pairs", "outgoing"])
def test_neighbours_are_those_of_brute_force(topology: Any) -> None:
    space = darts(2) if topology is OUTGOING else darts(3)
    cell, nodes = next(iter(space.cells.values())), 2 if topology is OUTGOING else 3
    choices = first(drawn(space, topology))
    outgoing = topology is OUTGOING
    cells = every(choices, valid(space, all_leave(nodes) if outgoing else pairs_only))
    ends = range(cell.inputs + cell.nodes)
    groups = [set((cell.outgoing if outgoing else cell.incoming)(node)) for node in ends]
    for pick in cells[:: max(1, len(cells) // 40)]:
        found = choices.neighbours(pick)
        assert len(found) == len(set(found))
        assert set(found) == {other for other in cells if differs_by_one(pick, other, groups, cell.candidates)}


def test_neighbours_of_a_darts_cell_are_as_many_as_the_formula_says() -> None:
    """8 edges with 6 other operations, and Σ 2 (n − 2) other edges of nodes with n = 2..5 inputs: 48 + 12."""
    space = drawn(spaces.get("darts", nodes=4), PAIRS)
    cells = space.random(generator(3, "test"))
    assert [len(choices.neighbours(pick)) for choices, pick in zip(space.choices.values(), cells)] == [60, 60]
    assert len(set(space.neighbours(cells))) == 120
    benchmark = drawn(spaces.get("nasbench201"), rules=Rules(operations="random", edges="all", none=True))
    assert len(set(benchmark.neighbours(benchmark.random(generator(3, "test"))))) == 24


@pytest.mark.parametrize("topology", [PAIRS, OUTGOING], ids=["pairs", "outgoing"])
def test_mutations_are_neighbours_and_reach_all_of_them(topology: Any) -> None:
    choices = first(drawn(darts(2), topology))
    draw = generator(4, "test")
    pick = choices.random(draw)
    around = choices.neighbours(pick)
    counts = Counter(choices.mutated(pick, draw) for _ in range(100 * len(around)))
    assert set(counts) == set(around)
    operations = sum(n for other, n in counts.items() if other in set(choices.operations(pick)))
    share = operations / sum(counts.values())  # one half where there are edges to change
    assert share == pytest.approx(0.5 if choices.wirings(pick) else 1.0, abs=0.06)


def test_a_walk_of_mutations_stays_in_the_space() -> None:
    space = darts(3)
    choices, allowed = first(drawn(space, OUTGOING)), set(valid(space, all_leave(3)))
    draw = generator(5, "test")
    pick, seen = choices.random(draw), set()
    for _ in range(400):
        pick = choices.mutated(pick, draw) or pick
        seen.add(tuple(e for e, _ in pick))
    assert seen <= allowed and len(seen) > len(allowed) / 2


def test_what_other_rules_decide_is_the_same_in_all_cells() -> None:
    arch = ArchState(darts(2), topology=OUTGOING, init=1.0, generator=generator(6, "test"))
    from topocell.selection.rules import derive

    for rules in (Rules(operations="random"), Rules(edges="random")):
        space, plain = CellSpace.of(arch, rules), derive(arch, Rules())
        picks = [space.derived(space.random(generator(n, "test"))) for n in range(40)]
        if rules.operations == "random":
            assert {tuple(d.kept["normal"]) for d in picks} == {plain.kept["normal"]}
        else:
            assert len({d.kept["normal"] for d in picks}) > 1
            for d in picks:
                assert all(d.chosen["normal"][e] == plain.chosen["normal"][e] for e in d.kept["normal"])


def test_a_cell_is_derived_as_rules_derive_it() -> None:
    """The same operations and edges, by the rules themselves."""
    from topocell.selection.rules import derive

    arch = ArchState(darts(3), topology=PAIRS, init=1.0, generator=generator(7, "test"))
    wanted = derive(arch, Rules())
    space = CellSpace.of(arch, RANDOM)
    cells = tuple(tuple((e, wanted.chosen[t][e] or 0) for e in wanted.kept[t]) for t in arch.space.cells)
    assert space.derived(cells).cells == wanted.cells
    assert decoded(encoded(cells)) == cells
    weights = space.weights(cells, arch())
    for name, one in wanted.weights(arch()).items():
        assert torch.equal(weights[name].ops, one.ops) and torch.equal(weights[name].edges, one.edges)


def test_nothing_to_change_is_refused() -> None:
    fixed = drawn(darts(1, "skip_connect"), PAIRS)
    with pytest.raises(RecipeError, match="leaves no choice"):
        fixed.mutated(fixed.random(generator(0, "test")), generator(0, "test"))
