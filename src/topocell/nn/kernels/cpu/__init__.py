"""Compiled kernels for CPUs: of the supernet's operations (kernels.c) and the data path (images.c).

The C files are compiled on first use by the C compiler of the machine, for the instructions of its processor
(`isa`), in a few seconds, and kept in the cache folder (`build`). Where there is no compiler, or TOPOCELL_NATIVE=0,
`kernels` and `augmenter` return None and PyTorch's own functions do the work: the same numbers up to rounding, several
times slower.
"""

import os

import torch
from torch import Tensor

from topocell.nn.kernels.cpu.build import build_key, load
from topocell.nn.kernels.cpu.calls import (
    SIZES,
    Addresses,
    Augmenter,
    EndGradients,
    Ends,
    Floats,
    InputGradients,
    Kernels,
    Layout,
    Norm,
    Project,
    Shape,
    StageInputs,
    addresses,
    floats,
    rows,
    threads_for,
)
from topocell.nn.kernels.cpu.isa import InstructionSet, instruction_set, offered

__all__ = [
    "SIZES",
    "Addresses",
    "Augmenter",
    "EndGradients",
    "Ends",
    "Floats",
    "InputGradients",
    "InstructionSet",
    "Kernels",
    "Layout",
    "Norm",
    "Project",
    "Shape",
    "StageInputs",
    "addresses",
    "augmenter",
    "build_key",
    "floats",
    "instruction_set",
    "kernels",
    "offered",
    "required",
    "rows",
    "threads_for",
    "widths",
]


def widths(channels: int) -> tuple[int, ...]:
    """Widths of vector, in floats, that kernels for so many channels may use, the first one first."""
    lanes = instruction_set().lanes
    return tuple(n for n in (16, 8, 4) if n <= lanes and (n < 2 * channels or n == 4))


def kernels(channels: int, like: Tensor, lanes: int | None = None) -> Kernels | None:
    """The kernels for feature maps of so many channels beside `like`, None where the library has to do.

    Args:
        channels: of the maps that the kernels work on.
        like: a tensor of their device and type.
        lanes: one of `widths(channels)`; None for the first.
    """
    if not _wanted(like) or like.dtype != torch.float32:
        return None
    if torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return None  # the library's functions follow the precision that is asked for, and can be traced
    known, found = instruction_set(), widths(channels)
    if not found:
        return None
    options = f"-DLANES={found[0] if lanes is None else lanes}", f"-DREGISTERS={known.registers}"
    library = load("kernels.c", *known.flags, *options)
    return None if library is None else Kernels(library)


def required(channels: int, like: Tensor, lanes: int | None = None) -> Kernels:
    """The kernels of the same arguments where `kernels` has been asked whether there are some."""
    compiled = kernels(channels, like, lanes)
    assert compiled is not None, "ask `kernels` first"
    return compiled


def augmenter(like: Tensor) -> Augmenter | None:
    """The compiled data path for images beside `like`, None where the library has to do."""
    library = load("images.c") if _wanted(like) and instruction_set().lanes else None
    return None if library is None else Augmenter(library)


def _wanted(like: Tensor) -> bool:
    return like.device.type == "cpu" and os.environ.get("TOPOCELL_NATIVE") != "0"
