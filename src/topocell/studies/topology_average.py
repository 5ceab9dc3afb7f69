"""TopoNAS, Figure 1: the effect of the wiring alone, from the ground truth of NAS-Bench-201."""

import os
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from topocell.data.nasbench201 import Table
from topocell.errors import DataError
from topocell.genotype.formats import parse_nasbench201
from topocell.runs import setup
from topocell.runtime.provenance import environment
from topocell.studies import _plots
from topocell.studies._items import Bench, Outcome
from topocell.studies._options import Options

Wiring = tuple[tuple[int, int], ...]


class TopologyAverage(Options):
    """Options of `topology-average`."""

    table: str | None = Field(
        None, description=f"NAS-Bench-201 table, CSV or CSV.gz; unset: that of {setup.GROUND_TRUTH_VARIABLE}"
    )
    column: str = Field("cifar10_test_200ep", description="column of accuracies in percent")


def measure(bench: Bench, options: TopologyAverage) -> Outcome:
    """Average, for each wiring of the NAS-Bench-201 cell, the accuracy over all operations on the edges it has.

    An edge that is absent is `none`; a wiring of k edges averages 4^k architectures. TopoNAS' point: the best wirings
    of four and of five edges are better than that of all six.

    Raises:
        DataError: no table is named, or it cannot be read.
    """
    path = options.table or os.environ.get(setup.GROUND_TRUTH_VARIABLE)
    if not path:
        raise DataError(
            f"topology-average reads a table of NAS-Bench-201, but none is named; give table=PATH or set "
            f"{setup.GROUND_TRUTH_VARIABLE}"
        )
    table = Table.load(path)
    values = table.values(options.column)
    bench.begin(1, {"table": table.fingerprint}, environment("cpu", table.fingerprint, {}))
    found = bench.item("averages", lambda: {"wirings": averages(table.archs, values.tolist())})["wirings"]
    rows = sorted(found, key=lambda row: (-row["edges"], -row["accuracy %"]))
    best: dict[int, float] = {}
    for row in rows:  # the best wiring of each number of edges comes first
        best.setdefault(row["edges"], row["accuracy %"])
    words = ", ".join(f"{best[edges]:.2f} % with {edges}" for edges in best)
    reached = [(row["edges"], row["accuracy %"]) for row in rows if row["output reached"]]
    return Outcome(
        rows,
        lambda place: _plots.steps(reached, "edges of the wiring", f"mean {options.column}, %", place),
        len(table.archs),
        {"best mean by edges": best},
        [f"Best wiring by its number of edges: {words}. The figure leaves out wirings that do not reach the output."],
    )


def averages(archs: Sequence[str], accuracy: Sequence[float]) -> list[dict[str, Any]]:
    """Mean accuracy of every wiring that occurs among architecture strings.

    Rows have `wiring` (in words), `edges`, `architectures` (how many were averaged), `output reached` (whether a
    path leads from the input to the output) and `accuracy %`.
    """
    by_wiring: defaultdict[Wiring, list[float]] = defaultdict(list)
    for arch, value in zip(archs, accuracy, strict=True):
        nodes = parse_nasbench201(arch)
        edges = [(p, n) for n, pairs in enumerate(nodes, start=1) for op, p in pairs if op != "none"]
        by_wiring[tuple(sorted(edges))].append(value)
    last = len(parse_nasbench201(archs[0]))
    return [
        {
            "wiring": " ".join(f"{p}→{n}" for p, n in wiring) or "no edge",
            "edges": len(wiring),
            "architectures": len(found),
            "output reached": last in _reached(wiring),
            "accuracy %": sum(found) / len(found),
        }
        for wiring, found in by_wiring.items()
    ]


def _reached(wiring: Wiring) -> set[int]:
    """Nodes that a path leads to from node 0; edges in order of their destination need one pass."""
    reached = {0}
    for source, node in sorted(wiring, key=lambda edge: edge[1]):
        if source in reached:
            reached.add(node)
    return reached
