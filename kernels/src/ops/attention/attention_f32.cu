// Kernels of attention.cuh in f32, on the FMA units.
// Shared memory as requested by gpu.rs; at d = 80 for a grid of 64 by 64, the largest of SAM:
// dynamic-shared attention_forward_32_f32 36864
// dynamic-shared attention_dq_32_f32 41984
// dynamic-shared attention_dkv_32_f32 42496
// dynamic-shared attention_forward_64_f32 61440
// dynamic-shared attention_dq_64_f32 74752
// dynamic-shared attention_dkv_64_f32 75264
// dynamic-shared attention_forward_80_f32 108544
// dynamic-shared attention_dq_80_f32 144384
// dynamic-shared attention_dkv_80_f32 91648
#include "entries.cuh"

ENTRIES(float, F32, f32, 32, 1, 32, 1, 32, false, true)
ENTRIES(float, F32, f32, 64, 1, 32, 1, 32, false, false)
ENTRIES(float, F32, f32, 80, 1, 32, 1, 32, true, false)
ROWS(float, f32)
