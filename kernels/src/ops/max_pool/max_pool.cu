// Maximum over windows of channels-last maps. 256 threads per block; a thread handles 8 channels of a
// pixel: of y forward, of x backward, where it gathers from the windows that cover the pixel.
// Overwritten: y, at, dx.
#include "vectors.cuh"

struct MaxPool {
    // The map, [b, h, w, c], and the windows, [b, ho, wo].
    uint32_t b, h, w, c, ho, wo;
    uint32_t k, stride, pad;
};

// Image, row, column and channels of a thread over [b, h, w, c].
struct Place {
    uint32_t image, y, x, column;
    int count;

    __device__ __forceinline__ Place(uint32_t h, uint32_t w, uint32_t c) {
        const uint32_t vectors = (c + VECTOR - 1) / VECTOR;
        const uint32_t i = blockIdx.x * VECTOR_THREADS + threadIdx.x, pixel = i / vectors;
        column = i % vectors * VECTOR;
        count = c - column < VECTOR ? int(c - column) : VECTOR;
        image = pixel / (h * w);
        y = pixel / w % h;
        x = pixel % w;
    }
};

template <typename T>
__device__ __forceinline__ void forward(
    const MaxPool& s, const T* __restrict__ x, T* __restrict__ y, uint8_t* __restrict__ at) {
    const Place p(s.ho, s.wo, s.c);
    if (p.image >= s.b) return;
    const bool wide = s.c % VECTOR == 0 && aligned(x, y);
    float best[VECTOR];
    uint32_t position[VECTOR] = {};
    bool first = true;
    for (uint32_t ky = 0; ky < s.k; ky++) {
        const uint32_t row = p.y * s.stride + ky - s.pad;
        // Rows before the first wrap around.
        if (row >= s.h) continue;
        for (uint32_t kx = 0; kx < s.k; kx++) {
            const uint32_t line = p.x * s.stride + kx - s.pad;
            if (line >= s.w) continue;
            float v[VECTOR];
            load(x + ((size_t(p.image) * s.h + row) * s.w + line) * s.c + p.column, wide, p.count, v);
#pragma unroll
            for (int i = 0; i < VECTOR; i++) {
                if (first || v[i] > best[i] || v[i] != v[i]) {
                    best[i] = v[i];
                    position[i] = ky * s.k + kx;
                }
            }
            first = false;
        }
    }
    const size_t out = ((size_t(p.image) * s.ho + p.y) * s.wo + p.x) * s.c + p.column;
    store(y + out, wide, p.count, best);
#pragma unroll
    for (int i = 0; i < VECTOR; i++)
        if (i < p.count) at[out + i] = uint8_t(position[i]);
}

template <typename T>
__device__ __forceinline__ void backward(
    const MaxPool& s, const uint8_t* __restrict__ at, const T* __restrict__ dy,
    T* __restrict__ dx) {
    const Place p(s.h, s.w, s.c);
    if (p.image >= s.b) return;
    const bool wide = s.c % VECTOR == 0 && aligned(dy, dx);
    const uint32_t y = p.y + s.pad, x = p.x + s.pad;
    const uint32_t top = y < s.k ? 0 : (y - s.k) / s.stride + 1;
    const uint32_t left = x < s.k ? 0 : (x - s.k) / s.stride + 1;
    float sum[VECTOR] = {};
    for (uint32_t oy = top; oy < s.ho && oy * s.stride <= y; oy++) {
        for (uint32_t ox = left; ox < s.wo && ox * s.stride <= x; ox++) {
            const uint32_t position = (y - oy * s.stride) * s.k + x - ox * s.stride;
            const size_t window = ((size_t(p.image) * s.ho + oy) * s.wo + ox) * s.c + p.column;
            float g[VECTOR];
            load(dy + window, wide, p.count, g);
#pragma unroll
            for (int i = 0; i < VECTOR; i++)
                if (i < p.count && at[window + i] == position) sum[i] += g[i];
        }
    }
    store(dx + ((size_t(p.image) * s.h + p.y) * s.w + p.x) * s.c + p.column, wide, p.count, sum);
}

// Four blocks on a multiprocessor leave 64 registers; left alone, ptxas takes 40 and spills.
#define MAX_POOL(T, SUFFIX)                                                                       \
    extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) max_pool_fwd##SUFFIX(             \
        MaxPool s, const T* x, T* y, uint8_t* at) {                                               \
        forward<T>(s, x, y, at);                                                                  \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(VECTOR_THREADS, 4) max_pool_bwd##SUFFIX(          \
        MaxPool s, const uint8_t* at, const T* dy, T* dx) {                                       \
        backward<T>(s, at, dy, dx);                                                               \
    }

MAX_POOL(float, _f32)
MAX_POOL(bf16, _bf16)
