"""The report of a sweep: one self-contained HTML file, written from its sweep.json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from topocell.io import files
from topocell.reporting.page import rendered
from topocell.reporting.setting import SMOKE_STAMP
from topocell.reporting.tables import flattened, format_count, format_seconds, is_number

#: The tables: heading → key of a row of sweep.json, and how it is shown.
_ACCURACY = {
    "": "recipe",
    "n": "n",
    "mean, %": "accuracy %",
    "±": "± %",
    "95 % interval of the mean": "95 % interval",
    "best": "best %",
}
_AGAINST = {
    "": "recipe",
    "baseline": "baseline",
    "difference, points": "difference %",
    "95 % interval": "of the difference",
    "p, Welch": "p (Welch)",
    "95 % interval, paired bootstrap": "paired difference",
    "p, bootstrap": "p (bootstrap)",
}
_CELLS = {
    "": "recipe",
    "best validation, %": "validation %",
    "cells of the table below, %": "percentile %",
    "p, percentiles": "p (percentiles)",
    "parameters": "parameters",
    "skips": "skips",
    "search": "search seconds",
}
#: States of runs that have an accuracy, and so a report.
_EVALUATED = ("retrained", "looked up")
_CAPTION = "A dot is a run; the diamond below them is their mean, with its 95 % interval (Student's t)."


def write_sweep_report(path: Path) -> Path:
    """Write `report.html` of a finished sweep, and return its path.

    Raises:
        RunError: a file cannot be read or written.
    """
    report = path / "report.html"
    with files.guarded(report, "--out"):
        stated = files.from_json((path / "sweep.json").read_bytes())
        summary = stated["summary"]
        dots, smoke = _dots(summary), stated["options"].get("budget") == "smoke"
        page = rendered(
            "sweep.html",
            {"figures": {}, "dots": {"accuracy": dots}},
            name=path.resolve().name,
            about=f"Protocol {summary['protocol']} · seeds {', '.join(map(str, stated['options']['seeds']))}",
            stamp=SMOKE_STAMP if smoke else ("", ""),
            headline=_headline(summary),
            facts=_facts(stated),
            failed=list(summary["failed"].items()),
            verdicts=summary["verdicts"],
            drawn=any(row["values"] for row in dots["rows"]),
            caption=_CAPTION,
            accuracy=_table(summary["rows"], _ACCURACY),
            against=_table([row for row in summary["rows"] if row["baseline"] is not None], _AGAINST),
            cells=_table(summary["rows"], _CELLS),
            standings=summary["standings"],
            notes=[note for note in stated["notes"] if note not in summary["verdicts"] + summary["standings"]],
            runs=_runs(summary["runs"]),
            plan=flattened(stated["options"]),
            versions=flattened(stated["environment"]),
        )
        files.replace(report, page.encode("utf-8"))
    return report


def _dots(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The accuracies of the rows, with mean and interval, as the page draws them."""
    rows = []
    for row in summary["rows"]:
        label = row["recipe"]
        low, high = summary["intervals"][label]
        own = {"values": summary["accuracies"][label], "mean": row["accuracy %"], "low": low, "high": high}
        rows.append({"label": label} | own)
    looked_up = any(run["state"] == "looked up" for of in summary["runs"].values() for run in of)
    return {"rows": rows, "label": "true accuracy, %" if looked_up else "test accuracy, %"}


def _headline(summary: Mapping[str, Any]) -> dict[str, Any]:
    """How many rows are told apart from their baseline; of a single row its accuracy."""
    words = [text for text in summary["verdicts"] if "not tested" not in text]
    if words:
        apart = [text for text in words if "not told apart" not in text]
        better = sum(": better than " in text for text in apart)
        found = [f"{better} better, {len(apart) - better} worse"] if apart else []
        details = [*found, "by Welch's test at 5 %, corrected for all comparisons"]
        return {"title": "Told apart from the baseline", "number": f"{len(apart)} of {len(words)}", "details": details}
    means = [row for row in summary["rows"] if row["accuracy %"] is not None]
    row = max(means, key=lambda row: row["accuracy %"], default=None)
    if row is None:
        return {"title": "No result", "number": "—", "details": []}
    spread = "" if row["± %"] is None else f" ± {row['± %']:.2f}"
    title = "Accuracy" if len(means) == 1 else "Highest mean accuracy; no test"
    return {"title": title, "number": f"{row['accuracy %']:.2f}{spread} %", "details": [f"n = {row['n']}"]}


def _facts(stated: Mapping[str, Any]) -> list[tuple[str, str]]:
    summary, options = stated["summary"], stated["options"]
    runs = [run for of in summary["runs"].values() for run in of]
    return [
        ("Rows", str(len(summary["rows"]))),
        ("Searches", str(len(runs))),
        ("Retrained or looked up", str(sum(run["state"] in _EVALUATED for run in runs))),
        ("Failed", str(len(summary["failed"]))),
        ("Budget", str(options["budget"])),
        ("Computing time", format_seconds(stated["seconds"])),
        ("Workers", str(summary.get("workers", "—"))),
    ]


def _table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> list[list[str]]:
    """A table of the columns of which any row has something, the header first."""
    kept = {head: key for head, key in columns.items() if any(row.get(key) is not None for row in rows)}
    return [list(kept), *([_shown(key, row.get(key)) for key in kept.values()] for row in rows)]


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "—"
    if key == "search seconds":
        return format_seconds(value)
    if key == "parameters":
        return format_count(value)
    if key == "difference %":
        return f"{value:+.2f}"
    if isinstance(value, str):
        return value
    return f"{value:.2f}" if isinstance(value, float) and is_number(value) else str(value)


def _runs(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[list[str]]:
    keys = {"seed": "seed", "directory": "directory", "cell": "cell", "validation": "validation, %"}
    keys |= {"accuracy": "accuracy, %", "percentile": "cells below, %", "state": "state", "host": "machine"}
    rows = [
        {**run, "accuracy": _accuracies(run["accuracies"]), "directory": _link(run)}
        for of in runs.values()
        for run in of
    ]
    return _table(rows, {head: key for key, head in keys.items()})


def _link(run: Mapping[str, Any]) -> str:
    """The name of a run directory, which leads to its report where there is one."""
    if run["state"] not in _EVALUATED:
        return str(run["directory"])
    return Markup('<a href="{0}/report.html">{0}</a>').format(run["directory"])


def _accuracies(values: Sequence[float]) -> str | None:
    return ", ".join(f"{value:.2f}" for value in values) or None
