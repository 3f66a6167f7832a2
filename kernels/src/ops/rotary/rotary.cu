// Rotary position embedding in place on packed qkv [b, t, 3, heads, d]. Block (token, vectors): 256
// threads for the queries and keys of one token, which are contiguous. A thread handles one vector of
// 8 channels, or two whose channels form pairs. The block reads cosines and sines once and loops over
// the images. Values and the first `skip` tokens are not changed.
#include "vectors.cuh"

struct Rotary {
    uint32_t b, t, skip, d;
    // Elements of the queries and keys of a token, and of the whole token.
    uint32_t width, token;
    float sign;  // -1 for the inverse rotation
    uint32_t unused;
};

template <typename T>
__device__ __forceinline__ void rotate(const Rotary& s, const float* __restrict__ table, T* qkv) {
    const uint32_t column = (blockIdx.y * VECTOR_THREADS + threadIdx.x) * VECTOR;
    if (column >= s.width) return;
    const int count = s.width - column < VECTOR ? int(s.width - column) : VECTOR;
    const bool wide = s.d % VECTOR == 0 && aligned(qkv);
    table += size_t(blockIdx.x) * s.d;
    float cosine[VECTOR / 2], sine[VECTOR / 2];
#pragma unroll
    for (int k = 0; k < VECTOR / 2; k++) {
        // d and `width` are even, so a pair is in one head and complete.
        const float2 angle = *reinterpret_cast<const float2*>(table + (column + 2 * k) % s.d);
        cosine[k] = angle.x;
        sine[k] = s.sign * angle.y;
    }
    for (uint32_t image = 0; image < s.b; image++) {
        T* at = qkv + (size_t(image) * s.t + s.skip + blockIdx.x) * s.token + column;
        float v[VECTOR];
        load(at, wide, count, v);
#pragma unroll
        for (int k = 0; k < VECTOR / 2; k++) {
            const float x = v[2 * k], y = v[2 * k + 1];
            v[2 * k] = x * cosine[k] - y * sine[k];
            v[2 * k + 1] = y * cosine[k] + x * sine[k];
        }
        store(at, wide, count, v);
    }
}

// Channel j and j + d / 2 of a head form a pair.
template <typename T>
__device__ __forceinline__ void rotate_halves(const Rotary& s, const float* __restrict__ table,
                                              T* qkv) {
    const uint32_t half = s.d / 2, vectors = (half + VECTOR - 1) / VECTOR;
    const uint32_t item = blockIdx.y * VECTOR_THREADS + threadIdx.x;
    if (item >= s.width / s.d * vectors) return;
    const uint32_t k = item % vectors * VECTOR, column = item / vectors * s.d + k;
    const int count = half - k < VECTOR ? int(half - k) : VECTOR;
    const bool wide = half % VECTOR == 0 && aligned(qkv);
    table += size_t(blockIdx.x) * s.d + 2 * k;
    float cosine[VECTOR] = {}, sine[VECTOR] = {};
#pragma unroll
    for (int i = 0; i < VECTOR; i++) {
        if (i >= count) break;
        const float2 angle = *reinterpret_cast<const float2*>(table + 2 * i);
        cosine[i] = angle.x;
        sine[i] = s.sign * angle.y;
    }
    for (uint32_t image = 0; image < s.b; image++) {
        T* at = qkv + (size_t(image) * s.t + s.skip + blockIdx.x) * s.token + column;
        float x[VECTOR] = {}, y[VECTOR] = {};
        load(at, wide, count, x);
        load(at + half, wide, count, y);
#pragma unroll
        for (int i = 0; i < VECTOR; i++) {
            const float turned = x[i] * cosine[i] - y[i] * sine[i];
            y[i] = y[i] * cosine[i] + x[i] * sine[i];
            x[i] = turned;
        }
        store(at, wide, count, x);
        store(at + half, wide, count, y);
    }
}

extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) rotary_f32(
    Rotary s, const float* table, float* qkv) {
    rotate<float>(s, table, qkv);
}

extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) rotary_bf16(
    Rotary s, const float* table, bf16* qkv) {
    rotate<bf16>(s, table, qkv);
}

extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) rotary_halves_f32(
    Rotary s, const float* table, float* qkv) {
    rotate_halves<float>(s, table, qkv);
}

extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) rotary_halves_bf16(
    Rotary s, const float* table, bf16* qkv) {
    rotate_halves<bf16>(s, table, qkv);
}
