// Multi-scale deformable attention, forward and backward.
//
// One warp per row (image, token, head), eight rows per block: the heads of a token are contiguous
// and sample neighbouring positions. Lane k < n holds the logit, offset and position of point k.
// For the channels, a lane has tap lane / 8 and channels 4 (lane % 8) .. + 3, so one load
// instruction of the warp loads all four taps of a point, each as one aligned run of a head's
// channels (128 bytes in f32). Before that, the lanes divide the taps of eight points among
// themselves, so that no weight is computed more than once. Limits: at most 32 points over all
// levels, at most 32 channels per head, a multiple of 4.
//
// Positions are computed with separate roundings, as on the CPU, so both agree on every pixel.
//
// dvalue is a scatter: any number of points read a value. It is summed by atomics in 64-bit
// integers, whose additions are exact in any order, so results are bitwise equal for any order of
// the blocks. The unit is a power of two chosen from the largest |dout| (`peak`). At most
// 2^ceil(log2 tokens) rows add at most peak each, because the weights of a row sum to 1. So with
// peak < 2^e, sums stay below 2^61 at a unit of 2^(e + ceil(log2 tokens) - 61). With 5376 tokens
// (512 px) that leaves 48 bits below the peak; a term is rounded at 2^-49 of it, finer than the
// rounding of the sum in f32.
#include "numbers.cuh"

#define DEFORM_LEVELS 4
#define DEFORM_ROWS 8

// Sizes of a call; mirrors `Sizes` in gpu.rs.
struct DeformSizes {
    int b, tokens, heads, d, levels, points;
    int h[DEFORM_LEVELS], w[DEFORM_LEVELS], start[DEFORM_LEVELS];
};

// Loads four channels.
__device__ __forceinline__ float4 load_4(const float* p) {
    return *reinterpret_cast<const float4*>(p);
}
__device__ __forceinline__ float4 load_4(const bf16* p) {
    const uint2 v = *reinterpret_cast<const uint2*>(p);
    return make_float4(__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u),
                       __uint_as_float(v.y << 16), __uint_as_float(v.y & 0xffff0000u));
}
__device__ __forceinline__ void store_4(float* p, float4 x) { *reinterpret_cast<float4*>(p) = x; }
__device__ __forceinline__ void store_4(bf16* p, float4 x) {
    p[0] = from_f32<bf16>(x.x), p[1] = from_f32<bf16>(x.y);
    p[2] = from_f32<bf16>(x.z), p[3] = from_f32<bf16>(x.w);
}

// Row of a warp. There are fewer than 2^31 features (gpu.rs), so row indices fit in 32 bits.
struct DeformRow {
    size_t row;         // of [b, tokens, heads]
    int token, head;    // of the row
    size_t image;       // first element of the image and head in [b, tokens, heads, d]
    int n, lane, tap, channel;
    bool exists;
    bool within;        // whether the channels of this lane exist

    __device__ __forceinline__ DeformRow(const DeformSizes& s) {
        const uint32_t at = blockIdx.x * DEFORM_ROWS + threadIdx.x / 32, of_image = at / s.heads;
        exists = at < uint32_t(s.b) * s.tokens * s.heads;
        row = at;
        head = at % s.heads;
        token = of_image % s.tokens;
        image = size_t(of_image / s.tokens) * s.tokens * s.heads * s.d + head * s.d;
        n = s.levels * s.points;
        lane = threadIdx.x % 32;
        tap = lane / 8;
        channel = lane % 8 * 4;
        within = channel < s.d;
    }
};

// Point in pixels of the level that it samples.
struct DeformPoint {
    float x, y;
    int h, w, start;

    // Point of this lane; far outside for lanes without one.
    __device__ __forceinline__ DeformPoint(const DeformSizes& s, const DeformRow& r,
                                           const float* offsets) {
        x = -8.0f, y = -8.0f, h = 1, w = 1, start = 0;
        if (r.lane >= r.n) return;
        // All are read and then selected: dynamic indexing would move the table to local memory.
        int own_h = 1, own_w = 1, from = 0;  // of the level that the token belongs to
        const int level = r.lane / s.points;
#pragma unroll
        for (int l = 0; l < DEFORM_LEVELS; l++) {
            const int of_h = s.h[l], of_w = s.w[l], first = s.start[l];
            if (l < s.levels && r.token >= first) own_h = of_h, own_w = of_w, from = first;
            if (l == level) h = of_h, w = of_w, start = first;
        }
        const int at = r.token - from;
        const float2 offset = reinterpret_cast<const float2*>(offsets)[r.row * r.n + r.lane];
        const float wide = float(w), high = float(h);
        const float rx = __fdiv_rn(float(at % own_w) + 0.5f, float(own_w));
        const float ry = __fdiv_rn(float(at / own_w) + 0.5f, float(own_h));
        const float lx = __fadd_rn(rx, __fdiv_rn(offset.x, wide));
        const float ly = __fadd_rn(ry, __fdiv_rn(offset.y, high));
        x = __fadd_rn(__fmul_rn(lx, wide), -0.5f);
        y = __fadd_rn(__fmul_rn(ly, high), -0.5f);
    }
};

// Taps of eight points at a time, one per lane: lane 4 j + t has tap t of point 8 round + j, its
// weight with the derivatives by px and py, and its token, -1 where there is none. Each is computed
// once; the lanes that read a tap then get two values by shuffles.
struct DeformTap {
    float weight, by_x, by_y;
    int token;

    __device__ __forceinline__ DeformTap(const DeformPoint& own, int round) {
        const int point = 8 * round + threadIdx.x % 32 / 4;
        const float px = __shfl_sync(ALL_LANES, own.x, point);
        const float py = __shfl_sync(ALL_LANES, own.y, point);
        const int h = __shfl_sync(ALL_LANES, own.h, point);
        const int w = __shfl_sync(ALL_LANES, own.w, point);
        const int start = __shfl_sync(ALL_LANES, own.start, point);
        const float fx = floorf(px), fy = floorf(py);
        const bool right = threadIdx.x & 1, low = threadIdx.x & 2;
        const float wx = right ? px - fx : 1.0f - (px - fx);
        const float wy = low ? py - fy : 1.0f - (py - fy);
        weight = wx * wy;
        by_x = right ? wy : -wy;
        by_y = low ? wx : -wx;
        // The bounds also keep the conversion to int in range.
        const bool inside = px > -1.0f && py > -1.0f && px < float(w) && py < float(h);
        const int x = (inside ? int(fx) : -2) + right, y = (inside ? int(fy) : -2) + low;
        const bool exists = x >= 0 && y >= 0 && x < w && y < h;
        token = exists ? start + y * w + x : -1;
    }
};

__device__ __forceinline__ float across_taps(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 8);
    return x + __shfl_xor_sync(ALL_LANES, x, 16);
}

template <class T>
__device__ __forceinline__ void deform_forward(const DeformSizes& s, const T* value,
                                               const float* offsets, const float* logits, T* out,
                                               float* attn) {
    const DeformRow r(s);
    if (!r.exists) return;
    const DeformPoint point(s, r, offsets);
    const float logit = r.lane < r.n ? logits[r.row * r.n + r.lane] : -INFINITY;
    const float e = expf(logit - warp_max(logit));
    const float a = e / warp_sum(e);
    if (r.lane < r.n) attn[r.row * r.n + r.lane] = a;
    const uint32_t pitch = s.heads * s.d;
    value += r.image + r.channel;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    for (int round = 0; 8 * round < r.n; round++) {
        const DeformTap tap(point, round);
        const float share = __shfl_sync(ALL_LANES, a, 8 * round + r.lane / 4) * tap.weight;
        const int count = min(8, r.n - 8 * round);
        for (int j = 0; j < count; j++) {
            const float w = __shfl_sync(ALL_LANES, share, 4 * j + r.tap);
            const int token = __shfl_sync(ALL_LANES, tap.token, 4 * j + r.tap);
            if (token < 0 || !r.within) continue;
            const float4 v = load_4(value + size_t(token) * pitch);
            sum.x = fmaf(w, v.x, sum.x), sum.y = fmaf(w, v.y, sum.y);
            sum.z = fmaf(w, v.z, sum.z), sum.w = fmaf(w, v.w, sum.w);
        }
        __syncwarp();
    }
    sum.x = across_taps(sum.x), sum.y = across_taps(sum.y);
    sum.z = across_taps(sum.z), sum.w = across_taps(sum.w);
    if (r.tap == 0 && r.within) store_4(out + r.row * s.d + r.channel, sum);
}

// Exponent k of the integers: a value v is stored as v 2^k. At most 126, so that both powers are
// normal numbers.
__device__ __forceinline__ int deform_exponent(const DeformSizes& s, uint32_t peak) {
    const int above = int(peak >> 23) - 126;  // peak < 2^above
    const int rows = 32 - __clz(s.tokens - 1);
    return min(61 - rows - above, 126);
}

__device__ __forceinline__ float power_of_two(int k) {
    return __uint_as_float(uint32_t(127 + k) << 23);
}

__device__ __forceinline__ void add_fixed(unsigned long long* to, float x) {
    atomicAdd(to, static_cast<unsigned long long>(__float2ll_rn(x)));
}

// Writes doffsets and dlogits and adds to `fixed`; each is optional. `fixed` is [b, tokens, heads,
// 4, d / 4], the first of each four channels before the second. So simultaneous additions of the
// lanes are contiguous: two sectors of 32 bytes per tap instead of eight.
template <class T>
__device__ __forceinline__ void deform_backward(const DeformSizes& s, const T* value,
                                                const float* offsets, const float* attn,
                                                const T* dout, const uint32_t* peak,
                                                unsigned long long* fixed, float* doffsets,
                                                float* dlogits) {
    const DeformRow r(s);
    if (!r.exists) return;
    const DeformPoint point(s, r, offsets);
    const float a = r.lane < r.n ? attn[r.row * r.n + r.lane] : 0.0f;
    float4 g = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (r.within) g = load_4(dout + r.row * s.d + r.channel);
    const float unit = fixed == nullptr ? 0.0f : power_of_two(deform_exponent(s, *peak));
    const uint32_t pitch = s.heads * s.d;
    value += r.image + r.channel;
    if (fixed != nullptr) fixed += r.image + r.channel / 4;
    float da = 0.0f, dx = 0.0f, dy = 0.0f;  // of this lane's point
    for (int round = 0; 8 * round < r.n; round++) {
        const DeformTap tap(point, round);
        const float share = __shfl_sync(ALL_LANES, a, 8 * round + r.lane / 4);
        float own = 0.0f;  // g . v of the tap that this lane computed
        const int count = min(8, r.n - 8 * round);
        for (int j = 0; j < count; j++) {
            const float w = __shfl_sync(ALL_LANES, share * tap.weight, 4 * j + r.tap);
            const int token = __shfl_sync(ALL_LANES, tap.token, 4 * j + r.tap);
            float dot = 0.0f;
            if (token >= 0 && r.within) {
                // out += a weight value
                const size_t cell = size_t(token) * pitch;
                const float4 v = load_4(value + cell);
                dot = fmaf(g.w, v.w, fmaf(g.z, v.z, fmaf(g.y, v.y, g.x * v.x)));
                if (fixed != nullptr) {
                    unsigned long long* to = fixed + cell;
                    add_fixed(to, w * g.x * unit);
                    add_fixed(to + s.d / 4, w * g.y * unit);
                    add_fixed(to + s.d / 4 * 2, w * g.z * unit);
                    add_fixed(to + s.d / 4 * 3, w * g.w * unit);
                }
            }
            __syncwarp();
#pragma unroll
            for (int step = 1; step < 8; step *= 2) dot += __shfl_xor_sync(ALL_LANES, dot, step);
            // From the lanes that read tap t to the lane that computed it.
            dot = __shfl_sync(ALL_LANES, dot, r.lane % 4 * 8);
            if (r.lane / 4 == j) own = dot;
        }
        if (tap.token < 0) own = 0.0f;
        float by_a = tap.weight * own, by_x = tap.by_x * own, by_y = tap.by_y * own;
#pragma unroll
        for (int step = 1; step < 4; step *= 2) {
            by_a += __shfl_xor_sync(ALL_LANES, by_a, step);
            by_x += __shfl_xor_sync(ALL_LANES, by_x, step);
            by_y += __shfl_xor_sync(ALL_LANES, by_y, step);
        }
        // From the taps of a point to the lane of the point.
        by_a = __shfl_sync(ALL_LANES, by_a, r.lane % 8 * 4);
        by_x = __shfl_sync(ALL_LANES, share * by_x, r.lane % 8 * 4);
        by_y = __shfl_sync(ALL_LANES, share * by_y, r.lane % 8 * 4);
        if (r.lane / 8 == round) da = by_a, dx = by_x, dy = by_y;
    }
    // a = softmax(logits)
    const float mean = warp_sum(a * da);
    if (r.lane >= r.n) return;
    if (dlogits != nullptr) dlogits[r.row * r.n + r.lane] = a * (da - mean);
    if (doffsets != nullptr)
        reinterpret_cast<float2*>(doffsets)[r.row * r.n + r.lane] = make_float2(dx, dy);
}

// peak = largest |x|, as bits (they have the order of the values; NaN is largest). `peak` starts at
// 0.
template <class T>
__device__ __forceinline__ void deform_peak(const DeformSizes& s, const T* x, uint32_t* peak) {
    const size_t n = size_t(s.b) * s.tokens * s.heads * s.d;
    uint32_t top = 0;
    for (size_t i = size_t(blockIdx.x) * 256 + threadIdx.x; i < n; i += size_t(gridDim.x) * 256)
        top = max(top, __float_as_uint(to_f32(x[i])) & 0x7fffffffu);
#pragma unroll
    for (int step = 16; step > 0; step /= 2) top = max(top, __shfl_xor_sync(ALL_LANES, top, step));
    if (threadIdx.x % 32 == 0) atomicMax(peak, top);
}

// dvalue from the integers; all NaN if dout has NaN or infinity.
template <class T>
__device__ __forceinline__ void deform_settle(const DeformSizes& s, const long long* fixed,
                                              const uint32_t* peak, T* dvalue) {
    const uint32_t i = blockIdx.x * 256 + threadIdx.x;
    if (i >= uint32_t(s.b) * s.tokens * s.heads * s.d) return;
    const bool finite = *peak < 0x7f800000u;
    const float nan = __uint_as_float(0x7fffffffu);
    const float unit = finite ? power_of_two(-deform_exponent(s, *peak)) : nan;
    const uint32_t d = s.d, channel = i % d, at = channel % 4 * (d / 4) + channel / 4;
    dvalue[i] = from_f32<T>(__ll2float_rn(fixed[i - channel + at]) * unit);
}

#define ENTRIES(T, SUFFIX)                                                                        \
    extern "C" __global__ void __launch_bounds__(32 * DEFORM_ROWS)                                \
        ms_deform_attn_forward_##SUFFIX(DeformSizes s, const T* value, const float* offsets,      \
                                        const float* logits, T* out, float* attn) {               \
        deform_forward(s, value, offsets, logits, out, attn);                                     \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(32 * DEFORM_ROWS)                                \
        ms_deform_attn_backward_##SUFFIX(DeformSizes s, const T* value, const float* offsets,     \
                                         const float* attn, const T* dout, const uint32_t* peak,  \
                                         unsigned long long* fixed, float* doffsets,              \
                                         float* dlogits) {                                        \
        deform_backward(s, value, offsets, attn, dout, peak, fixed, doffsets, dlogits);           \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                             \
        ms_deform_attn_peak_##SUFFIX(DeformSizes s, const T* x, uint32_t* peak) {                 \
        deform_peak(s, x, peak);                                                                  \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(256) ms_deform_attn_settle_##SUFFIX(             \
        DeformSizes s, const long long* fixed, const uint32_t* peak, T* dvalue) {                 \
        deform_settle(s, fixed, peak, dvalue);                                                    \
    }

ENTRIES(float, f32)
ENTRIES(bf16, bf16)
