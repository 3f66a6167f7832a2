// Addition with b repeated over rows, and scaling by a constant. 2-D tiles of [n, inner], or flat
// vectors for one row and for scaling (vectors.cuh). y is overwritten and may alias an operand. b
// is a parameter (f32) or, for two activations, of the type of a.
#include "vectors.cuh"

struct Add {
    uint32_t n;
    uint32_t inner;
    // Rows of a tile.
    uint32_t rows;
};

struct Scale {
    uint64_t n;
    float factor;
    uint32_t unused;
};

template <typename T, typename B>
__device__ __forceinline__ void add(const Add& s, const T* a, const B* b, T* y) {
    if (s.n == 1) {
        const bool wide = aligned(a, b, y);
        flat(s.inner, [&](uint64_t i, bool whole, int count) {
            float v[VECTOR], w[VECTOR];
            load(a + i, wide && whole, count, v);
            load(b + i, wide && whole, count, w);
#pragma unroll
            for (int k = 0; k < VECTOR; k++) v[k] += w[k];
            store(y + i, wide && whole, count, v);
        });
        return;
    }
    const Tile2d tile(s.n, s.inner, s.rows);
    if (tile.count == 0 || tile.first >= tile.last) return;
    const bool wide = s.inner % VECTOR == 0 && aligned(a, b, y);
    float shift[VECTOR];
    load(b + tile.column, wide, tile.count, shift);
    for (uint32_t row = tile.first; row < tile.last; row += TILE_WARPS) {
        const size_t at = size_t(row) * s.inner + tile.column;
        float v[VECTOR];
        load(a + at, wide, tile.count, v);
#pragma unroll
        for (int k = 0; k < VECTOR; k++) v[k] += shift[k];
        store(y + at, wide, tile.count, v);
    }
}

// y = factor * x, from one storage type to another; a cast if factor is 1.
template <typename X, typename Y>
__device__ __forceinline__ void scale(const Scale& s, const X* x, Y* y) {
    const bool wide = aligned(x, y);
    flat(s.n, [&](uint64_t i, bool whole, int count) {
        float v[VECTOR];
        load(x + i, wide && whole, count, v);
#pragma unroll
        for (int k = 0; k < VECTOR; k++) v[k] *= s.factor;
        store(y + i, wide && whole, count, v);
    });
}

#define ADD(T, B, NAME)                                                                           \
    extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) NAME(                             \
        Add s, const T* a, const B* b, T* y) {                                                    \
        add<T, B>(s, a, b, y);                                                                    \
    }

#define SCALE(X, Y, NAME)                                                                         \
    extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) NAME(                             \
        Scale s, const X* x, Y* y) {                                                              \
        scale<X, Y>(s, x, y);                                                                     \
    }

ADD(float, float, add_f32_f32)
ADD(bf16, float, add_f32_bf16)
ADD(bf16, bf16, add_bf16_bf16)
SCALE(float, float, scale_f32_f32)
SCALE(float, bf16, scale_f32_bf16)
SCALE(bf16, float, scale_bf16_f32)
SCALE(bf16, bf16, scale_bf16_bf16)
