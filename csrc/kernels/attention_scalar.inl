// What attention needs of an instruction set, one lane at a time.
#include "kernels/elementwise.inl"
#include "kernels/kv_write.inl"

constexpr int kScoreRows = 1;
constexpr int kValueRows = 1;
constexpr int score_pages_at_once(int) { return 1; }
constexpr int value_vectors_at_once(int) { return 8; }

inline Vector larger(Vector a, Vector b) { return a > b ? a : b; }  // b if a is a NaN
inline Mask lanes_between(int begin, int end) { return begin <= 0 && 0 < end; }
inline float largest_lane(Vector v) { return v; }

inline float sum_of_lanes(const Vector (&sums)[16]) {
  float lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = sums[i];
  for (int width = 8; width >= 1; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

// Dot products of pairs of bf16, kept in float32.
struct Pairs {
  struct Element {
    float even, odd;
  };
  using Spread = Element;
  using Lanes = Element;
  static constexpr bool kPacked = false;

  static Element expand(uint32_t pair) {
    return {__builtin_bit_cast(float, pair << 16), __builtin_bit_cast(float, pair & 0xFFFF0000u)};
  }
  static Spread spread(const Element* p) { return *p; }
  static Lanes load(const uint8_t* p) {
    uint32_t pair;
    __builtin_memcpy(&pair, p, 4);
    return expand(pair);
  }
  static Lanes load_first(const uint8_t* p, int64_t) { return load(p); }
  static Lanes load_bytes(const uint8_t* p) {
    return {static_cast<float>(static_cast<int8_t>(p[0])),
            static_cast<float>(static_cast<int8_t>(p[1]))};
  }
  static Lanes load_bytes_first(const uint8_t* p, int64_t) { return load_bytes(p); }
  // Zero instead of the tokens without a bit.
  static Lanes keep(Lanes values, uint32_t tokens) {
    return {tokens & 1 ? values.even : 0.0f, tokens & 2 ? values.odd : 0.0f};
  }
  static void add(Vector& sum, Spread a, Lanes b) {
    sum = Floats::fma(a.even, b.even, Floats::fma(a.odd, b.odd, sum));
  }
  static void store_weights(Element* row, int token, Vector weight) {
    const float rounded = __builtin_bit_cast(float, bf16_bits(weight) << 16);
    (token % 2 == 0 ? row[token / 2].even : row[token / 2].odd) = rounded;
  }
};

// Dot products of four s8 with four u8.
struct Quads {
  struct Element {
    int8_t values[4];
  };
  using Spread = Element;
  struct Lanes {
    uint8_t values[4];
  };
  static constexpr bool kPacked = true;

  static Spread spread(const Element* p) { return *p; }
  static Lanes load(const uint8_t* p) { return {{p[0], p[1], p[2], p[3]}}; }
  static void add(Floats::Ints& sum, Spread a, Lanes b) {
    for (int i = 0; i < 4; ++i) sum += static_cast<uint32_t>(a.values[i] * b.values[i]);
  }
};

#include "kernels/attention.inl"
