"""Arrays as tensors beside the logits, converted once, and checked temperatures."""

import numpy as np
import torch
from torch import Tensor

from topocell.errors import RecipeError


def check_temperature(temperature: float | Tensor) -> None:
    """Raise a RecipeError unless the temperature is positive; one on a device was checked when it was a number."""
    if not isinstance(temperature, Tensor) and not temperature > 0:
        raise RecipeError(f"a temperature is greater than 0, but got {temperature}; anneal to a small value")


class Constants:
    """Arrays as tensors on the device of the logits, floats in their dtype, integers as long; converted once."""

    def __init__(self, **arrays: np.ndarray) -> None:
        # As tensors, since what traces a network does not know arrays.
        self._arrays = {name: torch.tensor(array, device="cpu") for name, array in arrays.items()}
        self._converted: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}

    def __getstate__(self) -> dict[str, object]:
        """Leave out of copies and files what was converted: a file may be read where its device is another."""
        return {**vars(self), "_converted": {}}

    def get(self, name: str, like: Tensor) -> Tensor:
        """The array of that name beside `like`. The tensor is shared: do not change it in place."""
        array = self._arrays[name]
        dtype = like.dtype if array.is_floating_point() else torch.bool if array.dtype == torch.bool else torch.long
        key = (name, like.device, dtype)
        if (known := self._converted.get(key)) is not None:
            return known
        with torch.inference_mode(False):  # autograd refuses tensors that were made in inference mode
            made = array.to(like.device, dtype, copy=True)
        traced = torch.jit.is_tracing() or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        if type(made) is Tensor and not traced:
            self._converted[key] = made  # else it is of a trace, or of a transform, and means nothing after that
        return made
