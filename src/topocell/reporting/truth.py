"""What the report and the terminal say of a run that ends in a table of true accuracies in place of retraining.

Accuracies of tables are in percent and regrets in percentage points, as in results.json.
"""

from collections.abc import Mapping
from typing import Any

from topocell.reporting.tables import is_number


def truth_of(results: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a results.json that holds the true accuracy; empty where it holds none."""
    truth = results.get("truth")
    return truth if isinstance(truth, Mapping) and is_number(truth.get("accuracy")) else {}


def truth_lines(truth: Mapping[str, Any]) -> list[str]:
    """The true accuracy in words, for the terminal."""
    return [
        f"true accuracy: {_percent(truth, 'accuracy')} ({truth.get('column', '—')}), {_regret(truth)}",
        f"cell: {truth.get('arch', '—')}",
    ]


def truth_headline(truth: Mapping[str, Any]) -> dict[str, str]:
    """The headline of the report, in the fields of its template."""
    return {"title": "True accuracy", "last": _percent(truth, "accuracy"), "n": _regret(truth), "best": "—"}


def truth_facts(truth: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Labels and values for the report."""
    return [
        ("Regret", f"{_number(truth, 'regret')} points"),
        ("Best cell", _percent(truth, "optimum")),
        ("Column", str(truth.get("column", "—"))),
        ("Architecture", str(truth.get("arch", "—"))),
    ]


def truth_notes(truth: Mapping[str, Any]) -> list[str]:
    """What a reader must know of these numbers."""
    return [
        "The cell was looked up in a table of networks that others have trained; nothing was retrained in this run. "
        "The search and the selection of the cell see neither the table nor the test split.",
        f"The column is {truth.get('column', '—')}. The regret is the distance to the best cell of the table in that "
        f"column, {_percent(truth, 'optimum')}, in percentage points.",
        "One search is one sample: searches with other seeds find other cells, and this report says nothing of how "
        "much those differ.",
    ]


def _number(truth: Mapping[str, Any], key: str) -> str:
    value = truth.get(key)
    return f"{value:.2f}" if is_number(value) else "—"


def _percent(truth: Mapping[str, Any], key: str) -> str:
    return f"{_number(truth, key)} %"


def _regret(truth: Mapping[str, Any]) -> str:
    return f"{_number(truth, 'regret')} points below the best cell ({_percent(truth, 'optimum')})"
