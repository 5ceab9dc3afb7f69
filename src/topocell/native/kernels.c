/* Kernels of the supernet's operations, for CPUs. Compiled on first use, see __init__.py.
 *
 * One stage of a bank: (batch norm,) ReLU, depthwise k x k, 1 x 1, and the statistics of the batch norm that follows.
 *
 * A depthwise-separable operation is a chain of such stages, so these four functions are all that the banks of
 * separable and dilated convolutions need, forward and backward. Of a dense convolution, which the library does better,
 * they do what comes after: the batch norm, and the sum into the nodes. 3 x 3 pools stand at the end.
 *
 * All arrays are float32. A feature map is N images of H x W pixels of C channels, channels last. C is a multiple
 * of LANES, the floats of a vector. M edges work side by side: edge m has the input in[m], its own weights and its own output.
 *   dw (M, C, k, k)   pw (M, C, C) as (out, in)   z (M, N, h, w, C)   mean, variance, rstd, sums (M, C)
 * `stacked` z, of a dense convolution, are (N, h, w, M, C).
 * Where `before` is null the input is the source node and the same for all edges; else it is the z of the stage before,
 * and `before` its batch norm.
 * Work is shared out by images; sums are kept per thread and added in the order of the threads.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#else

static int omp_get_thread_num(void) { return 0; }
#endif

/* Images, size in and out, channels, edges, kernel, stride, dilation, threads, layout of z. */
typedef struct {
    int N, H, W, h, w, C, M, k, stride, dil, threads, stacked;
} Shape;

/* Where image n of edge m begins in z, and how far its pixels are apart. */
static long start_of(const Shape *s, int m, int n) {
    const long pixels = (long)s->h * s->w;
    return s->stacked ? (n * pixels * s->M + m) * s->C : ((long)m * s->N + n) * pixels * s->C;
}
static long step_of(const Shape *s) { return s->stacked ? (long)s->M * s->C : s->C; }

/* A batch norm: statistics, gain and bias (M, C), scale (M,); gain, bias and scale may be null. */
typedef struct {
    const float *mean, *variance, *gain, *bias, *scale;
    double eps;
} Norm;

static void *room(size_t bytes) {
    void *found = NULL;
    if (posix_memalign(&found, 64, bytes ? bytes : 64)) abort();
    return found;
}

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int bits __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#define KEEP(condition, v) ((vec)((bits)(v) & (bits)(condition)))
#define LOAD(p) (*(const vec *)(p))
#define STORE(p, v) (*(vec *)(p) = (v))
#define BLOCK 2048 /* floats of each map that are worked on at a time */

static float rstd_of(const Norm *norm, long i) { return (float)(1.0 / sqrt(norm->variance[i] + norm->eps)); }

/* Gain times scale of channel c of edge m. */
static float gain_of(const Norm *norm, int m, int c, int C) {
    return (norm->gain ? norm->gain[(long)m * C + c] : 1.0f) * (norm->scale ? norm->scale[m] : 1.0f);
}

/* The batch norm of edge m as factor and shift (C,). */
static void affine(const Norm *norm, int m, int C, float *factor, float *shift) {
    for (int c = 0; c < C; c++) {
        const long i = (long)m * C + c;
        factor[c] = rstd_of(norm, i) * gain_of(norm, m, c, C);
        shift[c] = (norm->bias ? norm->bias[i] : 0.0f) - norm->mean[i] * factor[c];
    }
}

/* The batch norm of each edge as rstd and gain (M, C). */
static void slopes(const Shape *s, const Norm *norm, float *rstd, float *gain) {
    for (int m = 0; m < s->M; m++)
        for (int c = 0; c < s->C; c++) {
            const long i = (long)m * s->C + c;
            rstd[i] = rstd_of(norm, i);
            gain[i] = gain_of(norm, m, c, s->C);
        }
}

/* (W + 2 pad) x (H + 2 pad) pixels, zero at the border: ReLU of the image, or of its factor-fold plus shift. */
static void fill(float *buffer, const float *image, int H, int W, int C, int pad, const float *factor,
                 const float *shift) {
    const long row = (long)(W + 2 * pad) * C;
    memset(buffer, 0, sizeof(float) * row * pad);
    memset(buffer + row * (H + pad), 0, sizeof(float) * row * pad);
    for (int y = 0; y < H; y++) {
        float *to = buffer + row * (y + pad);
        memset(to, 0, sizeof(float) * pad * C);
        memset(to + (long)(W + pad) * C, 0, sizeof(float) * pad * C);
        to += pad * C;
        const float *from = image + (long)y * W * C;
        for (int x = 0; x < W; x++)
            for (int c = 0; c < C; c += LANES) {
                vec v = LOAD(from + x * C + c);
                if (factor) v = v * LOAD(factor + c) + LOAD(shift + c);
                STORE(to + x * C + c, KEEP(~(v < (vec){0}), v)); /* NaN passes, as in the library */
            }
    }
}

/* A map of outputs (h, w, C) of a depthwise convolution; rows of `to` are `step` apart. With `add`, to what is there.
 * One block of channels at a time, so that its weights stay in registers. */
static inline __attribute__((always_inline)) void taps(const float *from, long row, int C, const float *weights,
                                                       float *to, long step, int h, int w, const int k,
                                                       const int stride, int dil, const int add) {
    for (int c = 0; c < C; c += LANES) {
        vec weight[49];
#pragma GCC unroll 49
        for (int t = 0; t < k * k; t++) weight[t] = LOAD(weights + (long)t * C + c);
        for (int y = 0; y < h; y++) {
            const float *line = from + (long)y * stride * row + c;
            for (int x = 0; x < w; x++, line += (long)stride * C) {
                float *at = to + y * step + (long)x * C + c;
                vec sum = add ? LOAD(at) : (vec){0};
#pragma GCC unroll 7
                for (int i = 0; i < k; i++) {
                    const float *tap = line + i * dil * row;
#pragma GCC unroll 7
                    for (int j = 0; j < k; j++) sum += LOAD(tap + (long)j * dil * C) * weight[i * k + j];
                }
                STORE(at, sum);
            }
        }
    }
}

static void depthwise(const float *from, long row, int C, const float *weights, float *to, long step, int h, int w,
                      int k, int stride, int dil, int add) {
#define MAP(K, S, A) taps(from, row, C, weights, to, step, h, w, K, S, dil, A)
    if (k == 3) add ? MAP(3, 1, 1) : stride == 1 ? MAP(3, 1, 0) : MAP(3, 2, 0);
    else if (k == 5) add ? MAP(5, 1, 1) : stride == 1 ? MAP(5, 1, 0) : MAP(5, 2, 0);
    else add ? MAP(7, 1, 1) : stride == 1 ? MAP(7, 1, 0) : MAP(7, 2, 0);
#undef MAP
}

/* to (n, C) = from (n, C) times w (C, C) as (in, out). */
static void pointwise(const float *from, const float *w, float *to, int n, int C) {
    int p = 0;
    for (; p + 8 <= n; p += 8)
        for (int c = 0; c < C; c += LANES) {
            vec sum[8] = {{0}};
            for (int i = 0; i < C; i++) {
                const vec weight = LOAD(w + (long)i * C + c);
                for (int j = 0; j < 8; j++) sum[j] += from[(long)(p + j) * C + i] * weight;
            }
            for (int j = 0; j < 8; j++) STORE(to + (long)(p + j) * C + c, sum[j]);
        }
    for (; p < n; p++)
        for (int c = 0; c < C; c += LANES) {
            vec sum = {0};
            for (int i = 0; i < C; i++) sum += from[(long)p * C + i] * LOAD(w + (long)i * C + c);
            STORE(to + (long)p * C + c, sum);
        }
}

/* sum (C, C) as (in, out) += transpose of a (n, C) times b (n, C). */
static void outer(const float *a, const float *b, float *sum, int n, int C) {
    const int block = C % 8 ? 4 : 8;
    for (int i = 0; i < C; i += block)
        for (int c = 0; c < C; c += LANES) {
            vec s[8] = {{0}};
            if (block == 8)
                for (int p = 0; p < n; p++) {
                    const vec v = LOAD(b + (long)p * C + c);
                    for (int j = 0; j < 8; j++) s[j] += a[(long)p * C + i + j] * v;
                }
            else
                for (int p = 0; p < n; p++) {
                    const vec v = LOAD(b + (long)p * C + c);
                    for (int j = 0; j < 4; j++) s[j] += a[(long)p * C + i + j] * v;
                }
            for (int j = 0; j < block; j++) {
                float *to = sum + (long)(i + j) * C + c;
                STORE(to, LOAD(to) + s[j]);
            }
        }
}

/* sum (k k, C) += gradient of the weights of a depthwise convolution. grad (h, w, C), padded input. */
static inline __attribute__((always_inline)) void tap_gradients(const float *input, long row, int C,
                                                                   const float *grad, int h, int w, float *sum,
                                                                   const int k, const int stride, int dil) {
    for (int c = 0; c < C; c += LANES) {
        const int rows = k == 7 ? 1 : k; /* 49 sums would not fit the registers */
        for (int first = 0; first < k; first += rows) {
            vec s[25] = {{0}};
            for (int y = 0; y < h; y++) {
                const float *line = input + (long)y * stride * row + first * dil * row + c;
                for (int x = 0; x < w; x++, line += (long)stride * C) {
                    const vec g = LOAD(grad + ((long)y * w + x) * C + c);
#pragma GCC unroll 7
                    for (int i = 0; i < rows; i++) {
                        const float *tap = line + i * dil * row;
#pragma GCC unroll 7
                        for (int j = 0; j < k; j++) s[i * k + j] += g * LOAD(tap + (long)j * dil * C);
                    }
                }
            }
            for (int t = 0; t < rows * k; t++) {
                float *to = sum + (long)(first * k + t) * C + c;
                STORE(to, LOAD(to) + s[t]);
            }
        }
    }
}

static void depthwise_weights(const float *input, long row, int C, const float *grad, int h, int w, float *sum,
                                 int k, int stride, int dil) {
#define SUMS(K, S) tap_gradients(input, row, C, grad, h, w, sum, K, S, dil)
    if (k == 3) stride == 1 ? SUMS(3, 1) : SUMS(3, 2);
    else if (k == 5) stride == 1 ? SUMS(5, 1) : SUMS(5, 2);
    else stride == 1 ? SUMS(7, 1) : SUMS(7, 2);
#undef SUMS
}

/* Gradient of the input of a depthwise convolution of stride 2, added into the padded map `to`. */
static void scatter(const float *grad, int h, int w, int C, const float *weight, float *to, long row, int k,
                       int stride, int dil) {
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            for (int i = 0; i < k; i++)
                for (int j = 0; j < k; j++) {
                    float *at = to + (long)(y * stride + i * dil) * row + (long)(x * stride + j * dil) * C;
                    for (int c = 0; c < C; c += LANES)
                        STORE(at + c, LOAD(at + c) + LOAD(grad + ((long)y * w + x) * C + c) *
                                                         LOAD(weight + (long)(i * k + j) * C + c));
                }
}

/* sum (C,) += sums of a (n, C); square (C,) += sums of its squares, or of a times (b - mean) with b, whose pixels are
 * `step` apart. */
static void moments(const float *a, const float *b, long step, const float *mean, int n, int C, double *sum,
                    double *square) {
    for (int start = 0; start < n; start += 256)
        for (int c = 0; c < C; c += LANES) {
            vec s = {0}, q = {0};
            const int end = start + 256 < n ? start + 256 : n;
            for (int p = start; p < end; p++) {
                const vec v = LOAD(a + (long)p * C + c);
                vec other = v;
                if (b) other = LOAD(b + p * step + c) - LOAD(mean + c);
                s += v;
                q += v * other;
            }
            for (int i = 0; i < LANES; i++) {
                sum[c + i] += s[i];
                square[c + i] += q[i];
            }
        }
}

/* Mean and (biased) variance (n,) of `count` values each, from the sums and squares (threads, 2, n) of `moments`. */
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

/* d_z (pixels, C) of one edge in one image, given grad of the output of the batch norm, the sums of `gradient_sums`
 * over `count` pixels, and rstd and gain (C,). */
static void norm_gradient(const float *grad, const float *z, long z_step, const float *mean, const float *rstd,
                          const float *gain, const float *sum, const float *product, double count, float *d_z,
                          long d_step, int pixels, int C) {
    for (int c = 0; c < C; c += LANES) {
        const vec r = LOAD(rstd + c), mu = LOAD(mean + c), by = r * LOAD(gain + c);
        const vec a = LOAD(sum + c) / (float)count, b = LOAD(product + c) / (float)count * r;
        for (long p = 0; p < pixels; p++)
            STORE(d_z + p * d_step + c, (LOAD(grad + p * C + c) - a - (LOAD(z + p * z_step + c) - mu) * b) * by);
    }
}

/* (C, k k) -> (k k, C), or back, the taps in reverse order with `flip`. */
static void swap(const float *from, float *to, int rows, int columns) {
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) to[(long)c * rows + r] = from[(long)r * columns + c];
}

/* Forward: fills z and its mean and (biased) variance. */
void stage_forward(const Shape *s, const float *const *in, const Norm *before, const float *dw, const float *pw,
                   float *z, float *mean, float *variance) {
    const int C = s->C, taps = s->k * s->k, pad = s->dil * (s->k - 1) / 2, threads = s->threads;
    const long row = (long)(s->W + 2 * pad) * C, image = (long)s->H * s->W * C, out = (long)s->h * s->w * C;
    float *dws = room(sizeof(float) * s->M * taps * C), *pws = room(sizeof(float) * s->M * C * C);
    float *factor = room(sizeof(float) * s->M * C), *shift = room(sizeof(float) * s->M * C);
    double *sums = room(sizeof(double) * threads * s->M * C * 2);
    memset(sums, 0, sizeof(double) * threads * s->M * C * 2);
    for (int m = 0; m < s->M; m++) {
        if (before) affine(before, m, C, factor + (long)m * C, shift + (long)m * C);
        swap(dw + (long)m * C * taps, dws + (long)m * taps * C, C, taps);
        swap(pw + (long)m * C * C, pws + (long)m * C * C, C, C);
    }
#pragma omp parallel num_threads(threads)
    {
        float *padded = room(sizeof(float) * row * (s->H + 2 * pad)), *deep = room(sizeof(float) * out);
        double *mine = sums + (long)omp_get_thread_num() * s->M * C * 2;
#pragma omp for schedule(static)
        for (int n = 0; n < s->N; n++)
            for (int m = 0; m < s->M; m++) {
                if (before || m == 0)
                    fill(padded, in[m] + n * image, s->H, s->W, C, pad, before ? factor + (long)m * C : NULL,
                         shift + (long)m * C);
                float *to = z + ((long)m * s->N + n) * out;
                depthwise(padded, row, C, dws + (long)m * taps * C, deep, (long)s->w * C, s->h, s->w, s->k, s->stride,
                          s->dil, 0);
                pointwise(deep, pws + (long)m * C * C, to, s->h * s->w, C);
                moments(to, NULL, C, NULL, s->h * s->w, C, mine + (long)m * C, mine + (long)(s->M + m) * C);
            }
        free(padded), free(deep);
    }
    statistics_of(sums, threads, (long)s->M * C, (double)s->N * s->h * s->w, mean, variance);
    free(dws), free(pws), free(factor), free(shift), free(sums);
}

/* Mean and (biased) variance of stacked z. */
void statistics(const Shape *s, const float *z, float *mean, float *variance) {
    const int all = s->M * s->C, pixels = s->h * s->w, threads = s->threads;
    double *sums = room(sizeof(double) * threads * all * 2);
    memset(sums, 0, sizeof(double) * threads * all * 2);
#pragma omp parallel num_threads(threads)
    {
        double *mine = sums + (long)omp_get_thread_num() * all * 2;
#pragma omp for schedule(static)
        for (int n = 0; n < s->N; n++)
            moments(z + (long)n * pixels * all, NULL, all, NULL, pixels, all, mine, mine + all);
    }
    statistics_of(sums, threads, all, (double)s->N * pixels, mean, variance);
    free(sums);
}

/* out[m] (N, h, w, C) += batch norm of z. */
void combine(const Shape *s, const float *z, const Norm *norm, float *const *out) {
    const int C = s->C;
    const long size = (long)s->h * s->w * C;
    float *factor = room(sizeof(float) * s->M * C), *shift = room(sizeof(float) * s->M * C);
    for (int m = 0; m < s->M; m++) affine(norm, m, C, factor + (long)m * C, shift + (long)m * C);
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int n = 0; n < s->N; n++)
        for (int m = 0; m < s->M; m++) {
            for (int c = 0; c < C; c += LANES) {
                const vec by = LOAD(factor + (long)m * C + c), plus = LOAD(shift + (long)m * C + c);
                const float *from = z + start_of(s, m, n) + c;
                float *to = out[m] + n * size + c;
                for (int p = 0; p < s->h * s->w; p++, to += C, from += step_of(s))
                    STORE(to, LOAD(to) + LOAD(from) * by + plus);
            }
        }
    free(factor), free(shift);
}

/* Sums that the backward of batch norm needs: of grad, and of grad times (z - mean) rstd; (M, C) each. Where it is
 * not null, d_scale (M,) is the second summed over the channels. */
void gradient_sums(const Shape *s, const float *const *grad, const float *z, const Norm *norm, float *sum,
                   float *product, float *d_scale) {
    const int C = s->C, threads = s->threads;
    const long size = (long)s->h * s->w * C;
    double *sums = room(sizeof(double) * threads * s->M * C * 2);
    memset(sums, 0, sizeof(double) * threads * s->M * C * 2);
#pragma omp parallel num_threads(threads)
    {
        double *mine = sums + (long)omp_get_thread_num() * s->M * C * 2;
#pragma omp for schedule(static)
        for (int n = 0; n < s->N; n++)
            for (int m = 0; m < s->M; m++)
                moments(grad[m] + n * size, z + start_of(s, m, n), step_of(s), norm->mean + (long)m * C, s->h * s->w,
                        C, mine + (long)m * C * 2, mine + (long)m * C * 2 + C);
    }
    for (int m = 0; m < s->M; m++) {
        double total = 0;
        for (int c = 0; c < C; c++) {
            double a = 0, b = 0;
            for (int t = 0; t < threads; t++) {
                a += sums[((long)t * s->M + m) * C * 2 + c];
                b += sums[((long)t * s->M + m) * C * 2 + C + c];
            }
            b *= rstd_of(norm, (long)m * C + c);
            sum[(long)m * C + c] = (float)a;
            product[(long)m * C + c] = (float)b;
            total += b;
        }
        if (d_scale) d_scale[m] = (float)total;
    }
    free(sums);
}

/* d_z, laid out like z, given grad[m] of the output of the batch norm and the sums of `gradient_sums`. */
void norm_backward(const Shape *s, const float *const *grad, const float *z, const Norm *norm, const float *sum,
                   const float *product, float *d_z) {
    const int C = s->C, pixels = s->h * s->w;
    const long step = step_of(s);
    float *rstd = room(sizeof(float) * s->M * C), *gain = room(sizeof(float) * s->M * C);
    slopes(s, norm, rstd, gain);
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int n = 0; n < s->N; n++)
        for (int m = 0; m < s->M; m++) {
            const long i = (long)m * C, start = start_of(s, m, n);
            norm_gradient(grad[m] + (long)n * pixels * C, z + start, step, norm->mean + i, rstd + i, gain + i, sum + i,
                          product + i, (double)s->N * pixels, d_z + start, step, pixels, C);
        }
    free(rstd), free(gain);
}

/* Backward, given grad[m] of the output of the batch norm and the sums of `gradient_sums`. d_in: where `before` is
 * null, (N, H, W, C), added to; else (M, N, H, W, C), the gradient of the output of that batch norm. d_dw, d_pw are
 * filled where they are not null. */
void stage_backward(const Shape *s, const float *const *in, const Norm *before, const float *dw, const float *pw,
                    const float *z, const Norm *norm, const float *const *grad, const float *sum,
                    const float *product, float *d_in, float *d_dw, float *d_pw) {
    const int C = s->C, taps = s->k * s->k, pad = s->dil * (s->k - 1) / 2, threads = s->threads;
    const int pixels = s->h * s->w, weights = d_dw != NULL;
    const long row = (long)(s->W + 2 * pad) * C, image = (long)s->H * s->W * C, out = (long)pixels * C;
    const long padded_size = row * (s->H + 2 * pad), per_edge = (long)taps * C + (long)C * C;
    const double count = (double)s->N * pixels;
    float *dws = room(sizeof(float) * s->M * taps * C), *flipped = room(sizeof(float) * s->M * taps * C);
    float *factor = room(sizeof(float) * s->M * C), *shift = room(sizeof(float) * s->M * C);
    float *rstd = room(sizeof(float) * s->M * C), *gain = room(sizeof(float) * s->M * C), *sums = NULL;
    for (int m = 0; before && m < s->M; m++) affine(before, m, C, factor + (long)m * C, shift + (long)m * C);
    slopes(s, norm, rstd, gain);
    if (weights) {
        sums = room(sizeof(float) * threads * s->M * per_edge);
        memset(sums, 0, sizeof(float) * threads * s->M * per_edge);
    }
    for (int m = 0; m < s->M; m++) {
        float *plain = dws + (long)m * taps * C, *turned = flipped + (long)m * taps * C;
        swap(dw + (long)m * C * taps, plain, C, taps);
        for (int t = 0; t < taps; t++) memcpy(turned + (long)t * C, plain + (long)(taps - 1 - t) * C, sizeof(float) * C);
    }
#pragma omp parallel num_threads(threads)
    {
        float *padded = room(sizeof(float) * padded_size), *d_padded = room(sizeof(float) * padded_size);
        float *spread = room(sizeof(float) * padded_size);
        float *d_z = room(sizeof(float) * out), *deep = room(sizeof(float) * out), *d_deep = room(sizeof(float) * out);
        float *mine = weights ? sums + (long)omp_get_thread_num() * s->M * per_edge : NULL;
#pragma omp for schedule(static)
        for (int n = 0; n < s->N; n++) {
            for (int m = 0; m < s->M; m++) {
                const float *weight = dws + (long)m * taps * C;
                if (before || m == 0) {
                    fill(padded, in[m] + n * image, s->H, s->W, C, pad, before ? factor + (long)m * C : NULL,
                         shift + (long)m * C);
                    memset(d_padded, 0, sizeof(float) * padded_size);
                }
                /* batch norm */
                const float *from = z + ((long)m * s->N + n) * out, *g = grad[m] + n * out;
                norm_gradient(g, from, C, norm->mean + (long)m * C, rstd + (long)m * C, gain + (long)m * C,
                              sum + (long)m * C, product + (long)m * C, count, d_z, C, pixels, C);
                /* 1 x 1 */
                pointwise(d_z, pw + (long)m * C * C, d_deep, pixels, C);
                if (weights) {
                    float *to = mine + m * per_edge;
                    depthwise(padded, row, C, weight, deep, (long)s->w * C, s->h, s->w, s->k, s->stride, s->dil, 0);
                    outer(deep, d_z, to + (long)taps * C, pixels, C);
                    depthwise_weights(padded, row, C, d_deep, s->h, s->w, to, s->k, s->stride, s->dil);
                }
                /* depthwise */
                if (s->stride == 1) {
                    memset(spread, 0, sizeof(float) * padded_size);
                    for (int y = 0; y < s->h; y++)
                        memcpy(spread + (y + pad) * row + (long)pad * C, d_deep + (long)y * s->w * C,
                               sizeof(float) * s->w * C);
                    depthwise(spread, row, C, flipped + (long)m * taps * C, d_padded + pad * row + (long)pad * C, row,
                              s->H, s->W, s->k, 1, s->dil, 1);
                } else {
                    scatter(d_deep, s->h, s->w, C, weight, d_padded, row, s->k, s->stride, s->dil);
                }
                /* ReLU; its input is positive where its output is */
                if (!before && m + 1 < s->M) continue;
                float *to = before ? d_in + ((long)m * s->N + n) * image : d_in + n * image;
                for (int y = 0; y < s->H; y++) {
                    const float *slope = padded + (y + pad) * row + (long)pad * C;
                    const float *d = d_padded + (y + pad) * row + (long)pad * C;
                    float *line = to + (long)y * s->W * C;
                    for (int i = 0; i < s->W * C; i += LANES) {
                        vec passed = KEEP(LOAD(slope + i) > (vec){0}, LOAD(d + i));
                        if (!before) passed += LOAD(line + i);
                        STORE(line + i, passed);
                    }
                }
            }
        }
        free(padded), free(d_padded), free(spread), free(d_z), free(deep), free(d_deep);
    }
    if (weights) {
        for (int t = 1; t < threads; t++)
            for (long i = 0; i < s->M * per_edge; i++) sums[i] += sums[t * s->M * per_edge + i];
        for (int m = 0; m < s->M; m++) {
            swap(sums + m * per_edge, d_dw + (long)m * C * taps, taps, C);
            swap(sums + m * per_edge + (long)taps * C, d_pw + (long)m * C * C, C, C);
        }
        free(sums);
    }
    free(dws), free(flipped), free(factor), free(shift), free(rstd), free(gain);
}

/* out[m] = base[m] + sum over p of mix[p, m] maps[p]; a base may be null. All of `size` floats, a multiple of LANES. */
void mix_forward(long size, int P, int M, const float *const *maps, const float *mix, const float *const *base,
                 float *const *out, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long start = 0; start < size; start += BLOCK) {
        const long end = start + BLOCK < size ? start + BLOCK : size;
        for (int m = 0; m < M; m++)
            for (long i = start; i < end; i += LANES) {
                vec sum = {0};
                if (base[m]) sum = LOAD(base[m] + i);
                for (int p = 0; p < P; p++) sum += mix[p * M + m] * LOAD(maps[p] + i);
                STORE(out[m] + i, sum);
            }
    }
}

/* d_maps[p] = sum over m of mix[p, m] grad[m], where not null; d_mix[p, m] = product of grad[m] and maps[p]. Where
 * d_mix is null the maps are not read. */
void mix_backward(long size, int P, int M, const float *const *maps, const float *mix, const float *const *grad,
                  float *const *d_maps, float *d_mix, int threads) {
    double *sums = room(sizeof(double) * threads * P * M);
    memset(sums, 0, sizeof(double) * threads * P * M);
#pragma omp parallel num_threads(threads)
    {
        double *mine = sums + (long)omp_get_thread_num() * P * M;
#pragma omp for schedule(static)
        for (long start = 0; start < size; start += BLOCK) {
            const long end = start + BLOCK < size ? start + BLOCK : size;
            for (int p = 0; p < P; p++) {
                if (d_maps[p])
                    for (long i = start; i < end; i += LANES) {
                        vec sum = {0};
                        for (int m = 0; m < M; m++) sum += mix[p * M + m] * LOAD(grad[m] + i);
                        STORE(d_maps[p] + i, sum);
                    }
                for (int m = 0; d_mix && m < M; m++) {
                    vec sum = {0};
                    for (long i = start; i < end; i += LANES) sum += LOAD(grad[m] + i) * LOAD(maps[p] + i);
                    for (int l = 0; l < LANES; l++) mine[p * M + m] += sum[l];
                }
            }
        }
    }
    for (int i = 0; d_mix && i < P * M; i++) {
        double sum = 0;
        for (int t = 0; t < threads; t++) sum += sums[(long)t * P * M + i];
        d_mix[i] = (float)sum;
    }
    free(sums);
}

/* d_x += sum over p of grad[p] where x is positive. All of `size` floats, a multiple of LANES. */
void relu_backward(long size, int P, const float *x, const float *const *grad, float *d_x, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long i = 0; i < size; i += LANES) {
        vec sum = {0};
        for (int p = 0; p < P; p++) sum += LOAD(grad[p] + i);
        STORE(d_x + i, LOAD(d_x + i) + KEEP(LOAD(x + i) > (vec){0}, sum));
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
                        for (int u = left; u < right; u++) sum += LOAD(image + ((long)v * s->W + u) * C + c);
                    STORE(to + c, sum * share);
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
                    const vec part = LOAD(from + c) * share;
                    for (int v = top; v < bottom; v++)
                        for (int u = left; u < right; u++) {
                            float *at = to + ((long)v * s->W + u) * C + c;
                            STORE(at, LOAD(at) + part);
                        }
                }
            }
    }
}
