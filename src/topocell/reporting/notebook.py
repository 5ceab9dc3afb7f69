"""What notebooks show of a genotype and of a run directory; both are read leniently."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topocell.errors import GenotypeError
from topocell.io.notebook import card
from topocell.reporting.cell_shapes import genotype_drawing
from topocell.reporting.cell_svg import svg
from topocell.reporting.cells import shown_cells
from topocell.reporting.epochs import search_epochs
from topocell.reporting.ground_truth import ground_truth_headline, ground_truth_of
from topocell.reporting.run_files import RunFiles
from topocell.reporting.scores import score_headline
from topocell.reporting.setting import SettingOf, unknown
from topocell.reporting.tables import format_count


def genotype_svg(genotype: Mapping[str, Any]) -> str:
    """The cells of `Genotype.to_dict()` on white paper. Raises GenotypeError where they are too large to be drawn."""
    return str(svg(genotype_drawing(shown_cells(genotype)), "Cells as graphs", alone=True))


def run_card(path: Path, setting_of: SettingOf = unknown) -> str:
    """A run directory as a card: what it searched, how far it is, its accuracy with n, its cell and its recipe.

    Args:
        path: the directory.
        setting_of: what its numbers rest on; its stamp says what keeps them from saying much, such as a smoke budget.
    """
    found = RunFiles(path)
    recipe, genotype, results = found.mapping("recipe.yaml"), found.mapping("genotype.json"), found.results()
    truth = ground_truth_of(results)
    headline = ground_truth_headline(truth) if truth else score_headline(results)
    try:
        picture = genotype_svg(genotype) if genotype else ""
    except GenotypeError:
        picture = ""
    parameters = format_count(results.get("parameters")) if "parameters" in results else ""
    rows = [
        ("directory", str(path)),
        ("note", setting_of(recipe, results).stamp),
        ("recipe", str(recipe.get("about") or "")),
        ("search", f"{len(search_epochs(found.rows('metrics.jsonl')))} epochs"),
        ("cell", "derived" if genotype else "not derived yet"),
        (headline.get("title", "Test accuracy").lower(), headline.get("last", "not retrained yet")),
        ("of", headline.get("n", "")),
        ("parameters", parameters),
        ("report", "report.html" if found.state("report.html") == "present" else ""),
    ]
    title = f"Run of {recipe.get('name') or path.name}"
    return card(title, rows, picture=picture, source=("recipe.yaml", found.text("recipe.yaml")))
