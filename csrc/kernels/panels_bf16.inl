// Rows of a tile times panels of bfloat16 weights: one chain of pairs an element,
// sum = fma(even, fma(odd, sum)) from +0, depth ascending. Included by each unit of kernels inside
// its anonymous namespace; the unit brings PairDots.

template <int kRows>
inline void multiply_bf16(const uint32_t* pairs, int64_t height, const uint8_t* panel,
                          int64_t depth, int pair, float* out, int64_t out_stride) {
  constexpr int kLanes = Floats::kLanes;
  constexpr int64_t kStep = kPanelColumns * 4;  // bytes of a pair of values of all columns
  Floats::Vector sums[kRows][2];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) sums[r][0] = sums[r][1] = Floats::set(0.0f);
  const uint8_t* weights = panel + pair * kLanes * 4;
#pragma GCC unroll 1
  for (int64_t k = 0; k < depth / 2; ++k) {
    const PairDots::Weights first = PairDots::load(weights);
    const PairDots::Weights second = PairDots::load(weights + kStep / 2);
    __builtin_prefetch(weights + kPrefetchAhead);
    __builtin_prefetch(weights + kPrefetchAhead + 64);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const PairDots::Two row = PairDots::two(pairs + r);
      PairDots::add(sums[r][0], first, row);
      PairDots::add(sums[r][1], second, row);
    }
    weights += kStep;
    pairs += height;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    Floats::store(out + r * out_stride + pair * kLanes, sums[r][0]);
    Floats::store(out + r * out_stride + pair * kLanes + kPanelColumns / 2, sums[r][1]);
  }
}

// Turns the number of rows into a template argument.
template <int kRows>
inline void multiply_bf16_rows(int rows, const uint32_t* pairs, int64_t height,
                               const uint8_t* panel, int64_t depth, float* out,
                               int64_t out_stride) {
  if constexpr (kRows > 1) {
    if (rows < kRows) {
      return multiply_bf16_rows<kRows - 1>(rows, pairs, height, panel, depth, out, out_stride);
    }
  }
  for (int pair = 0; pair < kVectorPairs; ++pair) {
    multiply_bf16<kRows>(pairs, height, panel, depth, pair, out, out_stride);
  }
}

void panels_bf16(const PanelsTask& task) {
  const int64_t bytes = task.depth * kPanelColumns * 2;
  for (int64_t index = 0; index < task.num_panels; ++index) {
    for (int row = 0; row < task.rows.height; row += kPairRows) {
      const int left = task.rows.height - row;
      multiply_bf16_rows<kPairRows>(
          left < kPairRows ? left : kPairRows, static_cast<const uint32_t*>(task.rows.values) + row,
          task.rows.height, task.panels + index * bytes, task.depth,
          task.out + row * task.out_stride + index * kPanelColumns, task.out_stride);
    }
  }
}
