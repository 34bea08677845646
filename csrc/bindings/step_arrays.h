// The boundary of a step: the arrays of a Batch, and what they may point to.
#pragma once

#include <cstdint>
#include <list>
#include <vector>

#include "bindings/attributes.h"
#include "executor/step.h"

namespace octavo {

inline bool is_below(int32_t index, int64_t count) { return index >= 0 && index < count; }

// What a program was compiled for.
struct StepBounds {
  int64_t max_tokens;
  int64_t max_model_len;
  int64_t num_entries = 1 << 30;     // of the smallest table of tokens
  std::vector<int64_t> num_pages{};  // of each pool
};

// The attributes of a Batch of backends/base.py that say what is computed, held for one call.
class StepArrays {
 public:
  // Throws nanobind::value_error for what does not fit together, or not within the bounds: a bug
  // in the bookkeeping fails its step, and writes nobody's pages.
  StepArrays(const Attributes& batch, const StepBounds& bounds);

  Step step{};

 private:
  void require(const StepBounds& bounds) const;

  Int32Array token_ids_, positions_, row_starts_;
  std::list<Int32Array> tables_;  // a KV group each
};

}  // namespace octavo
