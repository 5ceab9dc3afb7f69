"""The functions of the C files, on addresses of contiguous float32 arrays as named there."""

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, byref, c_double, c_float, c_int, c_long, c_void_p, pointer
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: Kernel sizes that the compiled loops exist for.
SIZES = (3, 5, 7)

Pair = tuple[Tensor, Tensor]
Tensors = Sequence[Tensor]
#: Floats, or addresses, one after another.
Floats = ctypes.Array[c_float]
Addresses = ctypes.Array[c_void_p]


class Shape(ctypes.Structure):
    """What a stage works on: images, size in and out, channels, edges, kernel, stride, dilation, threads."""

    _fields_ = [(name, c_int) for name in ("N", "H", "W", "h", "w", "C", "M", "k", "stride", "dil", "threads")]


class Project(ctypes.Structure):
    """A 1×1 convolution of part of the pixels into part of the channels; see kernels.c."""

    _fields_ = [
        (name, c_int)
        for name in ("N", "H", "W", "h", "w", "every", "top", "left", "I", "O", "first", "total", "threads")
    ]


class Norm(ctypes.Structure):
    """A batch norm: addresses of statistics, gain and bias (M, C) and scale (M,); None where there is none."""

    _fields_ = [(name, c_void_p) for name in ("mean", "variance", "gain", "bias", "scale")] + [("eps", c_double)]


class _End(ctypes.Structure):
    _fields_ = [
        ("z", c_void_p),
        ("norm", POINTER(Norm)),
        ("slots", POINTER(c_int)),
        ("M", c_int),
        ("layout", c_int),
    ]


class Layout(IntEnum):
    """How the edges of an operation lie in memory: (M, N, h, w, C), (N, h, w, M, C), or (N, h, w, C) for all."""

    APART, STACKED, SHARED = range(3)


class Ends:
    """The last z of some operations, the batch norm after each, and the output of each edge.

    What the norms point to must stay alive as long as this.
    """

    def __init__(self) -> None:
        self.found: list[_End] = []

    def add(self, z: Tensor, norm: Norm, slots: Sequence[int], layout: Layout = Layout.APART) -> None:
        """One operation more."""
        edges = (c_int * len(slots))(*slots)
        self.found.append(_End(z.data_ptr(), pointer(norm), edges, len(slots), layout))

    def array(self) -> Any:
        """As the functions take them."""
        return (_End * len(self.found))(*self.found)


class StageInputs(NamedTuple):
    """What a stage of a chain reads: its inputs, the batch norm before them, depthwise and 1×1 weights."""

    inputs: Addresses
    before: Norm | None
    weights: Pair

    def given(self) -> tuple[Any, ...]:
        """As the functions take them."""
        return self.inputs, _by(self.before), *map(_at, self.weights)


class EndGradients(NamedTuple):
    """What the backward pass of a stage starts from.

    Attributes:
        z: the output (M, N, h, w, C) of its 1×1 convolution.
        norm: the batch norm after it.
        grads: gradients of the outputs of that norm.
        sums: what `gradient_sums` found for it, (2, M, C).
    """

    z: Tensor
    norm: Norm
    grads: Addresses
    sums: Tensor


class InputGradients(NamedTuple):
    """What the backward pass of a stage fills.

    Attributes:
        d_input: gradient of the inputs; added to what is there with `add`.
        add: see above.
        d_weights: gradients of depthwise and 1×1 weights, if needed.
        before_sums: sums for the norm before the stage, (2, M, C), if there is one.
    """

    d_input: Tensor
    add: bool
    d_weights: Pair | None
    before_sums: Tensor | None


class Kernels:
    """The functions of kernels.c for one vector width."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def stage_forward(self, shape: Shape, stage: StageInputs, z: Tensor, statistics: Tensor) -> None:
        """Fill z (M, N, h, w, C) and `statistics` (2, M, C), its mean and variance."""
        self._library.stage_forward(byref(shape), *stage.given(), _at(z), *map(c_void_p, rows(statistics)))

    def stage_backward(self, shape: Shape, stage: StageInputs, end: EndGradients, into: InputGradients) -> None:
        """Fill what `into` names, from the gradients at the end of a stage."""
        given = (*stage.given(), _at(end.z), byref(end.norm), end.grads, *map(c_void_p, rows(end.sums)))
        found = (_at(into.d_input), int(into.add), *map(_at, into.d_weights or (None, None)))
        sums = (None, None) if into.before_sums is None else map(c_void_p, rows(into.before_sums))
        self._library.stage_backward(byref(shape), *given, *found, *sums)

    def project_forward(self, shape: Project, x: Tensor, weight: Tensor, z: Tensor, statistics: Tensor) -> None:
        """Fill its channels of z (N, h, w, total) and of `statistics` (2, total), their mean and variance."""
        self._library.project_forward(byref(shape), _at(x), _at(weight), _at(z), *_channels(statistics, shape.first))

    def project_backward(
        self,
        shape: Project,
        x: Tensor,
        weight: Tensor,
        z: Tensor,
        norm: Norm,
        grad: Tensor,
        sums: Tensor,
        d_x: Tensor | None,
        d_weight: Tensor | None,
    ) -> None:
        """Fill the gradient of the pixels of x that were seen, and `d_weight`; `norm` is that of its channels."""
        given = (_at(x), _at(weight), _at(z), byref(norm), _at(grad), *_channels(sums, shape.first))
        self._library.project_backward(byref(shape), *given, _at(d_x), _at(d_weight))

    def statistics(self, shape: Shape, z: Tensor, statistics: Tensor) -> None:
        """Fill `statistics` (2, M, C) with the mean and variance of z (N, h, w, M, C)."""
        self._library.statistics(byref(shape), _at(z), *map(c_void_p, rows(statistics)))

    def combine(
        self, shape: Shape, maps: Tensors, mix: Floats, bases: Sequence[Tensor | None], ends: Ends, out: Tensors
    ) -> None:
        """out[e] = base[e] + Σ_p mix[p, e] maps[p] + the norms of all ends at e; all maps in one layout, no gaps."""
        args = (len(out), len(maps), addresses(maps), mix, addresses(bases), len(ends.found), ends.array())
        self._library.combine(byref(shape), *args, addresses(out))

    def gradient_sums(
        self, shape: Shape, grads: Addresses, ends: Ends, sums: Tensors, d_scales: Sequence[Floats | None]
    ) -> None:
        """For each end fill its `sums` (2, M, C), Σ grad and Σ grad (z − mean) rstd, and the latter's totals (M,)."""
        places = zip(*(rows(s) for s in sums))
        columns = [(c_void_p * len(sums))(*column) for column in places]
        scales = (c_void_p * len(sums))(*(None if d is None else ctypes.addressof(d) for d in d_scales))
        self._library.gradient_sums(byref(shape), grads, len(ends.found), ends.array(), *columns, scales)

    def norm_backward(self, shape: Shape, grads: Addresses, ends: Ends, sums: Tensor, d_z: Tensor) -> None:
        """Fill `d_z`, the gradient of the z of the one end and laid out like it, given its `sums` (2, M, C)."""
        self._library.norm_backward(byref(shape), grads, ends.array(), *map(c_void_p, rows(sums)), _at(d_z))

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

    def max_pool_forward(self, shape: Shape, x: Tensor, out: Tensor, which: Tensor) -> None:
        """Fill out (N, h, w, C) with 3×3 maxima of x (N, H, W, C), and `which` (int8) with their places."""
        self._library.max_pool_forward(byref(shape), _at(x), _at(out), _at(which))

    def max_pool_backward(self, shape: Shape, which: Tensor, grad: Tensor, d_x: Tensor) -> None:
        """Fill the gradient `d_x` of x given that of the output of `max_pool_forward`."""
        self._library.max_pool_backward(byref(shape), _at(which), _at(grad), _at(d_x))


class Augmenter:
    """The function of images.c."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def __call__(self, images: Tensor, draws: Tensor, padding: int, cutout: int, table: Tensor, out: Tensor) -> None:
        """Fill out (N, H, W, C) float32 from images (N, H, W, C) uint8, draws (5, N) int64 and table (256, C)."""
        size, threads = images.shape, threads_for(len(images))
        self._library.augment(*size, _at(images), _at(draws), padding, cutout, _at(table), _at(out), threads)


def threads_for(images: int) -> int:
    """Threads among which so many images are shared out, each by one."""
    return min(torch.get_num_threads(), images)


def addresses(tensors: Sequence[Tensor | None]) -> Addresses:
    """Where the tensors are."""
    return (c_void_p * len(tensors))(*(None if t is None else t.data_ptr() for t in tensors))


def rows(tensor: Tensor) -> Addresses:
    """Where the parts of a contiguous tensor along its first dimension are."""
    step = tensor.nbytes // len(tensor)
    return (c_void_p * len(tensor))(*(tensor.data_ptr() + i * step for i in range(len(tensor))))


def _channels(pair: Tensor, first: int) -> list[c_void_p]:
    """Where the channels from `first` on of both rows of (2, channels) are."""
    return [c_void_p(pair[i, first:].data_ptr()) for i in range(2)]


def floats(values: Sequence[float]) -> Floats:
    """Numbers as C has them."""
    return (c_float * len(values))(*values)


def _at(tensor: Tensor | None) -> c_void_p:
    return c_void_p(None if tensor is None else tensor.data_ptr())


def _by(norm: Norm | None) -> Any:
    return None if norm is None else byref(norm)
