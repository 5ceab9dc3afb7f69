"""Tensors of what people keep images and labels in: tensors on any device, arrays, columns of tables, lists."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

#: How far floats may leave 0..1: scaling with antialiasing ends a little beyond, and their bytes are the same.
BEYOND = 1e-3
#: Numbers that are turned into bytes at once, so that no float copy of all images is made.
_AT_ONCE = 1 << 24


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
    if isinstance(labels, list) and labels and isinstance(labels[0], Tensor) and labels[0].numel() > 1:
        return tensor_of(torch.stack(labels))
    of_arrays = isinstance(labels, list) and bool(labels) and isinstance(labels[0], np.ndarray)
    listed = of_arrays or (hasattr(labels, "__array__") and not isinstance(labels, Tensor))
    array = np.asarray(labels) if listed else labels
    plain = array.tolist() if getattr(array, "dtype", None) == np.dtype(object) else array
    return tensor_of(plain) if isinstance(plain, Tensor | np.ndarray) else torch.as_tensor(plain)


class Span(NamedTuple):
    """What numbers an image has, or several: their type, the least and the largest; both NaN where one of them is.

    As text `torch.int32 from 0 to 9`.
    """

    dtype: torch.dtype
    low: float
    high: float

    @classmethod
    def of(cls, images: Tensor) -> "Span":
        """The span of images of any shape; of none, and of complex numbers, that of zeros and of real parts."""
        real = images.real if images.is_complex() else images
        bounds = [part.float().aminmax() for part in _parts(real)] if images.numel() else []
        if len(bounds) > 1:
            bounds = [torch.cat([torch.stack(bound) for bound in bounds]).aminmax()]
        low, high = map(float, bounds[0] if bounds else (0, 0))
        return cls(images.dtype, low, high)

    def joined(self, other: "Span") -> "Span":
        """The span of an array of both; this one is without NaN."""
        dtype = torch.promote_types(self.dtype, other.dtype)
        return Span(dtype, min(other.low, self.low), max(other.high, self.high))

    @property
    def are_pixels(self) -> bool:
        """Whether they are uint8, or floats in 0..1 but for rounding."""
        return self.dtype == torch.uint8 or (
            self.dtype.is_floating_point and self.low >= -BEYOND and self.high <= 1 + BEYOND
        )

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.dtype} with NaN among them"
        return f"{self.dtype} from {self.low:g} to {self.high:g}"


def bytes_of(images: Tensor) -> Tensor:
    """Images of any shape, uint8 or floats in 0..1 as `Span.are_pixels` has it, as uint8; bytes are returned as is."""
    if images.dtype == torch.uint8:
        return images
    made = [(part.float() * 255).round_().byte() for part in _parts(images)]
    return made[0] if len(made) == 1 else torch.cat(made)


def _parts(images: Tensor) -> tuple[Tensor, ...]:
    """The images, or some of them after others where there are many numbers."""
    if images.numel() <= _AT_ONCE:
        return (images,)
    return images.split(max(1, _AT_ONCE * len(images) // images.numel()))
