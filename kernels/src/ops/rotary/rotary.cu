// Rotary position embedding in place on packed qkv [b, t, 3, heads, d]. Block (token, vectors): 256
// vectors of 8 channels of the queries and keys of one token, which are contiguous. The block reads
// cosines and sines once and loops over the images. Values and the first `skip` tokens are not
// changed.
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

extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) rotary_f32(
    Rotary s, const float* table, float* qkv) {
    rotate<float>(s, table, qkv);
}

extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) rotary_bf16(
    Rotary s, const float* table, bf16* qkv) {
    rotate<bf16>(s, table, qkv);
}
