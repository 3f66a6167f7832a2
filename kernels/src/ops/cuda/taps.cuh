// Resampling by tap tables: output j of an axis reads `width` inputs with their weights. Padding
// entries have weight 0 and an index that the row reads anyway.
#pragma once

#include "numbers.cuh"

struct Taps {
    // [n_out, width] each.
    const uint32_t* index;
    const float* weight;
    uint32_t n_in, n_out, width;
};

// Value of a planar map [h, w] at output (oy, ox): rows in the outer loop, columns in the inner.
template <typename T>
__device__ __forceinline__ float resampled(
    const T* __restrict__ map, const Taps& y, const Taps& x, uint32_t oy, uint32_t ox) {
    float sum = 0.0f;
    for (uint32_t i = 0; i < y.width; i++) {
        const T* line = map + size_t(y.index[oy * y.width + i]) * x.n_in;
        const float wy = y.weight[oy * y.width + i];
        for (uint32_t j = 0; j < x.width; j++) {
            const float w = wy * x.weight[ox * x.width + j];
            sum += w * to_f32(line[x.index[ox * x.width + j]]);
        }
    }
    return sum;
}
