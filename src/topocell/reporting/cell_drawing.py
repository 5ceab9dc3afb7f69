"""Drawings of a genotype's cells, as SVG and PNG files.

Every operation is a labelled box on its edge and takes part in the layout, so labels cannot cover nodes, edges or each
other. Importing this takes a second, for matplotlib: callers import it late.
"""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve

from topocell.errors import GenotypeError
from topocell.io import files
from topocell.reporting.cells import ShownCell, shown_cells
from topocell.reporting.layout import Box, place
from topocell.reporting.style import (
    FAINT,
    FAMILIES,
    INK,
    MUTED,
    Family,
    blank,
    family,
    printable,
    save,
    short,
    styled,
    text_width,
)

_NODE, _PORT_WIDTH, _PORT_HEIGHT, _LABEL_HEIGHT = 0.36, 0.62, 0.36, 0.25  # inches
_MARGIN, _HEADING, _PANEL_GAP, _TITLE = 0.25, 0.45, 0.35, 0.45
_LABEL_SIZE, _NODE_SIZE, _PANEL_SIZE, _TITLE_SIZE = 8.5, 10.0, 10.5, 12.5  # points
_NAMES = {"normal": "Normal cell", "reduce": "Reduction cell", "cell": "Cell"}


def draw_genotype(genotype: Mapping[str, Any], path: Path | str, title: str | None = None) -> None:
    """Draw every cell of a genotype, one panel below the other, to an SVG or PNG file.

    Inputs are at the left, computed nodes follow by depth (longest path from an input), the output c_k is at the
    right. Dropped nodes are shown dashed below the cell. Equal genotypes give equal files.

    Args:
        genotype: the dict of `Genotype.to_dict()`.
        path: file to write; its suffix chooses the format.
        title: one line above the cells.

    Raises:
        GenotypeError: a suffix other than .svg and .png, or a dict that describes no cells or too large ones.
        RunError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".svg", ".png"):
        raise GenotypeError(f"draw writes .svg or .png, but got {path.name!r}; give a file name with such a suffix")
    cells = shown_cells(genotype)
    with styled(), files.guarded(path):
        save(_figure(cells, title), path)


class _Panel:
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
        width = max((text_width(short(op), _LABEL_SIZE) for op, _, _ in cell.edges), default=0.0) + 0.2
        links = []
        for _, src, dst in cell.edges:
            links += [(index[src], len(boxes)), (len(boxes), index[dst])]
            boxes.append(Box(2 * depth[dst] - 1, width, _LABEL_HEIGHT))
        links += [(index[n], self.output) for n in cell.concat if n in index]
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
        """The cell's name with its depth and number of edges."""
        name = _NAMES.get(self.cell.kind, printable(self.cell.kind))
        n_edges = len(self.cell.edges)
        zeros = "".join(f", node {node} is zero" for node in self.cell.empty if self.cell.zeros)
        return f"{name}  ·  depth {self.depth}, {n_edges} edge{'s' * (n_edges != 1)}{zeros}"

    def draw(self, ax: Axes, x0: float, y0: float) -> None:
        """Draw at the given lower left corner: output lines, then edges, then boxes on top."""
        n_edges = len(self.cell.edges)
        for route in self.routes[2 * n_edges :]:
            _line(ax, route, x0, y0, FAINT, 1.1)
        # An edge is drawn in two halves, so that the arrow ends at the node and not under the label.
        for e, (op, _, _) in enumerate(self.cell.edges):
            colour = family(op).colour
            _line(ax, self.routes[2 * e], x0, y0, colour, 1.5)
            _line(ax, self.routes[2 * e + 1], x0, y0, colour, 1.5)
            _arrow(ax, x0 + self.routes[2 * e + 1][-1][0], y0 + self.routes[2 * e + 1][-1][2], colour)
        for e, (op, src, dst) in enumerate(self.cell.edges):
            self._operation(ax, self.boxes[self.output + 1 + e], x0, y0, op, f"{src}-{dst}-{e}")
        for node, box in zip(self.nodes, self.boxes):
            if node < self.cell.inputs:
                back = self.cell.inputs - node
                self._port(ax, box, x0, y0, f"$c_{{k{{-}}{back}}}$", f"input-{node}")
            else:
                self._node(ax, x0 + box.x, y0 + box.y, node, faded=node in self.cell.empty)
        self._port(ax, self.boxes[self.output], x0, y0, "$c_k$", "output")
        if self.dropped:
            x, y = x0 + _PORT_WIDTH, y0 + _NODE / 2
            ax.text(x0, y, "dropped", color=MUTED, va="center", fontsize=_LABEL_SIZE)
            for k, node in enumerate(self.dropped):
                self._node(ax, x + 0.3 + 0.5 * k, y, node, faded=True)

    def _gid(self, part: str) -> str:
        return printable(f"{self.cell.kind}-{part}")

    def _node(self, ax: Axes, x: float, y: float, node: int, faded: bool) -> None:
        edge, style = (FAINT, (0, (3, 2))) if faded else (INK, "-")
        disc = Circle((x, y), _NODE / 2, facecolor="white", edgecolor=edge, linestyle=style, linewidth=1.3, zorder=4)
        disc.set_gid(self._gid(f"node-{node}"))
        ax.add_patch(disc)
        colour = MUTED if faded else INK
        ax.text(x, y, str(node), color=colour, size=_NODE_SIZE, ha="center", va="center_baseline", zorder=5)

    def _port(self, ax: Axes, box: Box, x0: float, y0: float, label: str, part: str) -> None:
        patch = _rounded(x0 + box.x, y0 + box.y, box.width, box.height, 0.07, facecolor=INK, edgecolor=INK)
        patch.set_gid(self._gid(part))
        ax.add_patch(patch)
        text = ax.text(x0 + box.x, y0 + box.y, label, color="white", size=_NODE_SIZE + 1, zorder=5)
        text.set(ha="center", va="center_baseline", parse_math=True)

    def _operation(self, ax: Axes, box: Box, x0: float, y0: float, op: str, part: str) -> None:
        group, x, y = family(op), x0 + box.x, y0 + box.y
        patch = _rounded(
            x, y, box.width, box.height, box.height / 2, facecolor=group.tint, edgecolor=group.colour, linewidth=1.0
        )
        patch.set_gid(self._gid(f"edge-{part}-{printable(op)}"))
        ax.add_patch(patch)
        ax.text(x, y, short(op), size=_LABEL_SIZE, ha="center", va="center_baseline", zorder=5)


def _figure(cells: list[ShownCell], title: str | None) -> Figure:
    """All panels one below the other in a figure whose data unit is one inch."""
    panels = [_Panel(cell) for cell in cells]
    legend = [f for f in FAMILIES.values() if any(family(op) == f for cell in cells for op, _, _ in cell.edges)]
    top = _TITLE if title else 0.0
    heads = [text_width(panel.heading(), _PANEL_SIZE, bold=True) for panel in panels]
    width = max([4.2, *heads, *(p.width for p in panels), text_width(title or "", _TITLE_SIZE, bold=True)])
    rows = _legend_rows(legend, width)
    height = top + sum(_HEADING + panel.height + _PANEL_GAP for panel in panels) + 0.26 * len(rows)
    size = (width + 2 * _MARGIN, height + 2 * _MARGIN)
    figure = blank(*size)
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, size[0]), ylim=(0, size[1]))
    ax.set_axis_off()
    y = size[1] - _MARGIN
    if title:
        ax.text(_MARGIN, y, printable(title), size=_TITLE_SIZE, weight="bold", va="top")
        y -= top
    for panel in panels:
        ax.text(_MARGIN, y, panel.heading(), size=_PANEL_SIZE, weight="bold", va="top")
        y -= _HEADING + panel.height
        panel.draw(ax, _MARGIN + (width - panel.width) / 2, y)
        y -= _PANEL_GAP
    for row in rows:
        for group, x in row:
            swatch = _rounded(
                _MARGIN + x + 0.14, y - 0.09, 0.28, 0.14, 0.07, facecolor=group.tint, edgecolor=group.colour
            )
            ax.add_patch(swatch)
            ax.text(_MARGIN + x + 0.36, y - 0.09, group.label, size=_LABEL_SIZE, va="center_baseline", color=INK)
        y -= 0.26
    return figure


def _legend_rows(groups: Iterable[Family], width: float) -> list[list[tuple[Family, float]]]:
    """Legend entries with their x, broken into rows that fit the width."""
    rows: list[list[tuple[Family, float]]] = []
    x = 0.0
    for group in groups:
        need = 0.36 + text_width(group.label, _LABEL_SIZE)
        if not rows or x + need > width:
            rows.append([])
            x = 0.0
        rows[-1].append((group, x))
        x += need + 0.25
    return rows


def _rounded(x: float, y: float, width: float, height: float, radius: float, **style: Any) -> FancyBboxPatch:
    """A rounded box around a centre."""
    corner = (x - width / 2, y - height / 2)
    return FancyBboxPatch(corner, width, height, boxstyle=f"round,pad=0,rounding_size={radius}", zorder=4, **style)


def _line(ax: Axes, route: list[tuple[float, float, float]], x0: float, y0: float, colour: str, width: float) -> None:
    """A smooth curve along a route, with a white halo that keeps crossings legible."""
    points, codes = [(x0 + route[0][1], y0 + route[0][2])], [Curve.MOVETO]
    for (_, left, y), (enter, leave, y_next) in pairwise(route):
        middle = (left + enter) / 2
        points += [(x0 + middle, y0 + y), (x0 + middle, y0 + y_next), (x0 + enter, y0 + y_next)]
        codes += [Curve.CURVE4] * 3
        if (enter, leave, y_next) != route[-1]:
            points.append((x0 + leave, y0 + y_next))
            codes.append(Curve.LINETO)
    curve = Curve(points, codes)
    ax.add_patch(PathPatch(curve, fill=False, edgecolor="white", linewidth=width + 2.2, zorder=2, capstyle="butt"))
    ax.add_patch(PathPatch(curve, fill=False, edgecolor=colour, linewidth=width, zorder=2, capstyle="butt"))


def _arrow(ax: Axes, x: float, y: float, colour: str) -> None:
    """A small arrow head whose tip touches (x, y) from the left."""
    head = Curve([(x - 0.09, y + 0.045), (x, y), (x - 0.09, y - 0.045), (x - 0.09, y + 0.045)], closed=True)
    ax.add_patch(PathPatch(head, facecolor=colour, edgecolor="none", zorder=3))
