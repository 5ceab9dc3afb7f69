"""The table of space topology-bench: every cell found under any numbering, its questions, and files that are none."""

import gzip
import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from topocell import spaces
from topocell.data.benchmarks import BENCHMARKS
from topocell.data.topology_bench import N_CELLS, TopologyBench, different_cells, holds
from topocell.errors import DataError
from topocell.genotype.genotype import CellGenotype, Genotype
from topocell.topology import Subsets

SPACE = spaces.get("topology-bench")
CELL = SPACE.cells["normal"]


def cell_of(nodes: Any, concat: tuple[int, ...] = (2, 3, 4)) -> Genotype:
    return Genotype(SPACE.name, {"normal": CellGenotype(2, nodes, concat)}, skeleton=SPACE.skeleton)


def every_cell() -> list[Genotype]:
    """All cells by brute force over the edges: absent, or one of the candidates; no node without an input."""
    found = []
    for pick in itertools.product(*((None, *names) for names in CELL.candidates)):
        nodes: dict[int, list[tuple[str, int]]] = {node: [] for node in CELL.computed}
        for (source, node), op in zip(CELL.edges, pick):
            if op is not None:
                nodes[node].append((op, source))
        if all(nodes.values()):
            found.append(cell_of(tuple(map(tuple, nodes.values()))))
    return found


@pytest.fixture(scope="module")
def table() -> TopologyBench:
    draw = random.Random(0)
    columns = {
        name: np.array([round(draw.uniform(30, 50), 4) for _ in range(N_CELLS)]) for name in ("test_0", "test_1")
    }
    columns = {"test": (columns["test_0"] + columns["test_1"]) / 2, "val": columns["test_0"], **columns}
    return TopologyBench(list(different_cells()), columns, list(range(1000, 1000 + N_CELLS)), {"recipe": {"name": "x"}})


def test_the_cells_are_all_of_the_space_up_to_the_names_of_nodes() -> None:
    cells = every_cell()
    assert len(cells) == 1155 and len({cell.key for cell in cells}) == N_CELLS == len(different_cells())
    assert {cell.key for cell in different_cells().values()} == {cell.key for cell in cells}
    wirings = {tuple(tuple(p for _, p in node) for node in cell.cells["normal"].nodes) for cell in cells}
    assert len(wirings) == Subsets(CELL, view="target", sizes="any").n_valid == 3 * 7 * 15


def test_a_cell_is_found_under_any_numbering_of_its_nodes(table: TopologyBench) -> None:
    sep, skip = "sep_conv_3x3", "skip_connect"
    one = cell_of((((skip, 0),), ((skip, 1),), ((sep, 2), (skip, 3))))
    other = cell_of((((skip, 1),), ((skip, 0),), ((skip, 2), (sep, 3))))
    assert table.lookup(one) == table.lookup(other) == table.lookup(table.arch(one))
    assert all(table.arch(cell) in different_cells() for cell in every_cell()[::50])
    assert [table.arch(cell) for cell in table.cells()[::50]] == table.archs[::50]


def test_questions_are_answered_as_by_sorting(table: TopologyBench) -> None:
    values = table.values("test")
    order = sorted(range(N_CELLS), key=lambda at: -values[at])
    best, tenth = table.archs[order[0]], table.archs[order[9]]
    assert table.optimum("test").arch == best and (table.rank(best, "test"), table.rank(tenth, "test")) == (1, 10)
    assert table.percentile(tenth, "test") == pytest.approx(100 * (N_CELLS - 10) / N_CELLS)
    assert table.regret(tenth, "test") == pytest.approx(values[order[0]] - values[order[9]])
    assert table.seeds(best) == [table.lookup(best).accuracy[f"test_{seed}"] for seed in (0, 1)]
    assert table.parameters[best] == 1000 + order[0] and table.complete


def test_a_table_is_read_as_it_was_written_and_a_part_says_that_it_is_one(table: TopologyBench, tmp_path: Path) -> None:
    table.save(tmp_path / "whole.csv.gz")
    again = TopologyBench.load(tmp_path / "whole.csv.gz")
    assert (again.archs, again.columns, again.parameters) == (table.archs, table.columns, table.parameters)
    assert again.fingerprint == table.fingerprint and again.made == table.made
    some = table.archs[3:5]
    columns = {name: table.values(name)[3:5] for name in table.columns}
    TopologyBench(some, columns, [1, 2]).save(tmp_path / "part.csv")
    part = TopologyBench.load(tmp_path / "part.csv")
    assert part.archs == some and not part.complete
    with pytest.raises(DataError, match="2 of 850 cells, and not yet"):
        part.lookup(table.archs[0])


@pytest.mark.parametrize(
    ("genotype", "message"),
    [
        (cell_of((((("sep_conv_3x3"), 0),),) * 3), "search in that space"),
        (cell_of(((("skip_connect", 0),),) * 2, (2, 3)), "search in that space"),
        (cell_of(((("skip_connect", 0),),) * 3, (2, 4)), "its output is all of its nodes"),
        (Genotype.from_nasbench201("|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"), "one cell type, normal"),
        ("skip_connect", "a node is"),
    ],
)
def test_other_cells_are_refused(table: TopologyBench, genotype: Genotype | str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        table.lookup(genotype)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[1:], "it is a comment in JSON and CSV text|begins with a comment"),
        (lambda lines: [lines[0], lines[1].replace("val", "dev"), *lines[2:]], "begins with a comment"),
        (lambda lines: [*lines, lines[2]], "each cell is there once"),
        (lambda lines: [*lines[:2], lines[2].replace("1000", "-1"), *lines[3:]], "parameters are a whole number"),
        (lambda lines: [*lines[:2], lines[2] + ",1", *lines[3:]], "line 3: each row has 7 fields"),
        (lambda lines: [*lines[:2], lines[2][: lines[2].rindex(",")] + ",101", *lines[3:]], "a number from 0 to 100"),
        (lambda lines: lines[:-1], "its checksum is not that of its rows"),
        (lambda lines: lines[:2], "a row for each cell"),
    ],
)
def test_files_that_are_no_table(table: TopologyBench, tmp_path: Path, change: Any, message: str) -> None:
    table.save(tmp_path / "table.csv.gz")
    lines = gzip.decompress((tmp_path / "table.csv.gz").read_bytes()).decode().splitlines()
    (tmp_path / "bad.csv").write_text("\n".join(change(lines)) + "\n")
    with pytest.raises(DataError, match=message):
        TopologyBench.load(tmp_path / "bad.csv")


def test_each_benchmark_holds_its_own_space() -> None:
    for benchmark in BENCHMARKS:
        held = [other.space for other in BENCHMARKS if benchmark.holds(spaces.get(other.space))]
        assert held == [benchmark.space]
    assert holds(SPACE) and not holds(spaces.get("darts"))
    assert json.dumps([benchmark.cells for benchmark in BENCHMARKS]) == "[15625, 850]"
