// Selection of the most uncertain points of a mask. One block of 512 threads per row.
//
// A radix select finds the `keep` smallest |logit| by their bits, which have the order of the
// values. Four rounds of counting (256 counters in shared memory, 8 bits per round, integer
// atomics) narrow the threshold down to one value. A last pass over the row keeps values below the
// threshold and the first ones equal to it. A prefix sum over the block gives the output positions,
// so the points stay in order. Overwritten: out.
#include "numbers.cuh"

struct UncertainPoints {
    uint32_t r, n_over, keep, n_rand;
};

constexpr int THREADS = 512;
constexpr int WARPS = THREADS / 32;

// Number of set flags in the threads before this one; `total` is that of all threads.
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
    // The next call overwrites `warps`.
    __syncthreads();
    return start + __popc(set & ((1u << lane) - 1));
}

// Two blocks per SM: otherwise the compiler aims at four and spills a register.
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

    // Bits of the threshold found so far, and the number of values to keep among those with the
    // same bits.
    uint32_t threshold = 0, wanted = s.keep;
    for (int shift = 24; shift >= 0; shift -= 8) {
        if (threadIdx.x < 256) counts[threadIdx.x] = 0;
        __syncthreads();
        for (uint32_t j = threadIdx.x; j < s.n_over; j += THREADS) {
            const uint32_t bits = __float_as_uint(logits[j]) & 0x7fffffffu;
            // In the first round a shift by 32 would be undefined; every value counts.
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
