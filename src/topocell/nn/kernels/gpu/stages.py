"""Triton kernels of a stage of a bank: (batch norm,) ReLU, depthwise k×k, 1×1, statistics; forward and backward.

The arrays are those of `kernels/cpu/kernels.c`, in float32 or bfloat16: feature maps (N, H, W, C), weights dw
(M, C, k, k) and pw (M, C, C) as (out, in), z (M, N, h, w, C), statistics (2, M, C) as mean and variance. Weights,
statistics and all sums are float32. Where `BEFORE` is false the input is the source node, the same for all M edges;
else it is the z of the stage before, and `before` has the statistics of the batch norm after it.

A program works on a tile of BP pixels, in the order of memory, so maps of any size will do; channels are filled up to
CP, a power of two. Of the 1×1 convolution BK channels at a time are multiplied. No sum is added to by two programs:
each leaves its own, and `ends.finish_sums` adds them in order. So the same input gives the same bits.

This module needs Triton: it is imported where a kernel is launched, by `launch` alone.
"""

import triton
import triton.language as tl

#: Sizes of maps and numbers of edges: no kernel is compiled again for other ones.
SIZES = ("N", "H", "W", "h", "w", "M")


@triton.jit
def relu(v):
    """NaN passes, as in PyTorch."""
    return tl.where(v < 0, 0.0, v)


@triton.jit
def product(a, b, acc, KEPT: tl.constexpr, DOT: tl.constexpr):
    """acc + a b, factors in the type of maps. `wide` is for the interpreter, which lacks bfloat16 here."""
    a, b = a.to(KEPT), b.to(KEPT)
    if DOT == "wide":
        acc = tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision="ieee")
    else:
        acc = tl.dot(a, b, acc, input_precision=DOT)
    return acc


@triton.jit
def moments(v, inside, count):
    """Mean and sum of squared deviations (CP,) of the rows of v (BP, CP) that are inside, `count` of them."""
    mean = tl.sum(tl.where(inside[:, None], v, 0.0), 0) / count
    apart = tl.where(inside[:, None], v - mean[None, :], 0.0)
    return mean, tl.sum(apart * apart, 0)


@triton.jit
def _norm(before, m, M, c, real, C: tl.constexpr, EPS: tl.constexpr):
    """Mean and 1 / standard deviation of channels c of edge m."""
    mean = tl.load(before + m * C + c, mask=real, other=0.0)
    variance = tl.load(before + (M + m) * C + c, mask=real, other=1.0)
    return mean, tl.rsqrt(variance + EPS)


@triton.jit
def _places(pix, h, w, STRIDE: tl.constexpr, REACH: tl.constexpr):
    """Image of each output pixel, row and column of the first tap."""
    rest = pix % (h * w)
    return pix // (h * w), rest // w * STRIDE - REACH, rest % w * STRIDE - REACH


@triton.jit
def _depthwise(
    x, before, dw, m, M, n, y0, x0, inside, c, real, H, W,
    C: tl.constexpr, K: tl.constexpr, DIL: tl.constexpr, BEFORE: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """Depthwise convolution of relu(x), or of relu(norm(x)), at some pixels and channels of edge m."""
    if BEFORE:
        mean, rstd = _norm(before, m, M, c, real, C, EPS)
    d = tl.zeros([inside.shape[0], c.shape[0]], tl.float32)
    for ky in range(K):
        y = y0 + ky * DIL
        row = inside & (y >= 0) & (y < H)
        for kx in tl.static_range(K):
            col = x0 + kx * DIL
            there = (row & (col >= 0) & (col < W))[:, None] & real[None, :]
            v = tl.load(x + (((n * H + y) * W + col) * C)[:, None] + c[None, :], mask=there, other=0.0).to(tl.float32)
            if BEFORE:
                v = tl.where(there, (v - mean[None, :]) * rstd[None, :], 0.0)
            by = tl.load(dw + c * (K * K) + ky * K + kx, mask=real, other=0.0).to(tl.float32)
            d += relu(v) * by[None, :]
    return d


@triton.jit(do_not_specialize=SIZES)
def stage_forward(
    x, before, dw, pw, z, partial, N, H, W, h, w, M,
    C: tl.constexpr, CP: tl.constexpr, BP: tl.constexpr, BK: tl.constexpr, K: tl.constexpr, DIL: tl.constexpr,
    STRIDE: tl.constexpr, BEFORE: tl.constexpr, DOT: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """Fill z, and `partial` (M, tiles, 2, C) with mean and squared deviations of each tile. Grid: tiles, M."""
    tile, m = tl.program_id(0), tl.program_id(1)
    pixels = N * h * w
    pix = tile * BP + tl.arange(0, BP)
    inside = pix < pixels
    n, y0, x0 = _places(pix, h, w, STRIDE, DIL * (K // 2))
    if BEFORE:
        x += m.to(tl.int64) * (N * H * W * C)
    dw += m * (C * K * K)
    pw += m * (C * C)
    out = tl.arange(0, CP)
    acc = tl.zeros([BP, CP], tl.float32)
    for first in range(0, C, BK):
        c = first + tl.arange(0, BK)
        real = c < C
        d = _depthwise(x, before, dw, m, M, n, y0, x0, inside, c, real, H, W, C, K, DIL, BEFORE, EPS)
        by = tl.load(pw + out[None, :] * C + c[:, None], mask=(out < C)[None, :] & real[:, None], other=0.0)
        acc = product(d, by, acc, z.dtype.element_ty, DOT)
    kept = acc.to(z.dtype.element_ty)
    z += m.to(tl.int64) * (pixels * C)
    tl.store(z + (pix * C)[:, None] + out[None, :], kept, mask=inside[:, None] & (out < C)[None, :])
    mean, squares = moments(kept.to(tl.float32), inside, tl.minimum(pixels - tile * BP, BP).to(tl.float32))
    partial += (m * tl.num_programs(0) + tile) * (2 * C)
    tl.store(partial + out, mean, mask=out < C)
    tl.store(partial + C + out, squares, mask=out < C)


@triton.jit
def norm_gradient(
    grads, z, before, sums, slots, positions, weights, m, M, pix, inside, c, real, count,
    C: tl.constexpr, E: tl.constexpr, LAST: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """Gradient of z (M, pixels, C) at some pixels and channels of edge m, given that of the outputs of its batch norm.

    Where the stage is the `LAST`, `grads` are those of the E outputs (pixels, C), `sums` (E, 2, C), and the edge
    belongs to output slots[m] and is weighted by weights[positions[m]]. Else grads[0] is (M, pixels, C) and `sums`
    (M, 2, C).
    """
    at, there = (pix * C)[:, None] + c[None, :], inside[:, None] & real[None, :]
    edge = m.to(tl.int64) * (count * C)
    zs = tl.load(z + edge + at, mask=there, other=0.0).to(tl.float32)
    mean, rstd = _norm(before, m, M, c, real, C, EPS)
    by = rstd
    if LAST:
        row = tl.load(slots + m)
        by = rstd * tl.load(weights + tl.load(positions + m)).to(tl.float32)
        g = tl.zeros([pix.shape[0], c.shape[0]], tl.float32)
        for e in tl.static_range(E):
            if row == e:
                g = tl.load(grads[e] + at, mask=there, other=0.0).to(tl.float32)
    else:
        row = m
        g = tl.load(grads[0] + edge + at, mask=there, other=0.0).to(tl.float32)
    total = tl.load(sums + row * (2 * C) + c, mask=real, other=0.0) / count
    product = tl.load(sums + row * (2 * C) + C + c, mask=real, other=0.0) / count
    d_z = by[None, :] * (g - total[None, :] - (zs - mean[None, :]) * (rstd * product)[None, :])
    return tl.where(there, d_z, 0.0)


@triton.jit(do_not_specialize=("pixels", "M"))
def pointwise_input(
    grads, z, before, sums, slots, positions, weights, pw, d_d, pixels, M,
    C: tl.constexpr, CP: tl.constexpr, BP: tl.constexpr, BK: tl.constexpr, E: tl.constexpr, LAST: tl.constexpr,
    DOT: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """Fill d_d (M, pixels, C), the gradient of the input of the 1×1 convolution. Grid: tiles, M."""
    tile, m = tl.program_id(0), tl.program_id(1)
    pix = tile * BP + tl.arange(0, BP)
    inside = pix < pixels
    into = tl.arange(0, CP)
    pw += m * (C * C)
    acc = tl.zeros([BP, CP], tl.float32)
    for first in range(0, C, BK):
        c = first + tl.arange(0, BK)
        real = c < C
        d_z = norm_gradient(
            grads, z, before, sums, slots, positions, weights, m, M, pix, inside, c, real, pixels, C, E, LAST, EPS
        )
        by = tl.load(pw + c[:, None] * C + into[None, :], mask=real[:, None] & (into < C)[None, :], other=0.0)
        acc = product(d_z, by, acc, d_d.dtype.element_ty, DOT)
    d_d += m.to(tl.int64) * (pixels * C)
    there = inside[:, None] & (into < C)[None, :]
    tl.store(d_d + (pix * C)[:, None] + into[None, :], acc.to(d_d.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=(*SIZES, "tiles"))
def pointwise_weight(
    grads, z, after, sums, slots, positions, weights, x, before, dw, partial, N, H, W, h, w, M, tiles,
    C: tl.constexpr, CP: tl.constexpr, BP: tl.constexpr, BK: tl.constexpr, K: tl.constexpr, DIL: tl.constexpr,
    STRIDE: tl.constexpr, BEFORE: tl.constexpr, E: tl.constexpr, LAST: tl.constexpr, DOT: tl.constexpr,
    EPS: tl.constexpr,
):  # fmt: skip
    """Fill `partial` (M, chunks, C, C) as (out, in): the gradient of pw from `tiles` tiles each.

    The depthwise convolution is computed again. Grid: chunks, M, blocks of BK inputs. `after` are the statistics of z.
    """
    chunk, m = tl.program_id(0), tl.program_id(1)
    c = tl.program_id(2) * BK + tl.arange(0, BK)
    out = tl.arange(0, CP)
    real, pixels = c < C, N * h * w
    if BEFORE:
        x += m.to(tl.int64) * (N * H * W * C)
    dw += m * (C * K * K)
    acc = tl.zeros([CP, BK], tl.float32)
    for tile in range(chunk * tiles, tl.minimum((chunk + 1) * tiles, tl.cdiv(pixels, BP))):
        pix = tile * BP + tl.arange(0, BP)
        inside = pix < pixels
        n, y0, x0 = _places(pix, h, w, STRIDE, DIL * (K // 2))
        d = _depthwise(x, before, dw, m, M, n, y0, x0, inside, c, real, H, W, C, K, DIL, BEFORE, EPS)
        d_z = norm_gradient(
            grads, z, after, sums, slots, positions, weights, m, M, pix, inside, out, out < C, pixels, C, E, LAST, EPS
        )
        acc = product(tl.trans(d_z), d, acc, z.dtype.element_ty, DOT)
    partial += (m * tl.num_programs(0) + chunk) * (C * C)
    tl.store(partial + out[:, None] * C + c[None, :], acc, mask=(out < C)[:, None] & real[None, :])


@triton.jit(do_not_specialize=(*SIZES, "tiles"))
def depthwise_weight(
    d_d, x, before, partial, N, H, W, h, w, M, tiles,
    C: tl.constexpr, CP: tl.constexpr, BP: tl.constexpr, KP: tl.constexpr, K: tl.constexpr, DIL: tl.constexpr,
    STRIDE: tl.constexpr, BEFORE: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """Fill `partial` (M, chunks, C, K K): the gradient of dw from `tiles` tiles each. Grid: chunks, M, rows of taps."""
    chunk, m, ky = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    c, kx = tl.arange(0, CP), tl.arange(0, KP)
    real, pixels = c < C, N * h * w
    if BEFORE:
        x += m.to(tl.int64) * (N * H * W * C)
        mean, rstd = _norm(before, m, M, c, real, C, EPS)
    d_d += m.to(tl.int64) * (pixels * C)
    acc = tl.zeros([KP, BP, CP], tl.float32)
    for tile in range(chunk * tiles, tl.minimum((chunk + 1) * tiles, tl.cdiv(pixels, BP))):
        pix = tile * BP + tl.arange(0, BP)
        inside = pix < pixels
        n, y0, x0 = _places(pix, h, w, STRIDE, DIL * (K // 2))
        g = tl.load(d_d + (pix * C)[:, None] + c[None, :], mask=inside[:, None] & real[None, :], other=0.0)
        y = y0 + ky * DIL
        col = x0[None, :] + kx[:, None] * DIL
        seen = (inside & (y >= 0) & (y < H))[None, :] & (col >= 0) & (col < W) & (kx < K)[:, None]
        there = seen[:, :, None] & real[None, None, :]
        at = (((n * H + y) * W)[None, :] + col) * C
        v = tl.load(x + at[:, :, None] + c[None, None, :], mask=there, other=0.0).to(tl.float32)
        if BEFORE:
            v = tl.where(there, (v - mean[None, None, :]) * rstd[None, None, :], 0.0)
        acc += relu(v) * g.to(tl.float32)[None, :, :]
    partial += (m * tl.num_programs(0) + chunk) * (C * K * K)
    to = partial + c[None, :] * (K * K) + ky * K + kx[:, None]
    tl.store(to, tl.sum(acc, 1), mask=(kx < K)[:, None] & real[None, :])


@triton.jit(do_not_specialize=SIZES)
def depthwise_input(
    d_d, x, before, dw, d_x, partial, N, H, W, h, w, M,
    C: tl.constexpr, CP: tl.constexpr, BP: tl.constexpr, K: tl.constexpr, DIL: tl.constexpr, STRIDE: tl.constexpr,
    BEFORE: tl.constexpr, ADD: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """Fill d_x, the gradient of the input of a stage, or with `ADD` add to it. Grid: tiles of the input, edges.

    With `BEFORE` it is that of the output of the batch norm before the ReLU, (M, N, H, W, C), and `partial` (M, tiles,
    2, C) is filled with its sum and that of its products with the normalised input. Else it is (N, H, W, C), of all
    edges together, and the grid has one edge.
    """
    tile, edge = tl.program_id(0), tl.program_id(1)
    c = tl.arange(0, CP)
    real, pixels = c < C, N * H * W
    pix = tile * BP + tl.arange(0, BP)
    inside = pix < pixels
    n, rest = pix // (H * W), pix % (H * W)
    top, left = rest // W + DIL * (K // 2), rest % W + DIL * (K // 2)
    first, last = 0, M
    if BEFORE:
        first, last = edge, edge + 1
    acc = tl.zeros([BP, CP], tl.float32)
    for m in range(first, last):
        grad = d_d + tl.cast(m, tl.int64) * (N * h * w * C)
        for ky in range(K):
            y = top - ky * DIL
            row = inside & (y >= 0) & (y % STRIDE == 0) & (y // STRIDE < h)
            for kx in tl.static_range(K):
                col = left - kx * DIL
                seen = row & (col >= 0) & (col % STRIDE == 0) & (col // STRIDE < w)
                at = ((n * h + y // STRIDE) * w + col // STRIDE) * C
                g = tl.load(grad + at[:, None] + c[None, :], mask=seen[:, None] & real[None, :], other=0.0)
                by = tl.load(dw + (m * C + c) * (K * K) + ky * K + kx, mask=real, other=0.0).to(tl.float32)
                acc += g.to(tl.float32) * by[None, :]
    there = inside[:, None] & real[None, :]
    edge_at = edge.to(tl.int64) * (pixels * C)
    v = tl.load(x + edge_at + (pix * C)[:, None] + c[None, :], mask=there, other=0.0).to(tl.float32)
    if BEFORE:
        mean, rstd = _norm(before, edge, M, c, real, C, EPS)
        v = (v - mean[None, :]) * rstd[None, :]
    found = tl.where(there & ~(v <= 0), acc, 0.0)
    to = d_x + edge_at + (pix * C)[:, None] + c[None, :]
    if ADD:
        found += tl.load(to, mask=there, other=0.0).to(tl.float32)
    kept = found.to(d_x.dtype.element_ty)
    tl.store(to, kept, mask=there)
    if BEFORE:
        kept = kept.to(tl.float32)
        partial += (edge * tl.num_programs(0) + tile) * (2 * C)
        tl.store(partial + c, tl.sum(kept, 0), mask=real)
        tl.store(partial + C + c, tl.sum(kept * tl.where(there, v, 0.0), 0), mask=real)
