// Which rows a thread works on, and where what it finds is put.
#include "sampler/row_sampler.h"

#include <algorithm>

namespace octavo {
namespace {

constexpr int64_t kPartOfRow = 16384;  // logits worth another thread
constexpr int64_t kMaxParts = 16;

}  // namespace

RowSampler::RowSampler(const KernelTable& kernels, int num_threads, int64_t vocab_size)
    : kernels_(kernels), vocab_size_(vocab_size) {
  for (int i = 0; i < num_threads; ++i) workspaces_.emplace_back(vocab_size);
  const int64_t num_parts = std::min<int64_t>({num_threads, vocab_size / kPartOfRow, kMaxParts});
  if (num_parts < 2) return;
  part_peaks_.resize(num_parts);
  const int64_t num_blocks = SamplerWorkspace::num_blocks(vocab_size);
  part_ = (num_blocks + num_parts - 1) / num_parts * kLogitBlock;
}

bool RowSampler::choose_readers(int64_t first, int64_t num_rows, HeadPeaks& peaks) const {
  if (task_.sampling == nullptr) return false;
  bool all_read = true;
  for (int64_t row = 0; row < num_rows; ++row) {
    const bool reads = reads_logits(task_.sampling->row(first + row));
    peaks.set_reads_logits(row, reads);
    all_read &= reads;
  }
  return !all_read;
}

void RowSampler::plan(const float* logits, int64_t stride, int64_t first, int64_t num_rows,
                      const HeadPeaks* peaks, std::vector<Stage>& stages) {
  head_peaks_ = peaks;
  logits_ = logits;
  stride_ = stride;
  first_ = first;
  // A row that is alone keeps one thread busy: the others help to find its highest logit.
  knows_peaks_ =
      task_.sampling != nullptr && num_rows == 1 && !part_peaks_.empty() && peaks == nullptr;
  if (knows_peaks_) {
    const auto find = [](void* self, int64_t begin, int64_t end, int) {
      static_cast<RowSampler*>(self)->find_peaks(begin, end);
    };
    stages.push_back(Stage{find, this, static_cast<int64_t>(part_peaks_.size()), 1, "sampling"});
  }
  stages.push_back(stage_of(this, num_rows, task_.sampling != nullptr ? "sampling" : "scoring"));
}

void RowSampler::find_peaks(int64_t begin, int64_t end) {
  for (int64_t part = begin; part < end; ++part) {
    const int64_t last = std::min((part + 1) * part_, vocab_size_);
    part_peaks_[part] = row_peak(kernels_, logits_, part * part_, last);
  }
}

void RowSampler::run(int64_t begin, int64_t end, int thread) {
  RowPeak peak{};
  if (knows_peaks_) {
    peak = part_peaks_[0];
    for (size_t part = 1; part < part_peaks_.size(); ++part) peak = merged(peak, part_peaks_[part]);
  }
  for (int64_t row = begin; row < end; ++row) {
    const RowPeak* known_peak = knows_peaks_ ? &peak : nullptr;
    if (head_peaks_ != nullptr && !head_peaks_->reads_logits(row)) {
      peak = head_peaks_->peak(row);
      known_peak = &peak;
    }
    const int64_t index = first_ + row;
    const float* x = logits_ + row * stride_;
    SampledRow found{};
    found.top_ids = task_.results.top_ids + index * task_.results.room;
    found.top_logprobs = task_.results.top_logprobs + index * task_.results.room;
    if (task_.sampling != nullptr) {
      sample_row(kernels_, x, vocab_size_, task_.sampling->row(index), workspaces_[thread], &found,
                 known_peak);
    } else {
      score_row(kernels_, x, vocab_size_, task_.targets[index], task_.num_top[index],
                workspaces_[thread], &found);
    }
    put(index, found);
  }
}

void RowSampler::put(int64_t index, const SampledRow& found) const {
  const SampledArrays& to = task_.results;
  if (to.tokens != nullptr) to.tokens[index] = found.token;
  to.errors[index] = static_cast<int32_t>(found.error);
  if (to.logprobs == nullptr) return;
  to.logprobs[index] = found.logprob;
  to.num_top[index] = found.num_top;
}

}  // namespace octavo
