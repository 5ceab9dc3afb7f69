"""Checks of the pieces of a user's own that a recipe names, in its space and at its sizes, before anything starts."""

import torch

from topocell import testing
from topocell.config.recipe import Recipe
from topocell.registry import is_foreign, known
from topocell.spaces.cell import SpaceSpec
from topocell.supernet.arch_state import ArchState


def check_pieces(recipe: Recipe, space: SpaceSpec) -> None:
    """Raise RecipeError where a piece of a user's own, which the recipe names, fails its contract.

    Losses are checked beside, with the classes of the images.
    """
    if is_foreign(known("skeleton")[space.skeleton].layout):
        testing.check_skeleton(space.skeleton)
    sizes = [recipe.search.size(stage) for stage in recipe.search.stages]
    strides = tuple(sorted({1, *(cell.stride for cell in space.cells.values())}))
    for name in sorted(offered(space)):
        if is_foreign(known("operation")[name].module):
            for channels in sorted({size["channels"] // size["partial"] for size in sizes}):
                testing.check_operation(name, channels, strides)
    for stage in recipe.search.stages:
        for cell in space.cells.values():
            for kind, choice, suite in (
                ("relaxation", stage.relaxation, testing.check_relaxation),
                ("topology", stage.topology, testing.check_topology),
            ):
                if is_foreign(known(kind)[choice.name]):
                    suite(choice.name, cell, **choice.model_dump(exclude={"name"}))
    _check_in_stages(recipe, space)


def _check_in_stages(recipe: Recipe, space: SpaceSpec) -> None:
    """Check what reads the architecture in each stage, since every epoch shows the cell that would be derived."""
    rules = [("operation rule", recipe.selection.operations), ("edge rule", recipe.selection.edges)]
    own_rules = [(kind, name) for kind, name in rules if is_foreign(known(kind)[name])]
    for stage in recipe.search.stages:
        choices = stage.relaxation.model_dump(), stage.topology.model_dump()
        for kind, name in own_rules:
            testing.check_rule(name, kind, ArchState(space, *choices, generator=torch.Generator().manual_seed(0)))
        level = stage.level if stage.epochs > stage.warmup else "weights"  # α and β may have nothing to learn
        keys = {"level": level, "relaxation": stage.relaxation, "topology": stage.topology}
        channels = recipe.search.size(stage)["channels"]
        for name, options in (stage.mechanisms.model_extra or {}).items():
            if options is not None and is_foreign(known("mechanism")[name]):
                testing.check_mechanism(name, keys, space, channels, **options)


def offered(space: SpaceSpec) -> set[str]:
    """The operations that any edge of a space offers."""
    return {op for cell in space.cells.values() for candidates in cell.candidates for op in candidates}
