// Philox 4x32-10, the counter-based generator of the host (ops/uniform/philox.rs), bitwise equal.
#pragma once

#include "numbers.cuh"

// Key and counter of the streams of a call.
struct Stream {
    // Key of the generator: seed and purpose.
    uint32_t key0, key1;
    // Sample of the first stream, low and high word.
    uint32_t sample0, sample1;
};

// Four words: block `block` of the stream of sample `first + sample` at a step.
__device__ __forceinline__ void philox(
    const Stream& s, uint64_t sample, uint32_t step, uint64_t block, uint32_t (&c)[4]) {
    sample += uint64_t(s.sample1) << 32 | s.sample0;
    c[0] = uint32_t(block);
    c[1] = uint32_t(sample << 8) + uint32_t(block >> 32);
    c[2] = uint32_t(sample >> 24);
    c[3] = step;
    uint32_t k0 = s.key0, k1 = s.key1;
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint32_t high0 = __umulhi(0xd2511f53u, c[0]), low0 = 0xd2511f53u * c[0];
        const uint32_t high1 = __umulhi(0xcd9e8d57u, c[2]), low1 = 0xcd9e8d57u * c[2];
        c[0] = high1 ^ c[1] ^ k0;
        c[1] = low1;
        c[2] = high0 ^ c[3] ^ k1;
        c[3] = low0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
}

// A word as a number in [0, 1): 24 bits, exact in f32.
__device__ __forceinline__ float unit(uint32_t word) { return float(word >> 8) * 0x1p-24f; }
