"""Drawings of a genotype's cells, and of two genotypes as one, as SVG, PNG, PDF, TikZ and Graphviz files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topocell.errors import GenotypeError
from topocell.io import files
from topocell.reporting.cell_dot import dot
from topocell.reporting.cell_shapes import COLOURS, Arrow, Curve, Drawing, Round, Text, genotype_drawing
from topocell.reporting.cell_svg import svg
from topocell.reporting.cell_tikz import tikz
from topocell.reporting.cells import ShownCell, shown_cells

if TYPE_CHECKING:  # matplotlib takes a second to import: it is, where a PNG or PDF is written
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".svg", ".png", ".pdf", ".tex", ".dot")


def draw_genotype(genotype: Mapping[str, Any], path: Path | str, title: str | None = None) -> None:
    """Draw every cell of a genotype, one panel below the other, to a file whose suffix chooses the format.

    Inputs are at the left, computed nodes follow by depth (longest path from an input), the output c_k is at the
    right. Dropped nodes are shown dashed below the cell. Equal genotypes give equal files.

    Args:
        genotype: the dict of `Genotype.to_dict()`.
        path: file to write: .svg, .png, .pdf, .tex (a document of TikZ) or .dot (Graphviz, with the places of our
            layout, which `neato -n2` keeps).
        title: one line above the cells.

    Raises:
        GenotypeError: another suffix, or a dict that describes no cells or too large ones.
        RunError: the file cannot be written.
    """
    path = drawing_path(path)
    draw_cells(shown_cells(genotype), path, title)


def drawing_path(path: Path | str) -> Path:
    """The path of a drawing, whose suffix is that of a format. Raises GenotypeError."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        formats = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        raise GenotypeError(f"draw writes {formats}, but got {path.name!r}; give a file name with such a suffix")
    return path


def draw_cells(cells: Sequence[ShownCell], path: Path, title: str | None = None) -> None:
    """Draw checked cells to a file of `drawing_path`. Raises RunError if it cannot be written."""
    suffix = path.suffix.lower()
    with files.guarded(path):
        if suffix in (".png", ".pdf"):
            _write_figure(genotype_drawing(cells, title), path)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".dot":
            text = dot(cells, title)
        elif suffix == ".tex":
            text = tikz(genotype_drawing(cells, title))
        else:
            drawn = svg(genotype_drawing(cells, title), "Cells as graphs", alone=True)
            text = f'<?xml version="1.0" encoding="UTF-8"?>\n{drawn}\n'
        files.write_out(path, text.encode())


def _write_figure(drawing: Drawing, path: Path) -> None:
    from topocell.reporting.style import save, styled

    with styled():
        save(_figure(drawing), path)


def _figure(drawing: Drawing) -> "Figure":
    """The drawing as a figure whose data unit is one inch."""
    from topocell.reporting.style import blank

    size = drawing.width, drawing.height
    figure = blank(*size)
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, size[0]), ylim=(0, size[1]))
    ax.set_axis_off()
    for order, shape in enumerate(drawing.shapes):
        if isinstance(shape, Curve):
            _curve(ax, shape, order)
        elif isinstance(shape, Arrow):
            corners = [(shape.x - 0.09, shape.y + 0.045), (shape.x, shape.y), (shape.x - 0.09, shape.y - 0.045)]
            ax.fill(*zip(*corners), facecolor=COLOURS[shape.fill], edgecolor="none", zorder=order)
        elif isinstance(shape, Round):
            _box(ax, shape, order)
        else:
            _text(ax, shape, order)
    return figure


def _curve(ax: "Axes", shape: Curve, order: int) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Way

    bends = [point for _, *others in shape.bends() for point in others]
    way = Way([shape.points[0], *bends], [Way.MOVETO, *[Way.CURVE4] * len(bends)])
    style: dict[str, Any] = {"fill": False, "capstyle": "butt", "zorder": order}
    ax.add_patch(PathPatch(way, edgecolor=COLOURS["paper"], linewidth=shape.width + 2.2, **style))
    line = (0, shape.dashes) if shape.dashes else "-"
    ax.add_patch(PathPatch(way, edgecolor=COLOURS[shape.stroke], linewidth=shape.width, linestyle=line, **style))


def _box(ax: "Axes", shape: Round, order: int) -> None:
    from matplotlib.patches import Circle, FancyBboxPatch

    corner = shape.x - shape.width / 2, shape.y - shape.height / 2
    style = f"round,pad=0,rounding_size={shape.radius}"
    look: dict[str, Any] = {"facecolor": COLOURS[shape.fill], "edgecolor": COLOURS[shape.stroke], "zorder": order}
    look |= {"linewidth": shape.line, "linestyle": (0, shape.dashes) if shape.dashes else "-"}
    if shape.width == shape.height == 2 * shape.radius:
        ax.add_patch(Circle((shape.x, shape.y), shape.radius, **look))
    else:
        ax.add_patch(FancyBboxPatch(corner, shape.width, shape.height, boxstyle=style, **look))


def _text(ax: "Axes", shape: Text, order: int) -> None:
    words = f"${shape.text}_{{{shape.subscript.replace('−', '{-}')}}}$" if shape.subscript else shape.text
    across = {"start": "left", "middle": "center"}[shape.anchor]
    text = ax.text(shape.x, shape.y, words, color=COLOURS[shape.fill], size=shape.size, ha=across, zorder=order)
    text.set(va="center_baseline", weight="bold" if shape.bold else "normal", parse_math=bool(shape.subscript))
