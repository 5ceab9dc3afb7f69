"""From logits to cells: the published rules by hand, random rules by counting, and the network of what was derived."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from topocell import spaces
from topocell.config.selection import Rules
from topocell.errors import RecipeError
from topocell.genotype.genotype import Genotype
from topocell.nn.network import FixedNet
from topocell.selection.rules import EDGE_RULES, OPERATION_RULES, cells_as_dict, check_rules, derive
from topocell.spaces import CellSpec, SpaceSpec, complete_edges
from topocell.supernet import Supernet
from topocell.supernet.arch_state import ArchState

THREE = ("none", "skip_connect", "sep_conv_3x3")
F64 = torch.float64


def state(space: SpaceSpec, topology: Any = "dense", **logits: Sequence[Any]) -> ArchState:
    """An architecture state with logits of zero but for the normal or only cell type's alpha and beta."""
    arch = ArchState(space, "softmax", topology, init=0.0).double()
    first = next(iter(space.cells))
    with torch.no_grad():
        for name, values in logits.items():
            getattr(arch, name)[first].copy_(torch.tensor(values, dtype=F64))
    return arch


def small(nodes: int = 2, candidates: Sequence[str] = THREE) -> SpaceSpec:
    return spaces.get("darts", nodes=nodes, candidates=tuple(candidates))


def pairs(arch: ArchState, rules: Rules) -> tuple[tuple[tuple[str, int], ...], ...]:
    """Nodes of the normal or only cell."""
    return next(iter(derive(arch, rules).cells.values())).nodes


# --- the rule of DARTS

#: Edges 0→2, 1→2, 0→3, 1→3, 2→3; candidates none, skip_connect, sep_conv_3x3.
ALPHA = [
    [0.0, 1.0, 2.0],
    [0.0, 2.0, 1.0],
    [3.0, 2.0, 0.0],  # skip_connect has .26, and would have .88 if none were left out before the softmax
    [-5.0, 0.1, 0.0],  # skip_connect has .52
    [0.0, 0.3, 0.9],  # sep_conv_3x3 has .51
]


def test_none_is_part_of_the_softmax_and_cannot_be_chosen() -> None:
    expected = (
        (("sep_conv_3x3", 0), ("skip_connect", 1)),
        (("skip_connect", 1), ("sep_conv_3x3", 2)),
    )
    assert pairs(state(small(), alpha=ALPHA), Rules()) == expected


@pytest.mark.parametrize(("in_degree", "sources"), [(1, [[0], [1]]), (2, [[0, 1], [1, 2]]), (3, [[0, 1], [0, 1, 2]])])
def test_the_in_degree_is_that_of_the_rule(in_degree: int, sources: list[list[int]]) -> None:
    found = pairs(state(small(), alpha=ALPHA), Rules(in_degree=in_degree))
    assert [[source for _, source in node] for node in found] == sources


def test_the_strongest_outgoing_edges() -> None:
    """TopoNAS' counts: two of each node, one where there are two or one; and the same by brute force."""
    space = small(4)
    cell = space.cells["normal"]
    seen = set()
    for seed in range(30):
        alpha = 3 * torch.randn(cell.n_edges, 3, generator=torch.Generator().manual_seed(seed))
        found = derive(state(space, alpha=alpha.tolist()), Rules(edges="magnitude-outgoing"))
        strength = torch.softmax(alpha.double(), 1)[:, 1:].max(1).values
        wanted = []
        for node, k in enumerate((2, 2, 2, 1, 1)):
            wanted += sorted(cell.outgoing(node), key=lambda e: -float(strength[e]))[:k]
        reached = {0, 1} | {cell.edges[e][1] for e in wanted}
        while any(cell.edges[e][0] not in reached for e in wanted):
            wanted = [e for e in wanted if cell.edges[e][0] in reached]
            reached = {0, 1} | {cell.edges[e][1] for e in wanted}
        assert found.kept["normal"] == tuple(sorted(wanted))
        lost = sorted(set(cell.computed) - reached)
        notes = [note for note in found.notes if note.startswith("normal")]
        assert bool(lost) == any("without an input: dropped" in note for note in notes)
        seen.add(bool(lost))
    assert seen == {True, False}


def test_ties_go_to_the_first_operation_and_the_first_edges() -> None:
    assert pairs(state(small(3)), Rules()) == ((("skip_connect", 0), ("skip_connect", 1)),) * 3


@given(seed=st.integers(0, 2**31), in_degree=st.integers(1, 3), nodes=st.integers(1, 4))
@settings(max_examples=30)
def test_the_strongest_edges_by_their_strongest_operation(seed: int, in_degree: int, nodes: int) -> None:
    space = small(nodes)
    cell = space.cells["normal"]
    alpha = 3 * torch.randn(cell.n_edges, 3, generator=torch.Generator().manual_seed(seed))
    expected = []
    for node in cell.computed:
        scored = []
        for e in cell.incoming(node):
            exponentials = [math.exp(a) for a in alpha[e].tolist()]
            strength, op = max((x / sum(exponentials), name) for x, name in zip(exponentials[1:], THREE[1:]))
            scored.append((strength, op, cell.edges[e][0]))
        best = sorted(scored, reverse=True)[:in_degree]
        expected.append(tuple(sorted(((op, source) for _, op, source in best), key=lambda pair: pair[1])))
    assert pairs(state(space, alpha=alpha.tolist()), Rules(in_degree=in_degree)) == tuple(expected)


def test_removed_candidates_cannot_be_chosen() -> None:
    arch = state(small(), alpha=ALPHA)
    mask = torch.ones(5, 3, dtype=torch.bool)
    mask[0, 2] = mask[4] = False
    arch.restrict({"normal": mask})
    found = derive(arch, Rules(in_degree=3))
    assert found.chosen["normal"] == (1, 1, 1, 1, None)
    assert found.kept["normal"] == (0, 1, 2, 3)


def test_edge_weights_scale_the_strength_of_their_operations() -> None:
    """PC-DARTS: the product of both decides; β alone decides by the rule `topology`."""
    beta = [0.0, 0.0, 3.0, 0.0, 2.0]
    arch = state(small(), "edge-softmax", alpha=ALPHA, beta=beta)
    by_product, by_beta = (derive(arch, Rules(edges=edges, in_degree=1)) for edges in ("magnitude", "topology"))
    share = torch.softmax(torch.tensor(beta[2:]), 0) * torch.tensor([0.26, 0.52, 0.51])
    assert share.argmax() == 0
    assert by_product.kept["normal"] == (0, 2)
    assert by_beta.kept["normal"] == (0, 1, 2, 4)
    arch.beta["normal"].data[4] = 2.6  # .26 · .53 < .51 · .36: now the product prefers 2→3, and β still 0→3
    assert derive(arch, Rules(edges="magnitude", in_degree=1)).kept["normal"] == (0, 4)


# --- a bound on skip connections

#: Edges 0→2, 1→2, 0→3, 1→3, 2→3; skip_connect wins everywhere, ever more weakly.
SKIPS = [[-9.0, 3.0, 0.0], [-9.0, 2.5, 0.1], [-9.0, 2.0, -9.0], [-9.0, 1.5, 0.0], [-9.0, 1.0, 0.9]]


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (None, ((("skip_connect", 0), ("skip_connect", 1)), (("skip_connect", 0), ("skip_connect", 1)))),
        # 1→3 gives its skip connection up (0.82, then 0.18 for sep_conv_3x3), and 2→3 (0.52) takes its place: too many
        # still, so it does the same; its sep_conv_3x3 (0.47) stays ahead of 0.18
        (3, ((("skip_connect", 0), ("skip_connect", 1)), (("skip_connect", 0), ("sep_conv_3x3", 2)))),
        (1, ((("sep_conv_3x3", 0), ("sep_conv_3x3", 1)), (("skip_connect", 0), ("sep_conv_3x3", 2)))),
        (0, ((("sep_conv_3x3", 0), ("sep_conv_3x3", 1)), (("sep_conv_3x3", 1), ("sep_conv_3x3", 2)))),
    ],
)
def test_the_weakest_of_too_many_skip_connections_give_way(most: int | None, expected: Any) -> None:
    arch = state(small(), alpha=SKIPS)
    assert pairs(arch, Rules(max_skips=most)) == expected


def test_cells_that_reduce_keep_their_skip_connections() -> None:
    arch = state(small(), alpha=SKIPS)
    arch.alpha["reduce"].data.copy_(torch.tensor(SKIPS, dtype=F64))
    found = derive(arch, Rules(max_skips=0)).cells
    assert [op for node in found["reduce"].nodes for op, _ in node] == ["skip_connect"] * 4
    assert "skip_connect" not in [op for node in found["normal"].nodes for op, _ in node]


def test_an_edge_without_another_operation_keeps_its_skip_connection() -> None:
    arch = state(small(candidates=("none", "skip_connect")))
    assert pairs(arch, Rules(max_skips=0)) == ((("skip_connect", 0), ("skip_connect", 1)),) * 2


# --- a threshold


def test_a_threshold_keeps_as_many_inputs_as_reach_it_and_the_best_of_each_node() -> None:
    """FairDARTS: 0.85, at most two inputs a node; of weights 0.90, 0.84 / 0.80, 0.84, 0.82 / 0.95, 0.90, 0.86, 0.1."""
    weights = [0.90, 0.84, 0.80, 0.84, 0.82, 0.95, 0.90, 0.86, 0.10]
    space = small(3, ("skip_connect", "sep_conv_3x3"))
    arch = ArchState(space, "sigmoid").double()
    best = [math.log(w / (1 - w)) for w in weights]
    with torch.no_grad():
        arch.alpha["normal"].copy_(torch.tensor([[-3.0, value] for value in best]))

    def sources(rules: Rules) -> list[list[int]]:
        return [[source for _, source in node] for node in pairs(arch, rules)]

    assert sources(Rules(edges="magnitude", threshold=0.85)) == [[0], [1], [0, 1]]
    assert sources(Rules(edges="magnitude", threshold=0.85, in_degree=4)) == [[0], [1], [0, 1, 2]]
    assert sources(Rules(edges="magnitude")) == [[0, 1], [1, 2], [0, 1]]


def test_nodes_below_the_threshold_are_left_out_and_what_they_alone_lead_to() -> None:
    """FairDARTS. Nodes 2, 3, 4 with inputs 0, 1 / 0, 1, 2 / 0, 1, 2, 3; only weights of 0.85 and more count."""
    space = small(3, ("skip_connect", "sep_conv_3x3"))

    def derived(*weights: float) -> tuple[list[list[int]], tuple[int, ...], list[str]]:
        arch = ArchState(space, "sigmoid").double()
        with torch.no_grad():
            arch.alpha["normal"].copy_(torch.tensor([[-3.0, math.log(w / (1 - w))] for w in weights]))
        found = derive(arch, Rules(edges="magnitude", threshold=0.85, isolated="drop"))
        notes = [note for note in found.notes if note.startswith("normal")]
        cell = found.cells["normal"]
        return [[source for _, source in node] for node in cell.nodes], cell.concat, notes

    low = [0.84, 0.80, 0.82]
    # The two best inputs of node 4 are 3 and 2; node 3 has no input itself, so it goes, and the edge from it.
    kept = derived(0.90, 0.80, *low, 0.86, 0.90, 0.95, 0.99)
    assert kept == ([[0], [], [2]], (2, 4), ["normal: no input of node 3 reaches 0.85: dropped"])
    # Node 4 leads on from node 3 alone, and goes with it.
    kept = derived(0.90, 0.80, *low, 0.1, 0.1, 0.1, 0.99)
    assert kept == ([[0], [], []], (2,), ["normal: no input of nodes 3, 4 reaches 0.85: dropped"])
    # Something has to be left: 2 -> 3 is stronger than 1 -> 3, but leaves no input of the cell.
    kept = derived(0.10, 0.20, 0.30, 0.50, 0.84, *[0.1] * 4)
    assert kept == (
        [[], [1], []],
        (3,),
        ["normal: no edge that leaves an input reaches 0.85; kept the best one, (1, 3)"],
    )


def test_nothing_is_left_out_without_a_threshold() -> None:
    with pytest.raises(RecipeError, match=r"isolated is for nodes below a threshold, but got drop and no threshold"):
        check_rules(Rules(edges="magnitude", isolated="drop"))


def test_a_threshold_that_no_rule_reads_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"part of the edge rule magnitude, but selection\.edges is all"):
        check_rules(Rules(edges="all", threshold=0.5))


def test_nothing_is_sampled_when_a_cell_is_derived() -> None:
    for relaxation in ("gumbel-softmax", "gumbel-straight-through", "dirichlet"):
        arch = ArchState(small(), relaxation, init=0.0).double()
        with torch.no_grad():
            arch.alpha["normal"].copy_(torch.tensor(ALPHA, dtype=F64))
        assert pairs(arch, Rules()) == pairs(state(small(), alpha=ALPHA), Rules())


# --- topologies decide

SUBSETS = [
    {"name": "subsets", "view": "target", "sizes": 2},
    {"name": "subsets", "view": "target", "sizes": "any"},
    {"name": "subsets", "view": "source", "sizes": 2},
    {"name": "subsets", "view": "source", "sizes": "any"},
    {"name": "subsets", "view": "source", "sizes": "any-or-none"},
    "edge-softmax",
    "edge-sigmoid",
    {"name": "fixed", "edges": [0, 3, 5, 8]},
]


@pytest.mark.parametrize("topology", SUBSETS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_the_rule_topology_keeps_what_the_topology_decodes(topology: Any, seed: int) -> None:
    space = small(3)
    draw = torch.Generator().manual_seed(seed)
    arch = ArchState(space, "softmax", topology, init=2.0, generator=draw)
    found = derive(arch, Rules())
    for name in space.cells:
        report = arch.topologies[name].decode_report(arch.beta[name])
        assert found.kept[name] == report.kept
        assert [note for note in found.notes if note.startswith(f"{name}: ")] == (
            [f"{name}: {report.note}"] if report.note else []
        )
    Genotype("darts", found.cells)


def test_a_topology_that_keeps_all_edges_leaves_the_choice_to_the_magnitude() -> None:
    arch = state(small(), alpha=ALPHA)
    assert pairs(arch, Rules(edges="topology")) == pairs(arch, Rules(edges="magnitude"))
    assert [len(node) for node in pairs(arch, Rules(edges="all"))] == [2, 3]


def test_dropped_nodes_leave_the_concat_and_take_their_edges_with_them() -> None:
    """Nodes 0, 1, 2 feed nodes 2, 3, 4; all of them avoid node 3, node 3 feeds node 4."""
    topology = {"name": "subsets", "view": "source", "sizes": "any-or-none"}
    arch = state(small(3), topology)
    space = arch.topologies["normal"]
    with torch.no_grad():
        for group in space.groups:  # type: ignore[attr-defined]
            for choice, row in enumerate(group.choices.tolist()):
                ends = {arch.space.cells["normal"].edges[e][1] for e, on in zip(group.edges, row) if on}
                wanted = {2, 4} if group.node < 2 else {4}
                arch.beta["normal"][group.slice.start + choice] = 5.0 * (ends == wanted)
    found = derive(arch, Rules())
    cell = found.cells["normal"]
    assert [[source for _, source in node] for node in cell.nodes] == [[0, 1], [], [0, 1, 2]]
    assert cell.concat == (2, 4)
    assert any("dropped node 3" in note for note in found.notes)
    Genotype("darts", found.cells)


# --- after an annealing

#: Four operations that stay on an edge, the first of which cannot be chosen.
FOUR = ("none", "max_pool_3x3", "sep_conv_3x3", "dil_conv_3x3")


def annealed(nodes: int, topology: Any, alpha: Tensor, beta: Tensor) -> ArchState:
    """The state in which DOTS ends, in float32: operations at temperature 2e-5, edges at 0.02."""
    arch = ArchState(small(nodes, FOUR), "softmax", topology, init=0.0)
    arch.op_temperature, arch.edge_temperature = 2e-5, 0.02
    with torch.no_grad():
        arch.alpha["normal"].copy_(alpha)
        arch.beta["normal"].copy_(beta)
    return arch


def shares(logits: Sequence[float]) -> list[float]:
    """Their softmax at temperature 1."""
    total = math.fsum(map(math.exp, logits))
    return [math.exp(value) / total for value in logits]


PAIRS = {"name": "subsets", "view": "target", "sizes": 2, "norm": "mean", "scale": "none"}


def test_losers_of_an_annealing_are_still_told_apart() -> None:
    """`none` wins with weight 1, and the other weights are zero at that temperature."""
    arch = annealed(2, PAIRS, torch.tensor([[0.10, -0.05, 0.02, 0.06]] * 5), torch.zeros(4))
    assert arch.expected()["normal"].ops.tolist() == [[1.0, 0.0, 0.0, 0.0]] * 5
    assert {op for node in pairs(arch, Rules()) for op, _ in node} == {"dil_conv_3x3"}


#: Logits of an edge whose first candidate is none, in eighths; where a relaxation saturates is out of reach.
EIGHTHS = st.lists(st.integers(-48, 48).map(lambda n: n / 8), min_size=4, max_size=4)
RANKING = ("softmax", "gumbel-softmax", "gumbel-straight-through", "sigmoid", "dirichlet")


@given(
    st.sampled_from(RANKING),
    st.lists(EIGHTHS, min_size=5, max_size=5),
    st.lists(st.sets(st.integers(1, 3), min_size=1), min_size=5, max_size=5),
    st.sampled_from([2e-5, 1e-2, 1.0, 1e3]),
)
def test_operations_are_compared_by_their_logits_at_any_temperature(
    name: str, logits: list[list[float]], live: list[set[int]], temperature: float
) -> None:
    """Of each edge the largest logit of what may be chosen, the first of equals, whichever candidates are live."""
    arch = ArchState(small(2, FOUR), name, init=0.0)
    arch.op_temperature = arch.edge_temperature = temperature
    with torch.no_grad():
        arch.alpha["normal"].copy_(torch.tensor(logits))
    arch.restrict({"normal": torch.tensor([[k == 0 or k in of for k in range(4)] for of in live])})
    best = [max(sorted(of), key=lambda k: row[k]) for row, of in zip(logits, live, strict=True)]
    assert derive(arch, Rules(edges="all")).chosen["normal"] == tuple(best)
    relaxation, mask = arch.relaxations["normal"], arch.mask("normal")
    assert relaxation.retained(arch.strengths("normal"), mask).nonzero()[:, 1].tolist() == best


@given(st.lists(EIGHTHS, min_size=5, max_size=5), st.lists(EIGHTHS, min_size=5, max_size=5))
def test_groups_retain_their_largest_logits_after_an_annealing(
    first: list[list[float]], other: list[list[float]]
) -> None:
    names = ("none", "skip_connect", "max_pool_3x3", "avg_pool_3x3", *(f"sep_conv_{n}x{n}" for n in (3, 5)))
    space = small(2, (*names, "dil_conv_3x3", "dil_conv_5x5"))
    groups = [list(space.cells["normal"].candidates[0][:4]), list(space.cells["normal"].candidates[0][4:])]
    arch = ArchState(space, {"name": "grouped-softmax", "groups": groups}, init=0.0)
    arch.op_temperature = 2e-5
    with torch.no_grad():
        arch.alpha["normal"].copy_(torch.tensor([a + b for a, b in zip(first, other)]))
    kept = arch.relaxations["normal"].retained(arch.strengths("normal"), arch.mask("normal"))
    best = [(a.index(max(a)), 4 + b.index(max(b))) for a, b in zip(first, other)]
    assert [tuple(row.nonzero().flatten().tolist()) for row in kept] == best


@pytest.mark.parametrize("seed", range(12))
def test_the_cell_of_dots_is_the_most_likely_of_all_by_enumeration(seed: int) -> None:
    """Of all pairs of inputs of each node and all operations but `none` that stay on their edges."""
    draw = torch.Generator().manual_seed(seed)
    alpha, beta = 0.2 * torch.randn(5, 4, generator=draw), 2.0 * torch.randn(4, generator=draw)
    alpha[:, 0] = alpha.max() + 0.1  # none wins everywhere
    arch = annealed(2, PAIRS, alpha, beta)
    mask = torch.rand(5, 4, generator=draw) < 0.7
    mask[range(5), torch.randint(1, 4, (5,), generator=draw)] = True
    arch.restrict({"normal": mask})
    cell = arch.space.cells["normal"]
    options = [[k for k in range(1, 4) if live[k]] for live in mask.tolist()]
    likely = [shares([float(alpha[e, k]) for k in ks]) for e, ks in enumerate(options)]
    wirings = shares(beta[1:].tolist())  # of node 3; node 2 has one pair
    found = {}
    for (p, into_3), *picked in itertools.product(
        zip(wirings, itertools.combinations((2, 3, 4), 2)), *map(range, map(len, options))
    ):
        kept = (0, 1, *into_3)
        value = p * math.prod(likely[e][picked[e]] for e in kept)
        nodes = [
            tuple((FOUR[options[e][picked[e]]], cell.edges[e][0]) for e in kept if cell.edges[e][1] == node)
            for node in cell.computed
        ]
        found[tuple(nodes)] = value
    best, second = sorted(found.values(), reverse=True)[:2]
    assert best > second * (1 + 1e-9)
    assert pairs(arch, Rules()) == max(found, key=found.__getitem__)


@pytest.mark.parametrize("in_degree", [1, 2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_the_strongest_edges_of_an_annealed_state_by_enumeration(seed: int, in_degree: int) -> None:
    """Of all sets of so many inputs, that of the largest sum of edge weight × weight of the best operation."""
    draw = torch.Generator().manual_seed(seed)
    alpha, beta = 0.2 * torch.randn(9, 4, generator=draw), 5.0 * torch.randn(9, generator=draw)
    alpha[::2, 0] = alpha.max() + 0.1
    arch = annealed(3, "edge-softmax", alpha, beta)
    cell = arch.space.cells["normal"]
    for node, inputs in zip(cell.computed, pairs(arch, Rules(edges="magnitude", in_degree=in_degree))):
        edges = cell.incoming(node)
        of_edge = dict(zip(edges, shares([float(beta[e]) for e in edges])))
        strength = {e: of_edge[e] * max(shares(alpha[e].tolist())[1:]) for e in edges}
        sets = {kept: sum(map(strength.__getitem__, kept)) for kept in itertools.combinations(edges, in_degree)}
        kept = max(sets, key=sets.__getitem__) if sets else tuple(edges)
        best = [max(range(1, 4), key=lambda k: float(alpha[e, k])) for e in kept]
        assert inputs == tuple((FOUR[k], cell.edges[e][0]) for e, k in zip(kept, best))


def test_too_many_skip_connections_of_an_annealed_state_give_way_from_the_weakest() -> None:
    arch = state(small(), alpha=SKIPS)
    cold = state(small(), alpha=SKIPS)
    cold.op_temperature = 2e-5
    for most in (3, 1):
        assert pairs(cold, Rules(max_skips=most)) == pairs(arch, Rules(max_skips=most))


# --- none


def test_nasbench201_keeps_all_edges_but_those_that_choose_none() -> None:
    names = spaces.NASBENCH201_OPERATIONS
    chosen = ("nor_conv_3x3", "none", "skip_connect", "avg_pool_3x3", "none", "nor_conv_1x1")
    alpha = [[3.0 * (name == op) for name in names] for op in chosen]
    arch = state(spaces.get("nasbench201"), alpha=alpha)
    found = derive(arch, Rules(edges="all", none=True))
    text = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"
    genotype = Genotype("nasbench201", found.cells)
    assert genotype.key == Genotype.from_nasbench201(text).key
    without = derive(arch, Rules(edges="all"))
    assert all(name != "none" for node in without.cells["cell"].nodes for name, _ in node)
    assert [len(node) for node in without.cells["cell"].nodes] == [1, 2, 3]


def test_a_nasbench201_node_whose_edges_all_choose_none_stays_as_zero() -> None:
    names = spaces.NASBENCH201_OPERATIONS
    alpha = [[3.0 * (name == op) for name in names] for op in ("none", *["nor_conv_1x1"] * 5)]
    cell = derive(state(spaces.get("nasbench201"), alpha=alpha), Rules(edges="all", none=True)).cells["cell"]
    assert cell.nodes[0] == ()
    assert cell.nodes[2] == tuple(("nor_conv_1x1", source) for source in (0, 1, 2))


def test_a_node_whose_edges_all_choose_none_is_dropped_from_a_cell_that_concatenates() -> None:
    alpha = [[5.0, 0.0, 0.0]] * 2 + [[0.0, 0.0, 5.0]] * 3
    found = derive(state(small(), alpha=alpha), Rules(edges="all", none=True))
    assert found.cells["normal"].nodes == ((), (("sep_conv_3x3", 0), ("sep_conv_3x3", 1)))
    assert found.cells["normal"].concat == (3,)
    assert found.kept["normal"] == (2, 3)
    assert found.notes[0] == "normal: node 2 chose none on every edge: dropped"


# --- random rules


def test_random_cells_are_valid_and_follow_the_seed() -> None:
    arch = ArchState(small(4), "softmax", {"name": "subsets", "view": "target", "sizes": 2})
    rules = [Rules(operations="random", edges="random", seed=seed) for seed in range(20)]
    found = [derive(arch, r) for r in rules]
    for derived in found:
        genotype = Genotype("darts", derived.cells)
        assert all(len(node) == 2 for cell in genotype.cells.values() for node in cell.nodes)
        assert all(name != "none" for cell in genotype.cells.values() for node in cell.nodes for name, _ in node)
        assert genotype.cells["normal"] != genotype.cells["reduce"]
    assert [derive(arch, r) for r in rules] == found
    assert len({str(derived.cells) for derived in found}) == 20
    for part in ("kept", "chosen"):  # the cell types are drawn each for itself
        assert any(getattr(derived, part)["normal"] != getattr(derived, part)["reduce"] for derived in found)


def test_random_cells_are_uniform() -> None:
    """600 cells: three pairs of edges into node 3, and two operations on each edge, each within five deviations."""
    arch = ArchState(small(2), "softmax", {"name": "subsets", "view": "target", "sizes": 2}, init=5.0)
    wirings: Counter[tuple[int, ...]] = Counter()
    operations: Counter[str] = Counter()
    for seed in range(600):
        derived = derive(arch, Rules(operations="random", edges="random", seed=seed))
        wirings[tuple(source for _, source in derived.cells["normal"].nodes[1])] += 1
        operations[derived.cells["reduce"].nodes[0][0][0]] += 1
    assert set(wirings) == {(0, 1), (0, 2), (1, 2)}
    assert all(abs(n - 200) < 5 * math.sqrt(600 * 2 / 9) for n in wirings.values())
    assert set(operations) == {"skip_connect", "sep_conv_3x3"}
    assert abs(operations["skip_connect"] - 300) < 5 * math.sqrt(600 / 4)


@pytest.mark.parametrize("in_degree", [1, 2, 3, 9])
def test_random_edges_of_a_dense_topology_are_so_many_random_inputs_of_each_node(in_degree: int) -> None:
    """Every set of inputs of node 4 equally often, each within five deviations."""
    arch = state(small(3))
    found: Counter[tuple[int, ...]] = Counter()
    for seed in range(400):
        cell = derive(arch, Rules(edges="random", in_degree=in_degree, seed=seed)).cells["normal"]
        assert [len(node) for node in cell.nodes] == [min(in_degree, n) for n in (2, 3, 4)]
        found[tuple(source for _, source in cell.nodes[2])] += 1
    n = math.comb(4, min(in_degree, 4))
    assert len(found) == n
    assert all(abs(count - 400 / n) <= 5 * math.sqrt(400 / n) for count in found.values())


@pytest.mark.parametrize("edges", EDGE_RULES)
@pytest.mark.parametrize("operations", OPERATION_RULES)
def test_every_pair_of_rules_gives_a_genotype(operations: str, edges: str) -> None:
    """Also where a candidate list is short, an edge has nothing but none, and the output is the last node."""
    lists = [["none", "skip_connect", "noise"], ["none"], ["skip_connect"], ["none", "sep_conv_3x3"], ["noise"]]
    cells = {
        kind: CellSpec(2, 2, complete_edges(2, 2), lists, output, stride)
        for kind, stride, output in (("normal", 1, "last"), ("reduce", 2, "concat"))
    }
    arch = ArchState(SpaceSpec("user", cells), "softmax", init=1.0)
    derived = derive(arch, Rules(operations, edges))
    genotype = Genotype("user", derived.cells)
    assert genotype.cells["normal"].concat == (3,)
    assert all((source, name) != (1, "none") for node in genotype.cells["normal"].nodes for name, source in node)
    assert 1 not in derived.kept["normal"]
    assert derived.chosen["normal"][1] is None
    assert cells_as_dict(genotype.cells) == genotype.to_dict()["cells"]


# --- the network of what was derived


def transplant(net: Supernet, fixed: FixedNet, derived: Any) -> None:
    """Give the fixed network the weights that the supernet has for the same operations."""
    state, loaded = net.per_edge_state_dict(), fixed.state_dict()
    for name in loaded:
        if ".operations." not in name and name in state:
            loaded[name] = state[name]
    for slot in net.slots:
        cell = net.space.cells[slot.cell_type]
        kept = sorted(derived.kept[slot.cell_type], key=lambda e: (cell.edges[e][1], e))
        for position, e in enumerate(kept):
            op = cell.candidates[e][derived.chosen[slot.cell_type][e]]
            for name in loaded:
                part = name.removeprefix(f"cells.{slot.index}.cell.operations.{position}.")
                if part != name and f"cells.{slot.index}.edges.{e}.{op}.{part}" in state:
                    loaded[name] = state[f"cells.{slot.index}.edges.{e}.{op}.{part}"]
    fixed.load_state_dict(loaded)


@pytest.mark.parametrize(
    ("name", "layers", "topology", "rules"),
    [
        ("darts", 3, "dense", Rules()),
        ("darts", 3, "dense", Rules(operations="random", in_degree=1)),
        ("darts", 3, "dense", Rules(edges="all")),
        ("darts", 3, {"name": "subsets", "view": "source", "sizes": "any"}, Rules()),
        ("nasbench201", 5, "dense", Rules(edges="all", none=True)),
        ("nasbench201", 5, "dense", Rules(operations="random", edges="all", none=True, seed=3)),
    ],
    ids=str,
)
def test_the_supernet_masked_to_the_derived_cell_is_the_network_of_the_genotype(
    name: str, layers: int, topology: Any, rules: Rules
) -> None:
    """Without pools, which have batch norm in the supernet only; with the statistics of the batch in both."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"nodes": 3, "candidates": ("none", "skip_connect", "sep_conv_3x3", "dil_conv_5x5")}
    space = spaces.get(name, **(options if name == "darts" else {}))
    arch = ArchState(space, "softmax", topology, init=2.0, generator=torch.Generator().manual_seed(1)).double()
    net = Supernet(space, 4, layers, 3).double()
    derived = derive(arch, rules)
    masked = derived.weights(arch())
    for kind, (ops, edges) in masked.items():
        assert set(ops.unique().tolist()) | set(edges.unique().tolist()) <= {0.0, 1.0}
        assert edges.nonzero().flatten().tolist() == list(derived.kept[kind])
    fixed = FixedNet(Genotype(name, derived.cells), 4, layers, 3).double()
    transplant(net, fixed, derived)
    x: Tensor = torch.randn(4, 3, 8, 8, dtype=F64)
    torch.testing.assert_close(fixed.train()(x), net(x, masked), rtol=1e-9, atol=1e-9)


# --- errors


def test_rules_that_do_not_exist_are_refused_by_name() -> None:
    with pytest.raises(RecipeError, match=r"operations must be one of .*'magnitud' \(did you mean 'magnitude'\?\)"):
        derive(state(small()), Rules(operations="magnitud"))
    with pytest.raises(RecipeError, match=rf"edges must be one of {', '.join(EDGE_RULES)}, but got 'top'"):
        check_rules(Rules(edges="top"))
