// Weights of a checkpoint into panels, and one column of a panel back into float32. Plain loops
// with columns innermost, of which each unit's compiler makes vectors; every operation is one IEEE
// operation on one element. Included by each unit of kernels inside its anonymous namespace, after
// prepare.inl.

// Also for denormals, which the multiplication normalises; infinities and NaN keep being so.
inline float float_of_f16(uint32_t half) {
  const float size = float_of((half & 0x7FFF) << 13) * 0x1p112f;
  const uint32_t bits =
      (half & 0x7C00) == 0x7C00 ? 0x7F800000 | (half & 0x3FF) << 13 : bits_of(size);
  return float_of(bits | (half & 0x8000) << 16);
}

// Nearest even; what is too large for float16 becomes its largest number, 65504.
inline uint32_t f16_bits(float value) {
  constexpr uint32_t kLargest = 0x7BFF;
  const uint32_t bits = bits_of(value);
  const uint32_t size = bits & 0x7FFFFFFF;
  // Below 2^-14 the numbers are multiples of 2^-24: adding 0.5 rounds to one.
  const uint32_t denormal = bits_of(float_of(size) + 0.5f) - bits_of(0.5f);
  const uint32_t rebased = size - ((127u - 15u) << 23);
  const uint32_t normal = (rebased + 0xFFF + ((rebased >> 13) & 1)) >> 13;
  const uint32_t finite = size < (113u << 23) ? denormal : normal < kLargest ? normal : kLargest;
  return (size >= (143u << 23) ? kLargest : finite) | (bits >> 31) << 15;
}

template <Source kSource>
inline float load_weight(const void* weights, int64_t index) {
  if constexpr (kSource == Source::kF32) return static_cast<const float*>(weights)[index];
  const uint32_t bits = static_cast<const uint16_t*>(weights)[index];
  return kSource == Source::kBf16 ? float_of(bits << 16) : float_of_f16(bits);
}

// The weights of one panel's columns along part of the depth, padded with zeros.
struct Slab {
  alignas(64) float at[kGroup][kPanelColumns];
};

// Rows [begin, begin + kGroup) of the depth; those from `depth` on are zeros.
template <Source kSource>
inline void fill_slab(const PackTask& task, int64_t panel, int64_t begin, Slab& slab) {
  const int64_t count = task.depth - begin < kGroup ? task.depth - begin : kGroup;
  alignas(64) float row[kGroup];
  for (int c = 0; c < kPanelColumns; ++c) {
    const int64_t column = panel * kPanelColumns + c;
    if (column >= task.columns || count < kGroup) {
      for (int k = 0; k < kGroup; ++k) row[k] = 0.0f;
    }
    if (column < task.columns) {
      const int64_t first = column * task.depth + begin;
      for (int64_t k = 0; k < count; ++k) row[k] = load_weight<kSource>(task.weights, first + k);
    }
    for (int k = 0; k < kGroup; ++k) slab.at[k][c] = row[k];
  }
}

inline void load_slab(const PackTask& task, int64_t panel, int64_t begin, Slab& slab) {
  switch (task.source) {
    case Source::kF32:
      fill_slab<Source::kF32>(task, panel, begin, slab);
      break;
    case Source::kBf16:
      fill_slab<Source::kBf16>(task, panel, begin, slab);
      break;
    case Source::kF16:
      fill_slab<Source::kF16>(task, panel, begin, slab);
      break;
  }
  uint32_t largest = 0;
  for (int k = 0; k < kGroup; ++k) {
    for (int c = 0; c < kPanelColumns; ++c) {
      const uint32_t size = bits_of(slab.at[k][c]) & 0x7FFFFFFF;
      largest = size > largest ? size : largest;
    }
  }
  if (largest >= 0x7F800000) __atomic_store_n(task.has_non_finite, 1, __ATOMIC_RELAXED);
}

inline float clamp(float value, float low, float high) {
  const float above = value < low ? low : value;
  return above > high ? high : above;
}

// 1 / scale, and 0 for 0.
inline float inverse_of(float scale) { return scale == 0.0f ? 0.0f : 1.0f / scale; }

// The nearest integer of value * inverse between low and high, as its low byte plus `zero`.
inline uint32_t quantised(float value, float inverse, float low, float high, uint32_t zero) {
  const float shifted = clamp(value * inverse, low, high) + kIntegerRounder;
  return bits_of(shifted) - bits_of(kIntegerRounder) + zero;
}

inline void store_u16(uint8_t* to, int index, uint32_t value) {
  const auto narrow = static_cast<uint16_t>(value);
  __builtin_memcpy(to + index * 2, &narrow, 2);
}

inline void pack_group_w8(const Slab& slab, uint8_t* to) {
  alignas(64) uint32_t peaks[kPanelColumns] = {};
  for (int k = 0; k < kGroup; ++k) {
    for (int c = 0; c < kPanelColumns; ++c) {
      const uint32_t size = bits_of(slab.at[k][c]) & 0x7FFFFFFF;
      peaks[c] = size > peaks[c] ? size : peaks[c];
    }
  }
  alignas(64) float inverses[kPanelColumns];
  for (int c = 0; c < kPanelColumns; ++c) {
    const float peak = float_of(peaks[c]);
    uint32_t scale = f16_bits(peak / 127.0f);
    // Among denormals of float16 rounding down may cost many steps: the next one up costs none.
    if (peak > 127.5f * float_of_f16(scale) && scale < 0x7BFF) ++scale;
    store_u16(to, c, scale);
    inverses[c] = inverse_of(float_of_f16(scale));
  }
  to += kPanelColumns * 2;
  alignas(64) uint32_t fours[kPanelColumns];
  for (int k = 0; k < kGroup; k += 4) {
    for (int c = 0; c < kPanelColumns; ++c) {
      uint32_t four = 0;
      for (int i = 0; i < 4; ++i) {
        const float value = slab.at[k + i][c];
        four |= (quantised(value, inverses[c], -127.0f, 127.0f, 128) & 0xFF) << 8 * i;
      }
      fours[c] = four;
    }
    __builtin_memcpy(to + k * kPanelColumns, fours, sizeof fours);
  }
}

// What the scale that maps the largest weight to -8 or 7 is multiplied by; the first of the best
// is taken.
constexpr float kShrinkFactors[] = {1.0f,    0.96875f, 0.9375f, 0.90625f, 0.875f,     0.84375f,
                                    0.8125f, 0.78125f, 0.75f,   1.0625f,  8.0f / 7.0f};

// One weight of a vector of columns. gcc makes no vectors of the plain loop without AVX-512, as
// comparisons of floats might trap.
inline void add_squared_error(const float* weights, const float* scales, const float* inverses,
                              float* errors) {
  const Floats::Vector low = Floats::set(-8.0f);
  const Floats::Vector high = Floats::set(7.0f);
  const Floats::Vector rounder = Floats::set(kIntegerRounder);
  const Floats::Vector value = Floats::load(weights);
  Floats::Vector scaled = Floats::multiply(value, Floats::load(inverses));
  scaled = Floats::select(Floats::less(scaled, low), low, scaled);
  scaled = Floats::select(Floats::less(high, scaled), high, scaled);
  const Floats::Vector integer = Floats::subtract(Floats::add(scaled, rounder), rounder);
  const Floats::Vector product = Floats::multiply(integer, Floats::load(scales));  // exact
  const Floats::Vector error = Floats::subtract(value, product);
  Floats::store(errors, Floats::add(Floats::load(errors), Floats::multiply(error, error)));
}

inline void pack_small_group_w4(const float (*weights)[kPanelColumns], uint8_t* to) {
  alignas(64) float bases[kPanelColumns];
  {
    alignas(64) float highest[kPanelColumns] = {}, lowest[kPanelColumns] = {};
    for (int k = 0; k < kSmallGroup; ++k) {
      for (int c = 0; c < kPanelColumns; ++c) {
        const float value = weights[k][c];
        highest[c] = value > highest[c] ? value : highest[c];
        lowest[c] = value < lowest[c] ? value : lowest[c];
      }
    }
    for (int c = 0; c < kPanelColumns; ++c) {
      bases[c] = (highest[c] >= -lowest[c] ? highest[c] : lowest[c]) / -8.0f;
    }
  }
  alignas(64) float least[kPanelColumns], best[kPanelColumns];
  alignas(64) float scales[kPanelColumns], inverses[kPanelColumns], errors[kPanelColumns];
  for (int c = 0; c < kPanelColumns; ++c) {
    least[c] = __builtin_inff();
    best[c] = 0.0f;
  }
  for (const float factor : kShrinkFactors) {
    for (int c = 0; c < kPanelColumns; ++c) {
      scales[c] = float_of_f16(f16_bits(bases[c] * factor));
      inverses[c] = inverse_of(scales[c]);
      errors[c] = 0.0f;
    }
    for (int k = 0; k < kSmallGroup; ++k) {
      for (int c = 0; c < kPanelColumns; c += Floats::kLanes) {
        add_squared_error(weights[k] + c, scales + c, inverses + c, errors + c);
      }
    }
    for (int c = 0; c < kPanelColumns; ++c) {
      best[c] = errors[c] < least[c] ? scales[c] : best[c];
      least[c] = errors[c] < least[c] ? errors[c] : least[c];
    }
  }
  for (int c = 0; c < kPanelColumns; ++c) {
    store_u16(to, c, f16_bits(best[c]));
    inverses[c] = inverse_of(best[c]);
  }
  to += kPanelColumns * 2;
  alignas(64) uint32_t fours[kPanelColumns / 2];
  for (int k = 0; k < kSmallGroup; k += 4) {
    for (int c = 0; c < kPanelColumns / 2; ++c) {
      uint32_t four = 0;
      for (int i = 0; i < 4; ++i) {
        const int high = c + kPanelColumns / 2;
        four |= (quantised(weights[k + i][c], inverses[c], -8.0f, 7.0f, 8) & 0x0F) << 8 * i;
        four |= (quantised(weights[k + i][high], inverses[high], -8.0f, 7.0f, 8) & 0x0F)
                << (8 * i + 4);
      }
      fours[c] = four;
    }
    __builtin_memcpy(to + k * (kPanelColumns / 2), fours, sizeof fours);
  }
}

// Returns whether all rounded weights are finite: the largest float32 numbers round to infinity.
inline bool pack_group_bf16(const Slab& slab, int64_t depth, uint8_t* to) {
  uint32_t overflow = 0;
  alignas(64) uint32_t pairs[kPanelColumns];
  for (int64_t k = 0; k < depth; k += 2) {
    for (int c = 0; c < kPanelColumns; ++c) {
      pairs[c] = bf16_bits(slab.at[k][c]) | bf16_bits(slab.at[k + 1][c]) << 16;
    }
    for (int c = 0; c < kPanelColumns; ++c) {
      overflow |= ((pairs[c] & 0x7FFF) + 0x0080) | ((pairs[c] >> 16 & 0x7FFF) + 0x0080);
    }
    __builtin_memcpy(to + k * kPanelColumns * 2, pairs, sizeof pairs);
  }
  return (overflow & 0x8000) == 0;
}

void pack(const PackTask& task, int64_t begin, int64_t end) {
  Slab slab;
  const int64_t depth = padded(task.depth, depth_unit(task.format));
  const int64_t bytes = panel_bytes(task.format, depth);
  const int64_t group_bytes = panel_bytes(task.format, kGroup);
  for (int64_t panel = begin; panel < end; ++panel) {
    uint8_t* to = task.panels + panel * bytes;
    for (int64_t done = 0; done < depth; done += kGroup, to += group_bytes) {
      const int64_t count = depth - done < kGroup ? depth - done : kGroup;
      load_slab(task, panel, done, slab);
      switch (task.format) {
        case Format::kF32:
          __builtin_memcpy(to, slab.at, count * kPanelColumns * 4);
          break;
        case Format::kBf16:
          if (!pack_group_bf16(slab, count, to)) {
            __atomic_store_n(task.has_non_finite, 1, __ATOMIC_RELAXED);
          }
          break;
        case Format::kW8:
          pack_group_w8(slab, to);
          break;
        case Format::kW4:
          for (int s = 0; s < kGroup / kSmallGroup; ++s) {
            pack_small_group_w4(slab.at + s * kSmallGroup, to + s * (group_bytes / 4));
          }
          break;
      }
    }
  }
}

inline float load_scale(const uint8_t* scales, int column) {
  return float_of_f16(scales[column * 2] | scales[column * 2 + 1] << 8);
}

void embed_bf16(const EmbedTask& task) {
  const uint8_t* from = task.panel + task.column * 4;
  for (int64_t k = 0; k < task.depth; ++k) {
    const uint8_t* value = from + k / 2 * (kPanelColumns * 4) + k % 2 * 2;
    task.out[k] = float_of(static_cast<uint32_t>(value[0] | value[1] << 8) << 16);
  }
}

void embed_w8(const EmbedTask& task) {
  const uint8_t* group = task.panel;
  for (int64_t done = 0; done < task.depth; done += kGroup) {
    const int64_t count = task.depth - done < kGroup ? task.depth - done : kGroup;
    const float scale = load_scale(group, task.column);
    const uint8_t* values = group + kPanelColumns * 2 + task.column * 4;
    for (int64_t k = 0; k < count; ++k) {
      const int value = values[k / 4 * (kPanelColumns * 4) + k % 4] - 128;
      task.out[done + k] = static_cast<float>(value) * scale;
    }
    group += kPanelColumns * (2 + kGroup);
  }
}

void embed_w4(const EmbedTask& task) {
  const uint8_t* group = task.panel;
  const int shift = task.column < kPanelColumns / 2 ? 0 : 4;
  for (int64_t done = 0; done < task.depth; done += kSmallGroup) {
    const int64_t count = task.depth - done < kSmallGroup ? task.depth - done : kSmallGroup;
    const float scale = load_scale(group, task.column);
    const uint8_t* values = group + kPanelColumns * 2 + task.column % (kPanelColumns / 2) * 4;
    for (int64_t k = 0; k < count; ++k) {
      const int value = ((values[k / 4 * (kPanelColumns * 2) + k % 4] >> shift) & 0x0F) - 8;
      task.out[done + k] = static_cast<float>(value) * scale;
    }
    group += kPanelColumns * (2 + kSmallGroup / 2);
  }
}
