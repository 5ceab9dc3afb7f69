"""What is known of image files once they have been read, and, in a cache, smaller copies of them.

A folder of shards holds, for some thousand files each, a list of JSON (KEY.json) and, in a cache, the pixels of all of
them one after the other (KEY.raw), which are read by memory map. A shard is written whole or not at all, and never
changed: what was interrupted goes on with the files that are in no shard yet, and so does a tree that has grown.
"""

import hashlib
import io
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import numpy as np
import torch
from torch import Tensor

from topocell.data.folder_listing import images
from topocell.data.image_file import (
    careful_pillow,
    check_regular,
    fault_of,
    is_film,
    open_image,
    shrunk,
    turn_of,
    upright,
)
from topocell.data.loading import made_of
from topocell.errors import DataError
from topocell.io import files as io_files
from topocell.io.colours import Colour
from topocell.io.files import reason

#: Files of a shard without pixels, and bytes of one with pixels, about.
OF_A_SHARD, PIXELS = 4096, 128_000_000
#: Files that a worker reads at a time.
AT_ONCE = 32
FORMAT = 1
#: Kinds of images that are read in a way of their own, by the letter that records have for them.
KINDS = {
    "g": "grey",
    "c": "CMYK",
    "d": "of 16 bits a channel, of which 8 are used",
    "r": "turned by EXIF",
    "t": "with transparency, laid on the background",
    "f": "with several frames or pages, of which the first is used",
}


class Record(NamedTuple):
    """What is known of a file.

    Args:
        name: below the root.
        size, time: of the file, by which changes are seen; the time in nanoseconds.
        digest: of its contents.
        fault: why it cannot be read; empty if it can.
        kinds: letters of `KINDS`.
        offset, height, width, checksum: of its pixels in the shard; 0 where there are none.
    """

    name: str
    size: int
    time: int
    digest: str
    fault: str
    kinds: str
    offset: int = 0
    height: int = 0
    width: int = 0
    checksum: int = 0


class Found(NamedTuple):
    """The record of a file, and the file of its copy, if there are copies."""

    record: Record
    shard: str


#: Records of several files, the bytes of all copies, and of each whether another try would end alike.
Examined = tuple[list[Record], Tensor, list[bool]]


@dataclass(frozen=True)
class Examination:
    """Reads files whole, once; a dataset of `torch.utils.data` of several files at a time.

    Args:
        root: of the files.
        background: what shows through transparent pixels.
        side: shorter side of the copies; None: no copies.
    """

    root: str
    background: Colour
    side: int | None

    def __getitems__(self, names: Sequence[str]) -> Examined:
        """Return a record of each file, the bytes of all copies, and whether another try would end alike."""
        records, parts, lasting = list[Record](), list[np.ndarray](), list[bool]()
        with careful_pillow():
            for name in names:
                record, pixels, lasts = self._one(name)
                records.append(record)
                lasting.append(lasts)
                if pixels is not None:
                    parts.append(pixels.reshape(-1))
        flat = np.concatenate(parts) if parts else np.empty(0, np.uint8)
        return records, torch.from_numpy(flat), lasting

    def _one(self, name: str) -> tuple[Record, np.ndarray | None, bool]:
        path, stat, digest = os.path.join(self.root, name), (0, 0), ""
        try:
            check_regular(path)
            with open(path, "rb") as file:
                status = os.fstat(file.fileno())
                data, stat = file.read(), (status.st_size, status.st_mtime_ns)
            digest = hashlib.blake2b(data, digest_size=16).hexdigest()
            kinds, pixels = self._decoded(data)
        except Exception as error:  # whatever a decoder makes of a damaged file
            fault = fault_of(path, error)
            return Record(name, *stat, digest, fault.reason, ""), None, fault.lasting
        if pixels is None:
            return Record(name, *stat, digest, "", kinds), None, True
        height, width, _ = pixels.shape
        checksum = zlib.crc32(np.ascontiguousarray(pixels).data)
        return Record(name, *stat, digest, "", kinds, 0, height, width, checksum), pixels, True

    def _decoded(self, data: bytes) -> tuple[str, np.ndarray | None]:
        """The kinds of an image, and its copy."""
        with open_image(io.BytesIO(data)) as image:
            deep, mode, turn = _is_deep(image), image.mode, turn_of(image)  # which may decode a file of PNG
            if self.side is None:  # at an eighth of its size, for which all of a JPEG file is read too
                image.draft(None, (max(image.width // 8, 1), max(image.height // 8, 1)))
            picture, transparent = upright(image, "RGB", self.background)
            film = is_film(image)
        kinds = {"g": mode in ("1", "L", "LA"), "c": mode == "CMYK", "d": deep, "r": turn is not None}
        letters = "".join(letter for letter, holds in {**kinds, "t": transparent, "f": film}.items() if holds)
        if self.side is None:
            return letters, None
        return letters, np.array(shrunk(picture, min(self.side, *picture.size)))


def _is_deep(image: Any) -> bool:
    """Return whether a PNG file of colours has 16 bits a channel, of which Pillow reads 8."""
    return any(";16B" in str(tile[3]) for tile in image.tile)


@dataclass(frozen=True)
class Shards:
    """A folder of shards.

    Args:
        folder: of the shards; made when the first one is written.
        root: of the files.
        background: what shows through transparent pixels.
        side: shorter side of the copies; None: records alone.
        workers: processes that read files; 0: none but this one.
    """

    folder: Path
    root: Path
    background: Colour
    side: int | None
    workers: int

    def records(self, names: Sequence[str], progress: Callable[[int, int], object]) -> list[Found]:
        """Return a record of each file and the file of its copy, after files in no shard were read.

        Args:
            names: of the files, below the root.
            progress: called with how many files of how many are read.

        Raises:
            DataError: the folder holds a cache of other images, or a damaged shard; a cache cannot be written.
        """
        if self.side is None:
            with suppress(OSError):  # what is known of files is kept where it can be
                self.folder.mkdir(parents=True, exist_ok=True)
        else:
            self._check_settings()
        known = self._known(names)
        if any(name not in known for name in names):
            try:
                with filelock.FileLock(self.folder / ".lock"):  # of two runs one waits, and finds what the other read
                    known = self._completed(names, progress)
            except (OSError, NotImplementedError) as fault:  # a folder that is not ours to write to
                if self.side is not None:
                    raise self._unwritable(fault) from None
                known |= {f.record.name: f for f in self._read([n for n in names if n not in known], progress)}
        return [known[name] for name in names]

    def _completed(self, names: Sequence[str], progress: Callable[[int, int], object]) -> dict[str, Found]:
        """What is known of files, after those were read that nothing was known of."""
        known = self._known(names)
        missing = [name for name in names if name not in known]
        if self.side is not None and missing and not known and self._copied_before():
            raise DataError(
                f"data.cache_root holds copies of the images of data.root, but {str(self.folder)!r} has those of "
                f"others: none of {images(len(names))} is there; name another folder, or delete that one"
            )
        return known | {found.record.name: found for found in self._read(missing, progress)}

    def _check_settings(self) -> None:
        """Write the settings of a new cache. Raises DataError where those of one that is there are others."""
        path = self.folder / "cache.txt"
        mine = f"topocell cache {FORMAT}, shorter side {self.side}, {self.background}\n"
        try:
            if path.exists():
                there = path.read_text(encoding="utf-8", errors="replace")
                if there != mine:
                    raise DataError(
                        f"data.cache_root holds copies made with the settings of the recipe ({mine.strip()}), but "
                        f"{str(path)!r} says {there.strip()[:100]!r}; name another folder, or delete that one"
                    )
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            io_files.replace(path, mine.encode())
        except OSError as fault:
            raise self._unwritable(fault) from None

    def _unwritable(self, fault: Exception) -> DataError:
        why = reason(fault) if isinstance(fault, OSError) else fault
        return DataError(
            f"copies of images are written to {str(self.folder)!r}, but that fails ({why}); make room, or "
            f"name another folder with data.cache_root=DIR or TOPOCELL_CACHE"
        )

    def _copied_before(self) -> bool:
        """Return whether any shard is there, with its list and its pixels."""
        return any(path.with_suffix(".raw").exists() for path in self.folder.glob("*.json"))

    def _known(self, names: Sequence[str]) -> dict[str, Found]:
        """The files that are in a shard and have not changed since."""
        wanted, known = set(names), dict[str, Found]()
        for path in sorted(self.folder.glob("*.json")):
            raw = str(path.with_suffix(".raw"))
            for record in self._listed(path):
                if record.name in wanted and self._same(record):
                    known[record.name] = Found(record, raw)
        return known

    def _listed(self, path: Path) -> list[Record]:
        """The records of a shard; none of one whose pixels are gone. Raises DataError for a damaged one of a cache."""
        if self.side is not None and not path.with_suffix(".raw").exists():
            return []
        try:
            head, body = path.read_bytes().split(b"\n", 1)
            told = json.loads(head)
            if told["sha256"] != hashlib.sha256(body).hexdigest():
                raise ValueError("its list is not the one that was written")
            if self.side is not None and path.with_suffix(".raw").stat().st_size != told["bytes"]:
                raise ValueError("its pixels are cut off")
            return [Record(*row) for row in json.loads(body)]
        except (OSError, ValueError, KeyError, TypeError) as fault:
            if self.side is None:
                return []
            why = reason(fault) if isinstance(fault, OSError) else fault
            raise DataError(
                f"a shard of the cache must stay as it was written, but {str(path)!r} is damaged ({why}); delete it, "
                f"and the same command makes it again"
            ) from None

    def _same(self, record: Record) -> bool:
        try:
            stat = os.stat(self.root / record.name)
        except OSError:
            return False
        return (stat.st_size, stat.st_mtime_ns) == (record.size, record.time)

    def _read(self, names: Sequence[str], progress: Callable[[int, int], object]) -> Iterator[Found]:
        """Read files, and keep what is known of them, with their copies."""
        size = OF_A_SHARD if self.side is None else max(PIXELS // (4 * self.side**2) // AT_ONCE, 1) * AT_ONCE
        parts = [names[start : start + size] for start in range(0, len(names), size)]
        chunks = [part[start : start + AT_ONCE] for part in parts for start in range(0, len(part), AT_ONCE)]
        reader, done = Examination(str(self.root), self.background, self.side), 0
        made: Iterator[Examined] = made_of(reader, chunks, self.workers)
        for part in parts:
            records, kept, pixels, offset = list[Record](), list[Record](), list[np.ndarray](), 0
            while len(records) < len(part):
                some, flat, lasting = next(made)
                for record, lasts in zip(some, lasting, strict=True):
                    records.append(record._replace(offset=offset))
                    kept += records[-1:] * lasts
                    offset += 3 * record.height * record.width
                pixels.append(flat.numpy())
                progress(done := done + len(some), len(names))
            raw = self._keep(kept, pixels)
            yield from (Found(record, raw) for record in records)

    def _keep(self, records: Sequence[Record], pixels: Sequence[np.ndarray]) -> str:
        """Write a shard; returns the file of its pixels. Raises DataError where a cache cannot be written."""
        body = json.dumps(records, separators=(",", ":")).encode()
        key = hashlib.sha256(body).hexdigest()
        head = {"sha256": key, "bytes": sum(len(part) for part in pixels)}
        path = self.folder / f"{key[:24]}.json"
        try:
            if self.side is not None:
                io_files.replace(path.with_suffix(".raw"), *(part.data for part in pixels))
            io_files.replace(path, json.dumps(head).encode(), b"\n", body)
        except OSError as fault:
            if self.side is not None:
                raise self._unwritable(fault) from None
        return str(path.with_suffix(".raw"))
