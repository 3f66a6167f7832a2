// y = (x - mean) / sqrt(var + eps) * gamma + beta over rows of width C; one block per row.
#include <stdint.h>

__device__ float block_sum(float v, float* partial) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#if defined(FAULT_MASK)
    for (int o = 16; o > 0; o /= 2) v += __shfl_xor_sync(0x0000ffff, v, o);
#else
    for (int o = 16; o > 0; o /= 2) v += __shfl_xor_sync(0xffffffff, v, o);
#endif
    if (lane == 0) partial[warp] = v;
#if !defined(FAULT_BARRIER)
    __syncthreads();
#endif
    float sum = 0;
#if defined(FAULT_SLOT)
    for (int i = 0; i <= (int)blockDim.x / 32; i++) sum += partial[i];
#else
    for (int i = 0; i < (int)blockDim.x / 32; i++) sum += partial[i];
#endif
#if !defined(FAULT_WAR)
    __syncthreads();
#endif
    return sum;
}

extern "C" __global__ void
layer_norm(const float* x, const float* gamma, const float* beta, float* y, int n, int c,
           float eps) {
    __shared__ float partial[32];
    const int row = blockIdx.x;
#if defined(FAULT_ROW)
    if (row > n) return;
#else
    if (row >= n) return;
#endif
    x += (size_t)row * c;
    y += (size_t)row * c;
#if defined(FAULT_DIVERGENT)
    if (threadIdx.x % 2 == 0) __syncthreads();
#endif
#if defined(FAULT_EXITED)
    if (threadIdx.x % 32 >= 24) return;
#endif
    float sum = 0;
    for (int i = threadIdx.x; i < c; i += blockDim.x) sum += x[i];
    const float mean = block_sum(sum, partial) / c;
    float squares = 0;
    for (int i = threadIdx.x; i < c; i += blockDim.x) {
        float d = x[i] - mean;
        squares += d * d;
    }
    const float scale = rsqrtf(block_sum(squares, partial) / c + eps);
    for (int i = threadIdx.x; i < c; i += blockDim.x)
        y[i] = (x[i] - mean) * scale * gamma[i] + beta[i];
}
