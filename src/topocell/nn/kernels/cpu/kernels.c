/* Kernels of the supernet's operations, for CPUs. Compiled on first use, see __init__.py.
 *
 * One stage of a bank: (batch norm,) ReLU, depthwise k x k, 1 x 1, and the statistics of the batch norm that follows.
 *
 * A depthwise-separable operation is a chain of such stages, so `stage_forward` and `stage_backward` are most of what
 * the banks of separable and dilated convolutions need. `combine` and `gradient_sums` are what comes after the last
 * stage, the batch norm and the sum into the nodes; dense convolutions, which the library does better, and ready maps
 * end there as well. 3 x 3 pools stand at the end.
 *
 * All arrays are float32. A feature map is N images of H x W pixels of C channels, channels last. M edges work side by
 * side: edge m has the input in[m], its own weights and its own output.
 *   dw (M, C, k, k)   pw (M, C, C) as (out, in)   z (M, N, h, w, C)   mean, variance, rstd, sums (M, C)
 * The z of a dense convolution are (N, h, w, M, C); that of a pool, the same for all edges, is (N, h, w, C).
 * Where `before` is null the input is the source node and the same for all edges; else it is the z of the stage before,
 * and `before` its batch norm.
 *
 * Inside, maps are kept in planes of LANES channels, the floats of a vector: plane (rows, columns, LANES), the last one
 * filled up with zeros where C is no multiple. So loops over pixels read memory in order, whatever C is. REGISTERS says
 * how many vectors the processor holds; blocks of pixels and channels are chosen to fit.
 * Work is shared out by images; sums are kept per thread and added in the order of the threads.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#ifdef __SSE__
#include <immintrin.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#else

static int omp_get_thread_num(void) { return 0; }
#endif

/* Images, size in and out, channels, edges, kernel, stride, dilation, threads. */
typedef struct {
    int N, H, W, h, w, C, M, k, stride, dil, threads;
} Shape;

/* A batch norm: statistics, gain and bias (M, C), scale (M,); gain, bias and scale may be null. */
typedef struct {
    const float *mean, *variance, *gain, *bias, *scale;
    double eps;
} Norm;

/* The end of an operation on M edges: z, how its edges lie, the batch norm after it, and the output of each edge. */
typedef struct {
    const float *z;
    const Norm *norm;
    const int *slots;
    int M, layout;
} End;

/* (M, N, h, w, C); (N, h, w, M, C); (N, h, w, C) for all edges. */
enum { APART, STACKED, SHARED };

static void *room(size_t bytes) {
    void *found = NULL;
    if (posix_memalign(&found, 64, bytes ? bytes : 64)) abort();
    return found;
}

static float *floats(long count) { return room(sizeof(float) * count); }

static float *zeros(long count) { return memset(floats(count), 0, sizeof(float) * count); }

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int bits __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#define KEEP(condition, v) ((vec)((bits)(v) & (bits)(condition)))
#define LOAD(p) (*(const vec *)(p))
#define STORE(p, v) (*(vec *)(p) = (v))
#define PIXELS 64  /* of a map whose sums are worked on at a time */
#define BLOCK 2048 /* floats of each map that are worked on at a time */

/* The first n floats at p, zeros after them; and back. */
INLINE vec get(const float *p, int n) {
    if (n >= LANES) return LOAD(p);
#if LANES == 16
    return (vec)_mm512_maskz_loadu_ps((__mmask16)((1 << n) - 1), p);
#else
    vec v = {0};
    for (int i = 0; i < n; i++) v[i] = p[i];
    return v;
#endif
}

INLINE void put(float *p, vec v, int n) {
    if (n >= LANES) {
        STORE(p, v);
        return;
    }
#if LANES == 16
    _mm512_mask_storeu_ps(p, (__mmask16)((1 << n) - 1), (__m512)v);
#else
    for (int i = 0; i < n; i++) p[i] = v[i];
#endif
}

/* Writes past the caches, where what is written is too much to be there still when it is read; p is aligned. */
INLINE void stream(float *p, vec v) {
#if LANES == 16
    _mm512_stream_ps(p, (__m512)v);
#elif LANES == 8
    _mm256_stream_ps(p, (__m256)v);
#elif defined(__SSE__)
    _mm_stream_ps(p, (__m128)v);
#else
    STORE(p, v);
#endif
}

/* Whether arrays of so many floats, of which rows of C are written, should go past the caches. */
static int streams(const float *p, long floats, int C) {
    return floats >= 1 << 20 && C % LANES == 0 && (size_t)p % (4 * LANES) == 0;
}

/* Runs CALL(n) for the channels that a block has: n is a constant where it is whole. */
#define WIDE(left, CALL)                  \
    do {                                  \
        if ((left) >= LANES) CALL(LANES); \
        else CALL(left);                  \
    } while (0)

static int planes(int C) { return (C + LANES - 1) / LANES; }

/* Floats of a pixel whose channels are filled up to whole vectors. */
static int filled(int C) { return planes(C) * LANES; }

static float rstd_of(const Norm *norm, long i) { return (float)(1.0 / sqrt(norm->variance[i] + norm->eps)); }

/* Gain times scale of channel c of edge m. */
static float gain_of(const Norm *norm, int m, int c, int C) {
    return (norm->gain ? norm->gain[(long)m * C + c] : 1.0f) * (norm->scale ? norm->scale[m] : 1.0f);
}

/* A batch norm as factor and shift (M, filled C) in one array, first all factors. */
static float *affine(const Norm *norm, int M, int C) {
    const long size = (long)M * filled(C);
    float *factor = zeros(2 * size), *shift = factor + size;
    for (int m = 0; m < M; m++)
        for (int c = 0; c < C; c++) {
            const long i = (long)m * C + c, to = (long)m * filled(C) + c;
            factor[to] = rstd_of(norm, i) * gain_of(norm, m, c, C);
            shift[to] = (norm->bias ? norm->bias[i] : 0.0f) - norm->mean[i] * factor[to];
        }
    return factor;
}

/* What the gradient of a batch norm needs of its M edges, (M, filled C) each: d_z = (grad - a - (z - mean) b) by. */
typedef struct {
    float *mean, *a, *b, *by;
} Slope;

static Slope slopes(const Norm *norm, const float *sum, const float *product, double count, int M, int C) {
    const long size = (long)M * filled(C);
    float *all = zeros(4 * size);
    const Slope made = {all, all + size, all + 2 * size, all + 3 * size};
    for (int m = 0; m < M; m++)
        for (int c = 0; c < C; c++) {
            const long i = (long)m * C + c, to = (long)m * filled(C) + c;
            const float rstd = rstd_of(norm, i);
            made.mean[to] = norm->mean[i];
            made.a[to] = (float)(sum[i] / count);
            made.b[to] = (float)(product[i] / count) * rstd;
            made.by[to] = rstd * gain_of(norm, m, c, C);
        }
    return made;
}

/* One plane of `fill`. */
INLINE void fill_plane(float *to, const float *from, int H, int W, int C, int pad, const float *factor,
                       const float *shift, const int n) {
    const long row = (long)(W + 2 * pad) * LANES;
    const vec by = factor ? LOAD(factor) : (vec){0}, plus = factor ? LOAD(shift) : (vec){0};
    for (int y = 0; y < H; y++) {
        float *at = to + row * (y + pad) + pad * LANES;
        for (int x = 0; x < W; x++, from += C, at += LANES) {
            vec v = get(from, n);
            if (factor) v = v * by + plus;
            STORE(at, KEEP(~(v < (vec){0}), v)); /* NaN passes, as in the library */
        }
    }
}

/* Planes of H x W pixels inside a border of `pad` zeros, which must be there: ReLU of the image (H, W, C), or of its
 * factor-fold plus shift (filled C). */
static void fill(float *to, const float *image, int H, int W, int C, int pad, const float *factor,
                 const float *shift) {
    const long plane = (long)(W + 2 * pad) * LANES * (H + 2 * pad);
    for (int c = 0; c < C; c += LANES, to += plane) {
#define FILL(n) fill_plane(to, image + c, H, W, C, pad, factor ? factor + c : NULL, factor ? shift + c : NULL, n)
        WIDE(C - c, FILL);
#undef FILL
    }
}

/* How the outputs of a row and the taps of a kernel meet: outputs `apart` pixels from each other read the same columns,
 * which are `unit` pixels apart, the b-th of them the columns b q to b q + k - 1. */
typedef struct {
    int apart, unit, q;
} Step;

static Step step_of(int stride, int dil) {
    if (stride == 1) return (Step){dil, dil, 1};
    return dil % 2 ? (Step){dil, dil, 2} : (Step){dil / 2, dil, 1};
}

/* Runs CALL for blocks of 8, 4, 2 and 1 of the outputs of a row of w: B of them that are `apart` pixels from each
 * other, of which the first is pixel x. */
#define BLOCKS(w, step, MOST, CALL)                                                   \
    for (int phase = 0; phase < (step).apart && phase < (w); phase++) {               \
        int left = ((w) - phase + (step).apart - 1) / (step).apart, x = phase;        \
        if (MOST >= 8) for (; left >= 8; left -= 8, x += 8 * (step).apart) CALL(8);   \
        for (; left >= 4; left -= 4, x += 4 * (step).apart) CALL(4);                  \
        for (; left >= 2; left -= 2, x += 2 * (step).apart) CALL(2);                  \
        for (; left >= 1; left -= 1, x += (step).apart) CALL(1);                      \
    }

/* B outputs, `to_step` floats apart, of the k x k taps (k k, LANES) that begin at `from`, with columns `column` and rows
 * `row` floats apart. With `add`, to what is there. */
INLINE void taps(const float *from, long row, long column, const float *weights, float *to, long to_step, const int k,
                 const int q, const int B, const int add) {
    vec sum[8];
    UNROLL for (int b = 0; b < B; b++) sum[b] = add ? LOAD(to + b * to_step) : (vec){0};
    for (int i = 0; i < k; i++, from += row, weights += k * LANES) {
        vec weight[7];
        UNROLL for (int j = 0; j < k; j++) weight[j] = LOAD(weights + j * LANES);
        UNROLL for (int u = 0; u < (B - 1) * q + k; u++) {
            const vec v = LOAD(from + u * column);
            UNROLL for (int b = 0; b < B; b++)
                if (u >= b * q && u < b * q + k) sum[b] += v * weight[u - b * q];
        }
    }
    UNROLL for (int b = 0; b < B; b++) STORE(to + b * to_step, sum[b]);
}

INLINE void tap_rows(const float *from, long row, const float *weights, float *to, long to_row, int h, int w,
                     int stride, int dil, const int k, const int q, const int add) {
    const Step step = step_of(stride, dil);
    const long column = (long)step.unit * LANES, to_step = (long)step.apart * LANES;
    for (int y = 0; y < h; y++, from += stride * row, to += to_row) {
#define CALL(B) \
    taps(from + (long)x * stride * LANES, dil * row, column, weights, to + (long)x * LANES, to_step, k, q, B, add)
        BLOCKS(w, step, 8, CALL)
#undef CALL
    }
}

/* h rows, `to_row` floats apart, of one plane of outputs of a depthwise convolution with weights (k k, LANES), from a
 * plane with its border, whose rows are `row` floats apart. */
static void depthwise(const float *from, long row, const float *weights, float *to, long to_row, int h, int w, int k,
                      int stride, int dil, int add) {
#define ROWS(K, Q, A) tap_rows(from, row, weights, to, to_row, h, w, stride, dil, K, Q, A)
#define KERNEL(K) (step_of(stride, dil).q == 2 ? ROWS(K, 2, 0) : add ? ROWS(K, 1, 1) : ROWS(K, 1, 0))
    k == 3 ? KERNEL(3) : k == 5 ? KERNEL(5) : KERNEL(7);
#undef KERNEL
#undef ROWS
}

/* The gradient of the input of a depthwise convolution of stride 2, one plane H x W, from the plane of the gradient of
 * its output with a border of `pad` zeros. With `add`, to what is there. */
static void depthwise_back2(const float *grad, long row, const float *weights, float *to, int H, int W, int k, int dil,
                            int pad, int add) {
    for (int y = 0; y < H; y++)
        for (int side = 0; side < 2 && side < W; side++) {
            int left = (W - side + 1) / 2;
            float *at = to + ((long)y * W + side) * LANES;
#define SOME(B)                                                                                        \
    for (int x = (W - side + 1) / 2 - left; left >= B; left -= B, x += B, at += 2 * B * LANES) {       \
        vec sum[B];                                                                                    \
        UNROLL for (int b = 0; b < B; b++) sum[b] = add ? LOAD(at + 2 * b * LANES) : (vec){0};         \
        for (int i = 0; i < k; i++) {                                                                  \
            if ((y + pad - i * dil) % 2) continue;                                                     \
            const float *line = grad + ((y + pad - i * dil) / 2 + pad) * row + (long)(x + pad) * LANES; \
            for (int j = 0; j < k; j++) {                                                              \
                if ((side + pad - j * dil) % 2) continue;                                              \
                const float *g = line + (side + pad - j * dil) / 2 * LANES;                            \
                const vec weight = LOAD(weights + (i * k + j) * LANES);                                \
                UNROLL for (int b = 0; b < B; b++) sum[b] += LOAD(g + b * LANES) * weight;             \
            }                                                                                          \
        }                                                                                              \
        UNROLL for (int b = 0; b < B; b++) STORE(at + 2 * b * LANES, sum[b]);                          \
    }
            SOME(8) SOME(1)
#undef SOME
        }
}

/* sum (rows k, LANES) += gradients of that many rows of taps, from one plane of the input with its border, beginning
 * at the first of these taps, and one of the gradient of the output. */
INLINE void tap_sums(const float *input, long row, const float *grad, long grad_row, int h, int w, int stride, int dil,
                     float *sum, const int k, const int q, const int rows, const int most) {
    const Step step = step_of(stride, dil);
    const long column = (long)step.unit * LANES, grad_step = (long)step.apart * LANES;
    vec s[25] = {{0}};
    for (int y = 0; y < h; y++, input += stride * row, grad += grad_row) {
#define CALL(B)                                                                                     \
    do {                                                                                            \
        vec g[B];                                                                                   \
        UNROLL for (int b = 0; b < B; b++) g[b] = LOAD(grad + (long)x * LANES + b * grad_step);     \
        UNROLL for (int i = 0; i < rows; i++) {                                                     \
            const float *from = input + (long)x * stride * LANES + i * dil * row;                   \
            UNROLL for (int u = 0; u < (B - 1) * q + k; u++) {                                      \
                const vec v = LOAD(from + u * column);                                              \
                UNROLL for (int b = 0; b < B; b++)                                                  \
                    if (u >= b * q && u < b * q + k) s[i * k + u - b * q] += v * g[b];              \
            }                                                                                       \
        }                                                                                           \
    } while (0)
        BLOCKS(w, step, most, CALL)
#undef CALL
    }
    for (int t = 0; t < rows * k; t++) STORE(sum + t * LANES, LOAD(sum + t * LANES) + s[t]);
}

/* sum (k k, LANES) += gradient of the weights of one plane of a depthwise convolution. As many rows of taps at a time
 * as the registers hold sums. */
static void depthwise_weights(const float *input, long row, const float *grad, long grad_row, int h, int w, float *sum,
                              int k, int stride, int dil) {
#define SUMS(K, Q, FIRST, ROWS, MOST) \
    tap_sums(input + (long)(FIRST) * dil * row, row, grad, grad_row, h, w, stride, dil, sum + (FIRST) * K * LANES, K, Q, ROWS, MOST)
#if REGISTERS >= 32
#define KERNEL(Q)                                                                        \
    if (k == 3) SUMS(3, Q, 0, 3, 8);                                                     \
    else if (k == 5) SUMS(5, Q, 0, 5, 4);                                                \
    else SUMS(7, Q, 0, 3, 4), SUMS(7, Q, 3, 3, 4), SUMS(7, Q, 6, 1, 8);
#else
#define KERNEL(Q)                                                                        \
    if (k == 3) SUMS(3, Q, 0, 3, 4);                                                     \
    else if (k == 5) SUMS(5, Q, 0, 2, 4), SUMS(5, Q, 2, 2, 4), SUMS(5, Q, 4, 1, 8);      \
    else for (int i = 0; i < 7; i++) SUMS(7, Q, i, 1, 4);
#endif
    if (step_of(stride, dil).q == 2) {
        KERNEL(2)
    } else {
        KERNEL(1)
    }
#undef KERNEL
#undef SUMS
}

/* Where the pixels of a map are: `pixel` floats from one to the next, `plane` from one block of LANES channels to the
 * next. */
typedef struct {
    float *at;
    long pixel, plane;
} Map;

/* sum and square (filled C) of what is written less the first pixel of it, `origin` (filled C), so that a mean which is
 * large against the spread costs no digits; and whether what is written goes past the caches. */
typedef struct {
    float *sum, *square, *origin;
    int stream;
} Moments;

/* Adds to the sums and squares those of n values of which the sums s and squares q less the origin are known. */
INLINE void add_moments(double *sum, double *square, double s, double q, double origin, int n) {
    *sum += s + n * origin;
    *square += q + origin * (2 * s + n * origin);
}

/* Pixels p to p + P - 1 of Q blocks of outputs from block c on: from C channels times w (planes, C, LANES). */
INLINE void products(Map from, int C, const float *w, Map to, int p, int c, int tail, Moments moments, const int P,
                     const int Q) {
    vec sum[16][2];
    UNROLL for (int j = 0; j < P; j++)
        UNROLL for (int r = 0; r < Q; r++) sum[j][r] = (vec){0};
    const float *at = from.at + p * from.pixel;
    w += (long)c * C * LANES;
    for (int first = 0; first < C; first += LANES, at += from.plane) {
        const int n = C - first < LANES ? C - first : LANES;
        for (int l = 0; l < n; l++, w += LANES) {
            vec weight[2];
            UNROLL for (int r = 0; r < Q; r++) weight[r] = LOAD(w + (long)r * C * LANES);
            UNROLL for (int j = 0; j < P; j++)
                UNROLL for (int r = 0; r < Q; r++) sum[j][r] += at[j * from.pixel + l] * weight[r];
        }
    }
    UNROLL for (int r = 0; r < Q; r++) {
        float *out = to.at + p * to.pixel + (c + r) * to.plane;
        if (r == Q - 1 && tail < LANES)
            for (int j = 0; j < P; j++) put(out + j * to.pixel, sum[j][r], tail);
        else if (!moments.stream)
            UNROLL for (int j = 0; j < P; j++) STORE(out + j * to.pixel, sum[j][r]);
    }
    if (moments.stream) /* whole lines at a time */
        UNROLL for (int j = 0; j < P; j++)
            UNROLL for (int r = 0; r < Q; r++)
                stream(to.at + (p + j) * to.pixel + (c + r) * to.plane, sum[j][r]);
    if (!moments.sum) return;
    UNROLL for (int r = 0; r < Q; r++) {
        if (p == 0) STORE(moments.origin + (c + r) * LANES, sum[0][r]);
        const vec origin = LOAD(moments.origin + (c + r) * LANES);
        vec s = LOAD(moments.sum + (c + r) * LANES), q = LOAD(moments.square + (c + r) * LANES);
        UNROLL for (int j = 0; j < P; j++) {
            const vec v = sum[j][r] - origin;
            s += v, q += v * v;
        }
        STORE(moments.sum + (c + r) * LANES, s), STORE(moments.square + (c + r) * LANES, q);
    }
}

/* n pixels of a 1 x 1 convolution from C channels to `all` blocks of channels, w (all, C, LANES) as (out, in); of the
 * last block the first `tail` are written. Moments, where they are not null, begin with zeros. */
static void pointwise(Map from, int C, const float *w, Map to, int all, int n, int tail, Moments moments) {
#define SOME(P, Q) \
    for (; p + P <= n; p += P) products(from, C, w, to, p, c, c + Q == all ? tail : LANES, moments, P, Q);
    int c = 0;
    for (; c + 2 <= all; c += 2) {
        int p = 0;
#if REGISTERS >= 32
        SOME(8, 2)
#endif
        SOME(4, 2) SOME(1, 2)
    }
    if (c < all) {
        int p = 0;
#if REGISTERS >= 32
        SOME(16, 1)
#endif
        SOME(8, 1) SOME(4, 1) SOME(1, 1)
    }
#undef SOME
}

/* sum (I rows of `width`) += transpose of I channels of a times Q blocks of b, over n pixels. */
INLINE void outer_block(const float *a, long a_pixel, const float *b, long b_pixel, int n, float *sum, long width, const int I,
                        const int Q) {
    vec s[8][2];
    UNROLL for (int i = 0; i < I; i++)
        UNROLL for (int r = 0; r < Q; r++) s[i][r] = LOAD(sum + i * width + r * LANES);
    for (int p = 0; p < n; p++, a += a_pixel, b += b_pixel) {
        vec v[2];
        UNROLL for (int r = 0; r < Q; r++) v[r] = LOAD(b + r * LANES);
        UNROLL for (int i = 0; i < I; i++)
            UNROLL for (int r = 0; r < Q; r++) s[i][r] += a[i] * v[r];
    }
    UNROLL for (int i = 0; i < I; i++)
        UNROLL for (int r = 0; r < Q; r++) STORE(sum + i * width + r * LANES, s[i][r]);
}

/* sum (filled C, filled D) as (in, out) += transpose of a, n pixels of C channels, times b (n, filled D). */
static void outer(Map a, int C, const float *b, int D, int n, float *sum) {
    const long width = filled(D);
    const int all = planes(D);
#if REGISTERS >= 32 && LANES >= 8
#define BOTH 8
#else
#define BOTH 4
#endif
#define ONE (LANES >= 8 ? 8 : 4)
    for (int i = 0; i < filled(C); i += LANES, a.at += a.plane) {
        int c = 0;
        for (; c + 2 <= all; c += 2)
            for (int l = 0; l < LANES; l += BOTH)
                outer_block(a.at + l, a.pixel, b + c * LANES, width, n, sum + (i + l) * width + c * LANES, width, BOTH, 2);
        if (c < all)
            for (int l = 0; l < LANES; l += ONE)
                outer_block(a.at + l, a.pixel, b + c * LANES, width, n, sum + (i + l) * width + c * LANES, width, ONE, 1);
    }
#undef BOTH
#undef ONE
}

/* One block of channels of `moments_of`, `wide` of them there; with `other` b is read. */
INLINE void moments_block(const float *a, const float *b, int C, long step, vec mu, int n, int wide, double *sum,
                          double *square, const int other) {
    const vec origin = other ? (vec){0} : get(a, wide);
    vec s[2] = {{0}}, q[2] = {{0}};
    int p = 0;
#define ONE(J)                                                        \
    do {                                                              \
        const vec v = get(a + (long)(p + J) * C, wide) - origin;      \
        s[J] += v;                                                    \
        if (other) q[J] += v * (get(b + (p + J) * step, wide) - mu);  \
        else q[J] += v * v;                                           \
    } while (0)
    for (; p + 2 <= n; p += 2) {
        ONE(0);
        ONE(1);
    }
    if (p < n) ONE(0);
#undef ONE
    s[0] += s[1], q[0] += q[1];
    for (int i = 0; i < LANES && i < wide; i++) add_moments(sum + i, square + i, s[0][i], q[0][i], origin[i], n);
}

/* Adds to sum (C,) the sums over n pixels of a, whose pixels are C floats long; to square (C,) those of its squares, or
 * of a times (b - mean) with b, whose pixels are `step` apart. */
static void moments_of(const float *a, const float *b, long step, const float *mean, int n, int C, double *sum,
                       double *square) {
    for (int c = 0; c < C; c += LANES) {
#define MOMENTS(n_wide)                                                                                        \
    b ? moments_block(a + c, b + c, C, step, get(mean + c, n_wide), n, n_wide, sum + c, square + c, 1)         \
      : moments_block(a + c, NULL, C, 0, (vec){0}, n, n_wide, sum + c, square + c, 0)
        WIDE(C - c, MOMENTS);
#undef MOMENTS
    }
}

/* Mean and (biased) variance (n,) of `count` values each, from the sums and squares (threads, 2, n). */
static void statistics_of(const double *sums, int threads, long n, double count, float *mean, float *variance) {
    for (long i = 0; i < n; i++) {
        double sum = 0, square = 0;
        for (int t = 0; t < threads; t++) {
            sum += sums[2 * t * n + i];
            square += sums[(2 * t + 1) * n + i];
        }
        const double average = sum / count, spread = square / count - average * average;
        mean[i] = (float)average;
        variance[i] = (float)(spread < 0 ? 0 : spread);
    }
}

/* What the backward of a batch norm needs: sums of grad and of grad times (z - mean) rstd (M, C), from those of `mine`
 * (threads, M, 2, C) before the factor rstd. Where it is not null, d_scale (M,) is the second summed over the channels. */
static void norm_sums(const double *sums, const Norm *norm, int threads, int M, int C, float *sum, float *product,
                      float *d_scale) {
    for (int m = 0; m < M; m++) {
        double total = 0;
        for (int c = 0; c < C; c++) {
            double a = 0, b = 0;
            for (int t = 0; t < threads; t++) {
                a += sums[((long)t * M + m) * C * 2 + c];
                b += sums[((long)t * M + m) * C * 2 + C + c];
            }
            b *= rstd_of(norm, (long)m * C + c);
            sum[(long)m * C + c] = (float)a;
            product[(long)m * C + c] = (float)b;
            total += b;
        }
        if (d_scale) d_scale[m] = (float)total;
    }
}

static double *double_zeros(long count) { return memset(room(sizeof(double) * count), 0, sizeof(double) * count); }

/* One block of channels of `norm_gradient`: `wide` are read, `out` are written, or with `add` added to. */
INLINE void norm_gradient_block(const float *grad, long g_step, const float *z, long z_step, Slope slope, float *d_z, long d_step,
                                int n, const int wide, const int out,
                                const int add) {
    const vec mu = LOAD(slope.mean), a = LOAD(slope.a), b = LOAD(slope.b), by = LOAD(slope.by);
    for (int p = 0; p < n; p++, grad += g_step, z += z_step, d_z += d_step)
        put(d_z, (get(grad, wide) - a - (get(z, wide) - mu) * b) * by + (add ? get(d_z, wide) : (vec){0}), out);
}

static Slope slope_at(Slope all, long i) { return (Slope){all.mean + i, all.a + i, all.b + i, all.by + i}; }

/* d_z of n pixels of C channels, given grad of the output of the batch norm and slope of the edge. Channels that fill a
 * block up are written with `whole`; with `add` the others are added to. */
static void norm_gradient(const float *grad, long g_step, const float *z, long z_step, Slope slope, float *d_z, long d_step,
                          int whole, int add, int n, int C) {
    for (int c = 0; c < C; c += LANES) {
#define BLOCK_OF(wide, out, add) \
    norm_gradient_block(grad + c, g_step, z + c, z_step, slope_at(slope, c), d_z + c, d_step, n, wide, out, add)
#define GRADIENT(wide) add ? BLOCK_OF(wide, wide, 1) : BLOCK_OF(wide, whole ? LANES : wide, 0)
        WIDE(C - c, GRADIENT);
#undef GRADIENT
#undef BLOCK_OF
    }
}

/* (M, C, k k) -> (M, planes, k k, LANES), with `turned` the taps in reverse order. */
static float *packed_taps(const float *dw, int M, int C, int taps, int turned) {
    float *to = zeros((long)M * filled(C) * taps);
    for (int m = 0; m < M; m++)
        for (int c = 0; c < C; c++)
            for (int t = 0; t < taps; t++)
                to[(((long)m * planes(C) + c / LANES) * taps + (turned ? taps - 1 - t : t)) * LANES + c % LANES] =
                    dw[((long)m * C + c) * taps + t];
    return to;
}

/* Matrix (rows, columns) -> (blocks of rows, columns, rows of a block), the last block filled up with zeros; with `turned`
 * its transpose is meant. */
static void pack(const float *from, int rows, int columns, int turned, float *to) {
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++)
            to[((long)(r / LANES) * columns + c) * LANES + r % LANES] =
                turned ? from[(long)c * rows + r] : from[(long)r * columns + c];
}

/* (M, C, C) as (out, in), for products that lead from in to out, or with `turned` from out to in. */
static float *packed_weights(const float *pw, int M, int C, int turned) {
    float *to = zeros((long)M * filled(C) * C);
    for (int m = 0; m < M; m++) pack(pw + (long)m * C * C, C, C, turned, to + (long)m * filled(C) * C);
    return to;
}

/* Rows of outputs that are worked on at a time: what is between the convolutions stays in the innermost cache. */
static int rows_at_a_time(const Shape *s) {
    const int rows = 4096 / (s->w * filled(s->C));
    return rows < 1 ? 1 : rows > s->h ? s->h : rows;
}

/* Forward: fills z and its mean and (biased) variance. */
void stage_forward(const Shape *s, const float *const *in, const Norm *before, const float *dw, const float *pw,
                   float *z, float *mean, float *variance) {
    const int C = s->C, wide = filled(C), all = planes(C), taps = s->k * s->k, pad = s->dil * (s->k - 1) / 2;
    const long row = (long)(s->W + 2 * pad) * LANES, plane = row * (s->H + 2 * pad), image = (long)s->H * s->W * C;
    const long out = (long)s->h * s->w * C;
    const int tile = rows_at_a_time(s), threads = s->threads, tail = C - (all - 1) * LANES;
    float *dws = packed_taps(dw, s->M, C, taps, 0), *pws = packed_weights(pw, s->M, C, 0);
    float *factor = before ? affine(before, s->M, C) : NULL;
    const float *shift = before ? factor + (long)s->M * wide : NULL;
    double *sums = double_zeros((long)threads * s->M * C * 2);
#pragma omp parallel num_threads(threads)
    {
        const long deep_plane = (long)tile * s->w * LANES;
        float *padded = zeros(plane * all), *deep = floats(deep_plane * all), *of_tile = floats(3 * wide);
        double *mine = sums + (long)omp_get_thread_num() * s->M * C * 2;
        const Moments moments = {of_tile, of_tile + wide, of_tile + 2 * wide, streams(z, s->M * s->N * out, C)};
#pragma omp for schedule(static)
        for (int n = 0; n < s->N; n++)
            for (int m = 0; m < s->M; m++) {
                const long edge = (long)m * wide;
                if (before || m == 0)
                    fill(padded, in[m] + n * image, s->H, s->W, C, pad, before ? factor + edge : NULL,
                         before ? shift + edge : NULL);
                float *to = z + ((long)m * s->N + n) * out;
                for (int y = 0; y < s->h; y += tile) {
                    const int rows = y + tile < s->h ? tile : s->h - y;
                    for (int c = 0; c < all; c++)
                        depthwise(padded + c * plane + (long)y * s->stride * row, row,
                                  dws + ((long)m * all + c) * taps * LANES, deep + c * deep_plane, (long)s->w * LANES,
                                  rows, s->w, s->k, s->stride, s->dil, 0);
                    memset(of_tile, 0, sizeof(float) * 2 * wide);
                    pointwise((Map){deep, LANES, deep_plane}, C, pws + edge * C, (Map){to + (long)y * s->w * C, C, LANES},
                              all, rows * s->w, tail, moments);
                    for (int c = 0; c < C; c++)
                        add_moments(mine + (long)m * C + c, mine + ((long)s->M + m) * C + c, moments.sum[c],
                                    moments.square[c], moments.origin[c], rows * s->w);
                }
            }
        free(padded), free(deep), free(of_tile);
    }
    statistics_of(sums, threads, (long)s->M * C, (double)s->N * s->h * s->w, mean, variance);
    free(dws), free(pws), free(factor), free(sums);
}

/* One plane of a row of the gradient of a ReLU, which is passed where `mask` is positive. With `add` added to what is in
 * `to` (W, C). With `norm` the sums of `norm_sums` are added up, `z` being the input of that batch norm. */
INLINE void passed_row(const float *mask, const float *d, int W, int C, float *to, const float *z, const float *mean,
                       double *sum, double *product, const int wide, const int norm, const int add) {
    const vec mu = norm ? get(mean, wide) : (vec){0};
    vec s = {0}, q = {0};
    for (int x = 0; x < W; x++, mask += LANES, d += LANES, to += C) {
        vec passed = KEEP(~(LOAD(mask) <= (vec){0}), LOAD(d));
        if (norm) {
            s += passed, q += passed * (get(z, wide) - mu);
            z += C;
        }
        if (add) passed += get(to, wide);
        put(to, passed, wide);
    }
    for (int i = 0; norm && i < LANES && i < wide; i++) sum[i] += s[i], product[i] += q[i];
}

/* Backward, given grad[m] of the output of the batch norm and the sums of `gradient_sums`. d_in: where `before` is
 * null, (N, H, W, C), with `add_in` added to; else (M, N, H, W, C), the gradient of the output of that batch norm, whose own sums are
 * filled in. d_dw, d_pw are filled where they are not null. */
void stage_backward(const Shape *s, const float *const *in, const Norm *before, const float *dw, const float *pw,
                    const float *z, const Norm *norm, const float *const *grad, const float *sum,
                    const float *product, float *d_in, int add_in, float *d_dw, float *d_pw, float *before_sum,
                    float *before_product) {
    const int C = s->C, wide = filled(C), all = planes(C), taps = s->k * s->k, pad = s->dil * (s->k - 1) / 2;
    const int learns = d_dw != NULL, tile = rows_at_a_time(s), threads = s->threads;
    const long row = (long)(s->W + 2 * pad) * LANES, plane = row * (s->H + 2 * pad), image = (long)s->H * s->W * C;
    const long grad_row = (long)(s->w + 2 * pad) * LANES, grad_plane = grad_row * (s->h + 2 * pad);
    const long out = (long)s->h * s->w * C, d_plane = (long)s->H * s->W * LANES;
    const long per_edge = (long)taps * wide + (long)wide * wide;
    float *dws = packed_taps(dw, s->M, C, taps, 0), *turned = packed_taps(dw, s->M, C, taps, 1);
    float *pws = packed_weights(pw, s->M, C, 1);
    float *factor = before ? affine(before, s->M, C) : NULL;
    const float *shift = before ? factor + (long)s->M * wide : NULL;
    const Slope slope = slopes(norm, sum, product, (double)s->N * s->h * s->w, s->M, C);
    float *sums = learns ? zeros(threads * s->M * per_edge) : NULL;
    double *before_sums = before ? double_zeros((long)threads * s->M * C * 2) : NULL;
#pragma omp parallel num_threads(threads)
    {
        const long deep_plane = (long)tile * s->w * LANES;
        float *padded = zeros(plane * all), *d_deep = zeros(grad_plane * all), *d_padded = floats(d_plane * all);
        float *d_z = floats((long)tile * s->w * wide), *deep = floats(deep_plane * all);
        float *buffer = floats((long)s->W * C);
        const int past = before && streams(d_in, s->M * s->N * image, C);
        float *mine = learns ? sums + (long)omp_get_thread_num() * s->M * per_edge : NULL;
#pragma omp for schedule(static)
        for (int n = 0; n < s->N; n++)
            for (int m = 0; m < s->M; m++) {
                const long edge = (long)m * wide;
                if (before || m == 0)
                    fill(padded, in[m] + n * image, s->H, s->W, C, pad, before ? factor + edge : NULL,
                         before ? shift + edge : NULL);
                const float *from = z + ((long)m * s->N + n) * out, *g = grad[m] + n * out;
                float *to = learns ? mine + m * per_edge : NULL;
                for (int y = 0; y < s->h; y += tile) {
                    const int rows = y + tile < s->h ? tile : s->h - y;
                    const long start = (long)y * s->w * C;
                    norm_gradient(g + start, C, from + start, C, slope_at(slope, edge), d_z, wide, 1, 0, rows * s->w, C);
                    for (int i = 0; i < rows; i++) /* into the rows of a plane with a border */
                        pointwise((Map){d_z + (long)i * s->w * wide, wide, LANES}, C, pws + edge * C,
                                  (Map){d_deep + (y + i + pad) * grad_row + pad * LANES, LANES, grad_plane}, all,
                                  s->w, LANES, (Moments){NULL, NULL, NULL, 0});
                    if (!learns) continue;
                    for (int c = 0; c < all; c++)
                        depthwise(padded + c * plane + (long)y * s->stride * row, row,
                                  dws + ((long)m * all + c) * taps * LANES, deep + c * deep_plane, (long)s->w * LANES,
                                  rows, s->w, s->k, s->stride, s->dil, 0);
                    outer((Map){deep, LANES, deep_plane}, C, d_z, C, rows * s->w, to + (long)taps * wide);
                }
                for (int c = 0; c < all; c++) {
                    const float *d = d_deep + c * grad_plane, *weights = turned + ((long)m * all + c) * taps * LANES;
                    const int add = !before && m > 0;
                    if (learns)
                        depthwise_weights(padded + c * plane, row, d + pad * grad_row + pad * LANES, grad_row, s->h,
                                          s->w, to + (long)c * taps * LANES, s->k, s->stride, s->dil);
                    if (s->stride == 1)
                        depthwise(d, grad_row, weights, d_padded + c * d_plane, (long)s->W * LANES, s->H, s->W, s->k,
                                  1, s->dil, add);
                    else
                        depthwise_back2(d, grad_row, dws + ((long)m * all + c) * taps * LANES, d_padded + c * d_plane,
                                        s->H, s->W, s->k, s->dil, pad, add);
                }
                if (!before && m + 1 < s->M) continue;
                /* ReLU; its input is positive where its output is */
                float *line = before ? d_in + ((long)m * s->N + n) * image : d_in + n * image;
                const float *read = in[m] + n * image;
                double *of_norm = before ? before_sums + ((long)omp_get_thread_num() * s->M + m) * C * 2 : NULL;
                for (int y = 0; y < s->H; y++, read += s->W * C, line += s->W * C) {
                    float *to = past ? buffer : line;
                    for (int c = 0; c < all; c++) {
                        const float *mask = padded + c * plane + (y + pad) * row + pad * LANES;
                        const float *d = d_padded + c * d_plane + (long)y * s->W * LANES;
                        const int i = c * LANES;
#define PASS(n)                                                                                                       \
    before   ? passed_row(mask, d, s->W, C, to + i, read + i, before->mean + (long)m * C + i, of_norm + i,            \
                          of_norm + C + i, n, 1, 0)                                                                   \
    : add_in ? passed_row(mask, d, s->W, C, to + i, NULL, NULL, NULL, NULL, n, 0, 1)                                  \
             : passed_row(mask, d, s->W, C, to + i, NULL, NULL, NULL, NULL, n, 0, 0)
                        WIDE(C - i, PASS);
#undef PASS
                    }
                    for (int i = 0; past && i < s->W * C; i += LANES) stream(line + i, LOAD(buffer + i));
                }
            }
        free(buffer);
        free(padded), free(d_padded), free(d_z), free(deep), free(d_deep);
    }
    if (before) norm_sums(before_sums, before, threads, s->M, C, before_sum, before_product, NULL);
    if (learns)
        for (int m = 0; m < s->M; m++) {
            float *total = sums + m * per_edge;
            for (int t = 1; t < threads; t++)
                for (long i = 0; i < per_edge; i++) total[i] += sums[(t * s->M + m) * per_edge + i];
            for (int c = 0; c < C; c++) {
                for (int t = 0; t < taps; t++)
                    d_dw[((long)m * C + c) * taps + t] = total[((long)(c / LANES) * taps + t) * LANES + c % LANES];
                for (int o = 0; o < C; o++)
                    d_pw[((long)m * C + o) * C + c] = total[(long)taps * wide + (long)c * wide + o];
            }
        }
    free(dws), free(turned), free(pws), free(factor), free(slope.mean), free(sums), free(before_sums);
}

/* ReLU, 1 x 1 from I to O channels, on every `every`-th pixel from (top, left) on of N images of H x W pixels; the
 * outputs are the channels from `first` on of z (N, h, w, total). */
typedef struct {
    int N, H, W, h, w, every, top, left, I, O, first, total, threads;
} Project;

static int pixels_at_a_time(const Project *s) {
    const int pixels = 4096 / filled(s->I), all = s->h * s->w;
    return pixels < 8 ? 8 : pixels > all ? all : pixels;
}

/* Where pixel p of an image of the outputs is in an image of the inputs. */
static long source(const Project *s, int p) {
    return s->every == 1 ? (long)p * s->I
                         : ((long)(p / s->w * s->every + s->top) * s->W + p % s->w * s->every + s->left) * s->I;
}

/* ReLU of n pixels from p on, (n, filled I); what fills up is zero already. */
static void gather(const Project *s, const float *image, int p, int n, float *to) {
    for (int j = 0; j < n; j++, to += filled(s->I)) {
        const float *from = image + source(s, p + j);
        for (int c = 0; c < s->I; c += LANES) {
            const vec v = get(from + c, s->I - c);
            put(to + c, KEEP(~(v < (vec){0}), v), s->I - c);
        }
    }
}

/* Fills its channels of z and their mean and (biased) variance (O,); weights (O, I). */
void project_forward(const Project *s, const float *in, const float *weights, float *z, float *mean, float *variance) {
    const int all = planes(s->O), wide = filled(s->O), tile = pixels_at_a_time(s), pixels = s->h * s->w;
    float *packed = zeros((long)wide * s->I);
    pack(weights, s->O, s->I, 0, packed);
    double *sums = double_zeros((long)s->threads * s->O * 2);
#pragma omp parallel num_threads(s->threads)
    {
        float *active = zeros((long)tile * filled(s->I)), *of_tile = floats(3 * wide);
        double *mine = sums + (long)omp_get_thread_num() * s->O * 2;
        const Moments moments = {of_tile, of_tile + wide, of_tile + 2 * wide, 0};
#pragma omp for schedule(static)
        for (int n = 0; n < s->N; n++)
            for (int p = 0; p < pixels; p += tile) {
                const int some = p + tile < pixels ? tile : pixels - p;
                gather(s, in + (long)n * s->H * s->W * s->I, p, some, active);
                memset(of_tile, 0, sizeof(float) * 2 * wide);
                pointwise((Map){active, filled(s->I), LANES}, s->I, packed,
                          (Map){z + ((long)n * pixels + p) * s->total + s->first, s->total, LANES}, all, some,
                          s->O - (all - 1) * LANES, moments);
                for (int c = 0; c < s->O; c++)
                    add_moments(mine + c, mine + s->O + c, moments.sum[c], moments.square[c], moments.origin[c], some);
            }
        free(active), free(of_tile);
    }
    statistics_of(sums, s->threads, s->O, (double)s->N * pixels, mean, variance);
    free(packed), free(sums);
}

/* Given grad (N, h, w, total) of the output of the batch norm, whose statistics and sums are those of its channels: fills
 * the gradients of the inputs that were seen, and of the weights where d_weights is not null. */
void project_backward(const Project *s, const float *in, const float *weights, const float *z, const Norm *norm,
                      const float *grad, const float *sum, const float *product, float *d_in, float *d_weights) {
    const int wide = filled(s->O), in_wide = filled(s->I), tile = pixels_at_a_time(s), pixels = s->h * s->w;
    const long size = (long)in_wide * wide;
    float *packed = zeros((long)in_wide * s->O), *sums = d_weights ? zeros(s->threads * size) : NULL;
    pack(weights, s->I, s->O, 1, packed);
    const Slope slope = slopes(norm, sum, product, (double)s->N * pixels, 1, s->O);
#pragma omp parallel num_threads(s->threads)
    {
        float *active = zeros((long)tile * in_wide), *d_active = zeros((long)tile * in_wide);
        float *d_z = zeros((long)tile * wide);
        float *mine = d_weights ? sums + omp_get_thread_num() * size : NULL;
#pragma omp for schedule(static)
        for (int n = 0; n < s->N; n++)
            for (int p = 0; p < pixels; p += tile) {
                const int some = p + tile < pixels ? tile : pixels - p;
                const long start = ((long)n * pixels + p) * s->total + s->first, image = (long)n * s->H * s->W * s->I;
                gather(s, in + image, p, some, active);
                norm_gradient(grad + start, s->total, z + start, s->total, slope, d_z, wide, 1, 0, some, s->O);
                if (d_weights) outer((Map){active, in_wide, LANES}, s->I, d_z, s->O, some, mine);
                if (!d_in) continue;
                pointwise((Map){d_z, wide, LANES}, s->O, packed, (Map){d_active, in_wide, LANES}, planes(s->I), some,
                          LANES, (Moments){NULL, NULL, NULL, 0});
                for (int j = 0; j < some; j++) {
                    float *to = d_in + image + source(s, p + j);
                    for (int c = 0; c < s->I; c += LANES) {
                        const long at = (long)j * in_wide + c;
                        put(to + c, KEEP(~(LOAD(active + at) <= (vec){0}), LOAD(d_active + at)), s->I - c);
                    }
                }
            }
        free(active), free(d_active), free(d_z);
    }
    for (int o = 0; d_weights && o < s->O; o++)
        for (int i = 0; i < s->I; i++) {
            float total = 0;
            for (int t = 0; t < s->threads; t++) total += sums[t * size + (long)i * wide + o];
            d_weights[(long)o * s->I + i] = total;
        }
    free(packed), free(sums), free(slope.mean);
}

/* Where image n of edge m begins in z, and how far its pixels are apart. */
static long start_of(const Shape *s, const End *end, int m, int n) {
    const long pixels = (long)s->h * s->w;
    if (end->layout == SHARED) return n * pixels * s->C;
    return end->layout == STACKED ? (n * pixels * end->M + m) * s->C : ((long)m * s->N + n) * pixels * s->C;
}
static long pixel_of(const Shape *s, const End *end) { return end->layout == STACKED ? (long)end->M * s->C : s->C; }

/* Mean and (biased) variance of stacked z. */
void statistics(const Shape *s, const float *z, float *mean, float *variance) {
    const int all = s->M * s->C, pixels = s->h * s->w, threads = s->threads;
    double *sums = double_zeros((long)threads * all * 2);
#pragma omp parallel num_threads(threads)
    {
        double *mine = sums + (long)omp_get_thread_num() * all * 2;
#pragma omp for schedule(static)
        for (int n = 0; n < s->N; n++)
            for (int p = 0; p < pixels; p += PIXELS)
                moments_of(z + ((long)n * pixels + p) * all, NULL, all, NULL, p + PIXELS < pixels ? PIXELS : pixels - p,
                           all, mine, mine + all);
    }
    statistics_of(sums, threads, all, (double)s->N * pixels, mean, variance);
    free(sums);
}

/* One block of channels of n pixels: to += by times from, plus. */
INLINE void normed(const float *from, long step, vec by, vec plus, float *to, int C, int n, const int wide) {
    for (int p = 0; p < n; p++, to += C, from += step) put(to, get(to, wide) + get(from, wide) * by + plus, wide);
}

/* out[e] (N, h, w, C) = base[e] + sum over p of mix[p, e] maps[p] + the batch norms of the ends whose output is e; of E
 * outputs, a base may be null. */
void combine(const Shape *s, int E, int P, const float *const *maps, const float *mix, const float *const *base,
             int ends, const End *end, float *const *out) {
    const int C = s->C, pixels = s->h * s->w, wide = filled(C);
    float **factors = room(sizeof(float *) * (ends + 1));
    for (int i = 0; i < ends; i++) factors[i] = affine(end[i].norm, end[i].M, C);
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int n = 0; n < s->N; n++)
        for (int first = 0; first < pixels; first += PIXELS) {
            const int some = first + PIXELS < pixels ? PIXELS : pixels - first;
            const long start = ((long)n * pixels + first) * C, size = (long)some * C;
            for (int e = 0; e < E; e++) {
                long i = start;
#define MIX(left)                                                               \
    do {                                                                        \
        vec sum = {0};                                                          \
        if (base[e]) sum = get(base[e] + i, left);                              \
        for (int p = 0; p < P; p++) sum += mix[p * E + e] * get(maps[p] + i, left); \
        put(out[e] + i, sum, left);                                             \
    } while (0)
                for (; i + LANES <= start + size; i += LANES) MIX(LANES);
                if (i < start + size) MIX((int)(start + size - i));
#undef MIX
            }
            for (int t = 0; t < ends; t++)
                for (int m = 0; m < end[t].M; m++) {
                    const float *from = end[t].z + start_of(s, end + t, m, n) + first * pixel_of(s, end + t);
                    const float *factor = factors[t] + (long)m * wide, *shift = factor + (long)end[t].M * wide;
                    float *to = out[end[t].slots[m]] + start;
                    for (int c = 0; c < C; c += LANES) {
#define NORM(n) normed(from + c, pixel_of(s, end + t), LOAD(factor + c), LOAD(shift + c), to + c, C, some, n)
                        WIDE(C - c, NORM);
#undef NORM
                    }
                }
        }
    for (int i = 0; i < ends; i++) free(factors[i]);
    free(factors);
}

/* For each end: sums of the gradient of its outputs, grad[e], as `norm_sums` says; sum[t], product[t] (M, C), d_scale[t]
 * (M,) or null. */
void gradient_sums(const Shape *s, const float *const *grad, int ends, const End *end, float *const *sum,
                   float *const *product, float *const *d_scale) {
    const int C = s->C, pixels = s->h * s->w, threads = s->threads;
    long all = 0;
    for (int t = 0; t < ends; t++) all += (long)end[t].M * C * 2;
    double *sums = double_zeros(threads * all); /* (ends, threads, M, 2, C) */
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int n = 0; n < s->N; n++)
        for (int first = 0; first < pixels; first += PIXELS) {
            const int some = first + PIXELS < pixels ? PIXELS : pixels - first;
            double *of_end = sums;
            for (int t = 0; t < ends; t++) {
                double *mine = of_end + (long)omp_get_thread_num() * end[t].M * C * 2;
                for (int m = 0; m < end[t].M; m++, mine += 2 * C)
                    moments_of(grad[end[t].slots[m]] + ((long)n * pixels + first) * C,
                               end[t].z + start_of(s, end + t, m, n) + first * pixel_of(s, end + t),
                               pixel_of(s, end + t), end[t].norm->mean + (long)m * C, some, C, mine, mine + C);
                of_end += (long)threads * end[t].M * C * 2;
            }
        }
    double *of_end = sums;
    for (int t = 0; t < ends; t++) {
        norm_sums(of_end, end[t].norm, threads, end[t].M, C, sum[t], product[t], d_scale[t]);
        of_end += (long)threads * end[t].M * C * 2;
    }
    free(sums);
}

/* d_z, laid out like z, given grad[e] of the output of the batch norm and the sums of `gradient_sums`. */
void norm_backward(const Shape *s, const float *const *grad, const End *end, const float *sum, const float *product,
                   float *d_z) {
    const int C = s->C, pixels = s->h * s->w;
    const long step = pixel_of(s, end);
    const Slope slope = slopes(end->norm, sum, product, (double)s->N * pixels, end->M, C);
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int n = 0; n < s->N; n++)
        for (int m = 0; m < end->M; m++) {
            const long start = start_of(s, end, m, n);
            norm_gradient(grad[end->slots[m]] + (long)n * pixels * C, C, end->z + start, step,
                          slope_at(slope, (long)m * filled(C)), d_z + start, step, 0, end->layout == SHARED && m > 0,
                          pixels, C);
        }
    free(slope.mean);
}

/* d_maps[p] = sum over m of mix[p, m] grad[m], where not null; d_mix[p, m] = product of grad[m] and maps[p]. Where
 * d_mix is null the maps are not read. All of `size` floats. */
void mix_backward(long size, int P, int M, const float *const *maps, const float *mix, const float *const *grad,
                  float *const *d_maps, float *d_mix, int threads) {
    double *sums = double_zeros((long)threads * P * M);
#pragma omp parallel num_threads(threads)
    {
        double *mine = sums + (long)omp_get_thread_num() * P * M;
#pragma omp for schedule(static)
        for (long start = 0; start < size; start += BLOCK) {
            const long end = start + BLOCK < size ? start + BLOCK : size;
#define GRADIENT(n)                                                                     \
    do {                                                                                \
        vec sum = {0};                                                                  \
        for (int m = 0; m < M; m++) sum += mix[p * M + m] * get(grad[m] + i, n);        \
        put(d_maps[p] + i, sum, n);                                                     \
    } while (0)
            for (int p = 0; p < P; p++) {
                long i = start;
                if (d_maps[p]) {
                    for (; i + LANES <= end; i += LANES) GRADIENT(LANES);
                    if (i < end) GRADIENT((int)(end - i));
                }
                for (int m = 0; d_mix && m < M; m++) {
                    vec sum = {0};
                    for (i = start; i + LANES <= end; i += LANES) sum += LOAD(grad[m] + i) * LOAD(maps[p] + i);
                    if (i < end) sum += get(grad[m] + i, (int)(end - i)) * get(maps[p] + i, (int)(end - i));
                    for (int l = 0; l < LANES; l++) mine[p * M + m] += sum[l];
                }
            }
#undef GRADIENT
        }
    }
    for (int i = 0; d_mix && i < P * M; i++) {
        double sum = 0;
        for (int t = 0; t < threads; t++) sum += sums[(long)t * P * M + i];
        d_mix[i] = (float)sum;
    }
    free(sums);
}

/* d_x += sum over p of grad[p] where x is positive. All of `size` floats. */
void relu_backward(long size, int P, const float *x, const float *const *grad, float *d_x, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long i = 0; i < size; i += LANES) {
        const int left = size - i < LANES ? (int)(size - i) : LANES;
        vec sum = {0};
        for (int p = 0; p < P; p++) sum += get(grad[p] + i, left);
        put(d_x + i, get(d_x + i, left) + KEEP(~(get(x + i, left) <= (vec){0}), sum), left);
    }
}

/* Pixels from..to - 1 of `size` that the 3 pixel window around `stride` * i covers. */
static void window(int i, int stride, int size, int *from, int *to) {
    *from = i * stride > 0 ? i * stride - 1 : 0;
    *to = i * stride + 2 < size ? i * stride + 2 : size;
}

/* 3 x 3 pools with a border of one pixel that does not count. x (N, H, W, C), out (N, h, w, C). */
void avg_pool_forward(const Shape *s, const float *x, float *out) {
    const int C = s->C;
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int n = 0; n < s->N; n++) {
        const float *image = x + (long)n * s->H * s->W * C;
        float *to = out + (long)n * s->h * s->w * C;
        for (int y = 0; y < s->h; y++)
            for (int i = 0; i < s->w; i++, to += C) {
                int top, bottom, left, right;
                window(y, s->stride, s->H, &top, &bottom), window(i, s->stride, s->W, &left, &right);
                const float share = 1.0f / ((bottom - top) * (right - left));
                for (int c = 0; c < C; c += LANES) {
                    vec sum = {0};
                    for (int v = top; v < bottom; v++)
                        for (int u = left; u < right; u++) sum += get(image + ((long)v * s->W + u) * C + c, C - c);
                    put(to + c, sum * share, C - c);
                }
            }
    }
}

/* The same of the gradients: fills d_x (N, H, W, C) from grad (N, h, w, C). */
void avg_pool_backward(const Shape *s, const float *grad, float *d_x) {
    const int C = s->C;
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int n = 0; n < s->N; n++) {
        const float *from = grad + (long)n * s->h * s->w * C;
        float *to = d_x + (long)n * s->H * s->W * C;
        memset(to, 0, sizeof(float) * s->H * s->W * C);
        for (int y = 0; y < s->h; y++)
            for (int i = 0; i < s->w; i++, from += C) {
                int top, bottom, left, right;
                window(y, s->stride, s->H, &top, &bottom), window(i, s->stride, s->W, &left, &right);
                const float share = 1.0f / ((bottom - top) * (right - left));
                for (int c = 0; c < C; c += LANES) {
                    const vec part = get(from + c, C - c) * share;
                    for (int v = top; v < bottom; v++)
                        for (int u = left; u < right; u++) {
                            float *at = to + ((long)v * s->W + u) * C + c;
                            put(at, get(at, C - c) + part, C - c);
                        }
                }
            }
    }
}

typedef signed char tiny __attribute__((vector_size(LANES), aligned(1), may_alias));

/* 3 x 3 maxima, and which of the 9 pixels of the window each is. x (N, H, W, C), out and which (N, h, w, C). */
void max_pool_forward(const Shape *s, const float *x, float *out, signed char *which) {
    const int C = s->C;
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int n = 0; n < s->N; n++) {
        const float *image = x + (long)n * s->H * s->W * C;
        const long first = (long)n * s->h * s->w * C;
        float *to = out + first;
        signed char *index = which + first;
        for (int y = 0; y < s->h; y++)
            for (int i = 0; i < s->w; i++, to += C, index += C) {
                int top, bottom, left, right;
                window(y, s->stride, s->H, &top, &bottom), window(i, s->stride, s->W, &left, &right);
                const int corner = (top - y * s->stride + 1) * 3 + left - i * s->stride + 1;
                for (int c = 0; c < C; c += LANES) {
#define LARGEST(n)                                                                                       \
    do {                                                                                                 \
        vec best = get(image + ((long)top * s->W + left) * C + c, n);                                    \
        bits at = (bits){0} + corner;                                                                    \
        for (int v = top; v < bottom; v++)                                                               \
            for (int u = left; u < right; u++) {                                                         \
                const vec found = get(image + ((long)v * s->W + u) * C + c, n);                          \
                const bits better = (bits)(found > best) | (bits)(found != found); /* NaN is largest */  \
                const int tap = (v - y * s->stride + 1) * 3 + u - i * s->stride + 1;                     \
                best = KEEP(better, found) + KEEP(~better, best);                                        \
                at = (better & tap) | (~better & at);                                                    \
            }                                                                                            \
        put(to + c, best, n);                                                                            \
        const tiny small = __builtin_convertvector(at, tiny);                                            \
        if (n == LANES) *(tiny *)(index + c) = small;                                                    \
        else for (int l = 0; l < n; l++) index[c + l] = small[l];                                        \
    } while (0)
                    WIDE(C - c, LARGEST);
#undef LARGEST
                }
            }
    }
}

/* The first n bytes at p as integers. */
INLINE bits integers(const signed char *p, int n) {
#if LANES == 16
    if (n >= LANES) return (bits)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p));
#elif LANES == 8
    if (n >= LANES) return (bits)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p));
#elif defined(__SSE4_1__)
    int four;
    if (n >= LANES) return memcpy(&four, p, 4), (bits)_mm_cvtepi8_epi32(_mm_cvtsi32_si128(four));
#endif
    bits found = {0};
    for (int l = 0; l < n && l < LANES; l++) found[l] = p[l];
    return found;
}

/* The windows, first to last, that cover pixel i, for strides 1 and 2; there may be none behind the last. */
static void windows(int i, int stride, int *from, int *to) {
    *from = stride == 2 ? i >> 1 : i > 0 ? i - 1 : 0;
    *to = (i + 1) >> (stride - 1);
}

/* The same of the gradients: fills d_x (N, H, W, C) from grad (N, h, w, C). */
void max_pool_backward(const Shape *s, const signed char *which, const float *grad, float *d_x) {
    const int C = s->C;
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int n = 0; n < s->N; n++) {
        const long first = (long)n * s->h * s->w * C;
        float *to = d_x + (long)n * s->H * s->W * C;
        for (int v = 0; v < s->H; v++)
            for (int u = 0; u < s->W; u++, to += C) {
                int top, bottom, left, right;
                windows(v, s->stride, &top, &bottom), windows(u, s->stride, &left, &right);
                for (int c = 0; c < C; c += LANES) {
#define PASSED(n)                                                                                        \
    do {                                                                                                 \
        vec sum = {0};                                                                                   \
        for (int y = top; y <= bottom && y < s->h; y++)                                                  \
            for (int i = left; i <= right && i < s->w; i++) {                                            \
                const long at = first + ((long)y * s->w + i) * C + c;                                    \
                const int tap = (v - y * s->stride + 1) * 3 + u - i * s->stride + 1;                     \
                sum += KEEP(integers(which + at, n) == tap, get(grad + at, n));                          \
            }                                                                                            \
        put(to + c, sum, n);                                                                             \
    } while (0)
                    WIDE(C - c, PASSED);
#undef PASSED
                }
            }
    }
}
