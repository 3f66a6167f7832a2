// Entries of attention.cuh in bf16, on tensor cores.
// Shared memory as gpu.rs asks for it:
// dynamic-shared attention_forward_32_bf16 30720
// dynamic-shared attention_dq_32_bf16 40960
// dynamic-shared attention_dkv_32_bf16 31744
// dynamic-shared attention_forward_64_bf16 55296
// dynamic-shared attention_dq_64_bf16 73728
// dynamic-shared attention_dkv_64_bf16 56320
// dynamic-shared attention_forward_80_bf16 45056
// dynamic-shared attention_dq_80_bf16 67584
// dynamic-shared attention_dkv_80_bf16 68608
// dynamic-shared attention_forward_32_blocked_bf16 25600
// dynamic-shared attention_dq_32_blocked_bf16 30720
// dynamic-shared attention_dkv_32_blocked_bf16 31744
#include "attention.cuh"

// Two blocks a multiprocessor: up to 255 registers of a thread.
#define KERNEL extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 2)

#define ENTRIES(D, SUFFIX, BLOCKED, MT, TILE, DQ_MT)                                              \
    KERNEL attention_forward_##SUFFIX##_bf16(                                                     \
        AttentionSizes s, const bf16* q, const bf16* k, const bf16* v, const uint8_t* blocked,    \
        bf16* out, float* lse) {                                                                  \
        attention_forward<Bf16, D, MT, TILE, BLOCKED>(q, k, v, blocked, out, lse, s);             \
    }                                                                                             \
    KERNEL attention_dq_##SUFFIX##_bf16(                                                          \
        AttentionSizes s, const bf16* q, const bf16* k, const bf16* v, const uint8_t* blocked,    \
        const float* lse, const float* delta, const bf16* dout, bf16* dq) {                       \
        attention_dq<Bf16, D, DQ_MT, 64, BLOCKED>(q, k, v, blocked, lse, delta, dout, dq, s);     \
    }                                                                                             \
    KERNEL attention_dkv_##SUFFIX##_bf16(                                                         \
        AttentionSizes s, const bf16* q, const bf16* k, const bf16* v, const uint8_t* blocked,    \
        const float* lse, const float* delta, const bf16* dout, bf16* dk, bf16* dv) {             \
        attention_dkv<Bf16, D, 64, BLOCKED>(q, k, v, blocked, lse, delta, dout, dk, dv, s);       \
    }

#define DELTA(D)                                                                                  \
    KERNEL attention_delta_##D##_bf16(AttentionSizes s, const bf16* out, const bf16* dout,        \
                                       float* delta) {                                            \
        attention_delta<bf16, D>(out, dout, delta, s);                                            \
    }

// d, name, blocked; rows of a warp in units of 16, keys of a tile; rows of a warp of dq. At d = 80
// smaller ones, since accumulators of 32 rows and 64 keys would not fit into 255 registers.
ENTRIES(32, 32, false, 2, 64, 2)
ENTRIES(64, 64, false, 2, 64, 2)
ENTRIES(80, 80, false, 2, 32, 1)
ENTRIES(32, 32_blocked, true, 1, 64, 1)
DELTA(32)
DELTA(64)
DELTA(80)
