"""Drawings of `topocell.reporting.cell_shapes` as SVG.

Colours stand in the attributes, so that any viewer shows them, and as the classes `s-ROLE` of strokes and `f-ROLE` of
fills, by which the style sheet of a page replaces them.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from topocell.reporting.cell_shapes import (
    COLOURS,
    Arrow,
    Curve,
    Drawing,
    Panel,
    Point,
    Round,
    Shape,
    Text,
    panel_drawing,
)
from topocell.reporting.cells import ShownCell

#: Pixels per inch and per point.
_INCH, _POINT = 96.0, 96.0 / 72.0
_FONT = "DejaVu Sans, Verdana, Arial, sans-serif"


class Headed(NamedTuple):
    """A cell of a page: its heading and its drawing."""

    heading: str
    drawing: Markup


def headed(cells: Iterable[ShownCell]) -> list[Headed]:
    """Return the cells as pages show them, each laid out once."""
    panels = [(panel, panel.heading()) for panel in map(Panel, cells)]
    return [Headed(words, svg(panel_drawing(panel), words)) for panel, words in panels]


def svg(drawing: Drawing, label: str, *, alone: bool = False) -> Markup:
    """Return a drawing as an <svg> element.

    Args:
        drawing: the drawing.
        label: what it is, for those who cannot see it.
        alone: whether it is a file of its own: on white paper, its parts with their names as ids.
    """
    size = _number(drawing.width * _INCH), _number(drawing.height * _INCH)
    head = Markup(' width="{0}" height="{1}"').format(*size) if alone else Markup(' style="--w:{0}px"').format(size[0])
    paper = Markup('<rect width="100%" height="100%" fill="{}"/>').format(COLOURS["paper"]) if alone else ""
    opening = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}"{2} role="img" aria-label="{3}" '
        'font-family="{4}">{5}'
    ).format(*size, head, label, _FONT, paper)
    body = Markup("").join(_element(shape, drawing.height, alone) for shape in drawing.shapes)
    return opening + body + Markup("</svg>")


def _element(shape: Shape, height: float, alone: bool) -> Markup:
    if isinstance(shape, Curve):
        return _path(shape, height)
    if isinstance(shape, Arrow):
        return _arrow(shape, height)
    return _box(shape, height, alone) if isinstance(shape, Round) else _text(shape, height)


def _path(shape: Curve, height: float) -> Markup:
    """The curve on its halo: level at every point, bending half way between two points of different height."""
    steps = [f"M{_at(shape.points[0], height)}"]
    for start, *controls, end in shape.bends():
        bend = " ".join(_at(point, height) for point in (*controls, end))
        steps.append(f"C{bend}" if abs(start[1] - end[1]) * _INCH > 1e-6 else f"H{_number(end[0] * _INCH)}")
    way = "".join(steps)
    halo = Markup('<path d="{}" class="s-paper" fill="none" stroke="{}" stroke-width="{}"/>')
    line = Markup('<path d="{}" class="s-{}" fill="none" stroke="{}" stroke-width="{}"{}/>')
    wide, width = _number((shape.width + 2.2) * _POINT), _number(shape.width * _POINT)
    return halo.format(way, COLOURS["paper"], wide) + line.format(
        way, shape.stroke, COLOURS[shape.stroke], width, _dashed(shape.dashes)
    )


def _arrow(shape: Arrow, height: float) -> Markup:
    x, y = shape.x * _INCH, (height - shape.y) * _INCH
    corners = " ".join(map(_pair, ((x - 8.6, y - 4.3), (x, y), (x - 8.6, y + 4.3))))
    return Markup('<polygon points="{}" class="f-{}" fill="{}"/>').format(corners, shape.fill, COLOURS[shape.fill])


def _box(shape: Round, height: float, alone: bool) -> Markup:
    left, top = (shape.x - shape.width / 2) * _INCH, (height - shape.y - shape.height / 2) * _INCH
    numbers = (left, top, shape.width * _INCH, shape.height * _INCH, shape.radius * _INCH)
    name = Markup(' id="{}"').format(shape.name) if alone and shape.name else ""
    return Markup(
        '<rect{} x="{}" y="{}" width="{}" height="{}" rx="{}" class="f-{} s-{}" fill="{}" stroke="{}" '
        'stroke-width="{}"{}/>'
    ).format(
        name,
        *map(_number, numbers),
        shape.fill,
        shape.stroke,
        COLOURS[shape.fill],
        COLOURS[shape.stroke],
        _number(shape.line * _POINT),
        _dashed(shape.dashes),
    )


def _text(shape: Text, height: float) -> Markup:
    size = shape.size * _POINT
    at = _number(shape.x * _INCH), _number((height - shape.y) * _INCH + 0.35 * size)
    words = escape(shape.text)
    if shape.subscript:
        below = Markup('<tspan dy="{}" font-size="{}">{}</tspan>')
        words += below.format(_number(0.25 * size), _number(0.72 * size), shape.subscript)
    options = ' text-anchor="middle"' * (shape.anchor == "middle") + ' font-weight="bold"' * shape.bold
    options += ' font-style="italic"' * bool(shape.subscript)
    return Markup('<text x="{}" y="{}" font-size="{}" class="f-{}" fill="{}"{}>{}</text>').format(
        *at, _number(size), shape.fill, COLOURS[shape.fill], Markup(options), words
    )


def _dashed(dashes: Sequence[float]) -> Markup:
    lengths = " ".join(_number(length * _POINT) for length in dashes)
    return Markup(' stroke-dasharray="{}"').format(lengths) if dashes else Markup("")


def _at(point: Point, height: float) -> str:
    """A point of a drawing of that height, in pixels from the top."""
    return _pair((point[0] * _INCH, (height - point[1]) * _INCH))


def _pair(point: Point) -> str:
    return f"{_number(point[0])},{_number(point[1])}"


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
