"""Images given from Python: tensors, or a dataset of `torch.utils.data`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from topocell.data.arrays import numbers_of
from topocell.data.class_names import agreed, has_names, is_name, names_of, texts_of
from topocell.data.folder_listing import some
from topocell.data.given_images import as_images, is_image, same_shape, stacked
from topocell.data.readers import Source, in_memory
from topocell.errors import DataError
from topocell.io.colours import Colour

#: How many items of a dataset are read a second time.
_READ_AGAIN = 8


class Given(NamedTuple):
    """Images for a run, given from Python.

    Args:
        train, test: (images, labels), or a dataset of `torch.utils.data` with items (image, label). Images are uint8,
            or floats in 0..1, (N, C, H, W) or a list of single ones; these, and those of a dataset, may be arrays
            (H, W), (H, W, C) or (C, H, W), or PIL images, which become what files of them would be, transparent pixels
            laid on `data.background`. Grey images among coloured ones get their channels. Labels are integers from 0.
        classes: names of the classes by number; default those that a dataset of torchvision has in its attribute
            `classes`, else the numbers.
    """

    train: Any
    test: Any
    classes: Sequence[str] | None = None


def given_source(given: Given | Sequence[Any], background: Colour = (255, 255, 255)) -> Source:
    """The dataset of images that are given; a plain pair will do.

    Args:
        given: the images.
        background: what transparent pixels of PIL images are laid on.

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
    named = None if given.classes is None else _checked(given.classes)  # before images are read, which takes long
    train, test = _tensors(given.train, "train", background), _tensors(given.test, "test", background)
    if train[0].shape[1:] != test[0].shape[1:]:
        raise DataError(
            f"training and test images have one shape, but got {tuple(train[0].shape[1:])} and "
            f"{tuple(test[0].shape[1:])}; {same_shape(train[0].shape[1:], test[0].shape[1:])}"
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
    both = [names_of(part, numbers) for part, numbers in ((given.train, train[1]), (given.test, test[1]))]
    every = [names or () for names in both]
    spelt = str if named is None else str.casefold  # other names excuse no more than a spelling: a label is one class
    classes = agreed(*(tuple(map(spelt, names[: highest + 1])) for names in every))
    if None in both:  # what changes the labels of one part may make them those of the other, or something else
        classes = ()
    if named is not None:
        classes = named
        if lowest and highest - lowest < len(classes) <= highest:
            raise DataError(f"labels are integers from 0, but the lowest is {lowest}; subtract {lowest} from each")
        if highest >= len(classes):
            raise DataError(
                f"classes have a name for each label, but there are {len(classes)} and labels from 0 to {highest}; add "
                f"names"
            )
    else:
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
        complete = len(classes) > highest
        if not complete and (has_names(given.train) or has_names(given.test)):
            notes.append(
                "classes are called by their numbers: the names in the attribute `classes` are not one for each, or "
                "labels are changed behind them; give them as data=(train, test, names)"
            )
        classes = classes if complete else tuple(map(str, range(highest + 1)))
    if empty := [name for label, name in enumerate(classes) if label not in there]:
        notes.append(f"classes without a training image: {some(empty)}")
    for name, part, (images, _) in (("train", given.train, train), ("test", given.test, test)):
        if _changes(part, images, name, background):
            by = f" (transform: {some(names)})" if (names := _transforms(part)) else ""
            notes.append(
                f"images of {name} are others when they are read again{by}: every epoch has them as they were read "
                f"now, and a further call (to resume, select or retrain) needs accept_data=True; leave random changes "
                f"to the run (data.flip, data.crop, retrain.augment)"
            )
    return in_memory(classes, train, test, tuple(notes))


def _checked(classes: Any) -> tuple[str, ...]:
    """The names of classes that are given. Raises DataError for what has no order or no names, or one of them twice."""
    array = classes.tolist() if hasattr(classes, "tolist") else classes
    several, ordered = isinstance(array, Iterable), not isinstance(array, Mapping | Set | str | bytes)
    by_number = hasattr(array, "__getitem__") and not several  # as datasets of torch are, and no list of names is
    found, other = list[Any](), f"is of type {type(array).__name__}" if by_number else ""
    for name in array if several and ordered else ():
        if not is_name(name):  # the first tells enough: what follows may be images that are yet to be read
            other = f"has one of type {type(name).__name__}"
            break
        found.append(name)
    if other:
        raise DataError(
            f"data are (train, test) or (train, test, names), with the names of the classes as texts or numbers, but "
            f"the third {other}; of (train, val, test) give (train, test): the search cuts its splits from train"
        )
    names = texts_of(found)
    if not names or len(set(names)) < len(names):
        raise DataError(
            f"classes are different names in the order of the labels, as ['cat', 'dog'], but got "
            f"{' '.join(repr(names or classes).split())[:80]}; change them"
        )
    return names


def _tensors(part: Any, name: str, background: Colour) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) uint8 and labels (N,) int64."""
    if isinstance(part, tuple | list) and len(part) == 2 and not _are_items(part):
        given, numbers = part
        images = stacked(given, name, background)
    elif hasattr(part, "__getitem__") and hasattr(part, "__len__") and not isinstance(part, IterableDataset):
        given, numbers = part, list[Any]()
        images = stacked(_images(part, name, numbers), name, background, len(part))
    else:
        instead = _instead(part, name)
        raise DataError(f"{name} is (images, labels) or a dataset, but got {type(part).__name__}; {instead}")
    labels = _numbers(numbers, name)
    return as_images(images, labels, name, isinstance(given, np.ndarray)), labels.long()


def _instead(part: Any, name: str) -> str:
    """What to give in place of something that is no dataset with items by number."""
    if isinstance(part, IterableDataset) or (isinstance(part, Iterable) and not hasattr(part, "__len__")):
        return f"give list({name}), whose items are (image, label)"
    return "give its dataset" if hasattr(part, "dataset") else "see docs/how-to/own-dataset.md"


def _images(part: Any, name: str, labels: list[Any]) -> Iterator[Any]:
    """Yield the images of a dataset's items (image, label), whose labels are put into the list.

    Raises DataError for a table and what else has names in the place of numbers, and for items that are no pairs.
    """
    if not len(part):
        raise DataError(f"a dataset has items (image, label), but {name} has none; give at least one image")
    try:
        first = part[0]
    except KeyError as fault:
        if isinstance(part, Dataset) or not (isinstance(part, Mapping) or fault.args[:1] == (0,)):
            raise  # of a look-up of its own
        raise DataError(
            f"{name} is (images, labels) or a dataset with items 0, 1, ..., but got {type(part).__name__} without item "
            f"0; give (list of images, list of labels)"
        ) from None
    for i in range(len(part)):
        item = part[i] if i else first
        if not _is_pair(item):
            way = "data are (train, test), each (images, labels) or a dataset, see docs/how-to/own-dataset.md"
            if isinstance(item, tuple | list) and len(item) > 2:
                way = (
                    f"one has {len(item)} values; give [(item[0], item[N]) for item in {name}] with the place N of the "
                    f"label"
                )
            if isinstance(item, Mapping) and len(item) > 1:
                way = _by_keys(item, getattr(part, "features", None), name)
            raise DataError(f"a dataset has items (image, label), but {name} has others; {way}")
        labels.append(item[1])
        yield item[0]


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple | list) and len(item) == 2


def _by_keys(item: Mapping[Any, Any], features: Any, name: str) -> str:
    """How to give a dataset whose items are mappings, as Hugging Face has them, with names of classes in features."""
    named = {key for key, kind in features.items() if hasattr(kind, "names")} if isinstance(features, Mapping) else ()
    images = [key for key, value in item.items() if is_image(value)]
    numbers = [key for key, value in item.items() if isinstance(value, int) or getattr(value, "ndim", 1) == 0]
    image = (images or [key for key in item if key not in numbers] or list(item))[0]
    label = max(numbers or [key for key in item if key != image], key=lambda key: key in named)
    way = f"give [(item[{image!r}], item[{label!r}]) for item in {name}]"
    if not (images and numbers):
        return f"{way}, or the keys of yours"
    return way + (f", and {name}.features[{label!r}].names as the third of data" if label in named else "")


def _are_items(pair: Sequence[Any]) -> bool:
    """Return whether two things are two items (image, label), not images and their labels."""
    return all(map(_is_pair, pair)) and is_image(pair[1][0])


def _numbers(labels: Any, name: str) -> Tensor:
    """Labels as a tensor. Raises DataError where they are no integers, which would be cut or could not be read."""
    try:
        found = numbers_of(labels)
        if not (found.is_floating_point() or found.is_complex()) or bool((found == found.trunc()).all()):
            return found
    except (TypeError, ValueError, RuntimeError):
        pass
    each = list(labels) if isinstance(labels, Iterable) else [labels]
    place = next((place for place, label in enumerate(each) if not _is_whole(label)), 0)
    bad = f"have {each[place]!r} at {place}" if place else f"begin with {each[0] if each else labels!r}"
    raise DataError(f"labels are integers from 0, but those of {name} {bad}; number the classes")


def _is_whole(label: Any) -> bool:
    """Return whether a label is a whole number, also as a float, or a tensor of it."""
    with suppress(TypeError, ValueError, OverflowError, RuntimeError):
        return not isinstance(label, str | bytes) and int(label) == float(label)
    return False


def _changes(part: Any, images: Tensor, name: str, background: Colour) -> bool:
    """Return whether a dataset has other images when it is read again, as one with a random transform has."""
    if isinstance(part, tuple | list):
        return False
    places = range(0, len(images), -(-len(images) // _READ_AGAIN))
    again = stacked([part[i][0] for i in places], name, background)
    before = images[list(places)]
    return again.shape[2:] != before.shape[2:] or bool((again != before).any())  # all that are read again may be grey


def _transforms(part: Any) -> list[str]:
    """The names of what a dataset, or one inside, changes its images by."""
    own = getattr(part, "transform", None)
    if own is None:
        return _transforms(part.dataset) if hasattr(part, "dataset") else []
    steps = getattr(own, "transforms", [own])
    return [getattr(step, "__name__", type(step).__name__) for step in steps]
