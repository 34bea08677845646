// Rows of a tile times panels of bytes by AMX: a group's integer sums come from the instruction
// TDPBSUD, which multiplies whole matrices, and join the results by the operations of
// panels_int8.inl, in the same order. The sums are exact, so the bits are the same.
// The algorithm is a template over what executes the instructions: the processor (tiles_amx.inl),
// or plain code (tiles_emulated.inl, for tests). Included by amx.cpp and scalar.cpp, which have one
// each, inside their anonymous namespaces, after panels_int8.inl.
//
// A panel's [fours][32 columns][4] is the right-hand operand as it lies, sixteen columns at a time
// with a step of 128 bytes. The rows are stored in the same order, but the left-hand operand wants
// each row's bytes together: they are laid out once for all panels of the task.

// The 64 bytes that LDTILECFG reads: bytes in a row, and rows, of each of eight tiles.
struct TileConfig {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

// Tiles 0 and 1 have the sums of columns 0 to 15 and 16 to 31. Step s of a group has the rows'
// bytes in tile 2 + s and the weights' in tiles 4 + 2 s and 5 + 2 s.
constexpr int kNumTiles = 8;
constexpr int kRowsTile = 2;
constexpr int kWeightsTile = 4;
constexpr int kTileRowBytes = 64;
constexpr int kTileFours = kTileRowBytes / 4;  // of a row, or rows of weights

inline TileConfig tile_config(int rows, int fours) {
  TileConfig config{};
  config.palette = 1;
  for (int tile = 0; tile < kNumTiles; ++tile) {
    const bool is_rows = tile >= kRowsTile && tile < kWeightsTile;
    config.rows[tile] = static_cast<uint8_t>(tile < kWeightsTile ? rows : fours);
    config.row_bytes[tile] = static_cast<uint16_t>(is_rows ? fours * 4 : kTileRowBytes);
  }
  return config;
}

// Inputs whose rows are laid out at once, on the stack; between two stretches results rest in
// `out`.
constexpr int64_t kStretchDepth = 1024;
constexpr int kBlockFours = kMaxTileRows * kTileFours;  // of 64 inputs of all rows
static_assert(kTileFours % Floats::kLanes == 0);        // a vector's columns are in one tile

// Fours [first, first + count) of all rows as blocks of [kMaxTileRows][kTileFours]; count is a
// multiple of kTileFours.
inline void lay_out_rows(const OperandTile& tile, int64_t first, int64_t count, uint32_t* to) {
  const auto* from = static_cast<const uint32_t*>(tile.values) + first * tile.height;
  for (int64_t four = 0; four < count; four += kTileFours) {
    for (int r = 0; r < tile.height; ++r) {
      for (int i = 0; i < kTileFours; ++i) {
        to[r * kTileFours + i] = from[(four + i) * tile.height + r];
      }
    }
    to += kBlockFours;
  }
}

// Steps from kStep on of a group: as many inputs each as a tile has in a row, or as the group has.
template <typename Format, int kStep = 0, typename Tiles>
inline void add_steps(Tiles& tiles, const uint32_t* rows, const uint8_t* weights) {
  constexpr int kFours = Format::kDepth / 4 < kTileFours ? Format::kDepth / 4 : kTileFours;
  constexpr int kWeights = kWeightsTile + 2 * kStep;
  tiles.template load<kRowsTile + kStep>(rows, kTileRowBytes);
  tiles.template load<kWeights>(weights, Format::kStep);
  tiles.template load<kWeights + 1>(weights + kTileRowBytes, Format::kStep);
  tiles.template multiply<0, kRowsTile + kStep, kWeights>();
  tiles.template multiply<1, kRowsTile + kStep, kWeights + 1>();
  if constexpr ((kStep + 1) * kFours < Format::kDepth / 4) {
    add_steps<Format, kStep + 1>(tiles, rows + kBlockFours, weights + kFours * Format::kStep);
  }
}

// Some groups of all rows and of one panel.
struct Stretch {
  const uint32_t* rows;  // as lay_out_rows left them
  const uint8_t* panel;  // at the first group
  int64_t first, last;   // groups
  bool is_first;         // results begin at +0, else at what `out` holds
  float* out;
  const uint8_t* soon;  // as in RowBlock
  int64_t soon_step;
};

template <typename Format, typename Tiles>
inline void multiply_stretch(Tiles& tiles, const PanelsTask& task, const Stretch& stretch) {
  constexpr int kLanes = Floats::kLanes;
  constexpr int kSumsOfTile = kMaxTileRows * kTileFours;
  alignas(64) static constexpr float kZeros[kPanelColumns] = {};
  alignas(64) float sums[2 * kSumsOfTile];  // integers
  alignas(64) float partial[kMaxTileRows * kPanelColumns];
  const int height = task.rows.height;
  const float* from = stretch.is_first ? kZeros : stretch.out;
  int64_t from_stride = stretch.is_first ? 0 : task.out_stride;
  float* to = partial;
  int64_t to_stride = kPanelColumns;
  const uint8_t* group = stretch.panel;
  const uint8_t* soon = stretch.soon;
  const int64_t soon_bytes = kGroupBytes<Format> * stretch.soon_step / 256;
  for (int64_t g = stretch.first; g < stretch.last; ++g) {
    for (int64_t i = 0; i < soon_bytes; i += 64) __builtin_prefetch(soon + i);
    soon += soon_bytes;
    const int64_t four = (g - stretch.first) * (Format::kDepth / 4);
    const uint32_t* rows = stretch.rows + four / kTileFours * kBlockFours + four % kTileFours;
    tiles.template zero<0>();
    tiles.template zero<1>();
    add_steps<Format>(tiles, rows, group + kPanelColumns * 2);
    tiles.template store<0>(sums, kTileRowBytes);
    tiles.template store<1>(sums + kSumsOfTile, kTileRowBytes);
    if (g + 1 == stretch.last) {
      to = stretch.out;
      to_stride = task.out_stride;
    }
    const int32_t* corrections = Format::corrections(task.rows) + g * height;
    const float* scales = task.rows.scales + g / (kGroup / Format::kDepth) * height;
    for (int column = 0; column < kPanelColumns; column += kLanes) {
      const Floats::Vector weight_scale = load_f16(group + column * 2);
      const float* column_sums = sums + column / kTileFours * kSumsOfTile + column % kTileFours;
      for (int r = 0; r < height; ++r) {
        const Floats::Ints sum =
            Floats::add(Floats::bits(Floats::load(column_sums + r * kTileFours)),
                        Floats::set_ints(static_cast<uint32_t>(corrections[r])));
        const Floats::Vector scale = Floats::multiply(weight_scale, Floats::set(scales[r]));
        const Floats::Vector before = Floats::load(from + r * from_stride + column);
        Floats::store(to + r * to_stride + column,
                      Floats::fma(Floats::to_floats(sum), scale, before));
      }
    }
    from = partial;
    from_stride = kPanelColumns;
    group += kGroupBytes<Format>;
  }
}

// `Tiles` is configured for the time of a call and released at its end, as its object lives and
// dies. A thread that kept its configuration would spare an instruction or two a call. But the
// caller of the pool computes too, in a thread that is not ours: other code may use tiles in it,
// and would meet shapes that it did not ask for. And the system saves 8 KB of tiles at each switch
// from a thread that has not released them.
template <typename Format, typename Tiles>
void multiply_by_tiles(const PanelsTask& task) {
  static_assert(Format::kStep == 2 * kTileRowBytes);
  static_assert(kStretchDepth % Format::kDepth == 0 && kGroup % kTileRowBytes == 0);
  constexpr int64_t kStretchGroups = kStretchDepth / Format::kDepth;
  constexpr int64_t kGroupFours = Format::kDepth / 4;
  alignas(64) uint32_t rows[kStretchDepth / 4 / kTileFours * kBlockFours];
  Tiles tiles(tile_config(task.rows.height,
                          static_cast<int>(kGroupFours < kTileFours ? kGroupFours : kTileFours)));
  const int64_t num_groups = task.depth / Format::kDepth;
  for (int64_t first = 0; first < num_groups; first += kStretchGroups) {
    const int64_t last = num_groups - first < kStretchGroups ? num_groups : first + kStretchGroups;
    lay_out_rows(task.rows, first * kGroupFours, (last - first) * kGroupFours, rows);
    for (int64_t index = 0; index < task.num_panels; ++index) {
      const int64_t soon_step = soon_step_of(task);
      const int64_t done = first * kGroupBytes<Format>;
      const uint8_t* panel = task.panels + index * num_groups * kGroupBytes<Format> + done;
      const uint8_t* soon =
          task.soon == nullptr ? panel + Format::kAhead : task.soon + done * soon_step / 256;
      multiply_stretch<Format>(tiles, task,
                               {rows, panel, first, last, first == 0,
                                task.out + index * kPanelColumns, soon, soon_step});
    }
  }
}

// One row is read with the vectors: memory bounds it, and a tile would have one row in sixteen.
template <typename Format, typename Tiles>
void multiply_several(const PanelsTask& task) {
  if (task.rows.height > 1) {
    multiply_by_tiles<Format, Tiles>(task);
  } else {
    multiply_panels<Format>(task);
  }
}

// Matrices of 16 x 64 times 64 x 16, of which ours fill twelve rows: what the processor can do, not
// what products ask of it. All eight tiles have one shape here, and four of them have sums, so that
// a multiplication need not wait for the one before.
template <typename Tiles>
int64_t roof_tiles(const uint8_t* memory, int64_t repeats, float* out) {
  constexpr int kRows = 16;
  constexpr int kSums = kRows * kTileFours;
  alignas(64) float sums[4 * kSums];  // integers
  Tiles tiles(tile_config(kRows, kTileFours));
  tiles.template zero<0>();
  tiles.template zero<1>();
  tiles.template zero<2>();
  tiles.template zero<3>();
  tiles.template load<4>(memory, kTileRowBytes);
  tiles.template load<5>(memory + kRoofBytes / 2, kTileRowBytes);
  for (int64_t i = 0; i < repeats; ++i) {
    tiles.template multiply<0, 4, 5>();
    tiles.template multiply<1, 4, 5>();
    tiles.template multiply<2, 4, 5>();
    tiles.template multiply<3, 4, 5>();
  }
  tiles.template store<0>(sums, kTileRowBytes);
  tiles.template store<1>(sums + kSums, kTileRowBytes);
  tiles.template store<2>(sums + 2 * kSums, kTileRowBytes);
  tiles.template store<3>(sums + 3 * kSums, kTileRowBytes);
  Floats::Vector total = Floats::set(0.0f);
  for (int i = 0; i < 4 * kSums; i += Floats::kLanes) {
    total = Floats::add(total, Floats::to_floats(Floats::bits(Floats::load(sums + i))));
  }
  Floats::store(out, total);
  return repeats * 4 * kSums * kTileRowBytes;
}
