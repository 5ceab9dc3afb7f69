"""Run directories that are read and not opened: others may have made them, or closed them to us."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from topocell.errors import RunError
from topocell.io import files

#: Name of the retraining of a random cell, beside which that of a run is shown.
RANDOM_CELL = "random-cell"


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


def genotype_path(place: Path) -> Path:
    """The genotype.json of a run directory; any other place is taken for the file itself.

    Raises:
        RunError: the directory holds a link, a pipe or a device, or cannot be read.
    """
    if not os.path.isdir(place):
        return place
    with readable(place):
        files.refuse_links(place)
    return place / "genotype.json"
