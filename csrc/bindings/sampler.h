// octavo._native.NativeSampler, and its boundary: the arrays of a SamplingBatch, and those that
// receive results.
#pragma once

#include <nanobind/nanobind.h>

#include <mutex>
#include <optional>
#include <string>

#include "bindings/attributes.h"
#include "bindings/pool.h"
#include "bindings/turn.h"
#include "sampler/row_sampler.h"

namespace octavo {

// The attributes of a SamplingBatch, held for one call.
class SamplingBatch {
 public:
  SamplingBatch(const Attributes& sampling, int64_t rows, int64_t vocab_size);

  SamplingArrays arrays;

 private:
  ArrayOf<uint64_t> seeds_;
  ArrayOf<uint32_t> choices_, positions_;
  ArrayOf<float> temperature_;
  ArrayOf<int32_t> top_k_;
  ArrayOf<float> top_p_, min_p_, typical_p_;
  ArrayOf<float> repetition_penalty_, presence_penalty_, frequency_penalty_;
  ArrayOf<int32_t> num_logprobs_;
  ArrayOf<int32_t> seen_starts_, seen_ids_, seen_counts_;
  ArrayOf<int32_t> bias_starts_, bias_ids_;
  ArrayOf<float> bias_values_;
  ArrayOf<int32_t> mask_of_row_;
  ArrayOf<uint32_t> masks_;
};

// The arrays that receive results; the last four are None where no row wants logprobs.
class SampledRows {
 public:
  // `tokens`: null where they are known. `wanted`: (rows,) how many of the most likely tokens a row
  // gets; below 0 for no logprobs.
  SampledRows(nanobind::handle tokens, nanobind::handle errors, nanobind::handle logprobs,
              nanobind::handle num_top, nanobind::handle top_ids, nanobind::handle top_logprobs,
              const int32_t* wanted, int64_t rows, int64_t vocab_size);

  void require_apart_from(const Array& input) const;

  int64_t num_failed() const;

  SampledArrays arrays{};

 private:
  struct Scores {
    Scores(nanobind::handle logprobs, nanobind::handle num_top, nanobind::handle top_ids,
           nanobind::handle top_logprobs, int64_t rows);

    ArrayOf<float> logprobs;
    ArrayOf<int32_t> num_top, top_ids;
    ArrayOf<float> top_logprobs;
    int64_t room = 0;
  };

  std::optional<ArrayOf<int32_t>> tokens_;
  ArrayOf<int32_t> errors_;
  std::optional<Scores> scores_;
};

// Known tokens of rows, and how many of the most likely ones are wanted beside them.
class Targets {
 public:
  // Throws nanobind::value_error for a target that is no token.
  Targets(nanobind::handle targets, nanobind::handle wanted, int64_t rows, int64_t vocab_size);

  const int32_t* ids() const { return ids_.data(); }
  const int32_t* wanted() const { return wanted_.data(); }

 private:
  ArrayOf<int32_t> ids_, wanted_;
};

class NativeSampler {
 public:
  NativeSampler(Pool& pool, int64_t vocab_size, const std::string& instruction_set);

  const char* instruction_set() const { return set_.name; }
  int64_t vocab_size() const { return rows_.vocab_size(); }
  const Pool& pool() const { return pool_; }

  void sample(nanobind::handle logits, nanobind::handle sampling, nanobind::handle tokens,
              nanobind::handle errors, nanobind::handle logprobs, nanobind::handle num_top,
              nanobind::handle top_ids, nanobind::handle top_logprobs);
  void score(nanobind::handle logits, nanobind::handle targets, nanobind::handle wanted,
             nanobind::handle errors, nanobind::handle logprobs, nanobind::handle num_top,
             nanobind::handle top_ids, nanobind::handle top_logprobs);

  // Whoever uses the rows has the turn.
  std::unique_lock<std::mutex> take_turn() { return turn_.take(); }
  RowSampler& rows() { return rows_; }

 private:
  int64_t require_rows(const FloatArray& logits) const;
  void run(const FloatArray& logits, int64_t num_rows, const SamplerTask& task);

  Pool& pool_;
  const InstructionSet& set_;
  RowSampler rows_;
  AttributeNames names_;
  Turn turn_;                  // callers of several threads share the workspaces
  std::vector<Stage> stages_;  // of whoever has the turn
};

void bind_sampler(nanobind::module_& module);

}  // namespace octavo
