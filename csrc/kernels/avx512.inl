// Kernels for AVX-512 (F, BW, DQ, VL), and for VNNI and BF16 where the unit is compiled for them:
// sixteen lanes, thirty-two registers. The unit that includes this names OCTAVO_KERNEL_TABLE.
#include <immintrin.h>
#include <stdint.h>

#include "kernels/table.h"

namespace octavo {
namespace {

struct Floats {
  using Vector = __m512;
  using Ints = __m512i;
  using Mask = __mmask16;
  static constexpr int kLanes = 16;

  static __mmask16 first(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }

  static Vector set(float value) { return _mm512_set1_ps(value); }
  static Vector load(const float* p) { return _mm512_loadu_ps(p); }
  static Vector load_first(const float* p, int64_t count) {
    return _mm512_maskz_loadu_ps(first(count), p);
  }
  static void store(float* p, Vector v) { _mm512_storeu_ps(p, v); }
  static void store_first(float* p, Vector v, int64_t count) {
    _mm512_mask_storeu_ps(p, first(count), v);
  }

  static Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
  static Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
  static Vector subtract(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
  static Vector multiply(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
  static Vector divide(Vector a, Vector b) { return _mm512_div_ps(a, b); }

  static Mask less(Vector a, Vector b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static Mask equal(Vector a, Vector b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
  static Vector select(Mask mask, Vector yes, Vector no) {
    return _mm512_mask_blend_ps(mask, no, yes);
  }

  static Ints set_ints(uint32_t value) { return _mm512_set1_epi32(static_cast<int32_t>(value)); }
  static Ints bits(Vector v) { return _mm512_castps_si512(v); }
  static Vector from_bits(Ints v) { return _mm512_castsi512_ps(v); }
  static Vector to_floats(Ints v) { return _mm512_cvtepi32_ps(v); }
  static Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
  static Ints subtract(Ints a, Ints b) { return _mm512_sub_epi32(a, b); }
  static Ints bit_and(Ints a, Ints b) { return _mm512_and_si512(a, b); }
  static Ints bit_or(Ints a, Ints b) { return _mm512_or_si512(a, b); }
  template <int kBits>
  static Ints shift_left(Ints v) {
    return _mm512_slli_epi32(v, kBits);
  }
  template <int kBits>
  static Ints shift_right_signed(Ints v) {
    return _mm512_srai_epi32(v, kBits);
  }
};

// (rows, vectors of columns) held in registers at once: 12 x 2 accumulators + 2 of b + 1 of a.
constexpr int kRegisterRows = 12;
constexpr int kTileVectors = 2;
constexpr int kVectorsForOneRow = 8;
// The few rows that read b as it lies, in wide strips, rather than pack it first.
constexpr int kUnpackedRows = 4;
constexpr int kUnpackedVectors = 4;

#include "kernels/dots_avx512.inl"
#include "kernels/elementwise.inl"
#include "kernels/product.inl"
#include "kernels/row_sums.inl"
#include "kernels/words_avx512.inl"
// After those that they use.
#include "kernels/attention_f32.inl"
#include "kernels/panels_f32.inl"
#include "kernels/panels_int8.inl"
#include "kernels/prepare.inl"
#include "kernels/rows.inl"
// Likewise.
#include "kernels/attention_avx512.inl"
#include "kernels/pack.inl"
#include "kernels/panels_bf16.inl"
#include "kernels/roofs.inl"
#include "kernels/sampling.inl"

}  // namespace

constexpr KernelTable OCTAVO_KERNEL_TABLE = {product,
                                             row_sums,
                                             row_sums_of_squares,
                                             exp_elements,
                                             log_elements,
                                             tanh_elements,
                                             sigmoid_elements,
                                             norm,
                                             rotate,
                                             add,
                                             scale,
                                             activate,
                                             panels_f32,
                                             write_kv_f32,
                                             attend_f32,
                                             merge_chunk,
                                             prepare_f32,
                                             prepare_bf16,
                                             prepare_int8,
                                             panels_bf16,
                                             panels_w8,
                                             panels_w4,
                                             unpack_w4,
                                             panels_w4_unpacked,
                                             embed_bf16,
                                             embed_w8,
                                             embed_w4,
                                             pack,
                                             roof_read,
                                             roof_int8,
                                             roof_bf16,
                                             roof_f32,
                                             exp_nonpositive_elements,
                                             queries_bf16,
                                             queries_int8,
                                             write_kv_bf16,
                                             write_kv_int8,
                                             attend_bf16,
                                             attend_int8,
                                             sampling_kernels};

}  // namespace octavo
