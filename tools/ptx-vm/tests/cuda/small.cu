// Small kernels, each with room for one fault.
#include <stdint.h>

// Four values per thread.
extern "C" __global__ void scale4(const float* x, float* y, int n, float by) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (4 * i >= n) return;
#if defined(FAULT_VECTOR)
    const float4 v = *(const float4*)(x + 4 * i + 1);
#else
    const float4 v = ((const float4*)x)[i];
#endif
    ((float4*)y)[i] = make_float4(v.x * by, v.y * by, v.z * by, v.w * by);
}

// y += sum over k of a[i, k]: adds to what is there.
extern "C" __global__ void row_sums(const float* a, float* y, int n, int k) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float sum = y[i];
    for (int j = 0; j < k; j++) sum += a[i * k + j];
    y[i] = sum;
}

// Reverses 256 values through dynamic shared memory.
extern "C" __global__ void reverse(const float* x, float* y) {
    extern __shared__ float tile[];
    tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

// Histogram of bytes in shared memory.
extern "C" __global__ void histogram(const uint8_t* x, unsigned* counts, int n) {
    __shared__ unsigned bins[256];
    bins[threadIdx.x] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
#if defined(FAULT_WRITES)
        bins[x[i]] += 1;
#else
        atomicAdd(&bins[x[i]], 1u);
#endif
    }
    __syncthreads();
    atomicAdd(&counts[threadIdx.x], bins[threadIdx.x]);
}

// Each lane takes its neighbour's value through shared memory, within a warp.
extern "C" __global__ void neighbour(const int* x, int* y) {
    __shared__ volatile int line[64];
    const int lane = threadIdx.x;
    line[lane] = x[lane];
    int extra = 0;
#if defined(FAULT_SHUFFLE)
    extra = __shfl_xor_sync(0xffffffff, lane, 1) - (lane ^ 1);
#elif !defined(FAULT_SYNCWARP)
    __syncwarp();
#endif
    y[lane] = line[lane ^ 1] + extra;
}

// Halves of bf16 pairs written by different threads: no race, though words are shared.
extern "C" __global__ void halves(const unsigned short* x, unsigned short* y) {
    __shared__ unsigned short tile[256];
    tile[255 - threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x];
}

// One block per row; blocks must not write the same element.
extern "C" __global__ void row_max(const float* x, float* y, int c) {
    float most = -1e30f;
    for (int i = 0; i < c; i++) most = fmaxf(most, x[blockIdx.x * c + i]);
#if defined(FAULT_BLOCKS)
    y[blockIdx.x / 2] = most;
#else
    y[blockIdx.x] = most;
#endif
}

__device__ __noinline__ float poly(float x, int order) {
    float sum = 0;
    for (int i = 0; i < order; i++) sum = sum * x + (float)(i + 1);
    return sum;
}

__constant__ float table[4] = {1.0f, -2.0f, 0.5f, 4.0f};
__device__ unsigned ticket;

// A call, a local array, a constant array, 64-bit arithmetic, divergent loops.
extern "C" __global__ void mixture(const int* x, float* y, long long* z, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float local[8];
    for (int k = 0; k < 8; k++) local[k] = (float)(k * x[i]);
    float sum = 0;
    for (int k = 0; k < x[i] % 7 + 1; k++) sum += local[(k * 5 + x[i]) & 7];
    if (i % 3 == 0) sum += poly(sum * 0.01f, i % 5);
    else sum -= table[i & 3];
    y[i] = sum;
    long long big = (long long)x[i] * 1000003 + i;
    z[i] = big / (i + 1) + big % 97 + (big << (i & 31)) + (big >> 3);
    if (x[i] == 12345) atomicAdd(&ticket, 1u);
}

// Sines, exponentials and the like.
extern "C" __global__ void functions(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float v = x[i];
    y[i] = erff(v);
    y[n + i] = expf(v);
    y[2 * n + i] = tanhf(v);
    y[3 * n + i] = sinf(v);
    y[4 * n + i] = cosf(v * 1000.0f);
    y[5 * n + i] = logf(fabsf(v) + 0.5f);
    y[6 * n + i] = powf(fabsf(v) + 0.1f, 1.7f);
    y[7 * n + i] = sqrtf(fabsf(v)) / (1.0f + v * v);
    y[8 * n + i] = (float)erf((double)v);
}
