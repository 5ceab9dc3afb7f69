"""The setting of a run beside the published one, and the stamp of a run that is too small to say anything.

Recipes are dicts as recipe.yaml has them; what is missing or damaged is passed over.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from topocell.config.budgets import SMOKE
from topocell.config.load import load_recipe, recipe_names
from topocell.errors import TopocellError
from topocell.reporting.ground_truth import ground_truth_headline, ground_truth_of
from topocell.reporting.scores import accuracy_of
from topocell.reporting.setting import SMOKE_STAMP, Setting
from topocell.reporting.tables import is_number

Recipe = Mapping[str, Any]


class _Scale(NamedTuple):
    """One size of a recipe: its name in a table, how it is counted in a sentence, and where it is found."""

    name: str
    words: str
    find: Callable[[Recipe], Any]


def _at(recipe: Recipe, *keys: str) -> Any:
    value: Any = recipe
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _search_epochs(recipe: Recipe) -> int | None:
    stages = _at(recipe, "search", "stages")
    found = [_at(stage, "epochs") for stage in stages.values()] if isinstance(stages, Mapping) else []
    return sum(found) if found and all(isinstance(epochs, int) for epochs in found) else None


def _seeds(recipe: Recipe) -> int | None:
    seeds = _at(recipe, "retrain", "seeds")
    return len(seeds) if isinstance(seeds, list) else None


#: None stands for all images, and for images as they are; `_ALL` in tables.
_SCALES = (
    _Scale("training images", "training images", lambda recipe: _at(recipe, "data", "images")),
    _Scale("image size", "pixels", lambda recipe: _at(recipe, "data", "resolution")),
    _Scale("search epochs", "search epochs", _search_epochs),
    _Scale("search: channels", "channels of the search", lambda recipe: _at(recipe, "search", "channels")),
    _Scale("search: cells", "cells of the search", lambda recipe: _at(recipe, "search", "layers")),
    _Scale("retraining epochs", "retraining epochs", lambda recipe: _at(recipe, "retrain", "epochs")),
    _Scale("retraining: channels", "channels of the network", lambda recipe: _at(recipe, "retrain", "channels")),
    _Scale("retraining: cells", "cells of the network", lambda recipe: _at(recipe, "retrain", "layers")),
    _Scale("retraining seeds", "seeds", _seeds),
)
_ALL = {"training images": "all", "image size": "as they are"}
#: What differs without making results say less.
_NO_REDUCTION = ("retraining seeds",)


def published_recipe(recipe: Recipe) -> dict[str, Any] | None:
    """Return the recipe of that name as published; None where there is none."""
    name = recipe.get("name")
    return _published(name) if isinstance(name, str) else None


@functools.cache
def _published(name: str) -> dict[str, Any] | None:
    """By its name; a comparison asks for that of each of its runs."""
    try:
        return load_recipe(name).model_dump(mode="json") if name in recipe_names() else None
    except TopocellError:
        return None


def stamp(recipe: Recipe, looked_up: bool = False) -> tuple[str, str]:
    """Return the stamp of a run and what it means, or two empty texts for a run of the published size or of one's own.

    Args:
        recipe: of the run.
        looked_up: whether the accuracy is from a table, so that nothing was trained to get it.
    """
    if words := smoke_words(recipe, looked_up):
        return SMOKE_STAMP[0], f"{words[:1].upper()}{words[1:]}. {SMOKE_STAMP[1]}"
    published = published_recipe(recipe)
    scales = [scale for scale in _SCALES if scale.name not in _NO_REDUCTION]
    if _at(recipe, "data", "dataset") != _at(published or {}, "data", "dataset"):
        scales = [scale for scale in scales if scale.name != "image size"]  # other images have a size of their own
    if looked_up:
        scales = [scale for scale in scales if not scale.name.startswith("retraining")]
    less = [words for scale in scales if (words := _less(scale, recipe, published or {}))]
    if published is None or not less:
        return "", ""
    return "Reduced setting", f"{', '.join(less)}. Accuracies and the order of methods may be others at full size."


def smoke_words(recipe: Recipe, looked_up: bool) -> str:
    """Return what makes a run too small to say anything, in words; empty where nothing does. Arguments as `stamp`."""
    images, trained, searched = _at(recipe, "data", "images"), _at(recipe, "retrain", "epochs"), _search_epochs(recipe)
    stages = _at(recipe, "search", "stages")
    few = 2 * len(stages) if isinstance(stages, Mapping) else 0
    found = [
        f"{images} training images" if is_number(images) and images <= SMOKE.images else "",
        f"a search of {searched} epochs" if searched and searched <= few else "",
        "1 epoch of retraining" if trained == SMOKE.retrain_epochs and not looked_up else "",
    ]
    return ", ".join(filter(None, found))


def _less(scale: _Scale, recipe: Recipe, published: Recipe) -> str:
    """`300 of all training images` where a run has less of something than published; empty otherwise."""
    mine, theirs = scale.find(recipe), scale.find(published)
    if not is_number(mine) or (is_number(theirs) and mine >= theirs) or (theirs is None and scale.name not in _ALL):
        return ""
    whole = f"{theirs:,}" if is_number(theirs) else "all"
    return f"{mine} pixels a side" if scale.words == "pixels" else f"{mine:,} of {whole} {scale.words}"


def setting_table(recipe: Recipe, results: Mapping[str, Any]) -> list[list[str]]:
    """A table of what a run and the published result rest on, the header first; empty without a published result.

    The published figure stands beside ours, each with the setting that it is of. Ours of a shallow evaluation has none.
    """
    text, published = recipe.get("published"), published_recipe(recipe)
    if not isinstance(text, str) or not text or published is None or "protocol" in results:
        return []
    dataset = results.get("dataset") or _at(recipe, "data", "dataset") or "—"
    rows = [["", "published", "this run"], ["result", text, _result(results)]]
    rows.append(["data", str(_at(published, "data", "dataset")), str(dataset)])
    for scale in _SCALES:
        mine, theirs = scale.find(recipe), scale.find(published)
        if scale.name == "training images" and mine is None:
            mine = results.get("train_images")
        rows.append([scale.name, _shown(scale, theirs), _shown(scale, mine)])
    return rows


def _result(results: Mapping[str, Any]) -> str:
    if truth := ground_truth_of(results):
        return f"{ground_truth_headline(truth)['last']} (table)"
    return accuracy_of(results, "last")


def _shown(scale: _Scale, value: Any) -> str:
    return f"{value:,}" if is_number(value) else _ALL.get(scale.name, "—")


def setting_of(recipe: Recipe, results: Mapping[str, Any]) -> Setting:
    """Return the stamp of a run and its setting beside the published one, for a page."""
    title, words = stamp(recipe, bool(ground_truth_of(results)))
    return Setting(title, words, setting_table(recipe, results))
