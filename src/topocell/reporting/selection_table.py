"""The table of the report on a selection that is work of its own: decisions of a projection, or the best trials."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from topocell.reporting.tables import is_number

#: Trials that are shown.
SHOWN = 10


def selection_table(metrics: Iterable[Mapping[str, Any]], shown: Callable[[Any], str]) -> list[list[str]]:
    """Rows of texts, the header first; empty where the metrics have neither decisions nor trials.

    Args:
        metrics: the rows of metrics.jsonl. Those of phase `select` have all their fields as columns.
        shown: a value as a text.
    """
    rows = [*metrics]
    decisions = [{k: v for k, v in row.items() if k != "phase"} for row in rows if row.get("phase") == "select"]
    columns = list(dict.fromkeys(key for row in decisions for key in row))
    if columns:
        return [columns, *([shown(row.get(column, "")) for column in columns] for row in decisions)]
    trials = [row for row in rows if row.get("phase") == "trial"]
    ranked = sorted(trials, key=lambda row: (not row.get("final"), -_score(row)))
    table = [[_number(row), _words(row.get("score")), _kind(row), shown(row.get("key"))] for row in ranked]
    return [[f"best of {len(trials)} trials", "score", "judged", "cell"], *table[:SHOWN]] if trials else []


def _score(row: Mapping[str, Any]) -> float:
    score = row.get("score")
    return float(score) if is_number(score) else -math.inf


def _number(row: Mapping[str, Any]) -> str:
    """Its number from 1, as it was shown."""
    return str(row["trial"] + 1) if isinstance(row.get("trial"), int) else "—"


def _words(score: Any) -> str:
    return f"{score:.6g}" if is_number(score) else "—"


def _kind(row: Mapping[str, Any]) -> str:
    return "as finalist" if row.get("final") else "as trial"
