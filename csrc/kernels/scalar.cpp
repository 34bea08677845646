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

// Exact for finite numbers: the exponent is moved by a multiplication, which normalises denormals.
inline float load_f16(const uint8_t* p) {
  const uint32_t half = p[0] | p[1] << 8;
  const float size = __builtin_bit_cast(float, (half & 0x7FFF) << 13) * 0x1p112f;
  return __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, size) | (half & 0x8000) << 16);
}

// Unsigned weights times signed values, four of one column, into an exact sum.
struct Dots {
  using Sums = int32_t;
  struct Weights {
    uint8_t of[4];
  };
  struct Four {
    int8_t of[4];
  };
  static constexpr int kLanes = 1;

  static Sums start(int32_t correction) { return correction; }
  static Weights load(const uint8_t* p) { return {{p[0], p[1], p[2], p[3]}}; }
  static Four four(const int8_t* p) { return {{p[0], p[1], p[2], p[3]}}; }
  static void add(Sums& sums, const Weights& weights, const Four& four) {
    for (int i = 0; i < 4; ++i) sums += weights.of[i] * four.of[i];
  }
  static Sums join(Sums a, Sums b) { return a + b; }
  static Floats::Ints total(Sums sums) { return static_cast<uint32_t>(sums); }
};

struct NibbleDots : Dots {
  static Weights load_low(const uint8_t* p) {
    const auto low = [](uint8_t byte) { return static_cast<uint8_t>(byte & 0x0F); };
    return {{low(p[0]), low(p[1]), low(p[2]), low(p[3])}};
  }
  static Weights load_high(const uint8_t* p) {
    const auto high = [](uint8_t byte) { return static_cast<uint8_t>(byte >> 4); };
    return {{high(p[0]), high(p[1]), high(p[2]), high(p[3])}};
  }
};

// sum = fma(even, fma(odd, sum)).
struct PairDots {
  struct Weights {
    float even, odd;
  };
  using Two = Weights;

  static Weights split(uint32_t pair) {
    return {__builtin_bit_cast(float, pair << 16), __builtin_bit_cast(float, pair & 0xFFFF0000u)};
  }
  static Weights load(const uint8_t* p) {
    uint32_t pair;
    __builtin_memcpy(&pair, p, 4);
    return split(pair);
  }
  static Two two(const uint32_t* p) { return split(*p); }
  static void add(Floats::Vector& sums, const Weights& weights, const Two& two) {
    sums = Floats::fma(two.odd, weights.odd, sums);
    sums = Floats::fma(two.even, weights.even, sums);
  }
};

constexpr int kDotRows = 4;
constexpr int kNibbleRows = 4;
constexpr int kPairRows = 4;

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
#include "kernels/panels_int8.inl"
#include "kernels/prepare.inl"
#include "kernels/rows.inl"
// Likewise.
#include "kernels/attention_scalar.inl"
#include "kernels/pack.inl"
#include "kernels/panels_bf16.inl"
#include "kernels/panels_tiles.inl"
#include "kernels/roofs.inl"
#include "kernels/sampling.inl"
// Likewise.
#include "kernels/tiles_emulated.inl"

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

const TileKernels kEmulatedTiles = {multiply_by_tiles<W8, EmulatedTiles>,
                                    multiply_by_tiles<UnpackedW4, EmulatedTiles>,
                                    roof_tiles<EmulatedTiles>};

}  // namespace octavo
