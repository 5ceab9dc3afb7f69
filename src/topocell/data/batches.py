"""Batches of labelled images on a device: crop, flip and cutout with separate draws for each image.

Every draw is a function of (seed, stream, epoch, step), so a resumed run continues with exactly the batches
it would have seen, and a batch can be asked for without the ones before it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Literal

import torch
from torch import Tensor

from topocell.data.augment import Augmentation, augment, move
from topocell.data.policies import ImagePolicy
from topocell.data.sampling import balanced_order
from topocell.errors import DataError
from topocell.runtime.distributed import rank, share, world
from topocell.runtime.rng import derive
from topocell.runtime.rng import generator as seeded

#: How the batches of an epoch are drawn, see `Batches`.
Draw = Literal["epoch", "replacement"]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images: `images` (N, C, H, W) uint8, `labels` (N,) int64 in 0..len(classes)-1, class names.

    `files` says where each image is; it is empty for images that have no file of their own.

    Raises:
        DataError: another dtype or shape, a label without a class, another number of files.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    files: tuple[str, ...] = ()

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
        """A copy of the images at `indices` (M,) int64, in that order."""
        files = tuple(self.files[i] for i in indices.tolist()) if self.files else ()
        return ImageSet(self.images[indices], self.labels[indices], self.classes, files)

    @property
    def names(self) -> tuple[str, ...]:
        """What each image is called: its file, or its number in the set."""
        return self.files or tuple(map(str, range(len(self))))

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same set on the device, its images in channels_last memory format."""
        images = self.images.contiguous(memory_format=torch.channels_last)
        return ImageSet(move(images, device), move(self.labels, device), self.classes, self.files)


class Batches:
    """Batches of a set that is kept once on the device as uint8; stateless but for a cached permutation.

    A batch larger than the set is lowered to the set. An epoch is ceil(N / batch_size) batches: a permutation
    of the set, split in order. A last batch of a single image is left out, because batch norm needs two. With
    `draw="replacement"` an epoch has as many batches, each the beginning of a permutation of its own: an image may come
    in several batches of an epoch or in none, in a batch at most once, and every batch has its full size. This is what
    a loader gives that is shuffled afresh for each step, as in the released codes of DARTS (batches of α) and DARTS-PT
    (all batches of the supernet phase).

    Args:
        data: N images, N >= 2.
        batch_size: images per batch, at least 2.
        mean, std: per channel, see `augment`.
        augmentation: of `batch`; None for normalisation only.
        device: where the images are kept and augmented.
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
        data: ImageSet,
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
        self.data = data.to(device)
        self.batch_size = min(batch_size, len(data))
        self.mean, self.std, self.augmentation = mean, std, augmentation
        self.seed, self.stream = seed, stream
        self.policy, self.draw = policy, draw
        self._labels = data.labels.cpu() if balanced else None
        self.shared = False
        self._cached: tuple[tuple[int, int], Tensor] | None = None

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
        chosen = self._numbers(epoch, step)
        pixels, labels = self.data.images.permute(0, 2, 3, 1)[chosen], self.data.labels[chosen]
        draws, images = seeded(self.seed, self.stream, "augment", epoch, step), pixels.permute(0, 3, 1, 2)
        if self.policy is not None:
            images = self.policy(images, derive(self.seed, self.stream, "policy", epoch, step))
        x = augment(images, self.mean, self.std, self.augmentation, draws)
        return (share(x), share(labels)) if self.shared else (x, labels)

    def numbers(self, epoch: int, step: int) -> Tensor:
        """Return the positions in the set of the images of `batch`, (B,) int64, on the device."""
        chosen = self._numbers(epoch, step)
        return share(chosen) if self.shared else chosen

    @property
    def _shares(self) -> int:
        return world() if self.shared else 1

    def _numbers(self, epoch: int, step: int) -> Tensor:
        """The positions of the whole batch, of all processes."""
        turn, position = (step, 0) if self.draw == "replacement" else divmod(step, len(self))
        start = position * self.batch_size
        chosen = self._order(epoch, turn)[start : start + self.batch_size]
        return chosen[: len(chosen) // self._shares * self._shares]

    def eval_batches(self, limit: int | None = None, shared: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """The set in its own order without augmentation, every image once; at most `limit` batches.

        A single image left over joins the batch before it. When `shared`, each process gets some of the batches.
        """
        n = len(self.data)
        cuts = list(range(self.batch_size, n, self.batch_size))
        if n % self.batch_size == 1:
            cuts.pop()
        mine = islice(pairwise([0, *cuts, n]), limit)
        for start, stop in islice(mine, rank(), None, world()) if shared else mine:
            images = self.data.images[start:stop]
            yield augment(images, self.mean, self.std, None, None), self.data.labels[start:stop]

    def _order(self, epoch: int, turn: int) -> Tensor:
        """The permutation (N,) of that epoch and turn, on the device."""
        if self._cached is None or self._cached[0] != (epoch, turn):
            draws = seeded(self.seed, self.stream, "order", epoch, turn)
            n, labels = len(self.data), self._labels
            order = torch.randperm(n, generator=draws) if labels is None else balanced_order(labels, draws)
            self._cached = (epoch, turn), move(order, self.data.images.device)
        return self._cached[1]
