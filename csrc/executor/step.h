// One step as the executor sees it: the ragged arrays of backends/base.py `Batch`, by pointer.
#pragma once

#include <stdint.h>

#include <vector>

#include "kernels/layout.h"
#include "kernels/table.h"

namespace octavo {

// A page table: the pages of each sequence, in the order of its tokens.
struct PageTable {
  const int32_t* pages;  // (seqs, width)
  int64_t width;
};

struct Step {
  const int32_t* token_ids;   // (tokens,)
  const int32_t* positions;   // (tokens,)
  const int32_t* row_starts;  // (seqs + 1,)
  int64_t num_tokens;
  int64_t num_seqs;
  std::vector<PageTable> tables;  // a KV group each
  const int32_t* head_rows;       // (heads,) rows of tokens whose logits are computed now
};

// Rows of float32 that lie `stride` apart.
struct View {
  float* data = nullptr;
  int64_t stride = 0;

  float* row(int64_t index) const { return data + index * stride; }
};

}  // namespace octavo
