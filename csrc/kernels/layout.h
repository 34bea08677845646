// Shapes of packed memory that kernels, packers and the executor share; the same in words and with
// a picture: docs/concepts/kernels.md.
//
// A weight matrix (out, in) becomes panels of 32 columns (outputs), one after the other; a panel
// holds its columns along the whole depth (inputs):
//   f32   [depth][32 columns]
//   bf16  [depth / 2][32 columns][2]
//   w8    a group of 128: [32 scales f16][32][32 columns][4] u8 = value + 128
//   w4    a group of 32:  [32 scales f16][8][64 bytes] nibble = value + 8; each 64 bytes: 4 values
//         of 32 columns, the low nibbles those of columns 0 to 15, the high ones of 16 to 31; byte
//         4 c + k belongs to column c (and c + 16), value k
// Columns are padded to 32 and depth to its unit with zeros (their scale is 0).
//
// An operand (rows, depth) is what a product multiplies. Its rows are cut into tiles of nearly
// equal height, at most 12; what belongs to a tile is contiguous, rows in the innermost place but
// one:
//   f32   [height][depth]
//   bf16  [depth / 2][height][2]
//   int8  values [depth / 4][height][4], scales [depth / 128][height] f32, and what the unsigned
//         weights add too much, [depth / 128][height] i32 = -128 * sum(values of the group) and
//         [depth / 32][height] i32 = -8 * sum(values of the small group)
#pragma once

#include <stdint.h>

namespace octavo {

constexpr int kPanelColumns = 32;
constexpr int kMaxTileRows = 12;
constexpr int kGroup = 128;
constexpr int kSmallGroup = 32;
constexpr int kPageTokens = 16;
constexpr int kChunkTokens = 256;  // attention reduces over chunks at multiples of this
constexpr int kChunkPages = kChunkTokens / kPageTokens;
constexpr int kMaxHeadDim = 256;

enum class Format : int32_t { kF32, kBf16, kW8, kW4 };
enum class KvFormat : int32_t { kF32, kBf16, kInt8 };

// Tiles of `rows` rows: tile i begins at row first(i). 16 rows are 8 + 8, not 12 + 4.
struct RowTiles {
  int64_t rows;

  int64_t count() const { return (rows + kMaxTileRows - 1) / kMaxTileRows; }
  int64_t first(int64_t tile) const { return tile * rows / count(); }
  int height(int64_t tile) const { return static_cast<int>(first(tile + 1) - first(tile)); }
};

constexpr int64_t padded(int64_t size, int64_t unit) { return (size + unit - 1) / unit * unit; }

constexpr int64_t depth_unit(Format format) {
  return format == Format::kF32 ? 1 : format == Format::kBf16 ? 2 : kGroup;
}

// Bytes of one panel; `depth` is padded to depth_unit.
constexpr int64_t panel_bytes(Format format, int64_t depth) {
  switch (format) {
    case Format::kF32:
      return depth * kPanelColumns * 4;
    case Format::kBf16:
      return depth * kPanelColumns * 2;
    case Format::kW8:
      return depth / kGroup * (kPanelColumns * 2 + kGroup * kPanelColumns);
    case Format::kW4:
      return depth / kSmallGroup * (kPanelColumns * 2 + kSmallGroup * kPanelColumns / 2);
  }
  return 0;
}

// Bytes of one panel of w4 once it is unpacked: each group of 32 as [32 scales f16][8][32][4] u8.
constexpr int64_t unpacked_panel_bytes(int64_t depth) {
  return depth / kSmallGroup * (kPanelColumns * 2 + kSmallGroup * kPanelColumns);
}

// One tile of an operand. Which members count depends on the format.
struct OperandTile {
  void* values;            // f32, bf16 or int8
  float* scales;           // int8: [depth / 128][height]
  int32_t* corrections;    // int8: [depth / 128][height]
  int32_t* corrections_4;  // int8: [depth / 32][height]
  int height;
};

// A whole operand: the tiles one after the other.
struct Operand {
  void* values;
  float* scales;
  int32_t* corrections;
  int32_t* corrections_4;
  int64_t depth;  // padded
  int value_bytes;

  OperandTile tile(RowTiles tiles, int64_t index) const {
    const int64_t row = tiles.first(index);
    OperandTile found{};
    found.values = static_cast<char*>(values) + row * depth * value_bytes;
    found.height = tiles.height(index);
    if (scales != nullptr) {
      found.scales = scales + row * (depth / kGroup);
      found.corrections = corrections + row * (depth / kGroup);
      found.corrections_4 = corrections_4 + row * (depth / kSmallGroup);
    }
    return found;
  }
};

// Keys of one page and KV head, tokens as columns; values of the same; their scales.
//   f32   keys [head_dim][16], values [16][head_dim]
//   bf16  keys [head_dim / 2][16][2], values [8][head_dim][2] (two tokens side by side)
//   int8  keys [head_dim / 4][16][4] u8 = value + 128, then 16 scales f32; values [8][head_dim][2]
//         i8, then 16 scales f32; here head_dim is padded to 4
constexpr int64_t kv_bytes(KvFormat format, int64_t head_dim) {
  switch (format) {
    case KvFormat::kF32:
      return kPageTokens * head_dim * 4;
    case KvFormat::kBf16:
      return kPageTokens * head_dim * 2;
    case KvFormat::kInt8:
      return kPageTokens * (padded(head_dim, 4) + 4);
  }
  return 0;
}

}  // namespace octavo
