// Cross-entropy over classes. One block of 256 threads does the forward pass: a warp handles every
// eighth row, its lanes every 32nd class. 400 rows of 20 classes are 32 KB, so the launch
// dominates. The backward pass uses one warp per row. A row whose target is not a class is ignored:
// its weight and its gradient are 0. Overwritten: loss, scale, dx.
#include "numbers.cuh"

struct ClassLoss {
    uint32_t n, k;
    float weight;
    uint32_t unused;
};

constexpr int WARPS = 8;
constexpr int THREADS = 32 * WARPS;
constexpr float EPS = 1.1920929e-7f;

// Largest logit of a row and the sum of the exponentials relative to it, in every lane.
template <typename T>
__device__ __forceinline__ float softmax_parts(const T* row, uint32_t k, float& total) {
    const uint32_t lane = threadIdx.x % 32;
    float top = __uint_as_float(0xff800000u);
    for (uint32_t j = lane; j < k; j += 32) top = fmaxf(top, to_f32(row[j]));
    top = warp_max(top);
    total = 0.0f;
    for (uint32_t j = lane; j < k; j += 32) total += expf(to_f32(row[j]) - top);
    total = warp_sum(total);
    return top;
}

// loss[0] is the loss, scale[0] = weight / (sum of the rows' class weights + eps), or of a divisor
// that is given instead of the sum.
template <typename T>
__device__ __forceinline__ void forward(
    const ClassLoss& s, const T* __restrict__ x, const int32_t* __restrict__ targets,
    const float* __restrict__ class_weights, const float* __restrict__ divisor,
    float* __restrict__ loss, float* __restrict__ scale) {
    __shared__ float losses[WARPS], weights[WARPS];
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float sum = 0.0f, weight = 0.0f;
    for (uint32_t i = warp; i < s.n; i += WARPS) {
        const T* row = x + size_t(i) * s.k;
        float total;
        const float top = softmax_parts(row, s.k, total);
        const uint32_t y = uint32_t(targets[i]);
        if (y >= s.k) continue;
        const float w = class_weights[y];
        sum += w * (top - to_f32(row[y]) + logf(total));
        weight += w;
    }
    if (lane == 0) losses[warp] = sum, weights[warp] = weight;
    __syncthreads();
    if (threadIdx.x != 0) return;
    sum = weight = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) sum += losses[w], weight += weights[w];
    if (divisor != nullptr) weight = divisor[0];
    const float factor = s.weight / (weight + EPS);
    scale[0] = factor;
    loss[0] = sum * factor;
}

// sum += w[y] * (lse(x) - x[y])
template <typename T>
__device__ __forceinline__ void backward(
    const ClassLoss& s, const T* __restrict__ x, const int32_t* __restrict__ targets,
    const float* __restrict__ class_weights, const float* __restrict__ scale,
    const float* __restrict__ dloss, T* __restrict__ dx) {
    const uint32_t lane = threadIdx.x % 32, i = blockIdx.x * WARPS + threadIdx.x / 32;
    if (i >= s.n) return;
    const T* row = x + size_t(i) * s.k;
    float total;
    const float top = softmax_parts(row, s.k, total);
    const uint32_t y = uint32_t(targets[i]);
    const float d = y < s.k ? scale[0] * dloss[0] * class_weights[y] : 0.0f;
    for (uint32_t j = lane; j < s.k; j += 32) {
        const float p = expf(to_f32(row[j]) - top) / total;
        dx[size_t(i) * s.k + j] = from_f32<T>(d * (j == y ? p - 1.0f : p));
    }
}

#define CLASS_LOSS(T, SUFFIX)                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS) class_loss_fwd##SUFFIX(                 \
        ClassLoss s, const T* x, const int32_t* targets, const float* class_weights,              \
        const float* divisor, float* loss, float* scale) {                                        \
        forward<T>(s, x, targets, class_weights, divisor, loss, scale);                           \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS) class_loss_bwd##SUFFIX(                 \
        ClassLoss s, const T* x, const int32_t* targets, const float* class_weights,              \
        const float* scale, const float* dloss, T* dx) {                                          \
        backward<T>(s, x, targets, class_weights, scale, dloss, dx);                              \
    }

CLASS_LOSS(float, _f32)
CLASS_LOSS(bf16, _bf16)
