// Memory of a program, and one dispatch of all its stages a step, those of the sampler among them.
#include "executor/forward.h"

#include <algorithm>
#include <cstdlib>
#include <new>

#include "executor/formats.h"

namespace octavo {
namespace {

constexpr int64_t kAlignment = 64;

}  // namespace

Forward::Forward(ThreadPool& threads, const KernelTable& kernels, ForwardLimits limits,
                 bool joins_rows, bool finds_peaks)
    : threads_(threads),
      kernels_(kernels),
      limits_(limits),
      joins_rows_(joins_rows),
      finds_peaks_(finds_peaks),
      peaks_(threads.num_threads(), limits.max_heads) {
  scratch_ = take(threads.num_threads() * Product::kScratchFloats);
  seq_of_row_.resize(limits.max_tokens);
  seq_of_row_data_ = seq_of_row_.data();
}

float* Forward::take(int64_t floats) {
  void* memory = std::aligned_alloc(kAlignment, padded(floats * 4 + 1, kAlignment));
  if (memory == nullptr) throw std::bad_alloc();
  memory_.emplace_back(memory);
  return static_cast<float*>(memory);
}

View Forward::add_buffer(int64_t features) {
  const int64_t stride = padded(features, kPanelColumns);
  return View{take(max_rows() * stride), stride};
}

Operand Forward::add_operand(Format format, int64_t depth) {
  Operand operand{};
  operand.depth = padded(depth, depth_unit(format));
  const int64_t size = max_rows() * operand.depth;
  operand.value_bytes = value_bytes(format);
  if (is_quantised(format)) {
    operand.scales = take(size / kGroup);
    operand.corrections = reinterpret_cast<int32_t*>(take(size / kGroup));
    operand.corrections_4 = reinterpret_cast<int32_t*>(take(size / kSmallGroup));
  }
  operand.values = take((size * operand.value_bytes + 3) / 4);
  return operand;
}

int Forward::add_pool(PagePool pool) {
  pools_.push_back(pool);
  return static_cast<int>(pools_.size()) - 1;
}

void Forward::add_rows(std::unique_ptr<RowOperation> operation) {
  if (open_rows_ == nullptr || !joins_rows_) {
    auto call = std::make_unique<RowCalls>();
    open_rows_ = call.get();
    calls_->push_back(std::move(call));
  }
  open_rows_->add(std::move(operation));
}

void Forward::add_product(Operand operand, ProductWeights weights, ProductFinish finish) {
  open_rows_ = nullptr;
  const int64_t bytes = padded(Product::unpacked_bytes(weights.format, weights.depth), kAlignment);
  if (bytes > unpacked_.stride) {
    unpacked_.stride = bytes;
    unpacked_.data = reinterpret_cast<uint8_t*>(take(threads_.num_threads() * bytes / 4));
  }
  calls_->push_back(std::make_unique<Product>(kernels_, threads_.num_threads(), operand, weights,
                                              finish, scratch_, unpacked_));
}

void Forward::end_heads(View logits, int64_t vocab_size) {
  logits_ = logits;
  auto* last = head_calls_.empty() ? nullptr : dynamic_cast<Product*>(head_calls_.back().get());
  if (!finds_peaks_ || last == nullptr || !last->is_head(logits)) return;
  head_ = last;
  head_->limit_features(vocab_size);
}

void Forward::add_write_kv(int pool, int64_t layer, View keys, View values) {
  auto write = std::make_unique<WriteKvRows>();
  write->kernels = attention_of(kernels_, pools_[pool].format);
  write->pool = pools_[pool];
  write->group = pool;
  write->layer = layer;
  write->keys = keys;
  write->values = values;
  write->seq_of_row = &seq_of_row_data_;
  add_rows(std::move(write));
}

void Forward::add_attend(int pool, int64_t layer, int64_t heads_of_one, int64_t window, float scale,
                         View queries, View out) {
  open_rows_ = nullptr;
  AttentionPlan& plan = plan_of(pool, heads_of_one, window);
  // One layer's parts are merged before the next layer's are made.
  const int64_t rows = plan.max_parts() * kMaxTileRows;
  const int64_t floats = rows * (2 + pools_[pool].head_dim);
  if (floats > parts_floats_) {
    parts_floats_ = floats;
    parts_ = AttentionParts{take(rows), take(rows), take(rows * pools_[pool].head_dim)};
  }
  calls_->push_back(std::make_unique<Attend>(attention_of(kernels_, pools_[pool].format),
                                             pools_[pool], layer, scale, queries, out, plan, parts_,
                                             step_number_));
}

AttentionPlan& Forward::plan_of(int pool, int64_t heads_of_one, int64_t window) {
  for (const auto& plan : plans_) {
    if (plan->group() == pool && plan->heads_of_one() == heads_of_one && plan->window() == window) {
      return *plan;
    }
  }
  plans_.push_back(std::make_unique<AttentionPlan>(pool, pools_[pool].num_kv_heads, heads_of_one,
                                                   window, threads_.num_threads(),
                                                   limits_.max_model_len));
  return *plans_.back();
}

void Forward::run(const Step& step, const int32_t* head_rows, int64_t num_heads,
                  RowSampler* sampler) {
  stages_.clear();  // of a step that failed while it was planned
  step_ = step;
  ++step_number_;
  for (int64_t seq = 0; seq < step.num_seqs; ++seq) {
    for (int64_t row = step.row_starts[seq]; row < step.row_starts[seq + 1]; ++row) {
      seq_of_row_[row] = static_cast<int32_t>(seq);
    }
  }
  if (step.num_tokens > 0) {
    for (const auto& call : token_calls_) call->plan(step_, step.num_tokens, stages_);
  }
  if (num_heads == 0) dispatch();
  run_heads(head_rows, num_heads, sampler);
  // The caller lets go of its arrays. The tables keep their room for the next step.
  step_.token_ids = step_.positions = step_.row_starts = nullptr;
  step_.tables.clear();
}

void Forward::run_heads(const int32_t* head_rows, int64_t num_heads, RowSampler* sampler) {
  for (int64_t first = 0; first < num_heads; first += limits_.max_heads) {
    plan_heads(head_rows, first, std::min(limits_.max_heads, num_heads - first), sampler);
    dispatch();
  }
  step_.head_rows = nullptr;
}

void Forward::plan_heads(const int32_t* head_rows, int64_t first, int64_t count,
                         RowSampler* sampler) {
  step_.head_rows = head_rows + first;
  HeadPeaks* peaks = nullptr;
  if (head_ != nullptr) {
    if (sampler != nullptr && sampler->choose_readers(first, count, peaks_)) {
      peaks_.begin(count);
      peaks = &peaks_;
    }
    head_->find_peaks(peaks);
  }
  heads_begin_ = stages_.size();
  for (const auto& call : head_calls_) call->plan(step_, count, stages_);
  heads_end_ = stages_.size();
  if (sampler != nullptr) sampler->plan(logits_.data, logits_.stride, first, count, peaks, stages_);
}

// Runs what was planned since the last time.
void Forward::dispatch() {
  const auto num_stages = static_cast<int64_t>(stages_.size());
  if (profiles_) {
    stage_seconds_.resize(stages_.size());
    threads_.run_stages(stages_.data(), num_stages, stage_seconds_.data());
    const std::lock_guard<std::mutex> lock(seconds_mutex_);
    for (size_t s = 0; s < stages_.size(); ++s) {
      const char* prefix = heads_begin_ <= s && s < heads_end_ ? "head: " : "";
      seconds_[std::string(prefix) + stages_[s].kind] += stage_seconds_[s];
    }
  } else {
    threads_.run_stages(stages_.data(), num_stages);
  }
  stages_.clear();
  heads_begin_ = heads_end_ = 0;
}

void Forward::profile(bool on) {
  const std::lock_guard<std::mutex> lock(seconds_mutex_);
  profiles_ = on;
  seconds_.clear();
}

std::map<std::string, double> Forward::seconds() const {
  const std::lock_guard<std::mutex> lock(seconds_mutex_);
  return seconds_;
}

}  // namespace octavo
