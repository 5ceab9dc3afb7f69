"""Cells that a user names for a study which retrains them."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from topocell.config.recipe import Recipe
from topocell.config.selection import NO_TABLE
from topocell.errors import GenotypeError, RecipeError
from topocell.genotype.genotype import Genotype
from topocell.genotype.published import Published, published_cells
from topocell.reporting.rundirs import genotype_of
from topocell.runs import setup


@dataclass(frozen=True)
class NamedCell:
    """A cell of a study.

    Attributes:
        entry: as the user named it.
        genotype: the cell.
        published: the published cell that it is, by its origin.
    """

    entry: str
    genotype: Genotype
    published: Published | None

    @property
    def label(self) -> str:
        """What tables call it: its published name, the place that it came from, or the key of a text."""
        if self.published is not None:
            return self.published.name
        return self.entry if os.path.lexists(self.entry) else self.genotype.key

    @property
    def item(self) -> str:
        """Prefix of its items."""
        return self.published.name if self.published is not None else f"cell-{self.genotype.key}"

    @property
    def published_accuracy(self) -> float | None:
        """Test accuracy in percent on CIFAR-10: 100 minus the error that its paper gives; None where there is none."""
        found = re.search(r"CIFAR-10 error (\d+\.\d+)", self.published.figures if self.published is not None else "")
        return round(100 - float(found[1]), 2) if found else None

    @property
    def recipe_path(self) -> Path | None:
        """The recipe of the run that it came from."""
        return Path(self.entry, "recipe.yaml") if os.path.isdir(self.entry) else None


def named_cells(entries: Sequence[str]) -> list[NamedCell]:
    """Return the cells of an option `genotypes`, in order.

    Raises:
        GenotypeError, RunError: as `topocell.reporting.rundirs.genotype_of`; GenotypeError also for one cell under
            two names.
    """
    cells: dict[str, NamedCell] = {}
    for entry in entries:
        genotype = genotype_of(entry)
        known = published_cells().get(str(genotype.origin.get("published")))
        same = known is not None and known.genotype.key == genotype.key
        cell = NamedCell(entry, genotype, known if same else None)
        first = cells.setdefault(genotype.key, cell)
        if first is not cell:
            raise GenotypeError(
                f"each cell is named once, but {first.entry!r} and {entry!r} are the same cell; leave one of them out"
            )
    return list(cells.values())


def refuse_ground_truth(study: str, recipes: Iterable[Recipe]) -> None:
    """Raise RecipeError where accuracies would be looked up, for a study that is about the training itself."""
    if any(map(setup.load_ground_truth, recipes)):
        raise RecipeError(
            f"{study} retrains cells, but a table of true accuracies would be looked up; leave it out: "
            f"ground_truth.table={NO_TABLE}"
        )
