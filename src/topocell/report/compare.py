"""What several selections of one supernet have derived, side by side."""

import json
from pathlib import Path
from typing import Any

import yaml

from topocell.errors import RunError
from topocell.genotype import Genotype
from topocell.report.tables import format_accuracy, format_count, is_number
from topocell.report.truth import truth_of

_HEADER = ["selection", "operations", "edges", "cell", "edges kept", "skips", "images measured", "parameters"]


def comparison(run_path: Path | str) -> list[list[str]]:
    """A table, its header first: the run itself where it has a cell, then each selection beside it by name.

    `cell` is the key that equal cells share; what has not been measured or retrained yet is a dash. The last column is
    the true accuracy where a table was looked up, otherwise that of the retrained networks after their last epoch.

    Raises:
        RunError: no run directory, or none in which a cell was derived. GenotypeError: a damaged genotype.json.
    """
    path = Path(run_path)
    if not (path / "recipe.yaml").is_file():
        raise RunError(f"selections are compared in a run directory, but {path} holds no recipe.yaml; check the path")
    beside = sorted(found.parent for found in (path / "selections").glob("*/genotype.json"))
    mine = [path] if (path / "genotype.json").is_file() else []
    if not mine + beside:
        raise RunError(f"{path} has no derived cell to compare; go on with: topocell select {path}")
    rows = [_row(found, "(run)" if found == path else found.name) for found in mine + beside]
    return [[*_HEADER, "accuracy"], *rows]


def _row(path: Path, name: str) -> list[str]:
    genotype, results = Genotype.load(path / "genotype.json"), _mapping(path / "results.json")
    rules = _mapping(path / "recipe.yaml").get("selection") or {}
    counts = {kind: genotype.operations(kind) for kind in genotype.cells}
    return [
        name,
        str(rules.get("operations", "—")),
        str(rules.get("edges", "—")),
        genotype.key,
        " + ".join(str(sum(found.values())) for found in counts.values()),
        " + ".join(str(found["skip_connect"]) for found in counts.values()),
        format_count(_images(path / "metrics.jsonl")),
        format_count(results.get("parameters")),
        _accuracy(results),
    ]


def _accuracy(results: dict[str, Any]) -> str:
    if truth := truth_of(results):
        return f"{truth['accuracy']:.2f} % (true)"
    mean, std, n = (results.get(key) for key in ("last_mean", "last_std", "n"))
    return format_accuracy(mean, std if is_number(std) else None, int(n)) if is_number(mean) and is_number(n) else "—"


def _images(metrics: Path) -> int | None:
    """Images that a projection was measured on; None where there was none."""
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []
    counts = [row.get("image_evaluations") for line in lines if (row := json.loads(line)).get("phase") == "select"]
    return counts[-1] if counts else None


def _mapping(path: Path) -> dict[str, Any]:
    """What a YAML or JSON file holds; empty where there is none."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as fault:
        raise RunError(f"{path} cannot be read ({fault}); restore it from a copy") from None
    return found if isinstance(found, dict) else {}
