"""Folders of images: which files there are, and their pixels, kept in the cache folder once decoded."""

import hashlib
import json
import math
import os
import statistics
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from topocell.errors import DataError
from topocell.io.cache import cache_folder
from topocell.io.files import reason

#: What Pillow may take a file for, whatever its name. It hands PostScript to another program, for one.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def class_folders(place: Path) -> list[str]:
    """Names of the visible folders in a folder, sorted; none if it does not exist. Raises DataError if it is closed."""
    try:
        return sorted(p.name for p in place.iterdir() if not p.name.startswith(".") and p.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as fault:
        _refuse(fault)


def _refuse(fault: OSError) -> NoReturn:
    raise DataError(
        f"a folder of images must be readable, but {str(fault.filename)!r} is not ({reason(fault)}); change that"
    ) from None


def some(names: list[str]) -> str:
    """The first few of many names."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def listing(place: Path) -> tuple[tuple[str, ...], list[str], Tensor]:
    """Classes, image files (class by class, sorted by path) and labels (N,) of a folder of class folders."""
    classes = class_folders(place)
    found = [
        sorted(
            os.path.join(folder, name)
            for folder, names in _walk(place / label)
            for name in names
            if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
        )
        for label in classes
    ]
    if not any(found):
        raise DataError(f"no images in {str(place)!r}: it should hold CLASS/* with {', '.join(EXTENSIONS)} files")
    if empty := [name for name, files in zip(classes, found) if not files]:
        raise DataError(f"every class has an image, but in {str(place)!r} none is in {some(empty)}; add or delete")
    if len(classes) < 2:
        raise DataError(f"at least 2 classes are needed, but {str(place)!r} has only {classes[0]!r}; add a folder")
    labels = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(files) for files in found]))
    return tuple(classes), [path for files in found for path in files], labels


def _walk(top: Path) -> Iterator[tuple[str, list[str]]]:
    """Folders and the names of their files, links to folders followed; a folder that was seen is not entered again.

    Raises DataError for a folder that cannot be read.
    """
    seen = set()
    for folder, inside, names in os.walk(top, onerror=_refuse, followlinks=True):
        stat = os.stat(folder)
        if (stat.st_dev, stat.st_ino) in seen:
            inside.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        inside.sort()
        yield folder, names


def decode_cached(root: Path, paths: list[str], resolution: int | None) -> tuple[Tensor, list[str]]:
    """`_decode` through a file in TOPOCELL_CACHE (default ~/.cache/topocell), which may be deleted."""
    key = hashlib.sha256(os.fsencode(f"1 {root.resolve()} {resolution}"))
    for path in paths:
        stat = os.stat(path) if os.path.exists(path) else None
        key.update(os.fsencode(f"{path[len(str(root)) :]}\0{stat and (stat.st_size, stat.st_mtime_ns)}\n"))
    folder = cache_folder()
    cache = folder / f"folder-{key.hexdigest()[:32]}.safetensors"
    try:
        with safe_open(cache, framework="pt") as file:
            images, stored = file.get_tensor("images"), file.metadata()
        if stored["sha256"] == hashlib.sha256(images.numpy().data).hexdigest():
            return images, json.loads(stored["notes"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        pass  # absent or damaged: made anew
    images, notes = _decode(root, paths, resolution)
    partial = cache.with_suffix(f".{os.getpid()}.partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stored = {"sha256": hashlib.sha256(images.numpy().data).hexdigest(), "notes": json.dumps(notes)}
        save_file({"images": images}, partial, metadata=stored)
        os.replace(partial, cache)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            partial.unlink()
        notes = [*notes, f"the decoded images could not be cached in {str(folder)!r} ({error})"]
    return images, notes


def _decode(root: Path, paths: list[str], resolution: int | None) -> tuple[Tensor, list[str]]:
    """Images (N, C, R, R) uint8: shorter side resized to R, centre crop; C = 1 if all files are grey, else 3.

    Without a resolution, R is the multiple of 4 nearest to the median shorter side, from 8 to 224. An image of more
    pixels than Pillow takes for sane (89 million) is a fault, like one that is damaged.
    """
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.filterwarnings("ignore", module="PIL")  # of damaged EXIF data and the like
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        headers = [header for header in pool.map(_header, paths) if header]
        median = statistics.median([min(size) for size, _ in headers] or [8])
        side = resolution or min(224, max(8, 4 * round(median / 4)))
        mode = "L" if {mode for _, mode in headers} <= {"1", "L"} else "RGB"
        check_memory(len(paths) * len(mode) * side * side, side)
        out = np.empty((len(paths), len(mode), side, side), np.uint8)

        def decode(index: int) -> str | None:
            try:
                out[index] = _pixels(paths[index], mode, side)
            except Exception as error:  # whatever a decoder makes of a damaged file
                foreign = isinstance(error, UnidentifiedImageError)
                reason = "not an image" if foreign else " ".join(str(error).split())
                return f"{os.path.relpath(paths[index], root)} ({reason})"
            return None

        faults = [fault for fault in pool.map(decode, range(len(paths))) if fault]
    if faults:
        raise DataError(f"{len(faults)} of {len(paths)} images cannot be read: {some(faults)}; repair or delete them")
    notes = []
    if any(size != (side, side) for size, _ in headers):
        notes.append(f"images were resized to {side}x{side} (shorter side, centre crop)")
    return torch.from_numpy(out), notes


def check_memory(needed: int, side: int) -> None:
    """Raise DataError for images of that side that need so many bytes and more than half the memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf
    if needed > memory / 2:
        raise DataError(
            f"decoded images fit into half the memory, {memory / 2e9:.1f} GB, but these need "
            f"{needed / 1e9:.1f} GB at {side}x{side}; lower data.resolution or data.images"
        )


def _header(path: str) -> tuple[tuple[int, int], str] | None:
    """Size and mode of an image file, without decoding it; None if unreadable, which decoding will report."""
    try:
        with _open(path) as image:
            return image.size, image.mode
    except Exception:
        return None


def _open(path: str) -> Image.Image:
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError("neither a file nor a link to one")  # a pipe would wait for somebody to write
    return Image.open(path, formats=FORMATS)


def _pixels(path: str, mode: str, side: int) -> np.ndarray:
    """(C, side, side) uint8 of one file, turned as its EXIF orientation says."""
    with _open(path) as image:
        if image.mode[0] in "IF":
            raise ValueError(f"mode {image.mode} has more than 8 bits per channel")
        ImageOps.exif_transpose(image, in_place=True)
        picture = image.convert(mode)
    if picture.size != (side, side):
        picture = ImageOps.fit(picture, (side, side), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture)
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)
