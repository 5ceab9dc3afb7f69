"""Published cells by name: `published.yaml` as data."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from topocell.arguments import checked
from topocell.errors import GenotypeError, nearest
from topocell.genotype.genotype import CellGenotype, Genotype

_OPERATIONS = {
    "no": "none",
    "sk": "skip_connect",
    "m3": "max_pool_3x3",
    "a3": "avg_pool_3x3",
    "s3": "sep_conv_3x3",
    "s5": "sep_conv_5x5",
    "s7": "sep_conv_7x7",
    "d3": "dil_conv_3x3",
    "d5": "dil_conv_5x5",
    "c7": "conv_7x1_1x7",
}


@dataclass(frozen=True)
class Published:
    """A cell that its authors released.

    Attributes:
        name: by which commands take it.
        genotype: the cell; its origin is `{"published": name}`.
        source: the paper.
        figures: of the paper: error in % on test images, parameters in millions of the network evaluated there.
        parameters: of the network with 36 channels, 20 layers and 10 classes, without auxiliary head.
    """

    name: str
    genotype: Genotype
    source: str
    figures: str
    parameters: int


def read_cell(words: str, concat: tuple[int, ...] = (2, 3, 4, 5)) -> CellGenotype:
    """Return a cell of two inputs from its words, as published.yaml has them: `s31 sk0 | m30 d52`."""
    nodes = (node.split() for node in words.split("|"))
    return CellGenotype(2, tuple(tuple((_OPERATIONS[w[:2]], int(w[2:])) for w in node) for node in nodes), concat)


@cache
def published_cells() -> Mapping[str, Published]:
    """Return all published cells by name."""
    text = (resources.files("topocell.genotype") / "published.yaml").read_text(encoding="utf-8")
    return {name: _published(name, row) for name, row in yaml.safe_load(text).items()}


def _published(name: str, row: Mapping[str, Any]) -> Published:
    concat = row.get("concat", {})
    cells = {kind: read_cell(row[kind], tuple(concat.get(kind, (2, 3, 4, 5)))) for kind in ("normal", "reduce")}
    genotype = Genotype(row.get("space", "darts"), cells, {"published": name})
    return Published(name, genotype, row["source"], row["published"], row["parameters"])


def find(name: str) -> Published | None:
    """Return the published cell of a name in any spelling, such as DARTS_V2 of darts-v2; None where there is none."""
    return published_cells().get(name.lower().replace("_", "-"))


@checked(GenotypeError)
def published(name: str) -> Published:
    """Return a published cell; DARTS_V2 is darts-v2. Raises GenotypeError for an unknown name."""
    if found := find(name):
        return found
    cells, lower = published_cells(), name[:100].lower().replace("_", "-")
    same = [known for known in cells if known.startswith(lower)] or [
        known for known in cells if lower.startswith(known)
    ]
    alike = nearest(lower, same or cells)
    raise GenotypeError(
        f"a cell is a file, a run directory, the name of a published cell or a text, but {name!r:.100} is none{alike}; "
        f"`topocell genotypes list` shows the published cells"
    )
