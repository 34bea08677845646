// Rows of a tile times panels of float32 weights: the canonical product (see product.inl), with
// b in panels of 32 columns. Included by each unit of kernels inside its anonymous namespace.

// kRows rows times kVectors vectors of columns, all of the depth.
template <int kRows, int kVectors>
inline void multiply_panel(const float* a, int64_t depth, const float* panel, float* out,
                           int64_t out_stride) {
  Floats::Vector sums[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) sums[r][v] = Floats::set(0.0f);
  }
  for (int64_t k = 0; k < depth; ++k) {
    Floats::Vector column[kVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) column[v] = Floats::load(panel + v * Floats::kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Floats::Vector value = Floats::set(a[r * depth + k]);
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) sums[r][v] = Floats::fma(value, column[v], sums[r][v]);
    }
    panel += kPanelColumns;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      Floats::store(out + r * out_stride + v * Floats::kLanes, sums[r][v]);
    }
  }
}

// Turns the number of rows into a template argument.
template <int kRows, int kVectors>
inline void multiply_rows(int rows, const float* a, int64_t depth, const float* panel, float* out,
                          int64_t out_stride) {
  if constexpr (kRows > 1) {
    if (rows < kRows) {
      return multiply_rows<kRows - 1, kVectors>(rows, a, depth, panel, out, out_stride);
    }
  }
  multiply_panel<kRows, kVectors>(a, depth, panel, out, out_stride);
}

void panels_f32(const PanelsTask& task) {
  constexpr int64_t kStripColumns = kTileVectors * Floats::kLanes;
  const auto* a = static_cast<const float*>(task.rows.values);
  for (int64_t index = 0; index < task.num_panels; ++index) {
    const auto* panel =
        reinterpret_cast<const float*>(task.panels + index * panel_bytes(Format::kF32, task.depth));
    float* out = task.out + index * kPanelColumns;
    for (int64_t c = 0; c < kPanelColumns; c += kStripColumns) {
      for (int row = 0; row < task.rows.height; row += kRegisterRows) {
        const int left = task.rows.height - row;
        multiply_rows<kRegisterRows, kTileVectors>(
            left < kRegisterRows ? left : kRegisterRows, a + row * task.depth, task.depth,
            panel + c, out + row * task.out_stride + c, task.out_stride);
      }
    }
  }
}
