"""Images that are given from Python as one tensor of pixels: tensors, arrays, images of Pillow."""

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from topocell.data.arrays import Span, bytes_of, tensor_of
from topocell.data.image_file import upright
from topocell.data.image_folder import check_memory
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


def stacked(images: Any, name: str, background: Colour, count: int | None = None) -> Tensor:
    """Images of a part as one tensor; single ones, of which some may be grey, as (N, C, H, W) uint8.

    Single ones are kept as bytes as they are asked for, and the first that does not fit ends it.

    Args:
        images: a tensor or an array of all, or single ones.
        name: of the part.
        background: what transparent pixels of images of Pillow are laid on.
        count: of single ones that are asked for one after the other.

    Raises:
        DataError: what is no image, images of several shapes, more than half the memory has room for; single ones of
            floats outside 0..1, or of other numbers.
    """
    if isinstance(images, Tensor | np.ndarray):
        with suppress(TypeError):  # of an array of objects, which are the images
            return tensor_of(images)
    single = images if isinstance(images, Iterable) else [images]
    if count is None:
        single = list(single)
        count = len(single)
    room, span = torch.empty(0), None
    for place, image in enumerate(single):
        try:
            picture = _picture(image, name, background)
        except TypeError:
            raise DataError(
                f"images are tensors, arrays or images of Pillow, but {name} has one of {_misfit(image)}"
            ) from None
        if place and (picture.dtype == torch.uint8) != (span is None):
            raise DataError(f"images of a dataset are all uint8 or all floats, but {name} has both; convert them alike")
        if picture.shape != room.shape[1:]:
            room = _room_for(picture, room, place, count, name)
        if picture.dtype != torch.uint8:
            found = Span.of(picture)
            span = span.joined(found) if span else found
            _check_span(span, name)
        room[place] = bytes_of(picture)  # a grey one in each of three channels
    return room


def _misfit(image: Any) -> str:
    """What something that is no image is, and what makes one of it."""
    sizes = tuple(getattr(image, "shape", ()))
    if len(sizes) == 4 and sizes[0] == 1:
        return f"shape {sizes}, of a batch; give image[0] in each item"
    if isinstance(image, Tensor | np.ndarray):
        return f"shape {sizes}, where one is (C, H, W) or (H, W); reshape it"
    return f"type {type(image).__name__}; read them, as Image.open does"


def _room_for(picture: Tensor, before: Tensor, filled: int, count: int, name: str) -> Tensor:
    """Room (count, C, H, W) for images as this one, (C, H, W), in which those before it keep their places.

    Raises DataError for other sides or channels, but for grey beside coloured ones, and for more than half the memory.
    """
    shape = tuple(picture.shape)
    if filled:
        shapes = sorted([tuple(before.shape[1:]), shape])
        if before.shape[2:] != picture.shape[1:] or {before.shape[1], len(picture)} != {1, 3}:
            raise DataError(
                f"images of a dataset have one shape, but those of {name} have {shapes}; {same_shape(*shapes)}"
            )
        if len(picture) == 1:
            return before
    check_memory(count * picture.numel(), (shape[1], shape[2]), "resize them, or give fewer")
    room = torch.empty((count, *shape), dtype=torch.uint8)
    if filled:
        room[:filled] = before[:filled]
    return room


def same_shape(first: Sequence[int], second: Sequence[int]) -> str:
    """How two different shapes (C, H, W) become one."""
    return "resize them" if first[0] == second[0] else "give all of them the same channels"


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


def _check_span(span: Span, name: str) -> None:
    """Raise DataError for floats outside 0..1, and for other numbers that are no bytes."""
    if not span.are_pixels:
        way = "find what made it" if math.isnan(span.low) else "convert them"
        raise DataError(
            f"images are uint8, or floats in 0..1 before any normalisation, but those of {name} are {span}; {way}"
        )


def as_images(images: Tensor, labels: Tensor, name: str, unsure: bool) -> Tensor:
    """Images of a part as (N, C, H, W) uint8.

    Args:
        images: of the part; floats are in 0..1.
        labels: theirs.
        name: of the part.
        unsure: whether they come from an array, which unlike a tensor may well have its channels last.

    Raises:
        DataError: other shapes, and those that have their channels last; floats outside 0..1, and other numbers.
    """
    if images.dim() != 4 or labels.dim() != 1 or len(images) != len(labels) or not images.numel():
        raise DataError(
            f"images are (N, C, H, W) and labels (N,), but those of {name} are {tuple(images.shape)} and "
            f"{tuple(labels.shape)}; {_mended(images, labels)}"
        )
    first, _, last = images.shape[1:]
    if first > 4 and layout(images.shape[1:]) == "last" and (first > last or unsure):
        raise DataError(
            f"images are (N, C, H, W), but those of {name} are {tuple(images.shape)}, which looks like (N, H, W, C); "
            f"permute them (0, 3, 1, 2)" + (", or give a tensor if it is (N, C, H, W)" if first <= last else "")
        )
    if images.dtype != torch.uint8:
        _check_span(Span.of(images), name)
    return bytes_of(images).contiguous()


def _mended(images: Tensor, labels: Tensor) -> str:
    """What makes images and labels of some usual other shapes (N, C, H, W) and (N,)."""
    steps, as_many = [], images.shape[:1] == labels.shape[:1]
    if not len(images):
        return "give at least one image"
    if images.dim() == 3 and as_many:
        steps.append("of grey images give images[:, None]")
    if labels.dim() == 2 and as_many:
        hot = labels != 0
        if labels.shape[1] == 1:
            steps.append("give labels[:, 0], of a dataset label[0] in each item")
        elif bool((hot.sum(1) == 1).all()) and bool((labels[hot] == 1).all()):
            steps.append("give labels.argmax(1), of a dataset label.argmax() in each item")
    return " and ".join(steps) or "change them"
