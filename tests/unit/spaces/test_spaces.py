"""The spaces as data: their candidates, their sizes against the published counts, and supernets that run."""

import copy
import math
import pickle
from typing import Any

import pytest
import torch

from topocell import spaces
from topocell.errors import SpaceError
from topocell.spaces import SPACES, CellSpec
from topocell.supernet import Supernet
from topocell.supernet.arch_state import ArchState

#: The letters in which the papers' tables are kept here.
SHORT = {
    "no": "none",
    "sk": "skip_connect",
    "m3": "max_pool_3x3",
    "a3": "avg_pool_3x3",
    "s3": "sep_conv_3x3",
    "s5": "sep_conv_5x5",
    "d3": "dil_conv_3x3",
    "d5": "dil_conv_5x5",
    "nz": "noise",
}
#: S1 of RobustDARTS: edge (predecessor, node) → candidates of the normal and of the reduction cell.
S1 = {
    (0, 2): ("sk d3", "m3 a3"),
    (1, 2): ("sk d5", "m3 d3"),
    (0, 3): ("sk d5", "m3 a3"),
    (1, 3): ("sk s3", "m3 a3"),
    (2, 3): ("sk d3", "sk d5"),
    (0, 4): ("m3 sk", "m3 a3"),
    (1, 4): ("sk s3", "m3 s3"),
    (2, 4): ("sk s3", "sk d3"),
    (3, 4): ("sk d3", "sk d5"),
    (0, 5): ("sk s3", "m3 a3"),
    (1, 5): ("m3 sk", "m3 a3"),
    (2, 5): ("sk d3", "sk d5"),
    (3, 5): ("d3 d5", "sk d5"),
    (4, 5): ("d3 d5", "sk d5"),
}
SAME_EVERYWHERE = {
    "darts": "no m3 a3 sk s3 s5 d3 d5",
    "s2": "sk s3",
    "s3": "no sk s3",
    "s4": "nz s3",
    "ss1": "no m3 sk s3 d3",
    "ss2": "no m3 sk s5 d5",
    "ss3": "no m3 sk s3 s5",
    "ss4": "no m3 sk d3 d5",
    "ss5": "no m3 sk s3 d5",
    "ss6": "no m3 sk s5 d3",
    "ss7": "no m3 sk s3 s5 d3",
    "ss8": "no m3 sk s3 s5 d5",
}
DARTS_LIKE = ["s1", *SAME_EVERYWHERE]


def names(short: str) -> tuple[str, ...]:
    return tuple(SHORT[word] for word in short.split())


def test_the_table_names_every_space() -> None:
    assert set(SPACES) == {"nasbench201", "custom", "bench-suite", "topology-bench", *DARTS_LIKE}
    for name in SPACES:
        assert spaces.get(name).name == name


def test_s1_has_candidates_of_its_own_on_every_edge() -> None:
    space = spaces.get("s1")
    for cell_type, column in (("normal", 0), ("reduce", 1)):
        cell = space.cells[cell_type]
        assert dict(zip(cell.edges, cell.candidates)) == {edge: names(both[column]) for edge, both in S1.items()}


@pytest.mark.parametrize(("name", "short"), SAME_EVERYWHERE.items())
def test_candidates_that_are_the_same_on_every_edge(name: str, short: str) -> None:
    for cell in spaces.get(name).cells.values():
        assert cell.candidates == (names(short),) * 14


@pytest.mark.parametrize("name", DARTS_LIKE)
def test_subspaces_share_the_cell_of_darts(name: str) -> None:
    darts, space = spaces.get("darts"), spaces.get(name)
    assert (space.skeleton, space.stem_multiplier) == (darts.skeleton, darts.stem_multiplier)
    for cell_type, cell in darts.cells.items():
        assert space.cells[cell_type].with_candidates(cell.candidates) == cell


def test_options_of_the_subspaces() -> None:
    assert spaces.get("s2", nodes=6).cells["normal"].n_edges == 27
    pools = spaces.get("ss1", pool="avg_pool_3x3").cells["reduce"].candidates
    assert pools == (names("no a3 sk s3 d3"),) * 14
    with pytest.raises(SpaceError, match=r"'s1' has no option 'nodes'; it takes: none"):
        spaces.get("s1", nodes=6)
    with pytest.raises(SpaceError, match=r"'ss1' has no option 'pol' .did you mean 'pool'"):
        spaces.get("ss1", pol="avg_pool_3x3")
    with pytest.raises(SpaceError, match=r"unknown space 'ss9' .did you mean 'ss"):
        spaces.get("ss9")


# --- published counts


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("darts", {}, 224),
        ("darts", {"nodes": 6, "candidates": spaces.DARTS_OPERATIONS_WITHOUT_NONE}, 378),
        ("s1", {}, 56),
        ("s2", {}, 56),
        ("s3", {}, 84),
        ("s4", {}, 56),
        ("ss1", {}, 140),
        ("ss7", {}, 168),
        ("nasbench201", {}, 30),
        ("nasbench201", {"candidates": spaces.NASBENCH201_OPERATIONS_WITHOUT_NONE}, 24),
    ],
)
def test_number_of_operation_logits(name: str, options: dict[str, Any], count: int) -> None:
    arch = ArchState(spaces.get(name, **options))
    assert sum(alpha.numel() for alpha in arch.alpha.values()) == count


@pytest.mark.parametrize(("nodes", "edges"), [(4, 14), (5, 20), (6, 27), (8, 44)])
def test_number_of_edges(nodes: int, edges: int) -> None:
    """TopoNAS' N = 7, 8, 9 and 11 count the two inputs and the output."""
    cell = spaces.get("darts", nodes=nodes).cells["normal"]
    assert cell.n_edges == edges == 2 * nodes + math.comb(nodes, 2)
    assert cell.width == nodes


@pytest.mark.parametrize(
    ("nodes", "sizes", "entries"),
    [(5, "any", 88), (6, "any", 183), (8, "any", 757), (6, "any-or-none", 190), (5, 2, 10 + 10 + 6 + 3 + 2 + 1)],
)
def test_number_of_topology_logits(nodes: int, sizes: Any, entries: int) -> None:
    topology = {"name": "subsets", "view": "source", "sizes": sizes}
    arch = ArchState(spaces.get("darts", nodes=nodes), "softmax", topology)
    assert {name: beta.numel() for name, beta in arch.beta.items()} == {"normal": entries, "reduce": entries}


def weights_of(op: str, c: int, stride: int) -> int:
    """Weights of one operation with C channels in the supernet, where batch norm has none."""
    reduce = c * c if stride == 2 else 0
    sep, dil = {k: 2 * (c * k * k + c * c) for k in (3, 5)}, {k: c * k * k + c * c for k in (3, 5)}
    table = {"sk": reduce, "s3": sep[3], "s5": sep[5], "d3": dil[3], "d5": dil[5]}
    return {**dict.fromkeys(("no", "m3", "a3", "nz"), 0), **table}[{v: k for k, v in SHORT.items()}[op]]


def weights_of_a_supernet(cells: dict[str, CellSpec], channels: int, layers: int, classes: int) -> int:
    """By the formulas: stem, preprocess layers, operations, classifier."""
    stem, total, c = 3 * channels, 27 * 3 * channels + 2 * 3 * channels, channels
    widths = [stem, stem]
    for index in range(layers):
        reduces = index in (layers // 3, 2 * layers // 3)
        c *= 1 + reduces
        cell = cells["reduce" if reduces else "normal"]
        total += (widths[-2] + widths[-1]) * c
        total += sum(weights_of(op, c, cell.edge_stride(e)) for e, ops in enumerate(cell.candidates) for op in ops)
        widths.append(cell.nodes * c)
    return total + (widths[-1] + 1) * classes


#: Counted on shape-only instances of the original model classes, 16 channels, 8 cells, 10 classes.
PUBLISHED_WEIGHTS = {"darts": 1_930_618, "s2": 665_466, "s3": 665_466}


@pytest.mark.parametrize("name", DARTS_LIKE)
def test_supernets_have_the_weights_that_the_formulas_give(name: str) -> None:
    space = spaces.get(name)
    with torch.device("meta"):
        net = Supernet(space, 16, 8, 10)
    found = sum(p.numel() for p in net.parameters())
    assert found == weights_of_a_supernet(dict(space.cells), 16, 8, 10)
    assert found == PUBLISHED_WEIGHTS.get(name, found)


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {}) for name in SPACES]
    + [("darts", {"nodes": n}) for n in (5, 6, 8)]
    + [("nasbench201", {"candidates": spaces.NASBENCH201_OPERATIONS_WITHOUT_NONE})],
)
def test_every_space_has_a_supernet_that_learns(name: str, options: dict[str, Any]) -> None:
    space = spaces.get(name, **options)
    torch.manual_seed(0)
    arch = ArchState(space)
    net = Supernet(space, 4, 5, 3)
    logits = net(torch.randn(2, 3, 8, 8), arch())
    assert logits.shape == (2, 3) and logits.isfinite().all()
    logits.logsumexp(1).sum().backward()
    for cell_type, alpha in arch.alpha.items():
        live = torch.tensor(space.cells[cell_type].live)
        live &= live.sum(1, keepdim=True) > 1  # what an edge has no choice of has weight 1
        assert alpha.grad is not None and (alpha.grad[live] != 0).float().mean() > 0.9


def test_nasbench201_counts_its_cells() -> None:
    cell = spaces.get("nasbench201").cells["cell"]
    assert math.prod(len(c) for c in cell.candidates) == 15_625
    assert cell.edges == ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))


def test_spaces_are_keys_of_mappings() -> None:
    assert {spaces.get("darts"): 1, spaces.get("darts", nodes=2): 2}[spaces.get("darts", nodes=2)] == 2


@pytest.mark.parametrize("name", SPACES)
def test_spaces_and_their_supernets_can_be_copied_and_pickled(name: str) -> None:
    spec = spaces.get(name)
    net, x = Supernet(spec, 4, 5, 3), torch.randn(2, 3, 8, 8)
    weights = ArchState(spec)()
    for each in (copy.deepcopy, lambda kept: pickle.loads(pickle.dumps(kept))):
        assert each(spec) == spec and hash(each(spec)) == hash(spec)
        with pytest.raises(TypeError):
            each(spec).cells["more"] = None
        expected, found = (torch.manual_seed(0) and one(x, weights) for one in (net, each(net)))
        assert torch.equal(found, expected)
