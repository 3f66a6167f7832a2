// Means and variances of columns without cancellation: each split of rows has its mean and its sum of
// squares around that, and splits are merged by Chan's formula.
#pragma once

#include "numbers.cuh"

// Count, mean and sum of squares around the mean of a set.
struct Moments {
    float n, mean, squares;
};

// Moments of the union of two sets (Chan, Golub and LeVeque). Sets may be empty.
__device__ __forceinline__ Moments merge(const Moments& a, const Moments& b) {
    const float n = a.n + b.n;
    if (n == 0.0f) return a;
    const float d = b.mean - a.mean, share = b.n / n;
    return Moments{n, a.mean + d * share, a.squares + b.squares + d * d * a.n * share};
}

// Moments of a column of `count` rows of c elements, which are read twice, the second time from the
// cache.
template <typename T>
__device__ __forceinline__ Moments column_moments(
    const T* __restrict__ x, uint32_t count, uint32_t c) {
    float sum = 0.0f, squares = 0.0f;
#pragma unroll 8
    for (uint32_t i = 0; i < count; i++) sum += to_f32(x[size_t(i) * c]);
    const float mean = sum / float(count);
#pragma unroll 8
    for (uint32_t i = 0; i < count; i++) {
        const float d = to_f32(x[size_t(i) * c]) - mean;
        squares += d * d;
    }
    return Moments{float(count), mean, squares};
}
