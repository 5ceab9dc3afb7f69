"""Values on a device as they were a moment ago, for a display that must not make the device wait."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Glance:
    """Reads two sums and what they are of; from a GPU they are copied while it works, and read once they are there.

    Args:
        device: of the sums.
        event: makes what says whether a copy is there: `record()` when it is asked for, then `query()`. Default one of
            CUDA on a GPU, none elsewhere.
    """

    def __init__(self, device: torch.device, event: Callable[[], Any] | None = None) -> None:
        self._make = torch.cuda.Event if event is None and device.type == "cuda" else event
        self._event: Any = None
        self._copy: Tensor | None = None
        self._number = 0
        self._known: tuple[float, float, int] | None = None

    def __call__(self, first: Tensor, second: Tensor, number: int) -> tuple[float, float, int] | None:
        """Return the sums (0-dim) and the number of a recent call, on a CPU of this one; None before any is known."""
        if self._make is None:
            return float(first), float(second), number
        if self._copy is None:
            self._copy = torch.empty(2, dtype=torch.float64, pin_memory=torch.cuda.is_available())
        if self._event is not None and self._event.query():
            self._known, self._event = (float(self._copy[0]), float(self._copy[1]), self._number), None
        if self._event is None:
            self._copy.copy_(torch.stack([first.double(), second.double()]), non_blocking=True)
            self._event, self._number = self._make(), number
            self._event.record()
        return self._known
