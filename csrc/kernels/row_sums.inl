// Canonical sums of rows. Sixteen lanes whatever the vector length: lane l adds the elements
// l, l + 16, l + 32, ... in that order, starting from +0; then lane i takes lane i + 8, then i + 4,
// i + 2 and i + 1. Included by each unit of kernels inside its anonymous namespace.

template <bool kSquares>
inline Floats::Vector add_term(Floats::Vector sum, Floats::Vector x) {
  return kSquares ? Floats::fma(x, x, sum) : Floats::add(sum, x);
}

template <bool kSquares>
inline float canonical_row_sum(const float* x, int64_t length) {
  constexpr int kSumLanes = 16;
  constexpr int kVectors = kSumLanes / Floats::kLanes;
  Floats::Vector sums[kVectors];
  for (int v = 0; v < kVectors; ++v) sums[v] = Floats::set(0.0f);
  int64_t i = 0;
  for (; i + kSumLanes <= length; i += kSumLanes) {
    for (int v = 0; v < kVectors; ++v) {
      sums[v] = add_term<kSquares>(sums[v], Floats::load(x + i + v * Floats::kLanes));
    }
  }
  // A missing element adds +0, which changes no sum: a sum that starts at +0 is never -0.
  for (int v = 0; v < kVectors; ++v) {
    int64_t count = length - i - v * Floats::kLanes;
    if (count <= 0) break;
    if (count > Floats::kLanes) count = Floats::kLanes;
    sums[v] = add_term<kSquares>(sums[v], Floats::load_first(x + i + v * Floats::kLanes, count));
  }
  float lanes[kSumLanes];
  for (int v = 0; v < kVectors; ++v) Floats::store(lanes + v * Floats::kLanes, sums[v]);
  for (int width = kSumLanes / 2; width >= 1; width /= 2) {
    for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

void row_sums(const RowsTask& task, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    task.out[row] = canonical_row_sum<false>(task.x + row * task.row_length, task.row_length);
  }
}

void row_sums_of_squares(const RowsTask& task, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    task.out[row] = canonical_row_sum<true>(task.x + row * task.row_length, task.row_length);
  }
}
