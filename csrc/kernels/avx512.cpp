// AVX-512 F, BW, DQ and VL.
#define OCTAVO_KERNEL_TABLE kAvx512Kernels
#include "kernels/avx512.inl"
