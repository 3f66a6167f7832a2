// Decomposed relative position, on the tile products of cuda/warp_tile.cuh. Four warps, each with
// 16 queries of one head; grid (tiles of queries, heads, images). A query of row y needs row m of a
// table only for its bias k = y + len - 1 - m, if 0 <= k < len. Products are computed with all
// rows, 32 at a time, which wastes half of them but needs no other kernel. Overwritten: rel,
// partial. Added to: dqkv, only at the queries.
#include "warp_tile.cuh"

constexpr int THREADS = 128;
constexpr int ROWS = 64;   // queries, or rows of a table, per block
constexpr int TABLE = 32;  // rows of a table per step

// Mirrors `Sizes` in gpu.rs. Queries are in packed qkv; offsets are in elements.
struct RelativePosition {
    int b, heads, h, w;
    int columns;  // which table a sum over queries is for
    int chunks;   // of ROWS queries that a split takes
    int q_token;
    int unused;
    long long q_image;
};

// One axis of the grid.
struct Axis {
    int len, offset, width;
    bool columns;

    __device__ __forceinline__ Axis(const RelativePosition& s, bool columns_) {
        columns = columns_;
        len = columns ? s.w : s.h;
        offset = columns ? s.h : 0;
        width = s.w;
    }
    __device__ __forceinline__ int rows() const { return 2 * len - 1; }
    // Index of the bias of `token` for row m of the table; valid only if it is in 0 .. len - 1.
    __device__ __forceinline__ int number(int token, int m) const {
        return (columns ? token % width : token / width) + len - 1 - m;
    }
    __device__ __forceinline__ bool has(int k) const { return k >= 0 && k < len; }
};

template <class P, int D>
__device__ __forceinline__ void forward(const RelativePosition& s, const typename P::T* qkv,
                                        const typename P::T* row_table,
                                        const typename P::T* column_table, typename P::T* rel) {
    typedef typename P::T T;
    constexpr int LD = D + P::PAD;
    __shared__ __align__(16) T q_rows[ROWS * LD], rows[TABLE * LD];
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int n = s.h * s.w, first = blockIdx.x * ROWS, mine = first + warp * 16;
    const T* q = qkv + blockIdx.z * s.q_image + blockIdx.y * D;
    copy_rows<T, ROWS, D, THREADS>(q_rows, q + size_t(first) * s.q_token, s.q_token, n - first);
    rel += (size_t(blockIdx.z) * s.heads + blockIdx.y) * n * (s.h + s.w);
    typename P::template Left<1, D> left;
    for (int a = 0; a < 2; a++) {
        const Axis axis(s, a == 1);
        const T* table = a == 1 ? column_table : row_table;
        for (int m = 0; m < axis.rows(); m += TABLE) {
            copy_rows<T, TABLE, D, THREADS>(rows, table + size_t(m) * D, D, axis.rows() - m);
            copies_commit();
            copies_wait();
            __syncthreads();
            P::load(left, q_rows + warp * 16 * LD, LD);
            float acc[1][TABLE / 8][4] = {};
            P::nt(acc, left, rows, LD);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int token = mine + 8 * i + g;
                if (token >= n) continue;
                T* to = rel + size_t(token) * (s.h + s.w) + axis.offset;
                const int k = axis.number(token, m + 2 * t);
#pragma unroll
                for (int c = 0; c < TABLE / 8; c++)
#pragma unroll
                    for (int j = 0; j < 2; j++)
                        if (axis.has(k - 8 * c - j))
                            to[k - 8 * c - j] = from_f32<T>(acc[0][c][2 * i + j]);
            }
            __syncthreads();
        }
    }
}

// dq += drel R: the biases of a query, placed at the rows of the table, are the left operand.
template <class P, int D>
__device__ __forceinline__ void to_queries(const RelativePosition& s,
                                           const typename P::T* row_table,
                                           const typename P::T* column_table,
                                           const typename P::T* drel, typename P::T* dqkv) {
    typedef typename P::T T;
    constexpr int LD = D + P::PAD;
    __shared__ __align__(16) T rows[TABLE * LD];
    __shared__ __align__(16) float scratch[4 * P::scratch(16, TABLE) + 1];
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int n = s.h * s.w, mine = blockIdx.x * ROWS + warp * 16;
    drel += (size_t(blockIdx.z) * s.heads + blockIdx.y) * n * (s.h + s.w);
    float sums[1][D / 8][4] = {};
    for (int a = 0; a < 2; a++) {
        const Axis axis(s, a == 1);
        const T* table = a == 1 ? column_table : row_table;
        for (int m = 0; m < axis.rows(); m += TABLE) {
            copy_rows<T, TABLE, D, THREADS>(rows, table + size_t(m) * D, D, axis.rows() - m);
            copies_commit();
            float d[1][TABLE / 8][4] = {};
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int token = mine + 8 * i + g;
                if (token >= n) continue;
                const T* from = drel + size_t(token) * (s.h + s.w) + axis.offset;
                const int k = axis.number(token, m + 2 * t);
#pragma unroll
                for (int c = 0; c < TABLE / 8; c++)
#pragma unroll
                    for (int j = 0; j < 2; j++)
                        if (axis.has(k - 8 * c - j))
                            d[0][c][2 * i + j] = to_f32(from[k - 8 * c - j]);
            }
            copies_wait();
            __syncthreads();
            typename P::template Left<1, TABLE> left;
            P::left(left, d, scratch + warp * P::scratch(16, TABLE));
            P::nn(sums, left, rows, LD);
            __syncthreads();
        }
    }
    dqkv += blockIdx.z * s.q_image + blockIdx.y * D + 2 * t;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int token = mine + 8 * i + g;
        if (token >= n) continue;
#pragma unroll
        for (int c = 0; c < D / 8; c++) {
            T* to = dqkv + size_t(token) * s.q_token + 8 * c;
            const float2 old = load2(to);
            store2(to, old.x + sums[0][c][2 * i], old.y + sums[0][c][2 * i + 1]);
        }
    }
}

// Sums over queries for ROWS rows of a table: block (rows, split) of `partial` [splits, 2 len - 1,
// D]. A split is a run of chunks of the queries of all heads and images.
template <class P, int D>
__device__ __forceinline__ void to_table(const RelativePosition& s, const typename P::T* qkv,
                                         const typename P::T* drel, float* partial) {
    typedef typename P::T T;
    constexpr int LD = D + P::PAD, LDD = ROWS + P::PAD;
    __shared__ __align__(16) T q_rows[ROWS * LD], d_rows[ROWS * LDD];
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int n = s.h * s.w, per_head = (n + ROWS - 1) / ROWS, m = blockIdx.x * ROWS;
    const Axis axis(s, s.columns != 0);
    const int last = min(int(blockIdx.y + 1) * s.chunks, s.b * s.heads * per_head);
    float sums[1][D / 8][4] = {};
    for (int chunk = blockIdx.y * s.chunks; chunk < last; chunk++) {
        const int head = chunk / per_head, first = (chunk - head * per_head) * ROWS;
        const T* q = qkv + head / s.heads * s.q_image + head % s.heads * D;
        copy_rows<T, ROWS, D, THREADS>(q_rows, q + size_t(first) * s.q_token, s.q_token, n - first);
        copies_commit();
        for (int i = threadIdx.x; i < ROWS * ROWS; i += THREADS) {
            const int token = first + i / ROWS, k = axis.number(token, m + i % ROWS);
            const bool some = token < n && axis.has(k);
            const size_t row = size_t(head) * n + (some ? token : 0);
            const size_t at = row * (s.h + s.w) + axis.offset + (some ? k : 0);
            d_rows[i / ROWS * LDD + i % ROWS] = from_f32<T>(some ? to_f32(drel[at]) : 0.0f);
        }
        copies_wait();
        __syncthreads();
        P::template tn<ROWS>(sums, d_rows + warp * 16, LDD, q_rows, LD);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int row = m + warp * 16 + 8 * i + g;
        if (row >= axis.rows()) continue;
        float* to = partial + (size_t(blockIdx.y) * axis.rows() + row) * D + 2 * t;
#pragma unroll
        for (int c = 0; c < D / 8; c++)
            store2(to + 8 * c, sums[0][c][2 * i], sums[0][c][2 * i + 1]);
    }
}

// Up to 128 registers: by default the compiler aims at more blocks, and one form spills two.
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS, 4)

#define RELATIVE_POSITION(T, P, SUFFIX)                                                           \
    KERNEL relative_position_fwd_80_##SUFFIX(RelativePosition s, const T* qkv,                    \
                                             const T* row_table, const T* column_table, T* rel) { \
        forward<P, 80>(s, qkv, row_table, column_table, rel);                                     \
    }                                                                                             \
    KERNEL relative_position_dq_80_##SUFFIX(RelativePosition s, const T* row_table,               \
                                            const T* column_table, const T* drel, T* dqkv) {      \
        to_queries<P, 80>(s, row_table, column_table, drel, dqkv);                                \
    }                                                                                             \
    KERNEL relative_position_table_80_##SUFFIX(RelativePosition s, const T* qkv, const T* drel,   \
                                               float* partial) {                                  \
        to_table<P, 80>(s, qkv, drel, partial);                                                   \
    }

RELATIVE_POSITION(float, F32, f32)
RELATIVE_POSITION(bf16, Bf16, bf16)
