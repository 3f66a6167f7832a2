// Rows selected by a table on the device: y [r, c] from x [n, c]. A thread handles one element; a
// block handles 256 columns (blockIdx.y) of a row (blockIdx.x). A row whose index is not a row of x
// is padding: it reads zeros and has no gradient. In the backward pass a thread loops over the
// table, at most a few hundred indices that all threads of a block read together, and adds in table
// order. A scatter would need atomics where a row is selected twice. Overwritten: y, dx.
#include "numbers.cuh"

struct GatherRows {
    uint32_t n, r, c;
};

constexpr int THREADS = 256;

template <typename T>
__device__ __forceinline__ void forward(
    const GatherRows& s, const T* __restrict__ x, const int32_t* __restrict__ indices,
    T* __restrict__ y) {
    const uint32_t column = blockIdx.y * THREADS + threadIdx.x;
    if (column >= s.c) return;
    const uint32_t from = uint32_t(indices[blockIdx.x]);
    T value = from_f32<T>(0.0f);
    if (from < s.n) value = x[size_t(from) * s.c + column];
    y[size_t(blockIdx.x) * s.c + column] = value;
}

// y[i] = x[indices[i]]
template <typename T>
__device__ __forceinline__ void backward(
    const GatherRows& s, const int32_t* __restrict__ indices, const T* __restrict__ dy,
    T* __restrict__ dx) {
    const uint32_t column = blockIdx.y * THREADS + threadIdx.x;
    if (column >= s.c) return;
    float sum = 0.0f;
    for (uint32_t i = 0; i < s.r; i++)
        if (uint32_t(indices[i]) == blockIdx.x) sum += to_f32(dy[size_t(i) * s.c + column]);
    dx[size_t(blockIdx.x) * s.c + column] = from_f32<T>(sum);
}

#define GATHER_ROWS(T, SUFFIX)                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS) gather_rows_fwd##SUFFIX(                \
        GatherRows s, const T* x, const int32_t* indices, T* y) {                                 \
        forward<T>(s, x, indices, y);                                                             \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS) gather_rows_bwd##SUFFIX(                \
        GatherRows s, const int32_t* indices, const T* dy, T* dx) {                               \
        backward<T>(s, indices, dy, dx);                                                          \
    }

GATHER_ROWS(float, _f32)
GATHER_ROWS(bf16, _bf16)
