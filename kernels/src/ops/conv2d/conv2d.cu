// Unfolding (im2col) for convolutions, and the weight in the order of unfolded rows. 256 threads
// per block.
// conv2d_unfold: a thread copies 8 channels of one tap of one place; rows are [kh, kw, c], zeros
// off the map. Forward, places are pixels of y and the map is x; backward it is the other way
// round. conv2d_weight: [co, ci, kh, kw] to [co, kh, kw, ci]. conv2d_weight_back: the same for dx,
// to [ci, kh, kw, co]. conv2d_dweight: adds the gradient in the first order to the published one.
// Overwritten: rows and the reordered weights.
#include "vectors.cuh"

struct Unfold {
    // The map that is read, [b, h, w, c], and the places, [b, ph, pw].
    uint32_t b, h, w, c, ph, pw;
    uint32_t kh, kw, stride, pad, dilation;
    uint32_t backward;
    // First place of this launch in the whole batch, and number of places of this launch.
    uint32_t first, count;
};

struct Weight {
    uint32_t co, ci, taps;
};

// The row (or column) of the map that tap k of a place reads; false off the map.
__device__ __forceinline__ bool reads(
    const Unfold& s, uint32_t place, uint32_t tap, uint32_t size, uint32_t& at) {
    const uint32_t k = tap * s.dilation;
    if (s.backward) {
        if (place + s.pad < k) return false;
        at = place + s.pad - k;
        if (at % s.stride != 0) return false;
        at /= s.stride;
    } else {
        if (place * s.stride + k < s.pad) return false;
        at = place * s.stride + k - s.pad;
    }
    return at < size;
}

template <typename T>
__device__ __forceinline__ void unfold(
    const Unfold& s, const T* __restrict__ map, T* __restrict__ rows) {
    const uint32_t vectors = (s.c + VECTOR - 1) / VECTOR, taps = s.kh * s.kw;
    const uint64_t i = uint64_t(blockIdx.x) * VECTOR_THREADS + threadIdx.x;
    const uint32_t at = uint32_t(i / vectors), column = uint32_t(i % vectors) * VECTOR;
    const uint32_t local = at / taps, tap = at % taps;
    if (local >= s.count) return;
    const uint32_t place = s.first + local;
    const uint32_t image = place / (s.ph * s.pw), y = place / s.pw % s.ph, x = place % s.pw;
    const int count = s.c - column < VECTOR ? int(s.c - column) : VECTOR;
    const bool wide = s.c % VECTOR == 0 && aligned(map, rows);
    float v[VECTOR] = {};
    uint32_t row, line;
    if (reads(s, y, tap / s.kw, s.h, row) && reads(s, x, tap % s.kw, s.w, line))
        load(map + ((size_t(image) * s.h + row) * s.w + line) * s.c + column, wide, count, v);
    store(rows + size_t(at) * s.c + column, wide, count, v);
}

// Element i of the result, counted over [co, taps, ci].
template <typename T>
__device__ __forceinline__ void reorder(const Weight& s, const T* weight, T* out) {
    const uint32_t i = blockIdx.x * VECTOR_THREADS + threadIdx.x;
    if (i >= s.co * s.taps * s.ci) return;
    const uint32_t channel = i % s.ci, tap = i / s.ci % s.taps, o = i / (s.ci * s.taps);
    out[i] = weight[(o * s.ci + channel) * s.taps + tap];
}

// Element i of the result, counted over [ci, taps, co].
template <typename T>
__device__ __forceinline__ void reorder_back(const Weight& s, const T* weight, T* out) {
    const uint32_t i = blockIdx.x * VECTOR_THREADS + threadIdx.x;
    if (i >= s.co * s.taps * s.ci) return;
    const uint32_t o = i % s.co, tap = i / s.co % s.taps, channel = i / (s.co * s.taps);
    out[i] = weight[(o * s.ci + channel) * s.taps + tap];
}

extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) conv2d_dweight(
    Weight s, const float* __restrict__ unfolded, float* __restrict__ dweight) {
    const uint32_t i = blockIdx.x * VECTOR_THREADS + threadIdx.x;
    if (i >= s.co * s.taps * s.ci) return;
    const uint32_t tap = i % s.taps, channel = i / s.taps % s.ci, o = i / (s.taps * s.ci);
    dweight[i] += unfolded[(o * s.taps + tap) * s.ci + channel];
}

#define CONV2D(T, SUFFIX)                                                                         \
    extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) conv2d_unfold##SUFFIX(            \
        Unfold s, const T* map, T* rows) {                                                        \
        unfold<T>(s, map, rows);                                                                  \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) conv2d_weight##SUFFIX(            \
        Weight s, const T* weight, T* out) {                                                      \
        reorder<T>(s, weight, out);                                                               \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) conv2d_weight_back##SUFFIX(       \
        Weight s, const T* weight, T* out) {                                                      \
        reorder_back<T>(s, weight, out);                                                          \
    }

CONV2D(float, _f32)
CONV2D(bf16, _bf16)
