"""Wirings by name: `wirings.yaml` as data."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

import yaml

from topocell.errors import RecipeError, SpaceError, check_known
from topocell.spaces.cell import CellSpec


@dataclass(frozen=True)
class NamedWiring:
    """The inputs of each computed node of a cell with two inputs, and where they come from."""

    inputs: tuple[tuple[int, ...], ...]
    origin: str

    def edges(self, first: int = 2) -> list[tuple[int, int]]:
        """(src, dst) by destination; `first` is the number of the first computed node."""
        return [(source, node) for node, sources in enumerate(self.inputs, first) for source in sources]


def _read() -> dict[str, NamedWiring]:
    text = (resources.files("topocell.topology") / "wirings.yaml").read_text(encoding="utf-8")
    rows = yaml.safe_load(text).items()
    return {name: NamedWiring(tuple(map(tuple, row["inputs"])), row["from"].strip()) for name, row in rows}


#: What `topology: {name: fixed, wiring: NAME}` can name.
WIRINGS: Mapping[str, NamedWiring] = _read()


def named_edges(name: str, cell: CellSpec) -> list[tuple[int, int]]:
    """The edges of the wiring of that name.

    Raises:
        RecipeError: unknown name. SpaceError: the wiring is for cells with another number of nodes.
    """
    check_known("wiring", name, WIRINGS, RecipeError)
    wiring = WIRINGS[name]
    if len(wiring.inputs) != cell.nodes:
        raise SpaceError(
            f"a wiring gives inputs to every computed node, but {name!r} is for {len(wiring.inputs)} nodes and the "
            f"cell has {cell.nodes}; use space.nodes={len(wiring.inputs)}, or edges=[..] of your own"
        )
    return wiring.edges(cell.inputs)
