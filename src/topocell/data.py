"""Datasets as uint8 tensors, and the splits that a search may see.

`load` reads a named set or a folder of images; `search_data` cuts its training images into the splits of a
search and keeps nothing of the test images. `Batches` (from `augment`) makes batches of either.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from topocell.augment import Augmentation, Batches, ImageSet, resize
from topocell.errors import DataError, nearest
from topocell.files import existing, reason
from topocell.folder import check_memory, class_folders, decode_cached, listing, some
from topocell.rng import generator

__all__ = [
    "DATASETS",
    "Augmentation",
    "Batches",
    "Dataset",
    "ImageSet",
    "SearchData",
    "fingerprint",
    "load",
    "overlap",
    "search_data",
    "split",
]

CIFAR10_STATISTICS = ((0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768))
CIFAR100_STATISTICS = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))  # DARTS-PT
SVHN_STATISTICS = ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))  # DARTS-PT
#: Names that a split of the search may not have, and why.
RESERVED = {"test": "the search never sees the test split", "all": "'all' is the union of the splits"}


@dataclass(frozen=True, eq=False)
class Dataset:
    """A set as loaded.

    `mean` and `std` are per channel on the scale 0..1; `augmentation` is the default of this set;
    `fingerprint` is a sha256 of all pixels, labels and class names; `notes` are sentences for the report.
    """

    name: str
    train: ImageSet
    test: ImageSet
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation
    fingerprint: str
    notes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width


@dataclass(frozen=True)
class Source:
    """What a reader found before any image is chosen: labels in a fixed order, and how to get the pixels.

    `pixels(train indices, test indices, resolution)` returns both uint8 tensors and further notes.
    """

    classes: tuple[str, ...]
    train_labels: Tensor
    test_labels: Tensor
    pixels: Callable[[Tensor, Tensor, int | None], tuple[Tensor, Tensor, list[str]]]
    notes: tuple[str, ...] = ()


Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def load(
    name: str,
    root: str | Path | None = None,
    *,
    download: bool = False,
    resolution: int | None = None,
    images: int | None = None,
    test_images: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Read a dataset of the table `DATASETS`, or an image tree with `name="folder"`.

    The default augmentation crops with an eighth of the side as padding (4 at 32×32 as in DARTS, 2 at 16×16
    as in NAS-Bench-201) and flips, except for `digits`. Mean and std are published ones for the CIFAR sets
    and SVHN, otherwise measured on the training images that were loaded. `cifar100` and `svhn` have those of
    DARTS-PT (DOTS and PC-DARTS reuse the numbers of CIFAR-10 for CIFAR-100).

    Args:
        root: where the files are; default `data` for the torchvision sets, required for `folder`.
        download: let torchvision fetch what is missing.
        resolution: side in pixels to resize to, a multiple of 4, at least 8; default: as the set is.
        images, test_images: use only so many, the same number per class (± 1), chosen by `seed`.

    Raises:
        DataError: unknown name, missing or unreadable files, a set or a number that cannot be used.
    """
    if name not in DATASETS:
        raise DataError(f"unknown dataset {name!r}{nearest(name, DATASETS)}; known: {', '.join(sorted(DATASETS))}")
    if resolution is not None and (resolution < 8 or resolution % 4):
        raise DataError(f"data.resolution is a multiple of 4 and at least 8, but got {resolution}; 32 is usual")
    entry = DATASETS[name]
    source = entry.read(_place(root) if root is not None else None, download)
    chosen = _balanced(source.train_labels, images, "images", len(source.classes), seed)
    held_out = _balanced(source.test_labels, test_images, "test_images", len(source.classes), seed)
    train_pixels, test_pixels, notes = source.pixels(chosen, held_out, resolution)
    train = ImageSet(train_pixels, source.train_labels[chosen], source.classes)
    test = ImageSet(test_pixels, source.test_labels[held_out], source.classes)
    notes = [*source.notes, *notes]
    if leaked := overlap(train, test):
        notes.append(f"{leaked} of {len(test)} test images are byte-identical to a training image")
    mean, std = entry.statistics or _measure(train.images)
    augmentation = Augmentation(padding=train.images.shape[-1] // 8, flip=entry.flip)
    return Dataset(name, train, test, mean, std, augmentation, fingerprint(train, test), tuple(notes))


def _place(root: str | Path) -> Path:
    """The folder that a user means, which may not be there. Raises DataError where the system cannot even look."""
    try:
        return existing(root)
    except OSError as fault:
        raise DataError(
            f"data.root names a directory, but {str(root)[:200]!r} cannot be looked up ({reason(fault)}); "
            f"check the path"
        ) from None


def _balanced(labels: Tensor, count: int | None, option: str, classes: int, seed: int) -> Tensor:
    """Sorted indices of `count` images: every class in turn gives one of its images, in a seeded order."""
    if count is None or count >= len(labels):
        return torch.arange(len(labels))
    if count < max(classes, 2):
        raise DataError(f"data.{option} is at least one image per class, {classes}, but got {count}; raise it")
    shuffled = torch.randperm(len(labels), generator=generator(seed, "data", option))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    sizes = labels.bincount(minlength=classes)
    turn = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[labels[by_class]]
    return by_class[turn.argsort(stable=True)[:count]].sort().values


def _last_fifth(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Train and test indices: the last fifth of each class (at least one), in file order, is the test set.

    Neighbours in a folder are often near-copies (frames, one writer, one burst): a random split leaks them.
    """
    groups = [torch.nonzero(labels == label).flatten() for label in labels.unique()]
    cuts = [len(group) - max(1, round(len(group) / 5)) for group in groups]
    train = torch.cat([group[:cut] for group, cut in zip(groups, cuts)])
    test = torch.cat([group[cut:] for group, cut in zip(groups, cuts)])
    return train.sort().values, test.sort().values


def _measure(images: Tensor) -> Statistics:
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
    """How many test images are byte-identical to some training image, whatever their labels."""

    def digests(data: ImageSet) -> list[bytes]:
        return [hashlib.blake2b(image, digest_size=16).digest() for image in data.images.cpu().contiguous().numpy()]

    seen = set(digests(train))
    return sum(digest in seen for digest in digests(test))


# Readers


def _read_digits(root: Path | None, download: bool) -> Source:
    """scikit-learn's 1,797 handwritten digits, 8×8 grey, 0..16 scaled to 0..255; nothing to download."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = torch.from_numpy(np.rint(data.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(data.target).long()
    train, test = _last_fifth(labels)
    note = "digits has no published split: the last fifth of each class is the test set"
    classes = tuple(str(name) for name in data.target_names)
    return _in_memory(classes, (pixels[train], labels[train]), (pixels[test], labels[test]), (note,))


def _in_memory(
    classes: tuple[str, ...],
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    notes: tuple[str, ...] = (),
) -> Source:
    def pixels(chosen: Tensor, held_out: Tensor, resolution: int | None) -> tuple[Tensor, Tensor, list[str]]:
        side = resolution or train[0].shape[-1]
        check_memory((len(chosen) + len(held_out)) * train[0].shape[1] * side * side, side)
        return resize(train[0][chosen], side), resize(test[0][held_out], side), []

    return Source(classes, train[1], test[1], pixels, notes)


def _torchvision(kind: str) -> Callable[[Path | None, bool], Source]:
    """A reader of the torchvision set of that class name, in torchvision's own file layout."""

    def read(root: Path | None, download: bool) -> Source:
        from torchvision import datasets

        place = root or Path("data")
        build = getattr(datasets, kind)
        svhn = kind == "SVHN"
        parts = [{"split": "train"}, {"split": "test"}] if svhn else [{"train": True}, {"train": False}]
        try:
            train, test = (build(str(place), **part, download=download) for part in parts)
        except (OSError, RuntimeError, HTTPException) as error:
            if download:
                reason = " ".join(str(error).split())
                raise DataError(
                    f"{kind} could not be downloaded to {str(place)!r} ({reason}); put its files there"
                ) from error
            raise DataError(
                f"{kind} needs its files, but {str(place)!r} lacks them or they are damaged; "
                "name their place with data.root=DIR or fetch them with data.download=true"
            ) from error
        sets = []
        for part in (train, test):
            pixels, labels = torch.from_numpy(part.data), part.labels if svhn else part.targets
            pixels = pixels if svhn else pixels.permute(0, 3, 1, 2).contiguous()
            sets.append((pixels, torch.as_tensor(labels).long()))
        classes = tuple(str(digit) for digit in range(10)) if svhn else tuple(train.classes)
        return _in_memory(classes, sets[0], sets[1])

    return read


def _read_folder(root: Path | None, download: bool) -> Source:
    """root/train/CLASS/* with root/test/CLASS/* (or val/), or root/CLASS/* alone; nothing to download."""
    layout = "DIR/train/CLASS/* and DIR/test/CLASS/* (or val/), or DIR/CLASS/* alone"
    if root is None:
        raise DataError(f"dataset 'folder' needs data.root=DIR, but none was given; DIR holds {layout}")
    if not root.is_dir():
        state = "is a file" if root.exists() else "does not exist"
        raise DataError(f"data.root is a directory, but {str(root)!r} {state}; it should hold {layout}")
    held_out = next((name for name in ("test", "val") if class_folders(root / name)), None)
    if bool(class_folders(root / "train")) != bool(held_out):
        only, other = (held_out, "train/") if held_out else ("train", "test/ or val/")
        raise DataError(f"{only}/ and {other} go together, but {str(root)!r} has only {only}/; it should hold {layout}")
    if held_out:
        classes, train, train_labels = listing(root / "train")
        test_classes, test, test_labels = listing(root / held_out)
        if differing := sorted(set(classes) ^ set(test_classes)):
            raise DataError(
                f"train/ and {held_out}/ have the same classes, but only one of them has {some(differing)}; "
                f"make the folders in {str(root)!r} agree"
            )
        notes = ("val/ is used as the test set",) if held_out == "val" else ()
    else:
        classes, files, labels = listing(root)
        if single := [name for name, size in zip(classes, labels.bincount().tolist()) if size == 1]:
            raise DataError(f"each class has 2 images or more to be split, but {some(single)} have 1; add images")
        chosen, rest = _last_fifth(labels)
        train, test = [files[i] for i in chosen.tolist()], [files[i] for i in rest.tolist()]
        train_labels, test_labels = labels[chosen], labels[rest]
        notes = ("there is no test/ or val/: the last fifth of each class by file name is the test set",)

    def pixels(chosen: Tensor, held_out: Tensor, resolution: int | None) -> tuple[Tensor, Tensor, list[str]]:
        paths = [train[i] for i in chosen.tolist()] + [test[i] for i in held_out.tolist()]
        images, notes = decode_cached(root, paths, resolution)
        return images[: len(chosen)], images[len(chosen) :], notes

    return Source(classes, train_labels, test_labels, pixels, notes)


class Entry(NamedTuple):
    """One row of `DATASETS`: the reader, published mean and std if any, whether mirroring keeps a class."""

    read: Callable[[Path | None, bool], Source]
    statistics: Statistics | None
    flip: bool


DATASETS: dict[str, Entry] = {
    "digits": Entry(_read_digits, None, False),
    "cifar10": Entry(_torchvision("CIFAR10"), CIFAR10_STATISTICS, True),
    "cifar100": Entry(_torchvision("CIFAR100"), CIFAR100_STATISTICS, True),
    "svhn": Entry(_torchvision("SVHN"), SVHN_STATISTICS, True),
    "folder": Entry(_read_folder, None, True),
}


# Splits


def _split_indices(n: int, fractions: Mapping[str, float], seed: int) -> dict[str, Tensor]:
    total = sum(fractions.values())
    if not fractions or not all(share > 0 for share in fractions.values()) or not total <= 1 + 1e-9:
        raise DataError(f"fractions are above 0 and sum to at most 1, but got {dict(fractions)} (sum {total:g})")
    for name in fractions:
        if name in RESERVED:
            raise DataError(f"a split may not be called {name!r} ({RESERVED[name]}); choose another name")
    sizes = {name: math.floor(share * n + 1e-6) for name, share in fractions.items()}
    for name, size in sizes.items():
        if size < 2:
            raise DataError(f"a split has 2 images or more, but {name!r} gets {size} of {n}; raise its fraction")
    order = torch.randperm(n, generator=generator(seed, "split"))
    return dict(zip(sizes, order.split([*sizes.values(), n - sum(sizes.values())])))


def split(train: ImageSet, fractions: Mapping[str, float], seed: int) -> dict[str, ImageSet]:
    """Cut a set into disjoint parts after one seeded shuffle that does not look at the classes.

    A part has floor(fraction · N) images (thirds of 50,000 are 16,666 each; a product within 1e-6 of an
    integer counts as that integer) and stays in shuffled order, so that batches taken in order mix the
    classes. DARTS halves by index without a shuffle: CIFAR's files are in random order, a folder's are not.

    Raises:
        DataError: fractions not above 0 or summing to more than 1, a reserved name, a part below two images.
    """
    return {name: train.subset(indices) for name, indices in _split_indices(len(train), fractions, seed).items()}


@dataclass(frozen=True, eq=False)
class SearchData:
    """All that a search sees of a dataset: copies of training images only.

    `order[name]` holds where the images of a split stood in the training set; `fingerprint` is the dataset's.
    """

    splits: Mapping[str, ImageSet]
    order: Mapping[str, Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    fingerprint: str

    def get(self, name: str) -> ImageSet:
        """The split of that name; `"all"` is the union of the splits in the order of the training set.

        Raises:
            DataError: `"test"`, which no search may see, or an unknown name.
        """
        if name == "test":
            raise DataError(f"{RESERVED['test']}, but it was asked for; use one of {', '.join(self.splits)}, all")
        if name == "all":
            parts = [self.splits[part] for part in self.order]
            images, labels = torch.cat([p.images for p in parts]), torch.cat([p.labels for p in parts])
            return ImageSet(images, labels, self.classes).subset(torch.cat(list(self.order.values())).argsort())
        if name not in self.splits:
            known = [*self.splits, "all"]
            raise DataError(f"unknown split {name!r}{nearest(name, known)}; this search has {', '.join(known)}")
        return self.splits[name]


def search_data(dataset: Dataset, fractions: Mapping[str, float], seed: int) -> SearchData:
    """What a search sees of `dataset`: its training images cut as `split` does, and none of its test images.

    Raises:
        DataError: as `split`.
    """
    order = _split_indices(len(dataset.train), fractions, seed)
    return SearchData(
        {name: dataset.train.subset(indices) for name, indices in order.items()},
        order,
        dataset.mean,
        dataset.std,
        dataset.augmentation,
        dataset.train.classes,
        dataset.shape,
        dataset.fingerprint,
    )
