// Mapping of pointwise kernels to threads.
//
// Flat: for arrays without structure. A thread handles one vector of `VECTOR` elements.
// 2-D tile: for [n, c] with operands that depend on the column. Lane l of block (i, j) handles the
// vector of columns (32 i + l) VECTOR .., and warp w the rows first + w, first + w + 8, ... of tile
// j. So operands that depend on the column are loaded once, and rows use whole 16-byte accesses if
// VECTOR divides c.
#pragma once

#include "numbers.cuh"

constexpr int VECTOR = 8;
constexpr int VECTOR_THREADS = 256;
constexpr int TILE_WARPS = VECTOR_THREADS / 32;

// Calls `f(first element, whole vector, elements)`.
template <typename F>
__device__ __forceinline__ void flat(uint64_t n, F f) {
    const uint64_t i = (uint64_t(blockIdx.x) * VECTOR_THREADS + threadIdx.x) * VECTOR;
    if (i >= n) return;
    const int count = n - i < VECTOR ? int(n - i) : VECTOR;
    f(i, count == VECTOR, count);
}

struct Tile2d {
    // First column and number of columns.
    uint32_t column;
    int count;
    // Rows first, first + TILE_WARPS, ... below last.
    uint32_t first, last;

    // Vector of this thread for rows of c columns and tiles of `rows` rows. `count` is 0 beyond
    // column c.
    __device__ __forceinline__ Tile2d(uint32_t n, uint32_t c, uint32_t rows) {
        column = (blockIdx.x * 32 + threadIdx.x % 32) * VECTOR;
        count = column >= c ? 0 : c - column < VECTOR ? int(c - column) : VECTOR;
        const uint32_t start = blockIdx.y * rows;
        first = start + threadIdx.x / 32;
        last = start + rows < n ? start + rows : n;
    }
};
