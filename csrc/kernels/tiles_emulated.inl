// The instructions of AMX in plain code, after their definitions in Intel's manual (SDM volume 2:
// LDTILECFG, TILELOADD, TILEZERO, TDPBSUD, TILESTORED): for tests on processors without them.
// Whatever the processor would answer with an exception is a trap. Included by scalar.cpp.

class EmulatedTiles {
 public:
  explicit EmulatedTiles(const TileConfig& config) : config_(config) {
    bool is_valid = config.palette == 1 && config.start_row == 0;
    for (const uint8_t byte : config.reserved) is_valid = is_valid && byte == 0;
    for (int tile = 0; tile < 16; ++tile) {
      const int rows = config.rows[tile], row_bytes = config.row_bytes[tile];
      is_valid = is_valid && rows <= kMaxRows && row_bytes <= kMaxRowBytes;
      is_valid = is_valid && (rows == 0) == (row_bytes == 0) && (tile < kNumTiles || rows == 0);
    }
    require(is_valid);
  }

  template <int kTile>
  void load(const void* from, int64_t step) {
    load(kTile, static_cast<const uint8_t*>(from), step);
  }
  template <int kTile>
  void zero() {
    zero(kTile);
  }
  template <int kSums, int kRows, int kWeights>
  void multiply() {
    static_assert(kSums != kRows && kSums != kWeights && kRows != kWeights);
    multiply(kSums, kRows, kWeights);
  }
  template <int kTile>
  void store(void* to, int64_t step) const {
    store(kTile, static_cast<uint8_t*>(to), step);
  }

 private:
  static constexpr int kMaxRows = 16;
  static constexpr int kMaxRowBytes = 64;

  // Not inlined, and cold: they are called from many places, and need not be fast.

  [[gnu::noinline, gnu::cold]] void load(int tile, const uint8_t* from, int64_t step) {
    zero(tile);
    for (int r = 0; r < config_.rows[tile]; ++r) {
      for (int i = 0; i < config_.row_bytes[tile]; ++i) tiles_[tile][r][i] = from[r * step + i];
    }
  }

  [[gnu::noinline, gnu::cold]] void zero(int tile) {
    require(config_.rows[tile] != 0);
    for (int r = 0; r < kMaxRows; ++r) zero_row(tile, r, 0);
  }

  // TDPBSUD: signed bytes of `left` times unsigned ones of `right`, four at a time. Sums wrap
  // around.
  [[gnu::noinline, gnu::cold]] void multiply(int sums, int left, int right) {
    const int rows = config_.rows[sums];
    const int fours = config_.row_bytes[left] / 4;
    const int columns = config_.row_bytes[sums] / 4;
    require(rows != 0 && fours != 0 && columns != 0 && config_.rows[left] == rows);
    require(config_.rows[right] == fours && config_.row_bytes[right] == columns * 4);
    require(config_.row_bytes[left] % 4 == 0 && config_.row_bytes[sums] % 4 == 0);
    for (int m = 0; m < rows; ++m) {
      for (int k = 0; k < fours; ++k) {
        for (int n = 0; n < columns; ++n) {
          uint32_t sum;
          __builtin_memcpy(&sum, &tiles_[sums][m][4 * n], 4);
          for (int i = 0; i < 4; ++i) {
            const int row_byte = static_cast<int8_t>(tiles_[left][m][4 * k + i]);
            const int weight = tiles_[right][k][4 * n + i];
            sum += static_cast<uint32_t>(row_byte * weight);
          }
          __builtin_memcpy(&tiles_[sums][m][4 * n], &sum, 4);
        }
      }
      zero_row(sums, m, columns * 4);
    }
    for (int m = rows; m < kMaxRows; ++m) zero_row(sums, m, 0);
  }

  [[gnu::noinline, gnu::cold]] void store(int tile, uint8_t* to, int64_t step) const {
    require(config_.rows[tile] != 0);
    for (int r = 0; r < config_.rows[tile]; ++r) {
      for (int i = 0; i < config_.row_bytes[tile]; ++i) to[r * step + i] = tiles_[tile][r][i];
    }
  }

  void zero_row(int tile, int row, int first) {
    for (int i = first; i < kMaxRowBytes; ++i) tiles_[tile][row][i] = 0;
  }

  static void require(bool condition) {
    if (!condition) __builtin_trap();
  }

  const TileConfig config_;
  uint8_t tiles_[kNumTiles][kMaxRows][kMaxRowBytes] = {};
};
