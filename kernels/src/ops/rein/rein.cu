// Kernels of rein.cuh and backward.cuh, and the elementwise passes around them.
// Shared memory as requested by gpu.rs:
// dynamic-shared rein_mix_112_bf16 64512
// dynamic-shared rein_mix_backward_112_bf16 81920
// dynamic-shared rein_sums_112_bf16 24576
// dynamic-shared rein_mix_208_bf16 110592
// dynamic-shared rein_mix_backward_208_bf16 137216
// dynamic-shared rein_sums_208_bf16 36864
// dynamic-shared rein_mix_112_f32 71680
// dynamic-shared rein_mix_backward_112_f32 96256
// dynamic-shared rein_sums_112_f32 47104
// dynamic-shared rein_mix_208_f32 123904
// dynamic-shared rein_mix_backward_208_f32 163840
// dynamic-shared rein_sums_208_f32 71680
#include "backward.cuh"

static_assert(COLUMN_THREADS == 256, "rein_columns is launched with 256 threads");

// out = f + s (Y + b_f) for patches, a copy for the rows before them; eight channels per thread.
// `y` is [b, n, c].
template <class T>
__device__ __forceinline__ void rein_finish(const ReinSizes& s, const T* f, const T* y,
                                            const float* bias, const float* scale, T* out) {
    const size_t i = size_t(blockIdx.x) * 256 + threadIdx.x;
    const int units = s.c / 8, rows = s.skip + s.n;
    if (i >= size_t(s.b) * rows * units) return;
    const size_t row = i / units, image = row / rows;
    const int at = int(row % rows) - s.skip, col = i % units * 8;
    float x[8];
    load(f + row * s.c + col, true, 8, x);
    if (at >= 0) {
        float z[8], b[8];
        load(y + (image * s.n + at) * s.c + col, true, 8, z);
        load(bias + col, true, 8, b);
        const float by = scale[0];
#pragma unroll
        for (int j = 0; j < 8; j++) x[j] = fmaf(by, z[j] + b[j], x[j]);
    }
    store(out + row * s.c + col, true, 8, x);
}

// Column sums of G over the patches of all images, in splits; see columns.cuh.
template <class T>
__device__ __forceinline__ void rein_columns(const ReinSizes& s, const T* dout, float* partial) {
    const uint32_t n = s.b * s.n, rows = (n + gridDim.y - 1) / gridDim.y;
    column_pieces<1>(n, s.c, rows, partial, [&](uint32_t row, uint32_t col, float (&out)[1]) {
        out[0] = to_f32(dout[(size_t(row) + (row / s.n + 1) * s.skip) * s.c + col]);
    });
}

// Two blocks per SM allow 255 registers per thread.
#define KERNEL extern "C" __global__ void __launch_bounds__(REIN_THREADS, 2)
#define KERNEL_256 extern "C" __global__ void __launch_bounds__(256)

#define MIX(P, T, NT, KC, KC_BACK, SUFFIX)                                                        \
    KERNEL rein_mix_##SUFFIX(                                                                     \
        ReinSizes s, const T* f, const T* tokens, const T* values, T* x, float* lse) {            \
        rein_mix<P, NT, KC>(s, f, tokens, values, x, lse);                                        \
    }                                                                                             \
    KERNEL rein_mix_backward_##SUFFIX(                                                            \
        ReinSizes s, const T* f, const T* tokens, const T* values, const float* scale,            \
        const float* lse, const T* dout, const T* dx0, T* df, T* sx, T* weights, T* dz,           \
        float* dscale) {                                                                          \
        rein_mix_backward<P, NT, KC_BACK>(s, f, tokens, values, scale, lse, dout, dx0, df, sx,    \
                                          weights, dz, dscale);                                   \
    }                                                                                             \
    KERNEL rein_sums_##SUFFIX(                                                                    \
        ReinSizes s, const T* f, const T* dx0, const T* weights, const T* dz, float* partial) {   \
        rein_sums<P, NT>(s, f, dx0, weights, dz, partial);                                        \
    }

#define FINISH(T, SUFFIX)                                                                         \
    KERNEL_256 rein_finish_##SUFFIX(                                                              \
        ReinSizes s, const T* f, const T* y, const float* bias, const float* scale, T* out) {     \
        rein_finish(s, f, y, bias, scale, out);                                                   \
    }                                                                                             \
    KERNEL_256 rein_columns_##SUFFIX(ReinSizes s, const T* dout, float* partial) {                \
        rein_columns(s, dout, partial);                                                           \
    }

MIX(Bf16, bf16, 14, 64, 32, 112_bf16)
MIX(Bf16, bf16, 26, 64, 32, 208_bf16)
MIX(F32, float, 14, 32, 16, 112_f32)
MIX(F32, float, 26, 32, 16, 208_f32)
FINISH(bf16, bf16)
FINISH(float, f32)

// dT += sum over splits, dV += s times the sum over splits of rows 1..m; `partial` is [2, splits,
// width, c]. One thread per element of [2, m, c].
KERNEL_256 rein_add_tokens(
    ReinSizes s, const float* partial, const float* scale, float* dtokens, float* dvalues) {
    const size_t n = size_t(s.m) * s.c, i = size_t(blockIdx.x) * 256 + threadIdx.x;
    if (i >= 2 * n) return;
    const bool second = i >= n;
    const size_t at = second ? i - n : i, width = s.m <= 112 ? 112 : 208;
    float* to = second ? dvalues : dtokens;
    if (to == nullptr || (second && at < s.c)) return;
    float sum = 0.0f;
    const float* from = partial + (second ? s.splits * width * s.c : 0) + at;
    for (int p = 0; p < s.splits; p++) sum += from[p * width * s.c];
    if (second) to[at - s.c] += scale[0] * sum;
    else to[at] += sum;
}

// db_f += s colsum(G) and ds += <X, dX0> + <b_f, colsum(G)>, from splits of the column sums
// [splits, c] and the parts of the `blocks` blocks of rein_mix_backward. One block.
KERNEL_256 rein_add_bias(
    ReinSizes s, const float* columns, const float* shares, const float* bias, const float* scale,
    float* dbias, float* dscale) {
    __shared__ float sums[8];
    float sum = 0.0f;
    const int blocks = s.b * ((s.n + REIN_ROWS - 1) / REIN_ROWS);
    for (int c = threadIdx.x; c < s.c; c += 256) {
        float column = 0.0f;
        for (int p = 0; p < s.splits; p++) column += columns[size_t(p) * s.c + c];
        sum = fmaf(bias[c], column, sum);
        if (dbias != nullptr) dbias[c] += scale[0] * column;
    }
    for (int i = threadIdx.x; i < blocks; i += 256) sum += shares[i];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0 && dscale != nullptr) {
        for (int i = 1; i < 8; i++) sum += sums[i];
        dscale[0] += sum;
    }
}
