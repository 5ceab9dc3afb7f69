"""Topologies against brute force over every assignment of choices, closed forms, and the papers' counts."""

import functools
import itertools
import math
import re
import time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from topocell import spaces, topology
from topocell.errors import RecipeError, RunError, SpaceError
from topocell.spaces.cell import CellSpec
from topocell.topology import TOPOLOGIES, Dense, EdgeSigmoid, EdgeSoftmax, Fixed, Subsets
from topocell.topology.assignments import MAX_CHOICES, without_dead_ends, without_orphans

OPS = ("skip_connect", "sep_conv_3x3")


def darts(nodes: int) -> CellSpec:
    return spaces.get("darts", nodes=nodes).cells["normal"]


RAGGED = CellSpec(2, 4, ((0, 2), (1, 2), (0, 3), (0, 4), (1, 4), (2, 4), (3, 4), (0, 5), (3, 5)), OPS)
CHAIN = CellSpec(1, 3, ((0, 1), (1, 2), (2, 3)), OPS, "last")
CELLS = {
    "darts4": darts(4),  # N = 7 of the papers
    "darts3": darts(3),
    "ragged": RAGGED,
    "chain": CHAIN,
    "nasbench201": spaces.get("nasbench201").cells["cell"],
}
#: Sizes of sets; stretchable cells in both readings of "none for removing the node".
SIZES = [1, 2, 3, "any", "any-or-none", "none: no-input"]
READINGS = ("no-output", "no-input")


def makeable(cell: CellSpec, view: str, sizes: object) -> bool:
    """Whether sets of these sizes can give every node an input (they cannot where nodes outnumber kept edges)."""
    try:
        Subsets(cell, view=view, **sized(sizes))
    except (SpaceError, RecipeError):
        return False
    return True


def sized(sizes: object) -> dict[str, Any]:
    """The options of an entry of `SIZES`."""
    return {"sizes": "any-or-none", "drop": "no-input"} if sizes == "none: no-input" else {"sizes": sizes}


VARIANTS = [
    (name, view, sizes)
    for name, cell in CELLS.items()
    for view in ("source", "target")
    for sizes in SIZES
    if makeable(cell, view, sizes)
]
variants = pytest.mark.parametrize(("name", "view", "sizes"), VARIANTS)


@functools.cache
def make(name: str, view: str, sizes: object, norm: str = "none", scale: str = "unit") -> Subsets:
    return Subsets(CELLS[name], view=view, norm=norm, scale=scale, **sized(sizes))


@functools.cache
def brute_force(t: Subsets) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All assignments (A, groups), the edges each keeps (A, E), and whether all computed nodes stay (A,)."""
    assignments = np.array(list(itertools.product(*[range(len(g.choices)) for g in t.groups])))
    kept = np.zeros((len(assignments), t.cell.n_edges), dtype=bool)
    for g, group in enumerate(t.groups):
        kept[:, group.edges] = group.choices.numpy()[assignments[:, g]]
    return assignments, kept, staying(t.cell, kept, t.drops_dead_ends).all(1)


def staying(cell: CellSpec, kept: np.ndarray, dead_ends_go: bool) -> np.ndarray:
    """Which computed nodes (A, nodes) stay when nodes are removed, with their edges, until none has to be any more."""
    there = np.ones((len(kept), cell.inputs + cell.nodes), dtype=bool)
    while True:
        before = there.copy()
        live = kept & there[:, [src for src, _ in cell.edges]] & there[:, [dst for _, dst in cell.edges]]
        for node in cell.computed:
            there[:, node] &= live[:, cell.incoming(node)].any(1)
            last = node == cell.computed[-1] or (cell.output == "concat" and not cell.outgoing(node))
            if dead_ends_go and not last:
                there[:, node] &= live[:, cell.outgoing(node)].any(1)
        if (there == before).all():
            return there[:, cell.inputs :]


def scores(t: Subsets, beta: torch.Tensor) -> np.ndarray:
    """Σ_g β_g(c_g) of every assignment (A,)."""
    assignments, _, _ = brute_force(t)
    return sum(beta[g.slice].double().numpy()[assignments[:, i]] for i, g in enumerate(t.groups))


def softmaxes(t: Subsets, beta: torch.Tensor, temperature: float = 1.0) -> list[list[float]]:
    """p_g of every group by plain Python."""
    exps = [[math.exp(b / temperature) for b in beta[g.slice].tolist()] for g in t.groups]
    return [[x / sum(row) for x in row] for row in exps]


def random_beta(n: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def betas(n: int, bound: float = 6.0) -> st.SearchStrategy[torch.Tensor]:
    numbers = st.lists(st.floats(-bound, bound, width=32), min_size=n, max_size=n)
    return numbers.map(lambda values: torch.tensor(values, dtype=torch.float64))


def fuzz(examples: int = 30) -> settings:
    return settings(max_examples=examples)


def outgoing(cell: CellSpec) -> dict[int, list[int]]:
    return {node: cell.outgoing(node) for node in range(cell.inputs + cell.nodes) if cell.outgoing(node)}


# ---- numbers of choices ----


@pytest.mark.parametrize(
    ("nodes", "view", "sizes", "count"),
    [
        (4, "source", 2, 6 + 6 + 3 + 2 + 1),  # TopoNAS, N = 7, fixed
        (4, "source", "any", 41),
        (5, "source", "any", 88),
        (6, "source", "any", 183),
        (8, "source", "any", 757),
        (4, "source", "any-or-none", 46),
        (6, "source", "any-or-none", 190),
        (4, "target", 2, 1 + 3 + 6 + 10),  # DOTS
        (4, "target", "any", 3 + 7 + 15 + 31),
    ],
)
def test_number_of_logits(nodes: int, view: str, sizes: object, count: int) -> None:
    assert Subsets(darts(nodes), view=view, sizes=sizes).n_logits == count


@pytest.mark.parametrize(
    ("view", "sizes", "assignments", "valid"),
    [
        ("target", 2, 180, 180),
        ("target", "any", 9765, 9765),
        ("source", 2, 216, 138),
        ("source", "any", 4725, 3224),
        ("source", "none: no-input", 16384, 9765),
        ("source", "any-or-none", 16384, 3468),  # no dead ends either
        ("target", "any-or-none", 16384, 9765),
    ],
)
def test_number_of_cells(view: str, sizes: object, assignments: int, valid: int) -> None:
    t = make("darts4", view, sizes)
    _, kept, is_valid = brute_force(t)
    assert len(kept) == assignments
    assert is_valid.sum() == t.n_valid == valid
    assert len(np.unique(kept, axis=0)) == assignments


def test_stretchable_cells_with_all_nodes_are_the_cells_of_dots_with_any_edges() -> None:
    sets = []
    for view, sizes in (("source", "none: no-input"), ("target", "any")):
        _, kept, valid = brute_force(make("darts4", view, sizes))
        sets.append({row.tobytes() for row in kept[valid]})
    assert sets[0] == sets[1]


@variants
def test_n_valid_counts_the_valid_assignments(name: str, view: str, sizes: object) -> None:
    t = make(name, view, sizes)
    assert t.n_valid == brute_force(t)[2].sum() > 0


def test_choices_come_by_size_then_lexicographically() -> None:
    t = make("darts4", "source", "any-or-none")
    rows = [tuple(np.flatnonzero(row)) for row in t.groups[2].choices.numpy()]
    assert rows == [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
    assert [g.node for g in t.groups] == [0, 1, 2, 3, 4]
    assert [g.edges for g in t.groups] == [tuple(e) for e in outgoing(t.cell).values()]


def test_groups_split_the_edges_and_the_logits() -> None:
    for name, view, sizes in VARIANTS:
        t = make(name, view, sizes)
        assert sorted(e for g in t.groups for e in g.edges) == list(range(t.cell.n_edges))
        assert [i for g in t.groups for i in range(t.n_logits)[g.slice]] == list(range(t.n_logits))
        for g in t.groups:
            assert {t.cell.edges[e][0 if view == "source" else 1] for e in g.edges} == {g.node}
            assert len(g.choices) == len(range(t.n_logits)[g.slice])


def test_sizes_per_group() -> None:
    t = Subsets(darts(4), view="source", sizes=[3, 1, 2, 2, 1])
    assert [set(g.choices.sum(1).tolist()) for g in t.groups] == [{3}, {1}, {2}, {2}, {1}]


# ---- decoding ----


def expected_decode(t: Subsets, beta: torch.Tensor, may_drop: bool) -> tuple[list[int], set[int], float]:
    """Kept edges, dropped nodes and the score of the assignment, by brute force."""
    _, kept, valid = brute_force(t)
    nodes = staying(t.cell, kept, t.drops_dead_ends)
    allowed = valid
    if may_drop:
        allowed = nodes[:, -1] if t.cell.output == "last" else nodes.any(1)
    score = np.where(allowed, scores(t, beta), -np.inf)
    best = int(np.argmax(score))
    alive = {*range(t.cell.inputs), *(np.flatnonzero(nodes[best]) + t.cell.inputs).tolist()}
    edges = [e for e in np.flatnonzero(kept[best]).tolist() if set(t.cell.edges[e]) <= alive]
    return edges, set(t.cell.computed) - alive, score[best]


@variants
def test_decode_is_the_most_likely_valid_assignment(name: str, view: str, sizes: object) -> None:
    t = make(name, view, sizes)
    _, sets, valid = brute_force(t)
    argmax_valid = set()
    for seed in range(25):
        beta = random_beta(t.n_logits, seed)
        report = t.decode_report(beta)
        edges, dropped, taken = expected_decode(t, beta, t.may_drop_nodes)
        assert list(report.kept) == t.decode(beta) == edges
        assert set(report.dropped_nodes) == dropped
        score = scores(t, beta)
        plain = int(np.argmax(score))
        entered = {t.cell.edges[e][1] for e in np.flatnonzero(sets[plain])}
        assert report.argmax_valid == (entered == set(t.cell.computed))
        assert valid[plain] == (report.note is None)
        argmax_valid.add(valid[plain])
        assert report.log_probability == pytest.approx(taken - np.logaddexp.reduce(score), abs=1e-9)
    if 0.3 < valid.mean() < 0.75:
        assert argmax_valid == {True, False}  # both ways were taken


@pytest.mark.parametrize("sizes", [2, "any", "any-or-none", "none: no-input"])
def test_ties_go_to_the_lowest_choices(sizes: object) -> None:
    t = make("darts4", "source", sizes)
    for seed in range(20):
        beta = torch.randint(0, 2, (t.n_logits,), generator=torch.Generator().manual_seed(seed)).double()
        assert t.decode(beta) == expected_decode(t, beta, t.may_drop_nodes)[0]
    assert t.decode(torch.zeros(t.n_logits)) == expected_decode(t, torch.zeros(t.n_logits), t.may_drop_nodes)[0]


def test_a_valid_argmax_is_kept_and_an_invalid_one_is_explained() -> None:
    t = make("darts4", "source", 2)
    beta = torch.zeros(t.n_logits)
    for g in (0, 1):
        beta[t.groups[g].slice][-1] = 3.0  # nodes 0 and 1 prefer to feed 4 and 5: nobody feeds 2
    beta[t.groups[1].slice][0] = 2.9  # node 1 would nearly as gladly feed 2 and 3
    report = t.decode_report(beta)
    assert not report.argmax_valid
    assert {t.cell.edges[e] for e in report.kept} >= {(0, 4), (0, 5), (1, 2), (1, 3)}
    assert report.note == (
        "the most likely choices leave node 2 without an input; took the most likely ones that give every node "
        "an input: 1 → 2, 3 instead of 1 → 4, 5"
    )


def preferring(t: Subsets, *choices: tuple[int, ...]) -> torch.Tensor:
    """Logits whose argmax keeps, of each group, the edges at the given positions."""
    beta = torch.zeros(t.n_logits)
    for group, choice in zip(t.groups, choices):
        row = [tuple(np.flatnonzero(c)) for c in group.choices.numpy()].index(choice)
        beta[group.slice][row] = 5.0
    return beta


@pytest.mark.parametrize("reading", READINGS)
def test_every_choice_of_a_stretchable_cell_leaves_the_cell_of_its_reading(reading: Any) -> None:
    """All 2^14 choices of N = 7: nodes go until none is left to go; a cell that is empty is not derived."""
    t = Subsets(darts(4), sizes="any-or-none", drop=reading)
    trim = {"no-input": without_orphans, "no-output": without_dead_ends}[reading]
    assignments, kept, _ = brute_force(t)
    there = staying(t.cell, kept, reading == "no-output")
    cells, beta = set(), torch.zeros(t.n_logits)
    for edges, nodes in zip(kept, there):
        alive = {0, 1, *(np.flatnonzero(nodes) + 2).tolist()}
        chosen = np.flatnonzero(edges).tolist()
        wanted = tuple(e for e in chosen if set(t.cell.edges[e]) <= alive)
        assert trim(t.cell, chosen) == (wanted, tuple(sorted({2, 3, 4, 5} - alive)))
        cells.add(wanted)
    sizes = np.bincount(there.sum(1)).tolist()
    assert (len(kept), sizes, len(cells - {()})) == {
        "no-input": (2**14, [64, 360, 1470, 4725, 9765], 11163),
        "no-output": (2**14, [841, 2523, 4404, 5148, 3468], 3903),
    }[reading]
    nothing = np.flatnonzero(~there.any(1))
    for number in [*range(0, 2**14, 163), *nothing[::13].tolist()]:
        chosen = [group.slice.start + c for group, c in zip(t.groups, assignments[number].tolist())]
        beta.zero_()[chosen] = 1.0
        report = t.decode_report(beta)
        if number in nothing:
            assert report.kept and len(report.dropped_nodes) < 4
        else:
            assert (report.kept, report.dropped_nodes) == trim(t.cell, np.flatnonzero(kept[number]).tolist())


def test_a_node_that_chooses_no_output_leaves_with_what_leads_to_it_alone() -> None:
    # 0 → 2, 5; 1 → nothing; 2 → 3; 3 → 4; 4 → nothing: 4 goes, so 3 leads nowhere, so 2 does not either
    t = make("darts4", "source", "any-or-none")
    report = t.decode_report(preferring(t, (0, 3), (), (0,), (0,), ()))
    assert [t.cell.edges[e] for e in report.kept] == [(0, 5)]
    assert (report.argmax_valid, report.dropped_nodes) == (True, (2, 3, 4))
    assert report.note == (
        "the most likely choices leave node 4 without an output; dropped nodes 2, 3, 4, on no path from an input to "
        "node 5"
    )
    stays = make("darts4", "source", "none: no-input").decode_report(preferring(t, (0, 3), (), (0,), (0,), ()))
    assert stays.dropped_nodes == () and len(stays.kept) == 4 and stays.note is None


def test_a_cell_without_a_path_to_its_last_node_is_repaired() -> None:
    """Everything would go: the most likely choices that lead to the last node are taken."""
    t = make("darts4", "source", "any-or-none")
    beta = preferring(t, (0,), (), (), (), ())  # 0 → 2, and that is all
    beta[t.groups[2].slice][3] = 1.0  # node 2 would next choose node 5
    report = t.decode_report(beta)
    assert [t.cell.edges[e] for e in report.kept] == [(0, 2), (2, 5)]
    assert (report.argmax_valid, report.dropped_nodes) == (False, (3, 4))
    assert report.note == (
        "the most likely choices leave nodes 3, 4, 5 without an input and nodes 2, 3, 4 without an output; took the "
        "most likely ones that leave a cell: 2 → 5 instead of 2 → nothing; dropped nodes 3, 4, on no path from an "
        "input to node 5"
    )


def test_nodes_that_can_send_nothing_stay() -> None:
    """Nodes 4 and 5 of the ragged cell have no candidate for an outgoing edge: each is an end."""
    t = make("ragged", "source", "any-or-none")
    names = [t.cell.edges[e] for e in t.groups[0].edges]
    report = t.decode_report(preferring(t, tuple(names.index(edge) for edge in ((0, 2), (0, 3), (0, 4))), (), (), ()))
    assert [t.cell.edges[e] for e in report.kept] == [(0, 4)] and report.dropped_nodes == (2, 3, 5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sizes": "any", "drop": "no-input"}, "only can with sizes=any-or-none, but got sizes='any'; leave drop out"),
        ({"sizes": "any-or-none", "drop": "no-outputs"}, "drop is one of no-output, no-input, but got 'no-outputs'"),
        ({"view": "target", "sizes": "any-or-none", "drop": "no-output"}, "but got view='target'"),
    ],
)
def test_a_drop_without_effect_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(words)):
        Subsets(darts(4), **options)


def test_stretchable_cells_drop_nodes_without_an_input_and_what_hangs_on_them() -> None:
    t = make("darts4", "source", "none: no-input")
    # 0 → 5, 1 → nothing, 2 → 3, 4, 3 → 4, 4 → nothing: 2 has no input, so 3 and 4 have none either
    report = t.decode_report(preferring(t, (3,), (), (0, 1), (0,), ()))
    assert [t.cell.edges[e] for e in report.kept] == [(0, 5)]
    assert report.dropped_nodes == (2, 3, 4)
    assert report.note == (
        "the most likely choices leave node 2 without an input; dropped nodes 2, 3, 4, which nothing reaches any more"
    )
    # a node with an input and no successor stays in the cell
    kept = t.decode(preferring(t, (0,), (), (), (), ()))
    assert [t.cell.edges[e] for e in kept] == [(0, 2)]


def test_stretchable_cells_that_would_lose_everything_are_repaired() -> None:
    t = make("darts4", "source", "none: no-input")
    beta = preferring(t, (), (), (), (), ())
    beta[t.groups[1].slice][t.groups[1].choices.sum(1) == 2] = 1.0  # node 1 would rather have two than one
    report = t.decode_report(beta)
    assert [t.cell.edges[e] for e in report.kept] == [(1, 2), (1, 3)]
    assert (report.argmax_valid, report.dropped_nodes) == (False, (4, 5))
    assert report.note == (
        "the most likely choices leave nodes 2, 3, 4, 5 without an input; took the most likely ones that leave a cell: "
        "1 → 2, 3 instead of 1 → nothing; dropped nodes 4, 5, which nothing reaches any more"
    )


@pytest.mark.parametrize("view", ["source", "target"])
def test_the_output_of_a_nasbench201_cell_is_always_reached(view: str) -> None:
    """Node 3 is the output; node 1 or 2 may go, with the edges leaving it."""
    t = make("nasbench201", view, "any-or-none")
    seen = set()
    for seed in range(200):
        report = t.decode_report(random_beta(t.n_logits, seed, 3.0))
        kept = {t.cell.edges[e] for e in report.kept}
        assert 3 not in report.dropped_nodes and any(dst == 3 for _, dst in kept)
        assert all(not set(report.dropped_nodes) & set(edge) for edge in kept)
        seen.add(report.dropped_nodes)
    assert {(), (1,), (2,), (1, 2)} == seen


def test_the_output_is_reached_in_the_most_likely_way() -> None:
    """Node 1 alone feeds the output, but nothing feeds node 1: it takes two changes, or one that costs more."""
    t = make("nasbench201", "source", "none: no-input")  # 0 → {1, 2, 3}, 1 → {2, 3}, 2 → {3}
    beta = preferring(t, (), (1,), ())
    to_one, to_three = (list(map(tuple, map(np.flatnonzero, t.groups[0].choices.numpy()))).index((k,)) for k in (0, 2))
    beta[t.groups[0].slice][to_one], beta[t.groups[0].slice][to_three] = 2.0, 1.0
    assert [t.cell.edges[e] for e in t.decode(beta)] == [(0, 1), (1, 3)]
    beta[t.groups[0].slice][to_three] = 2.5
    report = t.decode_report(beta)
    assert [t.cell.edges[e] for e in report.kept] == [(0, 3)]  # what leaves node 1 is zero, and goes
    assert report.dropped_nodes == (1, 2)


def test_decode_of_eight_nodes_is_fast() -> None:
    t = Subsets(darts(8), view="source", sizes="any")
    beta = preferring(t, *[(len(g.edges) - 1,) for g in t.groups])  # all feed the last node: invalid
    assert not t.decode_report(beta).argmax_valid
    seconds = []
    for _ in range(8):
        start = time.perf_counter()
        t.decode(beta)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05


# ---- weights ----


@pytest.mark.parametrize(("norm", "scale"), list(itertools.product(["none", "mean"], ["unit", "none", "printed"])))
@variants
def test_weights_are_the_sums_over_choices(name: str, view: str, sizes: object, norm: str, scale: str) -> None:
    if scale == "printed" and isinstance(sizes, int):
        with pytest.raises(RecipeError, match="printed"):
            make(name, view, sizes, norm, scale)
        return
    t = make(name, view, sizes, norm, scale)
    for seed, temperature in ((0, 1.0), (1, 0.3)):
        beta = random_beta(t.n_logits, seed)
        expected = [0.0] * t.cell.n_edges
        for group, p in zip(t.groups, softmaxes(t, beta, temperature)):
            n, rows = len(group.edges), group.choices.tolist()
            mean_weight = sum((1 / sum(r) if norm == "mean" else 1) for r in rows if r[0]) / len(rows)
            factor = {"unit": 1 / mean_weight, "none": 1.0, "printed": (2**n - 1) / 2 ** (n - 1)}[scale]
            for position, e in enumerate(group.edges):
                for q, row in zip(p, rows):
                    if row[position]:
                        expected[e] += factor * q / (sum(row) if norm == "mean" else 1)
        assert t.weights(beta, temperature).tolist() == pytest.approx(expected, abs=1e-12)
    if scale == "unit":
        assert t.weights(torch.zeros(t.n_logits)).tolist() == pytest.approx([1.0] * t.cell.n_edges)


@fuzz()
@given(beta=betas(20))
def test_dots_pairs_sum_to_one_per_node(beta: torch.Tensor) -> None:
    t = make("darts4", "target", 2, "mean", "none")
    w = t.weights(beta)
    sums = [w[t.cell.incoming(node)].sum().item() for node in t.cell.computed]
    assert sums == pytest.approx([1.0] * 4)
    code = make("darts4", "target", 2, "none", "none").weights(beta)  # the released code leaves 1/|c| out
    assert code.tolist() == pytest.approx((2 * w).tolist())


@fuzz()
@given(beta=betas(56))
def test_dots_any_sums_to_one_per_node(beta: torch.Tensor) -> None:
    t = make("darts4", "target", "any", "mean", "none")
    w = t.weights(beta)
    assert [w[t.cell.incoming(node)].sum().item() for node in t.cell.computed] == pytest.approx([1.0] * 4)


@pytest.mark.parametrize(("sizes", "norm", "factor"), [(2, "mean", 1), ("any", "mean", 1), (2, "none", 2)])
def test_dots_starts_with_equal_edges(sizes: object, norm: str, factor: float) -> None:
    t = make("darts4", "target", sizes, norm, "none")
    expected = [factor / n for n in (2, 3, 4, 5) for _ in range(n)]
    assert t.weights(torch.zeros(t.n_logits)).tolist() == pytest.approx(expected)


@fuzz()
@given(beta=betas(18))
def test_toponas_fixed_sums_to_the_number_of_destinations(beta: torch.Tensor) -> None:
    t = make("darts4", "source", 2)
    w, unscaled = t.weights(beta), make("darts4", "source", 2, scale="none").weights(beta)
    for node, edges in outgoing(t.cell).items():
        assert w[edges].sum().item() == pytest.approx(len(edges))
        assert unscaled[edges].sum().item() == pytest.approx({0: 2, 1: 2, 2: 2, 3: 1, 4: 1}[node])
    assert w[outgoing(t.cell)[4]].item() == pytest.approx(1.0)  # its only edge is always there


@fuzz()
@given(beta=betas(41))
def test_toponas_arbitrary_sums_to_the_expected_number_of_edges(beta: torch.Tensor) -> None:
    t = make("darts4", "source", "any")
    w = t.weights(beta)
    for group, p in zip(t.groups, softmaxes(t, beta)):
        n = len(group.edges)
        factor = (2**n - 1) / 2 ** (n - 1)
        mean_size = sum(q * sum(row) for q, row in zip(p, group.choices.tolist()))
        assert w[list(group.edges)].sum().item() == pytest.approx(factor * mean_size)
        assert all(-1e-9 <= x <= factor + 1e-9 for x in w[list(group.edges)].tolist())


def test_stretchable_factor_as_printed() -> None:
    t = make("darts4", "source", "any-or-none", "none", "printed")
    w = t.weights(torch.zeros(t.n_logits))
    for edges in outgoing(t.cell).values():
        expected = {4: 0.9375, 3: 0.875, 2: 0.75, 1: 0.5}[len(edges)]
        assert w[edges].tolist() == pytest.approx([expected] * len(edges))


@fuzz()
@given(beta=betas(20))
def test_toponas_input_view(beta: torch.Tensor) -> None:
    t = make("darts4", "target", 2, scale="none")
    w = t.weights(beta)
    assert [w[t.cell.incoming(node)].sum().item() for node in t.cell.computed] == pytest.approx([2.0] * 4)
    # Eq. 6 for the last node: pairs (0,1) (0,2) (0,3) (0,4) (1,2) ..; edge 1 → 5 is in the pairs 0, 4, 5, 6
    p = t.probabilities(beta)[t.groups[3].slice]
    assert w[t.cell.edges.index((1, 5))].item() == pytest.approx(p[[0, 4, 5, 6]].sum().item())


@variants
def test_temperature_limits(name: str, view: str, sizes: object) -> None:
    t = make(name, view, sizes, scale="none")
    beta = random_beta(t.n_logits, 3)
    choice = [g.choices[beta[g.slice].argmax()] for g in t.groups]
    hard = torch.zeros(t.cell.n_edges, dtype=torch.float64)
    for group, row in zip(t.groups, choice):
        hard[list(group.edges)] = row.double()
    beta.requires_grad_()
    cold = t.weights(beta, 1e-5)
    assert cold.tolist() == pytest.approx(hard.tolist(), abs=1e-6)
    assert torch.isfinite(torch.autograd.grad(cold.sum(), beta)[0]).all()
    hot = t.weights(beta, 1e9)
    assert hot.tolist() == pytest.approx(t.weights(torch.zeros_like(beta)).tolist(), abs=1e-6)


def test_entropy_is_in_nats_and_skips_groups_without_a_choice() -> None:
    t = make("darts4", "source", 2)
    at_start = t.entropy(torch.zeros(t.n_logits))
    assert at_start is not None
    assert at_start.item() == pytest.approx((2 * math.log(6) + math.log(3) + math.log(2)) / 4)
    beta = random_beta(t.n_logits, 0)
    expected = [-sum(q * math.log(q) for q in p) for p in softmaxes(t, beta, 0.5) if len(p) > 1]
    entropy = t.entropy(beta, 0.5)
    assert entropy is not None
    assert entropy.item() == pytest.approx(sum(expected) / 4)
    assert make("chain", "source", 1).entropy(torch.zeros(3)) is None


# ---- the penalty r(β) ----


def explicit_penalty(t: Subsets, beta: torch.Tensor) -> float:
    """Eq. 14 by plain loops over nodes and groups."""
    p = softmaxes(t, beta)
    total = 0.0
    for node in t.cell.computed:
        product = 1.0
        for group, q in zip(t.groups, p):
            gives = [any(on and t.cell.edges[e][1] == node for e, on in zip(group.edges, row)) for row in group.choices]
            if any(gives):
                product *= (max(q) - max(x for x, ok in zip(q, gives) if ok)) / max(q)
        total += product
    return total


@variants
def test_penalty_is_equation_14(name: str, view: str, sizes: object) -> None:
    t = make(name, view, sizes)
    for seed in range(8):
        beta = random_beta(t.n_logits, seed, 2.0)
        r = t.penalty(beta)
        assert r.shape == ()
        assert r.item() == pytest.approx(explicit_penalty(t, beta), abs=1e-12)
        plain = brute_force(t)[1][np.argmax(scores(t, beta))]
        assert (r.item() == 0) == ({t.cell.edges[e][1] for e in np.flatnonzero(plain)} == set(t.cell.computed))
        if view == "target" and not t.may_drop_nodes:
            assert r.item() == 0
    assert t.penalty(torch.zeros(t.n_logits)).item() == 0


@pytest.mark.parametrize(("sizes", "bound"), [(2, 3), ("any", 3), ("any-or-none", 4)])
def test_penalty_is_bounded_by_the_nodes_that_can_be_missed(sizes: object, bound: float) -> None:
    t = make("darts4", "source", sizes)

    @fuzz(60)
    @given(beta=betas(t.n_logits))
    def check(beta: torch.Tensor) -> None:
        r = t.penalty(beta).item()
        assert 0 <= r < bound
        if t.decode_report(beta).argmax_valid:
            assert r == 0

    check()


def test_penalty_of_one_missed_node() -> None:
    t = make("darts4", "source", "any")
    beta = torch.zeros(t.n_logits, dtype=torch.float64)
    rho = (0.3, 0.8)
    for g in (0, 1):
        p = torch.where(t.groups[g].choices[:, 0], 0.0, 1e-3).double()  # choices with node 2 get ρ · the maximum
        p[-1] = rho[g]
        p[len(t.groups[g].edges) + 3] = 1.0  # the pair (3, 4)
        assert t.groups[g].choices[len(t.groups[g].edges) + 3].tolist() == [False, True, True, False]
        beta[t.groups[g].slice] = p.clamp(min=1e-9).log()
    assert t.penalty(beta).item() == pytest.approx((1 - rho[0]) * (1 - rho[1]))


def test_penalty_of_the_input_view_with_empty_sets() -> None:
    t = make("darts4", "target", "any-or-none")
    beta = random_beta(t.n_logits, 5)
    expected = sum(1 - max(p[1:]) / max(p) for p in softmaxes(t, beta))
    assert expected > 0
    assert t.penalty(beta).item() == pytest.approx(expected)


def test_descending_the_penalty_leads_to_a_valid_topology() -> None:
    t = make("darts4", "source", 2)
    beta = random_beta(t.n_logits, 1).requires_grad_()
    assert t.penalty(beta).item() > 0
    for _ in range(100):
        (gradient,) = torch.autograd.grad(t.penalty(beta), beta)
        beta.data -= 0.05 * gradient.sign()
    assert t.penalty(beta).item() == 0
    assert t.decode_report(beta).argmax_valid


# ---- every topology ----

OPTIONS: dict[str, dict[str, object]] = {
    "dense": {},
    "edge-softmax": {"keep": 2},
    "edge-sigmoid": {"threshold": 0.4},
    "subsets": {"view": "source", "sizes": "any"},
    "fixed": {"edges": [(0, 2), (1, 2), [0, 3], (2, 4), (3, 5)]},
}
every_topology = pytest.mark.parametrize("name", list(TOPOLOGIES))
every_cell = pytest.mark.parametrize("cell", [CELLS["darts4"], RAGGED], ids=["darts4", "ragged"])


def built(name: str, cell: CellSpec) -> topology.Topology:
    return topology.build(name, cell, **OPTIONS[name])


@every_topology
@every_cell
def test_contract(name: str, cell: CellSpec) -> None:
    t = built(name, cell)
    beta = random_beta(t.n_logits, 0).requires_grad_()
    w = t.weights(beta)
    assert w.shape == (cell.n_edges,)
    assert t.probabilities(beta).shape == (t.n_logits,)
    assert t.penalty(beta).shape == ()
    t.penalty(beta).backward()
    entropy = t.entropy(beta)
    assert (entropy is None) == (t.n_logits == 0)
    kept = t.decode(beta)
    assert kept == sorted(set(kept)) == list(t.decode_report(beta).kept)
    assert {cell.edges[e][1] for e in kept} == set(cell.computed)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        drawn = t.random(generator)
        assert drawn == sorted(set(drawn))
        assert {cell.edges[e][1] for e in drawn} == set(cell.computed)
    assert t.random(torch.Generator().manual_seed(7)) == t.random(torch.Generator().manual_seed(7))


@every_topology
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_answers_in_the_dtype_and_on_the_device_of_beta(name: str, dtype: torch.dtype) -> None:
    t = built(name, CELLS["darts4"])
    for device in ["cpu", "cuda"][: 1 + torch.cuda.is_available()]:
        beta = torch.zeros(t.n_logits, dtype=dtype, device=device)
        for answer in (t.weights(beta), t.penalty(beta), t.probabilities(beta)):
            assert (answer.dtype, answer.device.type) == (dtype, device)


@every_topology
def test_gradients(name: str) -> None:
    for cell in (CELLS["darts4"], RAGGED):
        t = built(name, cell)
        if t.n_logits == 0:
            continue
        beta = random_beta(t.n_logits, 4).requires_grad_()
        for function in (lambda b, t=t: t.weights(b, 0.7), t.penalty, lambda b, t=t: t.entropy(b, 0.7)):
            assert torch.autograd.gradcheck(function, (beta,))


@variants
def test_gradients_of_subsets(name: str, view: str, sizes: object) -> None:
    t = make(name, view, sizes)
    beta = random_beta(t.n_logits, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda b: t.weights(b, 0.7), (beta,), fast_mode=True)
    assert torch.autograd.gradcheck(t.penalty, (beta,), fast_mode=True)


@every_topology
def test_first_use_in_inference_mode_leaves_autograd_usable(name: str) -> None:
    with torch.inference_mode():
        t = built(name, CELLS["darts4"])
        t.weights(torch.zeros(t.n_logits))
        t.penalty(torch.zeros(t.n_logits))
    beta = torch.zeros(t.n_logits, requires_grad=True)
    (t.weights(beta).sum() + t.penalty(beta) + beta.sum()).backward()
    assert beta.grad is not None


def test_every_topology_is_in_these_tests() -> None:
    assert set(OPTIONS) == set(TOPOLOGIES)
    assert len(VARIANTS) > 30


# ---- the per-edge topologies ----


def test_dense_and_fixed() -> None:
    cell = CELLS["darts4"]
    none = torch.zeros(0)
    dense = Dense(cell)
    assert (dense.n_logits, dense.weights(none).tolist(), dense.decode(none)) == (0, [1.0] * 14, list(range(14)))
    pairs = [(0, 2), (1, 3), (0, 4), (2, 4), (4, 5)]
    for wiring in (pairs, [cell.edges.index(p) for p in pairs]):
        fixed = Fixed(cell, wiring)
        kept = sorted(cell.edges.index(p) for p in pairs)
        assert fixed.decode(none) == fixed.random(torch.Generator()) == kept
        assert fixed.weights(none).tolist() == [float(e in kept) for e in range(14)]
    fixed.weights(none).zero_()
    assert fixed.weights(none).sum() == 5


@fuzz()
@given(beta=betas(14))
def test_edge_softmax(beta: torch.Tensor) -> None:
    cell = CELLS["darts4"]
    t = EdgeSoftmax(cell, keep=2)
    w = t.weights(beta, 0.5)
    decoded = t.decode(beta)
    for node in cell.computed:
        edges = cell.incoming(node)
        assert w[edges].tolist() == pytest.approx(torch.softmax(beta[edges] / 0.5, 0).tolist())
        expected = sorted(sorted(edges, key=lambda e: (-beta[e].item(), e))[:2])
        assert [e for e in decoded if e in edges] == expected
    assert t.decode(torch.zeros(14)) == [0, 1, 2, 3, 5, 6, 9, 10]


@fuzz()
@given(beta=betas(14), threshold=st.floats(0.05, 0.95))
def test_edge_sigmoid(beta: torch.Tensor, threshold: float) -> None:
    cell = CELLS["darts4"]
    t = EdgeSigmoid(cell, threshold=threshold)
    p = t.weights(beta)
    assert p.tolist() == pytest.approx([1 / (1 + math.exp(-b)) for b in beta.tolist()])
    report = t.decode_report(beta)
    log_probability = 0.0
    for node in cell.computed:
        edges = cell.incoming(node)
        expected = [e for e in edges if abs(p[e] - threshold) < 1e-12 or p[e] > threshold]
        expected = expected or [max(edges, key=lambda e: (beta[e].item(), -e))]
        kept = [e for e in report.kept if e in edges]
        if all(abs(p[e] - threshold) > 1e-9 for e in edges):
            assert kept == expected
        log_probability += sum(math.log(p[e] if e in kept else 1 - p[e]) for e in edges)
    assert report.log_probability == pytest.approx(log_probability)
    assert report.argmax_valid == (report.note is None)


def test_edge_sigmoid_says_which_edges_it_forced() -> None:
    t = EdgeSigmoid(CELLS["darts4"])
    assert t.decode(torch.zeros(14)) == list(range(14))
    beta = torch.ones(14)
    beta[[0, 1, 2, 3, 4]] = torch.tensor([-2.0, -1.0, -3.0, -3.0, -4.0])
    report = t.decode_report(beta)
    assert report.kept[:2] == (1, 2)
    assert report.note == "no edge into nodes 2, 3 reached 0.5; kept the best: [(1, 2), (0, 3)]"
    entropy = t.entropy(torch.zeros(14))
    assert entropy is not None
    assert entropy.item() == pytest.approx(math.log(2))


# ---- random topologies ----


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("subsets", {"view": "source", "sizes": "any"}, 8),  # 3 · 3 · 1, less the one that misses node 2
        ("subsets", {"view": "source", "sizes": "any-or-none", "drop": "no-input"}, 3 * 7),
        ("subsets", {"view": "source", "sizes": "any-or-none"}, 3 * 4),  # node 2 feeds node 3
        ("subsets", {"view": "target", "sizes": 2}, 3),
        ("edge-softmax", {"keep": 2}, 3),
        ("edge-sigmoid", {}, 3 * 7),
    ],
)
def test_random_topologies_are_uniform(name: str, options: dict[str, object], count: int) -> None:
    t = topology.build(name, darts(2), **options)
    generator = torch.Generator().manual_seed(0)
    draws = 300 * count
    seen: dict[tuple[int, ...], int] = {}
    for _ in range(draws):
        kept = tuple(t.random(generator))
        seen[kept] = seen.get(kept, 0) + 1
    assert len(seen) == count
    chi_square = sum((n - 300) ** 2 / 300 for n in seen.values())
    assert chi_square < count - 1 + 5 * math.sqrt(2 * (count - 1))


@pytest.mark.parametrize("draw", [0.0, 1 - 2.0**-53])
def test_random_topologies_are_valid_at_both_ends_of_the_draw(draw: float) -> None:
    chain = make("chain", "source", "any-or-none")  # all but one of its choices leave a node without an input
    t = make("darts4", "source", 2)
    for topology_ in (chain, t):
        kept = topology_._assignments.edges(topology_._assignments.random(lambda: draw))
        assert {topology_.cell.edges[e][1] for e in kept} == set(topology_.cell.computed)


# ---- mistakes ----


@pytest.mark.parametrize(
    ("error", "words", "make_it"),
    [
        (RecipeError, "did you mean 'subsets'", lambda c: topology.build("subset", c)),
        (RecipeError, "no option 'size'.*did you mean 'sizes'", lambda c: topology.build("subsets", c, size=2)),
        (RecipeError, "no option 'keep'.*takes: none", lambda c: topology.build("dense", c, keep=2)),
        (RecipeError, "either edges or the name of a wiring", lambda c: topology.build("fixed", c)),
        (RecipeError, "view is one of source, target.*'sources'.*'source'", lambda c: Subsets(c, view="sources")),
        (RecipeError, "norm is one of", lambda c: Subsets(c, norm="sum")),
        (RecipeError, "scale is one of", lambda c: Subsets(c, scale=2)),
        (RecipeError, "sizes is one of any, any-or-none", lambda c: Subsets(c, sizes="all")),
        (RecipeError, "edges of the largest group, 4, but got 5; use 4 or less", lambda c: Subsets(c, sizes=5)),
        (RecipeError, "largest group, 5, but got 7", lambda c: Subsets(c, view="target", sizes=7)),
        (RecipeError, "sizes .*from 1.*got 0", lambda c: Subsets(c, sizes=0)),
        (RecipeError, "sizes .*from 1.*got 2.5", lambda c: Subsets(c, sizes=2.5)),
        (RecipeError, "sizes .*from 1.*got True", lambda c: Subsets(c, sizes=True)),
        (RecipeError, r"one k per group.*\[4, 4, 3, 2, 1\]", lambda c: Subsets(c, sizes=[2, 2])),
        (RecipeError, "one k per group", lambda c: Subsets(c, sizes=[2, 2, 2, 2, 2])),
        (RecipeError, "printed", lambda c: Subsets(c, sizes=2, scale="printed")),
        (SpaceError, "gives all of them one", lambda c: Subsets(RAGGED.with_edges([0, 2, 3, 7]), sizes=1)),
        (SpaceError, f"at most {MAX_CHOICES} choices", lambda c: Subsets(darts(15), sizes="any")),
        (RecipeError, "keep .*got 0", lambda c: EdgeSoftmax(c, keep=0)),
        (RecipeError, "threshold .*got 1", lambda c: EdgeSigmoid(c, threshold=1)),
        (SpaceError, r"names edges.*got \(0, 1\)", lambda c: Fixed(c, [(0, 1)])),
        (SpaceError, "names edges.*got 14", lambda c: Fixed(c, [14])),
        (SpaceError, "no edge of the wiring enters node 3", lambda c: Fixed(c, [(0, 2), (0, 4), (0, 5)])),
        (SpaceError, r"shape \(14,\), but got \(13,\)", lambda c: EdgeSoftmax(c).weights(torch.zeros(13))),
        (RecipeError, "temperature.*got 0", lambda c: EdgeSoftmax(c).weights(torch.zeros(14), 0.0)),
        (RunError, r"beta\[3\] is nan", lambda c: Subsets(c).decode(torch.tensor([0.0] * 3 + [math.nan] * 15))),
    ],
)
def test_mistakes_are_explained(error: type[Exception], words: str, make_it: object) -> None:
    with pytest.raises(error, match=words) as caught:
        make_it(CELLS["darts4"])  # type: ignore[operator]
    assert "\n" not in str(caught.value)


def test_a_users_own_topology_is_one_class_and_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    class FirstEdges(topology.Topology):
        def __init__(self, cell: CellSpec, boost: float = 1.0) -> None:
            super().__init__(cell, 1)
            self.boost = boost

        def weights(self, beta: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
            return self.boost * torch.sigmoid(beta / temperature).expand(self.cell.n_edges)

        def probabilities(self, beta: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
            return torch.sigmoid(beta / temperature)

        def decode_report(self, beta: torch.Tensor) -> topology.Decoded:
            return topology.Decoded(tuple(self.cell.incoming(n)[0] for n in self.cell.computed))

        def random(self, generator: torch.Generator) -> list[int]:
            return self.decode(torch.zeros(1))

    monkeypatch.setitem(TOPOLOGIES, "first", FirstEdges)
    t = topology.build("first", CELLS["darts4"], boost=2.0)
    assert t.weights(torch.zeros(1)).tolist() == [1.0] * 14
    assert t.decode(torch.zeros(1)) == [0, 2, 5, 9]
    assert t.penalty(torch.zeros(1)).item() == 0
    assert t.entropy(torch.zeros(1)) is None
