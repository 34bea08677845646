// What attention needs of AVX2: a page is two vectors wide.
#include "kernels/elementwise.inl"
#include "kernels/kv_write.inl"

// Rows, and pages or vectors of columns, held in registers at once.
constexpr int kScoreRows = 4;
constexpr int kValueRows = 4;
constexpr int score_pages_at_once(int) { return 1; }
constexpr int value_vectors_at_once(int rows) { return rows <= 2 ? 4 : 2; }

inline Vector larger(Vector a, Vector b) { return _mm256_max_ps(a, b); }  // b if a is a NaN

// Lanes in [begin, end), which may lie outside.
inline Mask lanes_between(int begin, int end) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i from = _mm256_cmpgt_epi32(lanes, _mm256_set1_epi32(begin - 1));
  const __m256i below = _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lanes);
  return _mm256_castsi256_ps(_mm256_and_si256(from, below));
}

inline float largest_lane(Vector v) {
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

// Lane i takes lane i + 8, then i + 4, i + 2 and i + 1.
inline float sum_of_lanes(const Vector (&sums)[2]) {
  const __m256 eight = _mm256_add_ps(sums[0], sums[1]);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

inline __m256i load_256(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

// Dot products of pairs of bf16, kept in float32.
struct Pairs {
  struct Element {
    float even, odd;
  };
  struct Spread {
    Vector even, odd;
  };
  using Lanes = Spread;
  static constexpr bool kPacked = false;

  static Element expand(uint32_t pair) {
    return {__builtin_bit_cast(float, pair << 16), __builtin_bit_cast(float, pair & 0xFFFF0000u)};
  }
  static Lanes expand(Ints pairs) {
    return {Floats::from_bits(Floats::shift_left<16>(pairs)),
            Floats::from_bits(Floats::bit_and(pairs, Floats::set_ints(0xFFFF0000u)))};
  }
  static Spread spread(const Element* p) { return {Floats::set(p->even), Floats::set(p->odd)}; }
  static Lanes load(const uint8_t* p) { return expand(load_256(p)); }
  static Lanes load_first(const uint8_t* p, int64_t count) {
    return expand(_mm256_maskload_epi32(reinterpret_cast<const int*>(p), Floats::first(count)));
  }
  static Lanes expand_bytes(__m128i bytes) {
    const __m256i words = _mm256_cvtepi16_epi32(bytes);
    return {_mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(words, 24), 24)),
            _mm256_cvtepi32_ps(_mm256_srai_epi32(words, 8))};
  }
  static Lanes load_bytes(const uint8_t* p) {
    return expand_bytes(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Lanes load_bytes_first(const uint8_t* p, int64_t count) {
    alignas(16) uint8_t bytes[16] = {};
    for (int64_t i = 0; i < 2 * count; ++i) bytes[i] = p[i];
    return load_bytes(bytes);
  }
  // Zero instead of the tokens without a bit.
  static Lanes keep(Lanes values, uint32_t tokens) {
    const Vector zero = Floats::set(0.0f);
    return {tokens & 1 ? values.even : zero, tokens & 2 ? values.odd : zero};
  }
  static void add(Vector& sum, const Spread& a, const Lanes& b) {
    sum = Floats::fma(a.even, b.even, Floats::fma(a.odd, b.odd, sum));
  }
  // To the nearest bf16, ties to even, as float32. A NaN is left as it is: its low bits are lost
  // on nobody.
  static void store_weights(Element* row, int token, Vector weight) {
    const Ints bits = Floats::bits(weight);
    const Ints odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), Floats::set_ints(1));
    const Ints sum = Floats::add(Floats::add(bits, Floats::set_ints(0x7FFFu)), odd);
    const Vector rounded = Floats::from_bits(Floats::bit_and(sum, Floats::set_ints(0xFFFF0000u)));
    Floats::store(reinterpret_cast<float*>(row) + token,
                  Floats::select(Floats::equal(weight, weight), rounded, weight));
  }
};

#ifdef __AVXVNNI__

// Four u8 (keys) with four s8 (queries) in one instruction.
struct Quads {
  using Element = uint32_t;
  using Spread = __m256i;
  using Lanes = __m256i;
  static constexpr bool kPacked = true;

  static Spread spread(const Element* p) { return _mm256_set1_epi32(static_cast<int>(*p)); }
  static Lanes load(const uint8_t* p) { return load_256(p); }
  static void add(Ints& sum, Spread a, Lanes b) {
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(b), "x"(a));
  }
};

#else

// Without VNNI: sixteen bits, where no product saturates. Values 0 and 2 of a quad meet in one
// instruction, 1 and 3 in another.
struct Quads {
  struct Element {
    uint32_t even, odd;
  };
  struct Spread {
    __m256i even, odd;
  };
  using Lanes = Spread;
  static constexpr bool kPacked = false;

  static Element expand(uint32_t quad) {
    const auto word = [&](int i) {
      return static_cast<uint32_t>(static_cast<int8_t>(quad >> 8 * i)) & 0xFFFFu;
    };
    return {word(0) | word(2) << 16, word(1) | word(3) << 16};
  }
  static Spread spread(const Element* p) {
    return {_mm256_set1_epi32(static_cast<int>(p->even)),
            _mm256_set1_epi32(static_cast<int>(p->odd))};
  }
  static Lanes load(const uint8_t* p) {
    const __m256i quads = load_256(p);
    return {_mm256_and_si256(quads, Floats::set_ints(0x00FF00FFu)), _mm256_srli_epi16(quads, 8)};
  }
  static void add(Ints& sum, const Spread& a, const Lanes& b) {
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(a.even, b.even));
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(a.odd, b.odd));
  }
};

#endif

#include "kernels/attention.inl"
