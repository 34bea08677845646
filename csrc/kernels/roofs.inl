// What this machine can do at the most, for measurements: reading memory, and the additions of
// products that the kernels are made of, on registers and a few cached bytes. Included by each unit
// of kernels inside its anonymous namespace, after those that it measures.

uint64_t roof_read(const uint8_t* memory, int64_t bytes) {
  constexpr int kVectors = 8;
  constexpr int kLanes = Floats::kLanes;
  const auto* words = reinterpret_cast<const float*>(memory);
  Floats::Ints sums[kVectors];
#pragma GCC unroll 16
  for (int v = 0; v < kVectors; ++v) sums[v] = Floats::set_ints(0);
  for (int64_t i = 0; i < bytes / 4; i += kVectors * kLanes) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      sums[v] = Floats::add(sums[v], Floats::bits(Floats::load(words + i + v * kLanes)));
      if (v * kLanes % 16 == 0) __builtin_prefetch(words + i + v * kLanes + kPrefetchAhead / 4);
    }
  }
  float lanes[kVectors * kLanes];
#pragma GCC unroll 16
  for (int v = 0; v < kVectors; ++v) Floats::store(lanes + v * kLanes, Floats::from_bits(sums[v]));
  uint64_t total = 0;
  for (const float lane : lanes) total += bits_of(lane);
  return total;
}

constexpr int64_t kRoofStep = 128;  // bytes of two vectors of weights

int64_t roof_int8(const uint8_t* memory, int64_t repeats, float* out) {
  Dots::Sums sums[kDotRows][2];
#pragma GCC unroll 16
  for (int r = 0; r < kDotRows; ++r) {
    sums[r][0] = Dots::start(2 * r);
    sums[r][1] = Dots::start(2 * r + 1);
  }
  const auto* signed_memory = reinterpret_cast<const int8_t*>(memory);
  const Dots::Four fours[2] = {Dots::four(signed_memory), Dots::four(signed_memory + 4)};
  for (int64_t i = 0; i < repeats; ++i) {
    const int64_t at = i * kRoofStep % kRoofBytes;
    const Dots::Weights weights[2] = {Dots::load(memory + at), Dots::load(memory + at + 64)};
#pragma GCC unroll 16
    for (int r = 0; r < kDotRows; ++r) {
      Dots::add(sums[r][0], weights[0], fours[r % 2]);
      Dots::add(sums[r][1], weights[1], fours[r % 2]);
    }
  }
  Floats::Vector total = Floats::set(0.0f);
#pragma GCC unroll 16
  for (int r = 0; r < kDotRows; ++r) {
    total = Floats::add(total, Floats::to_floats(Dots::total(sums[r][0])));
    total = Floats::add(total, Floats::to_floats(Dots::total(sums[r][1])));
  }
  Floats::store(out, total);
  return repeats * kDotRows * 2 * Dots::kLanes * 4;
}

int64_t roof_bf16(const uint8_t* memory, int64_t repeats, float* out) {
  Floats::Vector sums[kPairRows][2];
#pragma GCC unroll 16
  for (int r = 0; r < kPairRows; ++r) {
    sums[r][0] = Floats::set(static_cast<float>(2 * r));
    sums[r][1] = Floats::set(static_cast<float>(2 * r + 1));
  }
  const auto* words = reinterpret_cast<const uint32_t*>(memory);
  const PairDots::Two twos[2] = {PairDots::two(words), PairDots::two(words + 1)};
  for (int64_t i = 0; i < repeats; ++i) {
    const int64_t at = i * kRoofStep % kRoofBytes;
    const PairDots::Weights weights[2] = {PairDots::load(memory + at),
                                          PairDots::load(memory + at + 64)};
#pragma GCC unroll 16
    for (int r = 0; r < kPairRows; ++r) {
      PairDots::add(sums[r][0], weights[0], twos[r % 2]);
      PairDots::add(sums[r][1], weights[1], twos[r % 2]);
    }
  }
  Floats::Vector total = Floats::set(0.0f);
#pragma GCC unroll 16
  for (int r = 0; r < kPairRows; ++r) {
    total = Floats::add(Floats::add(total, sums[r][0]), sums[r][1]);
  }
  Floats::store(out, total);
  return repeats * kPairRows * 2 * Floats::kLanes * 2;
}

int64_t roof_f32(const uint8_t* memory, int64_t repeats, float* out) {
  Floats::Vector sums[kPairRows][2];
#pragma GCC unroll 16
  for (int r = 0; r < kPairRows; ++r) {
    sums[r][0] = Floats::set(static_cast<float>(2 * r));
    sums[r][1] = Floats::set(static_cast<float>(2 * r + 1));
  }
  const auto* floats = reinterpret_cast<const float*>(memory);
  const Floats::Vector values[2] = {Floats::set(floats[0]), Floats::set(floats[1])};
  for (int64_t i = 0; i < repeats; ++i) {
    const int64_t at = i * kRoofStep % kRoofBytes;
    const Floats::Vector weights[2] = {Floats::load(floats + at / 4),
                                       Floats::load(floats + at / 4 + 16)};
#pragma GCC unroll 16
    for (int r = 0; r < kPairRows; ++r) {
      sums[r][0] = Floats::fma(values[r % 2], weights[0], sums[r][0]);
      sums[r][1] = Floats::fma(values[r % 2], weights[1], sums[r][1]);
    }
  }
  Floats::Vector total = Floats::set(0.0f);
#pragma GCC unroll 16
  for (int r = 0; r < kPairRows; ++r) {
    total = Floats::add(Floats::add(total, sums[r][0]), sums[r][1]);
  }
  Floats::store(out, total);
  return repeats * kPairRows * 2 * Floats::kLanes;
}
