"""What tells sets of images apart, which of their images are the same, and how bright they are."""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from topocell.data.batches import ImageSet
from topocell.data.readers import Statistics


def measure(images: Tensor) -> Statistics:
    """Mean and standard deviation per channel of uint8 images, on the scale 0..1; std at least 1/255."""
    value = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in range(images.shape[1]):
        share = images[:, channel].flatten().bincount(minlength=256).double()
        share /= share.sum()
        centre = float((share * value).sum())
        mean.append(centre)
        std.append(max(math.sqrt(float((share * (value - centre) ** 2).sum())), 1 / 255))
    return tuple(mean), tuple(std)


def fingerprint(*sets: ImageSet) -> str:
    """sha256 over the shapes, pixels, labels and class names of the sets."""
    digest = hashlib.sha256()
    for data in sets:
        digest.update(repr((tuple(data.images.shape), data.classes)).encode())
        for tensor in (data.images, data.labels):
            digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def overlap(train: ImageSet, test: ImageSet) -> int:
    """Count the test images that are byte-identical to some training image, whatever their labels."""
    return repetitions(train, test)[0]


def repetitions(train: ImageSet, test: ImageSet) -> tuple[int, int]:
    """Count the test images as `overlap` does, and all images that are byte-identical to one of another class."""
    return repeated((_digests(train), train.labels), (_digests(test), test.labels))


def repeated(train: tuple[Sequence[bytes], Tensor], test: tuple[Sequence[bytes], Tensor]) -> tuple[int, int]:
    """Count as `repetitions` does; of each part the digests of its images, and their labels (N,)."""
    (first, first_labels), (second, second_labels) = train, test
    seen, labels = set(first), [*first_labels.tolist(), *second_labels.tolist()]
    classes = Counter(digest for digest, _ in set(zip([*first, *second], labels, strict=True)))
    return sum(digest in seen for digest in second), sum(classes[digest] > 1 for digest in [*first, *second])


def _digests(data: ImageSet) -> list[bytes]:
    return [hashlib.blake2b(image, digest_size=16).digest() for image in data.images.cpu().contiguous().numpy()]
