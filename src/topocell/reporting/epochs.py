"""The rows of metrics.jsonl by epoch, as figures, reports and histories read them.

Rows are dicts as a file has them, so that nothing is taken for granted: what is missing, null or not finite is NaN.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from topocell.reporting.tables import is_number

Row = Mapping[str, Any]


class Epoch(NamedTuple):
    """One search epoch: its number through all stages, its stage's name, and its row."""

    number: int
    stage: str
    row: Row


def search_epochs(metrics: Iterable[Row]) -> list[Epoch]:
    """The search rows in order of stage and epoch, numbered from 1 through all stages.

    A row that repeats an epoch (a resumed run) replaces the earlier one.
    """
    found: dict[tuple[int, int], Row] = {}
    for row in metrics:
        if row.get("phase") == "search" and is_index(row.get("stage_index")) and is_index(row.get("epoch")):
            found[row["stage_index"], row["epoch"]] = row
    last: dict[int, int] = {}
    for stage, epoch in found:
        last[stage] = max(last.get(stage, 0), epoch)
    before = {stage: sum(last[s] + 1 for s in last if s < stage) for stage in last}
    return [
        Epoch(before[stage] + epoch + 1, str(found[stage, epoch].get("stage", stage)), found[stage, epoch])
        for stage, epoch in sorted(found)
    ]


def retrain_epochs(metrics: Iterable[Row]) -> dict[int, list[Row]]:
    """The rows of a retraining by seed, each in order of its epochs; seeds in order."""
    seeds: dict[int, dict[int, Row]] = {}
    for row in metrics:
        if row.get("phase") == "retrain" and is_index(row.get("seed")) and is_index(row.get("epoch")):
            seeds.setdefault(row["seed"], {})[row["epoch"]] = row
    return {seed: [seeds[seed][epoch] for epoch in sorted(seeds[seed])] for seed in sorted(seeds)}


def number_at(row: Row, *keys: str, scale: float = 1.0) -> float:
    """`scale` times the number at a path of keys; nan if it is missing or no number."""
    value: Any = row
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return scale * value if is_number(value) else math.nan


def is_index(value: object) -> bool:
    """Return whether a value is the number of an epoch, a stage or a seed that a figure can show."""
    return is_number(value) and isinstance(value, int) and value >= 0
