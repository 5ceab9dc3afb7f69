"""Cells of a genotype as they are shown: checked for drawing, and as text for the terminal.

All takes the plain dict of `Genotype.to_dict()`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from topocell.errors import GenotypeError, nearest
from topocell.genotype.genotype import keeps_empty_nodes
from topocell.reporting.style import Family, family, short

#: What can be laid out in seconds, and read: the complete cell of 16 computed nodes has 152 edges.
MAX_NODES, MAX_EDGES = 64, 300


class Side(NamedTuple):
    """Whose an edge is where two cells are drawn as one: `mark` stands before its label, `look` is its line."""

    mark: str
    look: Family


class ShownCell(NamedTuple):
    """A cell checked for drawing: `edges` are (operation, source, node); `empty` are nodes without an edge.

    Of two cells drawn as one, `sides` says whose each edge is, `concat_sides` whose each node of the output.
    """

    kind: str
    inputs: int
    edges: list[tuple[str, int, int]]
    computed: range
    empty: list[int]
    concat: list[int]
    zeros: bool  # an empty node is a tensor of zeros, not a dropped node
    sides: tuple[Side, ...] = ()
    concat_sides: tuple[Side, ...] = ()

    def look(self, edge: int) -> Family:
        """How the line of an edge looks."""
        return self.sides[edge].look if self.sides else family(self.edges[edge][0])

    def output_side(self, member: int) -> Side | None:
        """The side of the line from a node of the output where it is of one of two cells alone; None otherwise."""
        side = self.concat_sides[member] if self.concat_sides else None
        return side if side and side.mark else None

    def label(self, edge: int) -> str:
        """The text on an edge."""
        name = short(self.edges[edge][0])
        return f"{self.sides[edge].mark}: {name}" if self.sides and self.sides[edge].mark else name


def draw_text(genotype: Mapping[str, Any], cell_type: str) -> str:
    """One line per computed node, then the output: `2 ← sep 3×3(0) + skip(1)`, `out ← concat(2, 3)`.

    Raises:
        GenotypeError: the genotype has no cell of that type, or the dict describes no cells.
    """
    cells = {cell.kind: cell for cell in shown_cells(genotype)}
    if cell_type not in cells:
        hint = nearest(cell_type, cells)
        raise GenotypeError(f"unknown cell type {cell_type!r}{hint}; this genotype has: {', '.join(cells)}")
    cell = cells[cell_type]
    lines = []
    for node in cell.computed:
        parts = [f"{short(op)}({src})" for op, src, dst in cell.edges if dst == node]
        lines.append(f"{node} ← {' + '.join(parts) or ('zeros' if cell.zeros else 'dropped')}")
    members = ", ".join(map(str, cell.concat))
    return "\n".join([*lines, f"out ← {members if len(cell.concat) == 1 else f'concat({members})'}"])


def shown_cells(genotype: Mapping[str, Any]) -> list[ShownCell]:
    """The cells in drawing order; refuses what cannot be laid out. Operation names are not checked here."""
    try:
        found = [_cell(str(kind), cell) for kind, cell in genotype["cells"].items()]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise GenotypeError(
            f"a genotype lists for every cell its inputs, nodes and concat, but got one without them "
            f"({type(error).__name__}: {error}); check it with Genotype.from_dict"
        ) from error
    if not found:
        raise GenotypeError("a genotype has at least one cell, but got none; check it with Genotype.from_dict")
    return found


def _cell(kind: str, cell: Mapping[str, Any]) -> ShownCell:
    inputs, nodes = int(cell["inputs"]), cell["nodes"]
    edges_in_all = sum(len(node) for node in nodes)
    if not 0 <= inputs <= MAX_NODES or len(nodes) > MAX_NODES or edges_in_all > MAX_EDGES:
        raise ValueError(
            f"a drawing has up to {MAX_NODES} nodes and {MAX_EDGES} edges, cell {kind[:40]!r} more: "
            f"{inputs} + {len(nodes)}, {edges_in_all}"
        )
    computed = range(inputs, inputs + len(nodes))
    edges = [(str(op), int(src), dst) for dst, node in zip(computed, nodes) for op, src in node]
    for op, src, dst in edges:
        if not 0 <= src < dst:
            raise ValueError(f"node {dst} of cell {kind!r} takes {op!r} from node {src}")
    concat = [int(node) for node in cell["concat"]]
    if not all(node in computed for node in concat):
        raise ValueError(f"concat of cell {kind!r} is {concat}")
    reached = {dst for _, _, dst in edges}
    empty = [node for node in computed if node not in reached]
    return ShownCell(kind, inputs, edges, computed, empty, concat, keeps_empty_nodes(kind))
