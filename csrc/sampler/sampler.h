// From one row of logits to a token and logprobs. What is computed is said, to the bit, by
// octavo/backends/sampler.py and docs/concepts/sampling.md. Nothing here allocates or throws, and
// nothing knows of Python, threads or other rows.
#pragma once

#include <cstdint>

#include "kernels/table.h"
#include "sampler/workspace.h"

namespace octavo {

// Why a row has no token. octavo/backends/native_sampler.py has the sentences.
enum class RowError : int32_t {
  kNone,
  kNotANumber,     // a logit is NaN
  kInfinite,       // a logit is +infinity
  kAllImpossible,  // all are -infinity
  kNoTokenLeft,    // after biases and the mask all are -infinity
  kOverflow,       // penalties or biases made a logit infinite or NaN
  kUnknownToken,   // a penalty or a bias names a token outside of the vocabulary
  kNoCandidate,    // the filters keep nothing that may be drawn
};

// How one row draws: one row of SamplingBatch in octavo/backends/base.py.
struct SamplingRow {
  uint64_t seed;
  uint32_t choice, position;
  float temperature;
  int32_t top_k;
  float top_p, min_p, typical_p;
  float repetition_penalty, presence_penalty, frequency_penalty;
  int32_t num_logprobs;
  int64_t num_seen;
  const int32_t* seen_ids;  // each once
  const int32_t* seen_counts;
  int64_t num_biases;
  const int32_t* bias_ids;  // each once
  const float* bias_values;
  const uint32_t* mask;  // (ceil(vocab / 32),) or null
};

// All the rows of a SamplingBatch.
struct SamplingArrays {
  const uint64_t* seeds;
  const uint32_t* choices;
  const uint32_t* positions;
  const float* temperature;
  const int32_t* top_k;
  const float* top_p;
  const float* min_p;
  const float* typical_p;
  const float* repetition_penalty;
  const float* presence_penalty;
  const float* frequency_penalty;
  const int32_t* num_logprobs;
  const int32_t* seen_starts;
  const int32_t* seen_ids;
  const int32_t* seen_counts;
  const int32_t* bias_starts;
  const int32_t* bias_ids;
  const float* bias_values;
  const int32_t* mask_of_row;
  const uint32_t* masks;
  int64_t words_of_mask;

  SamplingRow row(int64_t index) const;
};

// The caller points top_ids and top_logprobs at room for min(number asked for, vocab).
struct SampledRow {
  int32_t token;  // -1 where the row failed
  RowError error;
  float logprob;  // 0 where none is wanted
  int32_t num_top;
  int32_t* top_ids;
  float* top_logprobs;
};

// The highest of the logits [begin, end) of a row; begin is a multiple of kLogitBlock.
RowPeak row_peak(const KernelTable& kernels, const float* logits, int64_t begin, int64_t end);

// The highest of two ranges of a row.
RowPeak merged(const RowPeak& one, const RowPeak& other);

// Whether anything but the highest logit counts: not for a greedy row without penalties, biases,
// mask and logprobs.
bool reads_logits(const SamplingRow& row);

// Draws a token from a row and scores it if it wants logprobs. `known_peak` is that of the whole
// row, if somebody has it already: `logits` may then be unwritten unless reads_logits(row).
void sample_row(const KernelTable& kernels, const float* logits, int64_t vocab_size,
                const SamplingRow& row, SamplerWorkspace& workspace, SampledRow* sampled,
                const RowPeak* known_peak = nullptr);

// Scores `target`, which becomes the token, and the `num_top` most likely ones.
void score_row(const KernelTable& kernels, const float* logits, int64_t vocab_size, int32_t target,
               int32_t num_top, SamplerWorkspace& workspace, SampledRow* scored,
               const RowPeak* known_peak = nullptr);

}  // namespace octavo
