// AVX2 and FMA.
#define OCTAVO_KERNEL_TABLE kAvx2Kernels
#include "kernels/avx2.inl"
