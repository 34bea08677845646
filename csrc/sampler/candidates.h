// Which tokens of a row may be drawn: the filters, and the best of many. The twin is
// octavo/backends/candidates.py. Instead of sorting, a threshold below which nothing matters picks
// out few tokens, and histograms of their keys find the border.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/table.h"
#include "sampler/workspace.h"

namespace octavo {

constexpr double kWeightOne = 0x1p40;

// A weight in [0, 1], rounded half to even to a multiple of 2^-40, in units of that.
inline int64_t integer_weight(float fraction) {
  const double rounded = static_cast<double>(fraction) * kWeightOne + 0x1p52;
  return static_cast<int64_t>(__builtin_bit_cast(uint64_t, rounded) -
                              __builtin_bit_cast(uint64_t, 0x1p52));
}

// One row of logits and what is known of it.
struct Logits {
  const KernelTable* kernels;
  const float* x;
  int64_t size;
  RowPeak peak;
  bool has_maxima;  // those in the workspace are of this row
};

void find_peak(Logits& logits, SamplerWorkspace& workspace);

// The sum of all integer weights; those of the blocks are then in workspace.sums.
int64_t weigh(const Logits& logits, float temperature, SamplerWorkspace& workspace);

struct Filters {
  float temperature;
  int32_t top_k;
  float top_p, min_p, typical_p;

  bool keep_all(int64_t vocab_size) const {
    return (top_k <= 0 || top_k >= vocab_size) && top_p >= 1.0f && min_p <= 0.0f &&
           typical_p >= 1.0f;
  }
};

// Puts the tokens that the filters keep into workspace.ids, ascending, and their weights as
// workspace.fractions; tokens of weight 0 may be among them or not. Returns how many there are.
int64_t find_candidates(Logits& logits, const Filters& filters, SamplerWorkspace& workspace);

// Puts the `count` highest logits, the lower ids of a tie, into workspace.ids, ascending, and
// workspace.values. Returns how many these are: count, or all that are at least `lowest`.
int64_t find_best(Logits& logits, int64_t count, float lowest, SamplerWorkspace& workspace);

}  // namespace octavo
