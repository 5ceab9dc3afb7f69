"""Numbers that follow a schedule, as a step on a device reads them.

A step that waits for no device, and that may be recorded and replayed, never takes a number from Python that changes
from one step to the next. Such a number is a `Scheduled` attribute: a float, also a tensor on the device once `hold`
was called. Branches (is anything dropped at all?) read `is_on`, arithmetic takes what `current` returns. Code that
`torch.compile` has made of either is the same for all numbers: a float that it read would compile it anew with each.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from topocell.arguments import check_argument
from topocell.errors import SpaceError

_TENSORS = "_scheduled_tensors"

#: What a scheduled number may be, in words → whether one is.
KINDS: dict[str, Callable[[float], bool]] = {
    "0 or more": lambda value: value >= 0,
    "above 0": lambda value: value > 0,
    "a probability": lambda value: 0 <= value <= 1,
    "a probability below 1": lambda value: 0 <= value < 1,
}


def check_number(name: str, value: float, kind: str) -> None:
    """Raise SpaceError where a number is none of its kind, a row of `KINDS`, or expects a gradient."""
    check_argument(name, value, float, SpaceError)
    if isinstance(value, Tensor) and value.requires_grad:
        raise SpaceError(
            f"{name} is a number without gradients, but got a tensor that requires grad; give its value, tensor.item()"
        )
    if not math.isfinite(value):
        raise SpaceError(f"{name} is a finite number, {kind}, but got {name}={value}")
    if not KINDS[kind](value):
        step = "; divide a percentage by 100, a count by its most" * ("probability" in kind and value >= 1)
        raise SpaceError(f"{name} is {kind}, but got {name}={value}{step}")


class Scheduled:
    """A float attribute of an object, of which `hold` keeps a tensor beside it; `default` until it is set.

    Numbers of every type are kept as floats of Python: a state dict that has one of NumPy is not read again with
    `weights_only`.

    Args:
        default: the number that was not set.
        kind: a row of `KINDS`; setting what it is not is a SpaceError, see `check_number`.
    """

    def __init__(self, default: float = 0.0, kind: str = "0 or more") -> None:
        self.default, self.kind = default, kind

    def __set_name__(self, owner: type, name: str) -> None:
        self._key = f"_{name}"

    def __get__(self, instance: Any, owner: type | None = None) -> float:
        if instance is None:
            return self.default
        value: float = getattr(instance, self._key, self.default)
        return value

    def __set__(self, instance: Any, value: float) -> None:
        check_number(self._key[1:], value, self.kind)
        value = float(value)
        before = self.__get__(instance)
        instance.__dict__[self._key] = value
        instance.__dict__[f"{self._key}_is_on"] = value > 0
        with torch.inference_mode(False):  # autograd refuses tensors that were made in inference mode
            instance.__dict__[f"{self._key}_tensor"] = torch.full((), value, device="cpu")
        if is_held(instance) and value != before:
            getattr(instance, _TENSORS)[self._key].fill_(value)


def hold(instance: Any, device: torch.device) -> None:
    """Keep every scheduled number of an object as a float64 tensor (0-dim) on the device too, always up to date.

    Beside tensors of more dimensions it counts as a number: results keep their type.
    """
    found = {key: row for kind in type(instance).__mro__ for key, row in vars(kind).items() if type(row) is Scheduled}
    instance.__dict__[_TENSORS] = {
        row._key: torch.full((), getattr(instance, name), dtype=torch.float64, device=device)
        for name, row in found.items()
    }


def is_held(instance: Any) -> bool:
    """Return whether `hold` was called for the object: its steps are to read tensors."""
    return getattr(instance, _TENSORS, None) is not None


def is_on(instance: Any, name: str) -> bool:
    """Return whether a scheduled number, which was set, is above 0."""
    found: bool = getattr(instance, f"_{name}_is_on", False)
    return found


def current(instance: Any, name: str, tensor: bool = False) -> float | Tensor:
    """Return a scheduled number as arithmetic takes it: a tensor (0-dim) where it is held, else a float.

    With `tensor`, what was set is a tensor in any case, on the CPU where it is not held: beside tensors of more
    dimensions such a one counts as a number, on every device.
    """
    if is_held(instance):
        found: float | Tensor = getattr(instance, _TENSORS)[f"_{name}"]
    else:
        found = getattr(instance, f"_{name}_tensor" if tensor else name)
    return found
