// AVX-512 as for avx512bf16, and AMX (TILE, INT8, BF16) for products of several rows with bytes.
//
// Products with bf16 stay as they are: TDPBF16PS keeps the sums of even and of odd inputs apart
// through a whole tile and adds them at its end, where vdpbf16ps has one chain of pairs. Its bits
// would be those of neither family. Nibbles stay too until they are unpacked: for fewer rows than
// that is worth, memory is the bound.
#define OCTAVO_KERNEL_TABLE kVectorKernels
#include "kernels/avx512.inl"

namespace octavo {
namespace {

#include "kernels/panels_tiles.inl"
// After what it needs.
#include "kernels/tiles_amx.inl"

constexpr KernelTable with_tiles(KernelTable table) {
  table.panels_w8 = multiply_several<W8, HardwareTiles>;
  table.panels_w4_unpacked = multiply_several<UnpackedW4, HardwareTiles>;
  table.roof_int8 = roof_tiles<HardwareTiles>;
  return table;
}

}  // namespace

constexpr KernelTable kAmxKernels = with_tiles(kVectorKernels);

}  // namespace octavo
