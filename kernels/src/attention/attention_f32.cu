// Entries of attention.cuh in f32, on the FMA units.
// Shared memory as gpu.rs asks for it:
// dynamic-shared attention_forward_32_f32 36864
// dynamic-shared attention_dq_32_f32 41984
// dynamic-shared attention_dkv_32_f32 42496
// dynamic-shared attention_forward_64_f32 61440
// dynamic-shared attention_dq_64_f32 74752
// dynamic-shared attention_dkv_64_f32 75264
// dynamic-shared attention_forward_80_f32 73728
// dynamic-shared attention_dq_80_f32 91136
// dynamic-shared attention_dkv_80_f32 91648
// dynamic-shared attention_forward_32_blocked_f32 36864
// dynamic-shared attention_dq_32_blocked_f32 41984
// dynamic-shared attention_dkv_32_blocked_f32 42496
#include "attention.cuh"

// Two blocks a multiprocessor: up to 255 registers of a thread.
#define KERNEL extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 2)

#define ENTRIES(D, SUFFIX, BLOCKED)                                                               \
    KERNEL attention_forward_##SUFFIX##_f32(                                                      \
        AttentionSizes s, const float* q, const float* k, const float* v, const uint8_t* blocked, \
        float* out, float* lse) {                                                                 \
        attention_forward<F32, D, 1, 32, BLOCKED>(q, k, v, blocked, out, lse, s);                 \
    }                                                                                             \
    KERNEL attention_dq_##SUFFIX##_f32(                                                           \
        AttentionSizes s, const float* q, const float* k, const float* v, const uint8_t* blocked, \
        const float* lse, const float* delta, const float* dout, float* dq) {                     \
        attention_dq<F32, D, 1, 32, BLOCKED>(q, k, v, blocked, lse, delta, dout, dq, s);          \
    }                                                                                             \
    KERNEL attention_dkv_##SUFFIX##_f32(                                                          \
        AttentionSizes s, const float* q, const float* k, const float* v, const uint8_t* blocked, \
        const float* lse, const float* delta, const float* dout, float* dk, float* dv) {          \
        attention_dkv<F32, D, 32, BLOCKED>(q, k, v, blocked, lse, delta, dout, dk, dv, s);        \
    }

#define DELTA(D)                                                                                  \
    KERNEL attention_delta_##D##_f32(AttentionSizes s, const float* out, const float* dout,       \
                                       float* delta) {                                            \
        attention_delta<float, D>(out, dout, delta, s);                                           \
    }

ENTRIES(32, 32, false)
ENTRIES(64, 64, false)
ENTRIES(80, 80, false)
ENTRIES(32, 32_blocked, true)
DELTA(32)
DELTA(64)
DELTA(80)
