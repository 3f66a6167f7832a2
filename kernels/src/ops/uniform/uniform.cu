// Uniform numbers of the counter-based generator, bitwise equal to the CPU's: out [streams, rows,
// draws]. A thread computes one block of Philox 4x32-10, four draws, of row (blockIdx.y) of a
// stream (blockIdx.z). The step is read from memory, so that a launch can be replayed unchanged.
// Row i gets the draws of row rows[i] of the stream (null: i); a negative entry pads with zeros. 76
// rows of 37632 points write 23 MB, which is the bottleneck. Overwritten: out.
#include "numbers.cuh"

struct Uniform {
    // Key of the generator: seed and purpose.
    uint32_t key0, key1;
    // Sample of the first stream, low and high word.
    uint32_t sample0, sample1;
    uint32_t rows, draws;
};

constexpr int THREADS = 256;

// Ten rounds of Philox.
__device__ __forceinline__ void philox(uint32_t (&c)[4], uint32_t k0, uint32_t k1) {
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

extern "C" __global__ void __launch_bounds__(THREADS) uniform_fill(
    Uniform s, const uint32_t* __restrict__ step, const int32_t* __restrict__ rows,
    float* __restrict__ out) {
    const uint32_t i = blockIdx.x * THREADS + threadIdx.x;
    out += (size_t(blockIdx.z) * s.rows + blockIdx.y) * s.draws;
    const int32_t row = rows != nullptr ? rows[blockIdx.y] : int32_t(blockIdx.y);
    const uint64_t start = uint64_t(row < 0 ? 0 : row) * s.draws;
    // The first block may begin before the row and the last one end after it.
    const uint64_t block = start / 4 + i;
    const int64_t first = int64_t(block * 4) - int64_t(start);
    if (first >= int64_t(s.draws)) return;
    const uint64_t sample = (uint64_t(s.sample1) << 32 | s.sample0) + blockIdx.z;
    uint32_t c[4] = {uint32_t(block), uint32_t(sample << 8) + uint32_t(block >> 32),
                     uint32_t(sample >> 24), step[0]};
    philox(c, s.key0, s.key1);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const int64_t at = first + j;
        if (at < 0 || at >= int64_t(s.draws)) continue;
        // 24 bits, exact in f32.
        out[at] = row < 0 ? 0.0f : float(c[j] >> 8) * 0x1p-24f;
    }
}
