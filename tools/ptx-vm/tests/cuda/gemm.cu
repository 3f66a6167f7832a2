// C = A B^T for bf16 A [M, K] and B [N, K], f32 C [M, N]; M, N multiples of 64, K of 32.
// Block of 128 threads (4 warps) makes a 64 x 64 tile, each warp 32 x 32; two stages of cp.async.
#include <stdint.h>

typedef unsigned short bf16;

constexpr int TILE = 64, STEP = 32, PAD = 8, ROW = STEP + PAD;

__device__ void copy16(uint32_t dst, const void* src) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(dst), "l"(src) : "memory");
}

__device__ void ldmatrix4(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}

__device__ void product(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// One 64 x 32 tile: 256 chunks of 16 bytes, two per thread.
__device__ void fetch(bf16* tile, const bf16* src, int k) {
    for (int i = threadIdx.x; i < TILE * STEP / 8; i += 128) {
        int row = i / 4, chunk = i % 4 * 8;
        uint32_t dst = (uint32_t)__cvta_generic_to_shared(tile + row * ROW + chunk);
        copy16(dst, src + (size_t)row * k + chunk);
    }
}

extern "C" __global__ void __launch_bounds__(128)
gemm(const bf16* a, const bf16* b, float* c, int n, int k) {
    __shared__ __align__(16) bf16 sa[2][TILE * ROW];
    __shared__ __align__(16) bf16 sb[2][TILE * ROW];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int wm = warp / 2 * 32, wn = warp % 2 * 32;
    a += (size_t)blockIdx.y * TILE * k;
    b += (size_t)blockIdx.x * TILE * k;
    float acc[2][4][4] = {};
    fetch(sa[0], a, k);
    fetch(sb[0], b, k);
    asm volatile("cp.async.commit_group;" ::: "memory");
    for (int at = 0; at < k; at += STEP) {
        const int now = at / STEP % 2;
        if (at + STEP < k) {
            fetch(sa[now ^ 1], a + at + STEP, k);
            fetch(sb[now ^ 1], b + at + STEP, k);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
#if defined(FAULT_WAIT)
        asm volatile("cp.async.wait_group 2;" ::: "memory");
#else
        asm volatile("cp.async.wait_group 1;" ::: "memory");
#endif
#if !defined(FAULT_BARRIER)
        __syncthreads();
#endif
        for (int kk = 0; kk < STEP; kk += 16) {
            uint32_t fa[2][4], fb[2][4];
            for (int i = 0; i < 2; i++) {
                int row = wm + i * 16 + lane % 16, col = kk + lane / 16 * 8;
                ldmatrix4(fa[i], (uint32_t)__cvta_generic_to_shared(&sa[now][row * ROW + col]));
            }
            for (int j = 0; j < 2; j++) {
                int row = wn + j * 16 + lane % 8 + lane / 16 * 8, col = kk + lane / 8 % 2 * 8;
                ldmatrix4(fb[j], (uint32_t)__cvta_generic_to_shared(&sb[now][row * ROW + col]));
            }
            for (int i = 0; i < 2; i++)
                for (int j = 0; j < 4; j++)
                    product(acc[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
        }
#if !defined(FAULT_WAR)
        __syncthreads();
#endif
    }
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++)
            for (int e = 0; e < 4; e++) {
                int row = blockIdx.y * TILE + wm + i * 16 + lane / 4 + e / 2 * 8;
                int col = blockIdx.x * TILE + wn + j * 8 + lane % 4 * 2 + e % 2;
                c[(size_t)row * n + col] = acc[i][j][e];
            }
}
