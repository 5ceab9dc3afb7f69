"""Two genotypes of one space as one drawing: the edges of both, of the first alone, and of the second alone."""

import dataclasses
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TypeVar

from topocell.errors import GenotypeError
from topocell.genotype.genotype import Genotype
from topocell.reporting.cell_drawing import draw_cells, drawing_path
from topocell.reporting.cells import ShownCell, Side, shown_cells
from topocell.reporting.style import FAMILIES, clipped

Item = TypeVar("Item", bound=Hashable)


def draw_difference(first: Genotype, second: Genotype, path: Path | str, names: tuple[str, str] = ("A", "B")) -> None:
    """Draw two genotypes as one: edges of both are solid, those of one alone dashed or dotted, with A: or B: before
    their operation. Lines to the output that one cell alone has are drawn alike.

    Nodes are compared by their numbers, except in cells that differ in nothing but these: there all edges are of both.

    Args:
        first, second: A and B.
        path: see `draw_genotype`.
        names: of A and B, for the title.

    Raises:
        GenotypeError: the two are of different spaces, or see `draw_genotype`.
        RunError: the file cannot be written.
    """
    path = drawing_path(path)
    cells = difference(first, second)
    draw_cells(cells, path, f"A: {clipped(names[0], 40)},  B: {clipped(names[1], 40)}")


def difference(first: Genotype, second: Genotype) -> list[ShownCell]:
    """The cells of two genotypes of one space, as one for each type. Raises GenotypeError."""
    mine, others = _shape(first), _shape(second)
    if mine != others:
        raise GenotypeError(
            f"a difference is drawn of two cells of one space, but got {mine} and {others}; draw each by itself"
        )
    equal = first.canonical().cells, second.canonical().cells
    same = {kind: cell for kind, cell in first.cells.items() if equal[0][kind] == equal[1][kind]}
    other = dataclasses.replace(second, cells={**second.cells, **same})
    a, b = (shown_cells(genotype.to_dict()) for genotype in (first, other))
    return [_merged(one, other) for one, other in zip(a, b)]


def _shape(genotype: Genotype) -> str:
    """What two genotypes have alike whose cells can be compared node by node."""
    cells = (f"{kind} cell of {c.inputs} + {len(c.nodes)} nodes" for kind, c in genotype.cells.items())
    return f"{clipped(genotype.space)} ({', '.join(cells)})"


#: The lines of both cells, of A alone and of B alone, which differ in dashes too.
_BOTH = Side("", FAMILIES["other"]._replace(label="both", dashes=()))
_FIRST = Side("A", FAMILIES["sep_conv"]._replace(label="A alone", dashes=(6, 2)))
_SECOND = Side("B", FAMILIES["dil_conv"]._replace(label="B alone", dashes=(1.5, 1.5)))


def _merged(a: ShownCell, b: ShownCell) -> ShownCell:
    """The union of two cells: edges by node, in the order of A, then of B."""
    edges = _sides(a.edges, b.edges)
    edges.sort(key=lambda found: found[0][2])
    outputs = _sides(a.concat, b.concat)
    outputs.sort(key=lambda found: found[0])
    reached = {dst for (_, _, dst), _ in edges}
    return a._replace(
        edges=[edge for edge, _ in edges],
        sides=tuple(side for _, side in edges),
        concat=[node for node, _ in outputs],
        concat_sides=tuple(side for _, side in outputs),
        empty=[node for node in a.computed if node not in reached],
    )


def _sides(a: Sequence[Item], b: Sequence[Item]) -> list[tuple[Item, Side]]:
    """All of A in order, then what B alone has, each with its side; what occurs twice counts twice."""
    left, found = Counter(b), list[tuple[Item, Side]]()
    for item in a:
        found.append((item, _BOTH if left[item] > 0 else _FIRST))
        left[item] -= 1
    return [*found, *((item, _SECOND) for item in (+left).elements())]
