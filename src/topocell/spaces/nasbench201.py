"""The NAS-Bench-201 cell: four nodes, six edges, five operations, the last node is the output."""

from collections.abc import Sequence

from topocell.arguments import checked
from topocell.errors import SpaceError
from topocell.spaces.cell import CellSpec, SpaceSpec, complete_edges

#: The five operations of NAS-Bench-201, in the benchmark's order.
NASBENCH201_OPERATIONS: tuple[str, ...] = (
    "none",
    "skip_connect",
    "nor_conv_1x1",
    "nor_conv_3x3",
    "avg_pool_3x3",
)
#: Its four real operations: for a learned topology, in which an edge that is dropped stands for `none`.
NASBENCH201_OPERATIONS_WITHOUT_NONE: tuple[str, ...] = NASBENCH201_OPERATIONS[1:]


@checked(SpaceError)
def nasbench201(nodes: int = 3, candidates: Sequence[str] = NASBENCH201_OPERATIONS) -> SpaceSpec:
    """The NAS-Bench-201 space: node 0 is the input, node `nodes` the output; pools have no batch norm."""
    edges = complete_edges(1, nodes)
    cell = CellSpec(1, nodes, edges, tuple(tuple(candidates) for _ in edges), "last", pool_norm=False)
    return SpaceSpec("nasbench201", {"cell": cell}, "nasbench201", stem_multiplier=1)
