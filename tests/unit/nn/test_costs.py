"""Costs of networks as sums of their layers: what `count` says of the network of any cell, exactly."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from topocell import count, spaces
from topocell.errors import SpaceError
from topocell.genotype.genotype import CellGenotype, Genotype
from topocell.nn.costs import Layer, NetworkSize, network_costs
from topocell.nn.network import FixedNet
from topocell.spaces import SpaceSpec
from topocell.spaces.costs import NetworkCosts
from topocell.topology.assignments import without_orphans

SPACES: dict[str, SpaceSpec] = {
    "darts": spaces.get("darts"),
    "three nodes": spaces.get("darts", nodes=3, candidates=("none", "skip_connect", "sep_conv_7x7", "conv_7x1_1x7")),
    "s4": spaces.get("s4"),
    "nasbench201": spaces.get("nasbench201"),
}
SIZES = {
    "cifar": NetworkSize(4, 5, 3, (3, 16, 16)),
    "imagenet": NetworkSize(6, 7, 5, (3, 64, 32), "imagenet"),
    "grey": NetworkSize(5, 8, 2, (1, 8, 8), head="bn-relu"),
}
KNOWN: dict[tuple[str, str, str], NetworkCosts] = {}


def costs(space: str, size: str, measure: Any) -> NetworkCosts:
    key = (space, size, measure)
    if key not in KNOWN:
        KNOWN[key] = network_costs(SPACES[space], SIZES[size], measure)
    return KNOWN[key]


@st.composite
def genotypes(draw: st.DrawFn, space: SpaceSpec) -> Genotype:
    """Cells of a space with any number of inputs a node; nodes of the DARTS family without an input are dropped."""
    cells = {}
    for name, cell in space.cells.items():
        kept = draw(st.sets(st.integers(0, cell.n_edges - 1)))
        ops = [draw(st.sampled_from([op for op in names if op != "none"])) for names in cell.candidates]
        if name == "cell":
            edges = tuple(sorted(kept))
        else:
            edges, _ = without_orphans(cell, sorted(kept | {0}))
        nodes = tuple(tuple((ops[e], cell.edges[e][0]) for e in cell.incoming(n) if e in edges) for n in cell.computed)
        there = tuple(n for n, pairs in zip(cell.computed, nodes) if pairs)
        concat = (cell.computed[-1],) if cell.output == "last" else there
        cells[name] = CellGenotype(cell.inputs, nodes, concat)
    return Genotype(space.name, cells, skeleton=space.skeleton)


@pytest.mark.parametrize(
    ("space", "size"), [(s, z) for s in SPACES for z in SIZES if s != "nasbench201" or z != "imagenet"]
)
@given(data=st.data())
@settings(max_examples=12)
def test_costs_are_those_of_the_network(space: str, size: str, data: st.DataObject) -> None:
    genotype, at = data.draw(genotypes(SPACES[space])), SIZES[size]
    strides = {name: cell.stride for name, cell in SPACES[space].cells.items()}
    with torch.device("meta"):
        net = FixedNet(genotype, at.channels, at.layers, at.classes, at.shape[0], at.stem, head=at.head)
    counted = count(net, at.shape)
    for measure in ("parameters", "multiply_adds"):
        assert costs(space, size, measure).of(genotype.cells, strides) == getattr(counted, measure)


def test_published_networks() -> None:
    """DARTS_V2 on CIFAR-10 has 3.35 M parameters (3.3 in the paper), 528 M multiply-adds by `count`."""
    text = (
        "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
        "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, "
        "5], reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), "
        "('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, "
        "4, 5])"
    )
    size, cells, strides = (
        NetworkSize(36, 20, 10, (3, 32, 32)),
        Genotype.from_darts(text).cells,
        {"normal": 1, "reduce": 2},
    )
    assert network_costs(SPACES["darts"], size).of(cells, strides) == 3_349_342
    assert network_costs(SPACES["darts"], size, "multiply_adds").of(cells, strides) == 528_359_040


def test_a_planted_meter_is_asked_once_for_each_layer() -> None:
    asked: list[str] = []

    def meter(layer: Layer) -> float:
        asked.append(layer.name)
        return 1.0

    found = network_costs(SPACES["three nodes"], SIZES["cifar"], "latency", meter)
    assert len(set(asked)) == len(asked)
    assert found.cells["normal"].operations[1] == {"conv_7x1_1x7": 3.0, "sep_conv_7x7": 3.0, "skip_connect": 3.0}
    assert found.cells["reduce"].operations.keys() == {1, 2}
    assert found.fixed == 1 + 2 * 5 + 1  # stem, two preprocess layers a cell, head


def test_a_table_of_candidates_has_nothing_for_none_and_padding() -> None:
    cell = SPACES["darts"].cells["reduce"].with_candidates([["none"]] + [["skip_connect", "sep_conv_3x3"]] * 13)
    table = costs("darts", "cifar", "parameters").cells["reduce"].table(cell)
    assert table[0] == [0.0, 0.0]
    entering, inner = table[1], table[4]  # 1→2 and 2→3
    assert entering[0] > 0 == inner[0]  # skip_connect has weights at stride 2 alone
    assert entering[1] == inner[1] > 0


def test_costs_survive_a_checkpoint() -> None:
    found = costs("darts", "cifar", "multiply_adds")
    assert NetworkCosts.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_a_size_that_cannot_be_is_refused() -> None:
    with pytest.raises(SpaceError, match="divisible by"):
        network_costs(SPACES["darts"], NetworkSize(4, 5, 3, (3, 10, 10)))
