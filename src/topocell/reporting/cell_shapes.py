"""Drawings of cells as plain shapes: where everything goes, whatever writes it down.

Every operation is a labelled box on its edge and takes part in the layout, so labels cannot cover nodes, edges or each
other. Lengths are in inches, y points up; line widths and text sizes are in points. Colours are named by their roles,
see `COLOURS`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from topocell.reporting.cells import ShownCell
from topocell.reporting.layout import Box, place
from topocell.reporting.style import FAINT, FAMILIES, INK, MUTED, Family, printable
from topocell.reporting.text_width import text_width

_NODE, _PORT_WIDTH, _PORT_HEIGHT, _LABEL_HEIGHT = 0.36, 0.62, 0.36, 0.25
_MARGIN, _HEADING, _PANEL_GAP, _TITLE, _LEGEND = 0.25, 0.45, 0.35, 0.45, 0.26
_LABEL_SIZE, _NODE_SIZE, _PORT_SIZE, _PANEL_SIZE, _TITLE_SIZE = 8.5, 10.0, 11.0, 10.5, 12.5
CELL_NAMES = {"normal": "Normal cell", "reduce": "Reduction cell", "cell": "Cell"}

#: Role → colour on white paper; `-tint` is the fill of what has the line of that role.
COLOURS = {
    "ink": INK,
    "muted": MUTED,
    "faint": FAINT,
    "paper": "#ffffff",
    **{row.key: row.colour for row in FAMILIES.values()},
    **{f"{row.key}-tint": row.tint for row in FAMILIES.values()},
}

Dashes = tuple[float, ...]
Point = tuple[float, float]
Bend = tuple[Point, Point, Point, Point]


class Curve(NamedTuple):
    """A smooth line through points (x, y): level at each, with a halo of paper that keeps crossings legible."""

    points: Sequence[Point]
    stroke: str
    width: float
    dashes: Dashes = ()

    def bends(self) -> list[Bend]:
        """The curve as cubic Bézier curves (start, two controls, end), half way across between neighbouring points."""
        middles = [((x + x_next) / 2, y, y_next) for (x, y), (x_next, y_next) in pairwise(self.points)]
        return [
            (start, (middle, y), (middle, y_next), end)
            for (start, end), (middle, y, y_next) in zip(pairwise(self.points), middles)
        ]


class Arrow(NamedTuple):
    """A small arrow head whose tip touches (x, y) from the left."""

    x: float
    y: float
    fill: str


class Round(NamedTuple):
    """A rounded box around (x, y); a disc where the radius is half of its sides. `name` is unique in the drawing."""

    x: float
    y: float
    width: float
    height: float
    radius: float
    fill: str
    stroke: str
    line: float = 1.0
    dashes: Dashes = ()
    name: str = ""


class Text(NamedTuple):
    """A line of text around the height y, with a subscript in smaller letters; `anchor` is what stands at x."""

    x: float
    y: float
    text: str
    size: float
    fill: str = "ink"
    anchor: Literal["start", "middle"] = "middle"
    bold: bool = False
    subscript: str = ""


Shape = Curve | Arrow | Round | Text


class Drawing(NamedTuple):
    """Shapes on a sheet of that size, in the order in which they cover each other."""

    width: float
    height: float
    shapes: list[Shape]


def cell_drawing(cell: ShownCell) -> Drawing:
    """One cell alone, without heading and legend."""
    return panel_drawing(Panel(cell))


def panel_drawing(panel: "Panel") -> Drawing:
    """A cell that is laid out already, alone."""
    margin = 0.06
    return Drawing(panel.width + 2 * margin, panel.height + 2 * margin, panel.shapes(margin, margin))


def genotype_drawing(cells: Sequence[ShownCell], title: str | None = None) -> Drawing:
    """All cells one below the other, with headings and a legend of the families of operations."""
    panels = [Panel(cell) for cell in cells]
    legend = families_of(cells)
    top = _TITLE if title else 0.0
    heads = [text_width(panel.heading(), _PANEL_SIZE, bold=True) for panel in panels]
    width = max([4.2, *heads, *(p.width for p in panels), text_width(title or "", _TITLE_SIZE, bold=True)])
    rows = _legend_rows(legend, width)
    height = top + sum(_HEADING + panel.height + _PANEL_GAP for panel in panels) + _LEGEND * len(rows)
    shapes: list[Shape] = []
    y = height + _MARGIN
    if title:
        shapes.append(Text(_MARGIN, y - 0.1, printable(title), _TITLE_SIZE, anchor="start", bold=True))
        y -= top
    for panel in panels:
        shapes.append(Text(_MARGIN, y - 0.08, panel.heading(), _PANEL_SIZE, anchor="start", bold=True))
        y -= _HEADING + panel.height
        shapes += panel.shapes(_MARGIN + (width - panel.width) / 2, y)
        y -= _PANEL_GAP
    for row in rows:
        for of, x in row:
            shapes.append(Curve([(_MARGIN + x, y - 0.09), (_MARGIN + x + 0.34, y - 0.09)], of.key, 1.5, of.dashes))
            shapes.append(Round(_MARGIN + x + 0.17, y - 0.09, 0.18, 0.13, 0.065, f"{of.key}-tint", of.key))
            shapes.append(Text(_MARGIN + x + 0.42, y - 0.09, of.label, _LABEL_SIZE, anchor="start"))
        y -= _LEGEND
    return Drawing(width + 2 * _MARGIN, height + 2 * _MARGIN, shapes)


def families_of(cells: Iterable[ShownCell]) -> list[Family]:
    """Return the families of the operations of the cells, or what cells of two sides have, in the order of legends."""
    found: dict[str, Family] = {}
    for cell in cells:
        sides = filter(None, map(cell.output_side, range(len(cell.concat))))
        looks = [*map(cell.look, range(len(cell.edges))), *(side.look for side in sides)]
        found |= {look.key: look for look in looks}
    return [found[key] for key in FAMILIES if key in found]


def _longest_path(cell: ShownCell) -> int:
    """Number of edges from an input to a computed node at most; what begins at a node without inputs is no path."""
    depth = dict.fromkeys(range(cell.inputs), 0)
    for node in cell.computed:
        if reached := [depth[src] for _, src, dst in cell.edges if dst == node and src in depth]:
            depth[node] = 1 + max(reached)
    return max(depth.values())


class Panel:
    """One cell, laid out: boxes of nodes 0..n, then the output, then one box per operation."""

    def __init__(self, cell: ShownCell) -> None:
        self.cell = cell
        self.dropped = [] if cell.zeros else cell.empty
        depth = dict.fromkeys(range(cell.inputs), 0)
        for node in cell.computed:
            depth[node] = 1 + max((depth[src] for _, src, dst in cell.edges if dst == node), default=0)
        self.depth = max((depth[n] for n in cell.computed if n not in self.dropped), default=1)
        self.nodes = [n for n in depth if n not in self.dropped]
        self.output = len(self.nodes)
        index = {node: i for i, node in enumerate(self.nodes)}
        port = (_PORT_WIDTH, _PORT_HEIGHT)
        boxes = [
            Box(2 * depth[n], *port) if n < cell.inputs else Box(2 * depth[n], _NODE, _NODE, round=True)
            for n in self.nodes
        ]
        boxes.append(Box(2 * self.depth + 1, *port))
        labels = map(cell.label, range(len(cell.edges)))
        width = max((text_width(label, _LABEL_SIZE) for label in labels), default=0.0) + 0.2
        links = []
        for _, src, dst in cell.edges:
            links += [(index[src], len(boxes)), (len(boxes), index[dst])]
            boxes.append(Box(2 * depth[dst] - 1, width, _LABEL_HEIGHT))
        self.members = [m for m, n in enumerate(cell.concat) if n in index]
        links += [(index[cell.concat[m]], self.output) for m in self.members]
        self.routes = place(boxes, links)
        self.boxes = boxes
        heights = [y for route in self.routes for _, _, y in route]  # an edge may pass above or below all boxes
        heights += [box.y + side * box.height / 2 for box in boxes for side in (-1, 1)]
        rise = (_NODE + 0.2 if self.dropped else 0.0) - min(heights)
        for box in boxes:
            box.y += rise
        self.routes = [[(a, b, y + rise) for a, b, y in route] for route in self.routes]
        self.width = max(box.x + box.width / 2 for box in boxes)
        self.height = max(heights) + rise

    def heading(self) -> str:
        """The cell's name with its depth and number of edges, or how many edges each of two cells has."""
        name = CELL_NAMES.get(self.cell.kind, printable(self.cell.kind))
        if self.cell.sides:
            n, out = (Counter(side.mark for side in sides) for sides in (self.cell.sides, self.cell.concat_sides))
            own = [f"{out[mark]} of {mark} alone" for mark in "AB" if out[mark]]
            lines = f"; to the output {', '.join(own)}" if own else ""
            return (
                f"{name}  ·  {n['']} edge{'s' * (n[''] != 1)} of both, {n['A']} of A alone, {n['B']} of B alone{lines}"
            )
        n_edges = len(self.cell.edges)
        zeros = "".join(f", node {node} is zero" for node in self.cell.empty if self.cell.zeros)
        return f"{name}  ·  depth {_longest_path(self.cell)}, {n_edges} edge{'s' * (n_edges != 1)}{zeros}"

    def shapes(self, x0: float, y0: float) -> list[Shape]:
        """The shapes from that lower left corner: lines to the output, then edges, then boxes on top."""
        edges = self.cell.edges
        found, marks = list[Shape](), list[Shape]()
        for member in range(len(self.members)):
            line, mark = self._to_output(member, x0, y0)
            found.append(line)
            marks += mark
        # An edge is drawn in two halves, so that the arrow ends at the node and not under the label.
        for e in range(len(edges)):
            of, (first, second) = self.cell.look(e), self.routes[2 * e : 2 * e + 2]
            found += [Curve(points_of(half, x0, y0), of.key, 1.5, of.dashes) for half in (first, second)]
            found.append(Arrow(x0 + second[-1][0], y0 + second[-1][2], of.key))
        for e, (op, src, dst) in enumerate(edges):
            box, of = self.boxes[self.output + 1 + e], self.cell.look(e)
            name, at = self._name(f"edge-{src}-{dst}-{e}-{op}"), (x0 + box.x, y0 + box.y)
            found.append(Round(*at, box.width, box.height, box.height / 2, f"{of.key}-tint", of.key, name=name))
            found.append(Text(*at, self.cell.label(e), _LABEL_SIZE))
        found += marks
        for node, box in zip(self.nodes, self.boxes):
            if node < self.cell.inputs:
                found += self._port(box, x0, y0, f"k−{self.cell.inputs - node}", f"input-{node}")
            else:
                found += self._node(x0 + box.x, y0 + box.y, node, faded=node in self.cell.empty)
        found += self._port(self.boxes[self.output], x0, y0, "k", "output")
        if self.dropped:
            x, y = x0 + _PORT_WIDTH, y0 + _NODE / 2
            found.append(Text(x0, y, "dropped", _LABEL_SIZE, "muted", "start"))
            for k, node in enumerate(self.dropped):
                found += self._node(x + 0.3 + 0.5 * k, y, node, faded=True)
        return found

    def _to_output(self, member: int, x0: float, y0: float) -> tuple[Curve, list[Shape]]:
        """The line from a node of the output, and a mark on it where one of two cells alone has it."""
        points = points_of(self.routes[2 * len(self.cell.edges) + member], x0, y0)
        if (own := self.cell.output_side(self.members[member])) is None:
            return Curve(points, "faint", 1.1), []
        at, key = middle_of(points), own.look.key
        label = Round(*at, 0.26, _LABEL_HEIGHT, _LABEL_HEIGHT / 2, f"{key}-tint", key)
        return Curve(points, key, 1.1, own.look.dashes), [label, Text(*at, own.mark, _LABEL_SIZE)]

    def _name(self, part: str) -> str:
        return printable(f"{self.cell.kind}-{part}")

    def _node(self, x: float, y: float, node: int, faded: bool) -> list[Shape]:
        colour, name = "muted" if faded else "ink", self._name(f"node-{node}")
        rim = Round(x, y, _NODE, _NODE, _NODE / 2, "paper", colour, 1.3, (3, 2) if faded else (), name)
        return [rim, Text(x, y, str(node), _NODE_SIZE, colour)]

    def _port(self, box: Box, x0: float, y0: float, subscript: str, part: str) -> list[Shape]:
        at = (x0 + box.x, y0 + box.y)
        return [
            Round(*at, box.width, box.height, 0.07, "ink", "ink", name=self._name(part)),
            Text(*at, "c", _PORT_SIZE, "paper", subscript=subscript),
        ]


def points_of(route: Sequence[tuple[float, float, float]], x0: float = 0.0, y0: float = 0.0) -> list[Point]:
    """The points of a `Curve` along a route of `layout.place`, from that lower left corner."""
    points = [(x0 + route[0][1], y0 + route[0][2])]
    for enter, leave, y in route[1:-1]:
        points += [(x0 + enter, y0 + y), (x0 + leave, y0 + y)]
    return [*points, (x0 + route[-1][0], y0 + route[-1][2])]


def middle_of(points: Sequence[Point]) -> Point:
    """The middle of the longest piece of a line, where its mark stands."""
    (x1, y1), (x2, y2) = max(pairwise(points), key=lambda ends: ends[1][0] - ends[0][0])
    return (x1 + x2) / 2, (y1 + y2) / 2


def _legend_rows(groups: Iterable[Family], width: float) -> list[list[tuple[Family, float]]]:
    """Legend entries with their x, broken into rows that fit the width."""
    rows: list[list[tuple[Family, float]]] = []
    x = 0.0
    for group in groups:
        need = 0.42 + text_width(group.label, _LABEL_SIZE)
        if not rows or x + need > width:
            rows.append([])
            x = 0.0
        rows[-1].append((group, x))
        x += need + 0.25
    return rows
