"""The space of our own table of true accuracies: small enough to train every cell, with any in-degree of nodes."""

from topocell.spaces.cell import CellSpec, SpaceSpec, complete_edges

#: What edges that leave an input of the cell may be, and those between computed nodes.
FROM_INPUTS, BETWEEN_NODES = ("skip_connect",), ("skip_connect", "sep_conv_3x3")


def topology_bench() -> SpaceSpec:
    """Two inputs, three computed nodes, every edge between them; each node keeps any one or more of its inputs.

    Edges from inputs are skip connections, behind the 1×1 convolutions that lead into the cell; between computed nodes
    there is a choice. That gives 3 · 7 · 15 = 315 wirings and 1,155 cells, 850 of them different: cells that are equal
    up to the names of their nodes differ in the order of channels alone.
    """
    edges = complete_edges(2, 3)
    cell = CellSpec(2, 3, edges, tuple(FROM_INPUTS if source < 2 else BETWEEN_NODES for source, _ in edges))
    return SpaceSpec("topology-bench", {"normal": cell}, "uniform-half")
