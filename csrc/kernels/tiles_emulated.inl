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
    zero<kTile>();
    for (int r = 0; r < config_.rows[kTile]; ++r) {
      const auto* row = static_cast<const uint8_t*>(from) + r * step;
      for (int i = 0; i < config_.row_bytes[kTile]; ++i) tiles_[kTile][r][i] = row[i];
    }
  }

  template <int kTile>
  void zero() {
    require(config_.rows[kTile] != 0);
    for (auto& row : tiles_[kTile]) {
      for (uint8_t& byte : row) byte = 0;
    }
  }

  // TDPBSUD: signed bytes of kRows times unsigned ones of kWeights, four at a time. Sums wrap
  // around.
  template <int kSums, int kRows, int kWeights>
  void multiply() {
    static_assert(kSums != kRows && kSums != kWeights && kRows != kWeights);
    const int rows = config_.rows[kSums];
    const int fours = config_.row_bytes[kRows] / 4;
    const int columns = config_.row_bytes[kSums] / 4;
    require(rows != 0 && fours != 0 && columns != 0 && config_.rows[kRows] == rows);
    require(config_.rows[kWeights] == fours && config_.row_bytes[kWeights] == columns * 4);
    require(config_.row_bytes[kRows] % 4 == 0 && config_.row_bytes[kSums] % 4 == 0);
    for (int m = 0; m < rows; ++m) {
      for (int k = 0; k < fours; ++k) {
        for (int n = 0; n < columns; ++n) {
          uint32_t sum;
          __builtin_memcpy(&sum, &tiles_[kSums][m][4 * n], 4);
          for (int i = 0; i < 4; ++i) {
            const int row_byte = static_cast<int8_t>(tiles_[kRows][m][4 * k + i]);
            const int weight = tiles_[kWeights][k][4 * n + i];
            sum += static_cast<uint32_t>(row_byte * weight);
          }
          __builtin_memcpy(&tiles_[kSums][m][4 * n], &sum, 4);
        }
      }
      for (int i = columns * 4; i < kMaxRowBytes; ++i) tiles_[kSums][m][i] = 0;
    }
    for (int m = rows; m < kMaxRows; ++m) {
      for (uint8_t& byte : tiles_[kSums][m]) byte = 0;
    }
  }

  template <int kTile>
  void store(void* to, int64_t step) const {
    require(config_.rows[kTile] != 0);
    for (int r = 0; r < config_.rows[kTile]; ++r) {
      __builtin_memcpy(static_cast<uint8_t*>(to) + r * step, tiles_[kTile][r],
                       config_.row_bytes[kTile]);
    }
  }

 private:
  static constexpr int kMaxRows = 16;
  static constexpr int kMaxRowBytes = 64;

  static void require(bool condition) {
    if (!condition) __builtin_trap();
  }

  const TileConfig config_;
  uint8_t tiles_[kNumTiles][kMaxRows][kMaxRowBytes] = {};
};
