"""Memory: how much a plan needs, how much there is, and what to change where the one exceeds the other."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from topocell.data.batches import Images, ImageSet
from topocell.data.image_folder import COPIES, memory_of_machine
from topocell.data.stream import close_streams
from topocell.runtime.memory import naming_memory

#: Part of the free memory that a plan may ask for.
SHARE = 0.95
#: Part of the free memory that a probe may ask for: the interpreter and the allocator take more than tensors do.
TRIED = 0.8


@dataclass(frozen=True)
class Knob:
    """A number of the recipe that memory grows with, by its key; its values are multiples of `unit`."""

    key: str
    value: int
    unit: int = 1


@dataclass(frozen=True)
class Memory:
    """Peak memory in bytes: `fixed` + `per_image` · batch size. `data` of the fixed part are the images.

    On a GPU it is what torch allocates; on a CPU all tensors alive at once: what is saved for the backward pass,
    gradients, parameters, optimizer state, and what kernels hand to each other at that moment. What the interpreter,
    torch and the allocator need for themselves, about half a gigabyte, comes on top.
    """

    fixed: float
    per_image: float
    batch: int
    data: int

    @property
    def peak(self) -> int:
        """Bytes at the planned batch size."""
        return round(self.fixed + self.per_image * self.batch)

    def fits(self, free: int | None) -> bool:
        """Return whether that much may be asked for where `free` bytes are left (None: unknown)."""
        return free is None or self.peak <= SHARE * free

    def trial(self, free: int | None) -> int:
        """The batch size at which to try something: the planned one, or a quarter of it or less where that is full."""
        if free is None or self.peak <= TRIED * free:
            return self.batch
        most = int((TRIED * free - self.fixed) / max(self.per_image, 1))
        return max(2, min(self.batch // 4, most))


def smaller(what: str, memory: Memory, knobs: Sequence[Knob], switches: Sequence[str], free: int, device: str) -> str:
    """Advise what to change for something to fit: the largest batch, or the largest value of another knob, or a switch.

    Memory is taken to be proportional to the other knobs, the images apart. The batch size is the first of `knobs`;
    `switches` are settings that are known to suffice.
    """
    limit = SHARE * free
    most = {knobs[0].key: int((limit - memory.fixed) / max(memory.per_image, 1))}
    share = (limit - memory.data) / max(memory.peak - memory.data, 1)
    most |= {knob.key: int(knob.value * share) // knob.unit * knob.unit for knob in knobs[1:]}
    ways = " or ".join([*switches, *(f"{key}={value}" for key, value in most.items() if value >= 2)])
    return (
        f"{what} must fit in the memory of {device}, of which {gigabytes(free)} are free, but needs about "
        f"{gigabytes(memory.peak)}; {f'set {ways}' if ways else 'use another device'}"
    )


def out_of_memory(
    what: str, device: str, knobs: Sequence[Knob], probe: bool = False, switches: Sequence[str] = ()
) -> str:
    """Advise what to change when memory has run out in the middle of something, or of a probe of it.

    `switches` are settings that make room, besides the `knobs` to lower.
    """
    ways = " or ".join(f"{knob.key} (now {knob.value})" for knob in knobs)
    ways += "".join(f", or set {switch}" for switch in switches)
    found = (
        "topocell estimate finds values that fit; or make room: the same command then resumes from the last checkpoint"
    )
    return (
        f"{what} must fit in the memory of {device}, but it ran out{' in a probe' if probe else ''}; lower {ways}"
        f"{', or make room' if probe else f': {found}'}"
    )


@contextmanager
def probing(what: str, device: torch.device, knobs: Sequence[Knob]) -> Iterator[None]:
    """Raise RunError where memory runs out; what reads images has ended afterwards."""
    try:
        with naming_memory(lambda: out_of_memory(what, str(device), knobs, probe=True)):
            yield
    finally:
        close_streams()


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be had on a device, at most all that a container may have; None where none says."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    source = Path("/proc/meminfo")
    lines = source.read_text().splitlines() if device.type == "cpu" and source.exists() else []
    there = (1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return next((int(min(free, memory_of_machine())) for free in there), None)


def room_of_images(images: Sequence[Images], device: torch.device) -> tuple[str, ...]:
    """The setting that makes room where images of files take a tenth of the memory, with all copies that a run has."""
    kept = COPIES * sum(part.nbytes for part in images)
    whole = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else memory_of_machine()
    of_files = all(isinstance(part, ImageSet) and part.files for part in images)
    return ("data.store=stream (in a new run)",) if of_files and kept > whole / 10 else ()


def gigabytes(size: float) -> str:
    """Bytes in words: `1.25 GB`, `49 MB`."""
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"
