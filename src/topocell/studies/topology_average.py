"""TopoNAS, Figure 1: the effect of the wiring alone, from the ground truth of NAS-Bench-201."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from topocell.data.nasbench201 import Table
from topocell.errors import DataError
from topocell.genotype.formats import parse_nasbench201
from topocell.runs import setup
from topocell.runtime.provenance import environment
from topocell.studies import _plots
from topocell.studies._items import Bench, Outcome
from topocell.studies._options import Entries, Options

Wiring = tuple[tuple[int, int], ...]


#: The panels of the figure: name, the column of the paper, and the one that stands in for it.
PANELS = (
    ("CIFAR-10", "cifar10_test_200ep", "cifar10_test_12ep"),
    ("ImageNet16-120", "imagenet16_test_200ep", "imagenet16_test_12ep"),
)


class TopologyAverage(Options):
    """Options of `topology-average`."""

    table: str | None = Field(
        None, description=f"NAS-Bench-201 table, CSV or CSV.gz; unset: that of {setup.GROUND_TRUTH_VARIABLE}"
    )
    columns: Entries | None = Field(
        None,
        description="columns of accuracies in percent, a panel each; unset: cifar10_test_200ep and "
        "imagenet16_test_200ep, or those after 12 epochs where the table has no others",
    )


def measure(bench: Bench, options: TopologyAverage) -> Outcome:
    """Average, for each wiring of the NAS-Bench-201 cell, the accuracy over all operations on the edges it has.

    An edge that is absent is `none`; a wiring of k edges averages 4^k architectures. TopoNAS' point: the best wirings
    of four and of five edges are better than that of all six.

    Raises:
        DataError: no table is named, or it cannot be read; it has none of the columns.
    """
    path = options.table or os.environ.get(setup.GROUND_TRUTH_VARIABLE)
    if not path:
        raise DataError(
            f"topology-average reads a table of NAS-Bench-201, but none is named; give table=PATH or set "
            f"{setup.GROUND_TRUTH_VARIABLE}"
        )
    table = Table.load(path)
    columns, missing = chosen(table.columns) if options.columns is None else (options.columns, [])
    values = {column: table.values(column).tolist() for column in columns or (PANELS[0][1],)}
    bench.begin(len(values), {"table": table.fingerprint}, environment("cpu", table.fingerprint, {}))
    found = {
        column: bench.item(f"averages-{column}", lambda own: {"wirings": averages(table.archs, own)}, own)["wirings"]
        for column, own in values.items()
    }
    first = next(iter(found.values()))
    order = sorted(range(len(first)), key=lambda i: (-first[i]["edges"], -first[i]["accuracy %"]))
    means = {column: [of[i]["accuracy %"] for i in order] for column, of in found.items()}
    shapes = [{key: value for key, value in first[i].items() if key != "accuracy %"} for i in order]
    best: dict[str, dict[int, float]] = {column: {} for column in found}
    for column, own in means.items():
        for shape, mean in zip(shapes, own):
            best[column][shape["edges"]] = max(mean, best[column].get(shape["edges"], mean))
    panels = {
        f"mean {column}, %": [(shape["edges"], mean) for shape, mean in zip(shapes, own) if shape["output reached"]]
        for column, own in means.items()
    }
    return Outcome(
        [shape | {f"{column} %": own[i] for column, own in means.items()} for i, shape in enumerate(shapes)],
        lambda place: _plots.steps(panels, "edges of the wiring", place),
        len(table.archs),
        {"best mean by edges": best},
        [*(_in_words(column, of) for column, of in best.items()), LEFT_OUT, *missing],
    )


LEFT_OUT = "The figure leaves out wirings that do not reach the output."


def chosen(columns: Sequence[str]) -> tuple[list[str], list[str]]:
    """The columns of a table to average unless others are named, and sentences on those that it lacks."""
    found, missing = [], []
    for name, wanted, other in PANELS:
        if wanted in columns:
            found.append(wanted)
        elif other in columns:
            found.append(other)
            missing.append(
                f"The table has no column {wanted}: {other} is taken, accuracies after 12 epochs of training."
            )
        else:
            missing.append(f"The table has no column of {name}: its panel is left out.")
    return found, missing


def _in_words(column: str, best: Mapping[int, float]) -> str:
    words = ", ".join(f"{mean:.2f} % with {edges}" for edges, mean in best.items())
    return f"Best wiring by its number of edges, {column}: {words}."


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
