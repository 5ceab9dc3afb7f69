"""Which instructions the compiled kernels use: what the processor has, or what TOPOCELL_ISA asks for."""

import os
import platform
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from topocell.errors import RunError, nearest


class InstructionSet(NamedTuple):
    """A set of vector instructions.

    Attributes:
        name: as TOPOCELL_ISA has it.
        lanes: float32 numbers of its widest vector.
        registers: how many vectors the processor holds.
        flags: what the C compiler is told.
        needs: flags of the processor, as Linux names them.
    """

    name: str
    lanes: int
    registers: int
    flags: tuple[str, ...]
    needs: tuple[str, ...]


_X86 = (
    InstructionSet(
        "avx512",
        16,
        32,
        ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"),
        ("avx512f", "avx512bw", "avx512dq", "avx512vl", "fma"),
    ),
    InstructionSet("avx2", 8, 16, ("-mavx2", "-mfma"), ("avx2", "fma")),
    InstructionSet("sse", 4, 16, ("-msse4.1",), ("sse4_1",)),
)
_ARM = (InstructionSet("neon", 4, 32, (), ()),)
#: No kernels at all.
NONE = InstructionSet("none", 0, 0, (), ())
NAMES = (*(known.name for known in (*_X86, *_ARM)), NONE.name)
#: What PyTorch calls the set that it uses, of x86 processors.
_OF_TORCH = {"AVX512": "avx512", "AVX2": "avx2"}


def offered() -> tuple[InstructionSet, ...]:
    """The sets that this processor has, the widest first."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return _ARM
    flags = _flags()
    return tuple(known for known in _X86 if flags.issuperset(known.needs))


def instruction_set() -> InstructionSet:
    """The set that kernels are compiled for; the widest that PyTorch uses, unless TOPOCELL_ISA names one.

    Raises:
        RunError: TOPOCELL_ISA names no set, or one that the processor lacks.
    """
    return _chosen(os.environ.get("TOPOCELL_ISA"))


@cache
def _chosen(wanted: str | None) -> InstructionSet:
    found = {known.name: known for known in (*offered(), NONE)}
    if not wanted:
        limit = _OF_TORCH.get(torch.backends.cpu.get_cpu_capability(), "sse")
        return next((known for known in found.values() if known.name in (limit, "neon")), NONE)
    if wanted not in NAMES:
        raise RunError(f"TOPOCELL_ISA is one of {', '.join(NAMES)}, but got {wanted!r}{nearest(wanted, NAMES)}")
    if wanted not in found:
        raise RunError(
            f"TOPOCELL_ISA names instructions of this processor, which has {', '.join(found)}, but got {wanted!r}; "
            f"choose one of these, or unset it"
        )
    return found[wanted]


@cache
def _flags() -> frozenset[str]:
    """What the processor can do, in the words of Linux; elsewhere what PyTorch uses."""
    info = Path("/proc/cpuinfo")
    if info.exists() and (line := re.search(r"^flags\s*:(.*)$", info.read_text(), re.MULTILINE)):
        return frozenset(line[1].split())
    capability = _OF_TORCH.get(torch.backends.cpu.get_cpu_capability())
    index = next((i for i, known in enumerate(_X86) if known.name == capability), len(_X86) - 1)
    return frozenset(flag for known in _X86[index:] for flag in known.needs)
