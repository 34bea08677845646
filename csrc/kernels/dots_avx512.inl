// How AVX-512 adds products of small integers and of bfloat16, with and without VNNI and BF16.
// Included by avx512.inl after Floats.

inline Floats::Vector load_f16(const uint8_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

inline __m512i load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline __m512i broadcast_four(const int8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, 4);
  return _mm512_set1_epi32(four);
}

#ifdef __AVX512VNNI__

// Unsigned weights times signed values, four a column, into exact int32 sums.
struct Dots {
  using Sums = __m512i;
  using Weights = __m512i;
  using Four = __m512i;
  static constexpr int kLanes = 16;

  static Sums start(int32_t correction) { return _mm512_set1_epi32(correction); }
  static Weights load(const uint8_t* p) { return load_bytes(p); }
  static Four four(const int8_t* p) { return broadcast_four(p); }
  // In assembler: gcc 12 copies the sums to and fro around the intrinsic.
  static void add(Sums& sums, Weights weights, Four four) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(weights), "v"(four));
  }
  static Sums join(Sums a, Sums b) { return _mm512_add_epi32(a, b); }
  static __m512i total(Sums sums) { return sums; }
};

struct NibbleDots : Dots {
  static Weights load_low(const uint8_t* p) {
    return _mm512_and_si512(load_bytes(p), _mm512_set1_epi8(0x0F));
  }
  static Weights load_high(const uint8_t* p) {
    return _mm512_and_si512(_mm512_srli_epi16(load_bytes(p), 4), _mm512_set1_epi8(0x0F));
  }
};

constexpr int kDotRows = 12;
constexpr int kNibbleRows = 12;

#else

// Unsigned weights times signed values, four a column, into exact int32 sums. vpmaddubsw would
// saturate: even and odd bytes are made 16 bits wide instead.
struct Dots {
  using Sums = __m512i;
  struct Weights {
    __m512i even, odd;
  };
  struct Four {
    __m512i even, odd;
  };
  static constexpr int kLanes = 16;

  static Sums start(int32_t correction) { return _mm512_set1_epi32(correction); }
  static Weights load(const uint8_t* p) {
    const __m512i bytes = load_bytes(p);
    return {_mm512_and_si512(bytes, _mm512_set1_epi16(0xFF)), _mm512_srli_epi16(bytes, 8)};
  }
  static Four four(const int8_t* p) {
    const __m512i bytes = broadcast_four(p);
    return {_mm512_srai_epi16(_mm512_slli_epi16(bytes, 8), 8), _mm512_srai_epi16(bytes, 8)};
  }
  static void add(Sums& sums, const Weights& weights, const Four& four) {
    sums = _mm512_add_epi32(sums, _mm512_madd_epi16(weights.even, four.even));
    sums = _mm512_add_epi32(sums, _mm512_madd_epi16(weights.odd, four.odd));
  }
  static Sums join(Sums a, Sums b) { return _mm512_add_epi32(a, b); }
  static __m512i total(Sums sums) { return sums; }
};

// Weights of at most 15 cannot saturate, and eight additions of two products stay within 16 bits:
// 8 * 2 * 15 * 127 = 30480. So a small group is summed in 16 bits and widened at its end.
struct NibbleDots {
  struct Sums {
    __m512i narrow;
    int32_t correction;
  };
  using Weights = __m512i;
  using Four = __m512i;
  static constexpr int kLanes = 16;

  static Sums start(int32_t correction) { return {_mm512_setzero_si512(), correction}; }
  static Weights load(const uint8_t* p) { return load_bytes(p); }
  static Weights load_low(const uint8_t* p) {
    return _mm512_and_si512(load_bytes(p), _mm512_set1_epi8(0x0F));
  }
  static Weights load_high(const uint8_t* p) {
    return _mm512_and_si512(_mm512_srli_epi16(load_bytes(p), 4), _mm512_set1_epi8(0x0F));
  }
  static Four four(const int8_t* p) { return broadcast_four(p); }
  static void add(Sums& sums, Weights weights, Four four) {
    sums.narrow = _mm512_add_epi16(sums.narrow, _mm512_maddubs_epi16(weights, four));
  }
  static Sums join(const Sums& a, const Sums& b) {
    return {_mm512_add_epi16(a.narrow, b.narrow), a.correction + b.correction};
  }
  static __m512i total(const Sums& sums) {
    return _mm512_add_epi32(_mm512_madd_epi16(sums.narrow, _mm512_set1_epi16(1)),
                            _mm512_set1_epi32(sums.correction));
  }
};

constexpr int kDotRows = 6;
constexpr int kNibbleRows = 12;

#endif

#ifdef __AVX512BF16__

// sum = fma(even, fma(odd, sum)); the instruction takes and gives denormals as zeros.
struct PairDots {
  using Weights = __m512i;
  using Two = __m512i;

  static Weights load(const uint8_t* p) { return load_bytes(p); }
  static Two two(const uint32_t* p) { return _mm512_set1_epi32(static_cast<int32_t>(*p)); }
  static void add(Floats::Vector& sums, Weights weights, Two two) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sums) : "v"(weights), "v"(two));
  }
};

#else

// sum = fma(even, fma(odd, sum)).
struct PairDots {
  struct Weights {
    __m512 even, odd;
  };
  using Two = Weights;

  static Weights split(__m512i pairs) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)),
            _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-65536)))};
  }
  static Weights load(const uint8_t* p) { return split(load_bytes(p)); }
  static Two two(const uint32_t* p) { return split(_mm512_set1_epi32(static_cast<int32_t>(*p))); }
  static void add(Floats::Vector& sums, const Weights& weights, const Two& two) {
    sums = _mm512_fmadd_ps(two.odd, weights.odd, sums);
    sums = _mm512_fmadd_ps(two.even, weights.even, sums);
  }
};

#endif

constexpr int kPairRows = 12;
