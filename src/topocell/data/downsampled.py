"""ImageNet at 16×16, 32×32 and 64×64 pixels (Chrabaszcz et al., 2017), and ImageNet16-120 (NAS-Bench-201, 2020).

The official files are `train_data_batch_1` to `_10` and `val_data`, each of `data` (N, 3·side²) uint8, one image a row
with its red, green and blue plane one after the other, and `labels`, N numbers from 1 to 1000: pickled dicts, or arrays
in `.npz` files, which are read without calling anything that they name. There are 1,281,167 training and 50,000
validation images; ImageNet16-120 has those with the labels 1 to 120, 151,700 and 6,000.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from topocell.data import pickled
from topocell.errors import DataError
from topocell.io.files import reason

CLASSES = 1000
TRAIN = tuple(f"train_data_batch_{number}" for number in range(1, 11))
VAL = "val_data"


def read(name: str, place: Path, side: int, classes: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Read the training and the validation images of the first classes.

    Args:
        name: of the dataset.
        place: the folder with the eleven files.
        side: of the images in pixels.
        classes: how many are kept.

    Returns two pairs: images (N, 3, side, side) uint8, labels (N,) int64 from 0.

    Raises:
        DataError: a file is missing, damaged, or holds something else.
    """
    paths = {file: _found(place, file) for file in (*TRAIN, VAL)}
    if missing := [file for file, path in paths.items() if path is None]:
        raise DataError(
            f"{name} needs {TRAIN[0]} to {TRAIN[-1].rpartition('_')[2]} and {VAL}, but {str(place)!r} lacks "
            f"{missing[0]}; fetch ImageNet at {side}x{side} from image-net.org, which asks for an account, unpack it, "
            f"and name its folder with data.root=DIR"
        )
    parts = [_batch(path, side, classes) for path in paths.values() if path is not None]
    train = torch.cat([images for images, _ in parts[:-1]]), torch.cat([labels for _, labels in parts[:-1]])
    return train, parts[-1]


def _found(place: Path, name: str) -> Path | None:
    """The file of that name, pickled or not."""
    return next((path for path in (place / name, place / f"{name}.npz") if path.is_file()), None)


def _batch(path: Path, side: int, classes: int) -> tuple[Tensor, Tensor]:
    """The images of one file that belong to the first classes."""
    try:
        rows, labels = _arrays(path) if path.suffix == ".npz" else _pickled(path)
    except OSError as fault:
        raise _refused(path, side, reason(fault)) from None
    except Exception as fault:  # whatever a damaged file leads to
        raise _refused(path, side, f"it is damaged, or no file of numbers alone ({fault})"[:200]) from None
    if rows is None or labels is None:
        raise _refused(path, side, "it is a dict with an array `data` and a list `labels`, but this is not")
    if isinstance(rows, ValueError):
        raise _refused(path, side, f"`data` is uint8 in the order of C, but this is not ({rows})")
    if rows.shape != (len(labels), 3 * side * side):
        raise _refused(
            path, side, f"`data` is {len(labels)} x {3 * side * side} for as many labels, but got {rows.shape}"
        )
    if not all(type(label) is int and 1 <= label <= CLASSES for label in labels):
        raise _refused(path, side, f"labels are whole numbers from 1 to {CLASSES}, but not all of these are")
    numbers = np.array(labels, np.int64)
    chosen = numbers <= classes
    images = torch.from_numpy(rows[chosen].reshape(-1, 3, side, side))
    return images, torch.from_numpy(numbers[chosen] - 1)


#: Rows of pixels, or why they are none, and labels; None for what is not there.
_Read = tuple[np.ndarray | ValueError | None, list[Any] | None]


def _pickled(path: Path) -> _Read:
    with path.open("rb") as file:
        batch = pickled.load(file)
    data, labels = (batch.get("data"), batch.get("labels")) if isinstance(batch, dict) else (None, None)
    if not isinstance(data, pickled.Array) or not isinstance(labels, list):
        return None, None
    try:
        return data.uint8(), labels
    except ValueError as fault:
        return fault, labels


def _arrays(path: Path) -> _Read:
    with np.load(path, allow_pickle=False) as batch:
        found = {key: batch[key] for key in ("data", "labels") if key in batch}
    data, labels = found.get("data"), found.get("labels")
    if data is None or labels is None or labels.ndim != 1:
        return None, None
    return data if data.dtype == np.uint8 else ValueError(f"an array of {data.dtype}"), labels.tolist()


def _refused(path: Path, side: int, why: str) -> DataError:
    return DataError(f"{str(path)!r} is no file of ImageNet at {side}x{side}: {why}; fetch it again")
