"""Texts that are data as a whole, in JSON, YAML, TOML or CSV, and could hold a genotype; what in data may be one."""

import csv
import io
import json
import re
import tomllib
from contextlib import suppress
from typing import Any

from topocell.genotype.namedtuples import FIELDS, TYPES
from topocell.genotype.prefixes import without_numbers
from topocell.genotype.texts import CALL, another, is_operation, more_than
from topocell.genotype.values import as_integer
from topocell.io import files, plain_yaml

#: Keys of a mapping in YAML that holds a genotype.
_IN_YAML = re.compile(
    r"^[ \t]*(?:- )*(?:\{|['\"])?"
    r"(?:format|normal|genotype|(?:normal|reduce)(?:_n\d+_\w+|/\w+)|(?:\w+(?::|_COLON_)darts(?::|_COLON_))?edge_\w+)['\"]?\s*:"
    r"|[{,][ \t]*(?:genotype|normal(?:_n\d+_\w+|/\w+)?|['\"]?\w+(?::darts:|_COLON_darts_COLON_)edge_\w+['\"]?):"
    r"|^[ \t]*(?:- )*(?:[\w./-]+:\s+)?'[^'\n]*''\w+''"
    r"|^[ \t]*(?:- )*[\w./-]+:[ \t]+(?:[|>][-+0-9]*[ \t]*$(?!\s*\w+~)|['\"])",
    re.MULTILINE,
)
#: Pairs of a list in YAML, in several lines or in one.
_PAIRS = re.compile(r"^[ \t]*(?:- +)+(?:\w+\n\s*- +[0-9]|\[\s*\w+\s*,\s*[0-9])|\[\[[a-z]\w*,\s*[0-9]", re.MULTILINE)
#: How a list of lists begins in YAML; one with a bracket of Python further on is none.
_LISTS = re.compile(r"\s*(?:\[\s*\[|- - )[^(]*\Z")
#: The key of a line of JSON.
_KEY = re.compile(r'\s*"[^"\\\n]*"\s*:')
#: Most values of a table.
_MAX_CELLS = 2_000
#: What is between the documents of YAML.
_DOCUMENT = re.compile(r"^---[^\S\n]*$", re.MULTILINE)
#: A range as PyYAML writes it.
_YAML_RANGE = re.compile(r"!!python/object/apply:\w*\.x?range\s*\n((?: *- [0-9]{1,3}\n?){2,3})")


def structure(text: str) -> Any:
    """The mapping or list that a text is in JSON, in lines of it, in TOML, YAML or CSV; None for all others."""
    with suppress(ValueError):
        data = files.from_json(text, unique=True)
        return data if isinstance(data, dict | list) else None
    return _records(text) or _in_line(text) or _in_toml(text) or _in_yaml(text) or _in_table(text)


def parted(value: Any) -> tuple[Any, dict[str, Any]]:
    """The fields of a genotype, and what a mapping that has all of them has beside them; other values, and nothing."""
    if not (isinstance(value, dict) and value.keys() >= set(FIELDS)):
        return value, {}
    beside = {key: item for key, item in value.items() if not str(key).startswith(TYPES)}
    return {key: item for key, item in value.items() if key not in beside}, beside


def _records(text: str) -> list[dict[str, Any]] | None:
    """The values of lines of JSON; None where there is none, or one is no mapping."""
    found = lines_of_json(text)
    return found if found and all(isinstance(record, dict) for record in found) else None


def _in_line(text: str) -> Any:
    """The value of a line of JSON, or of several from a key to the end of its value; None for all others."""
    try:
        return files.from_json("{" + text.strip().removesuffix(",") + "}", unique=True) if _KEY.match(text) else None
    except ValueError:
        return None


def _in_toml(text: str) -> Any:
    """The value of a text in TOML that could hold a genotype; None for all others."""
    try:
        data = json.loads(json.dumps(tomllib.loads(text), default=str))
    except (ValueError, RecursionError):
        return None
    return data if _could_hold(data) else None


def _in_table(text: str) -> list[list[str]] | None:
    """The rows of a text in CSV or TSV in which a value is the text of a genotype; None for all others."""
    for delimiter in ",\t":
        joined = re.search(rf"\+[^\S\t]*{delimiter}|{delimiter}[^\S\t]*\+", text)  # parts of an architecture string
        if joined or text.count(delimiter) > _MAX_CELLS:
            continue
        try:
            rows = [row for row in csv.reader(io.StringIO(text), strict=True, delimiter=delimiter) if row]
        except csv.Error:
            continue
        held = [
            cell for row in rows for cell in row if _has_text(cell) and (is_text(cell) or re.search(r"~0\||\n", cell))
        ]
        if held and all(map(_is_whole_text, held)) and len({len(row) for row in rows}) == 1 and len(rows[0]) > 1:
            return rows
    return None


def _is_whole_text(cell: str) -> bool:
    """Return whether a cell of a table has all of a genotype, whose brackets are closed."""
    edges = re.search(r"(?:\A|[^|\w\s])\s*\w+~[0-9]", cell)  # without a bar before
    return edges is None and all(cell.count(opens) == cell.count(closes) for opens, closes in ("()", "[]", "{}"))


def _has_text(data: Any) -> bool:
    """Return whether data has, at any depth, the text of a genotype."""
    if isinstance(data, str):
        return is_text(data) or "~0|" in data or another(data) is not None or more_than("", data) is not None
    return any(map(_has_text, data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()))


def lines_of_json(text: str) -> list[Any] | None:
    """The values of a text that is JSON in each line; None for all others."""
    try:
        return [files.from_json(line, unique=True) for line in text.splitlines() if line.strip()]
    except ValueError:
        return None


def is_ours(data: Any) -> bool:
    """Return whether data has the form `topocell`, though it may lack a field."""
    return isinstance(data, dict) and (isinstance(data.get("cells"), dict) or data.keys() >= {"format", "space"})


def _is_whole(data: Any) -> bool:
    """Return whether data has the fields of a genotype."""
    return is_ours(data) or (isinstance(data, dict) and data.keys() >= set(FIELDS))


def has_compact(data: Any) -> bool:
    """Return whether data has, at any depth, a genotype of numbers alone: two lists of pairs, two or more in each."""
    if isinstance(data, dict):
        return any(map(has_compact, data.values()))
    if not isinstance(data, list | tuple):
        return False
    compact = len(data) == 2 and all(is_numbers(pairs) and len(pairs) > 1 for pairs in data)
    return compact or any(map(has_compact, data))


def is_numbers(pairs: Any) -> bool:
    """Return whether something is a list of pairs of numbers."""
    return isinstance(pairs, list | tuple) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 and all(type(as_integer(number)) is int for number in pair)
        for pair in pairs
    )


def is_text(value: Any) -> bool:
    """Return whether a value is the text of a genotype: one with a call, or one of data as a program writes it."""
    if not isinstance(value, str):
        return False
    data = value.lstrip()[:1] in ("{", "[", "(") and another(value.replace("\\", "")) is not None
    return data or CALL.search(value) is not None


def _has_python(data: Any) -> bool:
    """Return whether the value of YAML has half a tuple of Python, of which YAML makes a text up to its comma."""
    if isinstance(data, list) and any(isinstance(item, str) and re.match(r"\([^)]*\Z", item) for item in data):
        return True
    items = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    return any(map(_has_python, items))


def yaml_fault(text: str) -> str | None:
    """Why a text is no YAML that seems to be some; None where it is, or has a genotype that stands for itself."""
    if CALL.search(text) or "~0|" in text or not _IN_YAML.search(text):
        return None
    try:
        _loaded(text, explain=True)
    except ValueError as fault:
        return str(fault)
    return None


def _in_yaml(text: str) -> Any:
    """The value of a text in YAML that could hold a genotype, also as the list of its four; None for all others."""
    lists = _LISTS.match(text) is not None
    if not lists and not _IN_YAML.search(text) and not _PAIRS.search(text):
        return None
    if without_numbers(text) is not None:  # `1: ` before a line is none of its keys
        return None
    try:
        data = _loaded(text)
    except ValueError:
        return None
    if _has_python(data):
        return None
    four = lists and isinstance(data, list) and len(data) == len(FIELDS)
    return data if isinstance(data, dict | list) and (four or _could_hold(data)) else None


def _could_hold(data: Any) -> bool:
    """Return whether data could hold a genotype, at any depth: by fields of one of its forms, or as a text."""
    return _is_whole(data) or _has_fields(data) or _has_text(data)


def _has_fields(data: Any) -> bool:
    """Return whether a mapping at any depth of data has keys of a genotype in one of its forms, or a list its pairs."""
    if isinstance(data, dict):
        words = [key for key, value in data.items() if not (isinstance(value, str) and key in ("normal", "genotype"))]
        return any(_IN_YAML.match(f"{key}:") for key in words) or any(map(_has_fields, data.values()))
    if not isinstance(data, list):
        return False
    pair = len(data) == 2 and isinstance(data[0], str) and type(data[1]) is int and is_operation(data[0])
    return pair or any(map(_has_fields, data))


def _loaded(text: str, explain: bool = False) -> Any:
    text = _YAML_RANGE.sub(_as_list, text.replace("!!python/tuple", ""))
    parts = [part for part in _DOCUMENT.split(text) if part.strip()]
    return plain_yaml.load(text, explain) if len(parts) < 2 else [plain_yaml.load(part, explain) for part in parts]


def _as_list(found: re.Match[str]) -> str:
    first, last, step = (*map(int, re.findall("[0-9]+", found[1])), 1)[:3]
    return f"{list(range(first, last, step or 1))}\n"
