// Gate of a SwiGLU layer: x [n, 2h], y [n, h]. Sheets of [n, h] (strips.cuh); a thread reads a
// strip of both halves of the row. Outputs are overwritten.
#include "strips.cuh"

struct Swiglu {
    uint32_t n;
    uint32_t h;
    // Rows per piece.
    uint32_t rows;
};

template <typename T>
__device__ __forceinline__ void forward(
    const Swiglu& s, const T* __restrict__ x, T* __restrict__ y) {
    const Strip strip(s.n, s.h, s.rows);
    if (strip.count == 0) return;
    const bool wide = s.h % STRIP == 0 && aligned(x, y);
    for (uint32_t row = strip.first; row < strip.last; row += SHEET_WARPS) {
        const T* gate = x + size_t(row) * 2 * s.h + strip.column;
        float u[STRIP], v[STRIP];
        load(gate, wide, strip.count, u);
        load(gate + s.h, wide, strip.count, v);
#pragma unroll
        for (int k = 0; k < STRIP; k++) v[k] *= u[k] * sigmoid(u[k]);
        store(y + size_t(row) * s.h + strip.column, wide, strip.count, v);
    }
}

// y = u * sigmoid(u) * v
template <typename T>
__device__ __forceinline__ void backward(
    const Swiglu& s, const T* __restrict__ x, const T* __restrict__ dy, T* __restrict__ dx) {
    const Strip strip(s.n, s.h, s.rows);
    if (strip.count == 0) return;
    const bool wide = s.h % STRIP == 0 && aligned(x, dy, dx);
    for (uint32_t row = strip.first; row < strip.last; row += SHEET_WARPS) {
        const size_t at = size_t(row) * 2 * s.h + strip.column;
        float u[STRIP], v[STRIP], g[STRIP];
        load(x + at, wide, strip.count, u);
        load(x + at + s.h, wide, strip.count, v);
        load(dy + size_t(row) * s.h + strip.column, wide, strip.count, g);
#pragma unroll
        for (int k = 0; k < STRIP; k++) {
            const float sig = sigmoid(u[k]);
            v[k] = g[k] * v[k] * (sig * (1.0f + u[k] * (1.0f - sig)));
            u[k] = g[k] * (u[k] * sig);
        }
        store(dx + at, wide, strip.count, v);
        store(dx + at + s.h, wide, strip.count, u);
    }
}

#define SWIGLU(T, SUFFIX)                                                                         \
    extern "C" __global__ void __launch_bounds__(STRIP_THREADS) swiglu_fwd##SUFFIX(               \
        Swiglu s, const T* x, T* y) {                                                             \
        forward<T>(s, x, y);                                                                      \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(STRIP_THREADS) swiglu_bwd##SUFFIX(               \
        Swiglu s, const T* x, const T* dy, T* dx) {                                               \
        backward<T>(s, x, dy, dx);                                                                \
    }

SWIGLU(float, _f32)
SWIGLU(bf16, _bf16)
