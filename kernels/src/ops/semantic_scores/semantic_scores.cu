// Class scores of every pixel, with the mask logits resized in the same kernel.
// semantic_prob: one warp per query, prob [q, columns] with columns a multiple of CLASSES and zeros
// beyond k.
// semantic_scores: block (pixels, classes) of 256 threads. A thread handles one pixel and CLASSES
// classes and loops over the queries: four taps, one sigmoid, CLASSES multiply-adds. Its
// probabilities come from the cache, one line for the whole warp. Overwritten: prob, scores.
#include "taps.cuh"

struct SemanticScores {
    uint32_t q, k, h, w, ho, wo;
    // Entries per row of the tables.
    uint32_t taps_y, taps_x;
};

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr int CLASSES = 20;

template <typename T>
__device__ __forceinline__ void probabilities(
    const SemanticScores& s, const T* __restrict__ cls, float* __restrict__ prob) {
    const uint32_t lane = threadIdx.x % 32, query = blockIdx.x * WARPS + threadIdx.x / 32;
    if (query >= s.q) return;
    const T* row = cls + size_t(query) * (s.k + 1);
    float top = __uint_as_float(0xff800000u), total = 0.0f;
    for (uint32_t j = lane; j <= s.k; j += 32) top = fmaxf(top, to_f32(row[j]));
    top = warp_max(top);
    for (uint32_t j = lane; j <= s.k; j += 32) total += expf(to_f32(row[j]) - top);
    total = warp_sum(total);
    const uint32_t columns = (s.k + CLASSES - 1) / CLASSES * CLASSES;
    for (uint32_t j = lane; j < columns; j += 32)
        prob[size_t(query) * columns + j] = j < s.k ? expf(to_f32(row[j]) - top) / total : 0.0f;
}

template <typename T>
__device__ __forceinline__ void scores_of(
    const SemanticScores& s, const Taps& y, const Taps& x, const float* __restrict__ prob,
    const T* __restrict__ masks, float* __restrict__ scores) {
    const uint32_t pixel = blockIdx.x * THREADS + threadIdx.x;
    if (pixel >= s.ho * s.wo) return;
    const uint32_t first = blockIdx.y * CLASSES;
    const uint32_t columns = gridDim.y * CLASSES;
    float sum[CLASSES] = {};
    for (uint32_t query = 0; query < s.q; query++) {
        const T* map = masks + size_t(query) * s.h * s.w;
        const float sig = sigmoid(resampled(map, y, x, pixel / s.wo, pixel % s.wo));
#pragma unroll
        for (int c = 0; c < CLASSES; c++)
            sum[c] += prob[size_t(query) * columns + first + c] * sig;
    }
#pragma unroll
    for (int c = 0; c < CLASSES; c++)
        if (first + c < s.k) scores[size_t(first + c) * s.ho * s.wo + pixel] = sum[c];
}

#define SEMANTIC_SCORES(T, SUFFIX)                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS) semantic_prob##SUFFIX(                  \
        SemanticScores s, const T* cls, float* prob) {                                            \
        probabilities<T>(s, cls, prob);                                                           \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS) semantic_scores##SUFFIX(                \
        SemanticScores s, const uint32_t* index_y, const float* weight_y,                         \
        const uint32_t* index_x, const float* weight_x, const float* prob, const T* masks,        \
        float* scores) {                                                                          \
        const Taps y = {index_y, weight_y, s.h, s.ho, s.taps_y};                                  \
        const Taps x = {index_x, weight_x, s.w, s.wo, s.taps_x};                                  \
        scores_of<T>(s, y, x, prob, masks, scores);                                               \
    }

SEMANTIC_SCORES(float, _f32)
SEMANTIC_SCORES(bf16, _bf16)
