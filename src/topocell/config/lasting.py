"""The part of a recipe that stays as it is while a run lasts: it tells runs apart, and results rest on it alone."""

import hashlib
import reprlib
from collections.abc import Mapping
from typing import Any

#: Keys of `data` that say where images are, and who reads them, and not what they are: a fingerprint tells those.
PLACES = ("root", "download", "cache_root", "workers")

#: Keys of a recipe that may change while a run lasts: they choose the reaction to faults, the device, or how it works.
#: Where latency is measured the kind of device stays.
_MAY_CHANGE = ("device", "on_nan", "runtime", "log", *(f"data.{key}" for key in PLACES), "selection.trials.workers")


def lasting(recipe: Any) -> Any:
    """Return the part of a recipe that stays while a run lasts, with the order of its stages, which mappings lack."""
    if not isinstance(recipe, dict):
        return recipe
    kept = _without(recipe)
    if measures_latency(recipe):
        kept["device"] = str(recipe.get("device")).partition(":")[0]
    search = kept.get("search")
    if isinstance(search, dict) and isinstance(search.get("stages"), dict):
        kept["search"] = search | {"order of stages": list(search["stages"])}
    return kept


def _without(part: dict[Any, Any], where: str = "") -> dict[Any, Any]:
    """A part of a recipe, at a path that ends in a dot, without what may change."""
    return {
        key: _without(value, f"{where}{key}.") if isinstance(value, dict) else value
        for key, value in part.items()
        if not may_change(f"{where}{key}")
    }


def may_change(key: str) -> bool:
    """Return whether a key of a recipe, such as `data.root`, may change while a run lasts that measures no latency."""
    return any(f"{key}.".startswith(f"{free}.") for free in _MAY_CHANGE)


def measures_latency(recipe: Mapping[str, Any]) -> bool:
    """Return whether a search or the choice of its cell rests on a latency, which is that of one kind of device."""
    plans = [(recipe.get("search"), "cost"), (recipe.get("selection"), "budget")]
    found = [part.get(key) for part, key in plans if isinstance(part, dict)]
    return any(isinstance(plan, dict) and plan.get("measure") == "latency" for plan in found)


def _ordered(value: Any) -> Any:
    """A recipe with the keys of its mappings in order, so that equal ones read the same."""
    if isinstance(value, dict):
        return sorted((repr(key), _ordered(item)) for key, item in value.items())
    return [_ordered(item) for item in value] if isinstance(value, list) else value


def first_difference(then: Any, now: Any, where: str = "") -> str | None:
    """The first place at which two recipes differ, in words, or None when they say the same."""
    if isinstance(then, dict) and isinstance(now, dict):
        keys: list[Any] = [*then, *(key for key in now if key not in then)]
        parts = [(f"{where}.{key}" if where else f"{key}", then.get(key), now.get(key)) for key in keys]
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        parts = [(f"{where}[{index}]", a, b) for index, (a, b) in enumerate(zip(then, now, strict=True))]
    elif type(then) is type(now) and then == now:
        return None
    else:
        return f"key {where or '(top)'} is {reprlib.repr(then)} there and {reprlib.repr(now)} here"
    return next((found for key, a, b in parts if (found := first_difference(a, b, key))), None)


def recipe_hash(recipe: Any) -> str:
    """Hash the part of a recipe that stays as it is while a run lasts."""
    return hashlib.sha256(repr(_ordered(lasting(recipe))).encode()).hexdigest()
