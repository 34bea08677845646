// AVX-512 F, BW, DQ, VL and VNNI.
#define OCTAVO_KERNEL_TABLE kAvx512VnniKernels
#include "kernels/avx512.inl"
