// AVX2, FMA and AVX-VNNI.
#define OCTAVO_KERNEL_TABLE kAvxVnniKernels
#include "kernels/avx2.inl"
