// Dropout: y = x / (1 - rate) where the draw of an element is at least the rate, else 0. 256 threads,
// 8 elements per thread (vectors.cuh), an image for each blockIdx.z. The draws are made again in the
// backward pass, so no mask is stored. The step and the first image are read from memory, so that a
// launch can be replayed unchanged. Overwritten: y.
#include "philox.cuh"
#include "vectors.cuh"

struct Dropout {
    uint64_t n;
    Stream stream;
    float rate, factor;
    // Whether one draw decides on a whole image.
    uint32_t whole;
};

template <typename T>
__device__ __forceinline__ void dropout(
    const Dropout& s, const uint32_t* __restrict__ position, const T* __restrict__ x,
    T* __restrict__ y) {
    const uint64_t sample = uint64_t(position[1]) + blockIdx.z;
    const size_t image = size_t(blockIdx.z) * s.n;
    const bool aligned_images = s.n % VECTOR == 0 && aligned(x, y);
    flat(s.n, [&](uint64_t i, bool whole_vector, int count) {
        const bool wide = whole_vector && aligned_images;
        float v[VECTOR];
        load(x + image + i, wide, count, v);
#pragma unroll
        for (int half = 0; half < VECTOR / 4; half++) {
            uint32_t c[4];
            philox(s.stream, sample, position[0], s.whole ? 0 : i / 4 + half, c);
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const bool kept = unit(s.whole ? c[0] : c[k]) >= s.rate;
                v[4 * half + k] = kept ? v[4 * half + k] * s.factor : 0.0f;
            }
        }
        store(y + image + i, wide, count, v);
    });
}

#define DROPOUT(T, SUFFIX)                                                                         \
    extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) dropout##SUFFIX(                  \
        Dropout s, const uint32_t* position, const T* x, T* y) {                                   \
        dropout<T>(s, position, x, y);                                                             \
    }

DROPOUT(float, _f32)
DROPOUT(bf16, _bf16)
