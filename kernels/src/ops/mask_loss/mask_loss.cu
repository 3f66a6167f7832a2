// Binary cross-entropy and dice loss of pairs sampled at points: x, t [r, p].
// mask_loss_rows: one block of 256 threads per pair; sums [r, 4] are those of sigmoid(x), t, their
// product and the cross-entropy. mask_loss_finish: one block over the pairs. mask_loss_bwd: 2-D
// tiles (vectors.cuh). Each pair has a weight (null: 1), 0 for padding. Overwritten: sums, losses,
// dx.
#include "vectors.cuh"

struct MaskLoss {
    uint32_t r, p;
    // Rows of a tile of the backward pass.
    uint32_t rows;
    float mask_weight, dice_weight;
    uint32_t unused;
};

constexpr int WARPS = VECTOR_THREADS / 32;
constexpr float EPS = 1.1920929e-7f;

template <typename T>
__device__ __forceinline__ void rows(
    const MaskLoss& s, const T* __restrict__ x, const float* __restrict__ t,
    float* __restrict__ sums) {
    __shared__ float parts[4][WARPS];
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    x += size_t(blockIdx.x) * s.p;
    t += size_t(blockIdx.x) * s.p;
    float sum[4] = {};
    for (uint32_t j = threadIdx.x; j < s.p; j += VECTOR_THREADS) {
        const float v = to_f32(x[j]), u = t[j];
        const float e = expf(-fabsf(v));
        const float sig = (v >= 0.0f ? 1.0f : e) / (1.0f + e);
        sum[0] += sig;
        sum[1] += u;
        sum[2] += sig * u;
        // log1p, not log: the losses of confident points are small.
        sum[3] += fmaxf(v, 0.0f) - v * u + log1pf(e);
    }
#pragma unroll
    for (int k = 0; k < 4; k++) {
        sum[k] = warp_sum(sum[k]);
        if (lane == 0) parts[k][warp] = sum[k];
    }
    __syncthreads();
    if (threadIdx.x < 4) {
        float total = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) total += parts[threadIdx.x][w];
        sums[blockIdx.x * 4 + threadIdx.x] = total;
    }
}

// Cross-entropy and dice loss of all pairs, divided by num[0].
extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) mask_loss_finish(
    MaskLoss s, const float* __restrict__ sums, const float* __restrict__ weights,
    const float* __restrict__ num, float* __restrict__ losses) {
    __shared__ float parts[2][WARPS];
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float mask = 0.0f, dice = 0.0f;
    for (uint32_t i = threadIdx.x; i < s.r; i += VECTOR_THREADS) {
        const float* of = sums + size_t(i) * 4;
        const float weight = weights != nullptr ? weights[i] : 1.0f;
        mask += weight * of[3];
        dice += weight * (1.0f - (2.0f * of[2] + 1.0f) / (of[0] + of[1] + 1.0f));
    }
    mask = warp_sum(mask);
    dice = warp_sum(dice);
    if (lane == 0) parts[0][warp] = mask, parts[1][warp] = dice;
    __syncthreads();
    if (threadIdx.x < 2) {
        float total = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) total += parts[threadIdx.x][w];
        const float points = num[0] * float(s.p);
        losses[threadIdx.x] = threadIdx.x == 0 ? total * (s.mask_weight / (points + EPS))
                                               : total * (s.dice_weight / (num[0] + EPS));
    }
}

// total += BCE(x, t); dice += 1 - top / den with top and den depending on sigmoid(x)
template <typename T>
__device__ __forceinline__ void backward(
    const MaskLoss& s, const T* __restrict__ x, const float* __restrict__ t,
    const float* __restrict__ sums, const float* __restrict__ weights,
    const float* __restrict__ num, const float* __restrict__ dlosses, T* __restrict__ dx) {
    const Tile2d tile(s.r, s.p, s.rows);
    if (tile.count == 0) return;
    const bool wide = s.p % VECTOR == 0 && aligned(x, t, dx);
    const float d_mask = dlosses[0] * (s.mask_weight / (num[0] * float(s.p) + EPS));
    const float d_dice = dlosses[1] * (s.dice_weight / (num[0] + EPS));
    for (uint32_t row = tile.first; row < tile.last; row += TILE_WARPS) {
        const float* of = sums + size_t(row) * 4;
        const float weight = weights != nullptr ? weights[row] : 1.0f;
        const float top = 2.0f * of[2] + 1.0f, den = of[0] + of[1] + 1.0f;
        const float mask = weight * d_mask, dice = weight * d_dice / (den * den);
        const size_t at = size_t(row) * s.p + tile.column;
        float v[VECTOR], u[VECTOR];
        load(x + at, wide, tile.count, v);
        load(t + at, wide, tile.count, u);
#pragma unroll
        for (int k = 0; k < VECTOR; k++) {
            const float sig = sigmoid(v[k]);
            const float slope = sig * (1.0f - sig) * (2.0f * u[k] * den - top);
            v[k] = mask * (sig - u[k]) - dice * slope;
        }
        store(dx + at, wide, tile.count, v);
    }
}

#define MASK_LOSS(T, SUFFIX)                                                                      \
    extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) mask_loss_rows##SUFFIX(           \
        MaskLoss s, const T* x, const float* t, float* sums) {                                    \
        rows<T>(s, x, t, sums);                                                                   \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) mask_loss_bwd##SUFFIX(            \
        MaskLoss s, const T* x, const float* t, const float* sums, const float* weights,          \
        const float* num, const float* dlosses, T* dx) {                                          \
        backward<T>(s, x, t, sums, weights, num, dlosses, dx);                                    \
    }

MASK_LOSS(float, _f32)
MASK_LOSS(bf16, _bf16)
