"""Tables of true accuracies: what each cell of a space reaches when it is trained. Percent, regrets in points."""

import csv
import gzip
import hashlib
import io
import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from topocell.errors import DataError, nearest
from topocell.genotype.genotype import Genotype
from topocell.io import files

#: Of a table, unpacked; nine columns of NAS-Bench-201 take 3 million.
MAX_BYTES = 64_000_000


@dataclass(frozen=True)
class GroundTruth:
    """A row of a table: number and string of a cell, and per column its accuracy in percent."""

    index: int
    arch: str
    accuracy: Mapping[str, float]


class AccuracyTable(ABC):
    """The accuracies of the cells of a space; every question is answered in well under a millisecond.

    Args:
        archs: strings of the cells.
        accuracies: column → accuracies in percent (n,), in the same order.

    Attributes:
        archs, columns: the strings, and the names of the columns.
        title: what the table is called.
    """

    title: ClassVar[str]

    def __init__(self, archs: Sequence[str], accuracies: Mapping[str, np.ndarray]) -> None:
        self.archs = list(archs)
        self.columns = tuple(accuracies)
        self._accuracies = dict(accuracies)
        self._index = {arch: index for index, arch in enumerate(self.archs)}

    @abstractmethod
    def arch(self, cell: Genotype | str) -> str:
        """Return the string by which the table knows a cell. Raises DataError where it is none of the table's."""

    @property
    def complete(self) -> bool:
        """Whether the table has every cell of the space."""
        return True

    @property
    def fingerprint(self) -> str:
        """sha256 over the strings, the columns and their accuracies."""
        digest = hashlib.sha256("\n".join([*self.archs, *self.columns]).encode())
        for values in self._accuracies.values():
            digest.update(values.astype("<f8").tobytes())
        return digest.hexdigest()

    def values(self, column: str) -> np.ndarray:
        """The accuracies of a column (n,), in percent, in the order of `archs`. Raises DataError."""
        if column not in self._accuracies:
            raise DataError(
                f"the table has the columns {', '.join(self.columns)}, but not {column!r}"
                f"{nearest(column, self.columns)}; name one of them"
            )
        return self._accuracies[column]

    def lookup(self, cell: Genotype | str) -> GroundTruth:
        """Look up a cell: all that the table has on it. Raises DataError as `arch`."""
        arch = self.arch(cell)
        index = self._index[arch]
        return GroundTruth(index, arch, {name: float(values[index]) for name, values in self._accuracies.items()})

    def optimum(self, column: str) -> GroundTruth:
        """The best cell by a column; the first of several. Raises DataError as `values`."""
        return self.lookup(self.archs[int(np.argmax(self.values(column)))])

    def regret(self, cell: Genotype | str, column: str) -> float:
        """Return by how many percentage points a cell stays below the best by a column. Raises DataError."""
        return self.optimum(column).accuracy[column] - self.lookup(cell).accuracy[column]

    def rank(self, cell: Genotype | str, column: str) -> int:
        """Return the place of a cell by a column, from 1; equal accuracies share the best. Raises DataError."""
        return 1 + int((self.values(column) > self.lookup(cell).accuracy[column]).sum())

    def percentile(self, cell: Genotype | str, column: str) -> float:
        """Return the share of the cells, in percent, that a cell exceeds by a column. Raises DataError."""
        return 100 * float((self.values(column) < self.lookup(cell).accuracy[column]).mean())

    def save(self, path: str | Path) -> None:
        """Write the CSV file that `load` reads; compressed if the name ends in .gz. Raises RunError."""
        path = Path(path)
        out = io.StringIO()
        out.write(self._preface())
        writer = csv.writer(out, lineterminator="\n")
        own = self._own_columns()
        writer.writerow(["index", "arch", *own, *self.columns])
        values = [*own.values(), *(self._accuracies[column].tolist() for column in self.columns)]
        for place, (index, arch) in enumerate(zip(self._numbers(), self.archs)):
            writer.writerow([index, arch, *(column[place] for column in values)])
        raw = out.getvalue().encode()
        with files.guarded(path):
            files.write_out(path, gzip.compress(raw, mtime=0) if path.suffix == ".gz" else raw)

    def _own_columns(self) -> Mapping[str, Sequence[int]]:
        """Columns before those of accuracies."""
        return {}

    def _numbers(self) -> Sequence[int]:
        """Numbers of the cells."""
        return range(len(self.archs))

    def _preface(self) -> str:
        """What stands before the header."""
        return ""


def ground_truth_results(
    table: AccuracyTable, column: str, genotype: Genotype, records: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the content of results.json of a run that ends with a look-up.

    Args:
        table: the true accuracies.
        column: of the table.
        genotype: the derived cell.
        records: the rows of metrics.jsonl; those of the search say which cell each epoch would have derived.

    Returns `ground_truth` with the column, the cell's string, its accuracy, its regret and the accuracy of the best
    cell, and `trajectory` with the stage, the epoch (from 0 in each stage), the string and the accuracy of each
    epoch's cell.
    """
    found = table.lookup(genotype)
    trajectory = []
    for record in records:
        if record.get("phase") == "search":
            then = {"format": 1, "space": genotype.space, "cells": record.get("derived")}
            cell = table.lookup(Genotype.from_dict(then | {"skeleton": genotype.skeleton}))
            where = {"stage": record.get("stage"), "epoch": record.get("epoch")}
            trajectory.append({**where, "arch": cell.arch, "accuracy": cell.accuracy[column]})
    ground_truth = {
        "column": column,
        "accuracy": found.accuracy[column],
        "regret": table.regret(genotype, column),
        "optimum": table.optimum(column).accuracy[column],
        "arch": found.arch,
    }
    return {"ground_truth": ground_truth, "trajectory": trajectory}


def table_text(path: Path) -> str:
    """The text of a file, unpacked if it is gzip. Raises DataError."""
    try:
        with path.open("rb") as file:
            packed = file.peek(2)[:2] == b"\x1f\x8b"
            unpacked: Any = gzip.GzipFile(fileobj=file) if packed else file
            raw = unpacked.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise unreadable(path, f"it has more than {MAX_BYTES} bytes")
        return raw.decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as fault:
        raise unreadable(path, getattr(fault, "strerror", None) or "it is damaged") from None


def unreadable(path: str | Path, reason: str) -> DataError:
    """The fault of a table that cannot be read."""
    return DataError(f"cannot read the table {str(path)[:200]!r}: {reason}; check the path")


def as_percent(text: str) -> float | None:
    """An accuracy; None where the text is no number from 0 to 100."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    return value if 0 <= value <= 100 else None
