"""Run directories that are read and not opened, as others may have made them; cells as users name them."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from topocell.errors import GenotypeError, RunError, resuming
from topocell.genotype.characters import decoded
from topocell.genotype.genotype import Genotype
from topocell.genotype.published import published
from topocell.genotype.reading import MAX_BYTES, file_of
from topocell.io import files

#: It stands in every text of a genotype, and in no name of a published one: a bracket, or the end of a first line.
_IN_TEXT = re.compile(r"[|(\[{]|\n\s*\S")
#: How the name of a file ends, and no text of a genotype.
_FILE = re.compile(r"[^\n]*\.(?:json|txt|py|ya?ml|log|csv)\Z")
#: Name of the retraining of a random cell, beside which that of a run is shown.
RANDOM_CELL = "random-cell"


def run_before(place: Path) -> Path | None:
    """The run to which a retraining or a selection belongs; None for a run of its own."""
    before = place.parent.parent
    beside = place.parent.name in ("retrainings", "selections") and (before / "recipe.yaml").is_file()
    return before if beside else None


def evaluation_of(place: Path) -> str:
    """Return which evaluation of a run lies there, `shallow` or `validation`; empty for a run of its own.

    A validation trains a cell on the split of a search; sweeps choose cells by it.
    """
    beside = place.name in ("shallow", "validation") and (place.parent / "recipe.yaml").is_file()
    return place.name if beside else ""


def source_of(cell: Mapping[str, Any], recipe: Any) -> str | None:
    """Return where a cell comes from that a recipe has trained and not found: a published name, another recipe, a key.

    None of a found cell, of none yet and of one that cannot be read.

    Args:
        cell: what a genotype.json holds.
        recipe: name of the recipe.
    """
    origin = cell.get("origin")
    origin = origin if isinstance(origin, Mapping) else {}
    published_as, searched_by = origin.get("published"), origin.get("recipe")
    if not cell or (published_as is None and searched_by == recipe):
        return None
    with contextlib.suppress(GenotypeError):
        return str(published_as or searched_by or Genotype.from_dict(cell).key)
    return None


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn an OSError inside into a RunError that says what in `path` could not be read."""
    try:
        yield
    except OSError as fault:
        raise RunError(
            f"{fault.filename or path} must be readable, but is not ({files.reason(fault)}); change that, or restore "
            f"it from a copy"
        ) from None


def genotype_of(place: str | Path, operations: Sequence[str] | None = None) -> Genotype:
    """Return the cell that a user names: a run directory, a file, a published cell, or the text itself.

    What is there as a file or directory goes before a published cell of the same name.

    Args:
        place: a run directory; a file as `Genotype.load` reads it; a name of `topocell genotypes list`; DARTS text, an
            architecture string, or another form of `topocell.genotype.forms.FORMS`; `-` for such a text, or JSON, from
            the standard input.
        operations: of a text that numbers them, see `Genotype.from_text`.

    Raises:
        GenotypeError: none of these, or no valid cell. RunError: the directory holds a link, a pipe or a device, or no
            cell, or cannot be read.
    """
    named = str(place)
    if os.path.isdir(named):
        return Genotype.load(_of_run(Path(named)))
    if os.path.lexists(named) or _is_path(named):
        return Genotype.load(named, operations=operations)
    if named == "-":
        if not (raw := sys.stdin.buffer.read(MAX_BYTES)).strip():
            raise GenotypeError(
                "- is a cell from the standard input, but nothing, or nothing more, comes from there; pipe one text "
                "into the command, and give - once"
            )
        return Genotype.from_text(decoded(raw), operations=operations)
    if is_text(named):
        return Genotype.from_text(named, operations=operations)
    return published(named).genotype


def is_text(place: str) -> bool:
    """Return whether a user gave the text of a cell, and not the name of one or of a file."""
    return place == "-" or (_IN_TEXT.search(place) is not None and not os.path.lexists(place) and not _is_path(place))


def _is_path(place: str) -> bool:
    """Return whether a word can only be meant as the path of a file."""
    text = _IN_TEXT.search(place) is not None
    return _FILE.match(place) is not None or (not text and re.search(r"[/\\]|\.\w+$", place) is not None)


def _of_run(place: Path) -> Path:
    """The file with the cell of the directory of a run or of an export to safetensors."""
    with readable(place):
        files.refuse_links(place)
    found = file_of(place)
    if not found.exists():
        searched = (place / "recipe.yaml").exists()
        step = f"its search has derived none yet: {resuming(place)}" * searched
        raise RunError(
            f"a cell is in the genotype.json of a run directory, but {place} has none; "
            f"{step or 'name a run, or a file with a genotype'}"
        )
    return found
