"""Tables and numbers as text, for the report and the terminal."""

import json
from collections.abc import Mapping
from typing import Any, TypeGuard


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a value read from a file is a usable number; one above 1e15 is no figure of a run."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e15


def format_accuracy(mean: float, std: float | None = None, n: int = 1) -> str:
    """A mean accuracy in percent: `97.51 ± 0.06 % (n = 4)`, or `97.51 % (n = 1)`.

    Args:
        mean: fraction 0..1, over n runs.
        std: sample standard deviation (n − 1 in the denominator) as a fraction; shown only for n ≥ 2.
        n: number of runs (seeds).
    """
    spread = f" ± {100 * std:.2f}" if std is not None and n >= 2 else ""
    return f"{100 * mean:.2f}{spread} % (n = {n})"


def format_percent(value: object) -> str:
    """A fraction 0..1 as `97.51 %`; an em dash for anything that is no finite number."""
    return f"{100 * value:.2f} %" if is_number(value) else "—"


def format_count(value: object) -> str:
    """A count in three significant digits: `3.35 M`, `528 M`, `12.3 k`; an em dash for anything else."""
    if not is_number(value):
        return "—"
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size * 0.9995:
            scaled = value / size
            digits = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
            return f"{scaled:.{digits}f}{unit}"
    return f"{value:.0f}"


def format_bytes(size: int) -> str:
    """A size of files: `812 B`, `3.4 kB`, `41 MB`."""
    for power, unit in ((3, "GB"), (2, "MB"), (1, "kB")):
        if size >= 999.5 * 1000 ** (power - 1):
            scaled = size / 1000**power
            return f"{scaled:.1f} {unit}" if scaled < 9.95 else f"{scaled:.0f} {unit}"
    return f"{size} B"


def format_seconds(value: object) -> str:
    """A duration: `0.8 s`, `42 s`, `3 min 05 s`, `2 h 07 min`, `3 d 04 h`; an em dash for what is no number."""
    if not is_number(value):
        return "—"
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(value / 60)
    if minutes >= 48 * 60:
        hours = round(value / 3600)
        return f"{hours // 24} d {hours % 24:02d} h"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def results_table(results: Mapping[str, Any]) -> list[list[str]]:
    """Rows of a results.json, the header first: one per seed, then the mean over seeds when there are several.

    "Last" is the test accuracy after the last epoch, or "kept" of the epoch that early stopping has returned to;
    "best" the highest of any epoch, which was chosen by looking at test accuracy and is therefore optimistic.
    """
    kept = kept_epochs(results)
    ended = ["kept epoch", "kept of"] if kept else ["last epoch"]
    rows = [["seed", *ended, "best epoch", "best at epoch"]]
    for run in _runs(results):
        epoch = run.get("best_epoch")
        at = str(epoch + 1) if isinstance(epoch, int) else "—"
        of = [f"epoch {run['kept_epoch'] + 1} of {run['stopped_epoch'] + 1}"] if run in kept else ["—"] * bool(kept)
        last = format_percent(run.get("last"))
        rows.append([str(run.get("seed", "—")), last, *of, format_percent(run.get("best")), at])
    n = results.get("n")
    if isinstance(n, int) and n >= 2:
        rows.append([f"mean of {n}", _spread(results, "last"), *[""] * bool(kept), _spread(results, "best"), ""])
    return rows


def kept_epochs(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The trainings of a results.json that early stopping has ended, and returned to an epoch before."""
    return [run for run in _runs(results) if all(isinstance(run.get(k), int) for k in ("kept_epoch", "stopped_epoch"))]


def _runs(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    runs = results.get("runs")
    return [run for run in runs if isinstance(run, Mapping)] if isinstance(runs, list) else []


def _spread(results: Mapping[str, Any], which: str) -> str:
    """Mean and standard deviation without n, which stands at the head of the row."""
    std = results.get(f"{which}_std")
    mean = format_percent(results.get(f"{which}_mean"))
    return mean.replace(" %", f" ± {100 * std:.2f} %") if is_number(std) else mean


def flattened(value: object, prefix: str = "") -> list[tuple[str, str]]:
    """A nested mapping as rows of dotted name and value."""
    if not isinstance(value, dict):
        return [(prefix, value_text(value))] if prefix else []
    return [row for key, item in value.items() for row in flattened(item, f"{prefix}.{key}" if prefix else str(key))]


def value_text(value: object) -> str:
    """A value for a table cell: the shortest readable form of a number, else as a recipe has it."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
