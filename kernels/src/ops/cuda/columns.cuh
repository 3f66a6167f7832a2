// Sums over rows in two passes: a grid of blocks writes partial sums, and `column_finish` of
// reduce.cu adds them in order. Gradients of biases, norm weights and layer scales use it.
//
// First pass: block (i, split) handles 32 columns and the rows of its split. Each of its 8 warps
// adds every eighth row, then the sums of the warps are added in order. Partial sums have the
// layout [outputs, splits, c].
#pragma once

#include "numbers.cuh"

constexpr int COLUMN_LANES = 32;
constexpr int COLUMN_WARPS = 8;
constexpr int COLUMN_THREADS = COLUMN_LANES * COLUMN_WARPS;

// `term(row, column, out)` writes the K terms of one element; there are K outputs of [splits, c].
template <int K, typename Term>
__device__ __forceinline__ void column_pieces(
    uint32_t n, uint32_t c, uint32_t rows, float* __restrict__ partial, Term term) {
    __shared__ float sums[K][COLUMN_WARPS][COLUMN_LANES];
    const uint32_t lane = threadIdx.x % COLUMN_LANES, warp = threadIdx.x / COLUMN_LANES;
    const uint32_t column = blockIdx.x * COLUMN_LANES + lane;
    const uint32_t first = blockIdx.y * rows;
    const uint32_t last = first + rows < n ? first + rows : n;
    float sum[K] = {};
    if (column < c) {
#pragma unroll 4
        for (uint32_t row = first + warp; row < last; row += COLUMN_WARPS) {
            float out[K];
            term(row, column, out);
#pragma unroll
            for (int k = 0; k < K; k++) sum[k] += out[k];
        }
    }
#pragma unroll
    for (int k = 0; k < K; k++) sums[k][warp][lane] = sum[k];
    __syncthreads();
    // One warp per output adds the sums of all warps.
    if (warp < K && column < c) {
        float total = 0.0f;
#pragma unroll
        for (int w = 0; w < COLUMN_WARPS; w++) total += sums[warp][w][lane];
        partial[(size_t(warp) * gridDim.y + blockIdx.y) * c + column] = total;
    }
}
