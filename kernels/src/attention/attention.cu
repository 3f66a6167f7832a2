// Entries of attention.cuh in bf16, on tensor cores.
#include "attention.cuh"

#define ENTRIES(D, SUFFIX, BLOCKED, MT, TILE, DQ_MT)                                              \
    extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 2) attention_forward_##SUFFIX##_bf16( \
        AttentionSizes s, const bf16* q, const bf16* k, const bf16* v, const uint8_t* blocked,    \
        bf16* out, float* lse) {                                                                  \
        attention_forward<Bf16, D, MT, TILE, BLOCKED>(q, k, v, blocked, out, lse, s);             \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 2) attention_dq_##SUFFIX##_bf16( \
        AttentionSizes s, const bf16* q, const bf16* k, const bf16* v, const uint8_t* blocked,    \
        const float* lse, const float* delta, const bf16* dout, bf16* dq) {                       \
        attention_dq<Bf16, D, DQ_MT, 64, BLOCKED>(q, k, v, blocked, lse, delta, dout, dq, s);     \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 2) attention_dkv_##SUFFIX##_bf16( \
        AttentionSizes s, const bf16* q, const bf16* k, const bf16* v, const uint8_t* blocked,    \
        const float* lse, const float* delta, const bf16* dout, bf16* dk, bf16* dv) {             \
        attention_dkv<Bf16, D, 64, BLOCKED>(q, k, v, blocked, lse, delta, dout, dk, dv, s);       \
    }

#define DELTA(D)                                                                                  \
    extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 2) attention_delta_##D##_bf16(    \
        AttentionSizes s, const bf16* out, const bf16* dout, float* delta) {                        \
        attention_delta<bf16, D>(out, dout, delta, s);                                             \
    }

ENTRIES(32, 32, false, 2, 64, 2)
ENTRIES(64, 64, false, 2, 64, 2)
ENTRIES(80, 80, false, 2, 32, 1)
ENTRIES(32, 32_blocked, true, 1, 64, 1)
DELTA(32)
DELTA(64)
DELTA(80)
