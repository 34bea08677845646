// AVX-512 F, BW, DQ, VL, VNNI and BF16.
#define OCTAVO_KERNEL_TABLE kAvx512Bf16Kernels
#include "kernels/avx512.inl"
