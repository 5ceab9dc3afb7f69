"""Images that are given from Python as one tensor of pixels: tensors, arrays, images of Pillow."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from topocell.data.arrays import tensor_of
from topocell.data.image_file import upright
from topocell.errors import DataError
from topocell.io.colours import Colour


def is_image(thing: Any) -> bool:
    """Return whether something is an image of Pillow, or has the sides of one."""
    return isinstance(thing, Image.Image) or getattr(thing, "ndim", 0) >= 2


def layout(sizes: Sequence[int]) -> Literal["first", "last"] | None:
    """Where an image of three sizes has its channels: where there are up to four, or beside two sides that agree.

    None where that cannot be told.
    """
    first, second, last = sizes
    if min(first, last) <= 4:
        return "last" if last <= 4 else "first"
    if (first == second) == (second == last):
        return None
    return "last" if first == second else "first"


def stacked(images: Any, name: str, background: Colour) -> Tensor:
    """Images of a part as one tensor; single ones, of which some may be grey, as (N, C, H, W).

    Args:
        images: a tensor or an array of all, or single ones.
        name: of the part.
        background: what transparent pixels of images of Pillow are laid on.

    Raises:
        DataError: what is no image, or images of several shapes.
    """
    if isinstance(images, Tensor | np.ndarray):
        with suppress(TypeError):  # of an array of objects, which are the images
            return tensor_of(images)
    pictures = list[Tensor]()
    for image in images if isinstance(images, Iterable) else [images]:
        try:
            pictures.append(_picture(image, name, background))
        except TypeError:
            raise DataError(
                f"images are tensors, arrays or images of Pillow, but {name} has one of type {type(image).__name__}; "
                f"read them, as Image.open does"
            ) from None
    if 3 in {len(picture) for picture in pictures}:
        pictures = [picture.expand(3, -1, -1) if len(picture) == 1 else picture for picture in pictures]
    shapes = sorted({tuple(picture.shape) for picture in pictures})
    if len(shapes) > 1:
        raise DataError(f"images of a dataset have one shape, but those of {name} have {shapes[:3]}; resize them")
    return torch.stack(pictures) if pictures else torch.empty(0)


def _picture(image: Any, name: str, background: Colour) -> Tensor:
    """(C, H, W) of a tensor or an image of Pillow, or of what numpy can read as (H, W), (H, W, C) or (C, H, W).

    Raises TypeError for what is no image.
    """
    if isinstance(image, Image.Image):
        try:
            image, _ = upright(image, "L" if image.mode in ("1", "L") else "RGB", background)
        except (OSError, ValueError) as fault:
            raise DataError(f"images of a dataset must be read as 8 bits, but one cannot be: {fault}") from None
    pixels = tensor_of(image)
    if pixels.dim() not in (2, 3):
        raise TypeError
    if pixels.dim() == 2:
        return pixels[None]
    where = "first" if isinstance(image, Tensor) else layout(pixels.shape)
    if where is None:
        raise DataError(
            f"an array of an image is (H, W, C) or (C, H, W), but one of {name} is {tuple(pixels.shape)}, which may be "
            f"either; give a tensor (C, H, W), as torch.from_numpy(array) or torch.from_numpy(array).permute(2, 0, 1)"
        )
    return pixels if where == "first" else pixels.permute(2, 0, 1)


def as_bytes(images: Tensor, name: str) -> Tensor:
    """Images of a part as uint8. Raises DataError for floats outside 0..1, and for other numbers."""
    if images.dtype == torch.uint8:
        return images
    low, high = (float(bound) for bound in (images.real if images.is_complex() else images).float().aminmax())
    if not (images.dtype.is_floating_point and low >= 0 and high <= 1):
        raise DataError(
            f"images are uint8, or floats in 0..1 before any normalisation, but those of {name} are {images.dtype} "
            f"from {low:g} to {high:g}; convert them"
        )
    return (images.float() * 255).round().byte()


def as_images(images: Tensor, labels: Tensor, name: str, unsure: bool) -> Tensor:
    """Images of a part as (N, C, H, W) uint8.

    Args:
        images: of the part; floats are in 0..1.
        labels: theirs.
        name: of the part.
        unsure: whether they come from an array, which unlike a tensor may well have its channels last.

    Raises:
        DataError: other shapes, and those that have their channels last; what `as_bytes` refuses.
    """
    if images.dim() != 4 or labels.dim() != 1 or len(images) != len(labels) or not images.numel():
        raise DataError(
            f"images are (N, C, H, W) and labels (N,), but those of {name} are {tuple(images.shape)} and "
            f"{tuple(labels.shape)}; change them"
        )
    first, _, last = images.shape[1:]
    if first > 4 and layout(images.shape[1:]) == "last" and (first > last or unsure):
        raise DataError(
            f"images are (N, C, H, W), but those of {name} are {tuple(images.shape)}, which looks like (N, H, W, C); "
            f"permute them (0, 3, 1, 2)" + (", or give a tensor if it is (N, C, H, W)" if first <= last else "")
        )
    return as_bytes(images, name).contiguous()
