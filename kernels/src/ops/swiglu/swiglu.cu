// Gate of a SwiGLU layer: x [n, 2h], y [n, h]. 2-D tiles of [n, h] (vectors.cuh); a thread reads a
// vector of both halves of the row. Outputs are overwritten.
#include "vectors.cuh"

struct Swiglu {
    uint32_t n;
    uint32_t h;
    // Rows of a tile.
    uint32_t rows;
};

template <typename T>
__device__ __forceinline__ void forward(
    const Swiglu& s, const T* __restrict__ x, T* __restrict__ y) {
    const Tile2d tile(s.n, s.h, s.rows);
    if (tile.count == 0) return;
    const bool wide = s.h % VECTOR == 0 && aligned(x, y);
    for (uint32_t row = tile.first; row < tile.last; row += TILE_WARPS) {
        const T* gate = x + size_t(row) * 2 * s.h + tile.column;
        float u[VECTOR], v[VECTOR];
        load(gate, wide, tile.count, u);
        load(gate + s.h, wide, tile.count, v);
#pragma unroll
        for (int k = 0; k < VECTOR; k++) v[k] *= u[k] * sigmoid(u[k]);
        store(y + size_t(row) * s.h + tile.column, wide, tile.count, v);
    }
}

// y = u * sigmoid(u) * v
template <typename T>
__device__ __forceinline__ void backward(
    const Swiglu& s, const T* __restrict__ x, const T* __restrict__ dy, T* __restrict__ dx) {
    const Tile2d tile(s.n, s.h, s.rows);
    if (tile.count == 0) return;
    const bool wide = s.h % VECTOR == 0 && aligned(x, dy, dx);
    for (uint32_t row = tile.first; row < tile.last; row += TILE_WARPS) {
        const size_t at = size_t(row) * 2 * s.h + tile.column;
        float u[VECTOR], v[VECTOR], g[VECTOR];
        load(x + at, wide, tile.count, u);
        load(x + at + s.h, wide, tile.count, v);
        load(dy + size_t(row) * s.h + tile.column, wide, tile.count, g);
#pragma unroll
        for (int k = 0; k < VECTOR; k++) {
            const float sig = sigmoid(u[k]);
            v[k] = g[k] * v[k] * (sig * (1.0f + u[k] * (1.0f - sig)));
            u[k] = g[k] * (u[k] * sig);
        }
        store(dx + at, wide, tile.count, v);
        store(dx + at + s.h, wide, tile.count, u);
    }
}

#define SWIGLU(T, SUFFIX)                                                                         \
    extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) swiglu_fwd##SUFFIX(               \
        Swiglu s, const T* x, T* y) {                                                             \
        forward<T>(s, x, y);                                                                      \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) swiglu_bwd##SUFFIX(               \
        Swiglu s, const T* x, const T* dy, T* dx) {                                               \
        backward<T>(s, x, dy, dx);                                                                \
    }

SWIGLU(float, _f32)
SWIGLU(bf16, _bf16)
