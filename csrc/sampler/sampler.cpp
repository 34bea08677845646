// One row from its logits to its token: peak, penalties, filters, draw, scores.
#include "sampler/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "sampler/candidates.h"
#include "sampler/philox.h"

namespace octavo {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Below it a temperature counts as 0, so that no denormal number is ever a divisor.
constexpr float kSmallestTemperature = std::numeric_limits<float>::min();
constexpr int kWordBits = 32;

RowError unusable(const RowPeak& peak) {
  if (peak.has_nan) return RowError::kNotANumber;
  if (peak.value == kInfinity) return RowError::kInfinite;
  return peak.value == -kInfinity ? RowError::kAllImpossible : RowError::kNone;
}

bool is_greedy(const SamplingRow& row) { return row.temperature < kSmallestTemperature; }

bool is_plain(const SamplingRow& row) {
  return row.num_seen == 0 && row.num_biases == 0 && row.mask == nullptr;
}

bool are_known(const int32_t* ids, int64_t count, int64_t vocab_size) {
  for (int64_t i = 0; i < count; ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size) return false;
  }
  return true;
}

// Logits whose bit is not set become impossible.
void mask_logits(const uint32_t* mask, int64_t size, float* x) {
  for (int64_t begin = 0; begin < size; begin += kWordBits) {
    const int count = static_cast<int>(std::min<int64_t>(kWordBits, size - begin));
    const uint32_t all = 0xFFFFFFFFu >> (kWordBits - count);
    const uint32_t allowed = mask[begin / kWordBits] & all;
    float* const word = x + begin;
    if (2 * __builtin_popcount(allowed) > count) {
      for (uint32_t rest = all & ~allowed; rest != 0; rest &= rest - 1) {
        word[__builtin_ctz(rest)] = -kInfinity;
      }
    } else {
      float kept[kWordBits];
      for (uint32_t rest = allowed; rest != 0; rest &= rest - 1) {
        kept[__builtin_ctz(rest)] = word[__builtin_ctz(rest)];
      }
      std::fill_n(word, count, -kInfinity);
      for (uint32_t rest = allowed; rest != 0; rest &= rest - 1) {
        word[__builtin_ctz(rest)] = kept[__builtin_ctz(rest)];
      }
    }
  }
}

// Penalties, biases and the mask of a row on a copy of its logits.
RowError process(const float* raw, int64_t size, const SamplingRow& row, float* x) {
  if (!are_known(row.seen_ids, row.num_seen, size) ||
      !are_known(row.bias_ids, row.num_biases, size)) {
    return RowError::kUnknownToken;
  }
  std::memcpy(x, raw, size * sizeof *x);
  for (int64_t i = 0; i < row.num_seen; ++i) {
    const int32_t count = row.seen_counts[i];
    float value = x[row.seen_ids[i]];
    value = value < 0 ? value * row.repetition_penalty : value / row.repetition_penalty;
    value -= count > 0 ? row.presence_penalty : 0.0f;
    value -= static_cast<float>(count) * row.frequency_penalty;
    x[row.seen_ids[i]] = value;
  }
  for (int64_t i = 0; i < row.num_biases; ++i) x[row.bias_ids[i]] += row.bias_values[i];
  if (row.mask != nullptr) mask_logits(row.mask, size, x);
  return RowError::kNone;
}

// Where in the running sum of weights a draw falls.
int64_t target_of(const SamplingRow& row, int64_t total) {
  const uint64_t number = random_u64(row.seed, row.choice, row.position);
  const auto product = static_cast<unsigned __int128>(number) * static_cast<uint64_t>(total);
  return static_cast<int64_t>(product >> 64);
}

// The first of some weights whose running sum passes the target; -1 if none does.
int64_t find_passing(const float* fractions, int64_t count, int64_t target) {
  for (int64_t i = 0; i < count; ++i) {
    target -= integer_weight(fractions[i]);
    if (target < 0) return i;
  }
  return -1;
}

// A token of all, or -1. `total` receives the sum of the weights.
int32_t draw_from_all(const Logits& logits, const SamplingRow& row, SamplerWorkspace& w,
                      int64_t* total) {
  *total = weigh(logits, row.temperature, w);
  int64_t target = target_of(row, *total);
  const int64_t num_blocks = SamplerWorkspace::num_blocks(logits.size);
  int64_t block = 0;
  while (block < num_blocks && target >= w.sums[block]) target -= w.sums[block++];
  if (block == num_blocks) return -1;
  const int64_t begin = block * kLogitBlock;
  const int64_t count = std::min(kLogitBlock, logits.size - begin);
  const FractionsTask task{logits.x + begin, logits.peak.value, row.temperature,
                           w.fractions.data()};
  logits.kernels->sampling.fractions(task, count);
  const int64_t index = find_passing(w.fractions.data(), count, target);
  return index < 0 ? -1 : static_cast<int32_t>(begin + index);
}

int32_t draw_from_filtered(Logits& logits, const SamplingRow& row, const Filters& filters,
                           SamplerWorkspace& w) {
  const int64_t count = find_candidates(logits, filters, w);
  const auto mass = [&](int64_t begin, int64_t end) {
    const MassTask task{w.values.data(), w.fractions.data(), -kInfinity};
    return logits.kernels->sampling.mass(task, begin, end);
  };
  int64_t target = target_of(row, mass(0, count));
  int64_t begin = 0, end = 0;
  while (end < count) {  // the block that the draw falls into
    begin = end;
    end = std::min(begin + kLogitBlock, count);
    const int64_t of_block = mass(begin, end);
    if (target < of_block) break;
    target -= of_block;
  }
  const int64_t index = find_passing(w.fractions.data() + begin, end - begin, target);
  return index < 0 ? -1 : w.ids[begin + index];
}

// `total` is the sum of the weights at temperature 1, or negative if nobody knows it.
void score(Logits& logits, int64_t total, int64_t num_top, SamplerWorkspace& w, SampledRow* out) {
  if (total < 0) total = weigh(logits, 1.0f, w);
  const float sum = static_cast<float>(static_cast<double>(total) / kWeightOne);
  float log_sum;
  logits.kernels->log(ElementsTask{&sum, &log_sum}, 0, 1);
  const float peak = logits.peak.value;
  out->logprob = logits.x[out->token] - peak - log_sum;
  if (num_top <= 0) return;
  const int64_t count = find_best(logits, num_top, -kInfinity, w);
  int32_t* order = w.members.data();
  for (int64_t i = 0; i < count; ++i) order[i] = static_cast<int32_t>(i);
  std::sort(order, order + count, [&](int32_t a, int32_t b) {
    return w.values[a] != w.values[b] ? w.values[a] > w.values[b] : a < b;
  });
  out->num_top = static_cast<int32_t>(count);
  for (int64_t i = 0; i < count; ++i) {
    out->top_ids[i] = w.ids[order[i]];
    out->top_logprobs[i] = w.values[order[i]] - peak - log_sum;
  }
}

Logits logits_with_peak(const KernelTable& kernels, const float* x, int64_t size,
                        SamplerWorkspace& w, const RowPeak* known_peak) {
  Logits logits{&kernels, x, size, {}, false};
  if (known_peak != nullptr) {
    logits.peak = *known_peak;
  } else {
    find_peak(logits, w);
  }
  return logits;
}

void clear(SampledRow* row, RowError error) {
  row->token = -1;
  row->error = error;
  row->logprob = 0.0f;
  row->num_top = 0;
}

}  // namespace

SamplingRow SamplingArrays::row(int64_t i) const {
  SamplingRow row{};
  row.seed = seeds[i];
  row.choice = choices[i];
  row.position = positions[i];
  row.temperature = temperature[i];
  row.top_k = top_k[i];
  row.top_p = top_p[i];
  row.min_p = min_p[i];
  row.typical_p = typical_p[i];
  row.repetition_penalty = repetition_penalty[i];
  row.presence_penalty = presence_penalty[i];
  row.frequency_penalty = frequency_penalty[i];
  row.num_logprobs = num_logprobs[i];
  row.num_seen = seen_starts[i + 1] - seen_starts[i];
  row.seen_ids = seen_ids + seen_starts[i];
  row.seen_counts = seen_counts + seen_starts[i];
  row.num_biases = bias_starts[i + 1] - bias_starts[i];
  row.bias_ids = bias_ids + bias_starts[i];
  row.bias_values = bias_values + bias_starts[i];
  row.mask = mask_of_row[i] < 0 ? nullptr : masks + mask_of_row[i] * words_of_mask;
  return row;
}

RowPeak row_peak(const KernelTable& kernels, const float* logits, int64_t begin, int64_t end) {
  RowPeak peak;
  kernels.sampling.peak(PeakTask{logits, nullptr}, begin, end, &peak);
  return peak;
}

RowPeak merged(const RowPeak& one, const RowPeak& other) {
  if (one.has_nan || other.has_nan) return one.has_nan ? one : other;
  if (one.value != other.value) return one.value > other.value ? one : other;
  return one.index < other.index ? one : other;
}

bool reads_logits(const SamplingRow& row) {
  return !is_greedy(row) || row.num_logprobs >= 0 || !is_plain(row);
}

void sample_row(const KernelTable& kernels, const float* x, int64_t vocab_size,
                const SamplingRow& row, SamplerWorkspace& w, SampledRow* sampled,
                const RowPeak* known_peak) {
  Logits raw = logits_with_peak(kernels, x, vocab_size, w, known_peak);
  clear(sampled, unusable(raw.peak));
  if (sampled->error != RowError::kNone) return;

  const bool plain = is_plain(row);
  Logits processed = raw;
  if (!plain) {
    sampled->error = process(x, vocab_size, row, w.logits.data());
    if (sampled->error != RowError::kNone) return;
    processed = logits_with_peak(kernels, w.logits.data(), vocab_size, w, nullptr);
    raw.has_maxima = false;
    if (processed.peak.has_nan || processed.peak.value == kInfinity) {
      sampled->error = RowError::kOverflow;
    } else if (processed.peak.value == -kInfinity) {
      sampled->error = RowError::kNoTokenLeft;
    }
    if (sampled->error != RowError::kNone) return;
  }

  int64_t total = -1;
  const Filters filters{row.temperature, row.top_k, row.top_p, row.min_p, row.typical_p};
  if (is_greedy(row)) {
    sampled->token = static_cast<int32_t>(processed.peak.index);
  } else if (filters.keep_all(vocab_size)) {
    sampled->token = draw_from_all(processed, row, w, &total);
    if (!plain || row.temperature != 1.0f) total = -1;
  } else {
    sampled->token = draw_from_filtered(processed, row, filters, w);
    if (plain) raw.has_maxima = processed.has_maxima;
  }
  if (sampled->token < 0) {
    sampled->error = RowError::kNoCandidate;
    return;
  }
  if (row.num_logprobs >= 0) score(raw, total, row.num_logprobs, w, sampled);
}

void score_row(const KernelTable& kernels, const float* x, int64_t vocab_size, int32_t target,
               int32_t num_top, SamplerWorkspace& w, SampledRow* scored,
               const RowPeak* known_peak) {
  Logits logits = logits_with_peak(kernels, x, vocab_size, w, known_peak);
  clear(scored, unusable(logits.peak));
  if (scored->error != RowError::kNone) return;
  scored->token = target;
  score(logits, -1, num_top, w, scored);
}

}  // namespace octavo
