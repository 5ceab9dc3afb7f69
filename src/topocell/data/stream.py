"""Images that stay in their files, and are read again in every epoch by worker processes."""

import multiprocessing
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from topocell.data.augment import Augmentation
from topocell.data.batches import Batches
from topocell.data.image_file import careful_pillow, fault_of
from topocell.data.loading import ended_workers, image_loader
from topocell.data.policies import ColourJitter
from topocell.data.views import View, view_of_copy, view_of_file
from topocell.errors import DataError
from topocell.runtime.distributed import share
from topocell.runtime.rng import derive

#: Streams of batches whose workers are kept; those of the one used longest ago end when another one begins.
MOST_STREAMS = 4


class Copy(NamedTuple):
    """Where the pixels of an image are in the shards of a cache: which, from which byte on, their size and checksum."""

    shard: int
    offset: int
    height: int
    width: int
    checksum: int


class Request(NamedTuple):
    """A batch that a worker is to make.

    Args:
        view: of every image.
        stream: words that the draws of the batch depend on.
        items: (position in the set, how often it came before in the epoch, file below the root or copy) of each image.
    """

    view: View
    stream: tuple[int | str, ...]
    items: list[tuple[int, int, str | Copy]]


class Unread(NamedTuple):
    """An image that could not be read, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Reader:
    """Reads batches from files, or from the copies in a cache; a dataset of `torch.utils.data` of whole batches.

    Args:
        root: folder of the files.
        shards: files of the cache.
        tolerant: whether an image that cannot be read is black, where only time is measured.
    """

    root: str
    shards: tuple[str, ...] = ()
    tolerant: bool = False

    def __getitems__(self, request: Request) -> Tensor | Unread:
        """Return (B, side, side, 3) uint8, or the first image that cannot be read."""
        view = request.view
        out = torch.zeros(len(request.items), view.side, view.side, 3, dtype=torch.uint8)
        with careful_pillow(), torch.random.fork_rng(devices=[], enabled=view.random):
            for place, (index, before, where) in enumerate(request.items):
                seed = _seed(request.stream, index, before) if view.random else 0
                try:
                    out[place] = self._one(where, view, seed)
                except Exception as error:  # whatever a decoder makes of a damaged file
                    if not self.tolerant:
                        return self._fault(where, error)
        return out

    def _one(self, where: str | Copy, view: View, seed: int) -> Tensor:
        if isinstance(where, str):
            return view_of_file(os.path.join(self.root, where), view, seed)
        return view_of_copy(copied(self.shards[where.shard], where), view, seed)

    def _fault(self, where: str | Copy, error: Exception) -> Unread:
        name = where if isinstance(where, str) else self.shards[where.shard]
        return Unread(name, fault_of(os.path.join(self.root, name), error).reason)


def _seed(stream: tuple[int | str, ...], index: int, before: int) -> int:
    seed, *words = stream
    return derive(int(seed), *words, index, before)


def copied(shard: str, where: Copy) -> np.ndarray:
    """The pixels (height, width, 3) uint8 of a copy, which must not be changed. Raises ValueError for damaged ones."""
    stop = where.offset + where.height * where.width * 3
    pixels = _mapped(shard, os.stat(shard).st_mtime_ns)[where.offset : stop]
    if len(pixels) != stop - where.offset or zlib.crc32(pixels.data) != where.checksum:
        raise ValueError("damaged: its pixels are not those that were written")
    return pixels.reshape(where.height, where.width, 3)


@lru_cache(maxsize=4096)
def _mapped(shard: str, time: int) -> np.ndarray:
    return np.memmap(shard, np.uint8, mode="c")  # copied on write, since torch knows no arrays that are read only


@dataclass(frozen=True, eq=False)
class StreamedSet:
    """Labelled images in files: see `topocell.data.batches.Images`.

    Args:
        labels: (N,) int64.
        classes: their names.
        files: of each image, below the root of the reader.
        reader: of their pixels.
        view: without augmentation.
        workers: processes of each stream of batches.
        copies: (N, 5), a `Copy` of each image; None: the files are read.
    """

    labels: Tensor
    classes: tuple[str, ...]
    files: tuple[str, ...]
    reader: Reader
    view: View
    workers: int
    copies: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names(self) -> tuple[str, ...]:
        """What each image is called: its file."""
        return self.files

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3, side, side)."""
        return 3, self.view.side, self.view.side

    @property
    def nbytes(self) -> int:
        """None is kept."""
        return 0

    def subset(self, indices: Tensor) -> "StreamedSet":
        """The images at `indices` (M,) int64, in that order."""
        files = tuple(self.files[i] for i in indices.tolist())
        copies = None if self.copies is None else self.copies[indices]
        return replace(self, labels=self.labels[indices], files=files, copies=copies)

    @classmethod
    def joined(cls, parts: Sequence["StreamedSet"]) -> "StreamedSet":
        """The images of several parts of one set, one after the other."""
        labels, files = torch.cat([p.labels for p in parts]), tuple(file for p in parts for file in p.files)
        copies = None if parts[0].copies is None else torch.cat([p.copies for p in parts if p.copies is not None])
        return replace(parts[0], labels=labels, files=files, copies=copies)

    def pixels(self, indices: Tensor) -> Tensor:
        """Images without augmentation, (M, 3, side, side) uint8. Raises DataError for one that cannot be read."""
        return read(self.reader.__getitems__(self.request(indices.tolist())), self.reader)

    def request(self, numbers: Sequence[int]) -> Request:
        """Return a request of images without augmentation."""
        return Request(self.view, (), self.items(numbers, [0] * len(numbers)))

    def items(self, numbers: Sequence[int], before: Sequence[int]) -> list[tuple[int, int, str | Copy]]:
        """Return the items of a request: positions, how often each came before, and where it is."""
        where: Iterable[str | Copy] = (
            [self.files[i] for i in numbers]
            if self.copies is None
            else [Copy(*row) for row in self.copies[list(numbers)].tolist()]
        )
        return list(zip(numbers, before, where))

    def feed(self, batches: Batches) -> "Stream":
        """A stream of them."""
        return Stream(self, batches)


def read(made: Tensor | Unread, reader: Reader) -> Tensor:
    """Return what a worker has made, (B, 3, side, side). Raises DataError where it could not."""
    if isinstance(made, Unread):
        what = "a shard of the cache" if made.name in reader.shards else "an image"
        way = "delete it, and the same command makes it again" if made.name in reader.shards else "restore it"
        raise DataError(f"{what} must stay as it was, but {made.name} cannot be read ({made.reason}); {way}")
    return made.permute(0, 3, 1, 2)


class Stream:
    """Gives batches their images, some of which are read ahead; see `topocell.data.batches.Feed`.

    Batches may be asked for in any order. After one, the next step is read ahead, and after the last step that was
    asked for in the epoch before, the first one of the next epoch.

    Args:
        data: the images.
        batches: whose order is followed.
    """

    def __init__(self, data: StreamedSet, batches: Batches) -> None:
        self._data, self._batches = data, batches
        self._workers = 0 if multiprocessing.current_process().daemon else data.workers
        self._loader: DataLoader | None = None
        self._plan = _Plan()
        self._ahead: Iterator[Tensor | Unread] | None = None
        self._next: tuple[int, int] = (-1, -1)
        self._like: tuple[Any, ...] = ()
        self._span: int | None = None
        self._before: tuple[tuple[int, int], Tensor] | None = None  # see `_occurrences`, of an epoch and turn

    @property
    def labels(self) -> Tensor:
        """The labels (N,), on the CPU."""
        return self._data.labels

    def drawn(self, epoch: int, step: int) -> Tensor:
        """The images of a step, each with the draws of its own, on the device."""
        if not self._workers:
            return self._moved(self._data.reader.__getitems__(self._request(epoch, step)))
        of = self._batches
        like = (of.batch_size, of.augmentation, of.policy, of.shared)
        if self._ahead is None or self._next != (epoch, step) or self._like != like:
            self._learn(epoch, step)
            self._like, self._ahead = like, self._begin(lambda: self._from(epoch, step))
        made = self._take()
        self._next = self._after(epoch, step)
        return self._moved(made)

    def in_order(self, bounds: Sequence[tuple[int, int]]) -> Iterator[Tensor]:
        """The images between bounds without augmentation, on the device."""
        requests = (self._data.request(range(*bound)) for bound in bounds)
        if not self._workers:
            yield from (self._moved(self._data.reader.__getitems__(request)) for request in requests)
            return
        self._ahead, self._next = self._begin(lambda: requests), (-1, -1)
        for _ in bounds:
            yield self._moved(self._take())

    def remaining(self, augmentation: Augmentation | None) -> Augmentation | None:
        """What is done to a whole batch: crops with padding, turns, moves and cutout."""
        if augmentation is None:
            return None
        padding = 0 if augmentation.scale is not None else augmentation.padding
        return replace(augmentation, padding=padding, flip=False, scale=None, jitter=None)

    def close(self) -> None:
        """End the workers; the next batch starts others."""
        self._ahead = self._loader = None
        if self in _OPEN:
            _OPEN.remove(self)

    # Requests -------------------------------------------------------------------------------------------------

    def _request(self, epoch: int, step: int) -> Request:
        of = self._batches
        numbers, (turn, start) = of.whole(epoch, step), of.place(step)
        before = torch.zeros_like(numbers)
        if of.balanced:
            if self._before is None or self._before[0] != (epoch, turn):
                self._before = (epoch, turn), _occurrences(of.order(epoch, turn))
            before = self._before[1][start : start + len(numbers)]
        if of.shared:
            numbers, before = share(numbers), share(before)
        items = self._data.items(numbers.tolist(), before.tolist())
        return Request(self._view(), (of.seed, of.stream, "image", epoch, turn), items)

    def _view(self) -> View:
        plan = self._batches.augmentation
        if plan is None:
            return self._data.view
        jitter = None if plan.jitter is None else ColourJitter(*plan.jitter)
        like, policy = replace(self._data.view, random=True), self._batches.policy
        return replace(like, scale=plan.scale, flip=plan.flip, jitter=jitter, policy=policy)

    def _from(self, epoch: int, step: int) -> Iterator[Request]:
        while True:
            yield self._request(epoch, step)
            epoch, step = self._after(epoch, step)

    def _after(self, epoch: int, step: int) -> tuple[int, int]:
        last = len(self._batches) if self._span is None else self._span
        return (epoch, step + 1) if step + 1 != last else (epoch + 1, 0)

    def _learn(self, epoch: int, step: int) -> None:
        """Note how many steps an epoch takes from this stream, where it was another number than thought."""
        expected = self._next
        if (epoch, step) == (expected[0] + 1, 0) and expected[1] > 0:
            self._span = expected[1]
        elif expected == (epoch + 1, 0) and self._ahead is not None:
            self._span = 0  # which no step ends

    # Workers --------------------------------------------------------------------------------------------------

    def _begin(self, requests: Callable[[], Iterator[Request]]) -> Iterator[Tensor | Unread]:
        """Let the workers make these batches, in order, from now on."""
        self._plan.requests, self._ahead = requests, None
        if self in _OPEN:
            _OPEN.remove(self)
        for unused in _OPEN[: max(len(_OPEN) + 1 - MOST_STREAMS, 0)]:
            unused.close()
        _OPEN.append(self)
        if self._loader is None:
            pinned = self._batches.device.type == "cuda"
            self._loader = image_loader(self._data.reader, self._plan, self._workers, pinned)
        with ended_workers(self.close):
            return iter(self._loader)

    def _take(self) -> Tensor | Unread:
        assert self._ahead is not None
        with ended_workers(self.close):
            return next(self._ahead)

    def _moved(self, made: Tensor | Unread) -> Tensor:
        return read(made, self._data.reader).to(self._batches.device, non_blocking=True)


#: Streams with workers, the one used longest ago first.
_OPEN: list[Stream] = []


def close_streams() -> None:
    """End all workers that read images."""
    for stream in list(_OPEN):
        stream.close()


class _Plan:
    """The batches that workers are to make; a batch sampler."""

    def __init__(self) -> None:
        self.requests: Callable[[], Iterator[Request]] = lambda: iter(())

    def __iter__(self) -> Iterator[Request]:
        return self.requests()


def _occurrences(order: Tensor) -> Tensor:
    """How often each entry of (N,) has come before."""
    places = order.argsort(stable=True)
    values = order[places]
    before = torch.empty_like(order)
    before[places] = torch.arange(len(order)) - torch.searchsorted(values, values)
    return before
