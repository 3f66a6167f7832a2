// Backward pass of attention (attention.cuh).
#pragma once
#include "attention.cuh"

// delta = sum over the channels of dout * out. It is subtracted from every dp, because sum_j p dp =
// dout . sum_j p v. One warp per row of a head.
template <class T>
__device__ __forceinline__ void attention_delta(const T* out, const T* dout, float* delta,
                                                const AttentionSizes& s) {
    const int warps = ATTENTION_THREADS / 32, lane = threadIdx.x % 32;
    const size_t row = size_t(blockIdx.x) * warps + threadIdx.x / 32;  // of [b, nq, heads]
    if (row >= size_t(s.b) * s.nq * s.heads) return;
    float sum = 0.0f;
#pragma unroll 1
    for (int c = 2 * lane; c < s.d; c += 64) {
        const float2 x = load2(out + row * s.d + c), y = load2(dout + row * s.d + c);
        sum = fmaf(x.y, y.y, fmaf(x.x, y.x, sum));
    }
    sum = warp_sum(sum);
    const size_t token = row / s.heads, head = row % s.heads;
    if (lane == 0) delta[(token / s.nq * s.heads + head) * s.nq + token % s.nq] = sum;
}

// Sums a chunk's gradients of scores to those of `rel`: over the rows of the grid into `columns` in
// shared memory, where each element belongs to one lane, and over its columns into `row`.
template <int MT>
__device__ __forceinline__ void add_relative(const float (&ds)[MT][2][4], float* columns,
                                             int pitch, float (&row)[MT][2]) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int n = 0; n < 2; n++) {
                float* at = columns + (16 * m + 8 * i + g) * pitch + 8 * n + 2 * t;
                const float2 sum = load2(at);
                store2(at, sum.x + ds[m][n][2 * i], sum.y + ds[m][n][2 * i + 1]);
                row[m][i] += ds[m][n][2 * i] + ds[m][n][2 * i + 1];
            }
}

// Stores the finished sums of row y of the grid and resets them for the next row.
template <class T, int MT>
__device__ __forceinline__ void store_row(T* drel, float (&row)[MT][2], int first, int y,
                                          size_t first_row, const AttentionSizes& s) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float sum = row[m][i];
            sum += __shfl_xor_sync(ALL_LANES, sum, 1);
            sum += __shfl_xor_sync(ALL_LANES, sum, 2);
            row[m][i] = 0.0f;
            const int query = first + 16 * m + 8 * i + g;
            if (t == 0 && query < s.nq)
                drel[(first_row + query) * (s.grid_h + s.grid_w) + y] = from_f32<T>(sum);
        }
}

// dq = ds k scale with ds = p (dp - delta). The weights come from lse, so no pass over the whole
// row is needed and keys are handled 16 at a time: the scores are never more than 16 MT by 16. With
// RELATIVE and `rel`, sums of ds are written to `drel`.
template <class P, int D, int MT, int TILE, bool RELATIVE, bool SPLIT>
__device__ __forceinline__ void attention_dq(const typename P::T* q, const typename P::T* k,
                                             const typename P::T* v, const uint8_t* blocked,
                                             const typename P::T* rel, const float* lse,
                                             const float* delta, const typename P::T* dout,
                                             typename P::T* dq, typename P::T* drel,
                                             float* partial, const AttentionSizes& s) {
    typedef typename P::T T;
    constexpr int LD = D + P::PAD, ROWS = 64 * MT;
    constexpr int UNROLL = MT == 2 ? 1 : P::UNROLL;  // limited by registers
    extern __shared__ __align__(16) unsigned char memory[];
    T* q_rows = reinterpret_cast<T*>(memory);
    T* g_rows = q_rows + ROWS * LD;
    T* stages = g_rows + ROWS * LD;
    float* scratch = reinterpret_cast<float*>(stages + 4 * TILE * LD);
    T* rel_rows = reinterpret_cast<T*>(scratch + 4 * P::scratch(16 * MT, 16));
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    scratch += warp * P::scratch(16 * MT, 16);
    const AttentionHead<T> head(q, k, v, blocked, rel, s, D);
    const int part = SPLIT ? blockIdx.x % s.parts : 0;
    const int first = (SPLIT ? blockIdx.x / s.parts : blockIdx.x) * ROWS;
    const int mine = first + warp * 16 * MT;
    const bool busy = mine < s.nq;

    auto fetch = [&](int tile) {
        T* stage = stages + tile % 2 * 2 * TILE * LD;
        if (RELATIVE) {
            copy_chunks<T, TILE, D>(stage, stage + TILE * LD, head.k, head.v, tile, s);
        } else {
            const size_t at = size_t(tile) * TILE * s.k_token;
            const int rows = s.nk - tile * TILE;
            copy_rows<T, TILE, D, ATTENTION_THREADS>(stage, head.k + at, s.k_token, rows);
            copy_rows<T, TILE, D, ATTENTION_THREADS>(stage + TILE * LD, head.v + at, s.k_token,
                                                     rows);
        }
        copies_commit();
    };
    copy_rows<T, ROWS, D, ATTENTION_THREADS>(q_rows, head.q + size_t(first) * s.q_token, s.q_token,
                                             s.nq - first);
    copy_rows<T, ROWS, D, ATTENTION_THREADS>(
        g_rows, dout + head.out + size_t(first) * head.out_token, head.out_token, s.nq - first);
    RelativeRows<T> bias;
    float *columns = nullptr, of_row[MT][2] = {};
    int columns_pitch = 0;
    if (RELATIVE && head.rel != nullptr) {
        bias.fetch(rel_rows, head.rel, head.rows, first, ROWS, s);
        columns = reinterpret_cast<float*>(rel_rows + ROWS * bias.pitch);
        columns_pitch = RelativeRows<T>::odd_eights(s.grid_pitch);
        for (int i = threadIdx.x; i < ROWS * columns_pitch; i += ATTENTION_THREADS)
            columns[i] = 0.0f;
        columns += warp * 16 * MT * columns_pitch;
    }
    int tile = 0, tiles = ((RELATIVE ? s.grid_h * s.grid_pitch : s.nk) + TILE - 1) / TILE;
    if (SPLIT) {
        tile = part * s.part_tiles;
        tiles = min(tiles, tile + s.part_tiles);
    }
    if (tile < tiles) fetch(tile);
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
            // A row without keys has an lse of +inf, which makes every weight 0.
            base[m][i] = valid ? lse[head.rows + row] * LOG2_E : INFINITY;
            mean[m][i] = valid ? delta[head.rows + row] : 0.0f;
        }
    for (; tile < tiles; tile++) {
        if (tile + 1 < tiles) fetch(tile + 1);
        if (busy) {
            const T* keys = stages + tile % 2 * 2 * TILE * LD;
            const T* values = keys + TILE * LD;
            const int cols = s.nk - tile * TILE;
            Chunk chunk(RELATIVE ? tile * (TILE / 16) : 0, s);
#pragma unroll UNROLL
            for (int c = 0; c < TILE; c += 16) {
                float p[MT][2][4] = {}, dp[MT][2][4] = {};
                P::nt(p, q_left, keys + c * LD, LD);
                P::nt(dp, g_left, values + c * LD, LD);
                if (RELATIVE && head.rel != nullptr) {
                    bias.add(p, 0, warp * 16 * MT, chunk, 1.0f / s.scale, s);
                    cut(p, 0, chunk.keys(s));
                } else if (head.blocked != nullptr) {
                    const size_t at = size_t(mine) * s.nk + tile * TILE + c;
                    block(p, head.blocked + at, s.nk, s.nq - mine, cols - c);
                } else {
                    cut(p, 0, cols - c);
                }
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
                if (RELATIVE && head.rel != nullptr) {
                    add_relative(p, columns + chunk.x, columns_pitch, of_row);
                    const int y = chunk.y;
                    chunk.next(s);
                    if (chunk.y != y && y < s.grid_h)
                        store_row(drel, of_row, mine, y, head.rows, s);
                }
            }
        }
        copies_wait();
        __syncthreads();
    }
    if (!busy) return;
    if (RELATIVE && head.rel != nullptr) {
        __syncwarp();
        for (int r = 0; r < 16 * MT && mine + r < s.nq; r++) {
            T* to = drel + (head.rows + mine + r) * (s.grid_h + s.grid_w) + s.grid_h;
            for (int x = threadIdx.x % 32; x < s.grid_w; x += 32)
                to[x] = from_f32<T>(columns[r * columns_pitch + x]);
        }
    }
    dq += s.q_start + blockIdx.z * s.q_image + blockIdx.y * D + 2 * t;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int row = mine + 16 * m + 8 * i + g;
            if (row >= s.nq) continue;
            if (SPLIT && s.parts > 1) {
                const size_t rows = size_t(s.b) * s.heads * s.nq;
                const size_t at = part * rows + head.rows + row;
#pragma unroll
                for (int n = 0; n < D / 8; n++)
                    store2(partial + at * D + 8 * n + 2 * t, sums[m][n][2 * i],
                           sums[m][n][2 * i + 1]);
                continue;
            }
#pragma unroll
            for (int n = 0; n < D / 8; n++)
                store2(dq + size_t(row) * s.q_token + 8 * n, sums[m][n][2 * i] * s.scale,
                       sums[m][n][2 * i + 1] * s.scale);
        }
}

// dq from the parts of split keys, added in order. One warp per row of a head.
template <class T>
__device__ __forceinline__ void attention_join_dq(const float* partial, T* dq,
                                                  const AttentionSizes& s) {
    const size_t rows = size_t(s.b) * s.heads * s.nq;
    const size_t row = size_t(blockIdx.x) * (ATTENTION_THREADS / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    const size_t head = row / s.nq;
    dq += s.q_start + head / s.heads * s.q_image + row % s.nq * s.q_token + head % s.heads * s.d;
    for (int c = threadIdx.x % 32; c < s.d; c += 32) {
        float sum = 0.0f;
        for (int p = 0; p < s.parts; p++) sum += partial[(p * rows + row) * s.d + c];
        dq[c] = from_f32<T>(sum * s.scale);
    }
}

// dv = p^T dout and dk = ds^T q scale. A warp owns 16 keys and computes the transposed scores k
// q^T, whose accumulators are already the left operand of both products, so nothing is transposed
// through memory. The sums run over the queries in order: no atomics, deterministic.
template <class P, int D, int TILE, bool RELATIVE>
__device__ __forceinline__ void attention_dkv(const typename P::T* q, const typename P::T* k,
                                              const typename P::T* v, const uint8_t* blocked,
                                              const typename P::T* rel, const float* lse,
                                              const float* delta, const typename P::T* dout,
                                              typename P::T* dk, typename P::T* dv,
                                              const AttentionSizes& s) {
    typedef typename P::T T;
    // Stage: queries, dout, then lse and delta of TILE queries.
    constexpr int LD = D + P::PAD, ROWS = 64;
    constexpr int STAGE = 2 * TILE * LD + 2 * TILE * sizeof(float) / sizeof(T);
    extern __shared__ __align__(16) unsigned char memory[];
    T* k_rows = reinterpret_cast<T*>(memory);
    T* v_rows = k_rows + ROWS * LD;
    T* stages = v_rows + ROWS * LD;
    float* scratch = reinterpret_cast<float*>(stages + 2 * STAGE);
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    scratch += warp * P::scratch(16, 16);
    const AttentionHead<T> head(q, k, v, blocked, rel, s, D);
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

    // Positions of a lane's two keys on the grid.
    int y[2] = {}, x[2] = {};
    if (RELATIVE)
        for (int i = 0; i < 2; i++) {
            const int key = min(mine + 8 * i + g, s.nk - 1);
            y[i] = key / s.grid_w;
            x[i] = s.grid_h + key - y[i] * s.grid_w;
        }
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
                    const int query = tile * TILE + col + 2 * t, key = mine + i % 4 / 2 * 8 + g;
                    if (RELATIVE && head.rel != nullptr && query < s.nq) {
                        const T* row = head.rel + (head.rows + query) * (s.grid_h + s.grid_w);
                        const float h = to_f32(row[y[i % 4 / 2]]), w = to_f32(row[x[i % 4 / 2]]);
                        score = fmaf(h + w, 1.0f / s.scale, score);
                    }
                    score = exp2_fast(fmaf(score, scale, -base));
                    if (head.blocked != nullptr) {
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
    if (dv == nullptr) dv = dk;  // one buffer for all gradients, at different offsets
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
