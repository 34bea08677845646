// The canonical product: out[r, c] is ONE chain acc = fma(a[r, k], b[k, c], acc), k ascending from
// +0, then + bias[c]. Vector lanes are columns, so every element goes through that chain whatever
// the tile, the block or the thread. K is cut into blocks for the caches; between two blocks the
// chain rests in `out`, which changes nothing: it is a float32 there as it is in a register.
// Included by each unit of kernels inside its anonymous namespace.

// A slice of b of this depth and kMaxColumnBlock columns is packed for the second-level cache; one
// panel of it stays in the first.
constexpr int64_t kDepthBlock = 128;
constexpr int64_t kPackedColumns = kTileVectors * Floats::kLanes;

// One tile's view of the operands. Pointers stand at the tile's first row and column.
struct Tile {
  const float* a;
  int64_t a_stride;
  const float* b;
  int64_t b_stride;
  float* out;
  int64_t out_stride;
  int64_t depth;
  bool starts;        // acc begins at +0, else at what `out` holds
  const float* bias;  // added at the end, or null
  int64_t count;      // columns, only looked at when masked
};

template <int kRows, int kVectors, bool kMasked>
inline void compute_tile(const Tile& tile) {
  constexpr int kLanes = Floats::kLanes;
  const auto load = [&](const float* p) {
    if constexpr (kMasked) {
      return Floats::load_first(p, tile.count);
    } else {
      return Floats::load(p);
    }
  };
  Floats::Vector acc[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      acc[r][v] =
          tile.starts ? Floats::set(0.0f) : load(tile.out + r * tile.out_stride + v * kLanes);
    }
  }
  const float* a = tile.a;
  const float* b = tile.b;
  for (int64_t k = 0; k < tile.depth; ++k) {
    Floats::Vector column[kVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) column[v] = load(b + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Floats::Vector value = Floats::set(a[r * tile.a_stride]);
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) acc[r][v] = Floats::fma(value, column[v], acc[r][v]);
    }
    a += 1;
    b += tile.b_stride;
  }
  if (tile.bias != nullptr) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      const Floats::Vector bias = load(tile.bias + v * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) acc[r][v] = Floats::add(acc[r][v], bias);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      float* out = tile.out + r * tile.out_stride + v * kLanes;
      if constexpr (kMasked) {
        Floats::store_first(out, acc[r][v], tile.count);
      } else {
        Floats::store(out, acc[r][v]);
      }
    }
  }
}

// Turns the number of rows into a template argument.
template <int kRows, int kVectors, bool kMasked>
inline void choose_rows(int64_t rows, const Tile& tile) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return choose_rows<kRows - 1, kVectors, kMasked>(rows, tile);
  }
  compute_tile<kRows, kVectors, kMasked>(tile);
}

inline Tile moved(Tile tile, int64_t columns) {
  tile.b += columns;
  tile.out += columns;
  if (tile.bias != nullptr) tile.bias += columns;
  return tile;
}

// All columns of a few rows (at most kMaxRows), kVectors at a time, the rest one by one.
template <int kMaxRows, int kVectors>
void compute_strip(int64_t rows, int64_t columns, const Tile& tile) {
  constexpr int64_t kWide = kVectors * Floats::kLanes;
  int64_t c = 0;
  for (; c + kWide <= columns; c += kWide) {
    choose_rows<kMaxRows, kVectors, false>(rows, moved(tile, c));
  }
  for (; c + Floats::kLanes <= columns; c += Floats::kLanes) {
    choose_rows<kMaxRows, 1, false>(rows, moved(tile, c));
  }
  if (c < columns) {
    Tile last = moved(tile, c);
    last.count = columns - c;
    choose_rows<kMaxRows, 1, true>(rows, last);
  }
}

// Calls body(first row, rows) for tiles of nearly equal height: 16 rows are 8 + 8, not 12 + 4.
template <typename Body>
inline void for_each_row_tile(int64_t rows, Body body) {
  const int64_t tiles = (rows + kRegisterRows - 1) / kRegisterRows;
  int64_t done = 0;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t height = (rows - done) / (tiles - t);
    body(done, height);
    done += height;
  }
}

// Copies the slice's columns of b, panel after panel. Rows of b may lie pages apart, and a tile
// would read a few bytes of each: memory is quick at the long runs read here, once it is told of
// them in time, as no hardware prefetcher follows such strides.
inline void pack_panels(const Tile& slice, int64_t columns, float* panels) {
  constexpr int64_t kRowsAhead = 4;
  for (int64_t k = 0; k < slice.depth; ++k) {
    const float* from = slice.b + k * slice.b_stride;
    const float* soon = k + kRowsAhead < slice.depth ? from + kRowsAhead * slice.b_stride : from;
    float* to = panels + k * kPackedColumns;
    int64_t c = 0;
    for (; c + kPackedColumns <= columns; c += kPackedColumns, to += kDepthBlock * kPackedColumns) {
      for (int v = 0; v < kTileVectors; ++v) {
        const int64_t column = c + v * Floats::kLanes;
        Floats::store(to + v * Floats::kLanes, Floats::load(from + column));
        __builtin_prefetch(soon + column);
      }
    }
    for (; c + Floats::kLanes <= columns; c += Floats::kLanes, to += Floats::kLanes) {
      Floats::store(to, Floats::load(from + c));
    }
    if (c < columns) Floats::store(to, Floats::load_first(from + c, columns - c));
  }
}

// `block` stands at the first row and column, with the whole depth.
void compute_rows(int64_t rows, int64_t columns, const Tile& block) {
  alignas(64) float panels[kDepthBlock * kMaxColumnBlock];
  int64_t k = 0;
  do {
    Tile slice = block;
    slice.depth = block.depth - k < kDepthBlock ? block.depth - k : kDepthBlock;
    slice.a += k;
    slice.b += k * slice.b_stride;
    slice.starts = k == 0;
    if (k + slice.depth < block.depth) slice.bias = nullptr;
    pack_panels(slice, columns, panels);
    for (int64_t c = 0; c < columns; c += kPackedColumns) {
      const int64_t width = columns - c < kPackedColumns ? columns - c : kPackedColumns;
      Tile panel = moved(slice, c);
      panel.b = panels + c * kDepthBlock;
      panel.b_stride = kPackedColumns;
      for_each_row_tile(rows, [&](int64_t first, int64_t height) {
        Tile tile = panel;
        tile.a += first * tile.a_stride;
        tile.out += first * tile.out_stride;
        compute_strip<kRegisterRows, kTileVectors>(height, width, tile);
      });
    }
    k += slice.depth;
  } while (k < block.depth);
}

void product(const ProductTask& task, int64_t begin, int64_t end) {
  const int64_t blocks_of_matrix = task.num_row_blocks * task.num_column_blocks;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t matrix = item / blocks_of_matrix;
    const int64_t column = item % blocks_of_matrix / task.num_row_blocks * task.column_block;
    const int64_t row = item % task.num_row_blocks * task.row_block;
    const int64_t rows = task.m - row < task.row_block ? task.m - row : task.row_block;
    const int64_t columns =
        task.n - column < task.column_block ? task.n - column : task.column_block;
    Tile block;
    block.a = task.a + (matrix * task.m + row) * task.k;
    block.a_stride = task.k;
    block.b = task.b + matrix * task.k * task.n + column;
    block.b_stride = task.n;
    block.out = task.out + (matrix * task.m + row) * task.n + column;
    block.out_stride = task.n;
    block.depth = task.k;
    block.starts = true;
    block.bias = task.bias == nullptr ? nullptr : task.bias + column;
    block.count = 0;
    if (rows == 1) {
      compute_strip<1, kVectorsForOneRow>(rows, columns, block);
    } else if (rows <= kUnpackedRows) {
      compute_strip<kUnpackedRows, kUnpackedVectors>(rows, columns, block);
    } else {
      compute_rows(rows, columns, block);
    }
  }
}
