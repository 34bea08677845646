// Kernels without vector instructions: any processor, and the plainest reading of the others.
// fmaf rounds once everywhere: the C library emulates it where the processor has no FMA.
#include <stdint.h>

#include "kernels/table.h"

namespace octavo {
namespace {

struct Floats {
  using Vector = float;
  using Ints = uint32_t;  // unsigned: wraps around like vector registers do
  using Mask = bool;
  static constexpr int kLanes = 1;

  static Vector set(float value) { return value; }
  static Vector load(const float* p) { return *p; }
  static Vector load_first(const float* p, int64_t) { return *p; }
  static void store(float* p, Vector v) { *p = v; }
  static void store_first(float* p, Vector v, int64_t) { *p = v; }

  static Vector fma(Vector a, Vector b, Vector c) { return __builtin_fmaf(a, b, c); }
  static Vector add(Vector a, Vector b) { return a + b; }
  static Vector subtract(Vector a, Vector b) { return a - b; }
  static Vector multiply(Vector a, Vector b) { return a * b; }
  static Vector divide(Vector a, Vector b) { return a / b; }

  static Mask less(Vector a, Vector b) { return a < b; }
  static Mask equal(Vector a, Vector b) { return a == b; }
  static Vector select(Mask mask, Vector yes, Vector no) { return mask ? yes : no; }

  static Ints set_ints(uint32_t value) { return value; }
  static Ints bits(Vector v) { return __builtin_bit_cast(uint32_t, v); }
  static Vector from_bits(Ints v) { return __builtin_bit_cast(float, v); }
  static Vector to_floats(Ints v) { return static_cast<float>(static_cast<int32_t>(v)); }
  static Ints add(Ints a, Ints b) { return a + b; }
  static Ints subtract(Ints a, Ints b) { return a - b; }
  static Ints bit_and(Ints a, Ints b) { return a & b; }
  static Ints bit_or(Ints a, Ints b) { return a | b; }
  template <int kBits>
  static Ints shift_left(Ints v) {
    return v << kBits;
  }
  template <int kBits>
  static Ints shift_right_signed(Ints v) {
    return static_cast<uint32_t>(static_cast<int32_t>(v) >> kBits);
  }
};

// (rows, vectors of columns) held in registers at once.
constexpr int kRegisterRows = 4;
constexpr int kTileVectors = 4;
constexpr int kVectorsForOneRow = 8;
// The few rows that read b as it lies, in wide strips, rather than pack it first.
constexpr int kUnpackedRows = 2;
constexpr int kUnpackedVectors = 4;

#include "kernels/elementwise.inl"
#include "kernels/product.inl"
#include "kernels/row_sums.inl"
// After those that they use.
#include "kernels/attention_f32.inl"
#include "kernels/panels_f32.inl"
#include "kernels/rows.inl"

}  // namespace

const KernelTable kScalarKernels = {product,
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
                                    merge_chunk};

}  // namespace octavo
