"""A device that cannot be used is refused in one line that says why."""

import re

import pytest
import torch

from topocell.errors import RecipeError
from topocell.runtime.devices import AbsentDevice, device_to_resume_on, find_device

TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by downloading "
    "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx"
)
#: What torch raises, and what is to be read.
FAULTS = {
    TOO_OLD: r"its driver \(for CUDA 11\.4\) is too old for this PyTorch, which needs one for CUDA .*update the driver",
    "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU": "no NVIDIA driver is found; use",
    "No CUDA GPUs are available": "no NVIDIA card is found; use auto or cpu",
    "Torch not compiled with CUDA enabled": "is built without CUDA; install one",
    "CUDA error: no kernel image is available for execution on the device\nCUDA": "has no code for the card",
    "CUDA out of memory. Tried to allocate 2.00 MiB.": "its memory is full; end what else runs there",
    "CUDA error: invalid device ordinal\nGPU device may be out of range": "but got 'cuda'; use auto or cpu",
}
#: Those of a device that is there and cannot be used, which nothing takes the place of.
THERE = [said for said in FAULTS if any(words in said for words in ("too old", "no kernel image", "out of memory"))]


@pytest.mark.parametrize("said", FAULTS)
def test_a_gpu_that_cannot_be_used_is_refused_in_one_line(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **kwargs: object) -> torch.Tensor:
        raise (AssertionError if "compiled" in said else RuntimeError)(said)

    monkeypatch.setattr(torch, "zeros", fails)
    with pytest.raises(RecipeError, match="device must name a device of this machine, but got 'cuda'") as caught:
        find_device("cuda")
    assert re.search(FAULTS[said], str(caught.value))
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, AbsentDevice) == (said not in THERE)


def test_auto_is_a_device_that_is_there() -> None:
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert find_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:97", "mps", "xpu"])
def test_auto_takes_the_place_of_a_device_that_is_not_there(name: str) -> None:
    if name != "cuda:97" and getattr(torch, name).is_available():
        pytest.skip("it is there")
    device, words = device_to_resume_on(name)
    assert device == find_device("auto")
    assert words.startswith(f"this machine has no device '{name}'") and words.endswith(f"; the run resumes on {device}")
    assert device_to_resume_on("cpu") == (torch.device("cpu"), "")
    with pytest.raises(RecipeError, match="device must name a device of this machine, but got 'tpu9'"):
        device_to_resume_on("tpu9")
