"""ImageNet16-120: ImageNet at 16×16 pixels, its first 120 classes (Dong and Yang, NAS-Bench-201, 2020).

The files are those of the downsampled ImageNet (Chrabaszcz et al., 2017) at 16×16: `train_data_batch_1` to `_10` and
`val_data`, each a pickled dict of `data` (N, 768) uint8, one image a row with its red, green and blue plane one after
the other, and `labels`, N numbers from 1 to 1000. Classes with the labels 1 to 120 are kept: 151,700 training and
6,000 validation images in the official files.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from topocell.data import pickled
from topocell.errors import DataError
from topocell.io.files import reason

SIDE, CLASSES = 16, 120
TRAIN = tuple(f"train_data_batch_{number}" for number in range(1, 11))
VAL = "val_data"


def read(place: Path) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Read the training and the validation images of the first 120 classes.

    Args:
        place: the folder with the eleven files.

    Returns two pairs: images (N, 3, 16, 16) uint8, labels (N,) int64 from 0.

    Raises:
        DataError: a file is missing, damaged, or holds something else.
    """
    if missing := [name for name in (*TRAIN, VAL) if not (place / name).is_file()]:
        raise DataError(
            f"imagenet16-120 needs {TRAIN[0]} to {TRAIN[-1].rpartition('_')[2]} and {VAL}, but {str(place)!r} lacks "
            f"{missing[0]}; fetch ImageNet at 16x16 from image-net.org, which asks for an account, unpack it, and name "
            f"its folder with data.root=DIR"
        )
    parts = [_batch(place / name) for name in TRAIN]
    return (torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])), _batch(place / VAL)


def _batch(path: Path) -> tuple[Tensor, Tensor]:
    """The images of one file that belong to the first classes."""
    try:
        with path.open("rb") as file:
            batch = pickled.load(file)
    except OSError as fault:
        raise _refused(path, reason(fault)) from None
    except (ValueError, OverflowError, MemoryError, UnicodeError) as fault:  # what damaged files lead to
        raise _refused(path, f"it is damaged, or no file of numbers alone ({fault})"[:200]) from None
    data, labels = (batch.get("data"), batch.get("labels")) if isinstance(batch, dict) else (None, None)
    if not isinstance(data, pickled.Array) or not isinstance(labels, list):
        raise _refused(path, "it is a dict with an array `data` and a list `labels`, but this is not")
    try:
        rows = data.uint8()
    except ValueError as fault:
        raise _refused(path, f"`data` is uint8 in the order of C, but this is not ({fault})") from None
    if rows.shape != (len(labels), 3 * SIDE * SIDE):
        raise _refused(path, f"`data` is {len(labels)} x {3 * SIDE * SIDE} for as many labels, but got {rows.shape}")
    if not all(type(label) is int and 1 <= label <= 1000 for label in labels):
        raise _refused(path, "labels are whole numbers from 1 to 1000, but not all of these are")
    numbers = np.array(labels, np.int64)
    chosen = numbers <= CLASSES
    images = torch.from_numpy(rows[chosen].reshape(-1, 3, SIDE, SIDE))
    return images, torch.from_numpy(numbers[chosen] - 1)


def _refused(path: Path, why: str) -> DataError:
    return DataError(f"{str(path)!r} is no file of ImageNet at 16x16: {why}; fetch it again")
