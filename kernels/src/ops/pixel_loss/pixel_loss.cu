// Cross-entropy of the logits of every pixel, which are planar: x[image, class, pixel]. One thread
// handles one pixel and reads its logits once, with a running maximum and sum. A block of 256 adds
// up its pixels: within warps, then the warps in order. A pixel whose label is not a class counts
// nothing. Overwritten: lse, partial (one sum for each block), dx.
#include "numbers.cuh"

struct PixelLoss {
    uint32_t b, k, n;
    float scale;
};

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;

template <typename T>
__device__ __forceinline__ void forward(
    const PixelLoss& s, const T* __restrict__ x, const uint8_t* __restrict__ labels,
    float* __restrict__ lse, float* __restrict__ partial) {
    __shared__ float sums[WARPS];
    const uint32_t p = blockIdx.x * THREADS + threadIdx.x;
    float loss = 0.0f;
    if (p < s.b * s.n) {
        const uint32_t image = p / s.n;
        const T* logits = x + size_t(image) * s.k * s.n + p % s.n;
        const uint32_t y = labels[p];
        float top = __uint_as_float(0xff800000u), total = 0.0f, own = 0.0f;
        for (uint32_t j = 0; j < s.k; j++) {
            const float v = to_f32(logits[size_t(j) * s.n]);
            // A NaN is not taken as the maximum, but makes the sum NaN.
            if (v > top) {
                total *= expf(top - v);
                top = v;
            }
            total += expf(v - top);
            if (j == y) own = v;
        }
        const float sum = top + logf(total);
        lse[p] = sum;
        if (y < s.k) loss = sum - own;
    }
    loss = warp_sum(loss);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = loss;
    __syncthreads();
    if (threadIdx.x != 0) return;
    loss = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) loss += sums[w];
    partial[blockIdx.x] = loss * s.scale;
}

// sum += lse[p] - x[y, p]
template <typename T>
__device__ __forceinline__ void backward(
    const PixelLoss& s, const T* __restrict__ x, const uint8_t* __restrict__ labels,
    const float* __restrict__ lse, const float* __restrict__ dloss, T* __restrict__ dx) {
    const uint32_t p = blockIdx.x * THREADS + threadIdx.x;
    if (p >= s.b * s.n) return;
    const size_t start = size_t(p / s.n) * s.k * s.n + p % s.n;
    const uint32_t y = labels[p];
    const float d = y < s.k ? dloss[0] * s.scale : 0.0f, sum = lse[p];
    for (uint32_t j = 0; j < s.k; j++) {
        const size_t at = start + size_t(j) * s.n;
        const float softmax = expf(to_f32(x[at]) - sum);
        dx[at] = from_f32<T>(d * (j == y ? softmax - 1.0f : softmax));
    }
}

#define PIXEL_LOSS(T, SUFFIX)                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS) pixel_loss_fwd##SUFFIX(                 \
        PixelLoss s, const T* x, const uint8_t* labels, float* lse, float* partial) {             \
        forward<T>(s, x, labels, lse, partial);                                                   \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS) pixel_loss_bwd##SUFFIX(                 \
        PixelLoss s, const T* x, const uint8_t* labels, const float* lse, const float* dloss,     \
        T* dx) {                                                                                  \
        backward<T>(s, x, labels, lse, dloss, dx);                                                \
    }

PIXEL_LOSS(float, _f32)
PIXEL_LOSS(bf16, _bf16)
