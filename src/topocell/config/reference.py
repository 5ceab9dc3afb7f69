"""Every key of a recipe, with type, default and meaning, read off the models that check recipes."""

import difflib
import inspect
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from topocell.config.recipe import Recipe
from topocell.config.values import Choice, Curve
from topocell.errors import RecipeError, nearest
from topocell.io import plain_yaml

#: Stands for the name of a stage.
NAME = "NAME"
_REQUIRED = object()


class Key(NamedTuple):
    """A key of a recipe.

    Args:
        name: dotted, as in an override; `NAME` in it is the name of a stage.
        kind: what its value is, in words.
        default: as it is written in a recipe; `required` where there is none.
        about: its meaning; empty where the name says it.
    """

    name: str
    kind: str
    default: str
    about: str


def keys(prefix: str = "") -> list[Key]:
    """Return all keys that begin with a prefix, in the order of a recipe.

    Raises:
        RecipeError: there is none.
    """
    every = _every()
    found = [key for key in every if key.name.startswith(prefix)]
    if not found:
        names = [key.name for key in every]
        raise RecipeError(
            f"no key of a recipe begins with {prefix!r}{nearest(prefix, names)}; see: topocell recipes keys"
        )
    return found


def explain(name: str) -> Key:
    """Return one key. The name of a stage may stand in it.

    Raises:
        RecipeError: there is no such key.
    """
    plain = _with_name(name)
    every = {key.name: key for key in _every()}
    if plain not in every:
        raise RecipeError(f"unknown key {name!r}{nearest(plain, every)}; see: topocell recipes keys")
    return every[plain]


def takes_list(name: str) -> bool:
    """Return whether a list may stand at a key; also where only the piece that has it as an option knows."""
    return "list of" in (_kind(name) or "list of")


def read_argument(name: str, text: str) -> Any:
    """The value of a word of a command line for a key; where only text may stand, as it is written.

    One integer alone is a list of one where only a list of integers may stand, as seeds are.

    Raises:
        ValueError: other values that are not YAML, see `topocell.io.plain_yaml.load`.
    """
    if _kind(name) in ("text", "text or null"):
        return plain_yaml.load_word(text)
    value = plain_yaml.load_argument(text, takes_list(name))
    return [value] if type(value) is int and _kind(name) == "list of integer" else value


def takes_null(name: str) -> bool:
    """Return whether null may stand at a key."""
    found = _key(name)
    return found is not None and "null" in (found.default, found.kind.rpartition(" or ")[2])


def _kind(name: str) -> str | None:
    found = _key(name)
    return found.kind if found else None


def _key(name: str) -> Key | None:
    plain = _with_name(name)
    return next((key for key in _every() if key.name == plain), None)


#: Keys as other tools call them → ours.
_USUAL = {
    **{f"data.{word}": "data.resolution" for word in ("size", "image_size", "img_size", "input_size", "imgsz")},
    "data.name": "data.dataset",
    "seeds": "retrain.seeds",
    **{word: f"--{word}" for word in ("budget", "out")},
    **{f"data.{word}": "data.root" for word in ("path", "dir", "folder")},
}


def usual(path: Sequence[str]) -> str:
    """Suggest our key for one that other tools call so, as ` (did you mean 'x'?)`; or an empty string."""
    found = _USUAL.get(".".join(path))
    return f" (did you mean {found!r}?)" if found else ""


def elsewhere(path: Sequence[str], value: Any, stages: Sequence[str]) -> str:
    """Suggest keys at another place, for an unknown one: those that end alike, or else the one that reads most alike.

    Args:
        path: parts of the unknown key.
        value: what stands there; where it is a mapping of one key, that belongs to what was written.
        stages: names of the stages of the recipe.

    Returns ` (did you mean 'x', 'y' or 'z'?)`, or an empty string.
    """
    parts = list(path)
    while isinstance(value, Mapping) and len(value) == 1:
        ((key, value),) = value.items()
        parts.append(str(key))
    keys_of_recipe = [key.name for key in _every()]
    same = [name for name in keys_of_recipe if name.split(".")[-1] == parts[-1]]
    shared = [name for name in same if name.split(".")[0] == parts[0]]
    least = min((name.count(".") for name in shared or same), default=0)
    nearby = [name for name in shared or same if name.count(".") == least]
    found = sorted(nearby, key=lambda name: not name.startswith("retrain."))[:3]
    near = [name for name in keys_of_recipe if nearest(parts[-1], [name.split(".")[-1]])]
    found = found or difflib.get_close_matches(_with_name(".".join(parts)), near, n=1, cutoff=0.8)
    found = found or [name for name in near if name.split(".")[0] == parts[0]][:1]
    names = ", ".join(stages)
    of_stages = f", where {NAME} is one of {names}" if names and any(NAME in name for name in found) else ""
    *others, last = [repr(name) for name in found] or [""]
    return f" (did you mean {' or '.join(filter(None, (', '.join(others), last)))}{of_stages}?)" if found else ""


@cache
def _every() -> tuple[Key, ...]:
    return tuple(_keys_of(Recipe, ""))


def _with_name(name: str) -> str:
    """A key with `NAME` in place of the name of a stage."""
    return re.sub(r"^search\.stages\.[^.]+\.", f"search.stages.{NAME}.", name)


def markdown() -> str:
    """Return the page of all keys, docs/recipe-keys.md."""
    rows = "\n".join(f"| `{k.name}` | {k.kind} | {k.default} | {k.about} |".replace("*", "\\*") for k in keys())
    return f"""# Keys of recipes

Made from the models that check recipes, by `python -m topocell.config.reference > docs/recipe-keys.md`. On the command
line: `topocell recipes keys [PREFIX]`, `topocell recipes explain KEY`. `NAME` is the name of a stage. A list is written
`0,1,2`, one seed alone as `0`; or in brackets, which some shells want in quotes: `'retrain.seeds=[0]'`.

| key | value | default | meaning |
|---|---|---|---|
{rows}
"""


def differences(recipe: Recipe) -> list[tuple[str, str]]:
    """Return the keys of a recipe whose values are not the defaults, in order, each with its value."""
    return list(_different(recipe, None, ""))


def _different(
    value: BaseModel, default: BaseModel | None, prefix: str, every: bool = False
) -> Iterator[tuple[str, str]]:
    """The keys that are not as in `default`, or as the fields say; `every` key of a model that is optional."""
    for name, field in type(value).model_fields.items():
        mine, usual = getattr(value, name), None if every else _default_of(name, field, default)
        if prefix + name == "search.stages":
            for stage in mine:
                yield from _different(stage, None, f"search.stages.{stage.name}.")
        elif mine == usual or (prefix.startswith("search.stages.") and name == "name"):
            continue
        elif isinstance(mine, BaseModel) and not isinstance(mine, Choice | Curve):
            yield from _different(
                mine, usual if isinstance(usual, BaseModel) else None, f"{prefix}{name}.", usual is None
            )
        else:
            extra = mine.model_extra if isinstance(mine, Choice) else None
            options = ", ".join(f"{key}={item}" for key, item in (extra or {}).items())
            yield prefix + name, f"{_written(mine)} ({options})" if options else _written(mine)
    if not isinstance(value, Choice):
        yield from ((prefix + name, str(own)) for name, own in (value.model_extra or {}).items())


def _keys_of(model: type[BaseModel], prefix: str, given: BaseModel | None = None) -> Iterator[Key]:
    """The keys of a model; `given` is what stands there by default in a larger one."""
    about = _about(model)
    for name, field in model.model_fields.items():
        inner, default = _model_in(field.annotation), _default_of(name, field, given)
        if inner is None or issubclass(inner, Choice | Curve):
            yield Key(prefix + name, _words(field.annotation), _written(default), about.get(name, ""))
        elif prefix + name == "search.stages":
            yield from _keys_of(inner, f"{prefix}{name}.{NAME}.")
        else:
            if about.get(name) or default is None:
                yield Key(prefix + name, "section", _written(default), about.get(name, ""))
            yield from _keys_of(inner, f"{prefix}{name}.", default if isinstance(default, inner) else None)


def _default_of(name: str, field: FieldInfo, given: BaseModel | None) -> Any:
    """The default of a field: that of the model which stands in a larger one by default, if there is one."""
    if given is not None:
        return getattr(given, name)
    return _REQUIRED if field.is_required() else field.get_default(call_default_factory=True)


def _about(model: type[BaseModel]) -> dict[str, str]:
    """Field → its entry under `Attributes:`, of the model itself or of one that it is made from."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        text = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        _, _, section = text.partition("Attributes:\n")
        for entry in re.split(r"\n(?=    \w)", "\n" + section.split("\n\n")[0]):
            names, colon, words = entry.strip().partition(": ")
            if colon and re.fullmatch(r"\w+(, \w+)*", names):
                found |= dict.fromkeys(names.split(", "), " ".join(words.split()))
    return found


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation is, or that it names beside None, or as the items of a tuple."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, tuple):
        models = [model for part in get_args(annotation) if (model := _model_in(part)) is not None]
        return models[0] if models else None
    return _model_in(get_args(annotation)[0]) if hasattr(annotation, "__metadata__") else None


def _words(annotation: Any) -> str:
    """The type of a value as a user would say it."""
    if hasattr(annotation, "__metadata__"):
        return _words(get_args(annotation)[0])
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(map(str, parts))
    if origin in (Union, types.UnionType):
        return " or ".join("null" if part is type(None) else _words(part) for part in parts)
    if origin in (tuple, list):
        return f"list of {_words(parts[0])}"
    if origin is dict:
        return f"mapping from {_words(parts[0])} to {_words(parts[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Choice):
        return "name, or name with options"
    if annotation is Curve:
        return f"number, or {', '.join(Curve.model_fields)}"
    plain = {Any: "value", int: "integer", float: "number", str: "text", bool: "true or false"}
    return plain.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _written(value: Any) -> str:
    """A default as a recipe has it."""
    if value is _REQUIRED:
        return "required"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Curve):
        first, last, of = value.span
        part = "" if value.span == (0.0, 1.0, 1.0) else f", epochs {first:g} to {last:g} of {of:g}"
        if value.shape == "step":
            at = f"every {value.every} epochs" if value.every else f"at epochs {', '.join(map(str, value.milestones))}"
            part = f", times {value.factor:g} {at}"
        if value.warmup:
            part += f", {value.warmup} epochs of warm-up from {value.warmup_start:g}"
        return (
            f"{value.start:g}{part}" if value.end is None else f"{value.start:g} to {value.end:g}, {value.shape}{part}"
        )
    if isinstance(value, BaseModel):
        return str(getattr(value, "name", "")) if isinstance(value, Choice) else ""
    if isinstance(value, tuple | list):
        return f"[{', '.join(str(getattr(item, 'name', item)) for item in value)}]"
    return str(value) if value != "" else '""'


if __name__ == "__main__":
    print(markdown(), end="")
