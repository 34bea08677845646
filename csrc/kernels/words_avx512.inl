// Rows of words become columns: sixteen words of four rows at a time.
// Included by avx512.inl.

// to[i * height + r] = words[r][i], for four rows of 32 words.
inline void store_all_words(const uint32_t (&words)[4][32], uint32_t* to, int64_t height) {
  for (int64_t half = 0; half < 32; half += 16) {
    const auto row = [&](int r) { return _mm512_loadu_si512(words[r] + half); };
    const __m512i low_01 = _mm512_unpacklo_epi32(row(0), row(1));
    const __m512i high_01 = _mm512_unpackhi_epi32(row(0), row(1));
    const __m512i low_23 = _mm512_unpacklo_epi32(row(2), row(3));
    const __m512i high_23 = _mm512_unpackhi_epi32(row(2), row(3));
    // Each quarter of columns[k] holds one place of the four rows: k, k + 4, k + 8, k + 12.
    const __m512i columns[4] = {
        _mm512_unpacklo_epi64(low_01, low_23), _mm512_unpackhi_epi64(low_01, low_23),
        _mm512_unpacklo_epi64(high_01, high_23), _mm512_unpackhi_epi64(high_01, high_23)};
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const auto store = [&](int64_t place, __m128i column) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + (half + place) * height), column);
      };
      store(k, _mm512_castsi512_si128(columns[k]));
      store(k + 4, _mm512_extracti32x4_epi32(columns[k], 1));
      store(k + 8, _mm512_extracti32x4_epi32(columns[k], 2));
      store(k + 12, _mm512_extracti32x4_epi32(columns[k], 3));
    }
  }
}
