"""Whether fused kernels may be used on a device: what was found once, said once, and can be written down."""

import importlib.util
import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch

from topocell.nn.kernels.choice import note, recall

#: Least compute capability that the kernels are compiled and checked for: Ampere, the first with bfloat16.
LEAST = (8, 0)

#: How the words about kernels that are not used begin.
LEFT = "left: "

#: What was found about each device: why its fused kernels are left alone, or None where they are used.
_found: dict[torch.device, str | None] = {}


def usable(device: torch.device, check: Callable[[torch.device], str | None]) -> bool:
    """Return whether fused kernels are used on a device; `check` is called once, and returns what is wrong or None.

    A run that has left them once leaves them when it is resumed: other kernels round differently.
    """
    device = _numbered(device)
    if device not in _found:
        fault = missing(device)
        if fault is None:
            _found[device] = None  # while it is checked; a kernel that fails meanwhile says so here
            fault = check(device) or _found[device]
        settle(device, fault)
    question = f"fused kernels on {device}"
    if _found[device] is None and (recall(question) or "").startswith(LEFT):
        return False
    note(question, words(device))
    return _found[device] is None


def missing(device: torch.device) -> str | None:
    """Return why there are no kernels for a device, None where there are."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (PyTorch for CUDA brings it; else: pip install triton)"
    if interpreted():
        return None
    if device.type != "cuda" or torch.version.hip is not None:
        return "they are for CUDA"
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST:
        return f"the card has compute capability {capability[0]}.{capability[1]}, and kernels begin at {LEAST[0]}.0"
    return None


@cache
def interpreted() -> bool:
    """Return whether Triton runs kernels in its interpreter, on the CPU (TRITON_INTERPRET=1, for tests)."""
    return os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton") is not None


def failures() -> tuple[type[BaseException], ...]:
    """What Triton raises where it cannot compile or launch a kernel."""
    from triton.compiler.errors import CompilationError
    from triton.runtime.errors import OutOfResources, PTXASError

    return CompilationError, OutOfResources, PTXASError


def give_up(device: torch.device, fault: BaseException) -> None:
    """Leave the kernels alone on a device from now on, and say so once."""
    settle(device, in_words(fault))


def in_words(fault: BaseException) -> str:
    """An exception in one line."""
    return f"{type(fault).__name__}: {' '.join(str(fault).split())[:200]}"


def settle(device: torch.device, fault: str | None) -> None:
    """Keep what was found; a fault is said once."""
    device = _numbered(device)
    if fault is not None and _found.get(device) != fault:
        warnings.warn(f"PyTorch's own functions do the work of fused kernels on {device}: {fault}", stacklevel=2)
    _found[device] = fault


def words(device: torch.device) -> str:
    """What was found, for env.json."""
    device = _numbered(device)
    if device not in _found:
        return "not used"
    fault = _found[device]
    return f"triton {_version()}, checked" if fault is None else f"{LEFT}{fault}"


@cache
def _version() -> str:
    """Of Triton; read once, since `usable` is asked at every call."""
    import triton

    return str(triton.__version__)


def current(device: torch.device) -> AbstractContextManager[object]:
    """Let kernels be launched on a device: Triton takes the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _numbered(device: torch.device) -> torch.device:
    """The device as tensors on it name it."""
    return torch.device("cuda", torch.cuda.current_device()) if device == torch.device("cuda") else device


def forget() -> None:
    """Check each device again when it is next asked for."""
    _found.clear()
