// Flags of keys that a query may not attend to. One block of 256 threads per row [ho, wo]; a thread
// handles every 256th key, resamples the logits there (taps.cuh) and writes the flag. If no key of
// the row is open, the row is rewritten as open. Overwritten: used, raw.
#include "taps.cuh"

struct AttentionMask {
    uint32_t n, h, w, ho, wo;
    // Entries per row of the tables.
    uint32_t taps_y, taps_x;
    // Below this, sigmoid(v) rounds to less than one half.
    float threshold;
};

constexpr int THREADS = 256;

template <typename T>
__device__ __forceinline__ void flags(
    const AttentionMask& s, const Taps& y, const Taps& x, const T* __restrict__ logits,
    uint8_t* __restrict__ used, uint8_t* __restrict__ raw) {
    const uint32_t keys = s.ho * s.wo;
    logits += size_t(blockIdx.x) * s.h * s.w;
    used += size_t(blockIdx.x) * keys;
    bool open = false;
    for (uint32_t key = threadIdx.x; key < keys; key += THREADS) {
        const float v = resampled(logits, y, x, key / s.wo, key % s.wo);
        const bool blocked = v < s.threshold;
        open |= !blocked;
        used[key] = blocked;
        if (raw != nullptr) raw[size_t(blockIdx.x) * keys + key] = blocked;
    }
    // Attention over no keys is undefined.
    if (__syncthreads_or(open)) return;
    for (uint32_t key = threadIdx.x; key < keys; key += THREADS) used[key] = 0;
}

#define ATTENTION_MASK(T, SUFFIX)                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) attention_mask##SUFFIX(                 \
        AttentionMask s, const uint32_t* index_y, const float* weight_y,                          \
        const uint32_t* index_x, const float* weight_x, const T* logits, uint8_t* used,           \
        uint8_t* raw) {                                                                           \
        const Taps y = {index_y, weight_y, s.h, s.ho, s.taps_y};                                  \
        const Taps x = {index_x, weight_x, s.w, s.wo, s.taps_x};                                  \
        flags<T>(s, y, x, logits, used, raw);                                                     \
    }

ATTENTION_MASK(float, _f32)
ATTENTION_MASK(bf16, _bf16)
