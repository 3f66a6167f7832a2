// Named kernels of attention.cuh: one of each per head width. Each decides at run time whether it
// has a mask, relative positions or a part of the keys.
#pragma once
#include "backward.cuh"
#include "forward.cuh"

// `blocks` per SM: two allow 255 registers per thread, four 128.
#define KERNEL(blocks) extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, blocks)

#define INPUTS(T) const T *q, const T *k, const T *v, const uint8_t *blocked, const T *rel
#define SAVED(T) const float *lse, const float *delta, const T *dout

#define ENTRIES(T, P, SUFFIX, D, MT, TILE, DQ_MT, DQ_TILE, RELATIVE, SPLIT)                       \
    KERNEL(D == 32 ? 4 : 2)                                                                       \
    attention_forward_##D##_##SUFFIX(AttentionSizes s, INPUTS(T), T* out, float* lse,             \
                                     float* partial) {                                            \
        attention_forward<P, D, MT, TILE, RELATIVE, SPLIT>(q, k, v, blocked, rel, out, lse,       \
                                                           partial, s);                           \
    }                                                                                             \
    KERNEL(D == 32 ? 4 : 2)                                                                       \
    attention_dq_##D##_##SUFFIX(AttentionSizes s, INPUTS(T), SAVED(T), T* dq, T* drel,            \
                                float* partial) {                                                 \
        attention_dq<P, D, DQ_MT, DQ_TILE, RELATIVE, SPLIT>(q, k, v, blocked, rel, lse, delta,    \
                                                            dout, dq, drel, partial, s);          \
    }                                                                                             \
    KERNEL(2)                                                                                     \
    attention_dkv_##D##_##SUFFIX(AttentionSizes s, INPUTS(T), SAVED(T), T* dk, T* dv) {           \
        attention_dkv<P, D, DQ_TILE, RELATIVE>(q, k, v, blocked, rel, lse, delta, dout, dk, dv,   \
                                               s);                                                \
    }

// Kernels with one warp per row, for any head width.
#define ROWS(T, SUFFIX)                                                                           \
    KERNEL(8)                                                                                     \
    attention_delta_##SUFFIX(AttentionSizes s, const T* out, const T* dout, float* delta) {       \
        attention_delta<T>(out, dout, delta, s);                                                  \
    }                                                                                             \
    KERNEL(8)                                                                                     \
    attention_join_##SUFFIX(AttentionSizes s, const float* partial, T* out, float* lse) {         \
        attention_join<T>(partial, out, lse, s);                                                  \
    }                                                                                             \
    KERNEL(8)                                                                                     \
    attention_join_dq_##SUFFIX(AttentionSizes s, const float* partial, T* dq) {                   \
        attention_join_dq<T>(partial, dq, s);                                                     \
    }
