"""Compiled kernels for CPUs: of the supernet's operations (kernels.c) and the data path (images.c).

The C files are compiled on first use by the C compiler of the machine, for its own instruction set, in a second or
two, and kept in the cache folder. Where there is no compiler, or TOPOCELL_NATIVE=0, `kernels` and `augmenter` return
None and PyTorch's own functions do the work: the same numbers, several times slower.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from ctypes import byref, c_double, c_float, c_int, c_long, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from topocell.cache import cache_folder
from topocell.errors import RunError

FOLDER = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fPIC", "-shared")
#: Kernel sizes that the compiled loops exist for.
SIZES = (3, 5, 7)

Pair = tuple[Tensor, Tensor]
Tensors = Sequence[Tensor]


class Shape(ctypes.Structure):
    """What a stage works on: images, size in and out, channels, edges, kernel, stride, dilation, threads.

    With `stacked`, z is (N, h, w, M, C) in memory, not (M, N, h, w, C).
    """

    _fields_ = [
        (name, c_int) for name in ("N", "H", "W", "h", "w", "C", "M", "k", "stride", "dil", "threads", "stacked")
    ]


class Norm(ctypes.Structure):
    """A batch norm: addresses of statistics, gain and bias (M, C) and scale (M,); None where there is none."""

    _fields_ = [(name, c_void_p) for name in ("mean", "variance", "gain", "bias", "scale")] + [("eps", c_double)]


#: Floats, or addresses, one after another.
Floats = ctypes.Array[c_float]
Addresses = ctypes.Array[c_void_p]


class Kernels:
    """The functions of kernels.c for one vector width, on addresses of contiguous float32 arrays as named there."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def stage_forward(
        self, shape: Shape, inputs: Addresses, before: Norm | None, weights: Pair, z: Tensor, statistics: Tensor
    ) -> None:
        """Fill z (M, N, h, w, C) and `statistics` (2, M, C), its mean and variance; `before` is the norm of inputs."""
        args = (inputs, _by(before), *map(_at, weights), _at(z), *map(c_void_p, rows(statistics)))
        self._library.stage_forward(byref(shape), *args)

    def statistics(self, shape: Shape, z: Tensor, statistics: Tensor) -> None:
        """Fill `statistics` (2, M, C) with the mean and variance of stacked z."""
        self._library.statistics(byref(shape), _at(z), *map(c_void_p, rows(statistics)))

    def combine(self, shape: Shape, z: Tensor, norm: Norm, out: Addresses) -> None:
        """out[m] += norm of z."""
        self._library.combine(byref(shape), _at(z), byref(norm), out)

    def gradient_sums(
        self, shape: Shape, grads: Addresses, z: Tensor, norm: Norm, sums: Tensor, d_scale: Floats | None
    ) -> None:
        """Fill `sums` (2, M, C) with Σ grad and Σ grad (z − mean) rstd, `d_scale` (M,) with the latter's total."""
        self._library.gradient_sums(byref(shape), grads, _at(z), byref(norm), *map(c_void_p, rows(sums)), d_scale)

    def norm_backward(self, shape: Shape, grads: Addresses, z: Tensor, norm: Norm, sums: Tensor, d_z: Tensor) -> None:
        """Fill `d_z`, the gradient of z and laid out like it, given the `sums` of `gradient_sums`."""
        self._library.norm_backward(byref(shape), grads, _at(z), byref(norm), *map(c_void_p, rows(sums)), _at(d_z))

    def stage_backward(
        self,
        shape: Shape,
        inputs: Addresses,
        before: Norm | None,
        weights: Pair,
        z: Tensor,
        norm: Norm,
        grads: Addresses,
        sums: Tensor,
        d_input: Tensor,
        d_weights: Pair | None,
    ) -> None:
        """Add to, or with `before` fill, `d_input`, and fill `d_weights` (dw, pw)."""
        given = (inputs, _by(before), *map(_at, weights), _at(z), byref(norm), grads, *map(c_void_p, rows(sums)))
        self._library.stage_backward(byref(shape), *given, _at(d_input), *map(_at, d_weights or (None, None)))

    def mix_forward(self, maps: Tensors, mix: Floats, bases: Sequence[Tensor | None], out: Tensors) -> None:
        """out[m] = base[m] + Σ_p mix[p, m] maps[p]; all maps in one layout, without gaps."""
        args = (addresses(maps), mix, addresses(bases), addresses(out))
        self._library.mix_forward(c_long(out[0].numel()), len(maps), len(out), *args, torch.get_num_threads())

    def mix_backward(
        self, maps: Tensors, mix: Floats, grads: Tensors, d_maps: Sequence[Tensor | None], d_mix: Floats | None
    ) -> None:
        """Fill d_maps[p] = Σ_m mix[p, m] grad[m] and, with it, d_mix[p, m] = grad[m] · maps[p]; else no map is read."""
        args = (addresses(maps), mix, addresses(grads), addresses(d_maps), d_mix)
        self._library.mix_backward(c_long(grads[0].numel()), len(d_maps), len(grads), *args, torch.get_num_threads())

    def relu_backward(self, x: Tensor, grads: Tensors, d_x: Tensor) -> None:
        """d_x += Σ grad[p] where x is positive; all in one layout, without gaps."""
        args = (_at(x), addresses(grads), _at(d_x), torch.get_num_threads())
        self._library.relu_backward(c_long(x.numel()), len(grads), *args)

    def avg_pool_forward(self, shape: Shape, x: Tensor, out: Tensor) -> None:
        """Fill out (N, h, w, C) with 3×3 averages of x (N, H, W, C); the border does not count."""
        self._library.avg_pool_forward(byref(shape), _at(x), _at(out))

    def avg_pool_backward(self, shape: Shape, grad: Tensor, d_x: Tensor) -> None:
        """Fill the gradient `d_x` of x given that of the output of `avg_pool_forward`."""
        self._library.avg_pool_backward(byref(shape), _at(grad), _at(d_x))


class Augmenter:
    """The function of images.c."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def __call__(self, images: Tensor, draws: Tensor, padding: int, cutout: int, table: Tensor, out: Tensor) -> None:
        """Fill out (N, H, W, C) float32 from images (N, H, W, C) uint8, draws (5, N) int64 and table (256, C)."""
        size, threads = images.shape, min(torch.get_num_threads(), len(images))
        self._library.augment(*size, _at(images), _at(draws), padding, cutout, _at(table), _at(out), threads)


def kernels(channels: int, like: Tensor) -> Kernels | None:
    """The kernels for feature maps of so many channels beside `like`, None where the library has to do."""
    if not _wanted(like) or like.dtype != torch.float32:
        return None
    if torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return None  # the library's functions follow the precision that is asked for, and can be traced
    lanes = next((n for n in (16, 8, 4) if channels % n == 0), None)
    library = None if lanes is None else _load("kernels.c", f"-DLANES={lanes}")
    return None if library is None else Kernels(library)


def augmenter(like: Tensor) -> Augmenter | None:
    """The compiled data path for images beside `like`, None where the library has to do."""
    library = _load("images.c") if _wanted(like) else None
    return None if library is None else Augmenter(library)


def _wanted(like: Tensor) -> bool:
    return like.device.type == "cpu" and os.environ.get("TOPOCELL_NATIVE") != "0"


@cache
def _load(source: str, *options: str) -> ctypes.CDLL | None:
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None or sys.platform == "win32":
        return None
    try:
        return ctypes.CDLL(str(_compiled(compiler, source, options)))
    except (OSError, subprocess.SubprocessError):
        return None


def _compiled(compiler: str, source: str, options: Sequence[str]) -> Path:
    """The shared library of a C file, compiled unless the cache has it for this source, options and machine.

    Raises:
        RunError: others may write the folder. OSError, SubprocessError: it cannot be compiled.
    """
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=60).stdout
    parts = ((FOLDER / source).read_bytes(), version, _processor(), repr([FLAGS, *options]).encode())
    key = hashlib.sha256(b"\0".join(parts)).hexdigest()[:20]
    path = cache_folder() / "kernels" / f"{key}.so"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not _is_private(path.parent):
        raise RunError(
            f"compiled kernels are run, so only you may be able to write {path.parent}, but it is a link, another "
            f"user's, or open to others; delete it, or name another folder with TOPOCELL_CACHE"
        )
    if path.exists() and _is_private(path):
        return path
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / "kernels.so"
        command = [compiler, *FLAGS, *options, str(FOLDER / source), "-o", str(made), "-lm"]
        # Apple's compiler has no OpenMP; without it the kernels run on one thread.
        if subprocess.run([*command, "-fopenmp"], capture_output=True, timeout=120).returncode != 0:
            subprocess.run(command, capture_output=True, check=True, timeout=120)
        made.chmod(0o700)
        os.replace(made, path)
    return path


def _is_private(path: Path) -> bool:
    """Whether nobody but its owner, who is this user or root, can have written what is there; links are not."""
    found = path.lstat()
    owned = not stat.S_ISLNK(found.st_mode) and found.st_uid in (os.geteuid(), 0)
    return owned and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _processor() -> bytes:
    """What -march=native depends on: a cache folder may be shared by different machines."""
    info = Path("/proc/cpuinfo")
    lines = info.read_bytes().splitlines() if info.exists() else []
    known = {line for line in lines if line.startswith((b"flags", b"Features", b"model name"))}
    return b"\n".join([platform.machine().encode(), platform.processor().encode(), *sorted(known)])


def addresses(tensors: Sequence[Tensor | None]) -> Addresses:
    """Where the tensors are."""
    return (c_void_p * len(tensors))(*(None if t is None else t.data_ptr() for t in tensors))


def rows(tensor: Tensor) -> Addresses:
    """Where the parts of a contiguous tensor along its first dimension are."""
    step = tensor.nbytes // len(tensor)
    return (c_void_p * len(tensor))(*(tensor.data_ptr() + i * step for i in range(len(tensor))))


def floats(values: Sequence[float]) -> Floats:
    """Numbers as C has them."""
    return (c_float * len(values))(*values)


def _at(tensor: Tensor | None) -> c_void_p:
    return c_void_p(None if tensor is None else tensor.data_ptr())


def _by(norm: Norm | None) -> Any:
    return None if norm is None else byref(norm)
