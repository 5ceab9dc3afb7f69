"""What of PyTorch holds for a whole process: set as a call needs it, and left as it was found."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import torch


@contextmanager
def as_found() -> Iterator[None]:
    """Compute with the defaults of PyTorch inside, whatever the caller has set, and leave all of it as it was.

    Inside, tensors are made as float32 on the CPU where nothing else is said, gradients are recorded, and autocast is
    off. Afterwards the default type and device, the generators of the CPU and of all GPUs, and the precision and
    determinism of GPUs are those of before.
    """
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    with ExitStack() as inside:
        inside.enter_context(_generators())
        inside.enter_context(_flags())
        inside.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        if device.type != "cpu":
            inside.enter_context(torch.device("cpu"))
        inside.enter_context(torch.inference_mode(False))  # gradients too
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                inside.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def _generators() -> Iterator[None]:
    seed, state = torch.initial_seed(), torch.get_rng_state()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        torch.set_rng_state(state)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)
        elif torch.cuda.is_available():  # none of them has drawn yet
            torch.cuda.manual_seed_all(seed)


@contextmanager
def _flags() -> Iterator[None]:
    """Precision has older names and, since PyTorch 2.9, newer ones: what was set by newer ones has no older."""
    library = torch.backends.cudnn
    flags: list[tuple[Callable[[Any], None], Any]] = [
        (partial(setattr, library, "deterministic"), library.deterministic)
    ]
    with suppress(RuntimeError):
        flags.append((torch.set_float32_matmul_precision, torch.get_float32_matmul_precision()))
    with suppress(RuntimeError):
        flags.append((partial(setattr, library, "allow_tf32"), library.allow_tf32))
    for part in (torch.backends.cuda.matmul, *(getattr(library, kind) for kind in ("conv", "rnn"))):
        flags.append((partial(setattr, part, "fp32_precision"), part.fp32_precision))
    try:
        yield
    finally:
        for put_back, value in flags:
            put_back(value)
