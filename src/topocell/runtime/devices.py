"""Devices by name."""

import torch

from topocell.errors import RecipeError


def find_device(name: str) -> torch.device:
    """`auto` is the first GPU, else the CPU. Raises RecipeError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError):
        raise RecipeError(f"device must name a device of this machine, but got {name!r}; use auto or cpu") from None
    return device
