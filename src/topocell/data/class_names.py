"""Names of the classes of a dataset that is given from Python, by the labels of its items."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset

from topocell.data.arrays import numbers_of
from topocell.errors import DataError


def names_of(part: Any, labels: Tensor, chosen: Tensor | None = None) -> tuple[str, ...] | None:
    """Names of the classes of a dataset by number, also of a part of one (`Subset`) or of several (`ConcatDataset`).

    Empty where it has none, or where it is not known whose they are; None where what changes its labels stands around
    or in it. Raises DataError where several disagree.

    Args:
        part: the dataset, or (images, labels).
        labels: (N,) of the images that are used.
        chosen: (N,) which ones of the dataset these are; default all.
    """
    chosen = torch.arange(len(labels)) if chosen is None else chosen
    if hasattr(part, "classes"):
        known = _targets(part)
        changed = known is not None and not _are_of(part, known, chosen, labels)
        if changed or getattr(part, "target_transform", None) is not None:
            return None
        return _in_order(_plain_names(part.classes), getattr(part, "class_to_idx", None))
    if isinstance(part, Subset):
        return names_of(part.dataset, labels, numbers_of(part.indices).long()[chosen])
    if isinstance(part, ConcatDataset):
        several: tuple[str, ...] = ()
        for begin, end, one in zip([0, *part.cumulative_sizes], part.cumulative_sizes, part.datasets):
            inside = (chosen >= begin) & (chosen < end)
            if (names := names_of(one, labels[inside], chosen[inside] - begin)) is None:
                return None
            several = agreed(several, names)
        return several
    inner = getattr(part, "dataset", None)
    known = None if inner is None else _targets(inner)
    if known is None or len(known) != len(part):
        return ()
    return names_of(inner, labels, chosen) if _are_of(part, known, chosen, labels) else None


def _are_of(part: Any, known: Tensor, chosen: Tensor, labels: Tensor) -> bool:
    """Return whether listed labels are those of the items of a dataset: one for each, and where chosen as they are."""
    return len(known) == len(part) and torch.equal(known[chosen], labels)


def _in_order(names: tuple[str, ...], numbers: Any) -> tuple[str, ...]:
    """Names by the number that `class_to_idx` has for each, where it has one for each; none where they do not fit."""
    if not isinstance(numbers, Mapping) or set(map(str, numbers)) != set(names):
        return names
    if not all(isinstance(number, int | np.integer) for number in numbers.values()):
        return ()
    ordered = {int(number): str(name) for name, number in numbers.items()}
    return tuple(ordered[i] for i in range(len(names))) if sorted(ordered) == list(range(len(names))) else ()


def _plain_names(classes: Any) -> tuple[str, ...]:
    """Names as `is_name` takes them, each once, in a list or an array; none of what is something else."""
    array = classes.tolist() if hasattr(classes, "tolist") else classes
    names = texts_of(array) if isinstance(array, tuple | list) and all(map(is_name, array)) else ()
    return names if len(set(names)) == len(names) else ()


def is_name(name: Any) -> bool:
    """Return whether something is a text or a number, as names of classes are, or several texts for one class."""
    return isinstance(name, str | int | float) or _is_several(name)


def _is_several(name: Any) -> bool:
    return isinstance(name, tuple | list) and bool(name) and all(isinstance(word, str) for word in name)


def texts_of(names: Sequence[Any]) -> tuple[str, ...]:
    """Names as texts: of several for one class, as ImageNet has them in torchvision, the first.

    It has the number of the class beside it where another class begins with it too: ImageNet has two cranes.
    """
    first = [str(name[0] if _is_several(name) else name) for name in names]
    alike = Counter(first)
    pairs = enumerate(zip(first, names))
    return tuple(f"{text} {i}" if _is_several(name) and alike[text] > 1 else text for i, (text, name) in pairs)


def has_names(part: Any, depth: int = 0) -> bool:
    """Return whether a dataset, or one that it is made of or keeps in whatever attribute, has names of classes."""
    kept = [one for one in getattr(part, "__dict__", {}).values() if isinstance(one, Dataset)]
    inside = [*kept, *getattr(part, "datasets", ()), *([part.dataset] if hasattr(part, "dataset") else [])]
    return hasattr(part, "classes") or (depth < 10 and any(has_names(one, depth + 1) for one in inside))


def _targets(part: Any) -> Tensor | None:
    """The labels (N,) that a dataset of torchvision, or a part of one, lists; None where there is no list."""
    inner = getattr(part, "dataset", None)
    if isinstance(part, Subset):
        whole = _targets(inner)
        return None if whole is None else whole[numbers_of(part.indices).long()]
    for name in ("targets", "labels", "_labels"):
        with suppress(AttributeError, TypeError, ValueError, RuntimeError):
            return numbers_of(getattr(part, name)).long()
    return None if inner is None else _targets(inner)


def agreed(names: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    """The names of classes of two datasets, of which one may have none, or fewer.

    Raises:
        DataError: a label means one class in one and another in the other.
    """
    for label, (one, other) in enumerate(zip(names, others, strict=False)):
        if one != other:
            raise DataError(
                f"a label is the same class in all images, but {label} is {one!r} and {other!r}; make their classes "
                f"agree"
            )
    return max(names, others, key=len)
