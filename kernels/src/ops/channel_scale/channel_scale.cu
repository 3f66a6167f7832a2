// A factor for each channel of each image: y = x * factor. Block (i, j, image) is a 2-D tile
// (vectors.cuh). Overwritten: y.
#include "vectors.cuh"

struct ChannelScale {
    uint32_t n;
    uint32_t c;
    // Rows of a 2-D tile.
    uint32_t tile_rows;
};

template <typename T>
__device__ __forceinline__ void scale(
    const ChannelScale& s, const T* __restrict__ x, const float* __restrict__ factor,
    T* __restrict__ y) {
    const Tile2d tile(s.n, s.c, s.tile_rows);
    if (tile.count == 0) return;
    const bool wide = s.c % VECTOR == 0 && aligned(x, y, factor);
    float f[VECTOR];
    load(factor + size_t(blockIdx.z) * s.c + tile.column, wide, tile.count, f);
    for (uint32_t row = tile.first; row < tile.last; row += TILE_WARPS) {
        const size_t at = (size_t(blockIdx.z) * s.n + row) * s.c + tile.column;
        float v[VECTOR];
        load(x + at, wide, tile.count, v);
#pragma unroll
        for (int k = 0; k < VECTOR; k++) v[k] *= f[k];
        store(y + at, wide, tile.count, v);
    }
}

#define CHANNEL_SCALE(T, SUFFIX)                                                                  \
    extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) channel_scale##SUFFIX(            \
        ChannelScale s, const T* x, const float* factor, T* y) {                                  \
        scale<T>(s, x, factor, y);                                                                \
    }

CHANNEL_SCALE(float, _f32)
CHANNEL_SCALE(bf16, _bf16)
