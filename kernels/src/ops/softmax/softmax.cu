// Softmax over rows [n, c], forward and backward. A warp handles one row, its lanes every 32nd
// element; the second and third pass over a row read from the cache. Overwritten: y, dx.
#include "numbers.cuh"

struct Softmax {
    uint32_t n, c;
};

constexpr int WARPS = 8;
constexpr int THREADS = 32 * WARPS;

template <typename T>
__device__ __forceinline__ void forward(const Softmax& s, const T* __restrict__ x, T* y) {
    const uint32_t lane = threadIdx.x % 32, row = blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= s.n) return;
    x += size_t(row) * s.c;
    y += size_t(row) * s.c;
    float top = __uint_as_float(0xff800000u), total = 0.0f;
#pragma unroll 4
    for (uint32_t j = lane; j < s.c; j += 32) top = fmaxf(top, to_f32(x[j]));
    top = warp_max(top);
#pragma unroll 4
    for (uint32_t j = lane; j < s.c; j += 32) total += expf(to_f32(x[j]) - top);
    const float inverse = 1.0f / warp_sum(total);
#pragma unroll 4
    for (uint32_t j = lane; j < s.c; j += 32) y[j] = from_f32<T>(expf(to_f32(x[j]) - top) * inverse);
}

// y = exp(x - top) / total
template <typename T>
__device__ __forceinline__ void backward(
    const Softmax& s, const T* __restrict__ y, const T* __restrict__ dy, T* dx) {
    const uint32_t lane = threadIdx.x % 32, row = blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= s.n) return;
    y += size_t(row) * s.c;
    dy += size_t(row) * s.c;
    dx += size_t(row) * s.c;
    float mean = 0.0f;
#pragma unroll 4
    for (uint32_t j = lane; j < s.c; j += 32) mean = fmaf(to_f32(y[j]), to_f32(dy[j]), mean);
    mean = warp_sum(mean);
#pragma unroll 4
    for (uint32_t j = lane; j < s.c; j += 32)
        dx[j] = from_f32<T>(to_f32(y[j]) * (to_f32(dy[j]) - mean));
}

#define SOFTMAX(T, SUFFIX)                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS) softmax_fwd##SUFFIX(                    \
        Softmax s, const T* x, T* y) {                                                            \
        forward<T>(s, x, y);                                                                      \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS) softmax_bwd##SUFFIX(                    \
        Softmax s, const T* y, const T* dy, T* dx) {                                              \
        backward<T>(s, y, dy, dx);                                                                \
    }

SOFTMAX(float, _f32)
SOFTMAX(bf16, _bf16)
