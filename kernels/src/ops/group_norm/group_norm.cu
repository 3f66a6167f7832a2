// Group norm of channels-last maps [b, hw, c], forward and backward.
//
// Forward: group_norm_pieces writes the mean and the sum of squares around it per image, split of
// rows and channel (one thread per channel, rows are read twice, the second time from the cache);
// group_norm_stats, a warp per image and group, merges splits and channels by Chan's formula;
// group_norm_fwd normalises (2-D tiles, vectors.cuh).
// Backward: group_norm_columns writes sums over rows of dy * xhat and dy per split and channel,
// group_norm_sums adds the splits, group_norm_means computes the two means of each group (a warp
// per image and group), group_norm_params adds the sums of the images to dweight and dbias,
// group_norm_bwd writes dx. Overwritten: everything but dweight and dbias.
#include "columns.cuh"
#include "moments.cuh"
#include "vectors.cuh"

struct GroupNorm {
    uint32_t b;
    uint32_t hw;
    uint32_t c;
    uint32_t groups;
    float eps;
    // Rows per split of the statistics or sums, and splits per image.
    uint32_t rows;
    uint32_t splits;
    // Rows of a 2-D tile.
    uint32_t tile_rows;
};

constexpr int CHANNEL_THREADS = 256;

// Block (i, split, image): 256 channels. partial is [b, splits, 2, c].
template <typename T>
__device__ __forceinline__ void row_splits(
    const GroupNorm& s, const T* __restrict__ x, float* __restrict__ partial) {
    const uint32_t j = blockIdx.x * CHANNEL_THREADS + threadIdx.x;
    if (j >= s.c) return;
    const uint32_t first = blockIdx.y * s.rows;
    const uint32_t count = first + s.rows < s.hw ? s.rows : s.hw - first;
    x += (size_t(blockIdx.z) * s.hw + first) * s.c + j;
    const Moments of_split = column_moments(x, count, s.c);
    partial += (size_t(blockIdx.z) * s.splits + blockIdx.y) * 2 * s.c + j;
    partial[0] = of_split.mean;
    partial[s.c] = of_split.squares;
}

// Image and group of a warp; false for warps beyond the last group.
__device__ __forceinline__ bool group_of_warp(
    const GroupNorm& s, uint32_t& image, uint32_t& group) {
    const uint32_t at = (blockIdx.x * CHANNEL_THREADS + threadIdx.x) / 32;
    image = at / s.groups;
    group = at % s.groups;
    return image < s.b;
}

extern "C" __global__ void __launch_bounds__(CHANNEL_THREADS) group_norm_stats(
    GroupNorm s, const float* __restrict__ partial, float* __restrict__ mean,
    float* __restrict__ rstd) {
    uint32_t image, group;
    if (!group_of_warp(s, image, group)) return;
    const uint32_t width = s.c / s.groups, lane = threadIdx.x % 32;
    partial += size_t(image) * s.splits * 2 * s.c + group * width;
    Moments all = {0.0f, 0.0f, 0.0f};
    for (uint32_t i = lane; i < s.splits * width; i += 32) {
        const uint32_t split = i / width, j = i % width;
        const uint32_t first = split * s.rows;
        const uint32_t count = first + s.rows < s.hw ? s.rows : s.hw - first;
        const float* p = partial + size_t(split) * 2 * s.c + j;
        all = merge(all, Moments{float(count), p[0], p[s.c]});
    }
    // Each step merges neighbours at a doubled distance. The lower lane comes first in both, so all
    // lanes get bitwise equal results.
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const Moments other = {
            __shfl_xor_sync(ALL_LANES, all.n, step), __shfl_xor_sync(ALL_LANES, all.mean, step),
            __shfl_xor_sync(ALL_LANES, all.squares, step)};
        all = lane & step ? merge(other, all) : merge(all, other);
    }
    if (lane == 0) {
        mean[image * s.groups + group] = all.mean;
        rstd[image * s.groups + group] = 1.0f / sqrtf(all.squares / all.n + s.eps);
    }
}

// Statistics of the groups of a vector's columns.
__device__ __forceinline__ void group_values(
    const GroupNorm& s, const Tile2d& tile, const float* p, float (&x)[VECTOR]) {
    const uint32_t width = s.c / s.groups;
#pragma unroll
    for (int k = 0; k < VECTOR; k++)
        x[k] = k < tile.count ? p[blockIdx.z * s.groups + (tile.column + k) / width] : 0.0f;
}

template <typename T>
__device__ __forceinline__ void forward(
    const GroupNorm& s, const T* __restrict__ x, const float* __restrict__ weight,
    const float* __restrict__ bias, const float* __restrict__ mean,
    const float* __restrict__ rstd, T* __restrict__ y) {
    const Tile2d tile(s.hw, s.c, s.tile_rows);
    if (tile.count == 0) return;
    const bool wide = s.c % VECTOR == 0 && aligned(x, y, weight, bias);
    float m[VECTOR], r[VECTOR], w[VECTOR], b[VECTOR];
    group_values(s, tile, mean, m);
    group_values(s, tile, rstd, r);
    load(weight + tile.column, wide, tile.count, w);
    load(bias + tile.column, wide, tile.count, b);
    for (uint32_t row = tile.first; row < tile.last; row += TILE_WARPS) {
        const size_t at = (size_t(blockIdx.z) * s.hw + row) * s.c + tile.column;
        float v[VECTOR];
        load(x + at, wide, tile.count, v);
#pragma unroll
        for (int k = 0; k < VECTOR; k++) v[k] = (v[k] - m[k]) * r[k] * w[k] + b[k];
        store(y + at, wide, tile.count, v);
    }
}

// y = xhat * weight + bias. Block (i, split, image); partial is [b, 2, splits, c].
template <typename T>
__device__ __forceinline__ void columns(
    const GroupNorm& s, const T* __restrict__ x, const float* __restrict__ mean,
    const float* __restrict__ rstd, const T* __restrict__ dy, float* __restrict__ partial) {
    const uint32_t image = blockIdx.z, width = s.c / s.groups;
    const size_t start = size_t(image) * s.hw;
    partial += size_t(image) * 2 * s.splits * s.c;
    column_pieces<2>(s.hw, s.c, s.rows, partial, [&](uint32_t row, uint32_t j, float (&out)[2]) {
        const size_t at = (start + row) * s.c + j;
        const uint32_t group = image * s.groups + j / width;
        const float d = to_f32(dy[at]);
        out[0] = d * ((to_f32(x[at]) - mean[group]) * rstd[group]);
        out[1] = d;
    });
}

// Sums over the splits: [b, 2, splits, c] to [b, 2, c]. Block (i, sum, image): 256 channels.
extern "C" __global__ void __launch_bounds__(CHANNEL_THREADS) group_norm_sums(
    GroupNorm s, const float* __restrict__ partial, float* __restrict__ sums) {
    const uint32_t j = blockIdx.x * CHANNEL_THREADS + threadIdx.x;
    if (j >= s.c) return;
    const size_t which = size_t(blockIdx.z) * 2 + blockIdx.y;
    partial += which * s.splits * s.c + j;
    float sum = 0.0f;
#pragma unroll 8
    for (uint32_t split = 0; split < s.splits; split++) sum += partial[size_t(split) * s.c];
    sums[which * s.c + j] = sum;
}

// mean(g * xhat) and mean(g) with g = dy * weight, per image and group: [2, b, groups].
extern "C" __global__ void __launch_bounds__(CHANNEL_THREADS) group_norm_means(
    GroupNorm s, const float* __restrict__ weight, const float* __restrict__ sums,
    float* __restrict__ means) {
    uint32_t image, group;
    if (!group_of_warp(s, image, group)) return;
    const uint32_t width = s.c / s.groups, lane = threadIdx.x % 32;
    const float* of_image = sums + size_t(image) * 2 * s.c;
    float gx = 0.0f, g = 0.0f;
    for (uint32_t j = group * width + lane; j < (group + 1) * width; j += 32) {
        gx += weight[j] * of_image[j];
        g += weight[j] * of_image[s.c + j];
    }
    gx = warp_sum(gx);
    g = warp_sum(g);
    if (lane == 0) {
        const float inv = 1.0f / (float(s.hw) * float(width));
        means[image * s.groups + group] = gx * inv;
        means[(s.b + image) * s.groups + group] = g * inv;
    }
}

// Adds the sums of the images to the requested gradients.
extern "C" __global__ void __launch_bounds__(CHANNEL_THREADS) group_norm_params(
    GroupNorm s, const float* __restrict__ sums, float* __restrict__ dweight,
    float* __restrict__ dbias) {
    const uint32_t j = blockIdx.x * CHANNEL_THREADS + threadIdx.x;
    if (j >= s.c) return;
    float dw = 0.0f, db = 0.0f;
    for (uint32_t image = 0; image < s.b; image++) {
        dw += sums[size_t(image) * 2 * s.c + j];
        db += sums[(size_t(image) * 2 + 1) * s.c + j];
    }
    if (dweight != nullptr) dweight[j] += dw;
    if (dbias != nullptr) dbias[j] += db;
}

// Terms of dx per group: the mean of x, rstd, the factor of x - mean, and the constant term.
struct OfGroup {
    float mean, rstd, of_x, rest;

    __device__ __forceinline__ OfGroup(const GroupNorm& s, const float* means, const float* mean_,
                                       const float* rstd_, uint32_t group) {
        mean = mean_[group];
        rstd = rstd_[group];
        of_x = means[group] * rstd * rstd;
        rest = means[s.b * s.groups + group] * rstd;
    }
};

// dx = rstd * (g - mean(g) - xhat * mean(g * xhat)). A vector is in one group if VECTOR divides the
// group width, as with 256 channels in 32 groups. Otherwise the terms of each column's group are
// reread for each row: that is slower in a case no network uses, but saves registers everywhere.
template <typename T>
__device__ __forceinline__ void backward(
    const GroupNorm& s, const T* __restrict__ x, const float* __restrict__ weight,
    const float* __restrict__ mean, const float* __restrict__ rstd,
    const float* __restrict__ means, const T* __restrict__ dy, T* __restrict__ dx) {
    const Tile2d tile(s.hw, s.c, s.tile_rows);
    if (tile.count == 0) return;
    const bool wide = s.c % VECTOR == 0 && aligned(x, dy, dx, weight);
    const uint32_t width = s.c / s.groups, groups = blockIdx.z * s.groups;
    float w[VECTOR];
    load(weight + tile.column, wide, tile.count, w);
    const bool one = width % VECTOR == 0;
    const OfGroup whole(s, means, mean, rstd, groups + tile.column / width);
#pragma unroll 1
    for (uint32_t row = tile.first; row < tile.last; row += TILE_WARPS) {
        const size_t at = (size_t(blockIdx.z) * s.hw + row) * s.c + tile.column;
        float v[VECTOR], g[VECTOR];
        load(x + at, wide, tile.count, v);
        load(dy + at, wide, tile.count, g);
        if (one) {
#pragma unroll
            for (int k = 0; k < VECTOR; k++)
                v[k] = g[k] * (w[k] * whole.rstd) - whole.rest - (v[k] - whole.mean) * whole.of_x;
        } else {
#pragma unroll
            for (int k = 0; k < VECTOR; k++) {
                if (k >= tile.count) continue;
                const OfGroup own(s, means, mean, rstd, groups + (tile.column + k) / width);
                v[k] = g[k] * (w[k] * own.rstd) - own.rest - (v[k] - own.mean) * own.of_x;
            }
        }
        store(dx + at, wide, tile.count, v);
    }
}

#define GROUP_NORM(T, SUFFIX)                                                                     \
    extern "C" __global__ void __launch_bounds__(CHANNEL_THREADS) group_norm_pieces##SUFFIX(      \
        GroupNorm s, const T* x, float* partial) {                                                \
        row_splits<T>(s, x, partial);                                                             \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) group_norm_fwd##SUFFIX(           \
        GroupNorm s, const T* x, const float* weight, const float* bias, const float* mean,       \
        const float* rstd, T* y) {                                                                \
        forward<T>(s, x, weight, bias, mean, rstd, y);                                            \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(COLUMN_THREADS) group_norm_columns##SUFFIX(      \
        GroupNorm s, const T* x, const float* mean, const float* rstd, const T* dy,               \
        float* partial) {                                                                         \
        columns<T>(s, x, mean, rstd, dy, partial);                                                \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) group_norm_bwd##SUFFIX(           \
        GroupNorm s, const T* x, const float* weight, const float* mean, const float* rstd,       \
        const float* means, const T* dy, T* dx) {                                                 \
        backward<T>(s, x, weight, mean, rstd, means, dy, dx);                                     \
    }

GROUP_NORM(float, _f32)
GROUP_NORM(bf16, _bf16)
