// Sampling of maps [r, h, w] and of class masks at points. One thread per point, 256 per block.
//
// The gradient of a map is a scatter. It is summed in 64-bit integers, whose sum does not depend on
// the order. point_sample_scale finds the largest |dvalue| of a row (one block per row) and a power
// of two from it, point_sample_scatter adds the scaled values to `sums`, which start at zero, and
// point_sample_gather scales them back. A sum is exact to 2^-42 of the largest value if a pixel is
// touched fewer than 2^20 times. A row with a NaN becomes NaN. Overwritten: values, scale, dmaps.
#include "points.cuh"

struct PointSample {
    uint32_t r, h, w, p;
    // Consecutive maps that read the same points: 1 or more.
    uint32_t maps;
};

struct LabelSample {
    uint32_t r, h, w, p;
    uint32_t images;
    // Whether all rows of an image read the points [images, p, 2].
    uint32_t shared;
};

constexpr int THREADS = 256;

// Map and point of a thread; false beyond the last point.
__device__ __forceinline__ bool point_of_thread(
    uint32_t r, uint32_t p, uint32_t& row, uint32_t& point) {
    const uint32_t i = blockIdx.x * THREADS + threadIdx.x;
    row = i / p;
    point = i % p;
    return row < r;
}

template <typename T>
__device__ __forceinline__ void forward(
    const PointSample& s, const T* __restrict__ maps, const float* __restrict__ points,
    float* __restrict__ values) {
    uint32_t row, point;
    if (!point_of_thread(s.r, s.p, row, point)) return;
    const float* at = points + (size_t(row / s.maps) * s.p + point) * 2;
    maps += size_t(row) * s.h * s.w;
    PointTaps taps;
    float value = 0.0f;
    if (taps.at(s.h, s.w, at[0], at[1])) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
            uint32_t place;
            if (taps.place(k, s.h, s.w, place)) value += taps.weight(k) * to_f32(maps[place]);
        }
    }
    values[size_t(row) * s.p + point] = value;
}

// scale[row] = 2^(41 - exponent of the largest |dvalue|); 0 for a row of zeros; NaN for a row with
// a NaN or an infinity.
extern "C" __global__ void __launch_bounds__(THREADS) point_sample_scale(
    PointSample s, const float* __restrict__ dvalues, float* __restrict__ scale) {
    __shared__ uint32_t parts[THREADS / 32];
    dvalues += size_t(blockIdx.x) * s.p;
    // The bits of magnitudes have the order of the values, with infinity and NaN last.
    uint32_t most = 0;
    for (uint32_t j = threadIdx.x; j < s.p; j += THREADS) {
        const uint32_t bits = __float_as_uint(dvalues[j]) & 0x7fffffffu;
        most = bits > most ? bits : most;
    }
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) {
        const uint32_t other = __shfl_xor_sync(ALL_LANES, most, lane);
        most = other > most ? other : most;
    }
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = most;
    __syncthreads();
    if (threadIdx.x != 0) return;
#pragma unroll
    for (int i = 0; i < THREADS / 32; i++) most = parts[i] > most ? parts[i] : most;
    const int exponent = int(most >> 23) - 127;
    // The lower limit keeps the scale and its reciprocal normal numbers.
    const int up = 41 - (exponent < -80 ? -80 : exponent);
    const float factor = __uint_as_float(uint32_t(up + 127) << 23);
    scale[blockIdx.x] = most == 0             ? 0.0f
                        : most >= 0x7f800000u ? __uint_as_float(0x7fc00000u)
                                              : factor;
}

// v += weight * map[place]
extern "C" __global__ void __launch_bounds__(THREADS) point_sample_scatter(
    PointSample s, const float* __restrict__ points, const float* __restrict__ dvalues,
    const float* __restrict__ scale, unsigned long long* __restrict__ sums) {
    uint32_t row, point;
    if (!point_of_thread(s.r, s.p, row, point)) return;
    const float* at = points + (size_t(row / s.maps) * s.p + point) * 2;
    const float factor = scale[row], d = dvalues[size_t(row) * s.p + point];
    // Zero or NaN: nothing to add.
    if (!(factor > 0.0f)) return;
    sums += size_t(row) * s.h * s.w;
    PointTaps taps;
    if (!taps.at(s.h, s.w, at[0], at[1])) return;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        uint32_t place;
        if (!taps.place(k, s.h, s.w, place)) continue;
        const long long part = __float2ll_rn(taps.weight(k) * d * factor);
        atomicAdd(sums + place, static_cast<unsigned long long>(part));
    }
}

template <typename T>
__device__ __forceinline__ void gather(
    const PointSample& s, const float* __restrict__ scale,
    const unsigned long long* __restrict__ sums, T* __restrict__ dmaps) {
    const size_t i = size_t(blockIdx.x) * THREADS + threadIdx.x;
    const uint32_t pixels = s.h * s.w;
    if (i >= size_t(s.r) * pixels) return;
    const float factor = scale[i / pixels];
    float d = 0.0f;
    if (factor != 0.0f) d = __ll2float_rn(static_cast<long long>(sums[i])) / factor;
    dmaps[i] = from_f32<T>(d);
}

// Value of the mask `label == class` of the row's image. A row without an image reads 0.
extern "C" __global__ void __launch_bounds__(THREADS) label_sample(
    LabelSample s, const uint8_t* __restrict__ labels, const int32_t* __restrict__ images,
    const int32_t* __restrict__ classes, const float* __restrict__ points,
    float* __restrict__ values) {
    uint32_t row, point;
    if (!point_of_thread(s.r, s.p, row, point)) return;
    const uint32_t image = uint32_t(images[row]);
    float value = 0.0f;
    if (image < s.images) {
        const float* at = points + (size_t(s.shared ? image : row) * s.p + point) * 2;
        const int32_t wanted = classes[row];
        labels += size_t(image) * s.h * s.w;
        PointTaps taps;
        if (taps.at(s.h, s.w, at[0], at[1])) {
#pragma unroll
            for (int k = 0; k < 4; k++) {
                uint32_t place;
                if (taps.place(k, s.h, s.w, place) && int32_t(labels[place]) == wanted)
                    value += taps.weight(k);
            }
        }
    }
    values[size_t(row) * s.p + point] = value;
}

#define POINT_SAMPLE(T, SUFFIX)                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS) point_sample_fwd##SUFFIX(               \
        PointSample s, const T* maps, const float* points, float* values) {                       \
        forward<T>(s, maps, points, values);                                                      \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS) point_sample_gather##SUFFIX(            \
        PointSample s, const float* scale, const unsigned long long* sums, T* dmaps) {            \
        gather<T>(s, scale, sums, dmaps);                                                         \
    }

POINT_SAMPLE(float, _f32)
POINT_SAMPLE(bf16, _bf16)
