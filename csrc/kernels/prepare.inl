// Float32 rows into the tile of an operand. Plain loops, but for how AVX-512 stores words: each
// unit's compiler makes vectors of them, and every operation is one IEEE operation on one element.
// Included by each unit of kernels inside its anonymous namespace.
#pragma once

inline uint32_t bits_of(float value) { return __builtin_bit_cast(uint32_t, value); }
inline float float_of(uint32_t bits) { return __builtin_bit_cast(float, bits); }

// Nearest even; a NaN stays one and becomes quiet.
inline uint32_t bf16_bits(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  return (bits & 0x7FFFFFFF) > 0x7F800000 ? (bits >> 16) | 0x40 : rounded;
}

void prepare_f32(const PrepareTask& task) {
  auto* to = static_cast<float*>(task.to.values) + task.begin;
  for (int r = 0; r < task.to.height; ++r) {
    const float* x = task.x + r * task.x_stride;
    for (int64_t k = 0; k < task.count; ++k) to[r * task.depth + k] = x[k];
  }
}

// Words of rows on their way into a tile, where the words of one place stand side by side.
constexpr int kWordRows = 4;
constexpr int kWords = 32;
using Words = uint32_t[kWordRows][kWords];

// to[i * height + r] = words[r][i]
inline void store_words(const Words& words, int64_t num_rows, int64_t num_words, uint32_t* to,
                        int64_t height) {
#ifdef __AVX512F__
  if (num_rows == kWordRows && num_words == kWords) return store_all_words(words, to, height);
#endif
  for (int64_t r = 0; r < num_rows; ++r) {
    for (int64_t i = 0; i < num_words; ++i) to[i * height + r] = words[r][i];
  }
}

inline void pack_pairs(const float* x, int64_t count, uint32_t* pairs) {
  for (int64_t i = 0; i < count / 2; ++i) {
    pairs[i] = bf16_bits(x[2 * i]) | bf16_bits(x[2 * i + 1]) << 16;
  }
  if (count % 2 != 0) pairs[count / 2] = bf16_bits(x[count - 1]);
}

// Rows of bf16 pairs: row_of(r) has `count` values, to[i * height + r] its pair i.
template <typename RowOf>
inline void store_pairs(const RowOf& row_of, int64_t count, uint32_t* to, int64_t height) {
  alignas(64) Words words;
  for (int64_t row = 0; row < height; row += kWordRows) {
    const int64_t num_rows = height - row < kWordRows ? height - row : kWordRows;
    for (int64_t done = 0; done < count; done += 2 * kWords) {
      const int64_t values = count - done < 2 * kWords ? count - done : 2 * kWords;
      for (int64_t r = 0; r < num_rows; ++r) pack_pairs(row_of(row + r) + done, values, words[r]);
      store_words(words, num_rows, (values + 1) / 2, to + done / 2 * height + row, height);
    }
  }
}

void prepare_bf16(const PrepareTask& task) {
  const int64_t height = task.to.height;
  store_pairs([&](int64_t row) { return task.x + row * task.x_stride; }, task.count,
              static_cast<uint32_t*>(task.to.values) + task.begin / 2 * height, height);
}

// Adding 1.5 * 2^23 rounds to an integer, nearest even, which then stands in the low bits.
constexpr float kIntegerRounder = 12582912.0f;
// Groups of smaller numbers are zeros: 127 over their largest might be infinite.
constexpr uint32_t kSmallestPeak = (127 - 120) << 23;  // 2^-120

// One group of one row: the integers, as such, and their scale.
inline float quantise_group(const float* x, int32_t* integers) {
  uint32_t peak = 0;
  for (int i = 0; i < kGroup; ++i) {
    const uint32_t size = bits_of(x[i]) & 0x7FFFFFFF;
    peak = size > peak ? size : peak;
  }
  if (peak < kSmallestPeak || peak >= 0x7F800000) {
    for (int i = 0; i < kGroup; ++i) integers[i] = 0;
    return peak < kSmallestPeak ? 0.0f : __builtin_nanf("");
  }
  // No product exceeds 127 by more than its rounding: there is nothing to clamp.
  const float inverse = 127.0f / float_of(peak);
  for (int i = 0; i < kGroup; ++i) {
    const float shifted = x[i] * inverse + kIntegerRounder;
    integers[i] = static_cast<int32_t>(bits_of(shifted) - bits_of(kIntegerRounder));
  }
  return float_of(peak) / 127.0f;
}

// One group of one row.
struct QuantisedGroup {
  uint32_t* words;  // (32,)
  float* scale;
  int32_t* correction;
  int32_t* corrections_4;  // `height` apart
  int64_t height;
};

inline void quantise_row(const float* x, const QuantisedGroup& to) {
  alignas(64) int32_t integers[kGroup];
  *to.scale = quantise_group(x, integers);
  int32_t sum = 0;
  for (int s = 0; s < kGroup / kSmallGroup; ++s) {
    int32_t small_sum = 0;
    for (int i = 0; i < kSmallGroup; ++i) small_sum += integers[s * kSmallGroup + i];
    to.corrections_4[s * to.height] = -8 * small_sum;
    sum += small_sum;
  }
  *to.correction = -128 * sum;
  auto* bytes = reinterpret_cast<unsigned char*>(to.words);
  for (int i = 0; i < kGroup; ++i) bytes[i] = static_cast<unsigned char>(integers[i]);
}

void prepare_int8(const PrepareTask& task) {
  static_assert(kWords * 4 == kGroup);
  const int64_t height = task.to.height;
  alignas(64) float padded_x[kGroup];
  alignas(64) Words words;
  for (int64_t done = 0; done < task.count; done += kGroup) {
    const int64_t count = task.count - done < kGroup ? task.count - done : kGroup;
    const int64_t group = (task.begin + done) / kGroup;
    auto* values = static_cast<uint32_t*>(task.to.values) + group * kWords * height;
    for (int64_t first = 0; first < height; first += kWordRows) {
      const int64_t num_rows = height - first < kWordRows ? height - first : kWordRows;
      for (int64_t r = 0; r < num_rows; ++r) {
        const int64_t row = first + r;
        const float* x = task.x + row * task.x_stride + done;
        if (count < kGroup) {
          for (int64_t i = 0; i < kGroup; ++i) padded_x[i] = i < count ? x[i] : 0.0f;
          x = padded_x;
        }
        quantise_row(
            x, {words[r], task.to.scales + group * height + row,
                task.to.corrections + group * height + row,
                task.to.corrections_4 + group * (kGroup / kSmallGroup) * height + row, height});
      }
      store_words(words, num_rows, kWords, values + first, height);
    }
  }
}
