// Attention for both forms of tile products (cuda/warp_tile.cuh): code shared by forward.cuh and
// backward.cuh.
//
// A block of four warps owns 64 MT query rows (forward, dq) or 64 key rows (dk, dv) of one head, 16
// MT rows per warp, and loops over the other side tile by tile. cp.async loads the next tile while
// the current one is multiplied: two stages, one barrier per tile. Grid: (tiles of rows, heads,
// images), so that blocks which share keys and values run at the same time and find them in the L2
// cache. With SPLIT, several blocks share a tile of rows, each with a part of the keys;
// attention_join and attention_join_dq add their sums in order.
//
// `blocked` is null or has a flag for each query and key. With RELATIVE, `rel` is null or has h + w
// biases per query, [b, heads, nq, h + w], for the rows y and columns x of the grid of keys. They
// are added to the scores of the keys.
//
// Exponentials are computed as powers of two: scale log2(e) is folded into one FMA per score.
#pragma once
#include "warp_tile.cuh"

#define ATTENTION_THREADS 128

// Sizes of a call; mirrors `Sizes` in gpu.rs. Offsets are in elements.
struct AttentionSizes {
    int b, heads, nq, nk, d;
    float scale;  // of the scores, 1 / sqrt(d)
    int q_start, k_start, v_start;
    int q_token, k_token;  // from token to token; heads are d apart
    // Blocks that share the keys of a tile of rows, and tiles of keys per block.
    int parts, part_tiles;
    // Grid of the keys, and the width of its rows rounded up to chunks of 16. Without relative
    // positions it has one row.
    int grid_h, grid_w, grid_pitch;
    long long q_image, k_image;
};

// Operands of this block's head.
template <class T> struct AttentionHead {
    const T *q, *k, *v;
    const uint8_t* blocked;  // null if there is no mask
    const T* rel;            // null if there are no relative positions
    size_t out;   // first element of the head in [b, nq, heads, d]
    size_t rows;  // first element of the head in [b, heads, nq]
    int out_token;

    __device__ __forceinline__ AttentionHead(const T* q_, const T* k_, const T* v_,
                                             const uint8_t* blocked_, const T* rel_,
                                             const AttentionSizes& s, int d) {
        const size_t image = blockIdx.z, head = blockIdx.y;
        q = q_ + s.q_start + image * s.q_image + head * d;
        k = k_ + s.k_start + image * s.k_image + head * d;
        v = v_ + s.v_start + image * s.k_image + head * d;
        blocked = blocked_ == nullptr ? nullptr : blocked_ + image * s.nq * s.nk;
        rel = rel_;
        out_token = s.heads * d;
        out = image * s.nq * out_token + head * d;
        rows = (image * s.heads + head) * s.nq;
    }
};

// Flags of `ROWS` rows by `COLS` columns, as bits, for the accumulators of a lane. A warp reads 32
// flags of a row at once and combines them into a word by ballot; a lane keeps the words of its own
// rows. Only `rows` and `cols` exist; everything beyond is blocked.
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

// Sets the scores of flagged columns to -inf. `first` is the column of the first accumulator.
template <int MT, int NT, int WORDS>
__device__ __forceinline__ void block(float (&s)[MT][NT][4], const uint32_t (&bits)[MT][2][WORDS],
                                      int first) {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int col = first + 8 * n + 2 * t + i % 2;
                // Selects between two registers; an index would move both to local memory.
                const uint32_t word = col < 32 ? bits[m][i / 2][0] : bits[m][i / 2][WORDS - 1];
                if (word >> col % 32 & 1) s[m][n][i] = -INFINITY;
            }
}

// The same for 16 columns directly from the flags: it needs fewer registers. Only `rows` and `cols`
// exist; everything beyond is blocked.
template <int MT>
__device__ __forceinline__ void block(float (&s)[MT][2][4], const uint8_t* flags, size_t pitch,
                                      int rows, int cols) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int row = 16 * m + i / 2 * 8 + g, col = 8 * n + 2 * t + i % 2;
                if (row >= rows || col >= cols || flags[row * pitch + col] != 0)
                    s[m][n][i] = -INFINITY;
            }
}

// Sets the columns from `cols` on, which do not exist, to -inf in the 16 columns of s[..][at] and
// s[..][at + 1].
template <int MT, int NT>
__device__ __forceinline__ void cut(float (&s)[MT][NT][4], int at, int cols) {
    if (cols >= 16) return;
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (8 * n + 2 * t + i % 2 >= cols) s[m][at + n][i] = -INFINITY;
}

// 16 keys of one row of the grid, from column x on. Each row is split into whole chunks, so that a
// chunk has one row and neighbouring columns; keys beyond the end of a row do not exist.
struct Chunk {
    int y, x;

    __device__ __forceinline__ Chunk(int index, const AttentionSizes& s) {
        const int per_row = s.grid_pitch / 16;
        y = index / per_row;
        x = (index - y * per_row) * 16;
    }
    __device__ __forceinline__ void next(const AttentionSizes& s) {
        x += 16;
        if (x >= s.grid_pitch) x = 0, y++;
    }
    // Number of keys from column x on.
    __device__ __forceinline__ int keys(const AttentionSizes& s) const {
        return y < s.grid_h ? s.grid_w - x : 0;
    }
};

// Copies ROWS / 16 chunks of keys and values, as copy_rows does for consecutive rows.
template <class T, int ROWS, int COLS>
__device__ __forceinline__ void copy_chunks(T* keys, T* values, const T* k, const T* v, int tile,
                                            const AttentionSizes& s) {
    constexpr int UNIT = 16 / sizeof(T), UNITS = COLS / UNIT;
    const Chunk first(tile * (ROWS / 16), s);
#pragma unroll 1
    for (int i = threadIdx.x; i < ROWS * UNITS; i += ATTENTION_THREADS) {
        const int row = i / UNITS, col = i % UNITS * UNIT;
        Chunk chunk = first;
#pragma unroll
        for (int c = 1; c < ROWS / 16; c++)
            if (row >= 16 * c) chunk.next(s);
        const bool valid = row % 16 < chunk.keys(s);
        const size_t key = valid ? chunk.y * s.grid_w + chunk.x + row % 16 : 0;
        copy_16(keys + row * (COLS + UNIT) + col, k + key * s.k_token + col, valid);
        copy_16(values + row * (COLS + UNIT) + col, v + key * s.k_token + col, valid);
    }
}

// Biases `rel` of a block's rows in shared memory: those of the columns, zero-padded to whole
// chunks, then those of the rows. The pitch is an odd multiple of 8 elements, so that the pairs
// that a warp reads together hit every bank once.
template <class T> struct RelativeRows {
    T* rows;
    int pitch;

    static __device__ __forceinline__ int odd_eights(int n) { return ((n + 7) / 8 | 1) * 8; }

    // Loads rows first .. first + count - 1; those from nq on are zeros. A barrier must follow.
    __device__ __forceinline__ void fetch(T* to, const T* rel, size_t first_row, int first,
                                          int count, const AttentionSizes& s) {
        rows = to;
        pitch = odd_eights(s.grid_pitch + s.grid_h);
        if (rel == nullptr) return;
        const int n = s.grid_h + s.grid_w, lane = threadIdx.x % 32;
        for (int r = threadIdx.x / 32; r < count; r += ATTENTION_THREADS / 32) {
            const T* from = rel + (first_row + first + r) * n;
            const bool valid = first + r < s.nq;
            for (int c = lane; c < s.grid_pitch + s.grid_h; c += 32) {
                const int at = c < s.grid_pitch ? s.grid_h + c : c - s.grid_pitch;
                const bool some = valid && (c < s.grid_w || c >= s.grid_pitch);
                to[r * pitch + c] = from_f32<T>(some ? to_f32(from[at]) : 0.0f);
            }
        }
    }

    // Adds `factor` times the biases of a chunk to its scores, s[..][at] and s[..][at + 1].
    template <int MT, int NT>
    __device__ __forceinline__ void add(float (&p)[MT][NT][4], int at, int warp_row,
                                        const Chunk& chunk, float factor,
                                        const AttentionSizes& s) const {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        const int y = s.grid_pitch + min(chunk.y, s.grid_h - 1);
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const T* row = rows + (warp_row + 16 * m + 8 * i + g) * pitch;
                const float h = to_f32(row[y]);
#pragma unroll
                for (int n = 0; n < 2; n++) {
                    const float2 w = load2(row + chunk.x + 8 * n + 2 * t);
                    p[m][at + n][2 * i] = fmaf(h + w.x, factor, p[m][at + n][2 * i]);
                    p[m][at + n][2 * i + 1] = fmaf(h + w.y, factor, p[m][at + n][2 * i + 1]);
                }
            }
    }
};

