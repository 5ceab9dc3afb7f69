"""Images given from Python: tensors, or a dataset of `torch.utils.data`."""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from topocell.data.class_names import agreed, has_names, is_name, names_of
from topocell.data.folder_listing import some
from topocell.data.image_file import upright
from topocell.data.readers import Source, in_memory
from topocell.errors import DataError

#: What transparent pixels of PIL images are laid on.
WHITE = (255, 255, 255)


class Given(NamedTuple):
    """Images for a run, given from Python.

    Args:
        train, test: (images, labels), or a dataset of `torch.utils.data` with items (image, label). Images are uint8,
            or floats in 0..1, (N, C, H, W) or a list of single ones; these, and those of a dataset, may be arrays
            (H, W), (H, W, C) or (C, H, W), or PIL images, which become what files of them would be, transparent pixels
            laid on white. Grey images among coloured ones get their channels. Labels are integers from 0.
        classes: names of the classes by number; default those that a dataset of torchvision has in its attribute
            `classes`, else the numbers.
    """

    train: Any
    test: Any
    classes: Sequence[str] | None = None


def given_source(given: Given | Sequence[Any]) -> Source:
    """The dataset of images that are given; a plain pair will do.

    Raises:
        DataError: what is given is no images, or labels do not fit, or mean other classes in train and in test.
    """
    if not isinstance(given, Given):
        if not isinstance(given, tuple | list) or len(given) not in (2, 3):
            raise DataError(
                f"data are (train, test) or (train, test, classes), but got {type(given).__name__}; "
                f"see docs/how-to/own-dataset.md"
            )
        given = Given(*given)
    train, test = _tensors(given.train, "train"), _tensors(given.test, "test")
    if train[0].shape[1:] != test[0].shape[1:]:
        step = "resize them" if train[0].shape[1] == test[0].shape[1] else "give all of them the same channels"
        raise DataError(
            f"training and test images have one shape, but got {tuple(train[0].shape[1:])} and "
            f"{tuple(test[0].shape[1:])}; {step}"
        )
    notes = ["the images were given from Python"]
    labels = torch.cat([train[1], test[1]])
    highest, count, lowest = int(labels.max()), len(labels), int(labels.min())
    there = set(train[1].tolist())
    if len(there) < 2:
        raise DataError(
            f"at least 2 classes are needed, but all training images have the label {int(train[1][0])}; check "
            f"where the labels come from"
        )
    if lowest < 0:
        raise DataError(f"labels are integers from 0, but the lowest is {lowest}; number the classes")
    if given.classes is not None:
        classes = _checked(given.classes)
        if lowest and highest - lowest < len(classes) <= highest:
            raise DataError(f"labels are integers from 0, but the lowest is {lowest}; subtract {lowest} from each")
        if highest >= len(classes):
            raise DataError(
                f"classes have a name for each label, but there are {len(classes)} and labels from 0 to {highest}; add "
                f"names"
            )
    else:
        parts = ((given.train, train[1]), (given.test, test[1]))
        every = [names_of(part, numbers) for part, numbers in parts]
        classes = agreed(*(names[: highest + 1] for names in every))
        if (most := max(map(len, every))) > highest + 1 and classes:
            notes.append(
                f"the dataset has {most} names of classes, but labels from 0 to {highest}: {some(classes)} are used; "
                f"if these are not their names, give data=(train, test, names)"
            )
        if highest >= max(len(classes), count):  # before a name is made for each
            raise DataError(
                f"labels are integers from 0, one for each class, but the highest of {count:,} is {highest}; number "
                f"the classes"
            )
        if not classes and lowest > 0:
            raise DataError(f"labels are integers from 0, but the lowest is {lowest}; subtract {lowest} from each")
        named = len(classes) > highest
        if not named and (has_names(given.train) or has_names(given.test)):
            notes.append(
                "classes are called by their numbers: the names in the attribute `classes` are not one for each, or "
                "labels are changed behind them; give them as data=(train, test, names)"
            )
        classes = classes if named else tuple(map(str, range(highest + 1)))
    if empty := [name for label, name in enumerate(classes) if label not in there]:
        notes.append(f"classes without a training image: {some(empty)}")
    return in_memory(classes, train, test, tuple(notes))


def _checked(classes: Any) -> tuple[str, ...]:
    """The names of classes that are given. Raises DataError for what has no order or no names, or one of them twice."""
    array = classes.tolist() if hasattr(classes, "tolist") else classes
    ordered = isinstance(array, Iterable) and not isinstance(array, Mapping | Set | str | bytes)
    found = tuple(array) if ordered else ()
    if not all(map(is_name, found)):
        raise DataError(
            f"data are (train, test) or (train, test, names), with the names of the classes as texts or numbers, but "
            f"the third begins with a {type(found[0]).__name__}; leave it out, the search cuts its splits from train"
        )
    names = tuple(map(str, found))
    if not names or len(set(names)) < len(names):
        raise DataError(
            f"classes are different names in the order of the labels, as ['cat', 'dog'], but got "
            f"{repr(names or classes)[:80]}; change them"
        )
    return names


def _tensors(part: Any, name: str) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) uint8 and labels (N,) int64."""
    if isinstance(part, tuple | list) and len(part) == 2 and not _are_items(part):
        images, labels = _stacked(part[0], name), _numbers(part[1], name)
    elif hasattr(part, "__getitem__") and hasattr(part, "__len__"):
        items = _items(part, name)
        if not items or not all(isinstance(item, tuple | list) and len(item) >= 2 for item in items):
            keys = list(items[0])[:2] if items and isinstance(items[0], Mapping) else []
            way = "see docs/how-to/own-dataset.md"
            if len(keys) == 2:
                way = f"give [(item[{keys[0]!r}], item[{keys[1]!r}]) for item in {name}], or the keys of yours"
            raise DataError(f"a dataset has items (image, label), but {name} has none such; {way}")
        images, labels = _stacked([item[0] for item in items], name), _numbers([item[1] for item in items], name)
    else:
        instead = "; give its dataset" if hasattr(part, "dataset") else "; see docs/how-to/own-dataset.md"
        raise DataError(f"{name} is (images, labels) or a dataset, but got {type(part).__name__}" + instead)
    if images.dim() != 4 or labels.dim() != 1 or len(images) != len(labels) or not images.numel():
        raise DataError(
            f"images are (N, C, H, W) and labels (N,), but those of {name} are {tuple(images.shape)} and "
            f"{tuple(labels.shape)}; change them"
        )
    if images.shape[1] > 4 >= images.shape[3]:
        raise DataError(
            f"images are (N, C, H, W), but those of {name} are {tuple(images.shape)}, which looks like (N, H, W, C); "
            f"permute them (0, 3, 1, 2)"
        )
    if images.dtype != torch.uint8:
        low, high = (float(bound) for bound in (images.real if images.is_complex() else images).float().aminmax())
        if not (images.dtype.is_floating_point and low >= 0 and high <= 1):
            raise DataError(
                f"images are uint8, or floats in 0..1 before any normalisation, but those of {name} are {images.dtype} "
                f"from {low:g} to {high:g}; convert them"
            )
        images = (images.float() * 255).round().byte()
    return images.contiguous(), labels.long()


def _items(part: Any, name: str) -> list[Any]:
    """The items of a dataset. Raises DataError for a table, and what else has names in the place of numbers."""
    try:
        first = [part[0]] if len(part) else []
    except KeyError:
        raise DataError(
            f"{name} is (images, labels) or a dataset with items 0, 1, ..., but got {type(part).__name__} without item "
            f"0; give (list of images, list of labels)"
        ) from None
    return first + [part[i] for i in range(1, len(part))]


def _are_items(pair: Sequence[Any]) -> bool:
    """Return whether two things are two items (image, label), not images and their labels."""
    if not all(isinstance(one, tuple | list) and len(one) >= 2 for one in pair):
        return False
    second = pair[1][0]
    return isinstance(second, Image.Image) or getattr(second, "ndim", 0) >= 2


def _stacked(images: Any, name: str) -> Tensor:
    """Images of a part as one tensor; single ones, of which some may be grey, as (N, C, H, W)."""
    if isinstance(images, Tensor | np.ndarray):
        return tensor_of(images)
    pictures = list[Tensor]()
    for image in images if isinstance(images, Iterable) else [images]:
        try:
            pictures.append(_picture(image))
        except TypeError:
            raise DataError(
                f"images are tensors, arrays or images of Pillow, but {name} has one of type {type(image).__name__}; "
                f"read them, as Image.open does"
            ) from None
    if 3 in {len(picture) for picture in pictures}:
        pictures = [picture.expand(3, -1, -1) if len(picture) == 1 else picture for picture in pictures]
    shapes = sorted({tuple(picture.shape) for picture in pictures})
    if len(shapes) > 1:
        raise DataError(f"images of a dataset have one shape, but those of {name} have {shapes[:3]}; resize them")
    return torch.stack(pictures) if pictures else torch.empty(0)


def _numbers(labels: Any, name: str) -> Tensor:
    """Labels as a tensor. Raises DataError where they are no integers, which would be cut or could not be read."""
    try:
        array = labels if isinstance(labels, Tensor) or not hasattr(labels, "__array__") else np.asarray(labels)
        plain = array.tolist() if getattr(array, "dtype", None) == np.dtype(object) else array
        found = tensor_of(plain) if isinstance(plain, np.ndarray) else torch.as_tensor(plain)
        if not (found.is_floating_point() or found.is_complex()) or bool((found == found.trunc()).all()):
            return found
    except (TypeError, ValueError, RuntimeError):
        pass
    first = next(iter(labels), labels) if isinstance(labels, Iterable) else labels
    raise DataError(f"labels are integers from 0, but those of {name} begin with {first!r}; number the classes")


def _picture(image: Any) -> Tensor:
    """(C, H, W) of a tensor or an image of Pillow, or of what numpy can read as (H, W), (H, W, C) or (C, H, W).

    Raises TypeError for what is no image.
    """
    if isinstance(image, Image.Image):
        try:
            image, _ = upright(image, "L" if image.mode in ("1", "L") else "RGB", WHITE)
        except (OSError, ValueError) as fault:
            raise DataError(f"images of a dataset must be read as 8 bits, but one cannot be: {fault}") from None
    pixels = tensor_of(image)
    if pixels.dim() not in (2, 3):
        raise TypeError
    if pixels.dim() == 2:
        return pixels[None]
    if isinstance(image, Tensor) or (pixels.dim() == 3 and pixels.shape[2] > 4 >= pixels.shape[0]):
        return pixels
    return pixels.permute(2, 0, 1)


def tensor_of(array: Any) -> Tensor:
    """A tensor without gradient of a tensor or an array, sparse, read-only or reversed as well. Raises TypeError."""
    if isinstance(array, Tensor):
        return array.detach().to_dense()
    found = np.asarray(array)
    return torch.from_numpy(np.require(found, found.dtype.newbyteorder("="), ["C", "W"]))
