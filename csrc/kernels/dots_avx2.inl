// How AVX2 adds products of small integers and of bfloat16, with and without AVX-VNNI.
// Included by avx2.inl after Floats.

inline Floats::Vector load_f16(const uint8_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

inline __m256i load_bytes(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
inline __m256i broadcast_four(const int8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, 4);
  return _mm256_set1_epi32(four);
}

#ifdef __AVXVNNI__

// Unsigned weights times signed values, four a column, into exact int32 sums.
struct Dots {
  using Sums = __m256i;
  using Weights = __m256i;
  using Four = __m256i;
  static constexpr int kLanes = 8;

  static Sums start(int32_t correction) { return _mm256_set1_epi32(correction); }
  static Weights load(const uint8_t* p) { return load_bytes(p); }
  static Four four(const int8_t* p) { return broadcast_four(p); }
  // In assembler: gcc 12 copies the sums to and fro around the intrinsic.
  static void add(Sums& sums, Weights weights, Four four) {
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums) : "x"(weights), "x"(four));
  }
  static Sums join(Sums a, Sums b) { return _mm256_add_epi32(a, b); }
  static __m256i total(Sums sums) { return sums; }
};

struct NibbleDots : Dots {
  static Weights load_low(const uint8_t* p) {
    return _mm256_and_si256(load_bytes(p), _mm256_set1_epi8(0x0F));
  }
  static Weights load_high(const uint8_t* p) {
    return _mm256_and_si256(_mm256_srli_epi16(load_bytes(p), 4), _mm256_set1_epi8(0x0F));
  }
};

constexpr int kDotRows = 6;
constexpr int kNibbleRows = 6;

#else

// Unsigned weights times signed values, four a column, into exact int32 sums. vpmaddubsw would
// saturate: even and odd bytes are made 16 bits wide instead.
struct Dots {
  using Sums = __m256i;
  struct Weights {
    __m256i even, odd;
  };
  struct Four {
    __m256i even, odd;
  };
  static constexpr int kLanes = 8;

  static Sums start(int32_t correction) { return _mm256_set1_epi32(correction); }
  static Weights load(const uint8_t* p) {
    const __m256i bytes = load_bytes(p);
    return {_mm256_and_si256(bytes, _mm256_set1_epi16(0xFF)), _mm256_srli_epi16(bytes, 8)};
  }
  static Four four(const int8_t* p) {
    const __m256i bytes = broadcast_four(p);
    return {_mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8), _mm256_srai_epi16(bytes, 8)};
  }
  static void add(Sums& sums, const Weights& weights, const Four& four) {
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(weights.even, four.even));
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(weights.odd, four.odd));
  }
  static Sums join(Sums a, Sums b) { return _mm256_add_epi32(a, b); }
  static __m256i total(Sums sums) { return sums; }
};

// Weights of at most 15 cannot saturate, and eight additions of two products stay within 16 bits:
// 8 * 2 * 15 * 127 = 30480. So a small group is summed in 16 bits and widened at its end.
struct NibbleDots {
  struct Sums {
    __m256i narrow;
    int32_t correction;
  };
  using Weights = __m256i;
  using Four = __m256i;
  static constexpr int kLanes = 8;

  static Sums start(int32_t correction) { return {_mm256_setzero_si256(), correction}; }
  static Weights load(const uint8_t* p) { return load_bytes(p); }
  static Weights load_low(const uint8_t* p) {
    return _mm256_and_si256(load_bytes(p), _mm256_set1_epi8(0x0F));
  }
  static Weights load_high(const uint8_t* p) {
    return _mm256_and_si256(_mm256_srli_epi16(load_bytes(p), 4), _mm256_set1_epi8(0x0F));
  }
  static Four four(const int8_t* p) { return broadcast_four(p); }
  static void add(Sums& sums, Weights weights, Four four) {
    sums.narrow = _mm256_add_epi16(sums.narrow, _mm256_maddubs_epi16(weights, four));
  }
  static Sums join(const Sums& a, const Sums& b) {
    return {_mm256_add_epi16(a.narrow, b.narrow), a.correction + b.correction};
  }
  static __m256i total(const Sums& sums) {
    return _mm256_add_epi32(_mm256_madd_epi16(sums.narrow, _mm256_set1_epi16(1)),
                            _mm256_set1_epi32(sums.correction));
  }
};

constexpr int kDotRows = 3;
constexpr int kNibbleRows = 4;

#endif

// sum = fma(even, fma(odd, sum)).
struct PairDots {
  struct Weights {
    __m256 even, odd;
  };
  using Two = Weights;

  static Weights split(__m256i pairs) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)),
            _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(-65536)))};
  }
  static Weights load(const uint8_t* p) { return split(load_bytes(p)); }
  static Two two(const uint32_t* p) { return split(_mm256_set1_epi32(static_cast<int32_t>(*p))); }
  static void add(Floats::Vector& sums, const Weights& weights, const Two& two) {
    sums = _mm256_fmadd_ps(two.odd, weights.odd, sums);
    sums = _mm256_fmadd_ps(two.even, weights.even, sums);
  }
};

constexpr int kPairRows = 4;
