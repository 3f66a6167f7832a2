// Entries of attention.cuh in f32, on the FMA units.
#include "attention.cuh"

#define ENTRIES(D, SUFFIX, BLOCKED)                                                               \
    extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 2) attention_forward_##SUFFIX##_f32( \
        AttentionSizes s, const float* q, const float* k, const float* v, const uint8_t* blocked, \
        float* out, float* lse) {                                                                 \
        attention_forward<F32, D, 1, 32, BLOCKED>(q, k, v, blocked, out, lse, s);                 \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 2) attention_dq_##SUFFIX##_f32( \
        AttentionSizes s, const float* q, const float* k, const float* v, const uint8_t* blocked, \
        const float* lse, const float* delta, const float* dout, float* dq) {                     \
        attention_dq<F32, D, 1, 32, BLOCKED>(q, k, v, blocked, lse, delta, dout, dq, s);          \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 2) attention_dkv_##SUFFIX##_f32( \
        AttentionSizes s, const float* q, const float* k, const float* v, const uint8_t* blocked, \
        const float* lse, const float* delta, const float* dout, float* dk, float* dv) {          \
        attention_dkv<F32, D, 32, BLOCKED>(q, k, v, blocked, lse, delta, dout, dk, dv, s);        \
    }

#define DELTA(D)                                                                                  \
    extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 2) attention_delta_##D##_f32(    \
        AttentionSizes s, const float* out, const float* dout, float* delta) {                        \
        attention_delta<float, D>(out, dout, delta, s);                                             \
    }

ENTRIES(32, 32, false)
ENTRIES(64, 64, false)
ENTRIES(80, 80, false)
ENTRIES(32, 32_blocked, true)
DELTA(32)
DELTA(64)
DELTA(80)
