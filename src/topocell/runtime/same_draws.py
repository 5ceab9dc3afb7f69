"""Passes that draw the same random numbers."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from topocell.runtime.capture import is_recording


class SameDraws:
    """Everything inside `with draws:` draws what the first such block drew.

    Where steps are called as they are, torch's generators are set back. In a step that is being recorded that cannot
    be, and what was drawn the first time is kept and handed out again.

    Args:
        device: on which numbers are drawn.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._states: tuple[Tensor, ...] | None = None
        self._mode = _Kept() if is_recording() else None

    def __enter__(self) -> None:
        if self._mode is not None:
            self._mode.begin()
            self._mode.__enter__()
            return
        cuda = self._device.type == "cuda"
        if self._states is None:
            self._states = torch.get_rng_state(), *((torch.cuda.get_rng_state(self._device),) if cuda else ())
        else:
            torch.set_rng_state(self._states[0])
            if cuda:
                torch.cuda.set_rng_state(self._states[1], self._device)

    def __exit__(self, *fault: Any) -> None:
        if self._mode is not None:
            self._mode.__exit__(*fault)


class _Kept(TorchDispatchMode):
    """Keeps what is drawn the first time, and hands it out afterwards, in the same order."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[Tensor] = []
        self._next: int | None = None

    def begin(self) -> None:
        self._next = 0 if self._kept or self._next is not None else None

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **(kwargs or {}))
        if self._next is None:
            out = func(*args, **(kwargs or {}))
            self._kept.append((out[1] if isinstance(out, tuple) else out).clone())
            return out
        drawn = self._kept[self._next]
        self._next += 1
        if func._schema.is_mutable:
            return args[0].copy_(drawn)
        if func is torch.ops.aten.native_dropout.default:
            return args[0] * drawn / (1.0 - args[1]), drawn.clone()
        return drawn.clone()
