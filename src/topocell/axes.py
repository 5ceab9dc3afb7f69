"""What the axes of a search share: a part by its name, checked temperatures, constants beside the logits."""

import inspect
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import PydanticUndefinedAnnotation, PydanticUserError, TypeAdapter, ValidationError
from torch import Tensor

from topocell.errors import RecipeError, nearest

Part = TypeVar("Part")


def build(axis: str, table: Mapping[str, Callable[..., Part]], name: str, *given: Any, **options: Any) -> Part:
    """`table[name](*given, **options)`, after a check of the name and of the names of the options.

    Raises:
        RecipeError: unknown name, or an option that is unknown, missing or of another type than its parameter.
    """
    if name not in table:
        raise RecipeError(f"unknown {axis} {name!r}{nearest(name, table)}; known: {', '.join(table)}")
    known = dict(list(inspect.signature(table[name]).parameters.items())[len(given) :])
    for option in options:
        if option not in known:
            raise RecipeError(
                f"{axis} {name!r} has no option {option!r}{nearest(option, known)}; "
                f"it takes: {', '.join(known) or 'none'}"
            )
    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in options:
            raise RecipeError(f"{axis} {name!r} needs the option {option!r}; add {option}=...")
    for option, value in options.items():
        _check_type(f"{axis}.{option}", known[option].annotation, value)
    return table[name](*given, **options)


def _check_type(where: str, annotation: Any, value: Any) -> None:
    """Raises a RecipeError unless a value from a recipe is what the parameter's annotation says."""
    if annotation is inspect.Parameter.empty:
        return
    try:
        TypeAdapter(annotation).validate_python(value, strict=True)
    except ValidationError as fault:
        if isinstance(value, str) and any(item["type"] == "literal_error" for item in fault.errors()):
            return  # the part knows which words it takes, and what comes nearest
        rule = fault.errors()[0]["msg"]
        raise RecipeError(f"{where}: {rule[:1].lower()}{rule[1:]}, but got {reprlib.repr(value)}; change it") from None
    except (PydanticUserError, PydanticUndefinedAnnotation):  # a type that only the author of the part knows
        return


def check_temperature(temperature: float) -> None:
    """Raises a RecipeError unless the temperature is positive."""
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
