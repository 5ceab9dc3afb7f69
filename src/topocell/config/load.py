"""Reading recipes: YAML files and `key=value` overrides, with every fault at once, before anything starts.

A recipe is resolved in this order: the defaults of the schema, the recipe it `extends`, the file itself, the budget,
and overrides. Mappings are merged; a recipe has stages of its own where it sets those of the one it extends to null.
"""

import copy
import difflib
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from topocell.arguments import checked
from topocell.config.budgets import BUDGETS
from topocell.config.plain_words import in_plain_words, independent, nested
from topocell.config.recipe import Budget, Recipe
from topocell.config.reference import elsewhere, read_argument, takes_null, usual
from topocell.config.search import Stage
from topocell.errors import RecipeError, check_known, nearest
from topocell.io import files, plain_yaml


@checked(RecipeError)
def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = (), budget: Budget | str = "paper") -> Recipe:
    """Read a recipe by name or from a file, apply a budget and `key=value` overrides, and check everything.

    Args:
        name_or_path: a name of `recipe_names()`, or the path of a YAML file.
        overrides: e.g. `["data.dataset=digits", "search.stages.topology.epochs=5", "retrain.seeds=[0,1,2]"]`;
            values are YAML, a list may also be written `0,1,2`; stages are addressed by name.
        budget: `"paper"` leaves the recipe as published; `"small"` scales it to minutes, `"smoke"` to seconds.

    Raises:
        RecipeError: unknown recipe, unreadable YAML, or any fault in it; all faults are in one message.
    """
    data = _read(name_or_path, [])
    check_known("budget", budget, BUDGETS, RecipeError)
    refinements = _own_budgets(data.pop("budgets", None), str(name_or_path))
    changes = [_parse_override(text) for text in overrides]
    for key, value in changes:
        if key == "data.dataset" or key.split(".")[0] == "space":  # the sizes of a budget depend on them
            _override(data, key, value)
    if budget != "paper":
        scaled = BUDGETS[budget](_check(data, str(name_or_path)), {key for key, _ in changes})
        data = scaled.model_dump(mode="json")
    data = merge(data, refinements.get(budget, {}))
    for key, value in changes:
        _override(data, key, value)
    return _check(data, str(name_or_path))


def resolved(text: str) -> Recipe:
    """A recipe from the text of a resolved recipe.yaml (no `extends`, no budget).

    Raises:
        RecipeError: any fault.
    """
    return _check(_parse(text, "recipe.yaml"), "recipe.yaml")


def overridden(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of a part of a recipe with `key=value` overrides. Raises RecipeError for a text of another form."""
    changed = copy.deepcopy(dict(data))
    for text in overrides:
        _override(changed, *_parse_override(text))
    return changed


def reselected(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with another selection: `changes` are laid over its `selection`.

    Raises:
        RecipeError: any fault.
    """
    return _check(merge(recipe.model_dump(mode="json"), {"selection": dict(changes)}), recipe.name)


def shallow_of(recipe: Recipe) -> Recipe:
    """The recipe whose full retraining is the shallow one."""
    plan = recipe.shallow.plan().model_dump(mode="json")
    return _check({**recipe.model_dump(mode="json"), "retrain": plan, "protocol": "full"}, recipe.name)


#: Settings that a further retraining of a cell may have otherwise than the run that found it.
RETRAINED = ("retrain", "data", "device", "precision", "compile", "on_nan", "runtime", "log")


def retrained(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """The recipe with other settings of the retraining; it is trained in full.

    Args:
        recipe: of the run that has the cell.
        overrides: `key=value` of `retrain`, `data`, `device`, `precision`, `compile`, `on_nan`.

    Raises:
        RecipeError: any fault.
    """
    for key, _ in map(_parse_override, overrides):
        if (part := key.split(".")[0]) not in RETRAINED:
            raise RecipeError(
                f"a retraining may change {', '.join(RETRAINED)}, but got {key!r}"
                f"{nearest(part, RETRAINED)}; another search is begun with topocell run"
            )
    return _check({**overridden(recipe.model_dump(mode="json"), overrides), "protocol": "full"}, recipe.name)


def recipe_names() -> list[str]:
    """Names of the recipes that come with topocell."""
    return sorted(_builtin())


def recipe_summary(name: str) -> tuple[str, str]:
    """Describe a recipe that comes with topocell, with the published figure that it aims at; it is not checked."""
    data = _read(name, [])
    return data.get("about", ""), data.get("published", "")


def stage_names(name_or_path: str | Path) -> list[str]:
    """Names of the stages of a recipe, which is not checked. Raises RecipeError where there is none."""
    return _stages_of(_read(name_or_path, []))


def _stages_of(data: Mapping[str, Any]) -> list[str]:
    search = data.get("search")
    stages = search.get("stages") if isinstance(search, dict) else None
    return [name for name, stage in stages.items() if stage is not None] if isinstance(stages, dict) else []


def recipe_text(name_or_path: str | Path) -> str:
    """The file of a recipe as written: of one that comes with topocell by its name, of any by its path.

    Raises:
        RecipeError: unknown name, or a file that cannot be read.
    """
    if _is_path(name_or_path):
        try:
            with open(name_or_path, encoding="utf-8") as file:
                text = file.read(plain_yaml.MAX_TEXT + 1)
        except (OSError, ValueError) as fault:
            raise RecipeError(f"cannot read the recipe {str(name_or_path)!r}: {files.unread(fault)}") from None
        if len(text) > plain_yaml.MAX_TEXT:
            most, path = plain_yaml.MAX_TEXT, str(name_or_path)
            raise RecipeError(f"a recipe has at most {most} characters, but {path!r} has more; check the path")
        return text
    if name_or_path not in _builtin():
        raise RecipeError(
            f"unknown recipe {name_or_path!r}{nearest(name_or_path, recipe_names())}; `topocell recipes list` shows "
            f"all, a path to a YAML file works too"
        )
    return _builtin()[str(name_or_path)].read_text(encoding="utf-8")


def merge(base: Any, change: Any, inside: bool = False) -> Any:
    """`base` with `change` laid over it; neither is modified.

    A choice of another name replaces the old one with its options, and `splits` are replaced as a whole; `inside`
    says that this is not the recipe itself, whose name may change freely.
    """
    if isinstance(change, Mapping) and isinstance(base, Mapping):
        if inside and isinstance(change.get("name"), str) and change["name"] != base.get("name"):
            return copy.deepcopy(dict(change))
        out = copy.deepcopy(dict(base))
        for key, value in change.items():
            if key == "stages" and isinstance(value, Mapping) and isinstance(out.get(key), Mapping):
                out[key] = _merge_stages(out[key], value)
                continue
            whole = key not in out or key == "splits"
            out[key] = copy.deepcopy(value) if whole else merge(out[key], value, inside=True)
        return out
    return copy.deepcopy(change)


def _merge_stages(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """The stages of a recipe with those of another laid over them; null drops one, and only then are there new ones."""
    live = [name for name, stage in base.items() if stage is not None]
    added = [name for name in change if name not in live]
    if added and not any(name in live and stage is None for name, stage in change.items()):
        raise RecipeError(
            f"there is no stage {added[0]!r}{nearest(added[0], live)}; the stages are {', '.join(live)}; to put others "
            f"in their place, set these to null"
        )
    merged = {name: merge(base[name], change[name], inside=True) if name in change else base[name] for name in live}
    return copy.deepcopy({name: s for name, s in (merged | {n: change[n] for n in added}).items() if s is not None})


@cache
def _builtin() -> dict[str, Traversable]:
    """Name → file of the recipes that come with topocell: those of a paper in one folder, others above."""
    top = resources.files("topocell.config") / "recipes"
    files = [file for place in (top, *(p for p in top.iterdir() if p.is_dir())) for file in place.iterdir()]
    return {file.name.removesuffix(".yaml"): file for file in files if file.name.endswith(".yaml")}


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        data = plain_yaml.load(text)
    except ValueError as fault:
        raise RecipeError(f"{where} is not valid YAML: {fault}; mend it") from None
    if not isinstance(data, dict) or not all(isinstance(k, str) for k in data):
        raise RecipeError(f"{where}: a recipe is a mapping of keys to values, but got {type(data).__name__}")
    return data


def _is_path(name_or_path: str | Path) -> bool:
    path = Path(name_or_path)
    return path.suffix in (".yaml", ".yml") or len(path.parts) > 1


def _read(name_or_path: str | Path, seen: list[str]) -> dict[str, Any]:
    """A recipe laid over the one it extends; a path after `extends` starts from the folder of the file it is in."""
    here = os.path.normpath(name_or_path) if _is_path(name_or_path) else str(name_or_path)
    if here in seen:
        raise RecipeError(f"recipes extend each other in a circle: {' → '.join([*seen, here])}; leave one extends out")
    data = _parse(recipe_text(name_or_path), str(name_or_path))
    parent = data.pop("extends", None)
    if parent is None:
        return data
    if not isinstance(parent, str):
        raise RecipeError(f"extends must be the name or path of a recipe, but got {parent!r}")
    base = Path(name_or_path).parent / parent if _is_path(parent) else parent
    return dict(merge(_read(base, [*seen, here]), data))


def _own_budgets(value: Any, where: str) -> dict[str, dict[str, Any]]:
    """Return the section `budgets` of a recipe: name of a budget → changes."""
    own = {} if value is None else value
    if not isinstance(own, dict) or not all(isinstance(change, dict) for change in own.values()):
        raise RecipeError(f"{where}: budgets has a mapping of changes for each budget it refines, but got {value!r}")
    for name in own:
        if name not in BUDGETS:
            raise RecipeError(
                f"{where}: budgets.{name}: unknown budget{nearest(name, BUDGETS)}; known: {', '.join(BUDGETS)}"
            )
    return own


def _parse_override(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise RecipeError(f"an override has the form key=value, but got {text!r}; e.g. retrain.epochs=100")
    try:
        read = read_argument(key.strip(), value)
    except ValueError as fault:
        raise RecipeError(f"the value of the override {text!r} is not valid YAML: {fault}; mend it") from None
    if isinstance(read, dict) and (joined := [k for k, v in read.items() if v is None and re.search("[:=]", str(k))]):
        raise RecipeError(f"a mapping has a colon and a blank after each key, but {key} has {joined[0]!r}; mend it")
    if value.partition("#")[0].strip() and str(read).count("#") < value.count("#"):  # as of a folder "photos #2"
        raise RecipeError(
            f"an override has no comment, but # begins one in {text!r}; write the value in quotes, in a shell "
            f"{key.strip()}='\"{value.strip()}\"'"
        )
    return key.strip(), read


def _override(data: dict[str, Any], key: str, value: Any) -> None:
    at: Any = data
    parts = key.split(".")
    if len(parts) > plain_yaml.MAX_DEPTH:
        most = plain_yaml.MAX_DEPTH
        raise RecipeError(f"a key has at most {most} parts, but {key[:60]!r}.. has {len(parts)}; shorten it")
    for i, part in enumerate(parts):
        last, where = i == len(parts) - 1, ".".join(parts[: i + 1])
        if not isinstance(at, dict | list):
            raise RecipeError(f"{'.'.join(parts[:i])} is a single value, so {key!r} cannot be set inside it")
        if isinstance(at, list):
            if part not in map(str, range(len(at))):
                raise RecipeError(f"{where}: there is no {part!r}; known: {', '.join(map(str, range(len(at))))}")
            if last:
                at[int(part)] = value
            at = at[int(part)]
            continue
        if parts[:i] == ["search", "stages"] and part not in at:
            raise RecipeError(f"{where}: there is no {part!r}{nearest(part, at)}; known: {', '.join(at)}")
        if last:
            at[part] = value
        else:
            if isinstance(at.get(part), str) and part in ("space", "relaxation", "topology", "loss", "augment"):
                at[part] = {"name": at[part]}
            elif isinstance(at.get(part), int | float):
                at[part] = {"start": at[part]}
            at[part] = {} if at.get(part) is None else at[part]
            at = at[part]


def _check(data: Mapping[str, Any], where: str) -> Recipe:
    search = data.get("search")
    if isinstance(search, dict) and isinstance(search.get("stages"), list):
        raise RecipeError(
            f"{where}: search.stages is a mapping from names to stages, but got a list; write each `- name: NAME` as "
            f"`NAME:`"
        )
    infinite = {f"{'.'.join(path)}:": value for path, value in _infinite(data, ())}
    lines = [f"{key} must be finite, but got {value}" for key, value in infinite.items()]
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as fault:
        lines += [line for line in _faults(fault, data) if not line.startswith(tuple(infinite))]
    if lines:
        raise RecipeError(f"{where}: " + "; ".join(dict.fromkeys(lines)))
    return recipe


def _infinite(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], float]]:
    """List the places at which a recipe holds a number that is none, or has no end."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path, value
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from _infinite(item, (*path, str(key)))


def _faults(error: ValidationError, data: Any) -> list[str]:
    lines: list[str] = []
    for item in independent(error):
        path, model = _readable(item["loc"], data)
        if item["type"] == "extra_forbidden":
            known = _known_keys(path)
            if "." in path[-1]:
                near = f"; in a file it is written {nested(path[-1])}"
            else:
                known += ["extends"] * (len(path) == 1)
                there = elsewhere(path, item["input"], _stages_of(data))
                whole = {key: ".".join([*path[:-1], key]) for key in known}
                close = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.6 if not there else 0.8)
                near = usual(path) or (f" (did you mean {whole[close[0]]!r}?)" if close else there)
            lines.append(f"{model}: unknown key{near}" + (f"; known: {', '.join(known)}" if known and not near else ""))
        elif item["type"] == "missing":
            lines.append(f"{model}: is required")
        elif item["type"] == "value_error":
            message = item["msg"].removeprefix("Value error, ")
            lines += [line if not item["loc"] else f"{model}: {line}" for line in message.split("\n")]
        else:
            lines.append(in_plain_words(item, model, takes_null(model)))
    return lines


def _readable(loc: Sequence[int | str], data: Any) -> tuple[list[str], str]:
    """The path of a fault in the user's words: stage names in place of numbers, without union branches."""
    at, path = data, []
    for part in loc:
        if isinstance(at, list) and isinstance(part, int) and part < len(at):
            at = at[part]
            path.append(str(part))
        elif path == ["search", "stages"] and isinstance(at, dict) and isinstance(part, int) and part < len(at):
            name = list(at)[part]
            at = at[name]
            path.append(str(name))
        elif isinstance(at, dict) and part in at:
            at = at[part]
            path.append(str(part))
        elif isinstance(at, dict) or (isinstance(at, list) and isinstance(part, int)):
            path.append(str(part))
            break
        else:
            break
    return path or [""], ".".join(path) or "recipe"


def _known_keys(path: Sequence[str]) -> list[str]:
    model: type[BaseModel] | None = Recipe
    if path[:2] == ["search", "stages"] and len(path) > 3:
        model, path = Stage, path[3:]
    for part in path[:-1]:
        field = model.model_fields.get(part) if model is not None else None
        kinds = (field.annotation, *get_args(field.annotation)) if field is not None else ()
        model = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
    return list(model.model_fields) if model is not None else []
