// AdamW over many tensors in one launch: block i handles chunk i of a table, at most CHUNK elements
// of one tensor. Every operation is rounded separately in the documented order (no fused
// multiply-add), so results are bitwise equal to the CPU's. p, m, v are updated; the bf16 working
// copy is overwritten. Nothing is written if there is a guard and it is not finite.
#include "vectors.cuh"

struct AdamW {
    uint32_t chunks;
    uint32_t groups;
};

struct Chunk {
    float* p;
    float* m;
    float* v;
    const float* g;
    // The weight in the type that the products read; null where they read p itself.
    bf16* copy;
    uint32_t n;
    // Index of the constants.
    uint32_t group;
};

struct Constants {
    float keep, beta1, rest1, beta2, rest2, step, root, eps;
};

extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) adamw_update(
    AdamW s, const Chunk* __restrict__ table, const Constants* __restrict__ constants,
    const float* __restrict__ guard) {
    if (guard != nullptr && (__float_as_uint(guard[0]) & 0x7f800000u) == 0x7f800000u) return;
    const Chunk chunk = table[blockIdx.x];
    const Constants k = constants[chunk.group];
    const bool wide = aligned(chunk.p, chunk.m, chunk.v, chunk.g, chunk.copy);
    for (uint32_t i = threadIdx.x * VECTOR; i < chunk.n; i += VECTOR_THREADS * VECTOR) {
        const int count = chunk.n - i < VECTOR ? int(chunk.n - i) : VECTOR;
        const bool whole = wide && count == VECTOR;
        float p[VECTOR], m[VECTOR], v[VECTOR], g[VECTOR];
        load(chunk.p + i, whole, count, p);
        load(chunk.m + i, whole, count, m);
        load(chunk.v + i, whole, count, v);
        load(chunk.g + i, whole, count, g);
#pragma unroll
        for (int j = 0; j < VECTOR; j++) {
            const float decayed = __fmul_rn(p[j], k.keep);
            m[j] = __fadd_rn(__fmul_rn(k.beta1, m[j]), __fmul_rn(k.rest1, g[j]));
            v[j] = __fadd_rn(__fmul_rn(k.beta2, v[j]), __fmul_rn(k.rest2, __fmul_rn(g[j], g[j])));
            const float root = __fadd_rn(__fdiv_rn(__fsqrt_rn(v[j]), k.root), k.eps);
            p[j] = __fsub_rn(decayed, __fdiv_rn(__fmul_rn(k.step, m[j]), root));
        }
        store(chunk.p + i, whole, count, p);
        store(chunk.m + i, whole, count, m);
        store(chunk.v + i, whole, count, v);
        if (chunk.copy != nullptr) store(chunk.copy + i, whole, count, p);
    }
}
