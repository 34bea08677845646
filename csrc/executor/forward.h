// A compiled program: its calls, its memory, and the step loop.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "executor/attention.h"
#include "executor/product.h"
#include "executor/row_calls.h"
#include "sampler/row_sampler.h"

namespace octavo {

struct ForwardLimits {
  int64_t max_tokens;
  int64_t max_heads;
  int64_t max_model_len;
};

// Calls are added in the order in which they are computed: first those on all tokens, then, after
// begin_heads(), those on the rows whose logits are wanted. Memory is taken while they are added,
// and by lists that grow with the largest step. One thread at a time runs a step. Arrays that are
// handed in stay the caller's, and must outlive this.
class Forward {
 public:
  // `finds_peaks`: rows that only want their highest logit have it found as it is computed.
  Forward(ThreadPool& threads, const KernelTable& kernels, ForwardLimits limits, bool joins_rows,
          bool finds_peaks);

  const ForwardLimits& limits() const { return limits_; }
  int64_t num_pools() const { return static_cast<int64_t>(pools_.size()); }

  // Room for the rows of the present kind; `features` is padded to whole panels.
  View add_buffer(int64_t features);
  Operand add_operand(Format format, int64_t depth);
  int add_pool(PagePool pool);

  void begin_heads() {
    calls_ = &head_calls_;
    open_rows_ = nullptr;
  }
  // Nothing is added after the logits: (heads, vocab) of the heads that are computed now, where
  // somebody reads them. Columns from vocab_size on are padding.
  void end_heads(View logits, int64_t vocab_size);
  View logits() const { return logits_; }
  // Joins the row operations before it, if there are any and they may be joined.
  void add_rows(std::unique_ptr<RowOperation> operation);
  void add_product(Operand operand, ProductWeights weights, ProductFinish finish);
  void add_write_kv(int pool, int64_t layer, View keys, View values);
  void add_attend(int pool, int64_t layer, int64_t heads_of_one, int64_t window, float scale,
                  View queries, View out);

  // Seconds of each kind of stage since profiling began; the head's stages are kinds of their own.
  void profile(bool on);
  std::map<std::string, double> seconds() const;

  // Computes all tokens, then the logits of `head_rows`, at most max_heads at a time, and has
  // `sampler` go through them: all in one dispatch, and one more for each further block of heads.
  // The step's arrays are read until this returns.
  void run(const Step& step, const int32_t* head_rows, int64_t num_heads, RowSampler* sampler);
  // More heads of that step, of whose arrays calls of the head read `head_rows` alone. Without a
  // sampler these are at most max_heads.
  void run_heads(const int32_t* head_rows, int64_t num_heads, RowSampler* sampler);

 private:
  using Calls = std::vector<std::unique_ptr<Call>>;

  float* take(int64_t floats);
  int64_t max_rows() const {
    return calls_ == &token_calls_ ? limits_.max_tokens : limits_.max_heads;
  }
  void plan_heads(const int32_t* head_rows, int64_t first, int64_t count, RowSampler* sampler);
  void dispatch();
  AttentionPlan& plan_of(int pool, int64_t heads_of_one, int64_t window);

  struct Free {
    void operator()(void* memory) const { free(memory); }
  };

  ThreadPool& threads_;
  const KernelTable& kernels_;
  ForwardLimits limits_;
  bool joins_rows_;
  bool finds_peaks_;
  HeadPeaks peaks_;
  Product* head_ = nullptr;  // what computes the logits, where peaks may be found
  std::vector<std::unique_ptr<void, Free>> memory_;
  std::vector<PagePool> pools_;
  std::vector<std::unique_ptr<AttentionPlan>> plans_;
  AttentionParts parts_{};
  int64_t parts_floats_ = 0;
  float* scratch_ = nullptr;
  Unpacked unpacked_;
  Calls token_calls_, head_calls_;
  Calls* calls_ = &token_calls_;
  RowCalls* open_rows_ = nullptr;  // the last call, while it may be joined

  Step step_{};
  uint64_t step_number_ = 0;
  std::vector<int32_t> seq_of_row_;
  const int32_t* seq_of_row_data_ = nullptr;
  View logits_;
  std::vector<Stage> stages_;
  size_t heads_begin_ = 0, heads_end_ = 0;  // among the stages, for profiles
  bool profiles_ = false;
  std::vector<double> stage_seconds_;
  mutable std::mutex seconds_mutex_;  // steps and readers may be on different threads
  std::map<std::string, double> seconds_;
};

}  // namespace octavo
