"""Tables of true accuracies by the space whose cells they hold."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from topocell.data import nasbench201, topology_bench
from topocell.data.accuracy_table import AccuracyTable
from topocell.spaces.cell import SpaceSpec

#: The environment variable that names a table of NAS-Bench-201.
NASBENCH201 = "TOPOCELL_NASBENCH201"


@dataclass(frozen=True)
class Benchmark:
    """A table that users may have.

    Args:
        space: name of the space.
        holds: whether every cell that can be derived in a space is in the table.
        load: reads the file. Raises DataError.
        variable: environment variable that may name it.
        cells, columns: how many different cells it has when it is complete, and what accuracies.
        source: where to get it.
        shipped: the file that comes with topocell; None if there is none.
    """

    space: str
    holds: Callable[[SpaceSpec], bool]
    load: Callable[[str | Path], AccuracyTable]
    variable: str
    cells: int
    columns: str
    source: str
    shipped: Path | None = None

    @property
    def path(self) -> str | None:
        """The file that the environment names, or else the one that comes with topocell."""
        return os.environ.get(self.variable) or (None if self.shipped is None else str(self.shipped))


BENCHMARKS = (
    Benchmark(
        "nasbench201",
        nasbench201.holds,
        nasbench201.Table.load,
        NASBENCH201,
        nasbench201.N_CELLS,
        ", ".join(nasbench201.OFFICIAL_COLUMNS),
        "the official data of NATS-Bench (tss), read through the package nats_bench and saved as CSV once",
    ),
    Benchmark(
        "topology-bench",
        topology_bench.holds,
        topology_bench.TopologyBench.load,
        "TOPOCELL_TOPOLOGY_BENCH",
        topology_bench.N_CELLS,
        "test, val, and test_SEED, val_SEED of each training",
        "it comes with topocell; topocell study topology-bench trains the cells and writes another",
        topology_bench.SHIPPED,
    ),
)
