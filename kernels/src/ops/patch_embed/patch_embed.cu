// Patches of images [b, channels, h, w] as rows [b gh gw, channels p p] and back. A thread moves
// one element, neighbouring threads along a row of pixels. 14 or 16 pixels of a patch are 28 or 32
// bytes in bf16, so wider accesses would gain little. Overwritten: rows, x.
#include "numbers.cuh"

struct PatchEmbed {
    uint32_t b, channels, h, w, p;
};

constexpr int THREADS = 256;

// Index in the rows of pixel i of the images. There are fewer than 2^31 pixels (gpu.rs), and 64-bit
// divisions would be most of the work.
__device__ __forceinline__ uint32_t row_of(const PatchEmbed& s, uint32_t i) {
    const uint32_t x = i % s.w, line = i / s.w, y = line % s.h, plane = line / s.h;
    const uint32_t image = plane / s.channels, channel = plane % s.channels;
    const uint32_t gw = s.w / s.p, gh = s.h / s.p;
    const uint32_t patch = (image * gh + y / s.p) * gw + x / s.p;
    return ((patch * s.channels + channel) * s.p + y % s.p) * s.p + x % s.p;
}

#define PATCH_EMBED(T, SUFFIX)                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS) patch_rows##SUFFIX(                     \
        PatchEmbed s, const T* x, T* rows) {                                                      \
        const uint32_t i = blockIdx.x * THREADS + threadIdx.x;                                    \
        if (i < s.b * s.channels * s.h * s.w) rows[row_of(s, i)] = x[i];                  \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS) patch_pixels##SUFFIX(                   \
        PatchEmbed s, const T* rows, T* x) {                                                      \
        const uint32_t i = blockIdx.x * THREADS + threadIdx.x;                                    \
        if (i < s.b * s.channels * s.h * s.w) x[i] = rows[row_of(s, i)];                  \
    }

PATCH_EMBED(float, _f32)
PATCH_EMBED(bf16, _bf16)
