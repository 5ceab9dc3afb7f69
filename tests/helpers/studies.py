"""What tests of studies share: they read what a study leaves, and do without reports of its runs."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from topocell.runs import setup


@pytest.fixture(scope="module", autouse=True)
def without_reports() -> Iterator[None]:
    """Drawing a run's report takes longer than the run, and is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("topocell.runs.run.write_report", lambda path: path / "report.html")
        patch.delenv(setup.GROUND_TRUTH_VARIABLE, raising=False)
        yield


def rows_of(folder: Path) -> list[dict[str, str]]:
    """The rows of a study's table."""
    with (folder / "table.csv").open() as file:
        return list(csv.DictReader(file))


def names_of(folder: Path) -> list[str]:
    """Names of finished items, in the order in which they were finished."""
    return [item["item"] for item in _items(folder)]


def items_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Finished items by name."""
    return {item["item"]: item for item in _items(folder)}


def _items(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
