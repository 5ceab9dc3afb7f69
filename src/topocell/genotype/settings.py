"""The genotype in settings: a mapping in JSON or YAML that has it under a key, or a text of JSON."""

import json
import re
from typing import Any

from topocell.errors import GenotypeError
from topocell.genotype.texts import CALL, MAX_DEPTH, another
from topocell.io import files, plain_yaml

#: Keys of a mapping whose text is a genotype, beside `genotype`.
_ENTRIES = ("arch", "architecture", "arch_str", "cell", "best_genotype", "best_arch")
#: Keys of a mapping in YAML that holds a genotype.
_IN_YAML = re.compile(
    r"^[ \t]*(?:format|normal|genotype|(?:normal|reduce)(?:_n\d+_\w+|/\w+)|(?:\w+:darts:)?edge_\w+)\s*:", re.MULTILINE
)
#: A range as PyYAML writes it.
_YAML_RANGE = re.compile(r"!!python/object/apply:\w*\.x?range\s*\n((?: *- [0-9]{1,3}\n?){2,3})")


def unwrapped(text: str) -> str:
    """The text in a text of JSON: that of a string, or of the entry of a mapping; any other as it is.

    What is a mapping in YAML becomes JSON.
    """
    try:
        data = files.from_json(text, unique=True)
    except ValueError:
        data = _in_yaml(text)
        if data is None:
            return text
        text = json.dumps(data)
    if isinstance(data, dict) and data.keys().isdisjoint({"normal", "format"}) and (found := _entry(data)):
        inside, key = found
        inner = inside.pop(key)
        if isinstance(inner, dict) and inner.keys() <= {"desc", "value"}:  # as wandb keeps settings
            inner = inner.get("value")
        inner = inner if isinstance(inner, str) else json.dumps(inner)
        beside = json.dumps(data).replace(json.dumps(inner)[1:-1], "").replace(inner, "")
        if other := another(beside) or ("~0|" in beside and "an architecture string"):
            raise GenotypeError(f"a text must hold one genotype, but beside {key!r} it has {other}; keep one")
        return inner
    return data if isinstance(data, str) else text


def _entry(data: Any, depth: int = 0) -> tuple[dict[str, Any], str] | None:
    """The mapping in which a genotype is, at any depth, and its key; None where there is none, or more than one.

    Of entries other than `genotype` it must be a text with a call.
    """
    if not isinstance(data, dict) or depth > MAX_DEPTH:
        return None
    others = (key for key in _ENTRIES if isinstance(data.get(key), str) and CALL.search(data[key]))
    if key := "genotype" if "genotype" in data else next(others, None):
        return data, key
    inside = [found for value in data.values() if (found := _entry(value, depth + 1))]
    return inside[0] if len(inside) == 1 else None


def _in_yaml(text: str) -> Any:
    """The mapping of a text in YAML that could hold a genotype; None for all others."""
    if not _IN_YAML.search(text):
        return None
    try:
        data = plain_yaml.load(_YAML_RANGE.sub(_as_list, text.replace("!!python/tuple", "")))
    except ValueError:
        return None
    known = isinstance(data, dict) and (_entry(data) or any(_IN_YAML.match(f"{key}:") for key in data))
    return data if known else None


def _as_list(found: re.Match[str]) -> str:
    first, last, step = (*map(int, re.findall("[0-9]+", found[1])), 1)[:3]
    return f"{list(range(first, last, step or 1))}\n"
