"""The images that a recipe names."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from topocell.config.recipe import Recipe
from topocell.data.from_files import Streaming
from topocell.data.image_folder import Decoding
from topocell.data.pictures import Named, read_pictures
from topocell.data.preprocessing import Preprocessing
from topocell.data.readers import Source
from topocell.data.split_folders import check_apart
from topocell.data.splits import Dataset, balanced, load, place_of, read_source
from topocell.errors import DataError
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


def some_test_images(recipe: Recipe, how: Preprocessing, count: int) -> Tensor | None:
    """Pixels (N, C, H, W) of test images of a run, N ≤ `count`, as its network takes them; of files as a prediction.

    None where they are of other classes or of another size than those of the network.

    Args:
        recipe: of the run.
        how: images are prepared.
        count: of images. They are drawn from all classes, as those of the run were.

    Raises:
        DataError: they cannot be read.
    """
    plan, source = recipe.data, read_source(recipe.data.dataset, recipe.data.root)
    if source.classes != how.classes:
        return None
    most = max(count, len(source.classes))
    most = most if plan.test_images is None else min(plan.test_images, most)
    chosen = balanced(source.test_labels, most, "test_images", len(source.classes), recipe.seed)
    chosen = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))[:count]]
    if source.root is not None:
        files = [os.path.join(source.root, source.test_files[i]) for i in chosen.tolist()]
        pixels = read_pictures([Named(file, file) for file in files], how).pixels
    else:
        decoding = Decoding(plan.resolution, rgb(plan.background))
        pixels = source.pixels(torch.arange(1), chosen, decoding)[1].images
    if not len(pixels):
        raise DataError("no test image can be read")
    return pixels if pixels.shape[1:] == (how.channels, *how.size) else None
