"""Completion in a shell: names of recipes, and keys of overrides. It needs no PyTorch and never fails aloud."""

from topocell.config.load import recipe_names, stage_names
from topocell.config.reference import NAME, keys
from topocell.errors import TopocellError


def complete_recipes(start: str) -> list[str]:
    """Names of recipes that begin so."""
    return [name for name in recipe_names() if name.startswith(start)]


def complete_overrides(recipe: str | None, start: str) -> list[str]:
    """Keys that begin so, each with `=`; those of stages once for each stage of the recipe, if that can be read."""
    try:
        stages = stage_names(recipe) if recipe else []
    except TopocellError:
        stages = []
    names = [key.name for key in keys() if key.kind != "section"]
    own = [name.replace(NAME, stage) for name in names for stage in (stages if NAME in name else [""])]
    return [f"{name}=" for name in own if name.startswith(start)]
