// The points of a mask that the model is least sure about. One block of 512 threads a row.
//
// The keep smallest |logit| are found by their bits, which order like the numbers: four rounds of
// counting (256 counters in shared memory, 8 bits a round, integer atomics) narrow the threshold
// down to one value. Then the row is gone through once more in order: what lies below the
// threshold is kept, and of what equals it the first ones; a prefix sum over the block gives the
// places, so the order of the points stays. Overwritten: out.
#include "numbers.cuh"

struct UncertainPoints {
    uint32_t r, n_over, keep, n_rand;
};

constexpr int THREADS = 512;
constexpr int WARPS = THREADS / 32;

// Number of set flags in the threads before this one; the total in all threads.
__device__ __forceinline__ uint32_t before(bool flag, uint32_t (&warps)[WARPS], uint32_t& total) {
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t set = __ballot_sync(ALL_LANES, flag);
    if (lane == 0) warps[warp] = __popc(set);
    __syncthreads();
    uint32_t start = 0;
    total = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
        if (w == int(warp)) start = total;
        total += warps[w];
    }
    // The next call writes `warps` again.
    __syncthreads();
    return start + __popc(set & ((1u << lane) - 1));
}

// Two blocks a SM: the compiler otherwise aims at four and spills a register.
extern "C" __global__ void __launch_bounds__(THREADS, 2) uncertain_points(
    UncertainPoints s, const float* __restrict__ logits, const float* __restrict__ points,
    const float* __restrict__ random, float* __restrict__ out) {
    __shared__ uint32_t counts[256];
    __shared__ uint32_t warps[WARPS];
    __shared__ uint32_t chosen, left;
    const size_t row = blockIdx.x;
    logits += row * s.n_over;
    points += row * s.n_over * 2;
    random += row * s.n_rand * 2;
    out += row * (s.keep + s.n_rand) * 2;
    for (uint32_t j = threadIdx.x; j < s.n_rand * 2; j += THREADS)
        out[s.keep * 2 + j] = random[j];
    if (s.keep == 0) return;

    // The bits of the threshold found so far, and how many equal to them are wanted.
    uint32_t threshold = 0, wanted = s.keep;
    for (int shift = 24; shift >= 0; shift -= 8) {
        if (threadIdx.x < 256) counts[threadIdx.x] = 0;
        __syncthreads();
        for (uint32_t j = threadIdx.x; j < s.n_over; j += THREADS) {
            const uint32_t bits = __float_as_uint(logits[j]) & 0x7fffffffu;
            // In the first round a shift by 32 would be undefined: every value takes part.
            const bool same = shift == 24 || (bits ^ threshold) >> (shift + 8) == 0;
            if (same) atomicAdd(&counts[bits >> shift & 255], 1u);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            uint32_t digit = 0, rest = wanted;
            while (counts[digit] < rest) rest -= counts[digit++];
            chosen = digit;
            left = rest;
        }
        __syncthreads();
        threshold |= chosen << shift;
        wanted = left;
    }

    uint32_t kept = 0, equal = 0;
    for (uint32_t start = 0; start < s.n_over; start += THREADS) {
        const uint32_t j = start + threadIdx.x;
        uint32_t bits = ~0u;
        if (j < s.n_over) bits = __float_as_uint(logits[j]) & 0x7fffffffu;
        uint32_t ties, keeps;
        const uint32_t tie = equal + before(bits == threshold, warps, ties);
        const bool keep = bits < threshold || (bits == threshold && tie < wanted);
        const uint32_t place = kept + before(keep, warps, keeps);
        if (keep) {
            out[place * 2] = points[size_t(j) * 2];
            out[place * 2 + 1] = points[size_t(j) * 2 + 1];
        }
        kept += keeps;
        equal += ties;
    }
}
