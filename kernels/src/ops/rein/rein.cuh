// Rein, forward and backward, for both forms of tile products (cuda/warp_tile.cuh).
//
// Tokens and values (m c elements each) do not fit into shared memory together with the features at
// c = 1024. So both passes loop twice over the channels in chunks of KC: first to compute the
// scores, then, with all scores of a row known, to compute the outputs that are as wide as the
// features. The next chunk is loaded while the current one is multiplied. A block owns 32 patches
// of one image; its four warps are two groups of 16 patches by two halves of the work. NT is the
// number of tokens in units of 8, rounded up; tokens beyond m are rows of zeros with weight 0.
#pragma once
#include "columns.cuh"
#include "warp_tile.cuh"

#define REIN_THREADS 128
#define REIN_ROWS 32

// Sizes of a call; mirrors `Sizes` in gpu.rs.
struct ReinSizes {
    int b, skip, n, c, m;
    int softmax;
    float scale;  // of the scores
    int splits;   // of a sum over patches
};

// Weights of 16 patches, from scores in accumulators to rows of shared memory `to` (pitch `ld`).
// Weights and log-sum-exp use only the m tokens that exist. Column 0 is part of the sum and is then
// dropped.
template <class P, int NT>
__device__ __forceinline__ void rein_weights(float (&z)[1][NT][4], typename P::T* to, int ld,
                                             float (&lse)[2], const ReinSizes& s) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const float scale = s.softmax ? s.scale * LOG2_E : s.scale;  // for powers of two
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float top = -INFINITY, total = 0.0f;
        lse[i] = 0.0f;
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int j = 2 * i; j < 2 * i + 2; j++) {
                z[0][n][j] = 8 * n + 2 * t + j % 2 < s.m ? z[0][n][j] * scale : -INFINITY;
                top = fmaxf(top, z[0][n][j]);
            }
        top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 1));
        top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 2));
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int j = 2 * i; j < 2 * i + 2; j++) {
                const float w = exp2_fast(z[0][n][j] - top);
                if (s.softmax) z[0][n][j] = w;
                else if (z[0][n][j] == -INFINITY) z[0][n][j] = 0.0f;
                total += w;
            }
        total += __shfl_xor_sync(ALL_LANES, total, 1);
        total += __shfl_xor_sync(ALL_LANES, total, 2);
        if (s.softmax) lse[i] = fmaf(top, LN_2, logf(total));
        const float share = s.softmax ? 1.0f / total : 1.0f;
        if (t == 0) z[0][0][2 * i] = 0.0f;
#pragma unroll
        for (int n = 0; n < NT; n++)
            store2(to + (g + 8 * i) * ld + 8 * n + 2 * t, z[0][n][2 * i] * share,
                   z[0][n][2 * i + 1] * share);
    }
}

// X = f + S[:, 1:] V `[b, n, c]` and lse.
template <class P, int NT, int KC>
__device__ __forceinline__ void rein_mix(const ReinSizes& s, const typename P::T* f,
                                         const typename P::T* tokens, const typename P::T* values,
                                         typename P::T* x, float* lse) {
    typedef typename P::T T;
    constexpr int LD = KC + P::PAD, M = 8 * NT, ML = M + P::PAD, STAGE = (M + REIN_ROWS) * LD;
    extern __shared__ __align__(16) unsigned char memory[];
    T* stages = reinterpret_cast<T*>(memory);  // [stage][tokens or values, features]
    T* weights = stages + 2 * STAGE;           // [REIN_ROWS][ML]
    float* halves = reinterpret_cast<float*>(weights + REIN_ROWS * ML);  // [group][16][M + 8]
    const int warp = threadIdx.x / 32, group = warp % 2, half = warp / 2;
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int first = blockIdx.x * REIN_ROWS, rows = s.n - first, chunks = s.c / KC;
    f += (size_t(blockIdx.y) * (s.skip + s.n) + s.skip + first) * s.c;
    x += (size_t(blockIdx.y) * s.n + first) * s.c;

    // Loads the chunks of the first loop, then those of the second.
    auto fetch = [&](int i) {
        T* stage = stages + i % 2 * STAGE;
        const bool second = i >= chunks;
        const int at = (second ? i - chunks : i) * KC;
        copy_rows<T, M, KC, REIN_THREADS>(stage, (second ? values : tokens) + at, s.c, s.m, second);
        copy_rows<T, REIN_ROWS, KC, REIN_THREADS>(stage + M * LD, f + at, s.c, rows);
        copies_commit();
    };
    fetch(0);
    copies_wait();
    __syncthreads();
    // Each half of the warps sums over one half of every chunk.
    float z[1][NT][4] = {};
    for (int i = 0; i < chunks; i++) {
        fetch(i + 1);
        const T* stage = stages + i % 2 * STAGE + half * KC / 2;
        typename P::template Left<1, KC / 2> left;
        P::load(left, stage + (M + group * 16) * LD, LD);
        P::nt(z, left, stage, LD);
        copies_wait();
        __syncthreads();
    }
    float* share = halves + (group * 16 + g) * (M + 8) + 2 * t;
    if (half == 1) {
#pragma unroll
        for (int n = 0; n < NT; n++) {
            store2(share + 8 * n, z[0][n][0], z[0][n][1]);
            store2(share + 8 * (M + 8) + 8 * n, z[0][n][2], z[0][n][3]);
        }
    }
    __syncthreads();
    T* mine = weights + group * 16 * ML;
    if (half == 0) {
#pragma unroll
        for (int n = 0; n < NT; n++) {
            const float2 a = load2(share + 8 * n), b = load2(share + 8 * (M + 8) + 8 * n);
            z[0][n][0] += a.x, z[0][n][1] += a.y, z[0][n][2] += b.x, z[0][n][3] += b.y;
        }
        float sums[2];
        rein_weights<P>(z, mine, ML, sums, s);
        for (int i = 0; i < 2; i++) {
            const int row = group * 16 + 8 * i + g;
            if (t == 0 && row < rows) lse[size_t(blockIdx.y) * s.n + first + row] = sums[i];
        }
    }
    __syncthreads();
    typename P::template Left<1, M> left;
    P::load(left, mine, ML);
    // Each half of the warps computes one half of the channels of every chunk.
    for (int i = chunks; i < 2 * chunks; i++) {
        if (i + 1 < 2 * chunks) fetch(i + 1);
        const T* stage = stages + i % 2 * STAGE + half * KC / 2;
        const T* own = stage + (M + group * 16 + g) * LD + 2 * t;
        float sums[1][KC / 16][4];
#pragma unroll
        for (int n = 0; n < KC / 16; n++) {
            const float2 a = load2(own + 8 * n), b = load2(own + 8 * LD + 8 * n);
            sums[0][n][0] = a.x, sums[0][n][1] = a.y, sums[0][n][2] = b.x, sums[0][n][3] = b.y;
        }
        P::nn(sums, left, stage, LD);
        T* to = x + size_t(group * 16 + g) * s.c + (i - chunks) * KC + half * KC / 2 + 2 * t;
#pragma unroll
        for (int n = 0; n < KC / 16; n++) {
            if (group * 16 + g < rows) store2(to + 8 * n, sums[0][n][0], sums[0][n][1]);
            if (group * 16 + 8 + g < rows)
                store2(to + size_t(8) * s.c + 8 * n, sums[0][n][2], sums[0][n][3]);
        }
        copies_wait();
        __syncthreads();
    }
}
