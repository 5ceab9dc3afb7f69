"""Drawings of `topocell.reporting.cell_shapes` as TikZ, in a document of its own.

Each shape is one line; boxes end with a comment that names them, as ids do in SVG.
"""

import re

from topocell.reporting.cell_shapes import COLOURS, Arrow, Curve, Dashes, Drawing, Point, Round, Shape, Text
from topocell.reporting.style import printable

_HEAD = r"""\documentclass[tikz,border=0pt]{standalone}
\usepackage{fix-cm}
%(colours)s
\begin{document}
\begin{tikzpicture}[x=1in,y=1in,line cap=butt,every node/.style={inner sep=0pt,font=\sffamily}]
\useasboundingbox (0,0) rectangle (%(size)s);
%(shapes)s
\end{tikzpicture}
\end{document}
"""
_SPECIAL = {char: f"\\{char}" for char in "{}$&#_%"} | {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    '"': "''",
    "-": "{-}",
    "…": r"\dots{}",
    "×": r"$\times$",
    "−": "$-$",
    "·": r"$\cdot$",
    **{char: f"${char}$" for char in "<>|"},
}


def tikz(drawing: Drawing) -> str:
    """Return a drawing as a document for pdfLaTeX, XeLaTeX or LuaLaTeX, which needs the packages `standalone` and TikZ.

    Letters beyond those of Western Europe, which pdfLaTeX's fonts lack, become question marks.
    """
    colours = [f"\\definecolor{{{role}}}{{HTML}}{{{colour[1:].upper()}}}" for role, colour in COLOURS.items()]
    return _HEAD % {
        "colours": "\n".join(colours),
        "size": _pair((drawing.width, drawing.height)),
        "shapes": "\n".join(map(_line, drawing.shapes)),
    }


def _line(shape: Shape) -> str:
    if isinstance(shape, Curve):
        way = _pair_of(shape.points[0])
        for _, first, second, end in shape.bends():
            way += f" .. controls {_pair_of(first)} and {_pair_of(second)} .. {_pair_of(end)}"
        halo = f"\\draw[paper,line width={shape.width + 2.2:g}pt] {way};"
        return f"{halo}\n\\draw[{shape.stroke},line width={shape.width:g}pt{_dashed(shape.dashes)}] {way};"
    if isinstance(shape, Arrow):
        x, y = shape.x - 0.09, shape.y
        corners = map(_pair_of, ((x, y + 0.045), (shape.x, y), (x, y - 0.045)))
        return f"\\fill[{shape.fill}] {' -- '.join(corners)} -- cycle;"
    return _box(shape) if isinstance(shape, Round) else _text(shape)


def _box(shape: Round) -> str:
    look = f"fill={shape.fill},draw={shape.stroke},line width={shape.line:g}pt{_dashed(shape.dashes)}"
    name = f"  % {_one_line(shape.name)}" if shape.name else ""
    if shape.width == shape.height == 2 * shape.radius:
        return f"\\filldraw[{look}] {_pair_of((shape.x, shape.y))} circle[radius={shape.radius:.4f}in];{name}"
    half, low = (shape.width / 2, shape.height / 2), (shape.x - shape.width / 2, shape.y - shape.height / 2)
    corners = _pair_of(low), _pair_of((shape.x + half[0], shape.y + half[1]))
    return f"\\filldraw[{look},rounded corners={shape.radius:.4f}in] {corners[0]} rectangle {corners[1]};{name}"


def _text(shape: Text) -> str:
    """A line of text whose middle is at the height of a small letter's."""
    words = _escaped(shape.text)
    if shape.subscript:
        words = f"$\\mathsf{{{words}}}_{{\\mathsf{{{_one_line(shape.subscript).replace('−', '-')}}}}}$"
    bold = "\\bfseries" * shape.bold
    font = f"\\fontsize{{{shape.size:g}}}{{{shape.size:g}}}\\selectfont{bold}"
    anchor = {"middle": "mid", "start": "mid west"}[shape.anchor]
    place = _pair_of((shape.x, shape.y))
    return f"\\node[anchor={anchor},text={shape.fill}] at {place} {{{font} {words}}};"


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(char, char if _has_letter(char) else "?") for char in _one_line(text))


def _has_letter(char: str) -> bool:
    """Whether the fonts of pdfLaTeX have it."""
    return ord(char) < 0x180 and char.isprintable()


def _one_line(text: str) -> str:
    """The text without what would end a line: a name is a comment up to its end."""
    return re.sub(r"\s+", " ", printable(text))


def _dashed(dashes: Dashes) -> str:
    parts = [f"{word} {length:g}pt" for word, length in zip(["on", "off"] * len(dashes), dashes)]
    return f",dash pattern={' '.join(parts)}" if parts else ""


def _pair_of(point: Point) -> str:
    return f"({_pair(point)})"


def _pair(point: Point) -> str:
    return f"{point[0]:.4f},{point[1]:.4f}"
