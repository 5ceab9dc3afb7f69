"""Genotypes written as other tools write them, for tests: small writers, and the cells that each form can say."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st
from tests.fuzz.bad import garbled

from topocell.genotype.genotype import CellGenotype, Genotype

MUTABLES, HUB = "nni mutables", "nni model hub"
BENCH = "NetworkSelectorDatasetInfo:darts:"
#: The seven operations of DARTS, in the order of NASLib.
ORDER = (
    *("max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"),
)
_NNI = dict(zip(ORDER, ("maxpool", "avgpool", "skipconnect", "sepconv3x3", "sepconv5x5", "dilconv3x3", "dilconv5x5")))


def _topocell(genotype: Genotype) -> str:
    return json.dumps(genotype.to_dict())


def _tuple(genotype: Genotype, listed: Callable[[CellGenotype], Sequence[Any]]) -> str:
    parts = [f"{n}={listed(cell)!r}, {n}_concat={list(cell.concat)}" for n, cell in genotype.cells.items()]
    return f"genotype = Genotype({', '.join(parts)})"


def _darts(genotype: Genotype) -> str:
    return genotype.to_darts()


def _nested(genotype: Genotype) -> str:
    return _tuple(genotype, lambda cell: [list(pairs) for pairs in cell.nodes])


def _weighted(genotype: Genotype) -> str:
    return _tuple(genotype, lambda cell: [(name, p, 0.125 + p) for pairs in cell.nodes for name, p in pairs])


def _by_node(genotype: Genotype) -> str:
    return _tuple(
        genotype, lambda cell: [(name, node, p) for node, pairs in enumerate(cell.nodes, 2) for name, p in pairs]
    )


def _arch(genotype: Genotype) -> str:
    return genotype.to_nasbench201()


def _compact(genotype: Genotype) -> str:
    cells = genotype.cells.values()
    return str([[(p, ORDER.index(name)) for pairs in cell.nodes for name, p in pairs] for cell in cells])


def _mutables(genotype: Genotype) -> str:
    found: dict[str, Any] = {}
    for name, cell in genotype.cells.items():
        for node, pairs in enumerate(cell.nodes, 2):
            found |= {f"{name}_n{node}_p{p}": [] for p in range(node)}
            found |= {f"{name}_n{node}_p{p}": _NNI[operation] for operation, p in pairs}
            found[f"{name}_n{node}_switch"] = [f"{name}_n{node}_p{p}" for _, p in pairs]
    return json.dumps(found, indent=2)


def _hub(genotype: Genotype) -> str:
    found: dict[str, Any] = {}
    for name, cell in genotype.cells.items():
        for node, pairs in enumerate(cell.nodes, 2):
            for i, (operation, p) in enumerate(pairs):
                found |= {f"{name}/op_{node}_{i}": operation, f"{name}/input_{node}_{i}": p}
    return json.dumps(found)


def _bench(genotype: Genotype) -> str:
    found: dict[str, Any] = {f"{BENCH}layers": 8}
    for name, cell in genotype.cells.items():
        first = 0
        for node, pairs in enumerate(cell.nodes, 2):
            found |= {f"{BENCH}edge_{name}_{first + p}": operation for operation, p in pairs}
            if node > 2:
                found[f"{BENCH}inputs_node_{name}_{node}"] = "_".join(str(p) for p in sorted(p for _, p in pairs))
            first += node
    return json.dumps(found)


FORMS_OF_TEXTS: dict[str, Callable[[Genotype], str]] = {
    "topocell": _topocell,
    "darts": _darts,
    "pt.darts": _nested,
    "gdas": _weighted,
    "fairdarts": _by_node,
    "nasbench201": _arch,
    "compact": _compact,
    MUTABLES: _mutables,
    HUB: _hub,
    "nasbench301": _bench,
}


def in_form(writer: str, genotype: Genotype) -> str:
    """The genotype as a text of that form."""
    return FORMS_OF_TEXTS[writer](genotype)


@st.composite
def _cell(draw: Any, writer: str) -> CellGenotype:
    """A cell that the form can say: of four nodes or any number, of two pairs or any, on different edges or not."""
    count = 4 if writer in (HUB, "nasbench301") else draw(st.integers(1, 6))
    free = writer in ("topocell", "pt.darts", "fairdarts")
    nodes = []
    for node in range(2, 2 + count):
        sources = st.integers(0, node - 1)
        if writer == "nasbench301":
            drawn = sorted(draw(st.lists(sources, min_size=2, max_size=2, unique=True)))
        elif writer == MUTABLES:
            drawn = draw(st.lists(sources, min_size=1, max_size=3, unique=True))
        else:
            drawn = draw(st.lists(sources, min_size=1 if free else 2, max_size=4 if free else 2))
        drawn = [0, 1] if writer == "nasbench301" and node == 2 else drawn
        nodes.append(tuple((draw(st.sampled_from(ORDER)), p) for p in drawn))
    every = list(range(2, 2 + count))
    some = writer in ("topocell", "darts", "pt.darts", "gdas")
    concat = draw(st.lists(st.sampled_from(every), min_size=1, unique=True)) if some else every
    if writer in ("darts", "gdas"):
        taken = {p for pairs in nodes for _, p in pairs}
        concat += [node for node in every if node not in taken and node not in concat]
    return CellGenotype(2, tuple(nodes), tuple(concat))


@st.composite
def cells_for(draw: Any, writer: str) -> Genotype:
    """A genotype that the form can say."""
    if writer != "nasbench201":
        return Genotype("darts", {name: draw(_cell(writer)) for name in ("normal", "reduce")})
    names = st.sampled_from(("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"))
    count = draw(st.integers(1, 4))
    nodes = tuple(tuple((draw(names), p) for p in range(node)) for node in range(1, 1 + count))
    return Genotype("nasbench201", {"cell": CellGenotype(1, nodes, (count,))})


def mutations(text: str) -> st.SearchStrategy[str]:
    """A text with a few places changed."""
    return garbled(text).map(lambda data: data.decode(errors="surrogateescape"))
