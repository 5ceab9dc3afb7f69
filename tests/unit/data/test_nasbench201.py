"""The NAS-Bench-201 table: every cell found, every fault named, and the real figures where the file is at hand."""

import gzip
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.made_up import COLUMNS, accuracy, made_up_table

from topocell.data.nasbench201 import N_CELLS, OFFICIAL_COLUMNS, Table, official_archs
from topocell.errors import DataError, RunError
from topocell.genotype.genotype import CellGenotype, Genotype
from topocell.spaces import NASBENCH201_OPERATIONS

REAL = os.environ.get("TOPOCELL_NASBENCH201", "")
ALL_SKIP = "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|"
MIXED = "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|none~1|nor_conv_1x1~2|"


@pytest.fixture(scope="module")
def table() -> Table:
    return made_up_table()


@pytest.fixture(scope="module")
def path(table: Table, tmp_path_factory: Any) -> Path:
    path = Path(tmp_path_factory.mktemp("table") / "table.csv.gz")
    table.save(path)
    return path


@pytest.fixture(scope="module")
def lines(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode().splitlines()


def test_the_strings_are_those_of_all_cells() -> None:
    archs = list(official_archs())
    assert len(set(archs)) == len(archs) == N_CELLS == 15_625
    assert {ALL_SKIP, MIXED} <= set(archs)
    for arch in archs[::977]:
        assert Genotype.from_nasbench201(arch).to_nasbench201() == arch


@pytest.mark.parametrize("name", ["again.csv", "again.csv.gz"])
def test_a_table_is_read_as_it_was_written(table: Table, tmp_path: Path, name: str) -> None:
    table.save(tmp_path / name)
    again = Table.load(str(tmp_path / name))
    assert (again.archs, again.columns) == (table.archs, table.columns)
    for column in table.columns:
        assert np.array_equal(again.values(column), table.values(column))
    assert ((tmp_path / name).read_bytes()[:2] == b"\x1f\x8b") == name.endswith(".gz")


@given(ops=st.lists(st.sampled_from(NASBENCH201_OPERATIONS), min_size=6, max_size=6), order=st.randoms())
def test_every_way_to_name_a_cell_finds_its_row(table: Table, ops: list[str], order: random.Random) -> None:
    """As a string, as a string in another order, as a genotype, with `none` said and left out."""
    a, b, c, d, e, f = ops
    arch = f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"
    pairs = [[(a, 0)], [(b, 0), (c, 1)], [(d, 0), (e, 1), (f, 2)]]
    ground_truth = table.lookup(arch)
    assert (ground_truth.arch, table.archs[ground_truth.index]) == (arch, arch)
    assert ground_truth.accuracy == {column: accuracy(arch, column) for column in COLUMNS}
    for node in pairs:
        order.shuffle(node)
    turned = "+".join("|" + "".join(f"{op}~{p}|" for op, p in node) for node in pairs)
    said = Genotype("nasbench201", {"cell": CellGenotype(1, tuple(map(tuple, pairs)), (3,))})
    left_out = tuple(tuple(pair for pair in node if pair[0] != "none") for node in pairs)
    silent = Genotype("any name", {"cell": CellGenotype(1, left_out, (3,))})
    for cell in (turned, said, silent):
        assert table.lookup(cell) == ground_truth


def test_regret_is_the_distance_to_the_best(table: Table) -> None:
    for column in table.columns:
        best = table.optimum(column)
        values = table.values(column)
        assert best.accuracy[column] == values.max() == values[best.index]
        assert table.regret(best.arch, column) == 0
        assert table.regret(MIXED, column) == pytest.approx(values.max() - table.lookup(MIXED).accuracy[column])
        assert table.regret(MIXED, column) > 0


def test_answers_take_milliseconds(table: Table) -> None:
    start = time.perf_counter()
    for arch in table.archs[:100]:
        table.regret(arch, COLUMNS[1])
    assert (time.perf_counter() - start) / 100 < 0.01


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("|skip_connect~0|", "cells of 3 computed nodes"),
        (ALL_SKIP.replace("skip_connect~2", "sep_conv_3x3~2"), "cells of 3 computed nodes with none, skip_connect"),
        (ALL_SKIP.replace("skip_connect~2", "skip~2"), "this is none: .*must name an operation"),
        ("nonsense", "this is none: node 1 of an architecture string"),
        (Genotype.from_nasbench201("|none~0|+|none~0|skip_connect~1|"), "cells of 3 computed nodes"),
        (
            Genotype("own", dict.fromkeys(("normal", "reduce"), CellGenotype(2, ((("noise", 0),),), (2,)))),
            "this is none: .*has the cell type 'cell'",
        ),
        (
            Genotype("own", {"cell": CellGenotype(1, ((("skip_connect", 0), ("skip_connect", 0)),), (1,))}),
            "this is none: .*one operation per edge",
        ),
    ],
)
def test_other_cells_are_refused(table: Table, cell: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        table.lookup(cell)


def test_an_unknown_column_is_refused(table: Table) -> None:
    for ask in (table.values, table.optimum, lambda column: table.regret(MIXED, column)):
        with pytest.raises(DataError, match=rf"columns {', '.join(COLUMNS)}, but not 'cifar10_test_20ep' \(did you"):
            ask("cifar10_test_20ep")


# --- files that are no tables


def changed(lines: list[str], number: int, old: str, new: str) -> str:
    """The text with one replacement in a line, counted from 1."""
    edited = list(lines)
    assert old in edited[number - 1]
    edited[number - 1] = edited[number - 1].replace(old, new, 1)
    return "\n".join(edited)


def faulty(lines: list[str]) -> Iterator[tuple[str, str]]:
    first, last = COLUMNS
    second, third = (line.split(",") for line in lines[1:3])
    yield "", "its header is index, arch and different names of columns, but got ;"
    yield "index,arch\n", "different names of columns"
    yield (
        changed(lines, 1, COLUMNS[1], COLUMNS[0]),
        f"names of columns, but got index, arch, {first}, {first}",
    )
    yield changed(lines, 1, "index", "number"), "its header is index, arch"
    yield "\n".join(lines[:-1]), "15625 rows below the header, one per cell, but this has 15624"
    yield "\n".join([*lines, lines[-1]]), "but this has 15626"
    yield changed(lines, 3, third[0] + ",", "0,"), "line 3, column index: each number 0 to 15624 is there once.*'0'"
    yield changed(lines, 3, third[0] + ",", "15625,"), "line 3, column index"
    yield changed(lines, 3, third[0] + ",", "-1,"), "line 3, column index.*'-1'"
    yield changed(lines, 3, third[0] + ",", "1.0,"), "line 3, column index.*'1.0'"
    yield changed(lines, 3, third[1], second[1]), "line 3, column arch: each official string is there once"
    yield changed(lines, 3, "|+|", "+"), "line 3, column arch"
    yield (
        changed(lines, 3, third[2], "101"),
        f"line 3, column {first}: an accuracy is a number from 0 to 100, but got '101'",
    )
    yield changed(lines, 3, third[3], "nan"), f"line 3, column {last}: .*'nan'"
    yield changed(lines, 3, third[3], "high"), f"line 3, column {last}: .*'high'"
    yield changed(lines, 3, third[3], third[3] + ",5"), "line 3: each row has 4 fields, but this has 5"
    yield changed(lines, 3, third[3], '"'), "it is CSV text, but this is not"


def test_a_fault_is_named_by_row_and_column(lines: list[str], tmp_path: Path) -> None:
    path = tmp_path / "faulty.csv"
    cases = list(faulty(lines))
    assert len(cases) > 15
    for text, message in cases:
        path.write_text(text)
        with pytest.raises(DataError, match=rf"faulty.csv' is no table of NAS-Bench-201: .*{message}") as caught:
            Table.load(path)
        assert "get the file again" in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(path: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.csv.gz"
    torn.write_bytes(path.read_bytes()[:1000])
    latin = tmp_path / "latin.csv"
    latin.write_bytes(b"index,arch,\xe9\n")
    for broken in (torn, latin):
        with pytest.raises(DataError, match=rf"cannot read the table .*{broken.name}': it is damaged; check the path"):
            Table.load(broken)
    with pytest.raises(DataError, match=r"cannot read the table .*nowhere.csv': No such file"):
        Table.load(tmp_path / "nowhere.csv")


def test_a_table_that_cannot_be_written(table: Table, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nowhere"):
        table.save(tmp_path / "nowhere" / "table.csv")


# --- the official data


class Api:
    """Answers as nats_bench does, with other accuracies."""

    def __init__(self, archs: list[str]) -> None:
        self.archs = archs

    def arch(self, index: int) -> str:
        return self.archs[index]

    def get_more_info(self, index: int, dataset: str, hp: str, is_random: bool) -> dict[str, float]:
        assert hp in ("12", "200") and not is_random  # the mean over the seeds
        test = index / 1000 + int(hp) / 10 + len(dataset)
        return {"test-accuracy": test} | ({} if dataset == "cifar10" else {"valid-accuracy": test / 2})


def test_the_official_data(table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def create(path: str, space: str, fast_mode: bool, verbose: bool) -> Api:
        opened.append((path, space, fast_mode, verbose))
        return Api(table.archs)

    monkeypatch.setitem(sys.modules, "nats_bench", SimpleNamespace(create=create))
    packed = tmp_path / "NATS-tss.pickle.pbz2"
    for place in (tmp_path, packed):
        found = Table.load(place)
        assert (found.archs, found.columns) == (table.archs, tuple(OFFICIAL_COLUMNS))
        assert found.values("cifar10_test_200ep")[7] == 7 / 1000 + 20 + len("cifar10")
        assert found.values("imagenet16_val_12ep")[7] == (7 / 1000 + 1.2 + len("ImageNet16-120")) / 2
    assert opened == [(str(tmp_path), "tss", True, False), (str(packed), "tss", False, False)]


def test_official_data_without_its_package_or_that_it_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nats_bench", None)
    with pytest.raises(DataError, match=r"not installed; install it with: pip install nats-bench, or give a CSV"):
        Table.load(tmp_path)

    def create(*_: Any, **__: Any) -> None:
        raise ValueError("no\nmeta file")

    monkeypatch.setitem(sys.modules, "nats_bench", SimpleNamespace(create=create))
    with pytest.raises(DataError, match=r"cannot read .* \(ValueError: no meta file\); check the path"):
        Table.load(tmp_path)


# --- the benchmark itself


@pytest.mark.skipif(not REAL, reason="TOPOCELL_NASBENCH201 names no table of NAS-Bench-201")
def test_the_published_figures() -> None:
    """The best cell, the all-skip cell that DARTS ends in, and the best cell after 12 epochs."""
    real = Table.load(REAL)
    best = real.optimum("cifar10_test_200ep")
    assert best.accuracy["cifar10_test_200ep"] == pytest.approx(94.3733, abs=1e-4)
    early = real.optimum("cifar10_test_12ep")
    assert (early.index, early.accuracy["cifar10_test_12ep"]) == (5374, pytest.approx(89.16))
    assert real.lookup(ALL_SKIP).accuracy["cifar10_test_200ep"] == pytest.approx(54.30, abs=0.01)
    assert real.regret(ALL_SKIP, "cifar10_test_200ep") == pytest.approx(94.3733 - 54.30, abs=0.01)
