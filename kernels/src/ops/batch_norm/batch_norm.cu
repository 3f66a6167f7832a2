// Batch norm of channels-last maps [n, c], per channel over all rows, forward and backward.
//
// Forward: batch_norm_pieces writes the mean and the sum of squares around it per split of rows and
// channel; batch_norm_stats, a thread per channel, merges the splits in order; batch_norm_fwd
// normalises (2-D tiles, vectors.cuh), in evaluation by the running statistics.
// Backward: batch_norm_columns writes sums over rows of dy * xhat and dy per split and channel,
// batch_norm_sums adds the splits and adds the sums to dweight and dbias; batch_norm_bwd writes dx,
// in evaluation without the sums.
// batch_norm_running moves the running statistics. Overwritten: everything but dweight, dbias and the
// running statistics.
#include "columns.cuh"
#include "moments.cuh"
#include "vectors.cuh"

struct BatchNorm {
    uint32_t n;
    uint32_t c;
    float eps;
    float momentum;
    // n / (n - 1).
    float unbiased;
    // Whether the statistics are those of the batch.
    uint32_t training;
    // Rows per split of the statistics or sums, and splits.
    uint32_t rows;
    uint32_t splits;
    // Rows of a 2-D tile.
    uint32_t tile_rows;
};

constexpr int CHANNEL_THREADS = 256;

// Block (i, split): 256 channels. partial is [splits, 2, c].
template <typename T>
__device__ __forceinline__ void row_splits(
    const BatchNorm& s, const T* __restrict__ x, float* __restrict__ partial) {
    const uint32_t j = blockIdx.x * CHANNEL_THREADS + threadIdx.x;
    if (j >= s.c) return;
    const uint32_t first = blockIdx.y * s.rows;
    const uint32_t count = first + s.rows < s.n ? s.rows : s.n - first;
    const Moments of_split = column_moments(x + size_t(first) * s.c + j, count, s.c);
    partial += size_t(blockIdx.y) * 2 * s.c + j;
    partial[0] = of_split.mean;
    partial[s.c] = of_split.squares;
}

extern "C" __global__ void __launch_bounds__(CHANNEL_THREADS) batch_norm_stats(
    BatchNorm s, const float* __restrict__ partial, float* __restrict__ mean,
    float* __restrict__ var) {
    const uint32_t j = blockIdx.x * CHANNEL_THREADS + threadIdx.x;
    if (j >= s.c) return;
    Moments all = {0.0f, 0.0f, 0.0f};
    for (uint32_t split = 0; split < s.splits; split++) {
        const uint32_t first = split * s.rows;
        const uint32_t count = first + s.rows < s.n ? s.rows : s.n - first;
        const float* p = partial + size_t(split) * 2 * s.c + j;
        all = merge(all, Moments{float(count), p[0], p[s.c]});
    }
    mean[j] = all.mean;
    var[j] = all.squares / all.n;
}

template <typename T>
__device__ __forceinline__ void forward(
    const BatchNorm& s, const T* __restrict__ x, const float* __restrict__ weight,
    const float* __restrict__ bias, const float* __restrict__ mean,
    const float* __restrict__ var, T* __restrict__ y) {
    const Tile2d tile(s.n, s.c, s.tile_rows);
    if (tile.count == 0) return;
    const bool wide = s.c % VECTOR == 0 && aligned(x, y, weight, bias) && aligned(mean, var);
    float m[VECTOR], r[VECTOR], w[VECTOR], b[VECTOR];
    load(mean + tile.column, wide, tile.count, m);
    load(var + tile.column, wide, tile.count, r);
    load(weight + tile.column, wide, tile.count, w);
    load(bias + tile.column, wide, tile.count, b);
#pragma unroll
    for (int k = 0; k < VECTOR; k++) w[k] *= 1.0f / sqrtf(r[k] + s.eps);
    for (uint32_t row = tile.first; row < tile.last; row += TILE_WARPS) {
        const size_t at = size_t(row) * s.c + tile.column;
        float v[VECTOR];
        load(x + at, wide, tile.count, v);
#pragma unroll
        for (int k = 0; k < VECTOR; k++) v[k] = (v[k] - m[k]) * w[k] + b[k];
        store(y + at, wide, tile.count, v);
    }
}

// y = xhat * weight + bias. Block (i, split); partial is [2, splits, c].
template <typename T>
__device__ __forceinline__ void columns(
    const BatchNorm& s, const T* __restrict__ x, const float* __restrict__ mean,
    const float* __restrict__ var, const T* __restrict__ dy, float* __restrict__ partial) {
    const uint32_t own = blockIdx.x * COLUMN_LANES + threadIdx.x % COLUMN_LANES;
    const float m = own < s.c ? mean[own] : 0.0f;
    const float rstd = own < s.c ? 1.0f / sqrtf(var[own] + s.eps) : 0.0f;
    column_pieces<2>(s.n, s.c, s.rows, partial, [&](uint32_t row, uint32_t j, float (&out)[2]) {
        const size_t at = size_t(row) * s.c + j;
        const float d = to_f32(dy[at]);
        out[0] = d * ((to_f32(x[at]) - m) * rstd);
        out[1] = d;
    });
}

// Sums over the splits, [2, splits, c] to [2, c], which are added to the requested gradients.
extern "C" __global__ void __launch_bounds__(CHANNEL_THREADS) batch_norm_sums(
    BatchNorm s, const float* __restrict__ partial, float* __restrict__ sums,
    float* __restrict__ dweight, float* __restrict__ dbias) {
    const uint32_t j = blockIdx.x * CHANNEL_THREADS + threadIdx.x;
    if (j >= s.c) return;
    float of_x = 0.0f, sum = 0.0f;
#pragma unroll 4
    for (uint32_t split = 0; split < s.splits; split++) {
        of_x += partial[size_t(split) * s.c + j];
        sum += partial[size_t(s.splits + split) * s.c + j];
    }
    sums[j] = of_x;
    sums[s.c + j] = sum;
    if (dweight != nullptr) dweight[j] += of_x;
    if (dbias != nullptr) dbias[j] += sum;
}

// dx = rstd * weight * (dy - mean(dy) - xhat * mean(dy * xhat)), in evaluation rstd * weight * dy.
template <typename T>
__device__ __forceinline__ void backward(
    const BatchNorm& s, const T* __restrict__ x, const float* __restrict__ weight,
    const float* __restrict__ mean, const float* __restrict__ var,
    const float* __restrict__ sums, const T* __restrict__ dy, T* __restrict__ dx) {
    const Tile2d tile(s.n, s.c, s.tile_rows);
    if (tile.count == 0) return;
    const bool wide = s.c % VECTOR == 0 && aligned(x, dy, dx, weight) && aligned(mean, var, sums);
    float w[VECTOR], r[VECTOR], m[VECTOR] = {}, of_x[VECTOR] = {}, rest[VECTOR] = {};
    load(weight + tile.column, wide, tile.count, w);
    load(var + tile.column, wide, tile.count, r);
#pragma unroll
    for (int k = 0; k < VECTOR; k++) {
        r[k] = 1.0f / sqrtf(r[k] + s.eps);
        w[k] *= r[k];
    }
    if (s.training != 0) {
        const float inv = 1.0f / float(s.n);
        load(mean + tile.column, wide, tile.count, m);
        load(sums + tile.column, wide, tile.count, of_x);
        load(sums + s.c + tile.column, wide, tile.count, rest);
#pragma unroll
        for (int k = 0; k < VECTOR; k++) {
            of_x[k] *= r[k] * inv;
            rest[k] *= inv;
        }
    }
#pragma unroll 1
    for (uint32_t row = tile.first; row < tile.last; row += TILE_WARPS) {
        const size_t at = size_t(row) * s.c + tile.column;
        float v[VECTOR] = {}, g[VECTOR];
        load(dy + at, wide, tile.count, g);
        if (s.training != 0) load(x + at, wide, tile.count, v);
#pragma unroll
        for (int k = 0; k < VECTOR; k++) v[k] = w[k] * (g[k] - rest[k] - (v[k] - m[k]) * of_x[k]);
        store(dx + at, wide, tile.count, v);
    }
}

extern "C" __global__ void __launch_bounds__(CHANNEL_THREADS) batch_norm_running(
    BatchNorm s, const float* __restrict__ mean, const float* __restrict__ var,
    const float* __restrict__ guard, float* __restrict__ running_mean,
    float* __restrict__ running_var) {
    const uint32_t j = blockIdx.x * CHANNEL_THREADS + threadIdx.x;
    if (j >= s.c || (guard != nullptr && !isfinite(guard[0]))) return;
    running_mean[j] += s.momentum * (mean[j] - running_mean[j]);
    running_var[j] += s.momentum * (var[j] * s.unbiased - running_var[j]);
}

#define BATCH_NORM(T, SUFFIX)                                                                     \
    extern "C" __global__ void __launch_bounds__(CHANNEL_THREADS) batch_norm_pieces##SUFFIX(      \
        BatchNorm s, const T* x, float* partial) {                                                \
        row_splits<T>(s, x, partial);                                                             \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) batch_norm_fwd##SUFFIX(           \
        BatchNorm s, const T* x, const float* weight, const float* bias, const float* mean,       \
        const float* var, T* y) {                                                                 \
        forward<T>(s, x, weight, bias, mean, var, y);                                             \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(COLUMN_THREADS) batch_norm_columns##SUFFIX(      \
        BatchNorm s, const T* x, const float* mean, const float* var, const T* dy,                \
        float* partial) {                                                                         \
        columns<T>(s, x, mean, var, dy, partial);                                                 \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) batch_norm_bwd##SUFFIX(           \
        BatchNorm s, const T* x, const float* weight, const float* mean, const float* var,        \
        const float* sums, const T* dy, T* dx) {                                                  \
        backward<T>(s, x, weight, mean, var, sums, dy, dx);                                       \
    }

BATCH_NORM(float, _f32)
BATCH_NORM(bf16, _bf16)
