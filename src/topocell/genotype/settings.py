"""The genotype in settings: a mapping in JSON, YAML or TOML that has it under a key, or a text of JSON."""

import csv
import io
import json
import re
import tomllib
from contextlib import suppress
from typing import Any

from topocell.genotype.literals import MAX_DEPTH
from topocell.genotype.namedtuples import FIELDS, TYPES
from topocell.genotype.prefixes import without_numbers
from topocell.genotype.texts import CALL, SeveralError, another, is_operation, more_than
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


def unwrapped(text: str) -> str:
    """The text in a text of JSON: that of a string, or of an entry at any depth; any other as it is.

    What is YAML or TOML with a genotype becomes JSON, and so do records of JSON, one in each line.
    """
    data, is_json = _structure(text)
    if data is None:
        return text
    if not is_json:
        text = json.dumps(data)
    whole = isinstance(data, dict) and "genotype" not in data and ("normal" in data or _is_whole(data))
    if not whole and (found := _entry(data)):
        inside, key = found
        inner = inside.pop(key)
        if isinstance(inner, dict) and inner.keys() <= {"desc", "value"}:  # as wandb keeps settings
            inner = inner.get("value")
        inner = inner if isinstance(inner, str) else unwrapped(json.dumps(inner))
        _check_alone(inner, data, repr(key))
        return inner
    fields, beside = parted(data)
    if beside:
        text = json.dumps(fields)
        _check_alone(text, beside, "its fields")
    return data if isinstance(data, str) else text


def structure(text: str) -> Any:
    """The mapping or list that a text is in JSON, in lines of it, in TOML, YAML or CSV; None for all others."""
    data, _ = _structure(text)
    data = _in_table(text) if data is None else data
    return data if isinstance(data, dict | list) else None


def _structure(text: str) -> tuple[Any, bool]:
    """The value of a text in JSON, in lines of it, in TOML or YAML, None for all others; whether it is JSON."""
    with suppress(ValueError):
        return files.from_json(text, unique=True), True
    return _records(text) or _in_line(text) or _in_toml(text) or _in_yaml(text), False


def parted(value: Any) -> tuple[Any, dict[str, Any]]:
    """The fields of a genotype, and what a mapping that has all of them has beside them; other values, and nothing."""
    if not (isinstance(value, dict) and value.keys() >= set(FIELDS)):
        return value, {}
    beside = {key: item for key, item in value.items() if not str(key).startswith(TYPES)}
    return {key: item for key, item in value.items() if key not in beside}, beside


def _check_alone(inner: str, settings: Any, where: str) -> None:
    """Raise GenotypeError where settings have another genotype than one that was found there."""
    beside = json.dumps(settings).replace(json.dumps(inner)[1:-1], "").replace(inner, "")
    if inner.startswith('{"normal"'):  # whose fields may be among others
        beside = beside.replace(inner[1:-1], "")
    if call := CALL.search(inner):  # in a line of a log, and alone
        beside = beside.replace(json.dumps(inner[call.start() : inner.rfind(")") + 1])[1:-1], "")
    beside = beside.replace("\\", "")  # of texts in it
    other = another(beside) or ("an architecture string" if "~0|" in beside else None)
    other = other or ("one of numbers alone" if has_compact(settings) else None)
    if other := other or more_than(inner, f"{inner}\n{beside}"):
        raise SeveralError(f"a text must hold one genotype, but beside {where} it has {other}; keep one")


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
    return data if _is_whole(data) or _entry(data) or _has_fields(data) or _has_text(data) else None


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
    return all(cell.count(opens) == cell.count(closes) for opens, closes in ("()", "[]", "{}"))


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


def _entry(data: Any, depth: int = 0) -> tuple[Any, Any] | None:
    """The mapping or list in which a genotype is, at any depth, and its key; None where there is none, or another too.

    Under another key than `genotype` it must have all fields, or be a text with a call.
    """
    if depth > MAX_DEPTH or not isinstance(data, dict | list):
        return None
    places = list(data.items() if isinstance(data, dict) else enumerate(data))
    if isinstance(data, dict) and data.get("genotype"):  # null: none yet
        return data, "genotype"
    for key, value in places:
        if is_text(value):
            return data, key
    entries = ((data, key) if _is_whole(value) else _entry(value, depth + 1) for key, value in places)
    inside = [found for found in entries if found]
    values = [parted(mapping[key])[0] for mapping, key in inside]
    if all(value == values[0] for value in values):
        return inside[0] if inside else None
    if all(another(value if isinstance(value, str) else json.dumps(value)) for value in values):
        names = " and ".join(dict.fromkeys(repr(key) for _, key in inside[:3]))
        raise SeveralError(f"a text must hold one genotype, but has {len(values)} under {names}; keep one")
    return None


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
    known = lists and isinstance(data, list) and len(data) == len(FIELDS)
    known = known or (isinstance(data, dict) and any(_IN_YAML.match(f"{key}:") for key in data))
    held = isinstance(data, dict | list) and _has_text(data)
    return data if known or held or _entry(data) or _has_fields(data) else None


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
