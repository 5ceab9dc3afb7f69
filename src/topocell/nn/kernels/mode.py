"""Whether fused kernels are used, on every device: one switch for the compiled loops of CPUs and Triton's of GPUs."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

import torch
from torch import Tensor

#: `auto`: where they are faster, or on a GPU where they are as exact as PyTorch's own functions; `fused`: wherever
#: there are some; `plain`: nowhere.
KERNELS = ("auto", "fused", "plain")
_FORCED = {"0": "plain", "1": "fused"}

_chosen: ContextVar[str] = ContextVar("kernels", default="auto")


def mode() -> str:
    """One of `KERNELS`: what TOPOCELL_NATIVE says (0: plain, 1: fused), else what the module at work was told."""
    return _FORCED.get(os.environ.get("TOPOCELL_NATIVE", "")) or _chosen.get()


@contextmanager
def using(kernels: str) -> Iterator[None]:
    """Choose for what runs inside."""
    token = _chosen.set(kernels)
    try:
        yield
    finally:
        _chosen.reset(token)


def by_own_mode(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a module's forward pass use the kernels of its attribute `kernels`; `auto`: those of what is around it.

    Each module that asks carries what its network was made with: checkpointing calls it once more where the network
    is no longer at work. Where `torch.compile` looks on, nothing asks.
    """

    @wraps(forward)
    def run(module: Any, *args: Any) -> Tensor:
        if module.kernels == "auto" or torch.compiler.is_compiling():
            return forward(module, *args)
        with using(module.kernels):
            return forward(module, *args)

    return run
