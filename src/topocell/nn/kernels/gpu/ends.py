"""Triton kernels of what follows the convolutions: statistics, normalise-scale-and-sum into the nodes; and backward.

A *source* is the last z of an operation on M edges, or a map that comes ready; it lies in memory as `Layout` says.
The tables `rows` and `positions` (S, E) say which row of source s belongs to output e, −1 for none, and where in the
weights of the cell its weight stands; `stats` of a source are (2, M, C), mean and variance of each row. Sums are
float32, and each program leaves its own, which `finish_sums` and `finish_statistics` add up in order.
"""

import triton
import triton.language as tl

from topocell.nn.kernels.gpu.stages import SIZES, moments


@triton.jit
def _at(row, pix, c, pixels, LAYOUT: tl.constexpr, M: tl.constexpr, C: tl.constexpr):
    """Where some pixels and channels of a row of a source are: 0 apart, 1 stacked, 2 shared."""
    if LAYOUT == 0:
        at = row.to(tl.int64) * (pixels * C) + (pix * C)[:, None] + c[None, :]
    elif LAYOUT == 1:
        at = row * C + (pix * (M * C))[:, None] + c[None, :]
    else:
        at = (pix * C)[:, None] + c[None, :]
    return at


@triton.jit
def _norm_of(stats, row, c, real, M: tl.constexpr, C: tl.constexpr, EPS: tl.constexpr):
    mean = tl.load(stats + row * C + c, mask=real, other=0.0)
    return mean, tl.rsqrt(tl.load(stats + (M + row) * C + c, mask=real, other=1.0) + EPS)


@triton.jit(do_not_specialize=("pixels",))
def statistics(
    z, partial, pixels, C: tl.constexpr, CP: tl.constexpr, BP: tl.constexpr, LAYOUT: tl.constexpr, M: tl.constexpr
):  # fmt: skip
    """Fill `partial` (M, tiles, 2, C) with mean and squared deviations of each tile. Grid: tiles, M."""
    tile, m = tl.program_id(0), tl.program_id(1)
    c, pix = tl.arange(0, CP), tile * BP + tl.arange(0, BP)
    real, inside = c < C, pix < pixels
    there = inside[:, None] & real[None, :]
    v = tl.load(z + _at(m, pix, c, pixels, LAYOUT, M, C), mask=there, other=0.0).to(tl.float32)
    mean, squares = moments(v, inside, tl.minimum(pixels - tile * BP, BP).to(tl.float32))
    partial += (m * tl.num_programs(0) + tile) * (2 * C)
    tl.store(partial + c, mean, mask=real)
    tl.store(partial + C + c, squares, mask=real)


@triton.jit(do_not_specialize=("pixels", "tiles", "M"))
def finish_statistics(
    partial, stats, pixels, tiles, M, C: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr, BT: tl.constexpr
):
    """Mean and (biased) variance, stats (2, M, C), from those of tiles of BP pixels. Grid: M, blocks of channels."""
    m = tl.program_id(0)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    real = c < C
    partial += m * tiles * (2 * C)
    total = tl.zeros([BT, BC], tl.float32)
    for first in range(0, tiles, BT):
        t = first + tl.arange(0, BT)
        there = (t < tiles)[:, None] & real[None, :]
        count = tl.minimum(pixels - t * BP, BP).to(tl.float32)
        total += count[:, None] * tl.load(partial + (t * (2 * C))[:, None] + c[None, :], mask=there, other=0.0)
    mean = tl.sum(total, 0) / pixels
    squares = tl.zeros([BT, BC], tl.float32)
    for first in range(0, tiles, BT):
        t = first + tl.arange(0, BT)
        there = (t < tiles)[:, None] & real[None, :]
        count = tl.minimum(pixels - t * BP, BP).to(tl.float32)
        at = partial + (t * (2 * C))[:, None] + c[None, :]
        apart = tl.load(at, mask=there, other=0.0) - mean[None, :]
        squares += tl.where(there, tl.load(at + C, mask=there, other=0.0) + count[:, None] * apart * apart, 0.0)
    tl.store(stats + m * C + c, mean, mask=real)
    tl.store(stats + (M + m) * C + c, tl.sum(squares, 0) / pixels, mask=real)


@triton.jit(do_not_specialize=("parts",))
def finish_sums(partial, sums, parts, length, BL: tl.constexpr, BT: tl.constexpr):
    """sums (rows, length) of partial (rows, parts, length). Grid: rows, blocks of the length."""
    row = tl.program_id(0)
    i = tl.program_id(1) * BL + tl.arange(0, BL)
    partial += row.to(tl.int64) * parts * length
    total = tl.zeros([BT, BL], tl.float32)
    for first in range(0, parts, BT):
        t = first + tl.arange(0, BT)
        there = (t < parts)[:, None] & (i < length)[None, :]
        total += tl.load(partial + (t * length)[:, None] + i[None, :], mask=there, other=0.0)
    tl.store(sums + row * length + i, tl.sum(total, 0), mask=i < length)


@triton.jit(do_not_specialize=("pixels",))
def mix_forward(
    outs, bases, sources, stats, rows, positions, weights, pixels,
    C: tl.constexpr, CP: tl.constexpr, BP: tl.constexpr, S: tl.constexpr, E: tl.constexpr, BASED: tl.constexpr,
    LAYOUT: tl.constexpr, EDGES: tl.constexpr, NORMED: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """outs[e] (pixels, C) = base[e] + the weighted rows of all sources, normalised where they are. Grid: tiles, E."""
    tile, output = tl.program_id(0), tl.program_id(1)
    c, pix = tl.arange(0, CP), tile * BP + tl.arange(0, BP)
    real = c < C
    there = (pix < pixels)[:, None] & real[None, :]
    at = (pix * C)[:, None] + c[None, :]
    acc = tl.zeros([BP, CP], tl.float32)
    for e in tl.static_range(E):
        if BASED[e]:  # noqa: SIM102 -- known when it is compiled
            if output == e:
                acc += tl.load(bases[e] + at, mask=there, other=0.0).to(tl.float32)
    for s in tl.static_range(S):
        row = tl.load(rows + s * E + output)
        if row >= 0:
            by = tl.load(weights + tl.load(positions + s * E + output)).to(tl.float32)
            v = tl.load(sources[s] + _at(row, pix, c, pixels, LAYOUT[s], EDGES[s], C), mask=there, other=0.0)
            v = v.to(tl.float32)
            if NORMED[s]:
                mean, rstd = _norm_of(stats[s], row, c, real, EDGES[s], C, EPS)
                v = (v - mean[None, :]) * rstd[None, :]
            acc += by * v
    for e in tl.static_range(E):
        if output == e:
            tl.store(outs[e] + at, acc.to(outs[e].dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=("pixels",))
def gradient_sums(
    grads, sources, stats, rows, partial, pixels,
    C: tl.constexpr, CP: tl.constexpr, BP: tl.constexpr, S: tl.constexpr, E: tl.constexpr, LAYOUT: tl.constexpr,
    EDGES: tl.constexpr, NORMED: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """Fill `partial` (S, E, tiles, 2, C): Σ grad[e], and that of its products with the row. Grid: tiles, E.

    Rows are normalised where their source is. Zeros where a source has no row for an output.
    """
    tile, output = tl.program_id(0), tl.program_id(1)
    c, pix = tl.arange(0, CP), tile * BP + tl.arange(0, BP)
    real = c < C
    there = (pix < pixels)[:, None] & real[None, :]
    at = (pix * C)[:, None] + c[None, :]
    g = tl.zeros([BP, CP], tl.float32)
    for e in tl.static_range(E):
        if output == e:
            g = tl.load(grads[e] + at, mask=there, other=0.0).to(tl.float32)
    total = tl.sum(g, 0)
    for s in tl.static_range(S):
        row = tl.load(rows + s * E + output)
        product = tl.zeros([CP], tl.float32)
        if row >= 0:
            v = tl.load(sources[s] + _at(row, pix, c, pixels, LAYOUT[s], EDGES[s], C), mask=there, other=0.0)
            v = v.to(tl.float32)
            if NORMED[s]:
                mean, rstd = _norm_of(stats[s], row, c, real, EDGES[s], C, EPS)
                v = (v - mean[None, :]) * rstd[None, :]
            product = tl.sum(tl.where(there, g * v, 0.0), 0)
        to = partial + ((s * E + output) * tl.num_programs(0) + tile) * (2 * C)
        tl.store(to + c, total, mask=real)
        tl.store(to + C + c, product, mask=real)


@triton.jit(do_not_specialize=("pixels",))
def source_backward(
    grads, source, stats, sums, rows, positions, weights, d_source, pixels,
    C: tl.constexpr, CP: tl.constexpr, BP: tl.constexpr, E: tl.constexpr, LAYOUT: tl.constexpr, M: tl.constexpr,
    NORMED: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """Fill d_source, laid out like the source, given the gradients of all outputs and its sums (E, 2, C).

    Grid: tiles, M. `rows` and `positions` (E,) are those of the source.
    """
    tile, m = tl.program_id(0), tl.program_id(1)
    c, pix = tl.arange(0, CP), tile * BP + tl.arange(0, BP)
    real = c < C
    there = (pix < pixels)[:, None] & real[None, :]
    at = (pix * C)[:, None] + c[None, :]
    place = _at(m, pix, c, pixels, LAYOUT, M, C)
    acc = tl.zeros([BP, CP], tl.float32)
    total, product = tl.zeros([CP], tl.float32), tl.zeros([CP], tl.float32)
    for e in tl.static_range(E):
        if tl.load(rows + e) == m:
            by = tl.load(weights + tl.load(positions + e)).to(tl.float32)
            acc += by * tl.load(grads[e] + at, mask=there, other=0.0).to(tl.float32)
            if NORMED:
                total += by * tl.load(sums + e * (2 * C) + c, mask=real, other=0.0)
                product += by * tl.load(sums + e * (2 * C) + C + c, mask=real, other=0.0)
    if NORMED:
        mean, rstd = _norm_of(stats, m, c, real, M, C, EPS)
        z = tl.load(source + place, mask=there, other=0.0).to(tl.float32)
        across = (z - mean[None, :]) * (rstd * product / pixels)[None, :]
        acc = rstd[None, :] * (acc - (total / pixels)[None, :] - across)
    tl.store(d_source + place, acc.to(d_source.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=("length", "terms"))
def weights_gradient(
    sums, rows, positions, d_weights, length, terms, C: tl.constexpr, CP: tl.constexpr, LP: tl.constexpr
):  # fmt: skip
    """Fill d_weights (length,): of each weight the products in sums (terms, 2, C) at its terms. Grid: 1."""
    i, c = tl.arange(0, LP), tl.arange(0, CP)
    found = tl.zeros([LP], tl.float32)
    for t in range(terms):
        if tl.load(rows + t) >= 0:
            total = tl.sum(tl.load(sums + t * (2 * C) + C + c, mask=c < C, other=0.0), 0)
            found += tl.where(i == tl.load(positions + t), total, 0.0)
    tl.store(d_weights + i, found.to(d_weights.dtype.element_ty), mask=i < length)


@triton.jit(do_not_specialize=SIZES[:5])
def pool_forward(
    x, out, which, N, H, W, h, w, C: tl.constexpr, CP: tl.constexpr, BP: tl.constexpr, STRIDE: tl.constexpr,
    MAX: tl.constexpr,
):  # fmt: skip
    """3×3 averages or maxima of x (N, H, W, C); the border does not count. `which` (int8): the place of each maximum.

    The first of equal pixels; NaN is larger than all, the last one counts. Grid: tiles.
    """
    c, pix = tl.arange(0, CP), tl.program_id(0) * BP + tl.arange(0, BP)
    real, inside = c < C, pix < N * h * w
    n, rest = pix // (h * w), pix % (h * w)
    top, left = rest // w * STRIDE - 1, rest % w * STRIDE - 1
    best = tl.zeros([BP, CP], tl.float32)
    place = tl.full([BP, CP], -1, tl.int32)
    count = tl.zeros([BP], tl.float32)
    for tap in tl.static_range(9):
        y, col = top + tap // 3, left + tap % 3
        seen = inside & (y >= 0) & (y < H) & (col >= 0) & (col < W)
        there = seen[:, None] & real[None, :]
        v = tl.load(x + (((n * H + y) * W + col) * C)[:, None] + c[None, :], mask=there, other=0.0).to(tl.float32)
        if MAX:
            better = there & ((place < 0) | (v > best) | (v != v))
            best = tl.where(better, v, best)
            place = tl.where(better, tap, place)
        else:
            best += v
            count += tl.where(seen, 1.0, 0.0)
    at, there = (pix * C)[:, None] + c[None, :], inside[:, None] & real[None, :]
    if MAX:
        tl.store(which + at, place.to(tl.int8), mask=there)
    else:
        best = best / tl.maximum(count, 1.0)[:, None]
    tl.store(out + at, best.to(out.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=SIZES[:5])
def pool_backward(
    grad, which, d_x, N, H, W, h, w, C: tl.constexpr, CP: tl.constexpr, BP: tl.constexpr, STRIDE: tl.constexpr,
    MAX: tl.constexpr,
):  # fmt: skip
    """Fill d_x (N, H, W, C) given grad (N, h, w, C) of the output of `pool_forward`. Grid: tiles of the input."""
    c, pix = tl.arange(0, CP), tl.program_id(0) * BP + tl.arange(0, BP)
    real, inside = c < C, pix < N * H * W
    n, rest = pix // (H * W), pix % (H * W)
    bottom, right = rest // W + 1, rest % W + 1
    acc = tl.zeros([BP, CP], tl.float32)
    for tap in tl.static_range(9):
        y, col = bottom - tap // 3, right - tap % 3
        oy, ox = y // STRIDE, col // STRIDE
        seen = inside & (y >= 0) & (y % STRIDE == 0) & (oy < h) & (col >= 0) & (col % STRIDE == 0) & (ox < w)
        there = seen[:, None] & real[None, :]
        at = (((n * h + oy) * w + ox) * C)[:, None] + c[None, :]
        g = tl.load(grad + at, mask=there, other=0.0).to(tl.float32)
        if MAX:
            acc += tl.where(tl.load(which + at, mask=there, other=-1).to(tl.int32) == tap, g, 0.0)
        else:
            tall = tl.minimum(oy * STRIDE + 2, H) - tl.maximum(oy * STRIDE - 1, 0)
            wide = tl.minimum(ox * STRIDE + 2, W) - tl.maximum(ox * STRIDE - 1, 0)
            acc += g / tl.where(seen, (tall * wide).to(tl.float32), 1.0)[:, None]
    there = inside[:, None] & real[None, :]
    tl.store(d_x + (pix * C)[:, None] + c[None, :], acc.to(d_x.dtype.element_ty), mask=there)
