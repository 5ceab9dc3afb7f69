"""Tensors of what people keep images and labels in: tensors on any device, arrays, columns of tables, lists."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


def tensor_of(array: Any) -> Tensor:
    """A tensor on the CPU, without gradient, of a tensor or an array, sparse, read-only or reversed as well.

    Raises TypeError for what holds no numbers.
    """
    if isinstance(array, Tensor):
        return array.detach().cpu().to_dense()
    found = np.asarray(array)
    return torch.from_numpy(np.require(found, found.dtype.newbyteorder("="), ["C", "W"]))


def numbers_of(labels: Any) -> Tensor:
    """The same of labels: also of a list, and of a column of a table, whose keys need not be places.

    Raises TypeError, ValueError or RuntimeError for what holds no numbers.
    """
    of_arrays = isinstance(labels, list) and bool(labels) and isinstance(labels[0], np.ndarray)
    listed = of_arrays or (hasattr(labels, "__array__") and not isinstance(labels, Tensor))
    array = np.asarray(labels) if listed else labels
    plain = array.tolist() if getattr(array, "dtype", None) == np.dtype(object) else array
    return tensor_of(plain) if isinstance(plain, Tensor | np.ndarray) else torch.as_tensor(plain)
