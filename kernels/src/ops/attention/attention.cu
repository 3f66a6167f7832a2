// Kernels of attention.cuh in bf16, on tensor cores.
// Shared memory as requested by gpu.rs; at d = 80 for a grid of 64 by 64, the largest of SAM:
// dynamic-shared attention_forward_32_bf16 25600
// dynamic-shared attention_dq_32_bf16 30720
// dynamic-shared attention_dkv_32_bf16 31744
// dynamic-shared attention_forward_64_bf16 55296
// dynamic-shared attention_dq_64_bf16 73728
// dynamic-shared attention_dkv_64_bf16 56320
// dynamic-shared attention_forward_80_bf16 79872
// dynamic-shared attention_dq_80_bf16 103424
// dynamic-shared attention_dkv_80_bf16 68608
#include "entries.cuh"

// Arguments: d; rows per warp in units of 16 and keys per tile; the same for dq; whether there are
// relative positions and split keys. Tiles are smaller at d = 80, since accumulators of 32 rows and
// 64 keys would not fit into 255 registers. They are smaller at d = 32, where a call has 100
// queries, to make more blocks.
ENTRIES(bf16, Bf16, bf16, 32, 1, 64, 1, 64, false, true)
ENTRIES(bf16, Bf16, bf16, 64, 2, 64, 2, 64, false, false)
ENTRIES(bf16, Bf16, bf16, 80, 2, 32, 1, 64, true, false)
ROWS(bf16, bf16)
