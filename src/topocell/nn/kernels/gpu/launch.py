"""The Triton kernels on tensors: tile sizes, room for what they write, and the order in which partial sums are added.

Feature maps are channels last, (N, C, H, W) or (M, N, h, w, C); statistics and sums are float32.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from topocell.nn.functional import BN_EPS
from topocell.nn.kernels.cpu import Layout
from topocell.nn.kernels.gpu import ends, stages
from topocell.nn.kernels.gpu.state import interpreted

#: Chunks of pixels, at most, whose gradients of weights are summed one after the other in a program of their own.
CHUNKS = 64


class Tiles(NamedTuple):
    """Sizes that a kernel is compiled for; see docs/gpu-kernels.md for what they were chosen from.

    Attributes:
        filled: channels, filled up to a power of two.
        stage: pixels of a tile of a stage.
        block: input channels of a 1×1 convolution that are multiplied at a time.
        flat: pixels of a tile where there is no convolution.
        taps: pixels of a tile of the gradient of depthwise weights.
        back: pixels of a tile of the gradient of the input of a stage.
        warps: of a program of a stage.
    """

    filled: int
    stage: int
    block: int
    flat: int
    taps: int
    back: int
    warps: int


def tiles_for(channels: int, kernel: int = 3) -> Tiles:
    """Tile sizes for so many channels and a kernel size."""
    filled = max(16, 1 << (channels - 1).bit_length())
    share = 1 if kernel == 3 else 2  # of the pixels that a program of many taps has registers for
    taps, back = max(1024 // filled, 8) // share, 2048 // filled // share
    stage, block, warps = 64 if filled < 128 else 32, min(filled, 32), 4 if filled < 64 else 8
    return Tiles(filled, stage, block, 4096 // filled, taps, back, warps)


class Size(NamedTuple):
    """Images, rows and columns of the input of a stage, rows and columns of its output, channels, edges."""

    images: int
    height: int
    width: int
    h: int
    w: int
    channels: int
    edges: int

    @property
    def pixels(self) -> int:
        """Of the output of one edge."""
        return self.images * self.h * self.w

    @property
    def given(self) -> tuple[int, ...]:
        """As kernels take it."""
        return self.images, self.height, self.width, self.h, self.w, self.edges


class Filter(NamedTuple):
    """Kernel size, dilation and stride of a depthwise convolution."""

    kernel: int
    dilation: int
    stride: int

    @property
    def given(self) -> dict[str, int]:
        """As kernels take it."""
        return {"K": self.kernel, "DIL": self.dilation, "STRIDE": self.stride}


class Into(NamedTuple):
    """What a stage reads: its input, statistics of the batch norm before it if any, depthwise and 1×1 weights."""

    x: Tensor
    before: Tensor | None
    dw: Tensor
    pw: Tensor

    @property
    def given(self) -> dict[str, bool]:
        """As kernels take it."""
        return {"BEFORE": self.before is not None}


class Behind(NamedTuple):
    """What the backward pass of a stage starts from: its z and statistics, and gradients behind its batch norm.

    At the end of a chain the gradients are those of all outputs, `sums` (E, 2, C), and `slots` and `positions` (M,) say
    which output an edge has and where in `weights` its weight stands. Else there is one, (M, N, h, w, C), and `sums`
    are (M, 2, C).
    """

    z: Tensor
    statistics: Tensor
    grads: Sequence[Tensor]
    sums: Tensor
    slots: Tensor | None = None
    positions: Tensor | None = None
    weights: Tensor | None = None

    @property
    def given(self) -> tuple[Any, ...]:
        """As kernels take it."""
        end = self.slots, self.positions, self.weights
        return tuple(self.grads), self.z, self.statistics, self.sums, *end


class Sources(NamedTuple):
    """What the outputs are sums of: maps, statistics (None: not normalised), layouts, edges; tables."""

    maps: tuple[Tensor, ...]
    statistics: tuple[Tensor | None, ...]
    layouts: tuple[int, ...]
    edges: tuple[int, ...]
    rows: Tensor
    positions: Tensor

    @property
    def given(self) -> dict[str, Any]:
        """As kernels take it."""
        normed = tuple(found is not None for found in self.statistics)
        return {"S": len(self.maps), "LAYOUT": self.layouts, "EDGES": self.edges, "NORMED": normed}


def multiplication(dtype: torch.dtype) -> str:
    """How matrices are multiplied: float32 exactly, unless PyTorch is allowed TensorFloat-32 for them."""
    if dtype == torch.bfloat16 and interpreted():
        return "wide"
    return "tf32" if dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest" else "ieee"


def stage_forward(size: Size, how: Filter, into: Into) -> tuple[Tensor, Tensor]:
    """z (M, N, h, w, C) and statistics (2, M, C) of a stage."""
    n, _, _, h, w, c, m = size
    tile = tiles_for(c, how.kernel)
    z = into.x.new_empty(m, n, h, w, c)
    count = _cdiv(size.pixels, tile.stage)
    partial = _floats(z, m, count, 2, c)
    constants = {"C": c, "CP": tile.filled, "BP": tile.stage, "BK": tile.block, "DOT": multiplication(z.dtype)}
    stages.stage_forward[count, m](
        into.x, into.before, into.dw, into.pw, z, partial, *size.given, **constants, **how.given, **into.given,
        EPS=BN_EPS, num_warps=tile.warps,
    )  # fmt: skip
    return z, _finish_statistics(partial, size.pixels, tile.stage)


def stage_backward(
    size: Size, how: Filter, into: Into, behind: Behind, d_x: Tensor, add: bool, learns: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Fill `d_x`, or with `add` add to it; return the gradients of dw and pw, if it `learns`, and the sums before it.

    `d_x` is (N, H, W, C) of all edges together, or (M, N, H, W, C) where there is a batch norm before the stage; then
    the sums (M, 2, C) for it are returned.
    """
    c, m = size.channels, size.edges
    tile, end = tiles_for(c, how.kernel), behind.slots is not None
    common = {"C": c, "CP": tile.filled, "EPS": BN_EPS}
    product = {"BK": tile.block, "E": len(behind.grads), "LAST": end, "DOT": multiplication(into.x.dtype)}
    d_d = torch.empty_like(behind.z)
    stages.pointwise_input[_cdiv(size.pixels, tile.stage), m](
        *behind.given, into.pw, d_d, size.pixels, m, **common, **product, BP=tile.stage,
        num_warps=tile.warps, num_stages=1,
    )  # fmt: skip
    d_dw = d_pw = None
    if learns:
        per, chunks = _chunks(size.pixels, tile.stage)
        partial = _floats(d_d, m, chunks, c, c)
        stages.pointwise_weight[chunks, m, _cdiv(c, tile.block)](
            *behind.given, into.x, into.before, into.dw, partial, *size.given, per, **common, **product, **how.given,
            **into.given, BP=tile.stage, num_warps=tile.warps,
        )  # fmt: skip
        d_pw = finish_sums(partial).view_as(into.pw)
        per, chunks = _chunks(size.pixels, tile.taps)
        partial = _floats(d_d, m, chunks, c, how.kernel**2)
        stages.depthwise_weight[chunks, m, how.kernel](
            d_d, into.x, into.before, partial, *size.given, per, **common, **how.given, **into.given, BP=tile.taps,
            KP=4 if how.kernel == 3 else 8, num_warps=4,
        )  # fmt: skip
        d_dw = finish_sums(partial).view_as(into.dw)
    inner = into.before is not None
    count = _cdiv(size.images * size.height * size.width, tile.back)
    sums = _floats(d_d, m, count, 2, c) if inner else None
    stages.depthwise_input[count, m if inner else 1](
        d_d, into.x, into.before, into.dw, d_x, sums, *size.given, **common, **how.given, **into.given, ADD=add,
        BP=tile.back, num_warps=4,
    )  # fmt: skip
    return d_dw, d_pw, None if sums is None else finish_sums(sums)


def statistics(z: Tensor, pixels: int, channels: int, edges: int, layout: Layout) -> Tensor:
    """Mean and variance (2, M, C) of a map in a layout."""
    tile = tiles_for(channels)
    count = _cdiv(pixels, tile.flat)
    partial = _floats(z, edges, count, 2, channels)
    ends.statistics[count, edges](
        z, partial, pixels, C=channels, CP=tile.filled, BP=tile.flat, LAYOUT=int(layout), M=edges, num_warps=4
    )
    return _finish_statistics(partial, pixels, tile.flat)


def finish_sums(partial: Tensor) -> Tensor:
    """(rows, parts, ...) summed over the parts, in order."""
    rows, parts, *rest = partial.shape
    length = partial[0, 0].numel()
    sums = _floats(partial, rows, *rest)
    ends.finish_sums[rows, _cdiv(length, 64)](partial, sums, parts, length, BL=64, BT=32, num_warps=4)
    return sums


def mix_forward(
    outs: Sequence[Tensor], bases: Sequence[Tensor | None], sources: Sources, weights: Tensor, channels: int
) -> None:
    """Fill the outputs, (N, C, h, w) each: base, and all that the tables of the sources give them."""
    tile, pixels = tiles_for(channels), outs[0].numel() // channels
    ends.mix_forward[_cdiv(pixels, tile.flat // 2), len(outs)](
        tuple(outs), tuple(bases), sources.maps, sources.statistics, sources.rows, sources.positions, weights, pixels,
        C=channels, CP=tile.filled, BP=tile.flat // 2, E=len(outs), BASED=tuple(b is not None for b in bases),
        EPS=BN_EPS, **sources.given, num_warps=4,
    )  # fmt: skip


def gradient_sums(grads: Sequence[Tensor], sources: Sources, channels: int) -> Tensor:
    """(S, E, 2, C): sums of the gradient of each output, and of its products with the row of each source."""
    tile, pixels = tiles_for(channels), grads[0].numel() // channels
    count = _cdiv(pixels, tile.flat)
    partial = _floats(grads[0], len(sources.maps), len(grads), count, 2, channels)
    ends.gradient_sums[count, len(grads)](
        tuple(grads), sources.maps, sources.statistics, sources.rows, partial, pixels, C=channels, CP=tile.filled,
        BP=tile.flat, E=len(grads), EPS=BN_EPS, **sources.given, num_warps=4,
    )  # fmt: skip
    return finish_sums(partial.flatten(0, 1)).view(len(sources.maps), len(grads), 2, channels)


def source_backward(
    grads: Sequence[Tensor], sources: Sources, s: int, sums: Tensor, weights: Tensor, d_source: Tensor, channels: int
) -> None:
    """Fill `d_source`, the gradient of source `s` and laid out like it, given what `gradient_sums` found."""
    tile, pixels = tiles_for(channels), grads[0].numel() // channels
    found = sources.statistics[s]
    shared = sources.layouts[s] == Layout.SHARED
    ends.source_backward[_cdiv(pixels, tile.flat // 2), 1 if shared else sources.edges[s]](
        tuple(grads), sources.maps[s], found, sums[s], sources.rows[s], sources.positions[s], weights, d_source, pixels,
        C=channels, CP=tile.filled, BP=tile.flat // 2, E=len(grads), LAYOUT=sources.layouts[s], M=sources.edges[s],
        NORMED=found is not None, EPS=BN_EPS, num_warps=4,
    )  # fmt: skip


def weights_gradient(sums: Tensor, sources: Sources, weights: Tensor, channels: int) -> Tensor:
    """The gradient of `weights`, given what `gradient_sums` found."""
    d_weights = torch.empty_like(weights)
    length, terms = weights.numel(), sources.rows.numel()
    ends.weights_gradient[1,](
        sums, sources.rows, sources.positions, d_weights, length, terms, C=channels, CP=tiles_for(channels).filled,
        LP=1 << max(length - 1, 1).bit_length(), num_warps=4,
    )  # fmt: skip
    return d_weights


def pool_forward(x: Tensor, stride: int, greatest: bool, out: Tensor, which: Tensor | None) -> None:
    """Fill `out` (N, C, h, w) with 3×3 averages of `x` (N, C, H, W), or maxima, and `which` with their places."""
    n, c, height, width = x.shape
    tile = tiles_for(c)
    ends.pool_forward[_cdiv(out.numel() // c, tile.flat // 2),](
        x, out, which, n, height, width, *out.shape[2:], C=c, CP=tile.filled, BP=tile.flat // 2, STRIDE=stride,
        MAX=greatest, num_warps=4,
    )  # fmt: skip


def pool_backward(grad: Tensor, stride: int, which: Tensor | None, d_x: Tensor) -> None:
    """Fill the gradient `d_x` (N, C, H, W) given that of the output of `pool_forward`, and `which` for maxima."""
    n, c, height, width = d_x.shape
    tile = tiles_for(c)
    ends.pool_backward[_cdiv(d_x.numel() // c, tile.flat // 2),](
        grad, which, d_x, n, height, width, *grad.shape[2:], C=c, CP=tile.filled, BP=tile.flat // 2, STRIDE=stride,
        MAX=which is not None, num_warps=4,
    )  # fmt: skip


def _finish_statistics(partial: Tensor, pixels: int, tile: int) -> Tensor:
    m, count, _, c = partial.shape
    found, block = _floats(partial, 2, m, c), min(tiles_for(c).filled, 32)
    ends.finish_statistics[m, _cdiv(c, block)](
        partial, found, pixels, count, m, C=c, BC=block, BP=tile, BT=32, num_warps=4
    )
    return found


def _chunks(pixels: int, tile: int) -> tuple[int, int]:
    """Tiles of a chunk, and the number of chunks; of the shape alone, as other sums round differently."""
    count = _cdiv(pixels, tile)
    per = _cdiv(count, CHUNKS)
    return per, _cdiv(count, per)


def _floats(like: Tensor, *size: int) -> Tensor:
    return torch.empty(size, dtype=torch.float32, device=like.device)


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)
