"""A space written down in a recipe, as in `space: {name: custom, nodes: 2, edges: [[0, 2], [1, 2], [2, 3]]}`."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from topocell.errors import SpaceError
from topocell.spaces.cell import CellSpec, SpaceSpec, complete_edges
from topocell.spaces.darts import DARTS_OPERATIONS
from topocell.spaces.skeletons import stacking

#: What a reduction cell may have of its own.
_OWN = ("inputs", "nodes", "edges", "candidates", "output")


def custom(
    inputs: int = 2,
    nodes: int = 4,
    edges: Sequence[Sequence[int]] | None = None,
    candidates: Sequence[Any] = DARTS_OPERATIONS,
    output: Literal["concat", "last"] = "concat",
    reduce: Mapping[str, Any] | None = None,
    skeleton: str = "darts",
) -> SpaceSpec:
    """A space as data; what is left out is as in the DARTS space.

    Args:
        inputs, nodes: see `CellSpec`.
        edges: `[source, destination]` each; default from every node to every later one.
        candidates: names of operations, or one list of them for each edge.
        output: see `CellSpec`.
        reduce: what the reduction cell has of its own: any of the arguments above. Its edges from inputs have stride 2.
        skeleton: how cells are stacked: a row of `topocell.spaces.skeletons.SKELETONS`. With `nasbench201` there is one
            cell, of one input and the output `last`.

    Raises:
        SpaceError: the cell cannot be; the message names the edge or the value.
    """
    given = {"inputs": inputs, "nodes": nodes, "edges": edges, "candidates": candidates, "output": output}
    if unknown := [key for key in reduce or {} if key not in _OWN]:
        raise SpaceError(f"reduce takes {', '.join(_OWN)}, but got {unknown[0]!r}; leave it out")
    types = stacking(skeleton).strides
    if "reduce" not in types:
        if reduce is not None:
            raise SpaceError(f"skeleton {skeleton!r} has no reduction cell; leave reduce out")
        return SpaceSpec("custom", {name: _cell(given, 1) for name in types}, skeleton)
    return SpaceSpec("custom", {"normal": _cell(given, 1), "reduce": _cell(given | dict(reduce or {}), 2)}, skeleton)


def _cell(given: Mapping[str, Any], stride: int) -> CellSpec:
    inputs, nodes, edges = given["inputs"], given["nodes"], given["edges"]
    if not all(isinstance(count, int) and not isinstance(count, bool) for count in (inputs, nodes)):
        raise SpaceError(f"inputs and nodes are integers, but got {inputs!r} and {nodes!r}; change them")
    pairs = complete_edges(inputs, nodes) if edges is None else edges
    for pair in pairs:
        if not isinstance(pair, Sequence) or len(pair) != 2 or not all(type(node) is int for node in pair):
            raise SpaceError(f"an edge is [source, destination], two numbers of nodes, but got {pair!r}; change it")
    names = given["candidates"]
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise SpaceError(f"candidates is a list of operations, or one list for each edge, but got {names!r}; change it")
    rows: Any = tuple(row if isinstance(row, str) else tuple(row) for row in names)
    return CellSpec(inputs, nodes, tuple((s, d) for s, d in pairs), rows, given["output"], stride)
