// Queries of all layers combined into one vector per token: out [m, c, 3] from q [layers, m, c]. A
// thread handles one element of [m, c] and loops over the layers. out and dq are overwritten.
#include "numbers.cuh"

struct TokenLink {
    uint32_t layers;
    uint32_t n;
};

constexpr int THREADS = 256;

template <typename T>
__device__ __forceinline__ void forward(
    const TokenLink& s, const T* __restrict__ q, T* __restrict__ out) {
    const uint32_t i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= s.n) return;
    float most = to_f32(q[i]), sum = 0.0f, last = 0.0f;
    for (uint32_t l = 0; l < s.layers; l++) {
        last = to_f32(q[size_t(l) * s.n + i]);
        most = last > most ? last : most;
        sum += last;
    }
    out[size_t(i) * 3] = from_f32<T>(most);
    out[size_t(i) * 3 + 1] = from_f32<T>(sum / float(s.layers));
    out[size_t(i) * 3 + 2] = from_f32<T>(last);
}

// The gradient of the maximum goes to the first maximal layer.
template <typename T>
__device__ __forceinline__ void backward(
    const TokenLink& s, const T* __restrict__ q, const T* __restrict__ dout,
    T* __restrict__ dq) {
    const uint32_t i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= s.n) return;
    const float d_most = to_f32(dout[size_t(i) * 3]);
    const float share = to_f32(dout[size_t(i) * 3 + 1]) / float(s.layers);
    const float d_last = to_f32(dout[size_t(i) * 3 + 2]);
    float most = to_f32(q[i]);
    uint32_t first = 0;
    for (uint32_t l = 1; l < s.layers; l++) {
        const float v = to_f32(q[size_t(l) * s.n + i]);
        if (v > most) most = v, first = l;
    }
    for (uint32_t l = 0; l < s.layers; l++) {
        float d = share;
        if (l == first) d += d_most;
        if (l == s.layers - 1) d += d_last;
        dq[size_t(l) * s.n + i] = from_f32<T>(d);
    }
}

#define TOKEN_LINK(T, SUFFIX)                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS) token_link_fwd##SUFFIX(                 \
        TokenLink s, const T* q, T* out) {                                                        \
        forward<T>(s, q, out);                                                                    \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS) token_link_bwd##SUFFIX(                 \
        TokenLink s, const T* q, const T* dout, T* dq) {                                          \
        backward<T>(s, q, dout, dq);                                                              \
    }

TOKEN_LINK(float, _f32)
TOKEN_LINK(bf16, _bf16)
