"""Sources of images: a row of `DATASETS` per set, each with a reader of its files."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from topocell.data import downsampled, ilsvrc
from topocell.data.arrays import numbers_of, tensor_of
from topocell.data.augment import resize
from topocell.data.downloads import fetched
from topocell.data.folder_listing import beside, class_folders, images, listing, some
from topocell.data.given_images import as_images
from topocell.data.image_file import archive
from topocell.data.image_folder import (
    Decoding,
    check_memory,
    decode_cached,
    named,
    nearest_side,
    resized_note,
)
from topocell.data.preprocessing import Resize
from topocell.data.split_folders import TEST, TRAIN, VAL, check_classes_agree, check_flat, part_of
from topocell.errors import DataError, typed
from topocell.registry import Registry
from topocell.runtime.rng import generator

#: Mean and standard deviation per channel, on the scale 0..1.
Statistics = tuple[tuple[float, ...], tuple[float, ...]]

CIFAR10_STATISTICS = ((0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768))
IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR100_STATISTICS = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))  # DARTS-PT
#: Of the search and training scripts of NAS-Bench-201.
IMAGENET16_STATISTICS = ((122.68 / 255, 116.66 / 255, 104.01 / 255), (63.22 / 255, 61.26 / 255, 65.09 / 255))
SVHN_STATISTICS = ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))  # DARTS-PT


class Part(NamedTuple):
    """Images of the training or of the test set.

    Args:
        images: (N, C, H, W) uint8.
        indices: (N,) which of the source they are; those asked for, but for any that could not be read.
    """

    images: Tensor
    indices: Tensor


@dataclass(frozen=True)
class Source:
    """Files that a reader has listed before any image is chosen: labels in a fixed order, and how to get the pixels.

    Args:
        classes: their names.
        train_labels, test_labels: (N,) int64.
        pixels: called with training indices, test indices and how to decode; returns both parts and further notes.
        notes: sentences for the report.
        resize: how images got their size, see `topocell.data.preprocessing.Resize`.
        train_files, test_files: where each image is, below the folder of the set; empty for images of one large file.
        root: that folder; None for images of one large file.
    """

    classes: tuple[str, ...]
    train_labels: Tensor
    test_labels: Tensor
    pixels: Callable[[Tensor, Tensor, Decoding], tuple[Part, Part, list[str]]]
    notes: tuple[str, ...] = ()
    resize: Resize = "stretch"
    train_files: tuple[str, ...] = ()
    test_files: tuple[str, ...] = ()
    root: Path | None = None


def _last_fifth(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Train and test indices: the last fifth of each class (at least one), in file order, is the test set.

    Neighbours in a folder are often near-copies (frames, one writer, one burst): a random split leaks them.
    """
    groups = [torch.nonzero(labels == label).flatten() for label in labels.unique()]
    cuts = [len(group) - max(1, round(len(group) / 5)) for group in groups]
    train = torch.cat([group[:cut] for group, cut in zip(groups, cuts)])
    test = torch.cat([group[cut:] for group, cut in zip(groups, cuts)])
    return train.sort().values, test.sort().values


def _read_digits(root: Path | None, download: bool) -> Source:
    """scikit-learn's 1,797 handwritten digits, 8×8 grey, 0..16 scaled to 0..255; nothing to download."""
    if root is not None:
        raise DataError(
            f"dataset 'digits' reads no folder, but data.root is {str(root)!r}; set data.dataset=folder to use it, or "
            f"data.root=null"
        )
    return _digits()


@cache
def _digits() -> Source:
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = torch.from_numpy(np.rint(data.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(data.target).long()
    order = torch.randperm(len(labels), generator=generator(0, "digits"))
    train, test = (order[part].sort().values for part in _last_fifth(labels[order]))
    note = (
        "digits has no published split: a fifth of each class, drawn at random and always the same, is the test set; "
        "it shares its writers with the training images"
    )
    classes = tuple(str(name) for name in data.target_names)
    return in_memory(classes, (pixels[train], labels[train]), (pixels[test], labels[test]), (note,))


def in_memory(
    classes: tuple[str, ...],
    train: tuple[Tensor | np.ndarray, Tensor | np.ndarray],
    test: tuple[Tensor | np.ndarray, Tensor | np.ndarray],
    notes: tuple[str, ...] = (),
) -> Source:
    """Make a dataset of tensors or arrays.

    Args:
        classes: their names.
        train, test: images (N, C, H, W), uint8 or floats in 0..1, and labels (N,) int64.
        notes: sentences for the report.

    Raises:
        DataError: another number of labels than of images, or images of another kind.
    """
    (images, labels), (test_images, test_labels) = _in_memory(train, "train"), _in_memory(test, "test")
    if images.shape[1] != test_images.shape[1]:
        raise DataError(
            f"training and test images have the same channels, but got {images.shape[1]} and {test_images.shape[1]}; "
            f"convert them"
        )

    def pixels(chosen: Tensor, held_out: Tensor, decoding: Decoding) -> tuple[Part, Part, list[str]]:
        channels, height, width = images.shape[1:]
        size = (height, width) if decoding.resolution is None else (decoding.resolution, decoding.resolution)
        needed = (len(chosen) + len(held_out)) * channels * size[0] * size[1]
        check_memory(needed, size, "lower data.resolution or data.images")
        others = {images.shape[2:], test_images.shape[2:]} - {torch.Size(size)}
        how = " (stretched)" if any(h * size[1] != w * size[0] for h, w in others) else ""
        asked = decoding.resolution is not None
        notes = [resized_note(size, how, nearest_side(min(height, width)), asked)] if others else []
        first = Part(resize(images[chosen], size), chosen)
        return first, Part(resize(test_images[held_out], size), held_out), notes

    return Source(classes, labels, test_labels, pixels, notes)


def _in_memory(part: tuple[Tensor | np.ndarray, Tensor | np.ndarray], name: str) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) uint8 and labels (N,) of a part. Raises DataError."""
    images, labels = tensor_of(part[0]), numbers_of(part[1])
    if len(images) != len(labels):
        raise DataError(
            f"a dataset has one label for each image, but got {len(images)} images and {len(labels)} labels; mend it"
        )
    return as_images(images, labels, name, isinstance(part[0], np.ndarray)), labels


def _torchvision(kind: str) -> Callable[[Path | None, bool], Source]:
    """A reader of the torchvision set of that class name, in torchvision's own file layout."""

    def read(root: Path | None, download: bool) -> Source:
        from torchvision import datasets

        place = root or Path("data")
        build = getattr(datasets, kind)
        svhn = kind == "SVHN"
        parts = [{"split": "train"}, {"split": "test"}] if svhn else [{"train": True}, {"train": False}]
        try:
            train, test = fetched(
                place, lambda fetch: [build(str(place), **part, download=fetch) for part in parts], download
            )
        except (OSError, RuntimeError, HTTPException) as error:
            if download:
                reason = " ".join(str(error).split())
                raise DataError(
                    f"{kind} could not be downloaded to {str(place)!r} ({reason}); put its files there"
                ) from error
            own = ", or set data.dataset=folder for images of your own" if root else ""
            raise DataError(
                f"{kind} needs its files, but {str(place)!r} lacks them or they are damaged; "
                f"name their place with data.root=DIR or fetch them with data.download=true{own}"
            ) from error
        sets = []
        for part in (train, test):
            pixels, labels = torch.from_numpy(part.data), part.labels if svhn else part.targets
            pixels = pixels if svhn else pixels.permute(0, 3, 1, 2).contiguous()
            sets.append((pixels, torch.as_tensor(labels).long()))
        classes = tuple(str(digit) for digit in range(10)) if svhn else tuple(train.classes)
        return in_memory(classes, sets[0], sets[1])

    return read


def _read_folder(root: Path | None, download: bool) -> Source:
    """root/train/CLASS/* with root/test/CLASS/* (or val/), or root/CLASS/* alone; nothing to download.

    The folders of a split go by the names in `TRAIN`, `TEST` and `VAL`.
    """
    layout = "DIR/train/CLASS/* and DIR/test/CLASS/* (or val/), or DIR/CLASS/* alone"
    if root is None:
        raise DataError(f"dataset 'folder' needs data.root=DIR, but none was given; DIR holds {layout}")
    if not root.is_dir():
        state = "is a file" if root.exists() else "does not exist"
        if root.is_file() and (kind := archive(root)):
            state = f"is {kind}: unpack it, and name the folder"
        raise DataError(f"data.root is a directory, but {str(root)!r} {state}; it should hold {layout}")
    given, test_set, val = (part_of(root, names) for names in (TRAIN, TEST, VAL))
    held_out = test_set or val
    if bool(given) != bool(held_out):
        only, other = (held_out, "train/") if held_out else (given, "test/ or val/")
        bare = [name for name in class_folders(root) if name.lower() in (TRAIN if held_out else (*TEST, *VAL))]
        lack = f"in {str(root)!r} no CLASS folders are in {some(bare)}"
        state = lack if bare else f"{str(root)!r} has only {only}/"
        alone = f"; data.root={typed(root / given)} alone is cut into a training and a test set" if given else ""
        raise DataError(f"{only}/ and {other} go together, but {state}; it should hold {layout}{alone}")
    if given and held_out:
        unused = beside(root, [name for name in (given, test_set, val) if name])
        classes, train, train_labels, in_train = listing(root / given)
        check_classes_agree(root, given, held_out, val)
        _, test, test_labels, in_test = listing(root / held_out)
        unused.add(in_train)
        unused.add(in_test)
        notes = () if test_set else (f"{val}/ is used as the test set",)
        if test_set and val:
            notes = (f"{val}/ is not used: {test_set}/ is the test set, the search cuts its splits from {given}/",)
    else:
        classes, files, labels, unused = listing(root)
        check_flat(root)
        if single := [name for name, size in zip(classes, labels.bincount().tolist()) if size == 1]:
            raise DataError(f"each class has 2 images or more to be split, but {some(single)} have 1; add images")
        chosen, rest = _last_fifth(labels)
        train, test = [files[i] for i in chosen.tolist()], [files[i] for i in rest.tolist()]
        train_labels, test_labels = labels[chosen], labels[rest]
        notes = ("there is no test/ or val/: the last fifth of each class by file name is the test set",)
    return _in_files(root, classes, (train, train_labels), (test, test_labels), (*notes, *unused.notes()))


def _in_files(
    root: Path,
    classes: tuple[str, ...],
    train: tuple[list[str], Tensor],
    test: tuple[list[str], Tensor],
    notes: tuple[str, ...] = (),
) -> Source:
    def pixels(chosen: Tensor, held_out: Tensor, decoding: Decoding) -> tuple[Part, Part, list[str]]:
        paths = [train[0][i] for i in chosen.tolist()] + [test[0][i] for i in held_out.tolist()]
        decoded, faults, notes = decode_cached(root, paths, decoding)
        if faults:
            names = named(root, paths, faults)
            labels = torch.cat([train[1][chosen], test[1][held_out]])
            notes = [*notes, *left_out(names, [classes[int(labels[place])] for place, _ in faults])]
        read = torch.ones(len(paths), dtype=torch.bool)
        read[[place for place, _ in faults]] = False
        chosen, held_out = chosen[read[: len(chosen)]], held_out[read[len(chosen) :]]
        return Part(decoded[: len(chosen)], chosen), Part(decoded[len(chosen) :], held_out), notes

    first, second = (tuple(os.path.relpath(path, root) for path in paths) for paths in (train[0], test[0]))
    return Source(classes, train[1], test[1], pixels, notes, "fit", first, second, root)


def left_out(named: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Say which images cannot be read and are left out, with their reasons, and how many of each class.

    All of them are named, for the log: a terminal shows the first.
    """
    by_class = some([f"{name} {count:,}" for name, count in Counter(classes).most_common()], 10)
    return [f"{images(len(named))} cannot be read and left out: {by_class}", f"left out: {', '.join(named)}"]


def check_classes(kept: Tensor, chosen: Tensor, classes: Sequence[str], name: str) -> None:
    """Raise DataError where a class has lost all images that were chosen of a part of that name; labels (N,)."""
    left = set(kept.unique().tolist())
    if lost := [classes[label] for label in chosen.unique().tolist() if label not in left]:
        raise DataError(
            f"every class keeps a {name} image that can be read, but {some(lost)} {'have' if lost[1:] else 'has'} "
            f"none left; repair or delete the files, or delete the folder of the class"
        )


def _read_imagenet(root: Path | None, download: bool) -> Source:
    """ILSVRC 2012 as a tree (`topocell.data.ilsvrc`), or in archives, which torchvision unpacks once.

    val/ is the test set. It has to be fetched by hand.
    """
    from torchvision.datasets import ImageNet

    place = root or Path("data")
    if ilsvrc.is_tree(place):
        tree = ilsvrc.read_tree(place)
        return _in_files(place, tree.classes, tree.train, tree.val, tree.notes)
    try:
        train, test = (ImageNet(str(place), split=part) for part in ("train", "val"))
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"imagenet needs train/WNID/* and val/, or ILSVRC2012_devkit_t12.tar.gz and the archives of both, but "
            f"{str(place)!r} lacks some or they are damaged ({' '.join(str(error).split())}); name their place with "
            f"data.root=DIR"
        ) from error
    files, held_out = (([path for path, _ in part.samples], torch.tensor(part.targets)) for part in (train, test))
    classes = tuple(f"{wnid} {names[0]}" for wnid, names in zip(train.wnids, train.classes))
    return _in_files(place, classes, files, held_out, ("val/ is used as the test set",))


def _downsampled(name: str, side: int, kept: int) -> Callable[[Path | None, bool], Source]:
    """A reader of the first classes of ImageNet at some size (`topocell.data.downsampled`); val_data is the test set.

    A class is called by its number there, from 1. The files have to be fetched by hand.
    """

    def read(root: Path | None, download: bool) -> Source:
        train, test = downsampled.read(name, root or Path("data"), side, kept)
        classes = tuple(str(number) for number in range(1, kept + 1))
        return in_memory(classes, train, test, ("val_data is used as the test set",))

    return read


def _read_given(root: Path | None, download: bool) -> Source:
    """Images given from Python (`topocell.data.given`), which cannot be read again."""
    raise DataError(
        "the images of dataset 'given' came from Python and are not on the disk; give them again, as in "
        "topocell.run(recipe, out, data=(train, test)), topocell.select(out, data=(train, test)) and "
        "topocell.retrain(out, data=(train, test)), or name others for a retraining by another name: "
        "data.dataset=folder data.root=DIR"
    )


class Entry(NamedTuple):
    """One row of `DATASETS`.

    Args:
        read: the reader.
        statistics: published mean and std, if any.
        flip: whether an image's mirror image is of the same class.
        crop: whether objects stay recognisable when up to an eighth of the side is cut off.
    """

    read: Callable[[Path | None, bool], Source]
    statistics: Statistics | None
    flip: bool = True
    crop: bool = True


DATASETS = Registry[Entry](
    "dataset",
    {
        "digits": Entry(_read_digits, None, flip=False, crop=False),
        "cifar10": Entry(_torchvision("CIFAR10"), CIFAR10_STATISTICS),
        "cifar100": Entry(_torchvision("CIFAR100"), CIFAR100_STATISTICS),
        "svhn": Entry(_torchvision("SVHN"), SVHN_STATISTICS),
        "imagenet": Entry(_read_imagenet, IMAGENET_STATISTICS),
        "imagenet16-120": Entry(_downsampled("imagenet16-120", 16, 120), IMAGENET16_STATISTICS),
        **{f"imagenet{side}": Entry(_downsampled(f"imagenet{side}", side, 1000), None) for side in (16, 32, 64)},
        "folder": Entry(_read_folder, None),
        "given": Entry(_read_given, None),
    },
    Entry,
)
