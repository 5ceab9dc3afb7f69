"""What pydantic finds wrong with a recipe, in the words of one who writes it."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError


def independent(error: ValidationError) -> list[dict[str, Any]]:
    """The faults of an error, but no list that is short only for want of parts with faults of their own."""
    found: list[dict[str, Any]] = [dict(item) for item in error.errors()]
    places = [item["loc"] for item in found]
    return [
        item
        for item, at in zip(found, places)
        if item["type"] != "too_short" or not any(place[: len(at)] == at != place for place in places)
    ]


def nested(key: str) -> str:
    """How a key of a command line is written in a file: `a.b` is `a: {b: VALUE}`."""
    first, *rest = key.split(".")
    return f"{first}: {'{'}{nested('.'.join(rest))}{'}'}" if rest else f"{first}: VALUE"


def in_plain_words(fault: Mapping[str, Any], key: str, null: bool = False) -> str:
    """`KEY: RULE, but got VALUE`, and how to write what was probably meant; `null`: whether the key may be null."""
    rule, value = fault["msg"][:1].lower() + fault["msg"][1:], fault["input"]
    for words, plain in _PLAIN_WORDS:
        rule = re.sub(words, plain, rule)
    hints = {
        "string_type": "" if value is None else "write it in quotes",
        "tuple_type": f"one alone is written [{value}]" if type(value) is int else _as_list(value),
        "dict_type": f"write {key}.NAME=VALUE for each of its keys",
        "model_type": "" if re.search("Curve|Choice", fault["msg"]) else f"write {key}.NAME=VALUE for each of its keys",
    }
    if value == "None":
        return f"{key}: {rule}, but got 'None'; none is written null"
    if value is False and null:
        return f"{key}: {rule}, but got False; null leaves it out"
    how = hints.get(fault["type"].replace("model_attributes", "model"), "")
    return f"{key}: {rule}, but got {repr(value)[:60]}" + (how and f"; {how}")


#: What pydantic calls things, and what a YAML file calls them.
_PLAIN_WORDS = (
    ("valid dictionary or instance of Curve", "number or a mapping"),
    ("valid dictionary or instance of Choice", "name or a mapping"),
    (r"string should match pattern .*", "it has letters, digits and . _ - alone, and begins with a letter or digit"),
    (r"valid dictionary( or instance of \w+)?", "mapping"),
    ("valid tuple", "list"),
    ("tuple", "list"),
    ("a valid string", "text"),
    (r" after validation, not \w+", ""),
    (r", unable to parse string as an? \w+", ""),
)


def _as_list(value: object) -> str:
    """How a list is written: that of a range such as `0..2`, or an example."""
    ends = re.fullmatch(r"([0-9]{1,3})\.\.\.?([0-9]{1,3})", value) if isinstance(value, str) else None
    numbers = range(int(ends[1]), int(ends[2]) + 1) if ends else ()
    return (
        f"write it as {','.join(map(str, numbers))}" if 0 < len(numbers) <= 20 else "a list is written as [1, 2] or 1,2"
    )
