// What one instruction set offers: plain functions over plain pointers, no library types.
// Each translation unit of kernels fills one table; dispatch.cpp chooses among them.
#pragma once

#include <stdint.h>

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

struct KernelTable {
  void (*product)(const ProductTask& task, int64_t begin, int64_t end);
  void (*row_sums)(const RowsTask& task, int64_t begin, int64_t end);
  void (*row_sums_of_squares)(const RowsTask& task, int64_t begin, int64_t end);
  void (*exp)(const ElementsTask& task, int64_t begin, int64_t end);
  void (*log)(const ElementsTask& task, int64_t begin, int64_t end);
  void (*tanh)(const ElementsTask& task, int64_t begin, int64_t end);
  void (*sigmoid)(const ElementsTask& task, int64_t begin, int64_t end);
};

// Defined by the unit of each instruction set.
extern const KernelTable kScalarKernels;
#if defined(__x86_64__)
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvx512Kernels;
#endif

}  // namespace octavo
