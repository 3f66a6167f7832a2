// Mapping of pointwise kernels to threads.
//
// Flat (`STRIP` elements per thread): for arrays without structure. Sheet: for [n, c] with operands
// that depend on the column. Lane l of block (i, piece) handles the columns (32 i + l) STRIP ..,
// and warp w the rows first + w, first + w + 8, ... of the piece. So operands that depend on the
// column are loaded once, and rows use whole 16-byte accesses if STRIP divides c.
#pragma once

#include "numbers.cuh"

constexpr int STRIP = 8;
constexpr int STRIP_THREADS = 256;
constexpr int SHEET_WARPS = STRIP_THREADS / 32;

// Calls `f(first element, whole strip, elements)`.
template <typename F>
__device__ __forceinline__ void flat(uint64_t n, F f) {
    const uint64_t i = (uint64_t(blockIdx.x) * STRIP_THREADS + threadIdx.x) * STRIP;
    if (i >= n) return;
    const int count = n - i < STRIP ? int(n - i) : STRIP;
    f(i, count == STRIP, count);
}

struct Strip {
    // First column and number of columns.
    uint32_t column;
    int count;
    // Rows first, first + SHEET_WARPS, ... below last.
    uint32_t first, last;

    // Strip of this thread for rows of c columns and pieces of `rows` rows. `count` is 0 beyond
    // column c.
    __device__ __forceinline__ Strip(uint32_t n, uint32_t c, uint32_t rows) {
        column = (blockIdx.x * 32 + threadIdx.x % 32) * STRIP;
        count = column >= c ? 0 : c - column < STRIP ? int(c - column) : STRIP;
        const uint32_t start = blockIdx.y * rows;
        first = start + threadIdx.x / 32;
        last = start + rows < n ? start + rows : n;
    }
};
