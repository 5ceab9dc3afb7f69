"""β → edges: which edges of a cell exist, as weights while searching and as a set of edges when deriving.

The supernet only sees `weights(beta) -> (E,)`. Deriving a cell is `decode(beta)`, which gives every node of
the derived cell an input. A new topology is one class that implements `Topology` and one row in
`TOPOLOGIES`. Edges are indexed as in `CellSpec.edges`, nodes as in DARTS: the nodes x1, x2, x3.. of TopoNAS
and of the stretchable cells are 0, 1, 2.. here.
"""

from typing import Any

from topocell import registry
from topocell.registry import Registry
from topocell.spaces.cell import CellSpec
from topocell.topology.base import Decoded, Topology
from topocell.topology.per_edge import Dense, EdgeSigmoid, EdgeSoftmax, Fixed
from topocell.topology.subsets import Group, Subsets

__all__ = [
    "TOPOLOGIES",
    "Decoded",
    "Dense",
    "EdgeSigmoid",
    "EdgeSoftmax",
    "Fixed",
    "Group",
    "Subsets",
    "Topology",
    "build",
]

TOPOLOGIES = Registry[type[Topology]](
    "topology",
    {
        "dense": Dense,
        "edge-softmax": EdgeSoftmax,
        "edge-sigmoid": EdgeSigmoid,
        "subsets": Subsets,
        "fixed": Fixed,
    },
    Topology,
)


def build(name: str, cell: CellSpec, **options: Any) -> Topology:
    """The topology of that name for one cell, e.g. `build("subsets", cell, view="target", sizes="any")`.

    Raises:
        RecipeError: unknown name, or an option that is unknown, missing or out of range.
        SpaceError: the topology does not fit the cell.
    """
    return registry.build("topology", TOPOLOGIES, name, cell, **options)
