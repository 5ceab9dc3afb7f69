"""What a search says of a cell: probabilities against enumeration and closed forms, the supernet of a cell."""

import itertools
import math
from typing import Any

import pytest
import torch

from topocell import spaces
from topocell.config.selection import Rules
from topocell.genotype.genotype import CellGenotype
from topocell.selection.cell_scores import CellDistribution, at_equal_logits, chosen_operations, one_shot
from topocell.spaces import SpaceSpec
from topocell.spaces.cell import CellSpec
from topocell.supernet import Supernet
from topocell.supernet.arch_state import ArchState
from topocell.topology import Subsets

DARTS = spaces.get("darts", nodes=2, candidates=("skip_connect", "sep_conv_3x3"))
BENCH = spaces.get("nasbench201", candidates=("none", "skip_connect", "nor_conv_3x3"))


def searched(space: SpaceSpec, topology: Any) -> ArchState:
    """A state with logits of all sizes."""
    return ArchState(space, topology=topology, init=2.0, generator=torch.Generator().manual_seed(0))


def every(cell: CellSpec) -> list[CellGenotype]:
    """All cells: each edge is absent or has one of its operations besides none."""
    found = []
    options = [(None, *(op for op in names if op != "none")) for names in cell.candidates]
    for ops in itertools.product(*options):
        pairs = [(edge, op) for edge, op in zip(cell.edges, ops) if op is not None]
        nodes = tuple(tuple((op, s) for (s, d), op in pairs if d == node) for node in cell.computed)
        found.append(CellGenotype(cell.inputs, nodes, (cell.computed[-1],)))
    return found


@pytest.mark.parametrize(
    ("space", "topology", "rules"),
    [
        (BENCH, "dense", Rules(edges="all", none=True)),
        (DARTS, "dense", Rules(in_degree=2)),
        (DARTS, {"name": "subsets", "view": "target", "sizes": 2}, Rules(edges="topology")),
        (DARTS, {"name": "subsets", "view": "source", "sizes": "any-or-none"}, Rules(edges="topology")),
        (DARTS, {"name": "edge-sigmoid", "threshold": 0.3}, Rules(edges="topology")),
        (DARTS, "edge-softmax", Rules(edges="topology")),
    ],
    ids=lambda value: str(value)[:40] if not isinstance(value, SpaceSpec) else value.name,
)
def test_the_probabilities_of_all_cells_add_up_to_one(space: SpaceSpec, topology: Any, rules: Rules) -> None:
    arch = searched(space, topology)
    name, cell = next(iter(space.cells.items()))
    distribution = CellDistribution(arch, arch, rules)
    found = [distribution.log_probability({name: one}) for one in every(cell)]
    logs = [log.operations + log.wiring for log in found if log is not None]
    assert len(logs) > 20 and sum(map(math.exp, logs)) == pytest.approx(1.0)


def test_the_probability_is_the_product_of_those_of_its_choices() -> None:
    arch = searched(DARTS, {"name": "subsets", "view": "source", "sizes": "any"})
    topology = arch.topologies["normal"]
    assert isinstance(topology, Subsets)
    p, shares = topology.probabilities(arch.beta["normal"].detach().double()), arch.strengths("normal")
    cell = CellGenotype(2, ((("skip_connect", 0),), (("sep_conv_3x3", 1), ("skip_connect", 2))), (2, 3))
    index = {edge: e for e, edge in enumerate(DARTS.cells["normal"].edges)}
    rows = []
    for group in topology.groups:
        wanted = [DARTS.cells["normal"].edges[e] in chosen_operations(cell) for e in group.edges]
        rows.append(group.slice.start + group.choices.tolist().index(wanted))
    found = CellDistribution(arch, arch, Rules(edges="topology")).log_probability({"normal": cell})
    assert found is not None and found.wiring == pytest.approx(float(p[rows].log().sum()))
    picked = [shares[index[0, 2], 0], shares[index[1, 3], 1], shares[index[2, 3], 0]]
    assert found.operations == pytest.approx(sum(math.log(float(share)) for share in picked))
    best = topology.decode_report(arch.beta["normal"].detach())
    assert best.log_probability is not None and found.wiring <= best.log_probability


def test_nothing_is_preferred_at_equal_logits() -> None:
    arch = at_equal_logits(searched(BENCH, "dense"))
    distribution = CellDistribution(arch, arch, Rules(edges="all", none=True))
    logs = {distribution.log_probability({"cell": one}) for one in every(BENCH.cells["cell"])}
    assert len(logs) == 1 and (log := logs.pop()) is not None and log.operations == pytest.approx(-6 * math.log(3))


def test_what_a_search_never_derives_has_no_probability() -> None:
    arch = searched(DARTS, {"name": "subsets", "view": "target", "sizes": 2})
    one_input = CellGenotype(2, ((("skip_connect", 0),), (("skip_connect", 0), ("skip_connect", 1))), (2, 3))
    foreign = CellGenotype(2, ((("sep_conv_5x5", 0), ("skip_connect", 1)),) * 2, (2, 3))
    distribution = CellDistribution(arch, arch, Rules(edges="topology"))
    assert all(distribution.log_probability({"normal": cell}) is None for cell in (one_input, foreign))


def test_one_cell_in_the_supernet_is_the_supernet_of_one_hot_alpha() -> None:
    torch.manual_seed(0)
    arch, net = ArchState(BENCH), Supernet(BENCH, channels=4, layers=5, classes=3)
    cell = CellGenotype(1, ((("nor_conv_3x3", 0),), (("skip_connect", 0),), (("nor_conv_3x3", 1),)), (3,))
    with torch.no_grad():
        arch.alpha["cell"].zero_()
        for edge, names, row in zip(BENCH.cells["cell"].edges, BENCH.cells["cell"].candidates, arch.alpha["cell"]):
            row[names.index(chosen_operations(cell).get(edge, "none"))] = 1e4
        x = torch.randn(8, 3, 8, 8)
        weights = one_shot(arch, {"cell": cell})
        assert weights is not None
        alone, hot = net(x, weights), net(x, arch.expected())
        assert torch.allclose(alone, hot, atol=1e-5) and not torch.allclose(alone, net(x, ArchState(BENCH).expected()))
        arch.mask("cell")[0, BENCH.cells["cell"].candidates[0].index("nor_conv_3x3")] = False
        assert one_shot(arch, {"cell": cell}) is None
