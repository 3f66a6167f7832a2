// Uniform numbers of the counter-based generator, bitwise equal to the CPU's: out [streams, rows,
// draws]. A thread computes one block of Philox 4x32-10, four draws, of row (blockIdx.y) of a
// stream (blockIdx.z). The step is read from memory, so that a launch can be replayed unchanged.
// Row i gets the draws of row rows[i] of the stream (null: i); a negative entry pads with zeros. 76
// rows of 37632 points write 23 MB, which is the bottleneck. Overwritten: out.
#include "philox.cuh"

struct Uniform {
    Stream stream;
    uint32_t rows, draws;
};

constexpr int THREADS = 256;

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
    uint32_t c[4];
    philox(s.stream, blockIdx.z, step[0], block, c);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const int64_t at = first + j;
        if (at < 0 || at >= int64_t(s.draws)) continue;
        out[at] = row < 0 ? 0.0f : unit(c[j]);
    }
}
