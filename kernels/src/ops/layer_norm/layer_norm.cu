// Layer norm over the last axis, forward and backward.
//
// layer_norm_fwd, layer_norm_bwd: one warp per row, four rows per block. A row whose width is a
// multiple of the 16-byte access and at most SWEEPS accesses per lane is read once and kept in
// registers in its storage type (bf16: up to 2048 channels forward, 1536 backward; f32: half of
// these). Other rows are reread for each pass, element by element. No shared memory.
// layer_norm_columns: partial sums over rows of dy and dy * xhat (columns.cuh).
// Overwritten: y, mean, rstd, dx (added to if `add`), partial.
#include "columns.cuh"

struct LayerNorm {
    uint32_t n;
    uint32_t c;
    float eps;
    // Rows per split of the column sums.
    uint32_t rows;
    // Whether to add to dx instead of overwriting it.
    uint32_t add;
};

constexpr int ROWS = 4;
constexpr int SWEEPS_FWD = 8;
constexpr int SWEEPS_BWD = 6;

// Whether a row is kept in registers.
template <typename T>
__device__ __forceinline__ bool held(uint32_t c, int sweeps) {
    return c % WIDE<T> == 0 && c <= 32u * WIDE<T> * sweeps;
}

template <typename T>
__device__ __forceinline__ void forward(
    const LayerNorm& s, const T* __restrict__ x, const float* __restrict__ weight,
    const float* __restrict__ bias, T* __restrict__ y, float* __restrict__ mean,
    float* __restrict__ rstd) {
    constexpr int W = WIDE<T>;
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t row = blockIdx.x * ROWS + threadIdx.x / 32;
    if (row >= s.n) return;
    x += size_t(row) * s.c;
    y += size_t(row) * s.c;
    const float inv = 1.0f / float(s.c);
    float sum = 0.0f, squares = 0.0f;
    if (held<T>(s.c, SWEEPS_FWD) && aligned(x, y, weight, bias)) {
        Raw raw[SWEEPS_FWD];
        float v[W];
#pragma unroll
        for (int i = 0; i < SWEEPS_FWD; i++) {
            const uint32_t j = (i * 32 + lane) * W;
            if (j < s.c) raw[i] = load_raw(x + j);
        }
#pragma unroll
        for (int i = 0; i < SWEEPS_FWD; i++) {
            if ((i * 32 + lane) * W >= s.c) continue;
            widen(raw[i], v);
#pragma unroll
            for (int k = 0; k < W; k++) sum += v[k];
        }
        const float m = warp_sum(sum) * inv;
#pragma unroll
        for (int i = 0; i < SWEEPS_FWD; i++) {
            if ((i * 32 + lane) * W >= s.c) continue;
            widen(raw[i], v);
#pragma unroll
            for (int k = 0; k < W; k++) squares += (v[k] - m) * (v[k] - m);
        }
        const float r = 1.0f / sqrtf(warp_sum(squares) * inv + s.eps);
#pragma unroll
        for (int i = 0; i < SWEEPS_FWD; i++) {
            const uint32_t j = (i * 32 + lane) * W;
            if (j >= s.c) continue;
            float w[W], b[W];
            widen(raw[i], v);
            load(weight + j, true, W, w);
            load(bias + j, true, W, b);
#pragma unroll
            for (int k = 0; k < W; k++) v[k] = (v[k] - m) * r * w[k] + b[k];
            store(y + j, true, W, v);
        }
        if (lane == 0) mean[row] = m, rstd[row] = r;
        return;
    }
    for (uint32_t j = lane; j < s.c; j += 32) sum += to_f32(x[j]);
    const float m = warp_sum(sum) * inv;
    for (uint32_t j = lane; j < s.c; j += 32) {
        const float d = to_f32(x[j]) - m;
        squares += d * d;
    }
    const float r = 1.0f / sqrtf(warp_sum(squares) * inv + s.eps);
    for (uint32_t j = lane; j < s.c; j += 32)
        y[j] = from_f32<T>((to_f32(x[j]) - m) * r * weight[j] + bias[j]);
    if (lane == 0) mean[row] = m, rstd[row] = r;
}

// xhat = (x - mean) * rstd, where mean and rstd depend on every x of the row, so
// dx = rstd * (g - mean(g) - xhat * mean(g * xhat)) with g = dy * weight.
template <typename T>
__device__ __forceinline__ void backward(
    const LayerNorm& s, const T* __restrict__ x, const float* __restrict__ weight,
    const float* __restrict__ mean, const float* __restrict__ rstd, const T* __restrict__ dy,
    T* __restrict__ dx) {
    constexpr int W = WIDE<T>;
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t row = blockIdx.x * ROWS + threadIdx.x / 32;
    if (row >= s.n) return;
    x += size_t(row) * s.c;
    dy += size_t(row) * s.c;
    dx += size_t(row) * s.c;
    const float inv = 1.0f / float(s.c);
    const float m = mean[row], r = rstd[row];
    float g_sum = 0.0f, gx_sum = 0.0f;
    if (held<T>(s.c, SWEEPS_BWD) && aligned(x, dy, dx, weight)) {
        Raw x_raw[SWEEPS_BWD], dy_raw[SWEEPS_BWD];
        float v[W], g[W], w[W];
#pragma unroll
        for (int i = 0; i < SWEEPS_BWD; i++) {
            const uint32_t j = (i * 32 + lane) * W;
            if (j < s.c) x_raw[i] = load_raw(x + j), dy_raw[i] = load_raw(dy + j);
        }
#pragma unroll
        for (int i = 0; i < SWEEPS_BWD; i++) {
            const uint32_t j = (i * 32 + lane) * W;
            if (j >= s.c) continue;
            widen(x_raw[i], v);
            widen(dy_raw[i], g);
            load(weight + j, true, W, w);
#pragma unroll
            for (int k = 0; k < W; k++) {
                g_sum += g[k] * w[k];
                gx_sum += g[k] * w[k] * ((v[k] - m) * r);
            }
        }
        const float mean_g = warp_sum(g_sum) * inv, mean_gx = warp_sum(gx_sum) * inv;
#pragma unroll
        for (int i = 0; i < SWEEPS_BWD; i++) {
            const uint32_t j = (i * 32 + lane) * W;
            if (j >= s.c) continue;
            float old[W];
            widen(x_raw[i], v);
            widen(dy_raw[i], g);
            load(weight + j, true, W, w);
            if (s.add) load(dx + j, true, W, old);
#pragma unroll
            for (int k = 0; k < W; k++) {
                v[k] = r * (g[k] * w[k] - mean_g - (v[k] - m) * r * mean_gx);
                if (s.add) v[k] += old[k];
            }
            store(dx + j, true, W, v);
        }
        return;
    }
    for (uint32_t j = lane; j < s.c; j += 32) {
        const float g = to_f32(dy[j]) * weight[j];
        g_sum += g;
        gx_sum += g * ((to_f32(x[j]) - m) * r);
    }
    const float mean_g = warp_sum(g_sum) * inv, mean_gx = warp_sum(gx_sum) * inv;
    for (uint32_t j = lane; j < s.c; j += 32) {
        const float g = to_f32(dy[j]) * weight[j];
        float d = r * (g - mean_g - (to_f32(x[j]) - m) * r * mean_gx);
        if (s.add) d += to_f32(dx[j]);
        dx[j] = from_f32<T>(d);
    }
}

// y = xhat * weight + bias: partial[0] sums dy * xhat for the weight, partial[1] dy for the bias.
template <typename T>
__device__ __forceinline__ void columns(
    const LayerNorm& s, const T* __restrict__ x, const float* __restrict__ mean,
    const float* __restrict__ rstd, const T* __restrict__ dy, float* __restrict__ partial) {
    column_pieces<2>(s.n, s.c, s.rows, partial, [&](uint32_t row, uint32_t j, float (&out)[2]) {
        const size_t at = size_t(row) * s.c + j;
        const float d = to_f32(dy[at]);
        out[0] = d * ((to_f32(x[at]) - mean[row]) * rstd[row]);
        out[1] = d;
    });
}

#define LAYER_NORM(T, SUFFIX)                                                                     \
    extern "C" __global__ void __launch_bounds__(32 * ROWS) layer_norm_fwd##SUFFIX(               \
        LayerNorm s, const T* x, const float* weight, const float* bias, T* y, float* mean,       \
        float* rstd) {                                                                            \
        forward<T>(s, x, weight, bias, y, mean, rstd);                                            \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(32 * ROWS) layer_norm_bwd##SUFFIX(               \
        LayerNorm s, const T* x, const float* weight, const float* mean, const float* rstd,       \
        const T* dy, T* dx) {                                                                     \
        backward<T>(s, x, weight, mean, rstd, dy, dx);                                            \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(COLUMN_THREADS) layer_norm_columns##SUFFIX(      \
        LayerNorm s, const T* x, const float* mean, const float* rstd, const T* dy,               \
        float* partial) {                                                                         \
        columns<T>(s, x, mean, rstd, dy, partial);                                                \
    }

LAYER_NORM(float, _f32)
LAYER_NORM(bf16, _bf16)
