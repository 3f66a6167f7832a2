// Exchange of the last two axes. A block of 32 x 8 threads moves a tile of 32 x 32 elements through
// shared memory; the padding column keeps a column of the tile in different banks. Overwritten: y.
#include "numbers.cuh"

struct Transpose {
    uint32_t n, m;
};

constexpr int TILE = 32;
constexpr int ROWS = 8;

template <typename T>
__device__ __forceinline__ void transpose(const Transpose& s, const T* __restrict__ x, T* __restrict__ y) {
    __shared__ T tile[TILE][TILE + 1];
    const size_t matrix = size_t(blockIdx.z) * s.n * s.m;
    const uint32_t row = blockIdx.y * TILE, column = blockIdx.x * TILE;
    for (uint32_t i = threadIdx.y; i < TILE; i += ROWS) {
        if (row + i < s.n && column + threadIdx.x < s.m)
            tile[i][threadIdx.x] = x[matrix + size_t(row + i) * s.m + column + threadIdx.x];
    }
    __syncthreads();
    for (uint32_t j = threadIdx.y; j < TILE; j += ROWS) {
        if (column + j < s.m && row + threadIdx.x < s.n)
            y[matrix + size_t(column + j) * s.n + row + threadIdx.x] = tile[threadIdx.x][j];
    }
}

#define TRANSPOSE(T, SUFFIX)                                                                      \
    extern "C" __global__ void __launch_bounds__(TILE * ROWS) transpose##SUFFIX(                  \
        Transpose s, const T* x, T* y) {                                                          \
        transpose<T>(s, x, y);                                                                    \
    }

TRANSPOSE(float, _f32)
TRANSPOSE(bf16, _bf16)
