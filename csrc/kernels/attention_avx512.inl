// What attention needs of AVX-512: a page is one vector wide.
#include "kernels/elementwise.inl"
#include "kernels/kv_write.inl"

// Rows, and pages or vectors of columns, held in registers at once.
constexpr int kScoreRows = 12;
constexpr int kValueRows = 12;
#ifdef __AVX512BF16__
constexpr int score_pages_at_once(int rows) { return rows <= 3 ? 8 : rows <= 6 ? 4 : 2; }
constexpr int value_vectors_at_once(int rows) { return rows <= 6 ? 4 : 2; }
#else
constexpr int score_pages_at_once(int rows) { return rows <= 5 ? 4 : 2; }
constexpr int value_vectors_at_once(int rows) { return rows <= 5 ? 4 : 2; }
#endif

inline Vector larger(Vector a, Vector b) { return _mm512_max_ps(a, b); }  // b if a is a NaN

// Lanes in [begin, end), which may lie outside.
inline Mask lanes_between(int begin, int end) {
  if (begin < 0) begin = 0;
  if (end > 16) end = 16;
  return begin < end ? static_cast<Mask>((1u << end) - (1u << begin)) : Mask{0};
}

inline float largest_lane(Vector v) { return _mm512_reduce_max_ps(v); }

// Lane i takes lane i + 8, then i + 4, i + 2 and i + 1.
inline float sum_of_lanes(const Vector (&sums)[1]) {
  const __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(sums[0]), 1));
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(sums[0]), high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// Sixteen pairs of s8 as floats.
struct BytePairs {
  __m512 even, odd;

  explicit BytePairs(__m256i bytes) {
    const __m512i words = _mm512_cvtepi16_epi32(bytes);
    even = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(words, 24), 24));
    odd = _mm512_cvtepi32_ps(_mm512_srai_epi32(words, 8));
  }
};

inline __m256i load_byte_pairs(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

inline __m256i load_byte_pairs(const uint8_t* p, int64_t count) {
  return _mm256_maskz_loadu_epi16(Floats::first(count), p);
}

#ifdef __AVX512BF16__

struct Pairs {
  using Element = uint32_t;
  using Spread = __m512i;
  using Lanes = __m512i;
  static constexpr bool kPacked = true;

  static Spread spread(const Element* p) { return _mm512_set1_epi32(static_cast<int>(*p)); }
  static Lanes load(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static Lanes load_first(const uint8_t* p, int64_t count) {
    return _mm512_maskz_loadu_epi32(Floats::first(count), p);
  }
  // Eight bits are exact in bf16, so the low halves of the floats are 0.
  static Lanes pack(BytePairs pairs) {
    const __m512i even = _mm512_srli_epi32(_mm512_castps_si512(pairs.even), 16);
    return _mm512_or_si512(even, _mm512_castps_si512(pairs.odd));
  }
  static Lanes load_bytes(const uint8_t* p) { return pack(BytePairs(load_byte_pairs(p))); }
  static Lanes load_bytes_first(const uint8_t* p, int64_t count) {
    return pack(BytePairs(load_byte_pairs(p, count)));
  }
  // Zero instead of the tokens without a bit.
  static Lanes keep(Lanes values, uint32_t tokens) {
    const uint32_t bits = (tokens & 1 ? 0xFFFFu : 0u) | (tokens & 2 ? 0xFFFF0000u : 0u);
    return _mm512_and_si512(values, Floats::set_ints(bits));
  }
  // Written in assembly: the compiler would copy the sum around the intrinsic.
  static void add(Vector& sum, Spread a, Lanes b) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  }
  static void store_weights(Element* row, int token, Vector weight) {
    const __m256i pairs = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(weight));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(row + token / 2), pairs);
  }
};

#else

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
  static Lanes load(const uint8_t* p) { return expand(_mm512_loadu_si512(p)); }
  static Lanes load_first(const uint8_t* p, int64_t count) {
    return expand(_mm512_maskz_loadu_epi32(Floats::first(count), p));
  }
  static Lanes load_bytes(const uint8_t* p) {
    const BytePairs pairs(load_byte_pairs(p));
    return {pairs.even, pairs.odd};
  }
  static Lanes load_bytes_first(const uint8_t* p, int64_t count) {
    const BytePairs pairs(load_byte_pairs(p, count));
    return {pairs.even, pairs.odd};
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
    const Ints odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), Floats::set_ints(1));
    const Ints sum = Floats::add(Floats::add(bits, Floats::set_ints(0x7FFFu)), odd);
    const Vector rounded = Floats::from_bits(Floats::bit_and(sum, Floats::set_ints(0xFFFF0000u)));
    Floats::store(reinterpret_cast<float*>(row) + token,
                  Floats::select(Floats::equal(weight, weight), rounded, weight));
  }
};

#endif

#ifdef __AVX512VNNI__

// Four u8 (keys) with four s8 (queries) in one instruction.
struct Quads {
  using Element = uint32_t;
  using Spread = __m512i;
  using Lanes = __m512i;
  static constexpr bool kPacked = true;

  static Spread spread(const Element* p) { return _mm512_set1_epi32(static_cast<int>(*p)); }
  static Lanes load(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static void add(Ints& sum, Spread a, Lanes b) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(b), "v"(a));
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
    __m512i even, odd;
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
    return {_mm512_set1_epi32(static_cast<int>(p->even)),
            _mm512_set1_epi32(static_cast<int>(p->odd))};
  }
  static Lanes load(const uint8_t* p) {
    const __m512i quads = _mm512_loadu_si512(p);
    return {_mm512_and_si512(quads, Floats::set_ints(0x00FF00FFu)), _mm512_srli_epi16(quads, 8)};
  }
  static void add(Ints& sum, const Spread& a, const Lanes& b) {
    sum = _mm512_add_epi32(sum, _mm512_madd_epi16(a.even, b.even));
    sum = _mm512_add_epi32(sum, _mm512_madd_epi16(a.odd, b.odd));
  }
};

#endif

#include "kernels/attention.inl"
