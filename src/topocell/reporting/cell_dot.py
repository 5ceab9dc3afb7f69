"""Cells as a graph in Graphviz' language: nodes and edges with the places of our own layout.

`neato -n2 -Tpdf` keeps these places; `dot` and other programs may lay the graph out anew.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from topocell.reporting.cell_shapes import COLOURS, Curve, Panel, Point, middle_of, points_of
from topocell.reporting.cells import ShownCell
from topocell.reporting.style import Family, printable

#: Points per inch.
_POINTS = 72.0
_GAP = 0.75
_FONT = "Helvetica"


def dot(cells: Sequence[ShownCell], title: str | None = None) -> str:
    """Return the cells as one directed graph: a cluster for each, nodes `TYPE/NUMBER` and `TYPE/out`.

    An edge of the graph is an edge of a cell, labelled with its operation, or leads from a node to the output,
    without a label. Dropped nodes have no edge.
    """
    lines = ["// neato -n2 -Tpdf keeps these places; dot -Tpdf lays the cells out anew.", "digraph cells {"]
    lines += [_attributes("  graph", {"rankdir": "LR", "fontname": _FONT, "label": title or "", "labelloc": "t"})]
    lines += [_attributes("  node", {"fontname": _FONT, "fontsize": "10", "fixedsize": "true", "style": "filled"})]
    lines += [_attributes("  edge", {"fontname": _FONT, "fontsize": "8.5", "arrowsize": "0.6"})]
    y = 0.0
    for number, panel in enumerate(map(Panel, cells)):
        y -= panel.height + _GAP * bool(number)
        lines += [f"  subgraph cluster_{number} {{", f"    label={_quoted(panel.heading())};", '    color="none";']
        lines += [f"    {line}" for line in (*_nodes(panel, y), *_edges(panel, y))]
        lines += ["  }"]
    return "\n".join([*lines, "}", ""])


def _nodes(panel: Panel, y0: float) -> Iterator[str]:
    cell = panel.cell
    names = {**{i: _node(cell, node) for i, node in enumerate(panel.nodes)}, panel.output: _node(cell, "out")}
    for i, name in names.items():
        box, node = panel.boxes[i], panel.nodes[i] if i != panel.output else None
        size = {"width": f"{box.width:.3f}", "height": f"{box.height:.3f}", "pos": _place((box.x, box.y + y0))}
        if node is None or node < cell.inputs:
            label = "c_k" if node is None else f"c_k-{cell.inputs - node}"
            ink = {"fillcolor": COLOURS["ink"], "fontcolor": COLOURS["paper"]}
            yield _attributes(name, {"label": label, "shape": "box", **ink, **size})
        else:
            look = {"fillcolor": COLOURS["paper"], "style": "filled,dashed" if node in cell.empty else "filled"}
            yield _attributes(name, {"label": str(node), "shape": "circle", **look, **size})
    for k, node in enumerate(panel.dropped):
        size = {"width": "0.36", "height": "0.36", "pos": _place((1 + 0.5 * k, y0 + 0.18))}
        look = {"style": "filled,dashed", "fillcolor": COLOURS["paper"], "fontcolor": COLOURS["muted"]}
        yield _attributes(_node(cell, node), {"label": f"{node}", "shape": "circle", **look, **size})


def _edges(panel: Panel, y0: float) -> Iterator[str]:
    cell = panel.cell
    for e, (_, src, dst) in enumerate(cell.edges):
        box = panel.boxes[panel.output + 1 + e]
        halves = [Curve(points_of(panel.routes[2 * e + half], 0, y0), "", 0) for half in (0, 1)]
        through = Curve([halves[0].points[-1], halves[1].points[0]], "", 0)
        label = {"label": cell.label(e), "lp": _place((box.x, box.y + y0 + 0.1))}
        way = _way([halves[0], through, halves[1]])
        yield _arrow(cell, src, dst, {**label, **_line(cell.look(e)), "pos": way})
    for member, route in zip(panel.members, panel.routes[2 * len(cell.edges) :]):
        own = cell.output_side(member)
        points = points_of(route, 0, y0)
        x, y = middle_of(points)
        mark = {"label": own.mark, "lp": _place((x, y + 0.1))} if own else {}
        look = _line(own.look) if own else {"color": COLOURS["faint"]}
        way = _way([Curve(points, "", 0)])
        yield _arrow(cell, cell.concat[member], "out", {**mark, **look, "pos": way})


def _line(look: Family) -> dict[str, str]:
    """Colour and style of a line. Graphviz has two patterns, which differ where two cells are told apart."""
    style = "solid" if not look.dashes else "dotted" if max(look.dashes) < 3 else "dashed"
    return {"color": look.colour, "style": style}


def _way(curves: Sequence[Curve]) -> str:
    """Curves end to end as Graphviz writes a spline: the tip of the arrow, then start, controls and ends."""
    start, tip = curves[0].points[0], curves[-1].points[-1]
    bends = [point for curve in curves for _, *others in curve.bends() for point in others]
    bends[-1] = (tip[0] - 0.08, tip[1])
    return " ".join([f"e,{_place(tip)}", _place(start), *map(_place, bends)])


def _arrow(cell: ShownCell, src: int, dst: int | str, attributes: Mapping[str, str]) -> str:
    return _attributes(f"{_node(cell, src)} -> {_node(cell, dst)}", attributes)


def _node(cell: ShownCell, node: int | str) -> str:
    return _quoted(f"{cell.kind}/{node}")


def _attributes(of: str, attributes: Mapping[str, str]) -> str:
    return f"{of} [{', '.join(f'{key}={_quoted(value)}' for key, value in attributes.items())}];"


def _quoted(text: str) -> str:
    """A string of Graphviz, in which nothing is an escape."""
    plain = re.sub(r"\s+", " ", printable(text)).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{plain}"'


def _place(point: Point) -> str:
    return f"{point[0] * _POINTS:.2f},{point[1] * _POINTS:.2f}"
