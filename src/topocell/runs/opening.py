"""The steps of a run on its directory: from a recipe, or from what the directory holds."""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from topocell.config.lasting import measures_latency
from topocell.config.load import resolved
from topocell.config.recipe import Recipe
from topocell.data.given import Given
from topocell.errors import DataError, RunError, resuming
from topocell.reporting.showing import display_of
from topocell.reporting.terminal import Display
from topocell.runs.directory import RunDir
from topocell.runs.identity import begun_kind, moved, names_device, naming_imports
from topocell.runs.images import check_place
from topocell.runs.logs import Log, Logs, loggers_of
from topocell.runs.processes import opened
from topocell.runs.run import Work
from topocell.runs.setup import Setup, prepared
from topocell.runtime import distributed
from topocell.runtime.devices import device_to_resume_on, find_device


def setup_of(recipe: Recipe, data: Given | Sequence[Any] | None, out: str | Path) -> Setup:
    """What a recipe names; where images are missing with which a run began, the fault says what to do."""
    if data is None:
        check_place(recipe, out)
    try:
        return _prepared(recipe, data, out)
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

    Where they name no device, and this machine does not have that of the recipe, `auto` takes its place, which is said.
    """
    with RunDir.existing(out, lock=False) as found, naming_imports(out):
        stored = resolved(found.recipe_yaml)
    recipe = moved(stored, changes)
    try:
        setup = _prepared(recipe, data, out, resumes=not names_device(changes))
    except DataError as fault:
        if recipe.data.dataset == "given":  # they are nowhere
            raise
        raise DataError(f"{fault} (were the images moved? {resuming(out, 'data.root=DIR')})") from fault
    with opened_work(setup, out, display, accept_data) as work:
        yield work


def _prepared(recipe: Recipe, data: Given | Sequence[Any] | None, out: str | Path, resumes: bool = False) -> Setup:
    """What a recipe names for the run at `out`, see `prepared`; latency is that of the kind of device it began with."""

    def made() -> Setup:
        if measures_latency(recipe.model_dump(mode="json")):
            _check_kind(recipe, out, resumes)
        return prepared(recipe, data, out=out, resumes=resumes)

    return distributed.together(made)


def _check_kind(recipe: Recipe, out: str | Path, resumes: bool) -> None:
    """Raise RunError where the latencies of a run would be those of another kind of device from now on."""
    device = device_to_resume_on(recipe.device)[0] if resumes else find_device(recipe.device)
    begun = begun_kind(Path(out))
    if begun not in (None, device.type):
        raise RunError(
            f"a run whose cell rests on measured latency resumes on the kind of device that it began with, but {out} "
            f"began on {begun} and this is {device.type}; resume it on {begun}, or choose another --out"
        )
