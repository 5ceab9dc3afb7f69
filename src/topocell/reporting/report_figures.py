"""The figures of a report over the epochs of a run: what they are called, and how they come into the page."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from topocell.reporting import architecture_figures, run_figures
from topocell.reporting.epochs import Row
from topocell.reporting.ground_truth import ground_truth_of
from topocell.reporting.page import inlined

#: Key, title and caption, in the order of the page.
CURVES = (
    ("search", "Search", "Accuracy and loss of the supernet; validation is cut from the training images."),
    ("architecture", "Architecture", "How undecided α and β are, how sharp the relaxation is, how deep the cell."),
    (
        "weights",
        "Weights of operations",
        "As the supernet has them, without sampling: the mean over all edges that still offer the operation.",
    ),
    (
        "annealing",
        "Weights by edge",
        "A line for each edge: the largest weight of its operations, and its own weight where edges have weights.",
    ),
    (
        "retained",
        "Retained operations",
        "What each edge keeps for the stages that follow, from the left by node and source.",
    ),
    (
        "operations",
        "Operations",
        "The cell that would be derived after each epoch. A rising block of skips is a collapse.",
    ),
    ("retrain", "Retraining", "The cell, retrained; the test split is used here and nowhere else."),
    ("ground_truth", "True accuracy", "That of the cell that would be derived after each epoch, and of the best cell."),
)
#: Figures that not every search has.
OPTIONAL = ("weights", "annealing", "retained")
_OF_METRICS: dict[str, Callable[[list[dict[str, Any]], Path], bool]] = {
    "search": run_figures.search_curves,
    "architecture": run_figures.architecture_curves,
    "operations": run_figures.operation_curves,
    "retrain": run_figures.retrain_curves,
}
_OF_ARCHITECTURES = {
    "weights": architecture_figures.operation_weights,
    "annealing": architecture_figures.annealing,
    "retained": architecture_figures.retained_operations,
}


def draw_curves(
    path: Path, metrics: list[dict[str, Any]], recipe: Mapping[str, Any], results: Mapping[str, Any]
) -> dict[str, Markup | None]:
    """Draw what there is to draw; a figure left by an earlier report goes if there is nothing for it now.

    Args:
        path: of the run.
        metrics, recipe, results: what it holds.

    Returns key → figure, None where there is nothing.
    """
    drawn: dict[str, Markup | None] = {}
    for key, title, _ in CURVES:
        target = path / "figures" / f"{key}.svg"
        if key in _OF_ARCHITECTURES:
            there = _OF_ARCHITECTURES[key](metrics, recipe, target)
        elif key in _OF_METRICS:
            there = _OF_METRICS[key](metrics, target)
        else:
            there = run_figures.ground_truth_curve(_trajectory(results), target)
        if not there:
            target.unlink(missing_ok=True)
        label = title if key == "retained" else f"{title}: curves over epochs"
        drawn[key] = inlined(target, key, label) if there else None
    return drawn


def _trajectory(results: Mapping[str, Any]) -> list[Row]:
    """The rows of the true-accuracy curve, each with the accuracy of the best cell beside its own."""
    rows, optimum = results.get("trajectory"), ground_truth_of(results).get("optimum")
    return [{**row, "optimum": optimum} for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
