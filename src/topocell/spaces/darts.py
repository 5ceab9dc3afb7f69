"""The DARTS cell family: complete cells with two inputs, for any number of nodes and any candidate list."""

from collections.abc import Sequence

from topocell.arguments import checked
from topocell.errors import SpaceError
from topocell.spaces.cell import CellSpec, SpaceSpec, complete_edges
from topocell.spaces.operations import OPERATIONS

#: The eight candidates of DARTS, in the order of its PRIMITIVES.
DARTS_OPERATIONS: tuple[str, ...] = OPERATIONS[:8]
#: The seven candidates without `none` (TopoNAS, SDARTS, DARTS-PT).
DARTS_OPERATIONS_WITHOUT_NONE: tuple[str, ...] = OPERATIONS[1:8]


@checked(SpaceError)
def darts(nodes: int = 4, candidates: Sequence[str] = DARTS_OPERATIONS) -> SpaceSpec:
    """The DARTS space: a normal and a reduction cell with `nodes` intermediate nodes (DARTS: 4, 14 edges)."""

    def cell(stride: int) -> CellSpec:
        edges = complete_edges(2, nodes)
        return CellSpec(2, nodes, edges, tuple(tuple(candidates) for _ in edges), "concat", stride)

    return SpaceSpec("darts", {"normal": cell(1), "reduce": cell(2)})
