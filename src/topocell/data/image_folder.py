"""Pixels of many image files, kept in the cache folder once decoded."""

import hashlib
import json
import math
import os
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from topocell.data.folder_listing import images, some
from topocell.data.image_file import Fault, Header, Picture, careful_pillow, fault_of, read_header, read_picture
from topocell.errors import DataError
from topocell.io.cache import cache_folder
from topocell.io.colours import Colour, colour_name

#: What is done about images that cannot be read.
Unreadable = Literal["refuse", "skip"]


#: Where Linux says how much memory a container may have, cgroups of version 2 and 1.
_CONTAINER = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True)
class Decoding:
    """How image files become pixels.

    Args:
        resolution: side in pixels; None: the multiple of 4 nearest to the median shorter side, from 8 to 224.
        background: what shows through transparent pixels.
        unreadable: whether images that cannot be read are a fault, or are left out.
        share: of them at most that may be left out; None: any.
    """

    resolution: int | None = None
    background: Colour = (255, 255, 255)
    unreadable: Unreadable = "refuse"
    share: float | None = None


class Decoded(NamedTuple):
    """What became of image files.

    Args:
        images: (N, C, R, R) uint8 of those that can be read, in their order.
        faults: (place among the files, reason) of those that cannot.
        notes: sentences for the report.
    """

    images: Tensor
    faults: list[tuple[int, str]]
    notes: list[str]


def decode_cached(root: Path, paths: Sequence[str], decoding: Decoding) -> Decoded:
    """Decode image files, or take them from TOPOCELL_CACHE (default ~/.cache/topocell), which may be deleted.

    The cache goes by path, size and times of each file, the resolution and the background.

    Raises:
        DataError: images that cannot be read, unless they are to be skipped; too many for the memory.
    """
    folder = cache_folder()
    cache = folder / f"folder-{_key(root, paths, decoding)}.safetensors"
    if (known := _cached(cache)) is not None:
        refuse_faults(named(root, paths, known.faults), len(paths), decoding)
        return known
    decoded, lasting = _decode(paths, decoding)
    refuse_faults(named(root, paths, decoded.faults), len(paths), decoding)
    if not lasting:
        return decoded
    partial = cache.with_suffix(f".{os.getpid()}.partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        said = json.dumps({"faults": decoded.faults, "notes": decoded.notes})
        save_file({"images": decoded.images}, partial, {"sha256": _digest(decoded.images, said), "said": said})
        os.replace(partial, cache)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            partial.unlink()
        note = f"the decoded images could not be cached in {str(folder)!r} ({error})"
        return decoded._replace(notes=[*decoded.notes, note])
    return decoded


def _key(root: Path, paths: Sequence[str], decoding: Decoding) -> str:
    key = hashlib.sha256(os.fsencode(f"3 {root.resolve()} {decoding.resolution} {decoding.background}"))
    for path in paths:
        stat = os.stat(path) if os.path.exists(path) else None
        # Also the time of the last change of the entry: files that change places, or are edited, may keep the other.
        told = stat and (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        key.update(os.fsencode(f"{path[len(str(root)) :]}\0{told}\n"))
    return key.hexdigest()[:32]


def _cached(cache: Path) -> Decoded | None:
    """What a file of the cache holds; None if it is absent or damaged, so that it is made anew."""
    try:
        with safe_open(cache, framework="pt") as file:
            pixels, stored = file.get_tensor("images"), file.metadata()
        if stored["sha256"] == _digest(pixels, stored["said"]):
            said = json.loads(stored["said"])
            return Decoded(pixels, [(place, reason) for place, reason in said["faults"]], said["notes"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        pass
    return None


def _digest(pixels: Tensor, said: str) -> str:
    digest = hashlib.sha256(pixels.numpy().data)
    digest.update(said.encode())
    return digest.hexdigest()


def refuse_faults(faults: Sequence[str], count: int, decoding: Decoding) -> None:
    """Raise DataError for images that cannot be read, unless they, or so many of them, are to be skipped.

    Args:
        faults: each of them with its reason.
        count: of all images.
        decoding: says whether they may be skipped.
    """
    if not faults or (
        decoding.unreadable == "skip" and len(faults) <= (1 if decoding.share is None else decoding.share) * count
    ):
        return
    found = f"{len(faults):,} of {count:,} images cannot be read"
    if decoding.unreadable == "skip":
        raise DataError(
            f"data.unreadable_share is {decoding.share:g} of the images, but {found}, {len(faults) / count:.2g}: "
            f"{some(faults, 10)}; repair or delete them, or raise it"
        )
    raise DataError(f"{found}: {some(faults, 10)}; repair or delete them, or leave them out with data.unreadable=skip")


def named(root: Path, paths: Sequence[str], faults: Sequence[tuple[int, str]]) -> list[str]:
    """Each file that cannot be read, below `root`, with its reason."""
    return [f"{os.path.relpath(paths[place], root)} ({reason})" for place, reason in faults]


def _decode(paths: Sequence[str], decoding: Decoding) -> tuple[Decoded, bool]:
    """Decode image files, and say whether another try would end alike.

    C = 1 if all files that can be read are grey, else 3. An image of more pixels than Pillow takes for sane (89
    million) is a fault, like one that is damaged.
    """
    with careful_pillow(), ThreadPoolExecutor() as pool:
        headers = list(pool.map(read_header, paths, repeat(decoding.background)))
        mode, side = _mode_and_side(headers, decoding)
        out, results = _pictures(paths, mode, side, decoding, pool)
        headers = [header for header, result in zip(headers, results) if isinstance(result, Picture)]
        if headers and _mode_and_side(headers, decoding) != (mode, side):  # what cannot be read has no say in it
            mode, side = _mode_and_side(headers, decoding)
            out, results = _pictures(paths, mode, side, decoding, pool)
    read = [place for place, result in enumerate(results) if isinstance(result, Picture)]
    faults = [(place, result) for place, result in enumerate(results) if isinstance(result, Fault)]
    pictures = [result for result in results if isinstance(result, Picture)]
    resized = [resized_note((side, side), " (shorter side, centre crop)", _usual_side(headers))]
    notes = resized if any(header and header.size != (side, side) for header in headers) else []
    notes += _notes(pictures, decoding.background)
    pixels = torch.from_numpy(out if not faults else out[read])
    reasons = [(place, fault.reason) for place, fault in faults]
    return Decoded(pixels, reasons, notes), all(fault.lasting for _, fault in faults)


def _mode_and_side(headers: Sequence[Header | None], decoding: Decoding) -> tuple[str, int]:
    """`L` or `RGB`, and the side in pixels, that suit files with these headers."""
    mode = "L" if all(header.grey for header in headers if header) else "RGB"
    return mode, decoding.resolution or side_of(headers)


def side_of(headers: Sequence[Header | None]) -> int:
    """The side in pixels, from 8 to 224, that suits files with these headers."""
    return min(224, max(8, _usual_side(headers)))


def _usual_side(headers: Sequence[Header | None]) -> int:
    """The multiple of 4 that is nearest to the median shorter side."""
    return nearest_side(statistics.median([min(header.size) for header in headers if header] or [8]))


def nearest_side(side: float) -> int:
    """The multiple of 4 that is nearest to a side in pixels."""
    return 4 * round(side / 4)


def resized_note(size: tuple[int, int], how: str, usual: int, asked: bool = True) -> str:
    """Say that images got another size, and which resolution keeps more of them.

    Args:
        size: (height, width) that they have now.
        how: they got it, with a blank before; nothing where their proportions stay.
        usual: shorter side that they had, as `nearest_side` has it.
        asked: whether a setting says so.
    """
    if not asked:
        return f"images were resized to {size[0]}x{size[1]}{how}, as the first are"
    more = min(64, usual)
    why = f", as data.resolution or the budget says; data.resolution={more} keeps more" if more > min(size) else ""
    return f"images were resized to {size[0]}x{size[1]}{how}{why}"


def _pictures(
    paths: Sequence[str], mode: str, side: int, decoding: Decoding, pool: ThreadPoolExecutor
) -> tuple[np.ndarray, list[Picture | Fault]]:
    """Pixels (N, C, side, side) uint8, undefined where a file cannot be read, and what became of each file."""
    way = "lower data.resolution or data.images, or begin a run with data.store=stream"
    check_memory(len(paths) * len(mode) * side * side, (side, side), way)
    out = np.empty((len(paths), len(mode), side, side), np.uint8)

    def decode(place: int) -> Picture | Fault:
        try:
            picture = read_picture(paths[place], mode, (side, side), decoding.background)
        except Exception as error:  # whatever a decoder makes of a damaged file
            return fault_of(paths[place], error)
        out[place] = picture.pixels
        return picture._replace(pixels=out[place])

    return out, list(pool.map(decode, range(len(paths))))


def _notes(pictures: Sequence[Picture], background: Colour) -> list[str]:
    """What was done with images that are transparent, or have several frames."""
    seen, films = sum(picture.transparent for picture in pictures), sum(picture.film for picture in pictures)
    laid = f"{images(seen)} with transparency: laid on {colour_name(background)} (data.background)"
    first = f"{images(films)} with several frames or pages: the first is used"
    return [laid] * (seen > 0) + [first] * (films > 0)


def check_memory(needed: int, size: tuple[int, int], way: str) -> None:
    """Raise DataError for images that need more than half the memory.

    Args:
        needed: bytes of all of them.
        size: (height, width) of each.
        way: what makes them fewer or smaller.
    """
    memory = memory_of_machine()
    if needed > memory / 2:
        raise DataError(
            f"decoded images fit into half the memory, {memory / 2e9:.1f} GB, but these need "
            f"{needed / 1e9:.1f} GB at {size[0]}x{size[1]}; {way}"
        )


#: Copies of its images that a run may have at once: as read, as the splits of a search, as batches of all of them or as
#: those of a training, and one that is being made.
COPIES = 4


def physical_memory() -> float:
    """Return the bytes of memory of the machine; infinite if it does not say."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf


def memory_of_machine() -> float:
    """Return the bytes of memory of the machine, or of its container if that may have less; infinite if none says."""
    most = physical_memory()
    for limit in _CONTAINER:
        with suppress(OSError, ValueError):  # no such file, or `max`
            most = min(most, int(limit.read_text()))
    return most
