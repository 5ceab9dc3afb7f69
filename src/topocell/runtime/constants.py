"""Arrays as tensors beside the logits, converted once, and checked temperatures."""

import numpy as np
import torch
from torch import Tensor

from topocell.errors import RecipeError


def check_temperature(temperature: float) -> None:
    """Raise a RecipeError unless the temperature is positive."""
    if not temperature > 0:
        raise RecipeError(f"a temperature is greater than 0, but got {temperature}; anneal to a small value")


class Constants:
    """Arrays as tensors on the device of the logits, floats in their dtype, integers as long; converted once."""

    def __init__(self, **arrays: np.ndarray) -> None:
        self._arrays = arrays
        self._converted: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}

    def get(self, name: str, like: Tensor) -> Tensor:
        """The array of that name beside `like`. The tensor is shared: do not change it in place."""
        kind = self._arrays[name].dtype.kind
        dtype = {"f": like.dtype, "i": torch.long, "b": torch.bool}[kind]
        key = (name, like.device, dtype)
        if key not in self._converted:
            with torch.inference_mode(False):  # autograd refuses tensors that were made in inference mode
                self._converted[key] = torch.tensor(self._arrays[name], device=like.device, dtype=dtype)
        return self._converted[key]
