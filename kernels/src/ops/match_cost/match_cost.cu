// Matching costs of a batch: cost [b, q, g]. Block (tile, query, image) of 256 threads handles one
// query and TARGETS targets. A thread loops over every 256th point, reads the logit once and adds
// its cross-entropy and overlap with each target. At 100 queries, 19 targets and 12544 points that
// is 0.15 GFLOP over 6 MB, read five times from the L2 cache: too little for tensor cores to
// matter. A target whose label is not a class (padding) costs 0. cost is overwritten.
#include "numbers.cuh"

struct MatchCost {
    uint32_t b, q, g, k, p;
    float class_weight, mask_weight, dice_weight;
};

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr int TARGETS = 4;
// Sums per target: cross-entropy, sigmoid(x) t, t; and per query: sigmoid(x).
constexpr int SUMS = 3 * TARGETS + 1;

// softmax(row)[label], computed by the first warp.
template <typename T>
__device__ __forceinline__ float probability(const T* row, uint32_t k, uint32_t label) {
    const uint32_t lane = threadIdx.x % 32;
    float top = __uint_as_float(0xff800000u), total = 0.0f;
    for (uint32_t j = lane; j < k; j += 32) top = fmaxf(top, to_f32(row[j]));
    top = warp_max(top);
    for (uint32_t j = lane; j < k; j += 32) total += expf(to_f32(row[j]) - top);
    total = warp_sum(total);
    return expf(to_f32(row[label]) - top) / total;
}

template <typename T>
__device__ __forceinline__ void compute(
    const MatchCost& s, const T* __restrict__ cls, const int32_t* __restrict__ labels,
    const float* __restrict__ x, const float* __restrict__ t, float* __restrict__ cost) {
    __shared__ float parts[SUMS][WARPS];
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t query = blockIdx.y, image = blockIdx.z;
    const uint32_t first = blockIdx.x * TARGETS;
    const uint32_t count = s.g - first < TARGETS ? s.g - first : TARGETS;
    cls += (size_t(image) * s.q + query) * (s.k + 1);
    x += (size_t(image) * s.q + query) * s.p;
    t += (size_t(image) * s.g + first) * s.p;
    labels += size_t(image) * s.g + first;
    cost += (size_t(image) * s.q + query) * s.g + first;
    float sum[SUMS] = {};
    for (uint32_t j = threadIdx.x; j < s.p; j += THREADS) {
        const float v = x[j], e = expf(-fabsf(v));
        const float sig = (v >= 0.0f ? 1.0f : e) / (1.0f + e);
        const float log = log1pf(e), positive = fmaxf(v, 0.0f);
        sum[3 * TARGETS] += sig;
#pragma unroll
        for (int i = 0; i < TARGETS; i++) {
            const float u = i < count ? t[size_t(i) * s.p + j] : 0.0f;
            sum[3 * i] += positive - v * u + log;
            sum[3 * i + 1] += sig * u;
            sum[3 * i + 2] += u;
        }
    }
#pragma unroll
    for (int i = 0; i < SUMS; i++) {
        sum[i] = warp_sum(sum[i]);
        if (lane == 0) parts[i][warp] = sum[i];
    }
    __syncthreads();
    if (warp != 0) return;
    for (uint32_t i = 0; i < count; i++) {
        float total[4] = {};
        for (int w = 0; w < WARPS; w++) {
#pragma unroll
            for (int k = 0; k < 3; k++) total[k] += parts[3 * i + k][w];
            total[3] += parts[3 * TARGETS][w];
        }
        const uint32_t label = uint32_t(labels[i]);
        float sum_cost = 0.0f;
        if (label < s.k) {
            const float dice = 1.0f - (2.0f * total[1] + 1.0f) / (total[3] + total[2] + 1.0f);
            sum_cost = s.mask_weight * (total[0] / float(s.p)) + s.dice_weight * dice -
                       s.class_weight * probability(cls, s.k + 1, label);
        }
        if (lane == 0) cost[i] = sum_cost;
    }
}

#define MATCH_COST(T, SUFFIX)                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS) match_cost##SUFFIX(                     \
        MatchCost s, const T* cls, const int32_t* labels, const float* x, const float* t,         \
        float* cost) {                                                                            \
        compute<T>(s, cls, labels, x, t, cost);                                                   \
    }

MATCH_COST(float, _f32)
MATCH_COST(bf16, _bf16)
