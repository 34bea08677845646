// What one instruction set offers: plain functions over plain pointers, no library types.
// Each translation unit of kernels fills one table; dispatch.cpp chooses among them.
#pragma once

#include <stdint.h>

#include "kernels/layout.h"

namespace octavo {

constexpr int64_t kMaxColumnBlock = 256;  // kernels keep one block of columns on the stack
constexpr int64_t kRoofBytes = 4096;

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
  // What to fetch meanwhile, with one panel: a share of the memory that is read next. Null: what
  // stands a little ahead in the same panels.
  const uint8_t* soon;
  int64_t num_shares;  // tiles that fetch a share each
};

// Queries of one KV head against one chunk of keys and values in pages. Row r sees the chunk's
// tokens [first[r], last[r]); what no row sees may be anything, NaN too. A row that sees nothing
// has the peak -inf, the sum 0 and the output 0.
struct ChunkTask {
  const void* queries;         // f32 [height][head_dim]; bf16 [head_dim / 2][height][2];
                               // int8 [head_dim / 4][height][4], zeros after head_dim
  const float* query_scales;   // (height,) int8 only
  const int32_t* corrections;  // (height,) int8 only: -128 * sum(values)
  int height;                  // at most kMaxTileRows
  int64_t head_dim;
  // By page of the chunk, from its page 0; those that no row sees a token of are never looked at.
  const uint8_t* const* keys;
  const uint8_t* const* values;
  const int32_t* first;  // (height,)
  const int32_t* last;   // (height,)
  float scale;
  bool values_are_finite;  // else rows must be kept from values that they do not see
  float* peaks;            // (height,) highest scaled score that is a number
  float* sums;             // (height,) of exp(score - peak), over the canonical lane tree
  float* out;              // (height, head_dim) sums of exp(score - peak) * value
  // Key pages that the next unit on this thread begins with: they are fetched into the cache while
  // this one computes. Null, or a page of null: no matter.
  const uint8_t* const* next_keys;
  int num_next_keys;
};

// Float32 queries on their way into the operand of a ChunkTask.
struct QueriesTask {
  const float* const* rows;  // (height,) each (head_dim,)
  int height;
  int64_t head_dim;
  void* queries;         // as in ChunkTask
  float* scales;         // (height,) int8 only
  int32_t* corrections;  // (height,) int8 only
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

// One column of a panel as float32: an embedding row read from the head's weights.
struct EmbedTask {
  const uint8_t* panel;
  int column;     // of the panel
  int64_t depth;  // values wanted, at most what the panel holds
  float* out;     // (depth,)
};

// How the weights of a checkpoint are stored.
enum class Source : int32_t { kF32, kBf16, kF16 };

// Panels [begin, end) of a matrix as a checkpoint has it.
struct PackTask {
  Format format;
  Source source;
  const void* weights;      // (columns, depth)
  int64_t columns, depth;   // neither padded
  uint8_t* panels;          // all of them
  int32_t* has_non_finite;  // set to 1 if a weight is NaN or infinite; else left alone
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

// Logits are looked at in blocks of this many from the row's beginning; ranges of a row begin at a
// multiple of it.
constexpr int64_t kLogitBlock = 512;
// Lane l of a block's maxima covers the logits l, l + 16, l + 32, ... of the block.
constexpr int64_t kMaximaLanes = 16;

// The highest of some logits of a row. Without a NaN only.
struct RowPeak {
  float value;
  int64_t index;  // the lowest, in a tie; within the row
  bool has_nan;   // then value and index mean nothing
};

struct PeakTask {
  const float* x;  // the row
  float* maxima;   // (blocks of the row, 16), or null
};

// A weight is exp((x - peak) / temperature), rounded half to even to a multiple of 2^-40.
struct WeighTask {
  const float* x;     // the row; no NaN
  float peak;         // at least every x
  float temperature;  // > 0
  int64_t* sums;      // (blocks of the row,)
};

// exp((x - peak) / temperature) of any numbers.
struct FractionsTask {
  const float* x;
  float peak, temperature;
  float* out;
};

struct GatherTask {
  const float* x;  // the row
  float threshold;
  int32_t* ids;  // both with room for kMaximaLanes more than can be found
  float* values;
};

// Candidates: ids ascending, their logits and fractions (FractionsTask).
struct MassTask {
  const float* values;
  const float* fractions;
  float threshold;
};

struct KeepTask {
  const int32_t* ids;  // or null, as new_ids
  const float* values;
  const float* fractions;
  float low, high;
  int32_t*
      new_ids;  // these may be the arrays above, but candidates from `end` on may be overwritten
  float* new_values;
  float* new_fractions;
};

// What sampling does with long rows; csrc/sampler/ does the rest.
struct SamplingKernels {
  void (*peak)(const PeakTask& task, int64_t begin, int64_t end, RowPeak* found);
  // `peak` becomes the highest of what it was, of any logits of the row, and of x[0, count): those
  // from `first` on.
  void (*raise_peak)(const float* x, int64_t first, int64_t count, RowPeak* peak);
  void (*weigh)(const WeighTask& task, int64_t begin, int64_t end);  // whole blocks, or to the end
  void (*fractions)(const FractionsTask& task, int64_t count);
  // Appends the logits >= threshold after the first `count`; returns how many there are then.
  int64_t (*gather)(const GatherTask& task, int64_t begin, int64_t end, int64_t count);
  // The integer weights of those candidates of [begin, end) whose logits are >= threshold.
  int64_t (*mass)(const MassTask& task, int64_t begin, int64_t end);
  // Appends those with low <= logit < high after the first `count`; returns how many there are
  // then. The new arrays have room for kMaximaLanes more.
  int64_t (*keep)(const KeepTask& task, int64_t begin, int64_t end, int64_t count);
};

// What the unit of AMX does by tiles.
struct TileKernels {
  void (*panels_w8)(const PanelsTask& task);
  void (*panels_w4_unpacked)(const PanelsTask& task);
  int64_t (*roof_int8)(const uint8_t* memory, int64_t repeats, float* out);
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
  void (*prepare_f32)(const PrepareTask& task);
  void (*prepare_bf16)(const PrepareTask& task);
  void (*prepare_int8)(const PrepareTask& task);
  void (*panels_bf16)(const PanelsTask& task);
  void (*panels_w8)(const PanelsTask& task);
  void (*panels_w4)(const PanelsTask& task);
  // A panel of w4 as bytes, each group of 32: [32 scales f16][8][32 columns][4] u8 = the nibble
  void (*unpack_w4)(const uint8_t* panel, int64_t depth, uint8_t* unpacked);
  void (*panels_w4_unpacked)(const PanelsTask& task);  // the same bits as panels_w4
  void (*embed_bf16)(const EmbedTask& task);
  void (*embed_w8)(const EmbedTask& task);
  void (*embed_w4)(const EmbedTask& task);
  void (*pack)(const PackTask& task, int64_t begin, int64_t end);
  // Roofs. Reading returns a sum of all words; the loops over registers return how many
  // multiplications with an addition they did, and leave what came of them in out, (16,);
  // their memory has kRoofBytes.
  uint64_t (*roof_read)(const uint8_t* memory, int64_t bytes);  // bytes: a multiple of 512
  int64_t (*roof_int8)(const uint8_t* memory, int64_t repeats, float* out);
  int64_t (*roof_bf16)(const uint8_t* memory, int64_t repeats, float* out);
  int64_t (*roof_f32)(const uint8_t* memory, int64_t repeats, float* out);
  void (*exp_nonpositive)(const ElementsTask& task, int64_t begin, int64_t end);
  void (*queries_bf16)(const QueriesTask& task);
  void (*queries_int8)(const QueriesTask& task);
  void (*write_kv_bf16)(const KvWriteTask& task);
  void (*write_kv_int8)(const KvWriteTask& task);
  void (*attend_bf16)(const ChunkTask& task);
  void (*attend_int8)(const ChunkTask& task);
  SamplingKernels sampling;
};

// Defined by the unit of each instruction set.
extern const KernelTable kScalarKernels;
// By the scalar unit, for tests on processors without AMX: its algorithm, its instructions
// emulated.
extern const TileKernels kEmulatedTiles;
#if defined(__x86_64__)
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvxVnniKernels;
extern const KernelTable kAvx512Kernels;
extern const KernelTable kAvx512VnniKernels;
extern const KernelTable kAvx512Bf16Kernels;
extern const KernelTable kAmxKernels;
#endif

}  // namespace octavo
