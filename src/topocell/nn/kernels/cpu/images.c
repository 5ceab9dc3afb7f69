/* The data path on CPUs: a batch of uint8 images becomes what a network sees, in one pass. Compiled like kernels.c.
 *
 * Images are N x H x W pixels of C channels, channels last. `table` (256, C) is the normalised value of each byte.
 */
#include <stdint.h>

/* Crop, flip, normalise and cut out. `draws` (5, N): crop offset down and across in the padded image, mirrored or not,
 * centre of the cutout down and across. Pixels beyond the border are black before normalisation; a cutout is 0 after. */
void augment(int N, int H, int W, int C, const uint8_t *images, const int64_t *draws, int padding, int cutout,
             const float *table, float *out, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int n = 0; n < N; n++) {
        const int top = (int)draws[n] - padding, left = (int)draws[N + n] - padding;
        const int mirrored = (int)draws[2 * N + n];
        const int hole_y = (int)draws[3 * N + n] - cutout / 2, hole_x = (int)draws[4 * N + n] - cutout / 2;
        const uint8_t *image = images + (long)n * H * W * C;
        float *to = out + (long)n * H * W * C;
        for (int y = 0; y < H; y++) {
            const int from_y = y + top, hidden_y = y >= hole_y && y < hole_y + cutout;
            for (int x = 0; x < W; x++, to += C) {
                const int from_x = (mirrored ? W - 1 - x : x) + left;
                const int hidden = hidden_y && x >= hole_x && x < hole_x + cutout;
                const int black = from_y < 0 || from_y >= H || from_x < 0 || from_x >= W;
                const uint8_t *pixel = image + ((long)from_y * W + from_x) * C;
                for (int c = 0; c < C; c++) to[c] = hidden ? 0.0f : table[(black ? 0 : pixel[c]) * C + c];
            }
        }
    }
}
