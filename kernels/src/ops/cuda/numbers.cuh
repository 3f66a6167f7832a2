// Storage types, 16-byte accesses and warp reductions shared by all kernels.
//
// Conventions of all kernels in the sibling folders:
// * Names end in the storage type, _f32 or _bf16; arithmetic is f32.
// * The first parameter is a struct of sizes; the `gpu.rs` next to the .cu declares it with the
//   same fields in the same order. The others are pointers, null where an operand is absent.
// * Memory is accessed 16 bytes at a time where address and width allow it, else element by
//   element; both give the same bytes.
// * The order of a sum depends only on the sizes. No floating-point atomics.
// * Every kernel has __launch_bounds__: tools/ptx-build reads the block size from it.
#pragma once

#include <stdint.h>

// The upper half of an f32. The toolkit's type is not used: its header needs another package, and
// only one instruction per direction is needed.
struct bf16 {
    uint16_t bits;
};

// Elements per 16-byte access.
template <typename T>
constexpr int WIDE = 16 / sizeof(T);

// Sixteen bytes as stored in memory, kept in registers without conversion to f32.
struct alignas(16) Raw {
    uint32_t word[4];
};

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(bf16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }

template <typename T>
__device__ __forceinline__ T from_f32(float x);
template <>
__device__ __forceinline__ float from_f32<float>(float x) {
    return x;
}
template <>
__device__ __forceinline__ bf16 from_f32<bf16>(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

__device__ __forceinline__ void widen(const Raw& raw, float (&x)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i++) x[i] = __uint_as_float(raw.word[i]);
}

// The first of a pair is in the lower half of its word.
__device__ __forceinline__ void widen(const Raw& raw, float (&x)[8]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        x[2 * i] = __uint_as_float(raw.word[i] << 16);
        x[2 * i + 1] = __uint_as_float(raw.word[i] & 0xffff0000u);
    }
}

__device__ __forceinline__ Raw narrow(const float (&x)[4]) {
    Raw raw;
#pragma unroll
    for (int i = 0; i < 4; i++) raw.word[i] = __float_as_uint(x[i]);
    return raw;
}

__device__ __forceinline__ Raw narrow(const float (&x)[8]) {
    Raw raw;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        // The instruction puts its last operand into the lower half.
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(raw.word[i]) : "f"(x[2 * i + 1]), "f"(x[2 * i]));
    }
    return raw;
}

template <typename T>
__device__ __forceinline__ Raw load_raw(const T* p) {
    const uint4 v = *reinterpret_cast<const uint4*>(p);
    return Raw{{v.x, v.y, v.z, v.w}};
}

template <typename T>
__device__ __forceinline__ void store_raw(T* p, const Raw& raw) {
    *reinterpret_cast<uint4*>(p) = make_uint4(raw.word[0], raw.word[1], raw.word[2], raw.word[3]);
}

// Whether a pointer allows 16-byte accesses; null does.
__device__ __forceinline__ bool aligned(const void* p) {
    return (reinterpret_cast<uintptr_t>(p) & 15) == 0;
}

template <typename... P>
__device__ __forceinline__ bool aligned(const void* p, P... more) {
    return aligned(p) && aligned(more...);
}

// Loads N consecutive elements: with 16-byte accesses if `wide`, else the first `count` one by one
// and zeros for the rest.
template <int N, typename T>
__device__ __forceinline__ void load(const T* p, bool wide, int count, float (&x)[N]) {
    static_assert(N % WIDE<T> == 0, "whole accesses");
    if (wide) {
#pragma unroll
        for (int j = 0; j < N / WIDE<T>; j++) {
            float part[WIDE<T>];
            widen(load_raw(p + j * WIDE<T>), part);
#pragma unroll
            for (int i = 0; i < WIDE<T>; i++) x[j * WIDE<T> + i] = part[i];
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; i++) x[i] = i < count ? to_f32(p[i]) : 0.0f;
    }
}

// The reverse of `load`; elements beyond `count` are not written.
template <int N, typename T>
__device__ __forceinline__ void store(T* p, bool wide, int count, const float (&x)[N]) {
    static_assert(N % WIDE<T> == 0, "whole accesses");
    if (wide) {
#pragma unroll
        for (int j = 0; j < N / WIDE<T>; j++) {
            float part[WIDE<T>];
#pragma unroll
            for (int i = 0; i < WIDE<T>; i++) part[i] = x[j * WIDE<T> + i];
            store_raw(p + j * WIDE<T>, narrow(part));
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; i++)
            if (i < count) p[i] = from_f32<T>(x[i]);
    }
}

constexpr unsigned ALL_LANES = 0xffffffffu;

// Sum over the lanes of a warp, the same in every lane. All lanes must call it.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) x += __shfl_xor_sync(ALL_LANES, x, lane);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2)
        x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, lane));
    return x;
}

// 1 / (1 + exp(-x)) without overflow.
__device__ __forceinline__ float sigmoid(float x) {
    const float e = expf(-fabsf(x));
    return (x >= 0.0f ? 1.0f : e) / (1.0f + e);
}
