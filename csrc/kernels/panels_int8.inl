// Rows of a tile times panels of integer weights. Each group gives an exact integer sum an element;
// sums join the result in ascending order by fma(float(sum), weight scale * row scale, result),
// from +0. Included by each unit of kernels inside its anonymous namespace; the unit brings Dots
// and NibbleDots, its ways to add four products a column.

constexpr int kVectorPairs = kPanelColumns / 2 / Dots::kLanes;
constexpr int64_t kPrefetchAhead = 3072;  // bytes

// What a format stores for a group, and how four values of two vectors of columns are read: pair h
// has the columns from h * kLanes and those from 16 + h * kLanes.
struct W8 {
  using Dot = Dots;
  static constexpr int kDepth = kGroup;
  static constexpr int kStep = 2 * 64;  // bytes of four values of all columns
  static constexpr int64_t kAhead = kPrefetchAhead;
  static constexpr int kMaxRows = kDotRows;
  static const int32_t* corrections(const OperandTile& tile) { return tile.corrections; }
  static Dot::Weights first(const uint8_t* four) { return Dot::load(four); }
  static Dot::Weights second(const uint8_t* four) { return Dot::load(four + 64); }
};

struct W4 {
  using Dot = NibbleDots;
  static constexpr int kDepth = kSmallGroup;
  static constexpr int kStep = 64;
  static constexpr int64_t kAhead = 2 * kPrefetchAhead;  // its bytes are used up sooner
  static constexpr int kMaxRows = kNibbleRows;
  static const int32_t* corrections(const OperandTile& tile) { return tile.corrections_4; }
  static Dot::Weights first(const uint8_t* four) { return Dot::load_low(four); }
  static Dot::Weights second(const uint8_t* four) { return Dot::load_high(four); }
};

struct UnpackedW4 {
  using Dot = NibbleDots;
  static constexpr int kDepth = kSmallGroup;
  static constexpr int kStep = 2 * 64;
  static constexpr int64_t kAhead = kPrefetchAhead;
  static constexpr int kMaxRows = kNibbleRows;
  static const int32_t* corrections(const OperandTile& tile) { return tile.corrections_4; }
  static Dot::Weights first(const uint8_t* four) { return Dot::load(four); }
  static Dot::Weights second(const uint8_t* four) { return Dot::load(four + 64); }
};

template <typename Format>
constexpr int64_t kGroupBytes = kPanelColumns * 2 + Format::kDepth / 4 * Format::kStep;

// Some rows of a tile and one panel; pointers stand at the first of these rows.
struct RowBlock {
  const int8_t* values;
  const float* scales;
  const int32_t* corrections;
  int64_t height;  // of the tile: distance of two fours of a row
  const uint8_t* panel;
  int64_t depth;
  float* out;
  int64_t out_stride;
  const uint8_t* soon;  // what is prefetched at the beginning of the panel,
  int64_t soon_step;    // and how much further it is after 256 bytes of the panel
};

// kRows rows times the pair of vectors `pair`, along the whole depth. Between two groups results
// rest in `partial`: registers hold integer sums, and one row has several chains of them, as one
// would wait for its own last addition.
template <typename Format, int kRows>
inline void multiply_pair(const RowBlock& block, int pair) {
  using Dot = typename Format::Dot;
  constexpr int kChains = kRows > 1 ? 1 : Format::kDepth == kGroup ? 4 : 2;
  constexpr int kUnroll = kChains == 4 ? 4 : 2;
  constexpr int kLanes = Dot::kLanes;
  constexpr int kScaleRepeat = kGroup / Format::kDepth;  // groups of weights a row scale is for
  alignas(64) static constexpr float kZeros[2 * kLanes] = {};
  alignas(64) float partial[kRows * 2 * kLanes];
  const float* from = kZeros;
  int64_t from_stride = 0, from_gap = kLanes;
  float* to = partial;
  int64_t to_stride = 2 * kLanes, to_gap = kLanes;
  const int64_t num_groups = block.depth / Format::kDepth;
  const int8_t* values = block.values;
  const uint8_t* group = block.panel;
  const uint8_t* soon = block.soon;
  constexpr int kTurnBytes = kUnroll * Format::kStep;
  const int64_t soon_step = block.soon_step * kTurnBytes / 256;
  for (int64_t g = 0; g < num_groups; ++g) {
    typename Dot::Sums sums[kChains][kRows][2];
    const int32_t* corrections = block.corrections + g * block.height;
    __builtin_prefetch(soon);
    if (block.soon_step == 256) soon += kPanelColumns * 2;
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      sums[0][r][0] = sums[0][r][1] = Dot::start(corrections[r]);
#pragma GCC unroll 16
      for (int c = 1; c < kChains; ++c) sums[c][r][0] = sums[c][r][1] = Dot::start(0);
    }
    const uint8_t* fours = group + kPanelColumns * 2 + pair * kLanes * 4;
    // Were the number of turns known, gcc 12 would copy all sums in each of them.
    int turns = Format::kDepth / 4 / kUnroll;
    asm("" : "+r"(turns));
#pragma GCC unroll 1
    for (; turns > 0; --turns) {
#pragma GCC unroll 16
      for (int u = 0; u < kUnroll; ++u) {
        const uint8_t* four = fours + u * Format::kStep;
        const typename Dot::Weights first = Format::first(four);
        const typename Dot::Weights second = Format::second(four);
        __builtin_prefetch(soon + u * Format::kStep);
        if constexpr (Format::kStep > 64) __builtin_prefetch(soon + u * Format::kStep + 64);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          const typename Dot::Four row = Dot::four(values + r * 4);
          Dot::add(sums[u % kChains][r][0], first, row);
          Dot::add(sums[u % kChains][r][1], second, row);
        }
        values += block.height * 4;
      }
      fours += kTurnBytes;
      soon += soon_step;
    }
    if (g + 1 == num_groups) {
      to = block.out + pair * kLanes;
      to_stride = block.out_stride;
      to_gap = kPanelColumns / 2;
    }
    const Floats::Vector first_scale = load_f16(group + pair * kLanes * 2);
    const Floats::Vector second_scale = load_f16(group + kPanelColumns + pair * kLanes * 2);
    const float* scales = block.scales + g / kScaleRepeat * block.height;
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
      for (int v = 0; v < 2; ++v) {
        typename Dot::Sums sum = sums[0][r][v];
#pragma GCC unroll 16
        for (int c = 1; c < kChains; ++c) sum = Dot::join(sum, sums[c][r][v]);
        const Floats::Vector scale =
            Floats::multiply(v == 0 ? first_scale : second_scale, Floats::set(scales[r]));
        const Floats::Vector before = Floats::load(from + r * from_stride + v * from_gap);
        Floats::store(to + r * to_stride + v * to_gap,
                      Floats::fma(Floats::to_floats(Dot::total(sum)), scale, before));
      }
    }
    from = partial;
    from_stride = 2 * kLanes;
    group += kGroupBytes<Format>;
  }
}

// Turns the number of rows into a template argument.
template <typename Format, int kRows>
inline void multiply_pairs(int rows, const RowBlock& block) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return multiply_pairs<Format, kRows - 1>(rows, block);
  }
  for (int pair = 0; pair < kVectorPairs; ++pair) multiply_pair<Format, kRows>(block, pair);
}

// In whole cache lines, of four that a turn covers.
inline int64_t soon_step_of(const PanelsTask& task) {
  if (task.soon == nullptr) return 256;
  return task.num_shares <= 1 ? 256 : task.num_shares <= 3 ? 128 : 64;
}

template <typename Format>
void multiply_panels(const PanelsTask& task) {
  const OperandTile& tile = task.rows;
  const int64_t bytes = task.depth / Format::kDepth * kGroupBytes<Format>;
  for (int64_t index = 0; index < task.num_panels; ++index) {
    const uint8_t* panel = task.panels + index * bytes;
    for (int row = 0; row < tile.height; row += Format::kMaxRows) {
      const int left = tile.height - row;
      const RowBlock block{static_cast<const int8_t*>(tile.values) + row * 4,
                           tile.scales + row,
                           Format::corrections(tile) + row,
                           tile.height,
                           panel,
                           task.depth,
                           task.out + row * task.out_stride + index * kPanelColumns,
                           task.out_stride,
                           task.soon == nullptr ? panel + Format::kAhead : task.soon,
                           soon_step_of(task)};
      multiply_pairs<Format, Format::kMaxRows>(left < Format::kMaxRows ? left : Format::kMaxRows,
                                               block);
    }
  }
}

void panels_w8(const PanelsTask& task) { multiply_panels<W8>(task); }
void panels_w4(const PanelsTask& task) { multiply_panels<W4>(task); }
void panels_w4_unpacked(const PanelsTask& task) { multiply_panels<UnpackedW4>(task); }

void unpack_w4(const uint8_t* panel, int64_t depth, uint8_t* unpacked) {
  for (int64_t group = 0; group < depth / kSmallGroup; ++group) {
    for (int i = 0; i < kPanelColumns * 2; ++i) unpacked[i] = panel[i];
    panel += kPanelColumns * 2;
    unpacked += kPanelColumns * 2;
    for (int four = 0; four < kSmallGroup / 4; ++four) {
      for (int i = 0; i < 64; ++i) {
        unpacked[i] = panel[i] & 0x0F;
        unpacked[64 + i] = panel[i] >> 4;
      }
      panel += 64;
      unpacked += 128;
    }
  }
}
