// What sampling does with a whole row of logits: its highest, sums of integer weights, and picking
// out those above a threshold. octavo/backends/sampler.py and candidates.py are the slow twins.
// Included by each unit after elementwise.inl, inside its anonymous namespace.

#if defined(__AVX512F__)

struct Lanes {
  // b where either is NaN
  static Vector maximum(Vector a, Vector b) { return _mm512_max_ps(a, b); }
  static Mask no_lane() { return 0; }
  static Mask or_unordered(Mask mask, Vector a, Vector b) {
    return static_cast<Mask>(mask | _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q));
  }
  static uint32_t lane_bits(Mask mask) { return mask; }
  static uint32_t at_least(Vector x, Vector threshold) {
    return _mm512_cmp_ps_mask(x, threshold, _CMP_GE_OQ);
  }
  // These store the chosen lanes next to each other, then rubbish: of x, of index, index + 1, ...,
  // and of ids, of which there are `width`.
  static void store_chosen(Vector x, uint32_t chosen, float* to) {
    _mm512_storeu_ps(to, _mm512_maskz_compress_ps(static_cast<Mask>(chosen), x));
  }
  static void store_chosen_indices(int32_t index, uint32_t chosen, int32_t* to) {
    const Ints lanes =
        _mm512_add_epi32(_mm512_set1_epi32(index),
                         _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(static_cast<Mask>(chosen), lanes));
  }
  static void store_chosen_ids(const int32_t* ids, int64_t width, uint32_t chosen, int32_t* to) {
    const Ints lanes = _mm512_maskz_loadu_epi32(Floats::first(width), ids);
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(static_cast<Mask>(chosen), lanes));
  }
};

// A sum of vectors of numbers in [0, 2^40], each rounded half to even to an integer.
struct IntegerSum {
  __m512i low = _mm512_setzero_si512(), high = _mm512_setzero_si512();

  void add(Vector x) {
    low = _mm512_add_epi64(low, _mm512_cvtps_epi64(_mm512_castps512_ps256(x)));
    high = _mm512_add_epi64(high, _mm512_cvtps_epi64(_mm512_extractf32x8_ps(x, 1)));
  }
  int64_t total() const { return _mm512_reduce_add_epi64(_mm512_add_epi64(low, high)); }
};

#elif defined(__AVX2__)

// For each choice among eight lanes, where the chosen ones come from.
struct Compressions {
  int32_t from[256][8];

  constexpr Compressions() : from() {
    for (int chosen = 0; chosen < 256; ++chosen) {
      int count = 0;
      for (int lane = 0; lane < 8; ++lane) {
        if ((chosen >> lane & 1) != 0) from[chosen][count++] = lane;
      }
    }
  }
};
alignas(32) constexpr Compressions kCompressions;

struct Lanes {
  static Vector maximum(Vector a, Vector b) { return _mm256_max_ps(a, b); }
  static Mask no_lane() { return _mm256_setzero_ps(); }
  static Mask or_unordered(Mask mask, Vector a, Vector b) {
    return _mm256_or_ps(mask, _mm256_cmp_ps(a, b, _CMP_UNORD_Q));
  }
  static uint32_t lane_bits(Mask mask) { return static_cast<uint32_t>(_mm256_movemask_ps(mask)); }
  static uint32_t at_least(Vector x, Vector threshold) {
    return lane_bits(_mm256_cmp_ps(x, threshold, _CMP_GE_OQ));
  }
  static Ints places_of(uint32_t chosen) {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(kCompressions.from[chosen]));
  }
  static void store_chosen(Vector x, uint32_t chosen, float* to) {
    _mm256_storeu_ps(to, _mm256_permutevar8x32_ps(x, places_of(chosen)));
  }
  static void store_chosen_indices(int32_t index, uint32_t chosen, int32_t* to) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm256_add_epi32(_mm256_set1_epi32(index), places_of(chosen)));
  }
  static void store_chosen_ids(const int32_t* ids, int64_t width, uint32_t chosen, int32_t* to) {
    const Ints lanes = _mm256_maskload_epi32(ids, Floats::first(width));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm256_permutevar8x32_epi32(lanes, places_of(chosen)));
  }
};

struct IntegerSum {
  // 2^52 + x has x, rounded to an integer, in the low bits of its float64.
  __m256i bits = _mm256_setzero_si256();
  uint64_t num_added = 0;

  void add(Vector x) {
    const __m256d rounder = _mm256_set1_pd(0x1p52);
    const __m256d low = _mm256_add_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(x)), rounder);
    const __m256d high = _mm256_add_pd(_mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)), rounder);
    bits = _mm256_add_epi64(bits, _mm256_castpd_si256(low));
    bits = _mm256_add_epi64(bits, _mm256_castpd_si256(high));
    num_added += 8;
  }
  int64_t total() const {
    alignas(32) uint64_t lanes[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), bits);
    const uint64_t sum = lanes[0] + lanes[1] + lanes[2] + lanes[3];
    return static_cast<int64_t>(sum - num_added * __builtin_bit_cast(uint64_t, 0x1p52));
  }
};

#else

struct Lanes {
  static Vector maximum(Vector a, Vector b) { return a > b ? a : b; }
  static Mask no_lane() { return false; }
  static Mask or_unordered(Mask mask, Vector a, Vector b) {
    return mask || __builtin_isunordered(a, b);
  }
  static uint32_t lane_bits(Mask mask) { return mask; }
  static uint32_t at_least(Vector x, Vector threshold) { return x >= threshold; }
  static void store_chosen(Vector x, uint32_t, float* to) { *to = x; }
  static void store_chosen_indices(int32_t index, uint32_t, int32_t* to) { *to = index; }
  static void store_chosen_ids(const int32_t* ids, int64_t, uint32_t, int32_t* to) { *to = *ids; }
};

struct IntegerSum {
  uint64_t bits = 0, num_added = 0;

  void add(Vector x) {
    bits += __builtin_bit_cast(uint64_t, static_cast<double>(x) + 0x1p52);
    num_added += 1;
  }
  int64_t total() const {
    return static_cast<int64_t>(bits - num_added * __builtin_bit_cast(uint64_t, 0x1p52));
  }
};

#endif

static_assert(kMaximaLanes % Floats::kLanes == 0 && kLogitBlock % (4 * kMaximaLanes) == 0);
constexpr int64_t kVectorsOfMaxima = kMaximaLanes / Floats::kLanes;

// A block that ends with the row is continued with a number that changes nothing.
struct PaddedBlock {
  float x[kLogitBlock];

  const float* of(const float* row, int64_t begin, int64_t end, float padding) {
    if (end - begin >= kLogitBlock) return row + begin;
    int64_t i = 0;
    for (; i < end - begin; ++i) x[i] = row[begin + i];
    for (; i < kLogitBlock; ++i) x[i] = padding;
    return x;
  }
};

void sampling_peak(const PeakTask& task, int64_t begin, int64_t end, RowPeak* found) {
  constexpr int64_t kChains = 4;  // maxima that do not wait for each other
  const Vector lowest = Floats::set(-__builtin_inff());
  Vector best[kVectorsOfMaxima], block_of_best[kVectorsOfMaxima];
  const int64_t first_block = begin / kLogitBlock;
  for (int64_t c = 0; c < kVectorsOfMaxima; ++c) {
    best[c] = lowest;
    block_of_best[c] = Floats::set(0.0f);
  }
  Mask nan = Lanes::no_lane();
  PaddedBlock padded;
  for (int64_t start = begin; start < end; start += kLogitBlock) {
    const float* x = padded.of(task.x, start, end, -__builtin_inff());
    Vector maxima[kChains][kVectorsOfMaxima];
    for (int64_t chain = 0; chain < kChains; ++chain) {
      for (int64_t c = 0; c < kVectorsOfMaxima; ++c) maxima[chain][c] = lowest;
    }
    for (int64_t i = 0; i < kLogitBlock; i += kChains * kMaximaLanes) {
      for (int64_t c = 0; c < kVectorsOfMaxima; ++c) {
        Vector v[kChains];
        for (int64_t chain = 0; chain < kChains; ++chain) {
          v[chain] = Floats::load(x + i + chain * kMaximaLanes + c * Floats::kLanes);
          maxima[chain][c] = Lanes::maximum(v[chain], maxima[chain][c]);
        }
        for (int64_t chain = 0; chain < kChains; chain += 2) {
          nan = Lanes::or_unordered(nan, v[chain], v[chain + 1]);
        }
      }
    }
    const int64_t block = start / kLogitBlock;
    const Vector number = Floats::set(static_cast<float>(block - first_block));
    for (int64_t c = 0; c < kVectorsOfMaxima; ++c) {
      const Vector highest = Lanes::maximum(Lanes::maximum(maxima[0][c], maxima[1][c]),
                                            Lanes::maximum(maxima[2][c], maxima[3][c]));
      if (task.maxima != nullptr) {
        Floats::store(task.maxima + block * kMaximaLanes + c * Floats::kLanes, highest);
      }
      const Mask higher = Floats::less(best[c], highest);
      best[c] = Floats::select(higher, highest, best[c]);
      block_of_best[c] = Floats::select(higher, number, block_of_best[c]);
    }
  }

  float values[kMaximaLanes], blocks[kMaximaLanes];
  for (int64_t c = 0; c < kVectorsOfMaxima; ++c) {
    Floats::store(values + c * Floats::kLanes, best[c]);
    Floats::store(blocks + c * Floats::kLanes, block_of_best[c]);
  }
  int64_t lane = 0;
  for (int64_t l = 1; l < kMaximaLanes; ++l) {
    if (values[l] > values[lane] || (values[l] == values[lane] && blocks[l] < blocks[lane])) {
      lane = l;
    }
  }
  int64_t index = (first_block + static_cast<int64_t>(blocks[lane])) * kLogitBlock;
  while (index < end && !(task.x[index] == values[lane])) ++index;
  found->has_nan = Lanes::lane_bits(nan) != 0;
  found->index = index;
  found->value = index < end ? task.x[index] : values[lane];
}

// Mostly no logit reaches the peak so far, and that is all there is to find out.
void sampling_raise_peak(const float* x, int64_t first, int64_t count, RowPeak* peak) {
  const Vector so_far = Floats::set(peak->value);
  Mask nan = Lanes::no_lane();
  uint32_t reached = 0;
  int64_t i = 0;
  for (; i + 2 * Floats::kLanes <= count; i += 2 * Floats::kLanes) {
    const Vector one = Floats::load(x + i), other = Floats::load(x + i + Floats::kLanes);
    nan = Lanes::or_unordered(nan, one, other);
    reached |= Lanes::at_least(one, so_far) | Lanes::at_least(other, so_far);
  }
  bool has_nan = Lanes::lane_bits(nan) != 0;
  for (; i < count; ++i) {
    has_nan |= x[i] != x[i];
    reached |= x[i] >= peak->value;
  }
  peak->has_nan |= has_nan;
  if (reached == 0) return;
  for (i = 0; i < count; ++i) {
    const bool is_higher = x[i] > peak->value || (x[i] == peak->value && first + i < peak->index);
    if (is_higher) *peak = RowPeak{x[i], first + i, peak->has_nan};
  }
}

template <bool kDivide>
inline Vector log_weights(const float* x, Vector peak, Vector temperature) {
  const Vector difference = Floats::subtract(Floats::load(x), peak);
  return kDivide ? Floats::divide(difference, temperature) : difference;
}

// e^x * 2^40 for x <= 0, with the bits that exp_of gives where that is not far below 1/2.
inline Vector scaled_exp(Vector x) {
  x = Lanes::maximum(x, Floats::set(-64.0f));
  const ExpParts parts = exp_parts(x);
  const Ints power =
      Floats::subtract(Floats::bits(parts.shifted), Floats::bits(Floats::set(kRounder - 40.0f)));
  return Floats::from_bits(
      Floats::add(Floats::bits(parts.mantissa), Floats::shift_left<23>(power)));
}

template <bool kDivide>
inline void weigh_blocks(const WeighTask& task, int64_t begin, int64_t end) {
  const Vector peak = Floats::set(task.peak);
  const Vector temperature = Floats::set(task.temperature);
  PaddedBlock padded;
  for (int64_t start = begin; start < end; start += kLogitBlock) {
    const float* x = padded.of(task.x, start, end, -__builtin_inff());
    IntegerSum sum;
    for (int64_t i = 0; i < kLogitBlock; i += Floats::kLanes) {
      sum.add(scaled_exp(log_weights<kDivide>(x + i, peak, temperature)));
    }
    task.sums[start / kLogitBlock] = sum.total();
  }
}

void sampling_weigh(const WeighTask& task, int64_t begin, int64_t end) {
  if (task.temperature == 1.0f) {  // what dividing by 1 gives
    weigh_blocks<false>(task, begin, end);
  } else {
    weigh_blocks<true>(task, begin, end);
  }
}

void sampling_fractions(const FractionsTask& task, int64_t count) {
  const Vector peak = Floats::set(task.peak);
  const Vector temperature = Floats::set(task.temperature);
  int64_t i = 0;
  for (; i + Floats::kLanes <= count; i += Floats::kLanes) {
    Floats::store(task.out + i, exp_of(log_weights<true>(task.x + i, peak, temperature)));
  }
  if (i < count) {
    const Vector x = Floats::load_first(task.x + i, count - i);
    const Vector power = Floats::divide(Floats::subtract(x, peak), temperature);
    Floats::store_first(task.out + i, exp_of(power), count - i);
  }
}

int64_t sampling_gather(const GatherTask& task, int64_t begin, int64_t end, int64_t count) {
  constexpr int64_t kTogether = 4;  // mostly none is found, and one branch says so
  const Vector threshold = Floats::set(task.threshold);
  PaddedBlock padded;
  for (int64_t start = begin; start < end; start += kLogitBlock) {
    const float* x = padded.of(task.x, start, end, __builtin_nanf(""));  // never found
    for (int64_t i = 0; i < kLogitBlock; i += kTogether * Floats::kLanes) {
      Vector v[kTogether];
      uint32_t chosen[kTogether], any = 0;
      for (int64_t t = 0; t < kTogether; ++t) {
        v[t] = Floats::load(x + i + t * Floats::kLanes);
        chosen[t] = Lanes::at_least(v[t], threshold);
        any |= chosen[t];
      }
      if (any == 0) continue;
      for (int64_t t = 0; t < kTogether; ++t) {
        const int64_t index = start + i + t * Floats::kLanes;
        Lanes::store_chosen(v[t], chosen[t], task.values + count);
        Lanes::store_chosen_indices(static_cast<int32_t>(index), chosen[t], task.ids + count);
        count += __builtin_popcount(chosen[t]);
      }
    }
  }
  return count;
}

int64_t sampling_mass(const MassTask& task, int64_t begin, int64_t end) {
  const Vector threshold = Floats::set(task.threshold);
  const Vector one = Floats::set(0x1p40f);
  const Vector zero = Floats::set(0.0f);
  IntegerSum sum;
  int64_t i = begin;
  for (; i + Floats::kLanes <= end; i += Floats::kLanes) {
    const Mask below = Floats::less(Floats::load(task.values + i), threshold);
    const Vector scaled = Floats::multiply(Floats::load(task.fractions + i), one);
    sum.add(Floats::select(below, zero, scaled));
  }
  if (i < end) {  // lanes beyond the end have the fraction 0
    const int64_t count = end - i;
    const Mask below = Floats::less(Floats::load_first(task.values + i, count), threshold);
    const Vector scaled = Floats::multiply(Floats::load_first(task.fractions + i, count), one);
    sum.add(Floats::select(below, zero, scaled));
  }
  return sum.total();
}

int64_t sampling_keep(const KeepTask& task, int64_t begin, int64_t end, int64_t count) {
  const Vector low = Floats::set(task.low);
  const Vector high = Floats::set(task.high);
  for (int64_t i = begin; i < end; i += Floats::kLanes) {
    const int64_t width = end - i < Floats::kLanes ? end - i : Floats::kLanes;
    const Vector values = Floats::load_first(task.values + i, width);
    const Vector fractions = Floats::load_first(task.fractions + i, width);
    const uint32_t chosen = Lanes::at_least(values, low) &
                            Lanes::lane_bits(Floats::less(values, high)) & ((1u << width) - 1);
    if (task.ids != nullptr) {
      Lanes::store_chosen_ids(task.ids + i, width, chosen, task.new_ids + count);
    }
    Lanes::store_chosen(values, chosen, task.new_values + count);
    Lanes::store_chosen(fractions, chosen, task.new_fractions + count);
    count += __builtin_popcount(chosen);
  }
  return count;
}

constexpr SamplingKernels sampling_kernels = {
    sampling_peak,   sampling_raise_peak, sampling_weigh, sampling_fractions,
    sampling_gather, sampling_mass,       sampling_keep};
