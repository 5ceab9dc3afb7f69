"""Whether fused kernels are used, on every device: one switch for the compiled loops of CPUs and Triton's of GPUs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

#: `auto`: where they are faster, or on a GPU where they are as exact as PyTorch's own functions; `fused`: wherever
#: there are some; `plain`: nowhere.
KERNELS = ("auto", "fused", "plain")
_FORCED = {"0": "plain", "1": "fused"}

_chosen: ContextVar[str] = ContextVar("kernels", default="auto")


def mode() -> str:
    """One of `KERNELS`: what TOPOCELL_NATIVE says (0: plain, 1: fused), else what the network at work was made with."""
    return _FORCED.get(os.environ.get("TOPOCELL_NATIVE", "")) or _chosen.get()


@contextmanager
def using(kernels: str) -> Iterator[None]:
    """Choose for what runs inside; where `torch.compile` looks on, nothing asks, and there is nothing to choose."""
    if torch.compiler.is_compiling():
        yield
        return
    token = _chosen.set(kernels)
    try:
        yield
    finally:
        _chosen.reset(token)
