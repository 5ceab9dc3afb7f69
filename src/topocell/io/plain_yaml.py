"""YAML as people write recipes in it: plain values of sensible size, and 6e-3 is a number.

The text may come from anybody. Nothing in it names a Python type, and what takes little to write and much to read
(aliases of aliases, merges of merges, numbers without end) is refused rather than built.
"""

import re
from typing import Any

import yaml

MAX_TEXT = 100_000
MAX_VALUES = 20_000
MAX_DEPTH = 30
MAX_NUMBER = 2**63

#: `0,1,2` without the brackets that some shells take for a pattern.
_BARE_LIST = re.compile(r"[^\s,\[\]{}'\"]+(,\s*[^\s,\[\]{}'\"]+)+")

_DEEP = re.compile(rf"(?:[\[{{]\s*+){{{MAX_DEPTH + 1}}}")
_TOO_DEEP = f"it nests more than {MAX_DEPTH} levels"

_MERGE = "tag:yaml.org,2002:merge"


class _Rules:
    """Changes to PyYAML's safe loaders, which take the last of equal keys."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Resolve `<<: *alias`; a key that is there twice is a fault."""
        names = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and names.count((key.tag, key.value)) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is there twice", key.start_mark)
            if key.tag == _MERGE and not isinstance(value, yaml.MappingNode):
                raise yaml.constructor.ConstructorError(None, None, "<< takes one mapping", key.start_mark)
        super().flatten_mapping(node)  # type: ignore[misc]


class _Loader(_Rules, yaml.SafeLoader):
    """Says what is wrong with a text, and where."""


class _FastLoader(_Rules, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The loader in C, several times as fast: reading a recipe is a good part of starting a command."""


class _Dumper(yaml.SafeDumper):
    """Quotes text that the loaders would read as a number; writes what is no character, as in paths of any bytes."""


class _FastDumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """The dumper in C, which takes characters alone."""


def _number(loader: Any, node: yaml.ScalarNode) -> int | float | str:
    """Read `010` as ten, as YAML 1.2 does, and `1:30` as text: to YAML 1.1 these are 8 and 90."""
    text = str(node.value).replace("_", "").lower()
    if ":" in text:
        return str(node.value)
    if node.tag.endswith(":float"):
        return float(loader.construct_yaml_float(node))
    return int(text, 0 if text.lstrip("+-")[1:2] in ("x", "b") else 10)


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _number)
    _FastLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _number)
for _rules in (_Loader, _FastLoader, _Dumper, _FastDumper):  # which take 6e-3 for text, since YAML 1.1 asks for 6.0e-3
    _rules.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+\Z"), list("-+0123456789")
    )


def load(text: str, explain: bool = True) -> Any:
    """The value of a YAML text: None, bool, int, float, str, and lists and mappings of them.

    Nothing in it is shared, so that a change to one place leaves the others alone.

    Args:
        text: what is read.
        explain: whether a fault says what is wrong and where, which takes many times longer than to find one.

    Raises:
        ValueError: not YAML, or more than `MAX_TEXT` characters, `MAX_VALUES` values, `MAX_DEPTH` levels; the message
            says why and, where that is known, in which line.
    """
    if len(text) > MAX_TEXT:
        raise ValueError(f"it has {len(text)} characters, and at most {MAX_TEXT} are read")
    if _DEEP.search(text):  # of which PyYAML reads thousands for seconds
        raise ValueError(_TOO_DEEP)
    return _plain(_loaded(text, explain), [MAX_VALUES], MAX_DEPTH)


def dump(value: Any) -> str:
    """The YAML text that `load` reads as a value again."""
    how: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "width": 100}
    try:
        return str(yaml.dump(value, Dumper=_FastDumper, **how))
    except UnicodeEncodeError:
        return str(yaml.dump(value, Dumper=_Dumper, **how))


def load_argument(text: str, takes_list: bool) -> Any:
    """The value of a word of a command line; `0,1` is `[0, 1]` where a list may stand. Raises as `load`."""
    return load(f"[{text}]" if takes_list and _BARE_LIST.fullmatch(text) else text)


def load_word(text: str) -> str | None:
    """The value of a word of a command line where only text may stand: as it is written, without quotes around it.

    Folders may be called 2024, 1_000, yes, #2 or @home. Nothing, `null` and `~` are None.
    """
    word = text.strip()
    if word.lower() in ("", "null", "~"):
        return None
    try:
        read = load(word) if word[0] in "'\"" else word
    except ValueError:
        return word
    return read if isinstance(read, str) else word


def _loaded(text: str, explain: bool) -> Any:
    try:
        return yaml.load(text, _FastLoader)  # nosec B506: a safe loader
    except Exception:  # what PyYAML raises on some texts is none of its own errors
        if not explain:
            raise ValueError("it cannot be read") from None
    try:
        return yaml.load(text, _Loader)  # nosec B506: a safe loader
    except Exception as fault:
        line = getattr(getattr(fault, "problem_mark", None), "line", None)
        at = f" (line {line + 1})" if line is not None else ""
        raise ValueError(f"{getattr(fault, 'problem', None) or 'it cannot be read'}{at}") from None


def _plain(value: Any, left: list[int], levels: int) -> Any:
    """A copy that shares nothing; `left` counts down the values that may still come."""
    left[0] -= 1
    if left[0] < 0:
        raise ValueError(f"it has more than {MAX_VALUES} values; repeat fewer aliases")
    if levels < 0:
        raise ValueError(_TOO_DEEP)
    if isinstance(value, dict):
        return {_plain(key, left, 0): _plain(item, left, levels - 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, left, levels - 1) for item in value]
    if isinstance(value, int) and abs(value) > MAX_NUMBER:
        raise ValueError("an integer has at most 64 bits, and one in it has more")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"values are text, numbers, lists and mappings, but one is a {type(value).__name__}; quote it")
