"""Compiled kernels for CPUs: of the supernet's operations (kernels.c) and the data path (images.c).

The C files are compiled on first use by the C compiler of the machine, for the instructions of its processor
(`isa`), in a few seconds, and kept in the cache folder (`build`). Where there is no compiler, or none are wanted
(`topocell.nn.kernels.mode`), `kernels` and `augmenter` return None and PyTorch's own functions do the work: the same
numbers up to rounding, several times slower.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

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
from topocell.nn.kernels.mode import mode

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
    "known_now",
    "new_map",
    "offered",
    "ordinary",
    "required",
    "rows",
    "threads_for",
    "widths",
]

#: Of the mode in which `make_fx` traces tensors of the usual type.
_PROXY = torch._C._TorchDispatchModeKey.PROXY


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
    if torch.compiler.is_compiling() or not _wanted(like) or like.dtype != torch.float32 or not ordinary(like):
        return None
    return _loaded(channels, lanes)


def new_map(like: Tensor, size: Sequence[int]) -> Tensor:
    """Room for a feature map (N, C, H, W) as kernels write it, whatever the default type and device are."""
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def required(channels: int, lanes: int | None = None) -> Kernels:
    """The kernels of the same arguments where `kernels` has said that there are some, whatever has changed since.

    A backward pass goes on with what its forward pass began.
    """
    compiled = _loaded(channels, lanes)
    assert compiled is not None, "ask `kernels` first"
    return compiled


def _loaded(channels: int, lanes: int | None) -> Kernels | None:
    known, found = instruction_set(), widths(channels)
    if not found:
        return None
    options = f"-DLANES={found[0] if lanes is None else lanes}", f"-DREGISTERS={known.registers}"
    library = load("kernels.c", *known.flags, *options)
    return None if library is None else Kernels(library)


def ordinary(*tensors: Tensor) -> bool:
    """Return whether nothing asks for more of these tensors than values and first derivatives by autograd.

    False for tensor subclasses (fake, distributed, traced by FX), inside `torch.func` transforms, forward-mode
    differentiation, `torch.jit.trace` and `make_fx`, and where autocast would change a type. PyTorch's own functions,
    which know all of these, compute the same then.
    """
    if _left_out or forward_ad._current_level >= 0 or not known_now(*tensors):
        return False
    kinds = {(tensor.device.type, tensor.dtype) for tensor in tensors}
    if len(kinds) > 1:
        return False
    device, dtype = kinds.pop()
    return device == "meta" or not torch.is_autocast_enabled(device) or dtype == torch.get_autocast_dtype(device)


def known_now(*tensors: Tensor) -> bool:
    """Return whether these tensors have values that Python may act on.

    Not so for tensor subclasses (fake, distributed, traced by FX), inside `torch.func` transforms, `torch.jit.trace`
    and `make_fx`: the result is to be one for other values too.
    """
    if not all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors):
        return False
    if torch.jit.is_tracing() or torch._C._are_functorch_transforms_active():
        return False
    return torch.compiler.is_compiling() or torch._C._get_dispatch_mode(_PROXY) is None


_left_out: list[bool] = []


@contextmanager
def left_out() -> Iterator[None]:
    """Let PyTorch's own functions compute what is inside, forward passes and those backward."""
    _left_out.append(True)
    try:
        yield
    finally:
        _left_out.pop()


def augmenter(like: Tensor) -> Augmenter | None:
    """The compiled data path for images beside `like`, None where the library has to do."""
    library = load("images.c") if _wanted(like) and instruction_set().lanes else None
    return None if library is None else Augmenter(library)


def _wanted(like: Tensor) -> bool:
    return like.device.type == "cpu" and mode() != "plain"
