// Attention, forward and backward, for any form of tile products (see cuda/warp_tile.cuh).
//
// A block of four warps owns 64 MT query rows (forward, dq) or 64 key rows (dk, dv) of one head,
// 16 MT rows a warp, and walks over the other side tile by tile. The next tile is fetched by
// cp.async while the current one is multiplied: two stages, one barrier a tile. Grid: (tiles of
// rows, heads, images), so that blocks which share keys and values run side by side and find them
// in the second-level cache.
//
// Exponentials are powers of two: scale log2(e) is folded into one FMA per score.
#pragma once
#include "warp_tile.cuh"

#define ATTENTION_THREADS 128

// Sizes of a call; the twin of `Sizes` in gpu.rs. Places are in elements.
struct AttentionSizes {
    int b, heads, nq, nk;
    float scale;  // of the scores, 1 / sqrt(d)
    int q_start, k_start, v_start;
    int q_token, k_token;  // from token to token; heads lie d apart
    long long q_image, k_image;
};

// Places of this block's head.
template <class T> struct AttentionHead {
    const T *q, *k, *v;
    const uint8_t* blocked;
    size_t out;   // first element of the head in [b, nq, heads, d]
    size_t rows;  // first element of the head in [b, heads, nq]
    int out_token;

    __device__ __forceinline__ AttentionHead(const T* q_, const T* k_, const T* v_,
                                             const uint8_t* blocked_, const AttentionSizes& s,
                                             int d) {
        const size_t image = blockIdx.z, head = blockIdx.y;
        q = q_ + s.q_start + image * s.q_image + head * d;
        k = k_ + s.k_start + image * s.k_image + head * d;
        v = v_ + s.v_start + image * s.k_image + head * d;
        blocked = blocked_ + image * s.nq * s.nk;
        out_token = gridDim.y * d;
        out = image * s.nq * out_token + head * d;
        rows = (image * gridDim.y + head) * s.nq;
    }
};

// Flags of `ROWS` rows by `COLS` columns, as bits, for the accumulators of a lane. A warp reads 32
// flags of a row at once and votes them into a word; a lane keeps the words of its own rows.
// `rows` and `cols` are what exists; beyond them everything is blocked.
template <int MT, int WORDS>
__device__ __forceinline__ void load_flags(uint32_t (&bits)[MT][2][WORDS], const uint8_t* flags,
                                           size_t pitch, int rows, int cols) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < 16 * MT; r++)
#pragma unroll
        for (int w = 0; w < WORDS; w++) {
            const int col = 32 * w + lane;
            const bool stop = r >= rows || col >= cols || flags[r * pitch + col] != 0;
            const uint32_t word = __ballot_sync(ALL_LANES, stop);
            if (r % 8 == lane / 4) bits[r / 16][r / 8 % 2][w] = word;
        }
}

// Scores of columns that do not exist, or are flagged, become `value`.
template <bool BLOCKED, int MT, int NT, int WORDS>
__device__ __forceinline__ void replace(float (&s)[MT][NT][4], uint32_t (&bits)[MT][2][WORDS],
                                        int first, int cols, float value) {
    const int t = threadIdx.x % 4;
    if (!BLOCKED && first + 8 * NT <= cols) return;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int col = first + 8 * n + 2 * t + i % 2;
                const uint32_t word = bits[m][i / 2][WORDS == 1 || col < 32 ? 0 : WORDS - 1];
                if (BLOCKED ? word >> col % 32 & 1 : col >= cols) s[m][n][i] = value;
            }
}

// One step of the softmax over a row that arrives in pieces. `s` holds scores and becomes weights;
// `top` is the largest scaled score so far, `total` this lane's share of the sum of the weights.
// Sums so far are brought to the new maximum, which a row without open keys does not have yet.
template <int MT, int NT, int DT>
__device__ __forceinline__ void online_softmax(float (&s)[MT][NT][4], float (&out)[MT][DT][4],
                                               float (&top)[MT][2], float (&total)[MT][2],
                                               float scale) {
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float high = top[m][i];
#pragma unroll
            for (int n = 0; n < NT; n++)
                high = fmaxf(high, fmaxf(s[m][n][2 * i], s[m][n][2 * i + 1]) * scale);
            high = fmaxf(high, __shfl_xor_sync(ALL_LANES, high, 1));
            high = fmaxf(high, __shfl_xor_sync(ALL_LANES, high, 2));
            const float base = high == -INFINITY ? 0.0f : high;
            const float shrink = exp2_fast(top[m][i] - base);
            top[m][i] = high;
            float sum = 0.0f;
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int j = 2 * i; j < 2 * i + 2; j++) {
                    s[m][n][j] = exp2_fast(fmaf(s[m][n][j], scale, -base));
                    sum += s[m][n][j];
                }
            total[m][i] = fmaf(total[m][i], shrink, sum);
#pragma unroll
            for (int n = 0; n < DT; n++) {
                out[m][n][2 * i] *= shrink;
                out[m][n][2 * i + 1] *= shrink;
            }
        }
}

// out = softmax(q k^T scale) v and lse; TILE keys at a time.
template <class P, int D, int MT, int TILE, bool BLOCKED>
__device__ __forceinline__ void attention_forward(const typename P::T* q, const typename P::T* k,
                                                  const typename P::T* v, const uint8_t* blocked,
                                                  typename P::T* out, float* lse,
                                                  const AttentionSizes& s) {
    typedef typename P::T T;
    constexpr int LD = D + P::PAD, ROWS = 64 * MT;
    extern __shared__ __align__(16) unsigned char memory[];
    T* q_rows = reinterpret_cast<T*>(memory);
    T* stages = q_rows + ROWS * LD;
    float* scratch = reinterpret_cast<float*>(stages + 4 * TILE * LD);
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    scratch += warp * P::scratch(16 * MT, TILE);
    const AttentionHead<T> head(q, k, v, blocked, s, D);
    const int first = blockIdx.x * ROWS, mine = first + warp * 16 * MT;
    const bool busy = mine < s.nq;  // the last block may have warps without a row

    auto fetch = [&](int tile) {
        T* stage = stages + tile % 2 * 2 * TILE * LD;
        const size_t at = size_t(tile) * TILE * s.k_token;
        const int rows = s.nk - tile * TILE;
        copy_rows<T, TILE, D, ATTENTION_THREADS>(stage, head.k + at, s.k_token, rows);
        copy_rows<T, TILE, D, ATTENTION_THREADS>(stage + TILE * LD, head.v + at, s.k_token, rows);
        copies_commit();
    };
    copy_rows<T, ROWS, D, ATTENTION_THREADS>(q_rows, head.q + size_t(first) * s.q_token, s.q_token,
                                             s.nq - first);
    const int tiles = (s.nk + TILE - 1) / TILE;
    if (tiles > 0) fetch(0);
    copies_wait();
    __syncthreads();
    typename P::template Left<MT, D> q_left;
    P::load(q_left, q_rows + warp * 16 * MT * LD, LD);

    const float scale = s.scale * LOG2_E;
    float sums[MT][D / 8][4] = {}, top[MT][2], total[MT][2] = {};
    for (int m = 0; m < MT; m++) top[m][0] = top[m][1] = -INFINITY;
    for (int tile = 0; tile < tiles; tile++) {
        if (tile + 1 < tiles) fetch(tile + 1);
        if (busy) {
            const T* keys = stages + tile % 2 * 2 * TILE * LD;
            const int cols = s.nk - tile * TILE;
            float p[MT][TILE / 8][4] = {};
            uint32_t bits[MT][2][TILE / 32];
            if (BLOCKED) {
                const size_t at = size_t(mine) * s.nk + tile * TILE;
                load_flags(bits, head.blocked + at, s.nk, s.nq - mine, cols);
            }
            P::nt(p, q_left, keys, LD);
            replace<BLOCKED>(p, bits, 0, cols, -INFINITY);
            online_softmax(p, sums, top, total, scale);
            typename P::template Left<MT, TILE> weights;
            P::left(weights, p, scratch);
            P::nn(sums, weights, keys + TILE * LD, LD);
        }
        copies_wait();
        __syncthreads();
    }
    if (!busy) return;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float sum = total[m][i];
            sum += __shfl_xor_sync(ALL_LANES, sum, 1);
            sum += __shfl_xor_sync(ALL_LANES, sum, 2);
            const int row = mine + 16 * m + 8 * i + g;
            if (row >= s.nq) continue;
            // A row blocked everywhere has no weight: zeros, and an lse of +inf.
            const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
            if (t == 0)
                lse[head.rows + row] = sum > 0.0f ? fmaf(top[m][i], LN_2, logf(sum)) : INFINITY;
            T* to = out + head.out + size_t(row) * head.out_token + 2 * t;
#pragma unroll
            for (int n = 0; n < D / 8; n++)
                store2(to + 8 * n, sums[m][n][2 * i] * inverse, sums[m][n][2 * i + 1] * inverse);
        }
}

// delta = sum over the channels of dout * out: what every weight's gradient is measured from,
// because sum_j p dp = dout . sum_j p v. One warp a row of a head.
template <class T, int D>
__device__ __forceinline__ void attention_delta(const T* out, const T* dout, float* delta,
                                                const AttentionSizes& s) {
    const int warps = ATTENTION_THREADS / 32, lane = threadIdx.x % 32;
    const size_t row = size_t(blockIdx.x) * warps + threadIdx.x / 32;  // of [b, nq, heads]
    if (row >= size_t(s.b) * s.nq * s.heads) return;
    float sum = 0.0f;
#pragma unroll
    for (int c = 2 * lane; c < D; c += 64) {
        const float2 x = load2(out + row * D + c), y = load2(dout + row * D + c);
        sum = fmaf(x.y, y.y, fmaf(x.x, y.x, sum));
    }
    sum = warp_sum(sum);
    const size_t token = row / s.heads, head = row % s.heads;
    if (lane == 0) delta[(token / s.nq * s.heads + head) * s.nq + token % s.nq] = sum;
}

// dq = ds k scale with ds = p (dp - delta). The weights come from lse, so nothing must be known
// about the whole row and keys are taken 16 at a time: scores never fill more than 16 MT by 16.
template <class P, int D, int MT, int TILE, bool BLOCKED>
__device__ __forceinline__ void attention_dq(const typename P::T* q, const typename P::T* k,
                                             const typename P::T* v, const uint8_t* blocked,
                                             const float* lse, const float* delta,
                                             const typename P::T* dout, typename P::T* dq,
                                             const AttentionSizes& s) {
    typedef typename P::T T;
    constexpr int LD = D + P::PAD, ROWS = 64 * MT;
    // With two words of flags a lane, the index of the word must be known to stay in registers.
    constexpr int UNROLL = BLOCKED && TILE > 32 ? TILE / 16 : P::UNROLL;
    extern __shared__ __align__(16) unsigned char memory[];
    T* q_rows = reinterpret_cast<T*>(memory);
    T* g_rows = q_rows + ROWS * LD;
    T* stages = g_rows + ROWS * LD;
    float* scratch = reinterpret_cast<float*>(stages + 4 * TILE * LD);
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    scratch += warp * P::scratch(16 * MT, 16);
    const AttentionHead<T> head(q, k, v, blocked, s, D);
    const int first = blockIdx.x * ROWS, mine = first + warp * 16 * MT;
    const bool busy = mine < s.nq;

    auto fetch = [&](int tile) {
        T* stage = stages + tile % 2 * 2 * TILE * LD;
        const size_t at = size_t(tile) * TILE * s.k_token;
        const int rows = s.nk - tile * TILE;
        copy_rows<T, TILE, D, ATTENTION_THREADS>(stage, head.k + at, s.k_token, rows);
        copy_rows<T, TILE, D, ATTENTION_THREADS>(stage + TILE * LD, head.v + at, s.k_token, rows);
        copies_commit();
    };
    copy_rows<T, ROWS, D, ATTENTION_THREADS>(q_rows, head.q + size_t(first) * s.q_token, s.q_token,
                                             s.nq - first);
    copy_rows<T, ROWS, D, ATTENTION_THREADS>(
        g_rows, dout + head.out + size_t(first) * head.out_token, head.out_token, s.nq - first);
    const int tiles = (s.nk + TILE - 1) / TILE;
    if (tiles > 0) fetch(0);
    copies_wait();
    __syncthreads();
    typename P::template Left<MT, D> q_left, g_left;
    P::load(q_left, q_rows + warp * 16 * MT * LD, LD);
    P::load(g_left, g_rows + warp * 16 * MT * LD, LD);

    const float scale = s.scale * LOG2_E;
    float sums[MT][D / 8][4] = {}, base[MT][2], mean[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int row = mine + 16 * m + 8 * i + g;
            const bool valid = row < s.nq;
            // An lse of +inf, of a row without keys, makes every weight 0.
            base[m][i] = valid ? lse[head.rows + row] * LOG2_E : INFINITY;
            mean[m][i] = valid ? delta[head.rows + row] : 0.0f;
        }
    for (int tile = 0; tile < tiles; tile++) {
        if (tile + 1 < tiles) fetch(tile + 1);
        if (busy) {
            const T* keys = stages + tile % 2 * 2 * TILE * LD;
            const T* values = keys + TILE * LD;
            const int cols = s.nk - tile * TILE;
            uint32_t bits[MT][2][TILE / 32];
            if (BLOCKED) {
                const size_t at = size_t(mine) * s.nk + tile * TILE;
                load_flags(bits, head.blocked + at, s.nk, s.nq - mine, cols);
            }
#pragma unroll UNROLL
            for (int c = 0; c < TILE; c += 16) {
                float p[MT][2][4] = {}, dp[MT][2][4] = {};
                P::nt(p, q_left, keys + c * LD, LD);
                P::nt(dp, g_left, values + c * LD, LD);
                replace<BLOCKED>(p, bits, c, cols, -INFINITY);
#pragma unroll
                for (int m = 0; m < MT; m++)
#pragma unroll
                    for (int n = 0; n < 2; n++)
#pragma unroll
                        for (int i = 0; i < 4; i++) {
                            const float w = exp2_fast(fmaf(p[m][n][i], scale, -base[m][i / 2]));
                            p[m][n][i] = w * (dp[m][n][i] - mean[m][i / 2]);
                        }
                typename P::template Left<MT, 16> ds;
                P::left(ds, p, scratch);
                P::nn(sums, ds, keys + c * LD, LD);
            }
        }
        copies_wait();
        __syncthreads();
    }
    if (!busy) return;
    dq += s.q_start + blockIdx.z * s.q_image + blockIdx.y * D + 2 * t;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int row = mine + 16 * m + 8 * i + g;
            if (row >= s.nq) continue;
#pragma unroll
            for (int n = 0; n < D / 8; n++)
                store2(dq + size_t(row) * s.q_token + 8 * n, sums[m][n][2 * i] * s.scale,
                       sums[m][n][2 * i + 1] * s.scale);
        }
}

// dv = p^T dout and dk = ds^T q scale. A warp owns 16 keys and forms the transposed scores
// k q^T, whose accumulators are already the left operand of both products: nothing is transposed
// through memory. The sums run over the queries in order: no atomics, one result.
template <class P, int D, int TILE, bool BLOCKED>
__device__ __forceinline__ void attention_dkv(const typename P::T* q, const typename P::T* k,
                                              const typename P::T* v, const uint8_t* blocked,
                                              const float* lse, const float* delta,
                                              const typename P::T* dout, typename P::T* dk,
                                              typename P::T* dv, const AttentionSizes& s) {
    typedef typename P::T T;
    // A stage: queries, dout, then lse and delta of TILE queries.
    constexpr int LD = D + P::PAD, ROWS = 64;
    constexpr int STAGE = 2 * TILE * LD + 2 * TILE * sizeof(float) / sizeof(T);
    extern __shared__ __align__(16) unsigned char memory[];
    T* k_rows = reinterpret_cast<T*>(memory);
    T* v_rows = k_rows + ROWS * LD;
    T* stages = v_rows + ROWS * LD;
    float* scratch = reinterpret_cast<float*>(stages + 2 * STAGE);
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    scratch += warp * P::scratch(16, 16);
    const AttentionHead<T> head(q, k, v, blocked, s, D);
    const int first = blockIdx.x * ROWS, mine = first + warp * 16;
    const bool busy = mine < s.nk;

    auto fetch = [&](int tile, T* stage) {
        float* numbers = reinterpret_cast<float*>(stage + 2 * TILE * LD);
        const int row = tile * TILE, rows = s.nq - row;
        copy_rows<T, TILE, D, ATTENTION_THREADS>(stage, head.q + size_t(row) * s.q_token,
                                                 s.q_token, rows);
        copy_rows<T, TILE, D, ATTENTION_THREADS>(
            stage + TILE * LD, dout + head.out + size_t(row) * head.out_token, head.out_token,
            rows);
        // Absent queries have a zero row of dout, delta and lse: they add nothing.
        for (int i = threadIdx.x; i < 2 * TILE; i += ATTENTION_THREADS) {
            const bool valid = i % TILE < rows;
            const float* from = (i < TILE ? lse : delta) + head.rows + row;
            copy_4(numbers + i, from + (valid ? i % TILE : 0), valid);
        }
        copies_commit();
    };
    copy_rows<T, ROWS, D, ATTENTION_THREADS>(k_rows, head.k + size_t(first) * s.k_token, s.k_token,
                                             s.nk - first);
    copy_rows<T, ROWS, D, ATTENTION_THREADS>(v_rows, head.v + size_t(first) * s.k_token, s.k_token,
                                             s.nk - first);
    const int tiles = (s.nq + TILE - 1) / TILE;
    if (tiles > 0) fetch(0, stages);
    copies_wait();
    __syncthreads();
    typename P::template Left<1, D> k_left, v_left;
    P::load(k_left, k_rows + warp * 16 * LD, LD);
    P::load(v_left, v_rows + warp * 16 * LD, LD);

    const float scale = s.scale * LOG2_E;
    float dk_sums[1][D / 8][4] = {}, dv_sums[1][D / 8][4] = {};
    int now = 0;  // first element of the current stage
    for (int tile = 0; tile < tiles; tile++) {
        if (tile + 1 < tiles) fetch(tile + 1, stages + STAGE - now);
        if (busy) {
            const T* queries = stages + now;
            const T* grads = queries + TILE * LD;
            const float* number = reinterpret_cast<const float*>(grads + TILE * LD) + 2 * t;
#pragma unroll P::UNROLL
            for (int c = 0; c < TILE; c += 16) {
                float p[1][2][4] = {}, dp[1][2][4] = {};
                P::nt(p, k_left, queries + c * LD, LD);
                P::nt(dp, v_left, grads + c * LD, LD);
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    float& score = p[0][i / 4][i % 4];
                    const int col = c + i / 4 * 8 + i % 2;
                    const float base = number[col] * LOG2_E, mean = number[TILE + col];
                    score = exp2_fast(fmaf(score, scale, -base));
                    if (BLOCKED) {
                        const int query = tile * TILE + col + 2 * t, key = mine + i % 4 / 2 * 8 + g;
                        const bool exists = query < s.nq && key < s.nk;
                        if (exists && head.blocked[size_t(query) * s.nk + key] != 0) score = 0.0f;
                    }
                    dp[0][i / 4][i % 4] = score * (dp[0][i / 4][i % 4] - mean);
                }
                typename P::template Left<1, 16> left;
                P::left(left, p, scratch);
                P::nn(dv_sums, left, grads + c * LD, LD);
                P::left(left, dp, scratch);
                P::nn(dk_sums, left, queries + c * LD, LD);
            }
        }
        now = STAGE - now;
        copies_wait();
        __syncthreads();
    }
    if (!busy) return;
    if (dv == nullptr) dv = dk;  // one buffer for all gradients, told apart by their starts
    const size_t to = blockIdx.z * s.k_image + blockIdx.y * D + 2 * t;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int row = mine + 8 * i + g;
        if (row >= s.nk) continue;
        const size_t at = to + size_t(row) * s.k_token;
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            store2(dk + s.k_start + at + 8 * n, dk_sums[0][n][2 * i] * s.scale,
                   dk_sums[0][n][2 * i + 1] * s.scale);
            store2(dv + s.v_start + at + 8 * n, dv_sums[0][n][2 * i], dv_sums[0][n][2 * i + 1]);
        }
    }
}
