"""The steps of a run on its directory: from a recipe, or from what the directory holds."""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from topocell.config.load import resolved
from topocell.config.recipe import Recipe
from topocell.data.given import Given
from topocell.errors import DataError, RecipeError, resuming
from topocell.reporting.showing import display_of
from topocell.reporting.terminal import Display
from topocell.runs.directory import RunDir
from topocell.runs.identity import moved, naming_imports
from topocell.runs.images import check_place
from topocell.runs.logs import Log, Logs, loggers_of
from topocell.runs.processes import opened
from topocell.runs.run import Work
from topocell.runs.setup import Setup, prepared
from topocell.runtime import distributed
from topocell.runtime.devices import find_device


def setup_of(recipe: Recipe, data: Given | Sequence[Any] | None, out: str | Path) -> Setup:
    """What a recipe names; where images are missing with which a run began, the fault says what to do."""
    if data is None:
        check_place(recipe, out)
    try:
        return distributed.together(lambda: prepared(recipe, data, out=out))
    except DataError as fault:
        root = recipe.data.root
        if root is None or os.path.exists(root) or not os.path.isfile(Path(out) / "recipe.yaml"):
            raise
        raise DataError(
            f"{fault} (were the images of {out} moved? the same command with data.root=DIR, their new place, resumes)"
        ) from fault


@contextmanager
def opened_work(
    setup: Setup, out: str | Path, display: Display | str | None, accept_data: bool = False, log: Sequence[Log] = ()
) -> Iterator[Work]:
    """The steps of a run in its directory, which is made, or resumed. Raises as `topocell.run`."""
    loggers = distributed.together(lambda: loggers_of(setup.recipe.log, log) if distributed.rank() == 0 else [])
    with opened(setup, out, accept_data) as directory, closing(Logs(loggers, directory)) as logs:
        work = Work(setup, directory, display_of(display), logs=logs)
        work.say_notes()
        yield work


@contextmanager
def reopened_work(
    out: str | Path,
    display: Display | str | None,
    accept_data: bool = False,
    data: Given | Sequence[Any] | None = None,
    changes: Sequence[str] = (),
) -> Iterator[Work]:
    """The same of a run that is there, by its recipe, with its images and on the device that changes name.

    Where they name no device, and that of the recipe is not there, `auto` takes its place.
    """
    with RunDir.existing(out, lock=False) as found, naming_imports(out):
        stored = resolved(found.recipe_yaml)
    recipe = moved(stored, changes)
    note = _not_there(stored) if recipe.device == stored.device else ""
    if note:
        recipe = recipe.model_copy(update={"device": "auto"})
    try:
        setup = distributed.together(lambda: prepared(recipe, data, out=out))
    except DataError as fault:
        if recipe.data.dataset == "given":  # they are nowhere
            raise
        raise DataError(f"{fault} (were the images moved? {resuming(out, 'data.root=DIR')})") from fault
    with opened_work(setup, out, display, accept_data) as work:
        if note:
            work.display.say(note)
        yield work


def _not_there(recipe: Recipe) -> str:
    """Say that a recipe names a device that this machine lacks; empty where it has it."""
    try:
        find_device(recipe.device)
    except RecipeError as fault:
        return f"the run resumes on the device auto: {fault}"
    return ""
