// The squares of images [b, channels, h, w] as rows [b gh gw, channels p p] and back. A thread
// moves one element, neighbours along a row of pixels; 14 or 16 pixels of a patch are 28 or 32
// bytes in bf16, so wider accesses would gain little. Overwritten: rows, x.
#include "numbers.cuh"

struct PatchEmbed {
    uint32_t b, channels, h, w, p;
    uint32_t unused;
};

constexpr int THREADS = 256;

// Place in the rows of pixel i of the images.
__device__ __forceinline__ size_t row_of(const PatchEmbed& s, size_t i) {
    const uint32_t x = uint32_t(i % s.w), y = uint32_t(i / s.w % s.h);
    const uint32_t plane = uint32_t(i / (size_t(s.w) * s.h));
    const uint32_t image = plane / s.channels, channel = plane % s.channels;
    const uint32_t gw = s.w / s.p, gh = s.h / s.p;
    const size_t patch = (size_t(image) * gh + y / s.p) * gw + x / s.p;
    return ((patch * s.channels + channel) * s.p + y % s.p) * s.p + x % s.p;
}

#define PATCH_EMBED(T, SUFFIX)                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS) patch_rows##SUFFIX(                     \
        PatchEmbed s, const T* x, T* rows) {                                                      \
        const size_t i = size_t(blockIdx.x) * THREADS + threadIdx.x;                              \
        if (i < size_t(s.b) * s.channels * s.h * s.w) rows[row_of(s, i)] = x[i];                  \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS) patch_pixels##SUFFIX(                   \
        PatchEmbed s, const T* rows, T* x) {                                                      \
        const size_t i = size_t(blockIdx.x) * THREADS + threadIdx.x;                              \
        if (i < size_t(s.b) * s.channels * s.h * s.w) x[i] = rows[row_of(s, i)];                  \
    }

PATCH_EMBED(float, _f32)
PATCH_EMBED(bf16, _bf16)
