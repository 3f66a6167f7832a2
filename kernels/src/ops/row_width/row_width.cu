// Change of the row width: y [n, to] from x [n, from], with zeros appended or the end cut off. A
// thread handles one element of y, so writes are whole sectors and reads nearly so. Overwritten: y.
#include "numbers.cuh"

struct RowWidth {
    uint32_t n, from, to;
    // Rows whose index modulo `period` is below `scaled` are multiplied by `factor`.
    uint32_t period, scaled;
    float factor;
};

constexpr int THREADS = 256;

template <typename T>
__device__ __forceinline__ void refit(
    const RowWidth& s, const T* __restrict__ x, T* __restrict__ y) {
    const uint32_t i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= s.n * s.to) return;
    const uint32_t row = i / s.to, column = i % s.to;
    float value = column < s.from ? to_f32(x[size_t(row) * s.from + column]) : 0.0f;
    if (row % s.period < s.scaled) value *= s.factor;
    y[i] = from_f32<T>(value);
}

#define ROW_WIDTH(T, SUFFIX)                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS) row_width##SUFFIX(                      \
        RowWidth s, const T* x, T* y) {                                                           \
        refit<T>(s, x, y);                                                                        \
    }

ROW_WIDTH(float, _f32)
ROW_WIDTH(bf16, _bf16)
