// Resampling of maps [n, h, w, c] by tap tables (taps.cuh), 256 threads per block. Forward and
// backward are one kernel: the backward pass uses transposed tables, so it gathers.
// resize: a thread handles 8 channels of an output pixel. resize_planar (c = 1): one pixel.
// y is overwritten.
#include "vectors.cuh"
#include "taps.cuh"

struct Resize {
    uint32_t n, h, w, ho, wo, c;
    // Entries per row of the tables.
    uint32_t taps_y, taps_x;
};

template <typename T>
__device__ __forceinline__ void channels(
    const Resize& s, const uint32_t* __restrict__ index_y, const float* __restrict__ weight_y,
    const uint32_t* __restrict__ index_x, const float* __restrict__ weight_x,
    const T* __restrict__ x, T* __restrict__ y) {
    const uint32_t vectors = (s.c + VECTOR - 1) / VECTOR;
    const uint32_t i = blockIdx.x * VECTOR_THREADS + threadIdx.x;
    const uint32_t pixel = i / vectors, column = i % vectors * VECTOR;
    if (pixel >= s.n * s.ho * s.wo) return;
    const uint32_t map = pixel / (s.ho * s.wo), oy = pixel / s.wo % s.ho, ox = pixel % s.wo;
    const int count = s.c - column < VECTOR ? int(s.c - column) : VECTOR;
    const bool wide = s.c % VECTOR == 0 && aligned(x, y);
    float sum[VECTOR] = {};
    for (uint32_t a = 0; a < s.taps_y; a++) {
        const uint32_t row = map * s.h + index_y[oy * s.taps_y + a];
        const float wy = weight_y[oy * s.taps_y + a];
        for (uint32_t b = 0; b < s.taps_x; b++) {
            const uint32_t at = index_x[ox * s.taps_x + b];
            const float w = wy * weight_x[ox * s.taps_x + b];
            float v[VECTOR];
            load(x + (size_t(row) * s.w + at) * s.c + column, wide, count, v);
#pragma unroll
            for (int k = 0; k < VECTOR; k++) sum[k] += w * v[k];
        }
    }
    store(y + size_t(pixel) * s.c + column, wide, count, sum);
}

template <typename T>
__device__ __forceinline__ void planar(
    const Resize& s, const uint32_t* __restrict__ index_y, const float* __restrict__ weight_y,
    const uint32_t* __restrict__ index_x, const float* __restrict__ weight_x,
    const T* __restrict__ x, T* __restrict__ y) {
    const uint32_t pixel = blockIdx.x * VECTOR_THREADS + threadIdx.x;
    if (pixel >= s.n * s.ho * s.wo) return;
    const uint32_t map = pixel / (s.ho * s.wo), oy = pixel / s.wo % s.ho, ox = pixel % s.wo;
    const Taps rows = {index_y, weight_y, s.h, s.ho, s.taps_y};
    const Taps columns = {index_x, weight_x, s.w, s.wo, s.taps_x};
    y[pixel] = from_f32<T>(resampled(x + size_t(map) * s.h * s.w, rows, columns, oy, ox));
}

#define RESIZE(T, SUFFIX)                                                                         \
    extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) resize##SUFFIX(                   \
        Resize s, const uint32_t* index_y, const float* weight_y, const uint32_t* index_x,        \
        const float* weight_x, const T* x, T* y) {                                                \
        channels<T>(s, index_y, weight_y, index_x, weight_x, x, y);                               \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) resize_planar##SUFFIX(            \
        Resize s, const uint32_t* index_y, const float* weight_y, const uint32_t* index_x,        \
        const float* weight_x, const T* x, T* y) {                                                \
        planar<T>(s, index_y, weight_y, index_x, weight_x, x, y);                                 \
    }

RESIZE(float, _f32)
RESIZE(bf16, _bf16)
