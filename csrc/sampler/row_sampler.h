// Rows of logits as stages of a dispatch: a row is an item of work, each thread has a workspace.
#pragma once

#include <cstdint>
#include <vector>

#include "sampler/head_peaks.h"
#include "thread_pool.h"

namespace octavo {

// Where the results of rows go: (rows,) each, the last two (rows, room).
struct SampledArrays {
  int32_t* tokens;  // null where targets are scored
  int32_t* errors;
  float* logprobs;  // this and what follows: null where no row wants logprobs
  int32_t* num_top;
  int32_t* top_ids;
  float* top_logprobs;
  int64_t room;
};

// What rows are for: a token is drawn from each, or the one that is known is scored.
struct SamplerTask {
  const SamplingArrays* sampling;  // null: `targets` are scored
  const int32_t* targets;          // (rows,)
  const int32_t* num_top;          // (rows,) most likely tokens beside the target
  SampledArrays results;
};

// Rows come in blocks, one dispatch each. One thread at a time plans and dispatches.
class RowSampler {
 public:
  RowSampler(const KernelTable& kernels, int num_threads, int64_t vocab_size);

  int64_t vocab_size() const { return vocab_size_; }

  // What the task points to must last until the last block is done.
  void begin(const SamplerTask& task) { task_ = task; }

  // Says which of the `num_rows` rows from the task's row `first` on read their logits; false if
  // all of them do.
  bool choose_readers(int64_t first, int64_t num_rows, HeadPeaks& peaks) const;

  // Adds the stages of `num_rows` rows of logits that lie `stride` apart; the first of them is
  // the row `first` of the task. `peaks`: null, or those of the rows that do not read their logits.
  void plan(const float* logits, int64_t stride, int64_t first, int64_t num_rows,
            const HeadPeaks* peaks, std::vector<Stage>& stages);

  void run(int64_t begin, int64_t end, int thread);

 private:
  void find_peaks(int64_t begin, int64_t end);
  void put(int64_t index, const SampledRow& found) const;

  const KernelTable& kernels_;
  int64_t vocab_size_;
  std::vector<SamplerWorkspace> workspaces_;  // a thread each
  SamplerTask task_{};
  const float* logits_ = nullptr;
  int64_t stride_ = 0;
  int64_t first_ = 0;
  const HeadPeaks* head_peaks_ = nullptr;
  std::vector<RowPeak> part_peaks_;  // of the parts of a single long row, as many as threads share
  int64_t part_ = 0;                 // logits
  bool knows_peaks_ = false;
};

}  // namespace octavo
