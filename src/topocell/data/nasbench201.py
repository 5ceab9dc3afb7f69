"""NAS-Bench-201 as a table: the accuracy that each of its 15,625 cells reaches when it is trained.

A table is a CSV file, plain or compressed with gzip, with one row per cell:

    index   the official number of the cell, 0 to 15,624
    arch    its official string, |op~0|+|op~0|op~1|+|op~0|op~1|op~2|
    ...     any number of columns of accuracies, in percent

Accuracies are in percent, regrets in percentage points, as in the benchmark's own tables.
"""

import csv
import importlib
import io
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from topocell.data.accuracy_table import AccuracyTable, as_percent, table_text, unreadable
from topocell.errors import DataError, GenotypeError
from topocell.genotype.genotype import Genotype
from topocell.io import files
from topocell.spaces.cell import SpaceSpec
from topocell.spaces.nasbench201 import NASBENCH201_OPERATIONS, nasbench201

#: Column → (data set, epochs, measure) in the official data: what each column of our tables holds.
OFFICIAL_COLUMNS: Mapping[str, tuple[str, int, str]] = {
    "cifar10_test_12ep": ("cifar10", 12, "test-accuracy"),
    "cifar10_val_12ep": ("cifar10-valid", 12, "valid-accuracy"),
    "cifar100_test_12ep": ("cifar100", 12, "test-accuracy"),
    "cifar100_val_12ep": ("cifar100", 12, "valid-accuracy"),
    "imagenet16_test_12ep": ("ImageNet16-120", 12, "test-accuracy"),
    "imagenet16_val_12ep": ("ImageNet16-120", 12, "valid-accuracy"),
    "cifar10_test_200ep": ("cifar10", 200, "test-accuracy"),
    "cifar100_test_200ep": ("cifar100", 200, "test-accuracy"),
    "imagenet16_test_200ep": ("ImageNet16-120", 200, "test-accuracy"),
}
_CELL = nasbench201().cells["cell"]
N_NODES, N_EDGES = _CELL.nodes, _CELL.n_edges
N_CELLS = len(NASBENCH201_OPERATIONS) ** N_EDGES


class Table(AccuracyTable):
    """The accuracies of all 15,625 cells, in the order of their official numbers; see `AccuracyTable`."""

    title = "NAS-Bench-201"

    @classmethod
    def load(cls, path: str | Path) -> "Table":
        """Read a CSV file (.csv or .csv.gz), or the official data through the package `nats_bench`.

        A folder, or a file that ends in .pbz2, is taken for the official data (`NATS-tss-v1_0-3ffb9-simple`).
        Reading it takes minutes: `save` the table once and load that. The official files are pickles, which can
        run code: use those of the benchmark's authors only. This way is tested with a stand-in for the package
        alone, since its files are too large to come with a test.

        Raises:
            DataError: there is no such file, it is no such table, naming row and column, or `nats_bench` is
                missing.
        """
        try:
            path = files.existing(path)
        except OSError as fault:
            raise unreadable(path, files.reason(fault)) from None
        if path.is_dir() or path.suffix == ".pbz2":
            return _official(path)
        return _parse(path, table_text(path))

    def arch(self, cell: Genotype | str) -> str:
        """The official string of a genotype, or of a string with its operations in another order.

        An edge that the genotype does not have is `none`.

        Raises:
            DataError: the cell is none of NAS-Bench-201's.
        """
        try:
            genotype = Genotype.from_nasbench201(cell) if isinstance(cell, str) else cell
            arch = genotype.to_nasbench201()
        except GenotypeError as fault:
            raise DataError(f"the table holds cells of NAS-Bench-201, and this is none: {fault}") from None
        if arch not in self._index:
            raise DataError(
                f"the table holds cells of {N_NODES} computed nodes with {', '.join(NASBENCH201_OPERATIONS)}, but got "
                f"{arch!r}; search in space nasbench201"
            )
        return arch


def holds(space: SpaceSpec) -> bool:
    """Return whether every cell that can be derived in a space is in the tables: NAS-Bench-201 or a part of it."""
    cell = space.cells.get("cell")
    if cell is None or (cell.inputs, cell.nodes, cell.output) != (_CELL.inputs, _CELL.nodes, _CELL.output):
        return False
    return {op for ops in cell.candidates for op in ops} <= set(NASBENCH201_OPERATIONS)


def official_archs() -> Iterator[str]:
    """The strings of all 15,625 cells, in an order of our own (the official numbers follow no rule)."""
    for ops in itertools.product(NASBENCH201_OPERATIONS, repeat=N_EDGES):
        a, b, c, d, e, f = ops
        yield f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"


def _parse(path: Path, text: str) -> Table:
    try:
        header, *rows = [*csv.reader(io.StringIO(text), strict=True)] or [[]]
    except csv.Error as fault:
        raise _fault(path, f"it is CSV text, but this is not ({fault})") from None
    columns = header[2:]
    if header[:2] != ["index", "arch"] or not columns or len(set(columns)) != len(columns):
        raise _fault(
            path, f"its header is index, arch and different names of columns, but got {', '.join(header)[:200]}"
        )
    if len(rows) != N_CELLS:
        raise _fault(path, f"it has {N_CELLS} rows below the header, one per cell, but this has {len(rows)}")
    unseen = set(official_archs())
    archs = [""] * N_CELLS
    accuracies = np.empty((N_CELLS, len(columns)))
    for number, row in enumerate(rows, start=2):
        where = f"line {number}"
        if len(row) != len(header):
            raise _fault(path, f"{where}: each row has {len(header)} fields, but this has {len(row)}")
        index = int(row[0]) if row[0].isascii() and row[0].isdecimal() and len(row[0]) < 9 else -1
        if not 0 <= index < N_CELLS or archs[index]:
            raise _fault(
                path, f"{where}, column index: each number 0 to {N_CELLS - 1} is there once, but got {row[0]!r}"
            )
        if row[1] not in unseen:
            raise _fault(path, f"{where}, column arch: each official string is there once, but got {row[1][:120]!r}")
        unseen.remove(row[1])
        archs[index] = row[1]
        accuracies[index] = [_percent(path, where, *field) for field in zip(columns, row[2:])]
    return Table(archs, {name: accuracies[:, k].copy() for k, name in enumerate(columns)})


def _percent(path: Path, where: str, column: str, text: str) -> float:
    value = as_percent(text)
    if value is None:
        raise _fault(path, f"{where}, column {column}: an accuracy is a number from 0 to 100, but got {text[:40]!r}")
    return value


def _fault(path: Path, rule: str) -> DataError:
    return DataError(f"{str(path)!r} is no table of NAS-Bench-201: {rule}; get the file again")


def _official(path: Path) -> Table:
    """The official topology data (NATS-Bench tss), averaged over the seeds that each cell was trained with."""
    try:
        nats_bench: Any = importlib.import_module("nats_bench")
    except ImportError:
        raise DataError(
            f"the official data in {str(path)!r} is read by the package nats_bench, which is not installed; "
            f"install it with: pip install nats-bench, or give a CSV file"
        ) from None
    try:
        api = nats_bench.create(str(path), "tss", fast_mode=path.is_dir(), verbose=False)
        archs = [str(api.arch(index)) for index in range(N_CELLS)]
        accuracies = {
            column: np.array(
                [api.get_more_info(index, data, hp=str(epochs), is_random=False)[measure] for index in range(N_CELLS)],
                dtype=np.float64,
            )
            for column, (data, epochs, measure) in OFFICIAL_COLUMNS.items()
        }
    except Exception as fault:  # what a foreign package raises on files that it cannot read is its own affair
        reason = " ".join(f"{type(fault).__name__}: {fault}".split())[:200]
        raise DataError(
            f"nats_bench cannot read the official data in {str(path)!r} ({reason}); check the path"
        ) from None
    return Table(archs, accuracies)
