// Pointwise activations: 256 threads, 8 elements per thread (vectors.cuh). Outputs are overwritten.
#include "vectors.cuh"

struct Activation {
    uint64_t n;
};

constexpr float HALF_ROOT = 0.70710678118654752f;        // 1 / sqrt(2)
constexpr float INV_ROOT_TWO_PI = 0.39894228040143268f;  // 1 / sqrt(2 pi)

constexpr float QUICK = 1.702f;

struct Gelu {
    // Loses digits of the tail below -4, where the value is under 1.3e-4 and its error under 3e-7.
    // The exact tail (erfc) takes more instructions; at 4 bytes per element about 30 are free.
    static __device__ __forceinline__ float value(float x) {
        return x * (0.5f * (1.0f + erff(x * HALF_ROOT)));
    }
    static __device__ __forceinline__ float slope(float x) {
        const float density = INV_ROOT_TWO_PI * expf(-0.5f * x * x);
        return 0.5f * (1.0f + erff(x * HALF_ROOT)) + x * density;
    }
};

// x sigmoid(1.702 x), the approximation of GELU used by CLIP.
struct QuickGelu {
    static __device__ __forceinline__ float value(float x) { return x * sigmoid(QUICK * x); }
    static __device__ __forceinline__ float slope(float x) {
        const float gate = sigmoid(QUICK * x), other = sigmoid(-QUICK * x);
        return gate * fmaf(QUICK * x, other, 1.0f);
    }
};

struct Relu {
    static __device__ __forceinline__ float value(float x) { return fmaxf(x, 0.0f); }
    static __device__ __forceinline__ float slope(float x) { return x > 0.0f ? 1.0f : 0.0f; }
};

template <typename F, typename T>
__device__ __forceinline__ void forward(uint64_t n, const T* x, T* y) {
    const bool wide = aligned(x, y);
    flat(n, [&](uint64_t i, bool whole, int count) {
        float v[VECTOR];
        load(x + i, wide && whole, count, v);
#pragma unroll
        for (int k = 0; k < VECTOR; k++) v[k] = F::value(v[k]);
        store(y + i, wide && whole, count, v);
    });
}

// dx = dy f'(x)
template <typename F, typename T>
__device__ __forceinline__ void backward(uint64_t n, const T* x, const T* dy, T* dx) {
    const bool wide = aligned(x, dy, dx);
    flat(n, [&](uint64_t i, bool whole, int count) {
        float v[VECTOR], d[VECTOR];
        load(x + i, wide && whole, count, v);
        load(dy + i, wide && whole, count, d);
#pragma unroll
        for (int k = 0; k < VECTOR; k++) d[k] *= F::slope(v[k]);
        store(dx + i, wide && whole, count, d);
    });
}

#define ACTIVATION(F, NAME, T, SUFFIX)                                                            \
    extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) NAME##_fwd##SUFFIX(               \
        Activation s, const T* x, T* y) {                                                         \
        forward<F, T>(s.n, x, y);                                                                 \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) NAME##_bwd##SUFFIX(               \
        Activation s, const T* x, const T* dy, T* dx) {                                           \
        backward<F, T>(s.n, x, dy, dx);                                                           \
    }

ACTIVATION(Gelu, gelu, float, _f32)
ACTIVATION(Gelu, gelu, bf16, _bf16)
ACTIVATION(QuickGelu, quick_gelu, float, _f32)
ACTIVATION(QuickGelu, quick_gelu, bf16, _bf16)
ACTIVATION(Relu, relu, float, _f32)
ACTIVATION(Relu, relu, bf16, _bf16)
