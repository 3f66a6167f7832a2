// Residual connection with optional bias and layer scale: 2-D tiles of [n, c] (vectors.cuh); gamma
// and bias stay in registers. Overwritten: y, dr, partial.
#include "columns.cuh"
#include "vectors.cuh"

struct Residual {
    uint32_t n;
    uint32_t c;
    // Rows of a tile or of a row split.
    uint32_t rows;
};

// Values of an operand [c] in the columns of a tile; `otherwise` if the operand is absent.
__device__ __forceinline__ void column_values(
    const float* p, const Tile2d& tile, bool wide, float otherwise, float (&x)[VECTOR]) {
    if (p != nullptr) {
        load(p + tile.column, wide, tile.count, x);
    } else {
#pragma unroll
        for (int k = 0; k < VECTOR; k++) x[k] = otherwise;
    }
}

// y = x + gamma * (r + bias)
template <typename T>
__device__ __forceinline__ void forward(
    const Residual& s, const T* __restrict__ x, const T* __restrict__ r,
    const float* __restrict__ bias, const float* __restrict__ gamma, T* __restrict__ y) {
    const Tile2d tile(s.n, s.c, s.rows);
    if (tile.count == 0) return;
    const bool wide = s.c % VECTOR == 0 && aligned(x, r, y, bias, gamma);
    float scale[VECTOR], shift[VECTOR];
    column_values(gamma, tile, wide, 1.0f, scale);
    column_values(bias, tile, wide, 0.0f, shift);
    for (uint32_t row = tile.first; row < tile.last; row += TILE_WARPS) {
        const size_t at = size_t(row) * s.c + tile.column;
        float u[VECTOR], v[VECTOR];
        load(x + at, wide, tile.count, u);
        load(r + at, wide, tile.count, v);
#pragma unroll
        for (int k = 0; k < VECTOR; k++) v[k] = u[k] + scale[k] * (v[k] + shift[k]);
        store(y + at, wide, tile.count, v);
    }
}

// dr = dy * gamma
template <typename T>
__device__ __forceinline__ void backward(
    const Residual& s, const float* __restrict__ gamma, const T* __restrict__ dy,
    T* __restrict__ dr) {
    const Tile2d tile(s.n, s.c, s.rows);
    if (tile.count == 0) return;
    const bool wide = s.c % VECTOR == 0 && aligned(dy, dr, gamma);
    float scale[VECTOR];
    column_values(gamma, tile, wide, 1.0f, scale);
    for (uint32_t row = tile.first; row < tile.last; row += TILE_WARPS) {
        const size_t at = size_t(row) * s.c + tile.column;
        float v[VECTOR];
        load(dy + at, wide, tile.count, v);
#pragma unroll
        for (int k = 0; k < VECTOR; k++) v[k] *= scale[k];
        store(dr + at, wide, tile.count, v);
    }
}

// Partial sums of dgamma = sum over rows of dy * (r + bias).
template <typename T>
__device__ __forceinline__ void columns(
    const Residual& s, const T* __restrict__ r, const float* __restrict__ bias,
    const T* __restrict__ dy, float* __restrict__ partial) {
    column_pieces<1>(s.n, s.c, s.rows, partial, [&](uint32_t row, uint32_t j, float (&out)[1]) {
        const size_t at = size_t(row) * s.c + j;
        const float shift = bias != nullptr ? bias[j] : 0.0f;
        out[0] = to_f32(dy[at]) * (to_f32(r[at]) + shift);
    });
}

#define RESIDUAL(T, SUFFIX)                                                                       \
    extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) residual_fwd##SUFFIX(             \
        Residual s, const T* x, const T* r, const float* bias, const float* gamma, T* y) {        \
        forward<T>(s, x, r, bias, gamma, y);                                                      \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) residual_bwd##SUFFIX(             \
        Residual s, const float* gamma, const T* dy, T* dr) {                                     \
        backward<T>(s, gamma, dy, dr);                                                            \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(COLUMN_THREADS) residual_columns##SUFFIX(        \
        Residual s, const T* r, const float* bias, const T* dy, float* partial) {                 \
        columns<T>(s, r, bias, dy, partial);                                                      \
    }

RESIDUAL(float, _f32)
RESIDUAL(bf16, _bf16)
