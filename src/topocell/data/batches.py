"""Batches of labelled images on a device: crop, flip and cutout with separate draws for each image.

Every draw is a function of (seed, stream, epoch, step), so a resumed run continues with exactly the batches
it would have seen, and a batch can be asked for without the ones before it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Literal, Protocol, Self

import torch
from torch import Tensor

from topocell.data.augment import Augmentation, augment, move
from topocell.data.policies import ColourJitter, ImagePolicy
from topocell.data.sampling import balanced_order
from topocell.errors import DataError
from topocell.runtime.distributed import rank, share, world
from topocell.runtime.rng import derive
from topocell.runtime.rng import generator as seeded

#: How the batches of an epoch are drawn, see `Batches`.
Draw = Literal["epoch", "replacement"]


class Images(Protocol):
    """Labelled images, wherever their pixels are: labels (N,) int64, class names, and where each image is, if known."""

    @property
    def labels(self) -> Tensor:
        """Return the label of each image, (N,) int64."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return what each image is called: its file, or its number in the set."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (C, H, W) of an image in a batch."""

    @property
    def nbytes(self) -> int:
        """Return the bytes of all pixels that are kept in memory."""

    def __len__(self) -> int:
        """Return the number of images."""

    def subset(self, indices: Tensor) -> Self:
        """Return the images at `indices` (M,) int64, in that order."""

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the images of several parts of one set, one after the other."""

    def pixels(self, indices: Tensor) -> Tensor:
        """Return images without augmentation, (M, C, H, W) uint8."""

    def feed(self, batches: "Batches") -> "Feed":
        """Return what gives batches their pixels."""


class Feed(Protocol):
    """Where batches take their pixels from."""

    @property
    def labels(self) -> Tensor:
        """Return the label of each image, (N,) int64, on the device where they are kept."""

    def drawn(self, epoch: int, step: int) -> Tensor:
        """Return the images of a step, (B, C, H, W) uint8 on the device, with what is changed image by image."""

    def in_order(self, bounds: Sequence[tuple[int, int]]) -> Iterator[Tensor]:
        """Yield the images from each first to before each last position, (B, C, H, W) uint8, as they are."""

    def remaining(self, augmentation: Augmentation | None) -> Augmentation | None:
        """Return what of an augmentation is left to be done to a whole batch."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images in memory: `images` (N, C, H, W) uint8, `labels` (N,) int64 in 0..len(classes)-1, class names.

    `files` says where each image is; it is empty for images that have no file of their own. `numbers` (N,) says which
    of the set they are; None: all of it, in its order.

    Raises:
        DataError: another dtype or shape, a label without a class, another number of files.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    files: tuple[str, ...] = ()
    numbers: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape)
        if self.images.dtype != torch.uint8 or len(shape) != 4 or not len(self.labels):
            raise DataError(f"images are uint8 (N, C, H, W) with N >= 1, but got {self.images.dtype} {shape}")
        if self.labels.dtype != torch.int64 or self.labels.shape != shape[:1]:
            got = f"{self.labels.dtype} {tuple(self.labels.shape)}"
            raise DataError(f"labels are one int64 per image, here {shape[0]}, but got {got}")
        low, high = (int(bound) for bound in self.labels.aminmax())
        if low < 0 or high >= len(self.classes):
            raise DataError(f"labels lie in 0..{len(self.classes) - 1}, but got labels from {low} to {high}")
        if self.files and len(self.files) != shape[0]:
            raise DataError(f"files are one per image, here {shape[0]}, but got {len(self.files)}; or leave them out")

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> "ImageSet":
        """A copy of the images at `indices` (M,) int64, in that order, in the memory format of `to`."""
        files = tuple(self.files[i] for i in indices.tolist()) if self.files else ()
        images = self.images.permute(0, 2, 3, 1).index_select(0, indices.to(self.images.device)).permute(0, 3, 1, 2)
        return ImageSet(images, self.labels[indices], self.classes, files, self._numbers[indices.cpu()])

    @property
    def _numbers(self) -> Tensor:
        return torch.arange(len(self)) if self.numbers is None else self.numbers

    @property
    def names(self) -> tuple[str, ...]:
        """What each image is called: its file, or its number in the set."""
        return self.files or tuple(map(str, self._numbers.tolist()))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels."""
        return self.images.nbytes

    @classmethod
    def joined(cls, parts: Sequence["ImageSet"]) -> "ImageSet":
        """The images of several parts of one set, one after the other."""
        images, labels = torch.cat([p.images for p in parts]), torch.cat([p.labels for p in parts])
        files, numbers = tuple(file for p in parts for file in p.files), torch.cat([p._numbers for p in parts])
        return ImageSet(images, labels, parts[0].classes, files, numbers)

    def pixels(self, indices: Tensor) -> Tensor:
        """Images (M, C, H, W) uint8."""
        return self.images[indices]

    def feed(self, batches: "Batches") -> "Kept":
        """The images, kept once on the device of the batches."""
        return Kept(self.to(batches.device), batches)

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same set on the device, its images in channels_last memory format."""
        images = self.images.contiguous(memory_format=torch.channels_last)
        return replace(self, images=move(images, device), labels=move(self.labels, device))


class Kept:
    """Images that are kept once on the device, as uint8.

    Args:
        data: on the device.
        batches: whose images are asked for.
    """

    def __init__(self, data: ImageSet, batches: "Batches") -> None:
        self._data, self._batches = data, batches

    @property
    def labels(self) -> Tensor:
        """The labels (N,), on the device."""
        return self._data.labels

    def drawn(self, epoch: int, step: int) -> Tensor:
        """The images of a step, with other colours and shapes where there is a policy or a jitter."""
        of = self._batches
        images = self._data.images.permute(0, 2, 3, 1)[of.whole(epoch, step)].permute(0, 3, 1, 2)
        if of.policy is not None:
            images = of.policy(images, derive(of.seed, of.stream, "policy", epoch, step))
        if of.augmentation is not None and of.augmentation.jitter is not None:
            images = ColourJitter(*of.augmentation.jitter)(images, derive(of.seed, of.stream, "jitter", epoch, step))
        return images

    def in_order(self, bounds: Sequence[tuple[int, int]]) -> Iterator[Tensor]:
        """The images between bounds."""
        return (self._data.images[start:stop] for start, stop in bounds)

    def remaining(self, augmentation: Augmentation | None) -> Augmentation | None:
        """All of it."""
        return augmentation


class Batches:
    """Batches of a set; stateless but for a cached permutation, and for what reads ahead where images are streamed.

    A batch larger than the set is lowered to the set. An epoch is ceil(N / batch_size) batches: a permutation
    of the set, split in order. A last batch of a single image is left out, because batch norm needs two. With
    `draw="replacement"` an epoch has as many batches, each the beginning of a permutation of its own: an image may come
    in several batches of an epoch or in none, in a batch at most once, and every batch has its full size. This is what
    a loader gives that is shuffled afresh for each step, as in the released codes of DARTS (batches of α) and DARTS-PT
    (all batches of the supernet phase).

    Args:
        data: N images, N >= 2, kept once on the device as uint8 if they are in memory.
        batch_size: images per batch, at least 2.
        mean, std: per channel, see `augment`.
        augmentation: of `batch`; None for normalisation only.
        device: where the batches are made.
        seed, stream: what the draws depend on; two `Batches` with the same stream draw the same order.
        policy: changes of colour and shape before the augmentation, of `batch`; None for none.
        balanced: draw every class equally often in an epoch, see `balanced_order`, in place of a permutation.
        draw: without replacement within an `epoch`, or with `replacement` from one step to the next.

    Attributes:
        shared: whether each of several processes takes its share of every batch (see `topocell.runtime.distributed`),
            which then has so many images that all shares are equal.

    Raises:
        DataError: fewer than two images, or a batch size below two.
    """

    def __init__(
        self,
        data: Images,
        batch_size: int,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        augmentation: Augmentation | None,
        device: torch.device | str,
        seed: int,
        stream: str,
        policy: ImagePolicy | None = None,
        balanced: bool = False,
        draw: Draw = "epoch",
    ) -> None:
        if batch_size < 2:
            raise DataError(f"batch_size is 2 or more (batch norm needs two images), but got {batch_size}; raise it")
        if len(data) < 2:
            raise DataError(f"batches need 2 images or more, but the set for {stream!r} has 1; use more images")
        self.data, self.device = data, torch.device(device)
        self.batch_size = min(batch_size, len(data))
        self.mean, self.std, self.augmentation = mean, std, augmentation
        self.seed, self.stream = seed, stream
        self.policy, self.draw = policy, draw
        self.balanced = balanced
        self._labels = data.labels.cpu() if balanced else None
        self.shared = False
        self._orders: dict[tuple[int, int], Tensor] = {}
        self._feed = data.feed(self)

    def __len__(self) -> int:
        full, rest = divmod(len(self.data), self.batch_size)
        return full + (rest >= 2 * self._shares)

    @property
    def last_full(self) -> int:
        """The last step of an epoch whose batch has its full size."""
        return len(self) - 1 if self.draw == "replacement" else len(self.data) // self.batch_size - 1

    def batch(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Batch `step` of an epoch, both 0-based: x (B, C, H, W) float32, y (B,) int64, on the device.

        A pure function of its arguments, the seed and the stream. `step` may exceed `len(self)`: every
        `len(self)` steps the same epoch starts its next permutation, where a permutation lasts for an epoch.
        """
        whole, left = self.whole(epoch, step), self._feed.remaining(self.augmentation)
        labels, draws = self._feed.labels[whole], seeded(self.seed, self.stream, "augment", epoch, step)
        x = augment(self._feed.drawn(epoch, step), self.mean, self.std, left, draws, len(whole))
        x = share(x) if self.shared and len(x) == len(whole) else x
        return x, move(share(labels) if self.shared else labels, self.device)

    def numbers(self, epoch: int, step: int) -> Tensor:
        """Return the positions in the set of the images of `batch`, (B,) int64, where the labels are kept."""
        whole = self.whole(epoch, step)
        return share(whole) if self.shared else whole

    def whole(self, epoch: int, step: int) -> Tensor:
        """Return the positions of the whole batch, of all processes."""
        turn, start = self.place(step)
        chosen = self.order(epoch, turn)[start : start + self.batch_size]
        return chosen[: len(chosen) // self._shares * self._shares]

    def place(self, step: int) -> tuple[int, int]:
        """Return which permutation of the epoch a step takes its images from, and from which place on."""
        turn, position = (step, 0) if self.draw == "replacement" else divmod(step, len(self))
        return turn, position * self.batch_size

    @property
    def _shares(self) -> int:
        return world() if self.shared else 1

    def eval_batches(self, limit: int | None = None, shared: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """The set in its own order without augmentation, every image once; at most `limit` batches.

        A single image left over joins the batch before it. When `shared`, each process gets some of the batches.
        """
        n = len(self.data)
        cuts = list(range(self.batch_size, n, self.batch_size))
        if n % self.batch_size == 1:
            cuts.pop()
        bounds, labels = list(islice(pairwise([0, *cuts, n]), limit)), self._feed.labels
        bounds = bounds[rank() :: world()] if shared else bounds
        for (start, stop), images in zip(bounds, self._feed.in_order(bounds), strict=True):
            yield augment(images, self.mean, self.std, None, None), move(labels[start:stop], self.device)

    def order(self, epoch: int, turn: int) -> Tensor:
        """Return the permutation (N,) of that epoch and turn, where the labels are kept.

        A function of (seed, stream, epoch, turn) alone. What several processes draw together is a batch of it too, of
        which each takes every so manieth image: no image twice, and none left out.
        """
        if (epoch, turn) not in self._orders:
            draws = seeded(self.seed, self.stream, "order", epoch, turn)
            n, labels = len(self.data), self._labels
            order = torch.randperm(n, generator=draws) if labels is None else balanced_order(labels, draws)
            while len(self._orders) > 1:  # two are in use where one reads ahead into the next epoch
                del self._orders[next(iter(self._orders))]
            self._orders[epoch, turn] = move(order, self._feed.labels.device)
        return self._orders[epoch, turn]
