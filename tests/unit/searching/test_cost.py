"""The penalty on cost: exact for one cell, its gradients, what it counts, what it does to a search, and resuming."""

import itertools
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.identical import assert_identical
from torch import Tensor

from topocell import count, spaces
from topocell.config.cost import CostPlan
from topocell.config.search import SearchPlan
from topocell.config.selection import Rules
from topocell.data import splits
from topocell.data.splits import SearchData
from topocell.errors import RecipeError
from topocell.genotype.genotype import CellGenotype, Genotype
from topocell.io import checkpoint
from topocell.nn.costs import NetworkSize, network_costs
from topocell.nn.network import FixedNet
from topocell.runtime.hooks import Silent
from topocell.searching.cost import CellExpectation, CostPenalty, ExpectedCost
from topocell.searching.loop import Search
from topocell.selection.rules import derive
from topocell.spaces import SpaceSpec
from topocell.spaces.costs import CellCosts, NetworkCosts
from topocell.supernet.arch_state import ArchState
from topocell.supernet.weights import ArchWeights
from topocell.topology.assignments import without_dead_ends, without_orphans

SIZE = NetworkSize(4, 5, 3, (3, 16, 16))
SPACES: dict[str, SpaceSpec] = {
    "darts": spaces.get("darts"),
    "two nodes": spaces.get("darts", nodes=2, candidates=("none", "skip_connect", "sep_conv_3x3")),
    "s2": spaces.get("s2"),
    "nasbench201": spaces.get("nasbench201"),
}
SMALL = SPACES["two nodes"]
STRIDES = {"normal": 1, "reduce": 2}


@cache
def costs_of(name: str, measure: Any) -> NetworkCosts:
    return network_costs(SPACES[name], SIZE, measure)


# --- one cell


@pytest.mark.parametrize("space", SPACES)
@given(data=st.data())
@settings(max_examples=20)
def test_one_hot_weights_cost_what_their_network_does(space: str, data: st.DataObject) -> None:
    """Any edges and operations, `none` among them, with nodes that nothing reaches, and dead ends that go or stay."""
    of = SPACES[space]
    weights, cells, stay = {}, {}, dict.fromkeys(of.cells, True)
    for name, cell in of.cells.items():
        kept = sorted(data.draw(st.sets(st.integers(0, cell.n_edges - 1))) | {0})
        chosen = [data.draw(st.integers(0, len(names) - 1)) for names in cell.candidates]
        if cell.candidates[0][chosen[0]] == "none" and name != "cell":
            chosen[0] = len(cell.candidates[0]) - 1
        ops, edges = torch.zeros(cell.n_edges, cell.n_candidates), torch.zeros(cell.n_edges)
        for e in range(cell.n_edges):
            ops[e, chosen[e]] = 1.0
        edges[kept] = 1.0
        weights[name] = ArchWeights(ops, edges)
        real = [e for e in kept if cell.candidates[e][chosen[e]] != "none"]
        if name != "cell":
            stay[name] = data.draw(st.booleans()) or not without_dead_ends(cell, real)[0]
            real = list((without_orphans if stay[name] else without_dead_ends)(cell, real)[0])
        nodes = tuple(
            tuple((cell.candidates[e][chosen[e]], cell.edges[e][0]) for e in cell.incoming(n) if e in real)
            for n in cell.computed
        )
        there = tuple(n for n, pairs in zip(cell.computed, nodes) if pairs)
        cells[name] = CellGenotype(cell.inputs, nodes, (cell.computed[-1],) if cell.output == "last" else there)
    net = FixedNet(Genotype(of.name, cells, skeleton=of.skeleton), SIZE.channels, SIZE.layers, SIZE.classes)
    counted = count(net, SIZE.shape)
    for measure in ("parameters", "multiply_adds"):
        costs = costs_of(space, measure)
        parts = [CellExpectation(t, cell, costs)(weights[t], stay[t]) for t, cell in of.cells.items()]
        assert costs.fixed + float(sum(parts)) == getattr(counted, measure)


# --- gradients and shares

RELAXATIONS: list[Any] = [
    "softmax",
    {"name": "grouped-softmax", "groups": [["none"], ["skip_connect", "sep_conv_3x3"]]},
    "gumbel-softmax",
    "gumbel-straight-through",
    "sigmoid",
    "dirichlet",
]
TOPOLOGIES: list[Any] = [
    "dense",
    "edge-softmax",
    "edge-sigmoid",
    {"name": "subsets", "sizes": "any"},
    {"name": "subsets", "sizes": 2},
    {"name": "subsets", "sizes": "any-or-none"},
    {"name": "subsets", "sizes": "any-or-none", "drop": "no-input"},
    {"name": "subsets", "view": "target", "sizes": 2, "norm": "mean"},
    {"name": "fixed", "edges": [0, 1, 2, 4]},
]


def drawn(
    relaxation: Any = "softmax", topology: Any = "dense", space: SpaceSpec = SMALL, init: float = 0.7
) -> ArchState:
    return ArchState(space, relaxation, topology, init=init, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize(
    ("relaxation", "topology"),
    [(r, "dense") for r in RELAXATIONS] + [("softmax", t) for t in TOPOLOGIES[1:]],
    ids=str,
)
@pytest.mark.parametrize("target", [None, 1000.0])
def test_gradients_equal_finite_differences(relaxation: Any, topology: Any, target: float | None) -> None:
    arch = drawn(relaxation, topology)
    arch.op_temperature, arch.edge_temperature = 0.8, 1.3
    stage = SearchPlan.model_validate({"stages": [{"name": "a", "epochs": 1}]}).stages[0]
    plan = CostPlan(weight=0.3, target=target)
    penalty = CostPenalty(plan, stage, SMALL, Rules(), costs_of("two nodes", "parameters")).penalty
    logits = [p for p in arch.parameters() if p.numel()]
    found = torch.autograd.grad(penalty(arch), logits, allow_unused=True)
    assert float(penalty(arch).detach()) > 0
    moved = 0.0
    for parameter, gradient in zip(logits, found):
        for index in itertools.product(*map(range, parameter.shape)):
            ends = []
            for step in (1e-6, -2e-6, 1e-6):
                with torch.no_grad():
                    parameter[index] += step
                ends.append(float(penalty(arch).detach()))
            mine = 0.0 if gradient is None else float(gradient[index])
            assert math.isclose(mine, (ends[0] - ends[1]) / 2e-6, rel_tol=1e-4, abs_tol=1e-7)
            moved += abs(mine)
    assert moved > 0


def planted(sep: float, skip: float = 0.0, fixed: float = 1.0, measure: Any = "latency") -> NetworkCosts:
    """Costs of two operations, of four nodes at most, and nothing else."""
    row = {"sep_conv_3x3": sep, "skip_connect": skip, "noise": skip, "none": 0.0}
    cells = {"normal": CellCosts({1: row}, (0.0,) * 4), "reduce": CellCosts({1: row, 2: row}, (0.0,) * 4)}
    return NetworkCosts(measure, fixed, cells)


def expected(arch: ArchState, costs: NetworkCosts, **rules: Any) -> float:
    return float(ExpectedCost(costs, Rules(**rules), arch.space)(arch).detach())


@pytest.mark.parametrize(("drop", "convolutions"), [("no-output", 1), ("no-input", 3)])
def test_what_leads_nowhere_costs_nothing_where_dead_ends_are_dropped(drop: str, convolutions: int) -> None:
    """Edges (0, 2), (1, 2) and (0, 3) of a cell whose node 2 sends nothing."""
    arch = drawn(topology={"name": "subsets", "sizes": "any-or-none", "drop": drop}, init=0.0)
    with torch.no_grad():
        for t, cell in arch.space.cells.items():
            arch.alpha[t][:, cell.candidates[0].index("sep_conv_3x3")] = 60.0
            for group in arch.topologies[t].groups:  # type: ignore[attr-defined]
                wanted = [cell.edges[e] in ((0, 2), (1, 2), (0, 3)) for e in group.edges]
                arch.beta[t][group.slice.start + group.choices.tolist().index(wanted)] = 60.0
    assert math.isclose(expected(arch, planted(5.0, fixed=0.0)), 2 * 5 * convolutions)
    found = derive(arch, Rules()).cells["normal"]
    assert (found.concat, sum(map(len, found.nodes))) == ({"no-output": (3,), "no-input": (2, 3)}[drop], convolutions)


def test_equal_weights_of_darts_expect_two_inputs_a_node_and_no_none() -> None:
    """Two nodes of two inputs in two cell types, a half of which are convolutions."""
    assert math.isclose(expected(drawn(init=0.0), planted(3.0)), 1 + 2 * 4 * 0.5 * 3)
    assert math.isclose(expected(drawn(init=0.0), planted(3.0), in_degree=1), 1 + 2 * 2 * 0.5 * 3)
    assert math.isclose(expected(drawn(init=0.0), planted(3.0), edges="all"), 1 + 2 * 5 * 0.5 * 3)
    assert math.isclose(expected(drawn(init=0.0), planted(3.0), edges="all", none=True), 1 + 2 * 5 * 3 / 3)


@pytest.mark.parametrize(
    ("topology", "edges"),
    [
        ({"name": "edge-softmax", "keep": 1}, 2.0),
        ("edge-sigmoid", 2.5),
        ({"name": "subsets", "view": "target", "sizes": 2, "norm": "mean"}, 4.0),  # weights of 1/2 and 1/3
        ({"name": "subsets", "sizes": 1}, 3.0),  # weights of 1 each
        ({"name": "fixed", "edges": [0, 2]}, 2.0),
    ],
    ids=str,
)
def test_edges_count_by_their_probability_whatever_their_weight(topology: Any, edges: float) -> None:
    arch = drawn(topology=topology, init=0.0)
    for t in SMALL.cells:
        assert math.isclose(float(arch.topologies[t].edge_probabilities(arch.beta[t]).sum().detach()), edges)
    reached = expected(arch, planted(2.0, 2.0))  # edges of nodes that are not there count less
    assert reached <= 1 + 2 * 2 * edges + 1e-9


def test_the_state_of_a_derived_cell_expects_its_cost() -> None:
    """Sharp distributions: all that is left is the cell that is derived."""
    for topology in ({"name": "subsets", "view": "target", "sizes": 2}, {"name": "subsets", "sizes": "any-or-none"}):
        arch, costs = drawn(topology=topology), costs_of("two nodes", "multiply_adds")
        with torch.no_grad():
            for logits in arch.parameters():
                logits.mul_(300)
        cells = derive(arch, Rules()).cells
        assert math.isclose(expected(arch, costs), costs.of(cells, STRIDES), rel_tol=1e-3)


def test_removed_candidates_and_edges_cost_nothing() -> None:
    arch, costs = drawn(init=0.0), planted(3.0)
    masks = {t: torch.tensor(cell.live) for t, cell in SMALL.cells.items()}
    for mask in masks.values():
        mask[2:4] = False  # of the three inputs of the second node one is left
        mask[0, 2] = False  # and the convolution of the first edge is gone
    arch.restrict(masks)
    assert math.isclose(expected(arch, costs), 1 + 2 * (0 + 1.5 + 1.5))


def test_samples_and_auxiliary_skips_do_not_move_it() -> None:
    arch = drawn("gumbel-straight-through")
    before, state = expected(arch, planted(3.0)), torch.get_rng_state()
    arch.auxiliary_skip = 5.0
    assert expected(arch, planted(3.0)) == before
    assert torch.equal(state, torch.get_rng_state())


# --- in a search


class Saver(Silent):
    def __init__(self, folder: Path | None = None) -> None:
        self.records: list[dict[str, Any]] = []
        self.folder, self.saved = folder, 0

    def metrics(self, record: Mapping[str, Any]) -> None:
        self.records.append(dict(record))

    def checkpoint(self, state: Any, due: bool = False) -> None:
        if self.folder is not None:
            checkpoint.save(self.folder / f"{self.saved}.ckpt", state())
            self.saved += 1


@pytest.fixture(scope="module")
def halves() -> SearchData:
    return splits.search_data(splits.load("digits", images=64, test_images=20), {"train": 0.5, "val": 0.5}, seed=0)


#: Nothing is learned from noise, which costs nothing.
PLANTED = spaces.get("darts", nodes=1, candidates=("noise", "sep_conv_3x3"))


def searched(given: SearchData, cost: Any, costs: NetworkCosts | None, monitor: Any = None, **stage: Any) -> Search:
    sizes = {"channels": 4, "layers": 3, "batch_size": 16, "evaluation_batches": 1, "cost": cost}
    first = {"name": "search", "epochs": 2, "alpha": {"lr": 0.05, "weight_decay": 0.0}, **stage}
    plan = SearchPlan.model_validate(sizes | {"stages": [first]})
    search = Search(plan, PLANTED, given, rules=Rules(in_degree=2), monitor=monitor, costs=costs)
    search.run()
    return search


def convolutions(search: Search) -> float:
    arch = search.learner.arch
    return float(sum(arch.strengths(t)[:, 1].sum() for t in arch.space.cells))


@pytest.mark.parametrize("level", ["bilevel", "single", "mixed"])
def test_a_planted_latency_moves_the_cell_away(level: str, halves: SearchData) -> None:
    """α starts at convolutions; without weight they stay, with weight the cell comes to be noise, which is cheaper."""
    costs = planted(10.0)

    def cell(weight: float) -> list[str]:
        monitor = Saver()
        sizes = {"channels": 4, "layers": 3, "batch_size": 16, "evaluation_batches": 1}
        stage = {"name": "search", "epochs": 8, "level": level, "alpha": {"lr": 0.1, "weight_decay": 0.0}, "init": 0.0}
        stage["relaxation"] = {"name": "softmax", "offset": {"sep_conv_3x3": 2.0}}
        cost = {"measure": "latency", "weight": weight}
        plan = SearchPlan.model_validate({**sizes, "cost": cost, "stages": [stage]})
        search = Search(plan, PLANTED, halves, monitor=monitor, costs=costs)
        search.run()
        first, last = monitor.records[0]["expected_cost"], monitor.records[-1]["expected_cost"]
        assert (last < first) == (weight > 0) or weight == 0
        assert math.isclose(last, expected(search.learner.arch, costs))
        return sorted(op for c in derive(search.learner.arch, Rules()).cells.values() for op, _ in c.nodes[0])

    assert cell(0.0) == ["sep_conv_3x3"] * 4
    assert cell(20.0) == ["noise"] * 4


def test_a_target_stops_the_penalty(halves: SearchData) -> None:
    """Below the target nothing is added; above it the convolutions give way only until they meet it."""
    costs = planted(10.0)  # 1 to 41, 21 at equal weights
    free = searched(halves, None, None)
    slack = searched(halves, {"measure": "latency", "weight": 50, "target": 41}, costs)
    assert_identical(slack.learner.state_dict(), free.learner.state_dict())
    met = searched(halves, {"measure": "latency", "weight": 50, "target": 15}, costs, epochs=12)
    assert 12 < expected(met.learner.arch, costs) < 18


def test_a_weight_of_zero_records_and_changes_nothing(halves: SearchData) -> None:
    one, other = Saver(), Saver()
    plain = searched(halves, None, None, one)
    zero = searched(halves, {"measure": "latency", "weight": 0}, planted(3.0), other)
    assert_identical(plain.learner.state_dict(), zero.learner.state_dict())
    drop = {"seconds", "images_per_second"}
    for before, after in zip(one.records, other.records, strict=True):
        assert after.pop("expected_cost") > 0
        assert {k: v for k, v in before.items() if k not in drop} == {k: v for k, v in after.items() if k not in drop}


def test_it_resumes_bit_for_bit_with_the_costs_it_began_with(halves: SearchData, tmp_path: Path) -> None:
    sizes = {"channels": 4, "layers": 3, "batch_size": 16, "evaluation_batches": 1}
    stages = [
        {"name": "a", "epochs": 1, "alpha": {"lr": 0.05}, "topology": {"name": "subsets", "sizes": "any"}},
        {"name": "b", "epochs": 1, "alpha": {"lr": 0.05}, "shrink": 1, "topology": {"name": "subsets", "sizes": "any"}},
    ]
    cost = {"measure": "latency", "weight": 3.0}
    plan = SearchPlan.model_validate({**sizes, "cost": cost, "stages": stages})
    saver = Saver(tmp_path)
    whole = Search(plan, SMALL, halves, monitor=saver, costs=planted(5.0))
    whole.run()
    assert saver.saved > 4
    for number in range(saver.saved):
        resumed = Search(plan, SMALL, halves, costs=planted(50.0, 7.0, 2.0))  # measured anew, on a busy machine
        resumed.run(checkpoint.load(tmp_path / f"{number}.ckpt"))
        assert_identical(resumed.state_dict(), whole.state_dict())


def test_the_penalty_is_part_of_the_loss_once(halves: SearchData) -> None:
    search = searched(halves, {"measure": "latency", "weight": 2.0}, planted(3.0), epochs=1)
    learner, batch = search.learner, search.streams.updates(0, 0, False)[0]
    torch.manual_seed(0)
    with_cost = learner.arch_gradient(batch)
    penalty, learner.cost = learner.cost, None
    torch.manual_seed(0)  # of noise
    without = learner.arch_gradient(batch)
    assert penalty is not None
    own = torch.autograd.grad(penalty(learner.arch), learner.arch_parameters(True, False))
    found: list[Tensor] = [a - b for a, b in zip(with_cost, without)]
    assert all(torch.allclose(a, b.to(a.dtype), atol=1e-6) for a, b in zip(found, own)) and any(map(torch.any, own))


def test_the_penalty_without_a_target_is_a_share_of_equal_weights() -> None:
    stage = SearchPlan.model_validate({"stages": [{"name": "a", "epochs": 1}]}).stages[0]
    penalty = CostPenalty(CostPlan(weight=0.5), stage, SMALL, Rules(), costs_of("two nodes", "parameters"))
    assert math.isclose(float(penalty.penalty(drawn(init=0.0))), 0.5)
    assert penalty.uniform == expected(drawn(init=0.0), costs_of("two nodes", "parameters"))


def test_costs_of_another_measure_are_refused(halves: SearchData) -> None:
    for costs in (None, planted(1.0, measure="parameters")):
        with pytest.raises(RecipeError, match="network_costs"):
            searched(halves, {"measure": "latency", "weight": 1}, costs)
