// Forward pass of attention (attention.cuh).
#pragma once
#include "attention.cuh"

// One step of the online softmax. `s` holds scores and becomes weights; `top` is the largest scaled
// score so far, `total` this lane's part of the sum of the weights. Previous sums are rescaled to
// the new maximum, which a row without open keys does not have yet.
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

// out = softmax(q k^T scale) v and lse; TILE keys at a time. With SPLIT and more than one part,
// `partial` receives the sums, the largest score and the sum of weights for attention_join.
template <class P, int D, int MT, int TILE, bool RELATIVE, bool SPLIT>
__device__ __forceinline__ void attention_forward(const typename P::T* q, const typename P::T* k,
                                                  const typename P::T* v, const uint8_t* blocked,
                                                  const typename P::T* rel, typename P::T* out,
                                                  float* lse, float* partial,
                                                  const AttentionSizes& s) {
    typedef typename P::T T;
    constexpr int LD = D + P::PAD, ROWS = 64 * MT;
    extern __shared__ __align__(16) unsigned char memory[];
    T* q_rows = reinterpret_cast<T*>(memory);
    T* stages = q_rows + ROWS * LD;
    float* scratch = reinterpret_cast<float*>(stages + 4 * TILE * LD);
    T* rel_rows = reinterpret_cast<T*>(scratch + 4 * P::scratch(16 * MT, TILE));
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    scratch += warp * P::scratch(16 * MT, TILE);
    const AttentionHead<T> head(q, k, v, blocked, rel, s, D);
    const int part = SPLIT ? blockIdx.x % s.parts : 0;
    const int first = (SPLIT ? blockIdx.x / s.parts : blockIdx.x) * ROWS;
    const int mine = first + warp * 16 * MT;
    const bool busy = mine < s.nq;  // the last block may have warps without a row

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
    RelativeRows<T> bias;
    if (RELATIVE) bias.fetch(rel_rows, head.rel, head.rows, first, ROWS, s);
    int tile = 0, tiles = ((RELATIVE ? s.grid_h * s.grid_pitch : s.nk) + TILE - 1) / TILE;
    if (SPLIT) {
        tile = part * s.part_tiles;
        tiles = min(tiles, tile + s.part_tiles);
    }
    if (tile < tiles) fetch(tile);
    copies_wait();
    __syncthreads();
    typename P::template Left<MT, D> q_left;
    P::load(q_left, q_rows + warp * 16 * MT * LD, LD);

    const float scale = s.scale * LOG2_E;
    float sums[MT][D / 8][4] = {}, top[MT][2], total[MT][2] = {};
    for (int m = 0; m < MT; m++) top[m][0] = top[m][1] = -INFINITY;
    for (; tile < tiles; tile++) {
        if (tile + 1 < tiles) fetch(tile + 1);
        if (busy) {
            const T* keys = stages + tile % 2 * 2 * TILE * LD;
            const int cols = s.nk - tile * TILE;
            float p[MT][TILE / 8][4] = {};
            P::nt(p, q_left, keys, LD);
            if (RELATIVE && head.rel != nullptr) {
                Chunk chunk(tile * (TILE / 16), s);
#pragma unroll
                for (int c = 0; c < TILE / 16; c++) {
                    bias.add(p, 2 * c, warp * 16 * MT, chunk, 1.0f / s.scale, s);
                    cut(p, 2 * c, chunk.keys(s));
                    chunk.next(s);
                }
            } else if (head.blocked != nullptr) {
                uint32_t bits[MT][2][TILE / 32];
                const size_t at = size_t(mine) * s.nk + tile * TILE;
                load_flags(bits, head.blocked + at, s.nk, s.nq - mine, cols);
                block(p, bits, 0);
            } else if (cols < TILE) {
#pragma unroll
                for (int c = 0; c < TILE / 16; c++) cut(p, 2 * c, cols - 16 * c);
            }
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
            if (SPLIT && s.parts > 1) {
                const size_t rows = size_t(s.b) * s.heads * s.nq;
                const size_t at = part * rows + head.rows + row;
                if (t == 0) store2(partial + s.parts * rows * D + 2 * at, top[m][i], sum);
#pragma unroll
                for (int n = 0; n < D / 8; n++)
                    store2(partial + at * D + 8 * n + 2 * t, sums[m][n][2 * i],
                           sums[m][n][2 * i + 1]);
                continue;
            }
            // A row with all keys blocked has no weights: zeros, and an lse of +inf.
            const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
            if (t == 0)
                lse[head.rows + row] = sum > 0.0f ? fmaf(top[m][i], LN_2, logf(sum)) : INFINITY;
            T* to = out + head.out + size_t(row) * head.out_token + 2 * t;
#pragma unroll
            for (int n = 0; n < D / 8; n++)
                store2(to + 8 * n, sums[m][n][2 * i] * inverse, sums[m][n][2 * i + 1] * inverse);
        }
}

// out and lse from the parts of split keys, added in order. One warp per row of a head.
template <class T>
__device__ __forceinline__ void attention_join(const float* partial, T* out, float* lse,
                                               const AttentionSizes& s) {
    const size_t rows = size_t(s.b) * s.heads * s.nq;
    const size_t row = size_t(blockIdx.x) * (ATTENTION_THREADS / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    const float* stats = partial + s.parts * rows * s.d;
    float top = -INFINITY, total = 0.0f;
    for (int p = 0; p < s.parts; p++) top = fmaxf(top, stats[(p * rows + row) * 2]);
    const float base = top == -INFINITY ? 0.0f : top;
    for (int p = 0; p < s.parts; p++) {
        const float2 part = load2(stats + (p * rows + row) * 2);
        total = fmaf(part.y, exp2_fast(part.x - base), total);
    }
    const float inverse = total > 0.0f ? 1.0f / total : 0.0f;
    const int lane = threadIdx.x % 32;
    if (lane == 0) lse[row] = total > 0.0f ? fmaf(top, LN_2, logf(total)) : INFINITY;
    const size_t head = row / s.nq, token = head / s.heads * s.nq + row % s.nq;
    out += (token * s.heads + head % s.heads) * s.d;
    for (int c = lane; c < s.d; c += 32) {
        float sum = 0.0f;
        for (int p = 0; p < s.parts; p++) {
            const size_t at = p * rows + row;
            sum = fmaf(partial[at * s.d + c], exp2_fast(stats[2 * at] - base), sum);
        }
        out[c] = from_f32<T>(sum * inverse);
    }
}
