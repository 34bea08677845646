// The memory that sampling one row needs, allocated once. One for each thread that samples.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/table.h"

namespace octavo {

struct SamplerWorkspace {
  explicit SamplerWorkspace(int64_t vocab_size)
      : max_logits(vocab_size),
        logits(vocab_size),
        maxima(num_blocks(vocab_size) * kMaximaLanes),
        block_maxima(num_blocks(vocab_size)),
        scratch(std::max(num_blocks(vocab_size) * kMaximaLanes, kMaxSample)),
        sums(num_blocks(vocab_size)),
        ids(vocab_size + kMaximaLanes),
        values(vocab_size + kMaximaLanes),
        fractions((vocab_size > kLogitBlock ? vocab_size : kLogitBlock) + kMaximaLanes),
        near_values(vocab_size + kMaximaLanes),
        near_fractions(vocab_size + kMaximaLanes),
        keys(vocab_size),
        members(vocab_size),
        bins(kNumBins) {}

  static int64_t num_blocks(int64_t vocab_size) {
    return (vocab_size + kLogitBlock - 1) / kLogitBlock;
  }

  static constexpr int64_t kMaxSample = 1024;  // logits that may be in scratch
  static constexpr int kBinBits = 10;
  static constexpr int64_t kNumBins = int64_t{1} << kBinBits;

  int64_t max_logits;
  std::vector<float> logits;        // of the row, with penalties, biases and the mask
  std::vector<float> maxima;        // of one row: see PeakTask
  std::vector<float> block_maxima;  // (blocks,)
  std::vector<float> scratch;
  std::vector<int64_t> sums;  // (blocks,) of integer weights
  // Candidates: ids ascending, their logits, and exp((logit - peak) / temperature).
  std::vector<int32_t> ids;
  std::vector<float> values;
  std::vector<float> fractions;
  // Candidates near a border, while it is searched.
  std::vector<float> near_values;
  std::vector<float> near_fractions;
  std::vector<uint64_t> keys;    // to sort by
  std::vector<int32_t> members;  // of one bin of keys
  std::vector<int64_t> bins;
};

}  // namespace octavo
