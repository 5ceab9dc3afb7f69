"""Words and figures of the report and the terminal for a run that ends in a table of true accuracies.

Accuracies of tables are in percent and regrets in percentage points, as in results.json.
"""

from collections.abc import Mapping
from typing import Any

from topocell.reporting.tables import is_number


def ground_truth_of(results: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a results.json that holds the true accuracy; empty where it holds none."""
    ground_truth = results.get("ground_truth")
    return ground_truth if isinstance(ground_truth, Mapping) and is_number(ground_truth.get("accuracy")) else {}


def ground_truth_lines(ground_truth: Mapping[str, Any]) -> list[str]:
    """The true accuracy in words, for the terminal."""
    accuracy, column = _percent(ground_truth, "accuracy"), ground_truth.get("column", "—")
    return [
        f"true accuracy: {accuracy} ({column}), {_regret(ground_truth)}",
        f"cell: {ground_truth.get('arch', '—')}",
    ]


def ground_truth_headline(ground_truth: Mapping[str, Any]) -> dict[str, str]:
    """The headline of the report, in the fields of its template."""
    return {
        "title": "True accuracy",
        "last": _percent(ground_truth, "accuracy"),
        "n": _regret(ground_truth),
        "details": "",
    }


def ground_truth_facts(ground_truth: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Labels and values for the report."""
    return [
        ("Regret", f"{_number(ground_truth, 'regret')} points"),
        ("Best cell", _percent(ground_truth, "optimum")),
        ("Column", str(ground_truth.get("column", "—"))),
        ("Architecture", str(ground_truth.get("arch", "—"))),
    ]


def ground_truth_notes(ground_truth: Mapping[str, Any]) -> list[str]:
    """Notes that a reader of these numbers must know."""
    column, optimum = ground_truth.get("column", "—"), _percent(ground_truth, "optimum")
    return [
        "The cell was looked up in a table of networks that others have trained; nothing was retrained in this run. "
        "The search and the selection of the cell see neither the table nor the test split.",
        f"The column is {column}. The regret is the distance to the best cell of the table in that column, {optimum}, "
        "in percentage points.",
        "One search is one sample: searches with other seeds find other cells, and this report says nothing of how "
        "much those differ.",
    ]


def _number(ground_truth: Mapping[str, Any], key: str) -> str:
    value = ground_truth.get(key)
    return f"{value:.2f}" if is_number(value) else "—"


def _percent(ground_truth: Mapping[str, Any], key: str) -> str:
    return f"{_number(ground_truth, key)} %"


def _regret(ground_truth: Mapping[str, Any]) -> str:
    return f"{_number(ground_truth, 'regret')} points below the best cell ({_percent(ground_truth, 'optimum')})"
