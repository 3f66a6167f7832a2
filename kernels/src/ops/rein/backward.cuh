// Backward pass of Rein; see rein.cuh for the layout of blocks and the sizes.
#pragma once
#include "rein.cuh"

// Computes S and dz of 16 patches into rows of shared memory. Inputs are scores in accumulators and
// the gradients of the weights in `grads` (pitch 8 NT + 8, divided by the scale of Rein, here
// `by`).
//
// forward: S = softmax(z scale), of which column 0 is dropped
// dz_j = S_j (dS_j - r) scale, dz_0 = -S_0 r scale, r = sum over j >= 1 of S_j dS_j
template <class P, int NT>
__device__ __forceinline__ void rein_score_gradients(float (&z)[1][NT][4], const float* grads,
                                                     typename P::T* weights, typename P::T* dz,
                                                     int ld, const float (&lse)[2], float by,
                                                     const ReinSizes& s) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const float scale = s.softmax ? s.scale * LOG2_E : s.scale;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float* row = grads + (g + 8 * i) * (8 * NT + 8) + 2 * t;
        const float base = lse[i] * LOG2_E;
        float mean = 0.0f;
#pragma unroll
        for (int n = 0; n < NT; n++) {
            const float2 d = load2(row + 8 * n);
#pragma unroll
            for (int j = 0; j < 2; j++) {
                float& w = z[0][n][2 * i + j];
                w *= scale;
                if (s.softmax) w = 8 * n + 2 * t + j < s.m ? exp2_fast(w - base) : 0.0f;
                // Column 0 of the gradients is 0, because its row of the values is 0.
                mean = fmaf(w, (j == 0 ? d.x : d.y) * by, mean);
            }
        }
        mean += __shfl_xor_sync(ALL_LANES, mean, 1);
        mean += __shfl_xor_sync(ALL_LANES, mean, 2);
#pragma unroll
        for (int n = 0; n < NT; n++) {
            const float2 d = load2(row + 8 * n);
            const float a = z[0][n][2 * i], b = z[0][n][2 * i + 1];
            const int at = (g + 8 * i) * ld + 8 * n + 2 * t;
            store2(weights + at, t == 0 && n == 0 ? 0.0f : a, b);
            if (s.softmax)
                store2(dz + at, a * (d.x * by - mean) * s.scale, b * (d.y * by - mean) * s.scale);
            else
                store2(dz + at, d.x * by * s.scale, d.y * by * s.scale);
        }
    }
}

// df = G + s dX0 + dz T, and the inputs of the sums over patches: s X `[b, n, c]`, S and dz `[b, n,
// 8 NT]` (dz includes the scale of the scores), and each block's part of <X, dX0>. One half of the
// warps computes scores and X, the other the gradients of the weights and df. The gradient of the
// rows before the patches passes unchanged: the first block of an image copies it.
template <class P, int NT, int KC>
__device__ __forceinline__ void rein_mix_backward(
    const ReinSizes& s, const typename P::T* f, const typename P::T* tokens,
    const typename P::T* values, const float* scale, const float* lse, const typename P::T* dout,
    const typename P::T* dx0, typename P::T* df, typename P::T* sx, typename P::T* weights_out,
    typename P::T* dz_out, float* dscale) {
    typedef typename P::T T;
    constexpr int LD = KC + P::PAD, M = 8 * NT, ML = M + P::PAD;
    constexpr int STAGE = (2 * M + 3 * REIN_ROWS) * LD;
    extern __shared__ __align__(16) unsigned char memory[];
    T* stages = reinterpret_cast<T*>(memory);  // [stage][tokens, values, features, dX0, G]
    T* weights = stages + 2 * STAGE;           // [REIN_ROWS][ML]
    T* dz = weights + REIN_ROWS * ML;
    float* grads = reinterpret_cast<float*>(dz + REIN_ROWS * ML);  // [group][16][M + 8]
    __shared__ float shares[2];
    const int warp = threadIdx.x / 32, group = warp % 2, half = warp / 2;
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int first = blockIdx.x * REIN_ROWS, rows = s.n - first, chunks = s.c / KC;
    const size_t feature = (size_t(blockIdx.y) * (s.skip + s.n) + s.skip + first) * s.c;
    const size_t patch = size_t(blockIdx.y) * s.n + first;
    const float by = scale[0];

    auto fetch = [&](int i) {
        T* stage = stages + i % 2 * STAGE;
        const bool second = i >= chunks;
        const int at = (second ? i - chunks : i) * KC;
        copy_rows<T, M, KC, REIN_THREADS>(stage, tokens + at, s.c, s.m);
        copy_rows<T, M, KC, REIN_THREADS>(stage + M * LD, values + at, s.c, s.m, 1);
        T* own = stage + 2 * M * LD;
        copy_rows<T, REIN_ROWS, KC, REIN_THREADS>(own, f + feature + at, s.c, rows);
        copy_rows<T, REIN_ROWS, KC, REIN_THREADS>(own + REIN_ROWS * LD, dx0 + patch * s.c + at, s.c,
                                                  rows);
        if (second)
            copy_rows<T, REIN_ROWS, KC, REIN_THREADS>(own + 2 * REIN_ROWS * LD, dout + feature + at,
                                                      s.c, rows);
        copies_commit();
    };
    fetch(0);
    if (df != nullptr && blockIdx.x == 0) {
        const size_t image = feature - size_t(s.skip) * s.c;
        for (int i = threadIdx.x * 8; i < s.skip * s.c; i += REIN_THREADS * 8) {
            float x[8];
            load(dout + image + i, true, 8, x);
            store(df + image + i, true, 8, x);
        }
    }
    copies_wait();
    __syncthreads();
    float z[1][NT][4] = {};
    for (int i = 0; i < chunks; i++) {
        fetch(i + 1);
        const T* stage = stages + i % 2 * STAGE;
        typename P::template Left<1, KC> left;
        P::load(left, stage + (2 * M + half * REIN_ROWS + group * 16) * LD, LD);
        P::nt(z, left, stage + half * M * LD, LD);
        copies_wait();
        __syncthreads();
    }
    float* share = grads + group * 16 * (M + 8);
    if (half == 1) {
        float* to = share + g * (M + 8) + 2 * t;
#pragma unroll
        for (int n = 0; n < NT; n++) {
            store2(to + 8 * n, z[0][n][0], z[0][n][1]);
            store2(to + 8 * (M + 8) + 8 * n, z[0][n][2], z[0][n][3]);
        }
    }
    __syncthreads();
    if (half == 0) {
        float own[2];
        for (int i = 0; i < 2; i++) {
            const int row = group * 16 + 8 * i + g;
            own[i] = row < rows ? lse[patch + row] : INFINITY;  // no weight without a patch
        }
        const int at = group * 16 * ML;
        rein_score_gradients<P>(z, share, weights + at, dz + at, ML, own, by, s);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < REIN_ROWS * M / 2; i += REIN_THREADS) {
        const int row = i / (M / 2), col = i % (M / 2) * 2;
        if (row >= rows) continue;
        const float2 a = load2(weights + row * ML + col), b = load2(dz + row * ML + col);
        store2(weights_out + (patch + row) * M + col, a.x, a.y);
        store2(dz_out + (patch + row) * M + col, b.x, b.y);
    }
    typename P::template Left<1, M> left;
    P::load(left, (half == 0 ? weights : dz) + group * 16 * ML, ML);
    float product = 0.0f;
    for (int i = chunks; i < 2 * chunks; i++) {
        if (i + 1 < 2 * chunks) fetch(i + 1);
        const T* stage = stages + i % 2 * STAGE;
        const T* own = stage + (2 * M + group * 16 + g) * LD + 2 * t;
        const int at = (i - chunks) * KC + 2 * t;
        float sums[1][KC / 8][4] = {};
        P::nn(sums, left, stage + (half == 0 ? M * LD : 0), LD);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int row = group * 16 + 8 * r + g;
            if (row >= rows) continue;
#pragma unroll
            for (int n = 0; n < KC / 8; n++) {
                const T* from = own + 8 * r * LD + 8 * n;
                const float2 d = load2(from + REIN_ROWS * LD);
                float a = sums[0][n][2 * r], b = sums[0][n][2 * r + 1];
                if (half == 0) {
                    const float2 x = load2(from);
                    a += x.x, b += x.y;
                    product = fmaf(b, d.y, fmaf(a, d.x, product));
                    if (sx != nullptr)
                        store2(sx + (patch + row) * s.c + at + 8 * n, by * a, by * b);
                } else if (df != nullptr) {
                    const float2 y = load2(from + 2 * REIN_ROWS * LD);
                    store2(df + feature + size_t(row) * s.c + at + 8 * n, y.x + fmaf(by, d.x, a),
                           y.y + fmaf(by, d.y, b));
                }
            }
        }
        copies_wait();
        __syncthreads();
    }
    product = warp_sum(product);
    if (half == 0 && threadIdx.x % 32 == 0) shares[group] = product;
    __syncthreads();
    if (threadIdx.x == 0) dscale[blockIdx.y * gridDim.x + blockIdx.x] = shares[0] + shares[1];
}

// Sums over the patches of a split of an image: a^T b for (a, b) = (dz, f) and (S, dX0). Block
// (columns, split, index of the pair); a warp computes all tokens by 16 columns. `partial` is `[2,
// splits, 8 NT, c]`.
template <class P, int NT>
__device__ __forceinline__ void rein_sums(const ReinSizes& s, const typename P::T* f,
                                          const typename P::T* dx0, const typename P::T* weights,
                                          const typename P::T* dz, float* partial) {
    typedef typename P::T T;
    constexpr int M = 8 * NT, ML = M + P::PAD, COLS = 64, LD = COLS + P::PAD, DEPTH = 32;
    constexpr int STAGE = DEPTH * (ML + LD);
    extern __shared__ __align__(16) unsigned char memory[];
    T* stages = reinterpret_cast<T*>(memory);
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int per_image = s.splits / s.b, image = blockIdx.y / per_image;
    // Splits are multiples of DEPTH, except the last of an image.
    const int depths = (s.n + DEPTH - 1) / DEPTH;
    const int length = (depths + per_image - 1) / per_image * DEPTH;
    const int first = blockIdx.y % per_image * length;
    const int rows = min(length, s.n - first);
    const size_t patch = size_t(image) * s.n + first;
    const size_t feature = (size_t(image) * (s.skip + s.n) + s.skip + first) * s.c;
    const T* a = (blockIdx.z == 0 ? dz : weights) + patch * M;
    const T* b = (blockIdx.z == 0 ? f + feature : dx0 + patch * s.c) + blockIdx.x * COLS;
    const int steps = rows > 0 ? (rows + DEPTH - 1) / DEPTH : 0;

    auto fetch = [&](int i) {
        T* stage = stages + i % 2 * STAGE;
        const size_t at = size_t(i) * DEPTH;
        copy_rows<T, DEPTH, M, REIN_THREADS>(stage, a + at * M, M, rows - i * DEPTH);
        copy_rows<T, DEPTH, COLS, REIN_THREADS>(stage + DEPTH * ML, b + at * s.c, s.c,
                                                rows - i * DEPTH);
        copies_commit();
    };
    if (steps > 0) fetch(0);
    copies_wait();
    __syncthreads();
    float sums[NT / 2][2][4] = {};
    for (int i = 0; i < steps; i++) {
        if (i + 1 < steps) fetch(i + 1);
        const T* stage = stages + i % 2 * STAGE;
        P::template tn<DEPTH>(sums, stage, ML, stage + DEPTH * ML + warp * 16, LD);
        copies_wait();
        __syncthreads();
    }
    float* to = partial + (size_t(blockIdx.z) * s.splits + blockIdx.y) * M * s.c +
                blockIdx.x * COLS + warp * 16 + 2 * t;
#pragma unroll
    for (int m = 0; m < NT / 2; m++)
#pragma unroll
        for (int n = 0; n < 2; n++) {
            float* at = to + size_t(16 * m + g) * s.c + 8 * n;
            store2(at, sums[m][n][0], sums[m][n][1]);
            store2(at + size_t(8) * s.c, sums[m][n][2], sums[m][n][3]);
        }
}
