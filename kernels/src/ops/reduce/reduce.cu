// Sums and a search for NaN and infinity.
//
// column_sums: first pass of a sum over rows (columns.cuh); column_finish: second pass of every
// such sum, one block per 32 columns, adds to out.
// sum_pieces: one block per PIECE elements; sum_finish: one block over the partial sums.
// damaged_pieces, damaged_finish: the same for the lowest index of a NaN or infinity.
// Sums: a thread adds every 256th element (or vector), a warp's lanes are added pairwise, the warps
// in order. Overwritten: partial, and out of sum_finish and damaged_finish.
#include "columns.cuh"
#include "vectors.cuh"

struct Columns {
    uint32_t n;
    uint32_t c;
    // Rows per split.
    uint32_t rows;
};

struct Finish {
    uint32_t splits;
    uint32_t c;
};

struct Whole {
    uint64_t n;
};

constexpr uint32_t PIECE = 1 << 14;
constexpr uint64_t NONE = ~uint64_t(0);

template <typename T>
__device__ __forceinline__ void columns(
    const Columns& s, const T* __restrict__ x, float* __restrict__ partial) {
    column_pieces<1>(s.n, s.c, s.rows, partial, [&](uint32_t row, uint32_t j, float (&out)[1]) {
        out[0] = to_f32(x[size_t(row) * s.c + j]);
    });
}

extern "C" __global__ void __launch_bounds__(COLUMN_THREADS) column_finish(
    Finish s, const float* __restrict__ partial, float* __restrict__ out) {
    __shared__ float sums[COLUMN_WARPS][COLUMN_LANES];
    const uint32_t lane = threadIdx.x % COLUMN_LANES, warp = threadIdx.x / COLUMN_LANES;
    const uint32_t column = blockIdx.x * COLUMN_LANES + lane;
    float sum = 0.0f;
    if (column < s.c) {
        for (uint32_t split = warp; split < s.splits; split += COLUMN_WARPS)
            sum += partial[size_t(split) * s.c + column];
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && column < s.c) {
        float total = 0.0f;
#pragma unroll
        for (int w = 0; w < COLUMN_WARPS; w++) total += sums[w][lane];
        out[column] += total;
    }
}

// Sum over a block of 256 threads, valid in thread 0.
__device__ __forceinline__ float block_sum(float x) {
    __shared__ float sums[VECTOR_THREADS / 32];
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
    __syncthreads();
    float total = 0.0f;
    if (threadIdx.x == 0) {
#pragma unroll
        for (int w = 0; w < VECTOR_THREADS / 32; w++) total += sums[w];
    }
    return total;
}

// Minimum over a block of 256 threads, valid in thread 0.
__device__ __forceinline__ uint64_t block_lowest(uint64_t x) {
    __shared__ uint64_t lowest[VECTOR_THREADS / 32];
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) {
        const uint64_t other = __shfl_xor_sync(ALL_LANES, x, lane);
        x = other < x ? other : x;
    }
    if (threadIdx.x % 32 == 0) lowest[threadIdx.x / 32] = x;
    __syncthreads();
    if (threadIdx.x == 0) {
#pragma unroll
        for (int w = 0; w < VECTOR_THREADS / 32; w++) x = lowest[w] < x ? lowest[w] : x;
    }
    return x;
}

// Calls `f(first element, values, elements)` for the vectors of this thread in the block's piece.
template <typename T, typename F>
__device__ __forceinline__ void piece(uint64_t n, const T* x, F f) {
    const uint64_t start = uint64_t(blockIdx.x) * PIECE;
    const uint64_t end = start + PIECE < n ? start + PIECE : n;
    const bool wide = aligned(x);
    for (uint64_t i = start + threadIdx.x * VECTOR; i < end; i += VECTOR_THREADS * VECTOR) {
        const int count = end - i < VECTOR ? int(end - i) : VECTOR;
        float v[VECTOR];
        load(x + i, wide && count == VECTOR, count, v);
        f(i, v, count);
    }
}

template <typename T>
__device__ __forceinline__ void sum_pieces(const Whole& s, const T* x, float* partial) {
    float sum = 0.0f;
    piece(s.n, x, [&](uint64_t, const float(&v)[VECTOR], int) {
#pragma unroll
        for (int k = 0; k < VECTOR; k++) sum += v[k];
    });
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) sum_finish(
    Whole s, const float* __restrict__ partial, float* __restrict__ out) {
    float sum = 0.0f;
    for (uint64_t i = threadIdx.x; i < s.n; i += VECTOR_THREADS) sum += partial[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) out[0] = sum;
}

template <typename T>
__device__ __forceinline__ void damaged_pieces(const Whole& s, const T* x, uint64_t* partial) {
    uint64_t lowest = NONE;
    piece(s.n, x, [&](uint64_t i, const float(&v)[VECTOR], int count) {
#pragma unroll
        for (int k = VECTOR - 1; k >= 0; k--) {
            // All exponent bits set: infinity or NaN.
            const bool bad = (__float_as_uint(v[k]) & 0x7f800000u) == 0x7f800000u;
            if (k < count && bad && i + k < lowest) lowest = i + k;
        }
    });
    lowest = block_lowest(lowest);
    if (threadIdx.x == 0) partial[blockIdx.x] = lowest;
}

extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) damaged_finish(
    Whole s, const uint64_t* __restrict__ partial, uint64_t* __restrict__ out) {
    uint64_t lowest = NONE;
    for (uint64_t i = threadIdx.x; i < s.n; i += VECTOR_THREADS)
        lowest = partial[i] < lowest ? partial[i] : lowest;
    lowest = block_lowest(lowest);
    if (threadIdx.x == 0) out[0] = lowest;
}

#define REDUCE(T, SUFFIX)                                                                         \
    extern "C" __global__ void __launch_bounds__(COLUMN_THREADS) column_sums##SUFFIX(             \
        Columns s, const T* x, float* partial) {                                                  \
        columns<T>(s, x, partial);                                                                \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) sum_pieces##SUFFIX(               \
        Whole s, const T* x, float* partial) {                                                    \
        sum_pieces<T>(s, x, partial);                                                             \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(VECTOR_THREADS) damaged_pieces##SUFFIX(           \
        Whole s, const T* x, uint64_t* partial) {                                                 \
        damaged_pieces<T>(s, x, partial);                                                         \
    }

REDUCE(float, _f32)
REDUCE(bf16, _bf16)
