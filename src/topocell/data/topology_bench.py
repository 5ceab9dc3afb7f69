"""Our own table of true accuracies, of space topology-bench: cells with any number of inputs per node.

`topocell study topology-bench` trains its cells and writes it: a CSV file, plain or compressed with gzip, whose first
line is a comment with the recipe of the networks and checksums. One row for each of 850 different cells:

    index       its number, 0 to 849, in the order of the strings of all cells
    arch        |operation~source|... for each computed node, joined by +, nodes in canonical order
    parameters  of its network
    test, val   means over the seeds in percent; then test_0, val_0, .. of each seed

All 1,155 cells of the space are found in it, under whatever numbering of their nodes.
"""

import csv
import functools
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from topocell.data.accuracy_table import AccuracyTable, as_percent, table_text, unreadable
from topocell.errors import DataError, GenotypeError
from topocell.genotype.genotype import CellGenotype, Genotype
from topocell.io import files
from topocell.spaces.cell import SpaceSpec
from topocell.spaces.topology_bench import topology_bench

_SPACE = topology_bench()
_CELL = _SPACE.cells["normal"]
#: Different cells of the space.
N_CELLS = 850
#: The table that comes with topocell: trainings on CIFAR-10 (JPEG), see docs/how-to/topology-bench.md.
SHIPPED = Path(__file__).with_name("topology-bench.csv.gz")


@functools.cache
def different_cells() -> Mapping[str, Genotype]:
    """Every different cell of the space in canonical form, by its string, in the order of the strings."""
    inputs = []
    for node in _CELL.computed:
        offers = [(_CELL.edges[e][0], (None, *_CELL.candidates[e])) for e in _CELL.incoming(node)]
        picks = itertools.product(*(names for _, names in offers))
        pairs = [tuple((op, source) for op, (source, _) in zip(pick, offers) if op) for pick in picks]
        inputs.append([found for found in pairs if found])
    cells = [_genotype(nodes).canonical() for nodes in itertools.product(*inputs)]
    return dict(sorted({_text(cell): cell for cell in cells}.items()))


class TopologyBench(AccuracyTable):
    """The accuracies of the cells of space topology-bench; see `AccuracyTable` for what can be asked.

    Args:
        archs: strings of cells, a part of those of `different_cells`, each once.
        accuracies: column → accuracies in percent (n,), in the same order; `test` and `val` among them.
        parameters: of the network of each cell.
        made: what the comment of the file says: recipe, seeds, versions.
    """

    title = "topology bench"

    def __init__(
        self,
        archs: Sequence[str],
        accuracies: Mapping[str, np.ndarray],
        parameters: Sequence[int],
        made: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(archs, accuracies)
        self.parameters, self.made = dict(zip(self.archs, parameters, strict=True)), dict(made or {})

    @classmethod
    def load(cls, path: str | Path = SHIPPED) -> "TopologyBench":
        """Read a table that the study has written; without a path the one that comes with topocell.

        Raises:
            DataError: there is no such file, or it is no such table, naming line and column.
        """
        try:
            path = files.existing(path)
        except OSError as fault:
            raise unreadable(path, files.reason(fault)) from None
        return _parse(path, table_text(path))

    @property
    def complete(self) -> bool:
        """Whether the table has every cell of the space."""
        return len(self.archs) == N_CELLS

    def cells(self) -> list[Genotype]:
        """The cells of the table, in the order of `archs`."""
        return [different_cells()[arch] for arch in self.archs]

    def seeds(self, cell: Genotype | str, part: str = "test") -> list[float]:
        """The accuracy of a cell after each training, in percent; `part` is `test` or `val`. Raises DataError."""
        found = self.lookup(cell).accuracy
        return [found[column] for column in self.columns if column.startswith(f"{part}_")]

    def arch(self, cell: Genotype | str) -> str:
        """The string of a cell, in whatever order its nodes are, or of such a string.

        Raises:
            DataError: the cell is none of the space, or has not been trained yet.
        """
        try:
            arch = _text((_genotype(_nodes(cell)) if isinstance(cell, str) else cell).canonical())
        except GenotypeError as fault:
            raise DataError(f"the table holds cells of space {_SPACE.name}, and this is none: {fault}") from None
        if arch not in different_cells():
            raise DataError(f"the table holds cells of space {_SPACE.name}, but got {arch!r}; search in that space")
        if arch not in self._index:
            raise DataError(
                f"the table has {len(self.archs)} of {N_CELLS} cells, and not yet {arch!r}; let the "
                f"study topology-bench finish"
            )
        return arch

    def _own_columns(self) -> Mapping[str, Sequence[int]]:
        return {"parameters": [self.parameters[arch] for arch in self.archs]}

    def _numbers(self) -> Sequence[int]:
        numbers = {arch: number for number, arch in enumerate(different_cells())}
        return [numbers[arch] for arch in self.archs]

    def _preface(self) -> str:
        return f"# {json.dumps({**self.made, 'sha256': self.fingerprint}, sort_keys=True)}\n"


def holds(space: SpaceSpec) -> bool:
    """Return whether every cell that can be derived in a space is in the table: the space itself."""
    return space == _SPACE


def _text(cell: Genotype) -> str:
    found = cell.cells.get("normal")
    if found is None or len(cell.cells) > 1 or found.inputs != _CELL.inputs:
        raise GenotypeError(f"it has one cell type, normal, of two inputs, but got {', '.join(cell.cells)}")
    if found.concat != tuple(range(found.inputs, found.inputs + len(found.nodes))):
        raise GenotypeError(f"its output is all of its nodes, but got {list(found.concat)}")
    return "+".join("|" + "".join(f"{op}~{source}|" for op, source in pairs) for pairs in found.nodes)


def _nodes(text: str) -> list[list[tuple[str, int]]]:
    nodes = []
    for group in text.strip().split("+"):
        pairs = [edge.rpartition("~") for edge in group.strip("|").split("|")]
        if not all(op and source.isascii() and source.isdecimal() and len(source) < 3 for op, _, source in pairs):
            raise GenotypeError(f"a node is |operation~source|..|, but got {group[:80]!r}")
        nodes.append([(op, int(source)) for op, _, source in pairs])
    return nodes


def _genotype(nodes: Sequence[Sequence[tuple[str, int]]]) -> Genotype:
    cell = CellGenotype(_CELL.inputs, tuple(map(tuple, nodes)), tuple(range(2, 2 + len(nodes))))
    return Genotype(_SPACE.name, {"normal": cell}, skeleton=_SPACE.skeleton)


def _parse(path: Path, text: str) -> TopologyBench:
    comment, _, rest = text.partition("\n")
    try:
        made = json.loads(comment[1:]) if comment.startswith("#") else None
        header, *rows = [*csv.reader(io.StringIO(rest), strict=True)] or [[]]
    except (ValueError, RecursionError, csv.Error) as fault:
        raise _fault(path, f"it is a comment in JSON and CSV text, but this is not ({fault})") from None
    columns = header[3:]
    if (
        not isinstance(made, dict)
        or header[:3] != ["index", "arch", "parameters"]
        or not {"test", "val"} <= set(columns)
        or len(set(columns)) < len(columns)
    ):
        raise _fault(path, "it begins with a comment, then index, arch, parameters, test, val and columns of each seed")
    known, parameters = {arch: number for number, arch in enumerate(different_cells())}, []
    archs: list[str] = []
    accuracies = np.empty((len(rows), len(columns)))
    for line, row in enumerate(rows, start=3):
        if len(row) != len(header):
            raise _fault(path, f"line {line}: each row has {len(header)} fields, but this has {len(row)}")
        if row[1] not in known or str(known[row[1]]) != row[0]:
            raise _fault(path, f"line {line}: each cell is there once, with its number, but got {row[0][:9]!r}")
        if not (row[2].isascii() and row[2].isdecimal() and len(row[2]) < 13):
            raise _fault(path, f"line {line}: parameters are a whole number, but got {row[2][:40]!r}")
        for at, (column, field) in enumerate(zip(columns, row[3:])):
            value = as_percent(field)
            if value is None:
                raise _fault(path, f"line {line}, column {column}: an accuracy is a number from 0 to 100")
            accuracies[line - 3, at] = value
        known.pop(row[1])
        archs.append(row[1])
        parameters.append(int(row[2]))
    if not archs:
        raise _fault(path, "it has a row for each cell, but this has none")
    named = {name: accuracies[:, k].copy() for k, name in enumerate(columns)}
    table = TopologyBench(archs, named, parameters, {key: value for key, value in made.items() if key != "sha256"})
    if made.get("sha256") != table.fingerprint:
        raise _fault(path, "its checksum is not that of its rows")
    return table


def _fault(path: Path, rule: str) -> DataError:
    return DataError(f"{str(path)!r} is no table of topology bench: {rule}; get the file again")
