// Float32 rows into the tile of an operand. Plain loops: each unit's compiler makes vectors of
// them, and every operation is one IEEE operation on one element.
// Included by each unit of kernels inside its anonymous namespace.

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

void prepare_bf16(const PrepareTask& task) {
  const int64_t height = task.to.height;
  auto* pairs = static_cast<uint32_t*>(task.to.values) + task.begin / 2 * height;
  for (int64_t r = 0; r < height; ++r) {
    const float* x = task.x + r * task.x_stride;
    for (int64_t k = 0; k + 2 <= task.count; k += 2) {
      pairs[k / 2 * height + r] = bf16_bits(x[k]) | bf16_bits(x[k + 1]) << 16;
    }
    if (task.count % 2 != 0) pairs[task.count / 2 * height + r] = bf16_bits(x[task.count - 1]);
  }
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

void prepare_int8(const PrepareTask& task) {
  const int64_t height = task.to.height;
  alignas(64) float padded_x[kGroup];
  alignas(64) int32_t integers[kGroup];
  alignas(64) uint32_t fours[kGroup / 4];
  for (int64_t done = 0; done < task.count; done += kGroup) {
    const int64_t count = task.count - done < kGroup ? task.count - done : kGroup;
    const int64_t group = (task.begin + done) / kGroup;
    auto* values = static_cast<uint32_t*>(task.to.values) + group * (kGroup / 4) * height;
    float* scales = task.to.scales + group * height;
    int32_t* corrections = task.to.corrections + group * height;
    int32_t* corrections_4 = task.to.corrections_4 + group * (kGroup / kSmallGroup) * height;
    for (int64_t r = 0; r < height; ++r) {
      const float* x = task.x + r * task.x_stride + done;
      if (count < kGroup) {
        for (int64_t i = 0; i < kGroup; ++i) padded_x[i] = i < count ? x[i] : 0.0f;
        x = padded_x;
      }
      scales[r] = quantise_group(x, integers);
      int32_t sum = 0;
      for (int s = 0; s < kGroup / kSmallGroup; ++s) {
        int32_t small_sum = 0;
        for (int i = 0; i < kSmallGroup; ++i) small_sum += integers[s * kSmallGroup + i];
        corrections_4[s * height + r] = -8 * small_sum;
        sum += small_sum;
      }
      corrections[r] = -128 * sum;
      for (int i = 0; i < kGroup / 4; ++i) {
        fours[i] = (integers[4 * i] & 0xFF) | (integers[4 * i + 1] & 0xFF) << 8 |
                   (integers[4 * i + 2] & 0xFF) << 16 |
                   static_cast<uint32_t>(integers[4 * i + 3]) << 24;
      }
      for (int i = 0; i < kGroup / 4; ++i) values[i * height + r] = fours[i];
    }
  }
}
