"""The file of a genotype, and what is said of one that cannot be read."""

import codecs
import os
import re
from pathlib import Path

from topocell.errors import GenotypeError

MAX_BYTES = 4_000_000


def file_of(place: Path) -> Path:
    """Return the file with the cell of a directory, of a run or an export to safetensors; any other path as it is."""
    if not os.path.isdir(place):
        return place
    found = [place / name for name in ("genotype.json", "network.json")]
    return next(filter(os.path.exists, found), found[0])


def read_file(path: Path) -> bytes:
    """What is in a file.

    Raises:
        GenotypeError: it cannot be read, is too large, or is no text; the message begins with the path.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if re.match("[a-z]{2,8}:/", str(path)):
            reason = "an address is not fetched: download the file"
        shown = str(path) if len(str(path)) <= 200 else f"{str(path)[:200]}..."
        raise GenotypeError(
            f"{shown}: a genotype must be a file that can be read, but {reason}; check the path; "
            f"`topocell genotypes list` shows the names of published cells, in Python published(NAME) gives one, and "
            f"Genotype.from_text reads a text"
        ) from None
    if len(raw) > MAX_BYTES:
        raise GenotypeError(f"{path}: a genotype has at most {MAX_BYTES} bytes, but this file has more")
    if b"\0" in raw and not raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise GenotypeError(
            f"{path}: a genotype is a text, but this file is none; name a genotype.json or print the genotype in it"
        )
    return raw
