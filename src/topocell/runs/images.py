"""The images that a recipe names."""

from pathlib import Path
from typing import Any

from topocell.config.recipe import Recipe
from topocell.data.from_files import Streaming
from topocell.data.readers import Source
from topocell.data.split_folders import check_apart
from topocell.data.splits import Dataset, load, place_of
from topocell.io.colours import rgb
from topocell.runs.identity import begun_store

#: Keys of `data` that are arguments of `load`, and fields of `Streaming`.
_LOADED = (
    "download",
    "resolution",
    "images",
    "test_images",
    "unreadable",
    "unreadable_share",
    "flip",
    "crop",
    "jitter",
)
_STREAMED = ("store", "workers", "cache", "cache_root", "crop_scale")


def check_place(recipe: Recipe, out: str | Path) -> None:
    """Raise DataError for a directory of a run among the class folders of its images, or for no path to these."""
    if recipe.data.dataset == "folder" and recipe.data.root is not None:
        check_apart(place_of(recipe.data.root), Path(out))


def load_data(
    recipe: Recipe, given: Source | None = None, checked: bool = True, out: str | Path | None = None
) -> Dataset:
    """Return the dataset of a recipe, or of what is given in place of what it names.

    Args:
        recipe: of the run.
        given: in place of what the reader of the dataset would find.
        checked: see `topocell.data.from_files.Streaming`.
        out: directory of the run. With `data.store=auto` one that has begun goes on as it began, whatever the memory of
            this machine.

    Raises:
        DataError: as `topocell.data.splits.load`.
    """
    plan = recipe.data
    options: dict[str, Any] = {name: getattr(plan, name) for name in _LOADED}
    begun = None if out is None else begun_store(Path(out))
    streaming = Streaming(**{name: getattr(plan, name) for name in _STREAMED}, checked=checked, begun=begun)
    options |= {"background": rgb(plan.background), "streaming": streaming, "seed": recipe.seed, "given": given}
    return load(plan.dataset, plan.root, **options)
