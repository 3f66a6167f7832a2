// AdamW over many tensors in one launch: block i handles chunk i of a table, at most CHUNK elements
// of one tensor. Every operation is rounded separately in the documented order (no fused
// multiply-add), so results are bitwise equal to the CPU's. p, m, v and the average are updated; the
// bf16 working copy is overwritten. Nothing is written if there is a guard and it is not finite.
//
// gradient_squares, clip_factor: the norm of all gradients and the factor that limits it. A thread
// adds the squares of its elements of a chunk, a warp's lanes are added pairwise, the warps in order.
// The second kernel, one block, adds the chunks the same way. Overwritten: partial and factor.
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
    // Average of the weight over the updates; null where none is kept.
    float* average;
    uint32_t n;
    // Index of the constants.
    uint32_t group;
};

struct Constants {
    float keep, beta1, rest1, beta2, rest2, step, root, eps, average;
};

extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) adamw_update(
    AdamW s, const Chunk* __restrict__ table, const Constants* __restrict__ constants,
    const float* __restrict__ guard, const float* __restrict__ factor) {
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
        if (factor != nullptr) {
            const float by = factor[0];
#pragma unroll
            for (int j = 0; j < VECTOR; j++) g[j] = __fmul_rn(by, g[j]);
        }
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
        if (chunk.average == nullptr) continue;
        const bool vector = count == VECTOR && aligned(chunk.average);
        float average[VECTOR];
        load(chunk.average + i, vector, count, average);
#pragma unroll
        for (int j = 0; j < VECTOR; j++) {
            const float moved = __fmul_rn(k.average, __fsub_rn(p[j], average[j]));
            average[j] = k.average == 1.0f ? p[j] : __fadd_rn(average[j], moved);
        }
        store(chunk.average + i, vector, count, average);
    }
}

struct Norm {
    uint32_t chunks;
    float most;
};

struct Gradient {
    const float* g;
    uint64_t n;
};

// Sum over a block, valid in thread 0.
__device__ __forceinline__ float block_sum(float x) {
    __shared__ float sums[VECTOR_THREADS / 32];
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
    __syncthreads();
    float total = 0.0f;
    if (threadIdx.x == 0) {
#pragma unroll
        for (int w = 0; w < VECTOR_THREADS / 32; w++) total = __fadd_rn(total, sums[w]);
    }
    return total;
}

// partial[i] is the sum of the squares of chunk i.
extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) gradient_squares(
    Norm s, const Gradient* __restrict__ table, float* __restrict__ partial) {
    const Gradient chunk = table[blockIdx.x];
    const uint32_t n = uint32_t(chunk.n);
    const bool wide = aligned(chunk.g);
    float sum = 0.0f;
    for (uint32_t i = threadIdx.x * VECTOR; i < n; i += VECTOR_THREADS * VECTOR) {
        const int count = n - i < VECTOR ? int(n - i) : VECTOR;
        float g[VECTOR];
        load(chunk.g + i, wide && count == VECTOR, count, g);
#pragma unroll
        for (int j = 0; j < VECTOR; j++)
            if (j < count) sum = __fadd_rn(sum, __fmul_rn(g[j], g[j]));
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// factor[0] = min(1, most / (norm + 1e-6)), factor[1] = norm.
extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) clip_factor(
    Norm s, const float* __restrict__ partial, float* __restrict__ factor) {
    float sum = 0.0f;
    for (uint32_t i = threadIdx.x; i < s.chunks; i += VECTOR_THREADS)
        sum = __fadd_rn(sum, partial[i]);
    sum = block_sum(sum);
    if (threadIdx.x != 0) return;
    const float norm = __fsqrt_rn(sum);
    const float by = __fdiv_rn(s.most, __fadd_rn(norm, 1e-6f));
    factor[0] = by < 1.0f ? by : 1.0f;
    factor[1] = norm;
}
