"""The pages of runs, with what they say of settings."""

from collections.abc import Sequence
from pathlib import Path

from topocell.reporting import comparison, html
from topocell.runs.setting import setting_of


def write_report(run_path: Path | str, out: Path | None = None) -> Path:
    """Write the report of a run directory. Returns and raises as `topocell.reporting.html.write_report`."""
    return html.write_report(run_path, setting_of, out)


def write_comparison(places: Sequence[Path | str], out: Path) -> Path:
    """Write a page that compares runs. Returns and raises as `topocell.reporting.comparison.write_comparison`."""
    return comparison.write_comparison(places, out, setting_of)
