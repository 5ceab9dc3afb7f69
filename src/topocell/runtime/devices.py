"""Devices by name."""

import re

import torch

from topocell.errors import RecipeError

#: What torch says of a GPU that it cannot use → what that means, and what to do.
REASONS = {
    "driver on your system is too old": (
        "its driver{version} is too old for this PyTorch, which needs one for CUDA {cuda}; update the driver, or "
        "install a PyTorch built for an older CUDA"
    ),
    "no NVIDIA driver": "no NVIDIA driver is found",
    "No CUDA GPUs are available": "no NVIDIA card is found",
    "not compiled with CUDA": "this PyTorch, {torch}, is built without CUDA; install one that is built with it",
    "no kernel image": "this PyTorch, {torch}, has no code for the card; install one that has",
    "out of memory": "its memory is full; end what else runs there",
}
#: What torch says of a device that is not there, as against one that is and cannot be used now.
ABSENT = (
    "no NVIDIA driver",
    "No CUDA GPUs are available",
    "not compiled with",
    "Could not run 'aten::empty",  # of a backend that PyTorch was built without
    "invalid device ordinal",
)


class AbsentDevice(RecipeError):
    """A device that this machine does not have; `reason` says why, as far as PyTorch does."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


def find_device(name: str) -> torch.device:
    """`auto` is the first GPU, else the CPU.

    Raises:
        AbsentDevice: it is not there. RecipeError: it cannot be used, or there is no such name.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        (torch.zeros(1, device=device) + 1).item()
    except (RuntimeError, AssertionError, NotImplementedError) as fault:
        said = " ".join(str(fault).split())
        reason = _reason(said)
        words = f"device must name a device of this machine, but got {name!r}{reason}; use auto or cpu"
        absent = any(key in said for key in ABSENT)
        raise (AbsentDevice(words, reason) if absent else RecipeError(words)) from None
    return device


def device_to_resume_on(name: str) -> tuple[torch.device, str]:
    """Return a device by name, and ""; in place of one that this machine does not have `auto`, and a line that says so.

    Raises RecipeError for a device that is there and cannot be used.
    """
    try:
        return find_device(name), ""
    except AbsentDevice as fault:
        device = find_device("auto")
        return device, f"this machine has no device {name!r}{fault.reason}; the run resumes on {device}"


def _reason(said: str) -> str:
    """What torch said, in words for the user: empty where it says nothing of a GPU."""
    words = next((reason for key, reason in REASONS.items() if key in said), None)
    if words is None:
        return ""
    found = re.search(r"found version (\d+)", said)
    version = f" (for CUDA {int(found[1]) // 1000}.{int(found[1]) % 1000 // 10})" if found else ""
    return f": {words.format(version=version, cuda=torch.version.cuda, torch=torch.__version__)}"
