"""Images of any kind, as files or in memory, as the pixels that a trained network takes."""

import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from topocell.data.arrays import Span, bytes_of, tensor_of
from topocell.data.augment import resize
from topocell.data.folder_listing import Unused, images_below
from topocell.data.image_file import Fault, careful_pillow, centred, fault_of, fit, pixels_of, read_picture, upright
from topocell.data.preprocessing import Preprocessing
from topocell.errors import DataError
from topocell.io.files import existing, reason

#: How addresses begin, also as a path, which has lost a stroke; letters of drives are none.
_URL = re.compile("[A-Za-z][A-Za-z+.-]+:/|data:image")
#: Channels of an image → the mode that Pillow has for them.
_MODES = {1: "L", 3: "RGB"}


class Named(NamedTuple):
    """An image, not read yet.

    Args:
        name: what it is called: its path, or its number among those that were given.
        image: itself.
        passing: whether it may be another one, or closed, as soon as the next is asked for.
    """

    name: str
    image: Any
    passing: bool = False


def find_images(images: Any) -> tuple[Iterable[Named], Unused]:
    """Find what a user means by images, and what is not used.

    Those of a list or a tuple, and paths, are looked up at once. Others, such as those of an iterator, are asked for
    one after the other, and so are the faults below and what is not used.

    Args:
        images: a path of a file or of a folder, which is searched with all folders below it; the bytes of a file, or
            a file that is open; an image of Pillow; an array (H, W), (H, W, C) or (N, H, W, C), or a tensor
            (C, H, W) or (N, C, H, W), of uint8 or float in 0..1; or these in a list or whatever else gives them.

    Raises:
        DataError: no such file or folder, no image among them, or something that is none of these.
    """
    given, unused = _each(images), Unused()
    found = _named(given, unused)
    return (found if isinstance(given, Iterator) else list(found)), unused


def _named(given: Iterable[Any], unused: Unused) -> Iterator[Named]:
    """Each image; those of an iterator are passing. Raises as `find_images`."""
    count, passing = 0, isinstance(given, Iterator)
    for image in given:
        if isinstance(image, str) and not image:  # which would be the current folder
            raise DataError("an image is named by its path, but got an empty one; name a file, or `.` for this folder")
        if isinstance(image, str | os.PathLike):
            found = _below(image, unused)
        elif isinstance(image, Tensor | np.ndarray) and image.ndim == 4:
            found = [Named(str(count + i), one, passing) for i, one in enumerate(image)]
        elif _holds_images(image):
            raise DataError(
                f"a prediction takes images alone, but got {type(image).__name__}; give "
                f"[image for image, label in dataset] of a dataset, list(dataset) of one without labels, and of a "
                f"loader the images of one batch"
            )
        else:
            found = [Named(str(count), image, passing and not isinstance(image, bytes))]
        yield from found
        count += len(found)
    if not count:
        aside = "".join(f" ({note})" for note in unused.notes())
        raise DataError(f"a prediction is for one image or more, but there is none{aside}; name images or a folder")


def _each(images: Any) -> Iterable[Any]:
    """Images that are given together: as they are in a list or a tuple, else as an iterator, but for paths."""
    if isinstance(images, list | tuple):
        return images
    if _is_one(images):
        return [images]
    if isinstance(images, Iterator):
        return images
    rest = iter(images)
    first = list(islice(rest, 1))
    each = chain(first, rest)
    return list(each) if first and isinstance(first[0], str | os.PathLike) else each


def _is_one(images: Any) -> bool:
    """Return whether something is no collection of images; a file that is open is none, though it iterates over lines.

    Collections are columns of a table, arrays of objects, the values of a dictionary, sets, queues.
    """
    if isinstance(images, str | bytes | bytearray | memoryview | Mapping | Tensor | Image.Image) or _is_open(images):
        return True
    if isinstance(images, np.ndarray) and images.dtype.kind in "biufc":
        return True
    return not isinstance(images, Iterable) or getattr(images, "ndim", 1) != 1


def _is_open(image: Any) -> bool:
    return hasattr(image, "read") and hasattr(image, "seek")


def _holds_images(image: Any) -> bool:
    """Return whether something is no image, but a dataset, a loader, or a pair of image and label of one."""
    if isinstance(image, Tensor | np.ndarray | Image.Image | bytes | bytearray | memoryview) or _is_open(image):
        return False
    return hasattr(image, "__iter__") or hasattr(image, "__getitem__")


def _below(text: str | os.PathLike[str], unused: Unused) -> list[Named]:
    """The image of a path, or those below it. Raises DataError where nothing is there."""
    given = os.fspath(text)
    try:
        path = existing(given)
    except OSError as fault:
        raise DataError(
            f"an image is named by its path, but {given[:80]!r} cannot be looked up ({reason(fault)}); check the path"
        ) from None
    if path.is_dir():
        return [Named(name, name) for name in images_below(path, unused)]
    if _URL.match(given) and not path.exists():
        raise DataError(
            f"an image is a file on this machine, but got {given[:80]!r}; fetch it first, or give its bytes in Python"
        )
    if not path.exists():
        raise DataError(f"an image is a file that is there, but {str(path)!r} is not; check the path")
    return [Named(str(path), str(path))]


class Pictures(NamedTuple):
    """Images as a network takes them.

    Args:
        pixels: (N, C, H, W) uint8.
        names: what each is called.
        faults: those that could not be read, each with its reason.
    """

    pixels: Tensor
    names: tuple[str, ...]
    faults: tuple[str, ...]


def read_in_batches(images: Iterable[Named], size: int, how: Preprocessing) -> Iterator[Pictures]:
    """Read images as `read_pictures`, at most `size` at once; the next are asked for when these were used."""
    rest = iter(images)
    while (pictures := read_pictures(islice(rest, size), how)).names or pictures.faults:
        yield pictures


def read_pictures(images: Iterable[Named], how: Preprocessing) -> Pictures:
    """Read images in parallel, each turned, laid on the background, converted and sized as `how` says.

    One that is passing is read before the next is asked for, and one that is there several times is read once: images
    of Pillow and files cannot be read by two threads.

    Args:
        images: from `find_images`.
        how: what the network was trained on.
    """

    def read(named: Named) -> np.ndarray | Fault:
        try:
            return _pixels(named.image, how)
        except Exception as error:  # whatever a decoder makes of a damaged file
            return fault_of(named.name, error)

    begun, taken = dict[int, Future[np.ndarray | Fault]](), list[tuple[Named, Future[np.ndarray | Fault]]]()
    with careful_pillow(), ThreadPoolExecutor() as pool:
        for named in images:
            task = None if named.passing else begun.get(id(named.image))
            if task is None:
                task = begun[id(named.image)] = pool.submit(read, named)
            if named.passing:
                wait([task])
            taken.append((named, task))
    results = [(named, task.result()) for named, task in taken]
    faults = tuple(f"{named.name} ({found.reason})" for named, found in results if isinstance(found, Fault))
    good = [(named.name, found) for named, found in results if not isinstance(found, Fault)]
    empty = np.empty((0, how.channels, *how.size), np.uint8)
    pixels = np.stack([found for _, found in good]) if good else empty
    return Pictures(torch.from_numpy(pixels), tuple(name for name, _ in good), faults)


def _pixels(image: Any, how: Preprocessing) -> np.ndarray:
    """(C, H, W) uint8 of one image in the size and with the channels of the network."""
    mode = _MODES.get(how.channels)
    if isinstance(image, Tensor):
        if image.dim() != 3:
            raise ValueError(f"a tensor is (C, H, W) or (N, C, H, W), but this is {tuple(image.shape)}")
        found = _as_bytes(tensor_of(image))
        if mode is None or len(found) == how.channels:
            return _sized(found, how)
        if len(found) > 4:
            raise ValueError(
                f"a tensor is (C, H, W) of 1 to 4 channels, but this is {tuple(found.shape)}: "
                f"{'permute it' if found.shape[2] <= 4 else 'of many grey images give images[:, None]'}"
            )
        image = _picture(found)
    if mode is None:
        raise ValueError(f"the network takes images of {how.channels} channels: give tensors (C, H, W)")
    if isinstance(image, bytes | bytearray | memoryview):
        image = io.BytesIO(image)
    if isinstance(image, str) or _is_open(image):
        native = how.size if how.resize == "fit" else None
        return _sized(torch.from_numpy(np.array(read_picture(image, mode, native, how.background).pixels)), how)
    if isinstance(image, np.ndarray):
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] > 4):
            grey = image.ndim == 3 and len(image) > 4
            raise ValueError(
                f"an array is (H, W) or (H, W, C) of 1 to 4 channels, but this is {image.shape}: "
                f"{'of many grey images give images[..., None]' if grey else 'transpose it'}"
            )
        image = _as_bytes(tensor_of(image), "an array").numpy()
        image = Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    if not isinstance(image, Image.Image):
        raise ValueError(f"{type(image).__name__} is no image: give a path, an image of Pillow, an array or a tensor")
    picture, _ = upright(image, mode, how.background)
    return _sized(torch.from_numpy(np.array(pixels_of(picture))), how)


def _as_bytes(image: Tensor, what: str = "a tensor") -> Tensor:
    """The same as uint8. Raises ValueError for other numbers, and for none."""
    if not image.numel():
        raise ValueError("it has no pixels")
    span = Span.of(image)
    if not span.are_pixels:
        raise ValueError(f"{what} is uint8, or float in 0..1 before any normalisation, but this is {span}")
    return bytes_of(image)


def _sized(pixels: Tensor, how: Preprocessing) -> np.ndarray:
    """The pixels (C, H, W) in the size of the network."""
    if len(pixels) != how.channels:
        raise ValueError(f"the network takes images of {how.channels} channels, but this has {len(pixels)}")
    if how.resize == "centre" and how.channels in _MODES:
        return pixels_of(centred(_picture(pixels), how.size[0]))
    if pixels.shape[-2:] == how.size:
        return pixels.numpy()
    if how.resize == "fit" and how.channels in _MODES:
        return pixels_of(fit(_picture(pixels), how.size))
    return resize(pixels[None], how.size)[0].numpy()


def _picture(pixels: Tensor) -> Image.Image:
    """The image of (C, H, W) uint8, C = 1, 3 or 4."""
    rows = pixels.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(rows[..., 0] if len(pixels) == 1 else rows)
