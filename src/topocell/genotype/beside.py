"""What data says of the concat of a genotype beside it: of another concat it would be another cell."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from topocell.errors import GenotypeError
from topocell.genotype.literals import shown
from topocell.genotype.texts import SeveralError, listed
from topocell.genotype.values import as_integer

#: How the path to a concat ends, in lower case: with the type of its cell before or after it, or with none.
_CONCAT = re.compile(r"(?:(normal|redu)\w*?[\W_]?)?(?<![a-z])concat(?:[\W_]?(normal|redu)\w*)?\Z")
#: The same in a line of a text, with what stands behind it.
_IN_LINE = re.compile(
    r"(?i:(normal|reduc\w*)[\W_]{0,2})?(?<![a-z])(?i:concat)(?:enat\w+)?[^\n\[\](){}]{0,40}?"
    r"((?<!\w)\[ *[0-9]+(?:, *[0-9]+)*,? *\]|(?<!\w)\( *[0-9]+(?:, *[0-9]+)+,? *\)|range\([0-9, ]*\))"
)
_NUMBERS = re.compile(r"[\[(]?\s*[0-9]+(?:\s*,\s*[0-9]+)*,?\s*[\])]?")


def check_concats(concats: Mapping[str, Sequence[Any]], data: Any) -> None:
    """Check that data says of no concat another than the genotype in it has.

    Args:
        concats: for a type of cell ("normal", "reduce") the concats that the genotype has, also as they were written;
            empty where it has no such types.
        data: all of it, with tuples in place of lists.

    Raises:
        SeveralError: it does.
    """
    for path, value in _entries(data, ""):
        named = _CONCAT.search(path.lower())
        nodes = _nodes(value)
        if named is None or value in (None, "") or (nodes is None and not any(named.groups())):
            continue
        if isinstance(value, dict | bool):  # looked into, or a switch
            continue
        if nodes not in _own(concats, named[1] or named[2] or ""):
            raise SeveralError(
                f"a text must hold one genotype, but has another concat, {shown(value)}, under "
                f"{path.rpartition('/')[2]!r}; give the genotype alone, with the concat that it is to have"
            )


def check_lines(concats: Mapping[str, Sequence[Any]], text: str) -> None:
    """Check the same of the lines of a text: a concat and a list or a range of numbers behind it.

    Raises:
        SeveralError: a line has another concat than the genotype in the text.
    """
    for kind, written in _IN_LINE.findall(text):
        own = _own(concats, kind.lower())
        if own and _nodes(written) not in own:
            raise SeveralError(
                f"a text must hold one genotype, but has another concat, {shown(written)}; give the genotype alone, "
                f"with the concat that it is to have"
            )


def _own(concats: Mapping[str, Sequence[Any]], kind: str) -> list[tuple[int, ...] | None]:
    """The nodes of the concats of types of cell that begin as a word does; of an empty word, of all."""
    return [_nodes(concat) for name, found in concats.items() if name.startswith(kind[:4]) for concat in found]


def _entries(data: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Each entry of mappings at any depth of data, and each cell of tables under the name of its column."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield f"{path}/{key}", value
            yield from _entries(value, f"{path}/{key}")
    elif isinstance(data, tuple):
        table = len(data) > 1 and all(isinstance(row, tuple) and len(row) == len(data[0]) for row in data)
        if table and all(isinstance(name, str) for name in data[0]):
            for row in data[1:]:
                yield from zip(data[0], row)
        for value in data:
            yield from _entries(value, path)


def _nodes(value: Any) -> tuple[int, ...] | None:
    """The numbers of nodes that a value lists, also as a text; None where it is no list of numbers."""
    if isinstance(value, str):
        if _NUMBERS.fullmatch(value.strip()):
            return tuple(map(int, re.findall("[0-9]+", value)))
        with suppress(GenotypeError):
            value = listed(value)
    if type(number := as_integer(value)) is int:
        return (number,)
    items = tuple(map(as_integer, value)) if isinstance(value, tuple | list) else ()
    return items if items and all(type(item) is int for item in items) else None
