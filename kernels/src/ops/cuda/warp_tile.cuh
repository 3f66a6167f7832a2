// Products of small matrices by one warp, with operands in shared memory.
//
// Two implementations share one interface, so that a kernel is written once. Bf16 runs on tensor
// cores (mma.sync m16n8k16, operands loaded by ldmatrix), F32 on the FMA units. Both keep results
// in the accumulator layout of m16n8k16. With g = lane / 4 and t = lane % 4, a lane holds
//
//     acc[mt][nt][0..1]   row 16 mt + g        columns 8 nt + 2t, 8 nt + 2t + 1
//     acc[mt][nt][2..3]   row 16 mt + g + 8    the same columns
//
//     nt(acc, a, b, ld)   acc += a b^T    b: [8 NT, K], the rows of shared memory are columns
//     nn(acc, a, b, ld)   acc += a b      b: [K, 8 NT]
//     tn(acc, a, lda, b, ldb)   acc += a^T b    a: [K, 16 MT], b: [K, 8 NT], both in shared memory
//
// Each row of shared memory is followed by PAD elements (16 bytes). Row lengths are multiples of 32
// bytes, so the pitch is an odd number of 16-byte units, and eight rows cover all 32 banks once.
// Work per byte: a 16x8x16 product (1 clock of an SM's tensor cores at their peak) needs 256 bytes
// of b, 2 clocks of shared memory; with MT = 2 a fragment of b is used by two products.
#pragma once
#include "numbers.cuh"

__device__ __forceinline__ uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Copies 16 bytes asynchronously from global to shared memory; writes zeros if `valid` is false.
__device__ __forceinline__ void copy_16(void* to, const void* from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(valid ? 16 : 0)
                 : "memory");
}

// Copies 4 bytes likewise.
__device__ __forceinline__ void copy_4(void* to, const void* from, bool valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(valid ? 4 : 0)
                 : "memory");
}

__device__ __forceinline__ void copies_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits for the copies of this thread; a barrier must follow before reading copies of other
// threads.
__device__ __forceinline__ void copies_wait() {
    asm volatile("cp.async.wait_group 0;" ::: "memory");
}

#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f

// 2^x with a relative error below 2^-22; 0 for -inf.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Copies ROWS rows of COLS elements, `pitch` elements apart, to rows padded by 16 bytes. Row
// `first` of the result is row 0 of `from`; rows before it, and from `last` on, become zeros.
template <class T, int ROWS, int COLS, int THREADS>
__device__ __forceinline__ void copy_rows(T* to, const T* from, long long pitch, int last,
                                          int first = 0) {
    constexpr int UNIT = 16 / sizeof(T), UNITS = COLS / UNIT;
#pragma unroll 4
    for (int i = threadIdx.x; i < ROWS * UNITS; i += THREADS) {
        const int row = i / UNITS, col = i % UNITS * UNIT;
        const bool valid = row >= first && row < last;
        // A row that is not read gets the address of row 0, which exists.
        copy_16(to + row * (COLS + UNIT) + col, from + (valid ? row - first : 0) * pitch + col,
                valid);
    }
}

// Two values rounded to nearest even, `lo` in the lower half.
__device__ __forceinline__ uint32_t pack2(float lo, float hi) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(hi), "f"(lo));
    return pair;
}

// Two neighbouring elements as f32.
__device__ __forceinline__ float2 load2(const float* p) {
    return *reinterpret_cast<const float2*>(p);
}
__device__ __forceinline__ float2 load2(const bf16* p) {
    const uint32_t pair = *reinterpret_cast<const uint32_t*>(p);
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000));
}
__device__ __forceinline__ void store2(float* p, float x, float y) {
    *reinterpret_cast<float2*>(p) = make_float2(x, y);
}
__device__ __forceinline__ void store2(bf16* p, float x, float y) {
    *reinterpret_cast<uint32_t*>(p) = pack2(x, y);
}

struct Bf16 {
    typedef bf16 T;
    static constexpr int PAD = 8;
    static constexpr int UNROLL = 2;  // of loops around several products

    // f32 elements of shared memory that `left` needs for one warp.
    static __device__ constexpr int scratch(int, int) { return 0; }

    // A left operand of 16 MT rows and K columns, in registers.
    template <int MT, int K> struct Left {
        uint32_t a[MT][K / 16][4];
    };

    // Loads four 8 by 8 matrices; each lane gives the shared-memory address of one row.
    static __device__ __forceinline__ void fetch(uint32_t (&f)[4], uint32_t row) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(f[0]), "=r"(f[1]), "=r"(f[2]), "=r"(f[3])
                     : "r"(row)
                     : "memory");
    }
    static __device__ __forceinline__ void fetch_trans(uint32_t (&f)[4], uint32_t row) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(f[0]), "=r"(f[1]), "=r"(f[2]), "=r"(f[3])
                     : "r"(row)
                     : "memory");
    }

    template <int MT, int K>
    static __device__ __forceinline__ void load(Left<MT, K>& l, const bf16* x, int ld) {
        const int lane = threadIdx.x % 32;
        const uint32_t at = shared_address(x + lane % 16 * ld + lane / 16 * 8);
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int k = 0; k < K / 16; k++) fetch(l.a[m][k], at + (m * 16 * ld + k * 16) * 2);
    }

    // Makes a left operand from accumulators: both layouts agree, so only the type changes.
    template <int MT, int K>
    static __device__ __forceinline__ void left(Left<MT, K>& l, const float (&x)[MT][K / 8][4],
                                                float*) {
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int k = 0; k < K / 16; k++) {
                l.a[m][k][0] = pack2(x[m][2 * k][0], x[m][2 * k][1]);
                l.a[m][k][1] = pack2(x[m][2 * k][2], x[m][2 * k][3]);
                l.a[m][k][2] = pack2(x[m][2 * k + 1][0], x[m][2 * k + 1][1]);
                l.a[m][k][3] = pack2(x[m][2 * k + 1][2], x[m][2 * k + 1][3]);
            }
    }

    static __device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                               uint32_t b1) {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                     "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }

    // One ldmatrix.x4 loads the fragments of 16 columns and 16 of K.
    template <int MT, int NT, int K>
    static __device__ __forceinline__ void nt(float (&acc)[MT][NT][4], const Left<MT, K>& l,
                                              const bf16* b, int ld) {
        const int lane = threadIdx.x % 32;
        const uint32_t at =
            shared_address(b + (lane / 16 * 8 + lane % 8) * ld + lane / 8 % 2 * 8);
#pragma unroll
        for (int k = 0; k < K / 16; k++)
#pragma unroll
            for (int n = 0; n < NT; n += 2) {
                uint32_t f[4];
                fetch(f, at + (n * 8 * ld + k * 16) * 2);
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    mma(acc[m][n], l.a[m][k], f[0], f[1]);
                    mma(acc[m][n + 1], l.a[m][k], f[2], f[3]);
                }
            }
    }

    template <int MT, int NT, int K>
    static __device__ __forceinline__ void nn(float (&acc)[MT][NT][4], const Left<MT, K>& l,
                                              const bf16* b, int ld) {
        const int lane = threadIdx.x % 32;
        const uint32_t at = shared_address(b + lane % 16 * ld + lane / 16 * 8);
#pragma unroll
        for (int k = 0; k < K / 16; k++)
#pragma unroll
            for (int n = 0; n < NT; n += 2) {
                uint32_t f[4];
                fetch_trans(f, at + (k * 16 * ld + n * 8) * 2);
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    mma(acc[m][n], l.a[m][k], f[0], f[1]);
                    mma(acc[m][n + 1], l.a[m][k], f[2], f[3]);
                }
            }
    }

    template <int K, int MT, int NT>
    static __device__ __forceinline__ void tn(float (&acc)[MT][NT][4], const bf16* a, int lda,
                                              const bf16* b, int ldb) {
        const int lane = threadIdx.x % 32;
        const uint32_t at_a =
            shared_address(a + (lane / 16 * 8 + lane % 8) * lda + lane / 8 % 2 * 8);
        const uint32_t at_b = shared_address(b + lane % 16 * ldb + lane / 16 * 8);
#pragma unroll
        for (int k = 0; k < K; k += 16) {
            uint32_t f[NT / 2][4];
#pragma unroll
            for (int n = 0; n < NT / 2; n++) fetch_trans(f[n], at_b + (k * ldb + n * 16) * 2);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                uint32_t x[4];
                fetch_trans(x, at_a + (k * lda + m * 16) * 2);
#pragma unroll
                for (int n = 0; n < NT / 2; n++) {
                    mma(acc[m][2 * n], x, f[n][0], f[n][1]);
                    mma(acc[m][2 * n + 1], x, f[n][2], f[n][3]);
                }
            }
        }
    }
};

// The left operand stays in shared memory. Each step handles four of K: 2 + 2 NT loads of 16 bytes
// feed 16 NT FMA in nt, so the FMA units, not shared memory, are the limit.
struct F32 {
    typedef float T;
    static constexpr int PAD = 4;
    static constexpr int UNROLL = 1;

    static __device__ constexpr int scratch(int rows, int cols) { return rows * (cols + PAD); }

    template <int MT, int K> struct Left {
        const float* x;
        int ld;
    };

    template <int MT, int K>
    static __device__ __forceinline__ void load(Left<MT, K>& l, const float* x, int ld) {
        l.x = x + threadIdx.x % 32 / 4 * ld;
        l.ld = ld;
    }

    // Makes a left operand from accumulators, through `scratch`, which belongs to the warp.
    template <int MT, int K>
    static __device__ __forceinline__ void left(Left<MT, K>& l, const float (&x)[MT][K / 8][4],
                                                float* scratch) {
        constexpr int LD = K + PAD;
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        __syncwarp();  // every lane has read the old contents of `scratch`
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int n = 0; n < K / 8; n++) {
                float* at = scratch + (16 * m + g) * LD + 8 * n + 2 * t;
                store2(at, x[m][n][0], x[m][n][1]);
                store2(at + 8 * LD, x[m][n][2], x[m][n][3]);
            }
        __syncwarp();
        load(l, scratch, LD);
    }

    static __device__ __forceinline__ float4 load4(const float* p) {
        return *reinterpret_cast<const float4*>(p);
    }

    static __device__ __forceinline__ float dot(float c, float4 a, float4 b) {
        return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, c))));
    }

    template <int MT, int NT, int K>
    static __device__ __forceinline__ void nt(float (&acc)[MT][NT][4], const Left<MT, K>& l,
                                              const float* b, int ld) {
        const float* at = b + threadIdx.x % 4 * 2 * ld;
#pragma unroll 2
        for (int k = 0; k < K; k += 4) {
            float4 a[MT][2];
#pragma unroll
            for (int m = 0; m < 2 * MT; m++) a[m / 2][m % 2] = load4(l.x + m * 8 * l.ld + k);
#pragma unroll
            for (int n = 0; n < NT; n++) {
                const float4 b0 = load4(at + n * 8 * ld + k);
                const float4 b1 = load4(at + (n * 8 + 1) * ld + k);
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    acc[m][n][0] = dot(acc[m][n][0], a[m][0], b0);
                    acc[m][n][1] = dot(acc[m][n][1], a[m][0], b1);
                    acc[m][n][2] = dot(acc[m][n][2], a[m][1], b0);
                    acc[m][n][3] = dot(acc[m][n][3], a[m][1], b1);
                }
            }
        }
    }

    template <int MT, int NT, int K>
    static __device__ __forceinline__ void nn(float (&acc)[MT][NT][4], const Left<MT, K>& l,
                                              const float* b, int ld) {
        const float* at = b + threadIdx.x % 4 * 2;
#pragma unroll 2
        for (int k = 0; k < K; k += 2) {
            float2 a[MT][2];
#pragma unroll
            for (int m = 0; m < 2 * MT; m++) a[m / 2][m % 2] = load2(l.x + m * 8 * l.ld + k);
#pragma unroll
            for (int n = 0; n < NT; n++) {
                const float2 b0 = load2(at + k * ld + n * 8), b1 = load2(at + (k + 1) * ld + n * 8);
#pragma unroll
                for (int m = 0; m < MT; m++)
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        acc[m][n][2 * i] =
                            fmaf(a[m][i].y, b1.x, fmaf(a[m][i].x, b0.x, acc[m][n][2 * i]));
                        acc[m][n][2 * i + 1] =
                            fmaf(a[m][i].y, b1.y, fmaf(a[m][i].x, b0.y, acc[m][n][2 * i + 1]));
                    }
            }
        }
    }

    template <int K, int MT, int NT>
    static __device__ __forceinline__ void tn(float (&acc)[MT][NT][4], const float* a, int lda,
                                              const float* b, int ldb) {
        const float* at_a = a + threadIdx.x % 32 / 4;
        const float* at_b = b + threadIdx.x % 4 * 2;
#pragma unroll 2
        for (int k = 0; k < K; k++) {
            float2 y[NT];
#pragma unroll
            for (int n = 0; n < NT; n++) y[n] = load2(at_b + k * ldb + n * 8);
#pragma unroll
            for (int m = 0; m < 2 * MT; m++) {
                const float x = at_a[k * lda + m * 8];
#pragma unroll
                for (int n = 0; n < NT; n++) {
                    float* to = acc[m / 2][n] + m % 2 * 2;
                    to[0] = fmaf(x, y[n].x, to[0]);
                    to[1] = fmaf(x, y[n].y, to[1]);
                }
            }
        }
    }
};
