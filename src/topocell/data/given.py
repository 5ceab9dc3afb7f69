"""Images given from Python: tensors, or a dataset of `torch.utils.data`."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from topocell.data.image_file import upright
from topocell.data.readers import Source, in_memory
from topocell.errors import DataError

#: What transparent pixels of PIL images are laid on.
WHITE = (255, 255, 255)


class Given(NamedTuple):
    """Images for a run, given from Python.

    Args:
        train, test: (images, labels), or a dataset of `torch.utils.data` with items (image, label). Images are uint8,
            or floats in 0..1, (N, C, H, W); those of a dataset may be PIL images, which become what files of them
            would be, transparent pixels laid on white. Labels are integers from 0.
        classes: names of the classes; default those that a dataset of torchvision has in its attribute `classes`, else
            the numbers.
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
    train, test = (_tensors(part, name) for part, name in ((given.train, "train"), (given.test, "test")))
    if train[0].shape[1:] != test[0].shape[1:]:
        raise DataError(
            f"training and test images have one shape, but got {tuple(train[0].shape[1:])} and "
            f"{tuple(test[0].shape[1:])}; resize them"
        )
    highest = int(torch.cat([train[1], test[1]]).max())
    named = _agreed(_names(given.train), _names(given.test), highest + 1)
    classes = tuple(map(str, given.classes if given.classes is not None else named))
    return in_memory(classes, train, test, ("the images were given from Python",))


def _tensors(part: Any, name: str) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) uint8 and labels (N,) int64."""
    if isinstance(part, tuple | list) and len(part) == 2 and not all(isinstance(one, tuple | list) for one in part):
        images, labels = torch.as_tensor(part[0]), _numbers(part[1], name)
    elif hasattr(part, "__getitem__") and hasattr(part, "__len__"):
        items = [part[i] for i in range(len(part))]
        if not items or not all(isinstance(item, tuple | list) and len(item) >= 2 for item in items):
            raise DataError(
                f"a dataset has items (image, label), but {name} has none such; see docs/how-to/own-dataset.md"
            )
        pictures = [_picture(item[0]) for item in items]
        shapes = sorted({tuple(picture.shape) for picture in pictures})
        if len(shapes) > 1:
            raise DataError(f"images of a dataset have one shape, but those of {name} have {shapes[:3]}; resize them")
        images, labels = torch.stack(pictures), _numbers([item[1] for item in items], name)
    else:
        instead = "; give its dataset" if hasattr(part, "dataset") else "; see docs/how-to/own-dataset.md"
        raise DataError(f"{name} is (images, labels) or a dataset, but got {type(part).__name__}" + instead)
    if images.dim() != 4 or len(images) != len(labels) or labels.dim() != 1 or not len(labels):
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
        low, high = (float(bound) for bound in images.float().aminmax())
        if not (images.dtype.is_floating_point and low >= 0 and high <= 1):
            raise DataError(
                f"images are uint8, or floats in 0..1 before any normalisation, but those of {name} are {images.dtype} "
                f"from {low:g} to {high:g}; convert them"
            )
        images = (images.float() * 255).round().byte()
    return images.contiguous(), labels.long()


def _names(part: Any) -> tuple[str, ...]:
    """Names of the classes of a dataset by number, also of a part of one (`Subset`); none where it has none."""
    while not hasattr(part, "classes") and hasattr(part, "dataset"):
        part = part.dataset
    found = getattr(part, "classes", None)
    if not isinstance(found, tuple | list) or not all(isinstance(name, str) for name in found):
        return ()
    return tuple(found) if len(set(found)) == len(found) else ()


def _agreed(train: Sequence[str], test: Sequence[str], number: int) -> Sequence[Any]:
    """Names of so many classes; their numbers where the training images have none.

    Raises:
        DataError: a label means one class in train and another in test.
    """
    for label, (one, other) in enumerate(zip(train[:number], test, strict=False)):
        if one != other:
            raise DataError(
                f"a label is the same class in train and in test, but {label} is {one!r} and {other!r}; make their "
                f"classes agree"
            )
    return train[:number] if len(train) >= number else range(number)


def _numbers(labels: Any, name: str) -> Tensor:
    """Labels as a tensor. Raises DataError where they are no integers, which would be cut or could not be read."""
    try:
        found = torch.as_tensor(labels)
        if not (found.is_floating_point() or found.is_complex()) or bool((found == found.trunc()).all()):
            return found
    except (TypeError, ValueError, RuntimeError):
        pass
    first = labels[0] if len(labels) else labels
    raise DataError(f"labels are integers from 0, but those of {name} begin with {first!r}; number the classes")


def _picture(image: Any) -> Tensor:
    """(C, H, W) of a tensor, an image of Pillow, or of what numpy can read as (H, W) or (H, W, C)."""
    if isinstance(image, Tensor):
        return image
    if isinstance(image, Image.Image):
        try:
            image, _ = upright(image, "L" if image.mode in ("1", "L") else "RGB", WHITE)
        except (OSError, ValueError) as fault:
            raise DataError(f"images of a dataset must be read as 8 bits, but one cannot be: {fault}") from None
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)
