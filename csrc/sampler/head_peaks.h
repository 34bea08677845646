// The highest logit of each row of a head, found while the logits are computed. A row that wants
// nothing else never has them written.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "sampler/sampler.h"

namespace octavo {

class HeadPeaks {
 public:
  HeadPeaks(int num_threads, int64_t max_rows)
      : num_threads_(num_threads),
        max_rows_(max_rows),
        reads_logits_(max_rows),
        found_(num_threads * max_rows) {}

  // Forgets what was found, for the next rows.
  void begin(int64_t num_rows) {
    for (int thread = 0; thread < num_threads_; ++thread) {
      for (int64_t row = 0; row < num_rows; ++row) at(thread, row) = kNothing;
    }
  }
  // Whether anybody reads the logits of a row; those of others are not written.
  void set_reads_logits(int64_t row, bool reads) { reads_logits_[row] = reads; }
  bool reads_logits(int64_t row) const { return reads_logits_[row] != 0; }

  // x: `count` logits of the row, from `first` on.
  void raise(const KernelTable& kernels, int thread, int64_t row, const float* x, int64_t first,
             int64_t count) {
    kernels.sampling.raise_peak(x, first, count, &at(thread, row));
  }

  // Of the whole row, once all its logits were seen.
  RowPeak peak(int64_t row) const {
    RowPeak peak = found_[row];
    for (int thread = 1; thread < num_threads_; ++thread) {
      peak = merged(peak, found_[thread * max_rows_ + row]);
    }
    return peak;
  }

 private:
  static constexpr RowPeak kNothing{-std::numeric_limits<float>::infinity(),
                                    std::numeric_limits<int64_t>::max(), false};

  RowPeak& at(int thread, int64_t row) { return found_[thread * max_rows_ + row]; }

  int num_threads_;
  int64_t max_rows_;
  std::vector<uint8_t> reads_logits_;  // (max_rows,)
  std::vector<RowPeak> found_;         // (threads, max_rows)
};

}  // namespace octavo
