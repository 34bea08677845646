// What one instruction set offers: plain functions over plain pointers, no library types.
// Each translation unit of kernels fills one table; dispatch.cpp chooses among them.
#pragma once

#include <stdint.h>

#include "kernels/layout.h"

namespace octavo {

constexpr int64_t kMaxColumnBlock = 256;  // kernels keep one block of columns on the stack

// Row-major operands of the canonical product. Item (i, r, c) of the work is the block of rows
// [r * row_block, ...) and columns [c * column_block, ...) of matrix i of the batch.
struct ProductTask {
  const float* a;     // (batch, m, k)
  const float* b;     // (batch, k, n)
  const float* bias;  // (n,) or null
  float* out;         // (batch, m, n)
  int64_t m, k, n;
  int64_t row_block, column_block;
  int64_t num_row_blocks, num_column_blocks;
};

// Reads and writes elements [begin, end) of rows of `row_length` values.
struct RowsTask {
  const float* x;  // (rows, row_length)
  float* out;      // (rows,)
  int64_t row_length;
};

struct ElementsTask {
  const float* x;
  float* out;  // may be x
};

// Float32 rows on their way into one tile of an operand: the columns [begin, begin + count) of all
// rows of the tile. `begin` is a multiple of the operand's unit (int8: 128; bf16: 2); the last
// columns of a row are followed by zeros up to the padded depth.
struct PrepareTask {
  const float* x;    // (height, count), at column `begin` of the tile's first row
  int64_t x_stride;  // in floats
  int64_t begin, count;
  int64_t depth;  // padded
  OperandTile to;
};

// One tile of an operand times consecutive panels of weights. One result is one sequence of
// operations, whatever the tile's height (see the canonical twins):
//   f32   one chain of fused multiply-adds, depth ascending
//   bf16  the same in pairs: fma(even, fma(odd, sum))
//   w8    groups ascending: f = fma(float(exact integer sum), weight scale * row scale, f)
//   w4    the same with small groups
struct PanelsTask {
  OperandTile rows;
  const uint8_t* panels;
  int64_t num_panels;
  int64_t depth;       // padded
  float* out;          // (height, num_panels * 32)
  int64_t out_stride;  // in floats
};

// Queries of one KV head against one chunk of keys and values in pages. Row r sees the chunk's
// tokens [first[r], last[r]); what no row sees may be anything, NaN too. A row that sees nothing
// has the peak -inf, the sum 0 and the output 0.
struct ChunkTask {
  const void* queries;         // f32 [height][head_dim]; bf16 [head_dim / 2][height][2];
                               // int8 [head_dim / 4][height][4]
  const float* query_scales;   // (height,) int8 only
  const int32_t* corrections;  // (height,) int8 only: -128 * sum(values)
  int height;                  // at most kMaxTileRows
  int64_t head_dim;
  const uint8_t* const* keys;    // (pages of the chunk that any row sees a token of, from page 0)
  const uint8_t* const* values;  // likewise
  const int32_t* first;          // (height,)
  const int32_t* last;           // (height,)
  float scale;
  bool values_are_finite;  // else rows must be kept from values that they do not see
  float* peaks;            // (height,) highest scaled score
  float* sums;             // (height,) of exp(score - peak), over the canonical lane tree
  float* out;              // (height, head_dim) sums of exp(score - peak) * value
};

// One token's key and value of one KV head into its page.
struct KvWriteTask {
  const float* key;    // (head_dim,)
  const float* value;  // (head_dim,)
  int64_t head_dim;
  int slot;
  uint8_t* key_page;
  uint8_t* value_page;
};

// One more chunk for rows that have seen others before it.
struct MergeTask {
  int height;
  int64_t head_dim;
  const float* peaks;  // (height,) of the chunk, likewise sums and part
  const float* sums;
  const float* part;  // (height, head_dim)
  float* best;        // (height,) so far; -inf, 0 and 0 at first
  float* total;
  float* merged;  // (height, head_dim)
};

// Rows of `length` divided by their root mean square, times weight, plus bias.
struct NormTask {
  const float* x;
  int64_t x_stride;
  float* out;  // may be x
  int64_t out_stride;
  int64_t rows, length;
  const float* weight;
  const float* bias;  // or null
  float eps;
  bool subtracts_mean;  // first
};

// One token's heads, in place: pair i is the elements i and i + num_pairs of a head.
struct RotateTask {
  float* x;
  int64_t num_heads, head_dim, num_pairs;
  const float* cosines;  // (num_pairs,) of the token's position
  const float* sines;
};

enum class Activation : int32_t { kSilu, kGeluTanh, kRelu };

struct KernelTable {
  void (*product)(const ProductTask& task, int64_t begin, int64_t end);
  void (*row_sums)(const RowsTask& task, int64_t begin, int64_t end);
  void (*row_sums_of_squares)(const RowsTask& task, int64_t begin, int64_t end);
  void (*exp)(const ElementsTask& task, int64_t begin, int64_t end);
  void (*log)(const ElementsTask& task, int64_t begin, int64_t end);
  void (*tanh)(const ElementsTask& task, int64_t begin, int64_t end);
  void (*sigmoid)(const ElementsTask& task, int64_t begin, int64_t end);
  void (*norm)(const NormTask& task);
  void (*rotate)(const RotateTask& task);
  void (*add)(const float* a, const float* b, float* out, int64_t count);
  void (*scale)(const float* x, float factor, float* out, int64_t count);
  // function(x), times `factor` unless it is null
  void (*activate)(Activation activation, const float* x, const float* factor, float* out,
                   int64_t count);
  void (*panels_f32)(const PanelsTask& task);
  void (*write_kv_f32)(const KvWriteTask& task);
  void (*attend_f32)(const ChunkTask& task);
  void (*merge_chunk)(const MergeTask& task);
};

// Defined by the unit of each instruction set.
extern const KernelTable kScalarKernels;
#if defined(__x86_64__)
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvxVnniKernels;
extern const KernelTable kAvx512Kernels;
extern const KernelTable kAvx512VnniKernels;
extern const KernelTable kAvx512Bf16Kernels;
#endif

}  // namespace octavo
