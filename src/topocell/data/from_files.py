"""Which images are streamed from their files, and what is found out about them before they are."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from topocell.data.augment import Augmentation, check_statistics
from topocell.data.fingerprints import measure, repeated
from topocell.data.image_file import read_header, scaled_for
from topocell.data.image_folder import (
    COPIES,
    Decoding,
    memory_of_machine,
    physical_memory,
    refuse_faults,
    side_of,
)
from topocell.data.loading import made_of, usual_workers
from topocell.data.readers import Source, Statistics, check_classes, left_out
from topocell.data.shards import KINDS, Found, Shards
from topocell.data.stream import Copy, Reader, StreamedSet, read
from topocell.data.views import View
from topocell.errors import DataError
from topocell.io import files as io_files
from topocell.io.cache import cache_folder

#: Side in pixels of streamed images where nothing else is said.
STREAMED = 224
#: Training images from which mean and standard deviation are measured, and headers that are read to tell a usual size.
SAMPLE, HEADERS = 1024, 256


@dataclass(frozen=True)
class Streaming:
    """Whether images stay in their files, and how they are read; which the recipe has under `data`.

    Args:
        store: `memory`, `stream` or `auto`.
        workers: processes of each stream of batches; None: `usual_workers`.
        cache: shorter side of copies; None: no copies.
        cache_root: folder of the copies; None: below the cache folder.
        crop_scale: of random parts of training images.
        checked: whether all files are read once before, and those that cannot be are refused or left out. If not, such
            an image is black: good enough where only time is measured.
        begun: what `auto` is for images that have files, `memory` or `stream`; `half`: as runs chose that did not write
            it down, whether they fit into half the memory of the machine; None: whether `COPIES` of them fit.
    """

    store: Literal["memory", "stream", "auto"] = "auto"
    workers: int | None = None
    cache: int | None = None
    cache_root: str | None = None
    crop_scale: tuple[float, float] = (0.08, 1.0)
    checked: bool = True
    begun: str | None = None


IN_MEMORY = Streaming("memory")


class Streamed(NamedTuple):
    """What is known of streamed images.

    Args:
        train, test: those that can be read.
        mean, std: per channel.
        digest: of all contents, labels and class names.
        notes: sentences for the report.
        repeated: see `topocell.data.fingerprints.repetitions`; of files.
    """

    train: StreamedSet
    test: StreamedSet
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str
    notes: list[str]
    repeated: tuple[int, int]


def is_streamed(
    name: str, source: Source, chosen: Mapping[str, Tensor], resolution: int | None, streaming: Streaming
) -> bool:
    """Return whether the images of a dataset stay in their files.

    Raises:
        DataError: they are to, but have none of their own.
    """
    if source.root is None:
        if streaming.store == "stream" or streaming.cache is not None:
            raise DataError(
                f"images are streamed from files of their own, but those of {name!r} have none; use data.store=memory "
                f"and data.cache=null, or dataset folder or imagenet"
            )
        return False
    if streaming.store != "auto" or streaming.cache is not None:
        return streaming.store != "memory"
    if streaming.begun in ("memory", "stream"):
        return streaming.begun == "stream"
    count, room = sum(map(len, chosen.values())), memory_of_machine() / COPIES
    if streaming.begun == "half":
        room = physical_memory() / 2
    if 3 * count * (resolution or STREAMED) ** 2 <= room:
        return False
    return resolution is not None or 3 * count * _usual_side(source, chosen["training"]) ** 2 > room


def store_notes(source: Source, streaming: Streaming, kept: bool, augmentation: Augmentation) -> list[str]:
    """Say what `auto` has chosen, since the crops of training images depend on it, and which setting has no effect.

    Args:
        source: the images.
        streaming: what was asked for.
        kept: whether the images are in memory.
        augmentation: of training images.
    """
    notes = []
    if source.root is not None and streaming.store == "auto" and streaming.cache is None:
        why = f"where {COPIES} copies of them fit" if kept else f"for {COPIES} copies of them do not fit in memory"
        why = why if streaming.begun is None else "as the run began"
        notes.append(f"data.store=auto {'keeps the images in memory' if kept else 'streams the images'}, {why}")
        if augmentation.scale is not None:
            notes[0] += (
                "; training images are random parts (data.crop_scale), data.store=memory takes crops after padding"
            )
        elif kept and augmentation.padding:
            notes[0] += "; training images are crops after padding, data.store=stream takes random parts"
    if streaming.crop_scale != Streaming.crop_scale and augmentation.scale is None:
        notes.append(
            "data.crop_scale has no effect: it is for random parts of streamed images, data.store=stream and "
            "data.crop=true"
        )
    return notes


def _usual_side(source: Source, chosen: Tensor) -> int:
    """The side that images would have in memory, from the headers of some files."""
    paths = [os.path.join(str(source.root), source.train_files[i]) for i in _spread(chosen, HEADERS).tolist()]
    return side_of([read_header(path, (255, 255, 255)) for path in paths])


def _spread(indices: Tensor, most: int) -> Tensor:
    """At most so many entries of (N,), evenly spread."""
    return indices[:: max(-(-len(indices) // most), 1)]


def streamed(
    source: Source,
    chosen: Mapping[str, Tensor],
    decoding: Decoding,
    streaming: Streaming,
    known: Statistics | None,
) -> Streamed:
    """Look at all images that are chosen, or at what is known of them, and return both parts.

    Args:
        source: the files.
        chosen: (M,) of the `training` and of the `test` images.
        decoding: how they become pixels, and what is done about those that cannot be read.
        streaming: how they are read.
        known: published mean and std, if any.

    Raises:
        DataError: images that cannot be read, a class that loses all of its images, a cache that cannot be used.
    """
    root, side = source.root, decoding.resolution or STREAMED
    assert root is not None
    if known is not None:
        check_statistics(known, 3)
    if streaming.cache is not None and streaming.cache < side:
        raise DataError(
            f"data.cache is the resolution or more, {side}, but got {streaming.cache}; raise it, or lower "
            f"data.resolution"
        )
    workers = usual_workers() if streaming.workers is None else streaming.workers
    names = {
        "training": [source.train_files[i] for i in chosen["training"].tolist()],
        "test": [source.test_files[i] for i in chosen["test"].tolist()],
    }
    labels = {"training": source.train_labels[chosen["training"]], "test": source.test_labels[chosen["test"]]}
    view = View(side, decoding.background)
    if not streaming.checked:
        reader = Reader(str(root), tolerant=True)
        train, test = (
            StreamedSet(labels[part], source.classes, tuple(names[part]), reader, view, workers) for part in names
        )
        mean, std = known or _measured(train, "")
        return Streamed(train, test, mean, std, "", ["the images were not checked"], (0, 0))
    shards = _shards(root, decoding, streaming, workers)
    with _progress("reading images once" if streaming.cache is None else "copying images") as progress:
        found = shards.records([*names["training"], *names["test"]], progress)
    faulty = [place for place, each in enumerate(found) if each.record.fault]
    faults = [f"{found[place].record.name} ({found[place].record.fault})" for place in faulty]
    refuse_faults(faults, len(found), decoding)
    cut, whole = len(names["training"]), torch.cat(list(labels.values()))
    notes = left_out(faults, [source.classes[int(whole[place])] for place in faulty]) if faults else []
    files = {shard: number for number, shard in enumerate(dict.fromkeys(each.shard for each in found))}
    reader = Reader(str(root), tuple(files) if streaming.cache is not None else ())
    parts, digests = [], []
    for part, some in (("training", found[:cut]), ("test", found[cut:])):
        kept = [place for place, each in enumerate(some) if not each.record.fault]
        here = labels[part][kept]
        check_classes(here, labels[part], source.classes, part)
        copies = None
        if streaming.cache is not None:
            copies = torch.tensor([_copy(some[place], files) for place in kept], dtype=torch.int64).reshape(-1, 5)
        all_names = tuple(names[part][place] for place in kept)
        parts.append(StreamedSet(here, source.classes, all_names, reader, view, workers, copies))
        digests.append([bytes.fromhex(some[place].record.digest) for place in kept])
    digest = hashlib.sha256(repr((source.classes, side, streaming.cache, decoding.background)).encode())
    for streamed_set, of_files in zip(parts, digests):
        digest.update(repr(streamed_set.labels.tolist()).encode())
        digest.update(b"".join(of_files))
    mean, std = known or _measured(parts[0], digest.hexdigest())
    notes += _notes([each for each in found if not each.record.fault], side, streaming, parts[0], known)
    both = repeated((digests[0], parts[0].labels), (digests[1], parts[1].labels))
    return Streamed(parts[0], parts[1], mean, std, digest.hexdigest(), notes, both)


def _shards(root: Path, decoding: Decoding, streaming: Streaming, workers: int) -> Shards:
    """The folder of what is known of the files of a tree, and of their copies."""
    place = hashlib.sha256(os.fsencode(f"{root.resolve()} {decoding.background} {streaming.cache}")).hexdigest()[:16]
    folder = cache_folder() / f"images-{place}" if streaming.cache_root is None else Path(streaming.cache_root)
    return Shards(folder.expanduser(), root, decoding.background, streaming.cache, workers)


def _copy(found: Found, files: Mapping[str, int]) -> Copy:
    record = found.record
    return Copy(files[found.shard], record.offset, record.height, record.width, record.checksum)


def _notes(
    found: Sequence[Found], side: int, streaming: Streaming, train: StreamedSet, known: Statistics | None
) -> list[str]:
    """How images are read, and which are read in a way of their own."""
    source = "their files" if streaming.cache is None else f"copies with a shorter side of {streaming.cache} pixels"
    notes = [f"images are streamed from {source} at {side}x{side}"]
    if streaming.cache not in (None, exact := scaled_for(side)):
        notes.append(
            f"data.cache={streaming.cache} scales images twice: predictions from files, which are scaled once, see "
            f"other pixels than the test; data.cache={exact} gives the same"
        )
    counts = {letter: sum(letter in each.record.kinds for each in found) for letter in KINDS}
    if kinds := [f"{count:,} {KINDS[letter]}" for letter, count in counts.items() if count]:
        notes.append(f"images of other kinds: {', '.join(kinds)}")
    if known is None and len(train) > SAMPLE:
        notes.append(
            f"mean and standard deviation are those of {len(_spread(torch.arange(len(train)), SAMPLE)):,} images"
        )
    return notes


def _measured(train: StreamedSet, digest: str) -> Statistics:
    """Mean and standard deviation of some training images; kept in the cache folder for a set of that digest."""
    path = cache_folder() / f"statistics-{digest[:32]}.json"
    with suppress(OSError, ValueError, TypeError):
        if digest:
            mean, std = json.loads(path.read_bytes())
            return tuple(map(float, mean)), tuple(map(float, std))
    indices = _spread(torch.arange(len(train)), SAMPLE if digest else 16)
    requests = [train.request(part.tolist()) for part in indices.split(32)]
    found = measure(torch.cat([read(made, train.reader) for made in made_of(train.reader, requests, train.workers)]))
    with suppress(OSError):
        if digest:
            path.parent.mkdir(parents=True, exist_ok=True)
            io_files.replace(path, json.dumps(found).encode())
    return found


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], object]]:
    """A bar on a terminal, for reading that takes a while."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=math.inf)
        yield lambda done, of: bar.update(task, completed=done, total=of)
