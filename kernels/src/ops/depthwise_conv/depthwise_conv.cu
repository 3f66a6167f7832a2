// Depthwise convolution of channels-last maps. Weights are [k, k, c], turned by half a turn for the
// gradient of the map.
// depthwise_conv: a thread computes PIXELS neighbouring pixels of VECTOR channels, row of taps by row
// of taps. It reads the pixels under TAPS neighbouring taps once. Blocks along y are rows of the
// result, along z images.
// depthwise_conv_pieces: sums over lines of pixels for TAPS taps of a row of the kernel. A warp takes
// every eighth line of its split and 256 channels; the sums of the warps are added in order.
// column_finish of reduce.cu adds the splits, whose sums have the order of the weight, [c, k, k].
// Overwritten: y and partial.
#include "columns.cuh"
#include "vectors.cuh"

struct DepthwiseConv {
    // The map that is read, [b, h, w, c], and the result, [b, ho, wo, c].
    uint32_t b, h, w, c, ho, wo;
    uint32_t k, pad;
    // Whether taps are in reverse order.
    uint32_t turned;
    // Lines of pixels per split.
    uint32_t lines;
};

constexpr int THREADS = 128;
constexpr int PIXELS = 4;
constexpr int TAPS = 7;
constexpr int CHANNELS = 32 * VECTOR;

template <typename T>
__device__ __forceinline__ void convolve(
    const DepthwiseConv& s, const T* __restrict__ x, const T* __restrict__ weight,
    const float* __restrict__ bias, T* __restrict__ y) {
    const uint32_t vectors = (s.c + VECTOR - 1) / VECTOR;
    const uint32_t i = blockIdx.x * THREADS + threadIdx.x;
    const uint32_t channel = i % vectors * VECTOR, ox = i / vectors * PIXELS;
    if (ox >= s.wo) return;
    const int count = s.c - channel < VECTOR ? int(s.c - channel) : VECTOR;
    const bool whole = s.c % VECTOR == 0, wide = whole && aligned(x, weight, y);
    float sums[PIXELS][VECTOR] = {};
    if (bias != nullptr) {
        float start[VECTOR];
        load(bias + channel, whole && aligned(bias), count, start);
#pragma unroll
        for (int p = 0; p < PIXELS; p++)
#pragma unroll
            for (int v = 0; v < VECTOR; v++) sums[p][v] = start[v];
    }
#pragma unroll 1
    for (uint32_t ky = 0; ky < s.k; ky++) {
        // Wraps around above the map.
        const uint32_t iy = blockIdx.y + ky - s.pad;
        if (iy >= s.h) continue;
        const T* line = x + (size_t(blockIdx.z) * s.h + iy) * s.w * s.c + channel;
#pragma unroll 1
        for (uint32_t kx = 0; kx < s.k; kx += TAPS) {
            float under[PIXELS + TAPS - 1][VECTOR];
#pragma unroll
            for (int j = 0; j < PIXELS + TAPS - 1; j++) {
                const uint32_t ix = ox + kx + j - s.pad;
                if (ix < s.w && kx + j < s.k + PIXELS - 1) {
                    load(line + size_t(ix) * s.c, wide, count, under[j]);
                } else {
#pragma unroll
                    for (int v = 0; v < VECTOR; v++) under[j][v] = 0.0f;
                }
            }
#pragma unroll
            for (int t = 0; t < TAPS; t++) {
                if (kx + t >= s.k) continue;
                const uint32_t at = ky * s.k + kx + t;
                const uint32_t tap = s.turned ? s.k * s.k - 1 - at : at;
                float w[VECTOR];
                load(weight + size_t(tap) * s.c + channel, wide, count, w);
#pragma unroll
                for (int p = 0; p < PIXELS; p++)
#pragma unroll
                    for (int v = 0; v < VECTOR; v++)
                        sums[p][v] = fmaf(under[p + t][v], w[v], sums[p][v]);
            }
        }
    }
    T* out = y + ((size_t(blockIdx.z) * s.ho + blockIdx.y) * s.wo + ox) * s.c + channel;
#pragma unroll
    for (int p = 0; p < PIXELS; p++)
        if (ox + p < s.wo) store(out + size_t(p) * s.c, wide, count, sums[p]);
}

template <typename T>
__device__ __forceinline__ void pieces(
    const DepthwiseConv& s, const T* __restrict__ x, const T* __restrict__ dy,
    float* __restrict__ partial) {
    __shared__ float sums[COLUMN_WARPS][CHANNELS];
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t channel = blockIdx.x * CHANNELS + lane * VECTOR;
    const uint32_t groups = (s.k + TAPS - 1) / TAPS;
    const uint32_t ky = blockIdx.z / groups, kx = blockIdx.z % groups * TAPS;
    const uint32_t first = blockIdx.y * s.lines, all = s.b * s.ho;
    const uint32_t last = first + s.lines < all ? first + s.lines : all;
    const bool wide = s.c % VECTOR == 0 && aligned(x, dy);
    float acc[TAPS][VECTOR] = {};
    if (channel < s.c) {
        const int count = s.c - channel < VECTOR ? int(s.c - channel) : VECTOR;
        for (uint32_t line = first + warp; line < last; line += COLUMN_WARPS) {
            const uint32_t iy = line % s.ho + ky - s.pad;
            if (iy >= s.h) continue;
            const T* map = x + (size_t(line / s.ho) * s.h + iy) * s.w * s.c + channel;
#pragma unroll 1
            for (uint32_t ox = 0; ox < s.wo; ox++) {
                float d[VECTOR];
                load(dy + (size_t(line) * s.wo + ox) * s.c + channel, wide, count, d);
#pragma unroll
                for (int t = 0; t < TAPS; t++) {
                    const uint32_t ix = ox + kx + t - s.pad;
                    if (ix >= s.w || kx + t >= s.k) continue;
                    float v[VECTOR];
                    load(map + size_t(ix) * s.c, wide, count, v);
#pragma unroll
                    for (int i = 0; i < VECTOR; i++) acc[t][i] = fmaf(v[i], d[i], acc[t][i]);
                }
            }
        }
    }
    const uint32_t own = blockIdx.x * CHANNELS + threadIdx.x;
#pragma unroll
    for (int t = 0; t < TAPS; t++) {
#pragma unroll
        for (int i = 0; i < VECTOR; i++) sums[warp][lane * VECTOR + i] = acc[t][i];
        __syncthreads();
        if (own < s.c && kx + t < s.k) {
            float total = 0.0f;
#pragma unroll
            for (int w = 0; w < COLUMN_WARPS; w++) total += sums[w][threadIdx.x];
            const size_t weight = (size_t(blockIdx.y) * s.c + own) * s.k * s.k;
            partial[weight + ky * s.k + kx + t] = total;
        }
        __syncthreads();
    }
}

#define DEPTHWISE_CONV(T, SUFFIX)                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) depthwise_conv##SUFFIX(                 \
        DepthwiseConv s, const T* x, const T* weight, const float* bias, T* y) {                  \
        convolve<T>(s, x, weight, bias, y);                                                       \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(COLUMN_THREADS) depthwise_conv_pieces##SUFFIX(   \
        DepthwiseConv s, const T* x, const T* dy, float* partial) {                               \
        pieces<T>(s, x, dy, partial);                                                             \
    }

DEPTHWISE_CONV(float, _f32)
DEPTHWISE_CONV(bf16, _bf16)
