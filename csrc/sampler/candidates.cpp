// Filters without a sort. A candidate is dropped only where that cannot change what is drawn.
#include "sampler/candidates.h"

#include <algorithm>
#include <functional>
#include <limits>

namespace octavo {
namespace {

// Below this log weight the integer weight is 0: e^-28.43 is 2^-41 and a bit.
constexpr double kLowestLogWeight = -28.5;
// Between a log weight computed in float32 and the true one there is less, relative to |-100|.
constexpr double kSlack = 0.5;

// Orders as the numbers do; the two zeros are equal.
uint64_t ascending_key(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x + 0.0f);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

// At which key the sum of weights, from the highest key down, reaches what is needed.
struct Border {
  uint64_t key;
  int64_t reached;  // by all above it
};

// What is needed is at least 1 and at most the sum of all.
template <typename Weight>
Border find_border(int64_t count, int64_t needed, const Weight& weight, SamplerWorkspace& w) {
  const uint64_t* keys = w.keys.data();
  int32_t* members = w.members.data();
  int64_t* bins = w.bins.data();
  bool all = true;  // else the first `count` members
  int64_t reached = 0;
  for (;;) {
    const auto index = [&](int64_t i) { return all ? i : members[i]; };
    uint64_t low = std::numeric_limits<uint64_t>::max(), high = 0;
    for (int64_t i = 0; i < count; ++i) {
      const uint64_t key = keys[index(i)];
      low = std::min(low, key);
      high = std::max(high, key);
    }
    if (low == high) return {low, reached};
    const int bits = 64 - __builtin_clzll(high - low);
    const int shift = std::max(0, bits - SamplerWorkspace::kBinBits);
    std::fill_n(bins, ((high - low) >> shift) + 1, int64_t{0});
    for (int64_t i = 0; i < count; ++i) bins[(keys[index(i)] - low) >> shift] += weight(index(i));
    uint64_t bin = (high - low) >> shift;
    while (bin > 0 && reached + bins[bin] < needed) reached += bins[bin--];
    int64_t num_members = 0;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t member = index(i);
      if ((keys[member] - low) >> shift == bin) {
        members[num_members++] = static_cast<int32_t>(member);
      }
    }
    count = num_members;
    all = false;
  }
}

// Moves the candidates for which keep(i) is true to the front. Asks in ascending order, once each.
template <typename Keep>
int64_t keep_where(int64_t count, const Keep& keep, SamplerWorkspace& w) {
  int64_t kept = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (!keep(i)) continue;
    w.ids[kept] = w.ids[i];
    w.values[kept] = w.values[i];
    w.fractions[kept] = w.fractions[i];
    ++kept;
  }
  return kept;
}

// From the highest key down, the fewest candidates whose weights reach what is needed.
template <typename Weight>
int64_t keep_first_to_reach(int64_t count, int64_t needed, const Weight& weight,
                            SamplerWorkspace& w) {
  const Border border = find_border(count, needed, weight, w);
  int64_t reached = border.reached;
  const auto keep = [&](int64_t i) {
    if (w.keys[i] != border.key) return w.keys[i] > border.key;
    if (reached >= needed) return false;
    reached += weight(i);
    return true;
  };
  return keep_where(count, keep, w);
}

// ceil(share * total), at least 1.
int64_t needed_for(float share, int64_t total) {
  const double needed = std::ceil(static_cast<double>(share) * static_cast<double>(total));
  return needed > 1.0 ? static_cast<int64_t>(needed) : 1;
}

// A logit below which every log weight is below the given one, by far more than rounding.
float threshold_for(double log_weight, const RowPeak& peak, float temperature) {
  const double threshold = peak.value + (log_weight - kSlack) * static_cast<double>(temperature);
  const double lowest = -std::numeric_limits<float>::max();
  if (!(threshold > lowest)) return -std::numeric_limits<float>::infinity();
  const float rounded = static_cast<float>(threshold);
  return rounded > threshold ? std::nextafterf(rounded, -HUGE_VALF) : rounded;
}

int64_t gather(const Logits& logits, float threshold, SamplerWorkspace& w) {
  const GatherTask task{logits.x, threshold, w.ids.data(), w.values.data()};
  return logits.kernels->sampling.gather(task, 0, logits.size, 0);
}

void compute_fractions(const Logits& logits, float temperature, int64_t count,
                       SamplerWorkspace& w) {
  const FractionsTask task{w.values.data(), logits.peak.value, temperature, w.fractions.data()};
  logits.kernels->sampling.fractions(task, count);
}

int64_t keep_top_p(float top_p, int64_t count, int64_t total, SamplerWorkspace& w) {
  const auto weight = [&](int64_t i) { return integer_weight(w.fractions[i]); };
  const int64_t needed = needed_for(top_p, total);
  int64_t available = 0;
  for (int64_t i = 0; i < count; ++i) {
    available += weight(i);
    w.keys[i] = ascending_key(w.values[i]);
  }
  // Others may have been dropped because later filters drop them anyway.
  return available < needed ? count : keep_first_to_reach(count, needed, weight, w);
}

int64_t keep_typical(float typical_p, float peak, float temperature, int64_t count,
                     SamplerWorkspace& w) {
  const auto weight = [&](int64_t i) { return integer_weight(w.fractions[i]); };
  const auto log_weight = [&](int64_t i) {
    return static_cast<double>((w.values[i] - peak) / temperature);
  };
  count = keep_where(count, [&](int64_t i) { return weight(i) > 0; }, w);
  if (count == 0) return 0;
  int64_t total = 0, products = 0;
  for (int64_t i = 0; i < count; ++i) {
    total += weight(i);
    // In [-2^40, 0], so that 2^52 + 2^51 rounds it to an integer.
    const double product = log_weight(i) * w.fractions[i] * kWeightOne;
    products += static_cast<int64_t>(product + 0x1.8p52 - 0x1.8p52);
  }
  const double mean = static_cast<double>(products) / static_cast<double>(total);
  for (int64_t i = 0; i < count; ++i) {
    // The nearer, the higher the key. Distances are not negative: they order as their bits.
    w.keys[i] = ~__builtin_bit_cast(uint64_t, std::fabs(log_weight(i) - mean));
  }
  return keep_first_to_reach(count, needed_for(typical_p, total), weight, w);
}

// A logit that at least `count` are not below, from the maxima of parts of the row, each of one
// logit or more.
float reached_by(int64_t count, const float* maxima, int64_t num_maxima, float* scratch) {
  std::copy_n(maxima, num_maxima, scratch);
  std::nth_element(scratch, scratch + count - 1, scratch + num_maxima, std::greater<float>());
  return scratch[count - 1];
}

}  // namespace

void find_peak(Logits& logits, SamplerWorkspace& workspace) {
  const PeakTask task{logits.x, workspace.maxima.data()};
  logits.kernels->sampling.peak(task, 0, logits.size, &logits.peak);
  logits.has_maxima = true;
}

int64_t weigh(const Logits& logits, float temperature, SamplerWorkspace& workspace) {
  const WeighTask task{logits.x, logits.peak.value, temperature, workspace.sums.data()};
  logits.kernels->sampling.weigh(task, 0, logits.size);
  int64_t total = 0;
  const int64_t num_blocks = SamplerWorkspace::num_blocks(logits.size);
  for (int64_t i = 0; i < num_blocks; ++i) total += workspace.sums[i];
  return total;
}

int64_t find_best(Logits& logits, int64_t count, SamplerWorkspace& w) {
  const float everything = -std::numeric_limits<float>::infinity();
  if (count >= logits.size) return gather(logits, everything, w);
  if (!logits.has_maxima) find_peak(logits, w);
  const int64_t num_blocks = SamplerWorkspace::num_blocks(logits.size);
  for (int64_t block = 0; block < num_blocks; ++block) {
    const float* lanes = w.maxima.data() + block * kMaximaLanes;
    w.block_maxima[block] = *std::max_element(lanes, lanes + kMaximaLanes);
  }
  // The maxima of half as many parts as there are: few more logits than wanted reach that.
  float threshold = everything;
  if (2 * count <= num_blocks) {
    threshold = reached_by(count, w.block_maxima.data(), num_blocks, w.scratch.data());
  } else if (2 * count <= num_blocks * kMaximaLanes) {
    threshold = reached_by(count, w.maxima.data(), num_blocks * kMaximaLanes, w.scratch.data());
  }
  const GatherTask task{logits.x, threshold, w.ids.data(), w.values.data()};
  int64_t found = 0;
  for (int64_t block = 0; block < num_blocks; ++block) {
    if (w.block_maxima[block] < threshold) continue;
    const int64_t begin = block * kLogitBlock;
    const int64_t end = std::min(begin + kLogitBlock, logits.size);
    found = logits.kernels->sampling.gather(task, begin, end, found);
  }
  for (int64_t i = 0; i < found; ++i) w.keys[i] = ascending_key(w.values[i]);
  return keep_first_to_reach(found, count, [](int64_t) { return int64_t{1}; }, w);
}

int64_t find_candidates(Logits& logits, const Filters& filters, SamplerWorkspace& w) {
  const float temperature = filters.temperature;
  int64_t count, total = 0;
  if (0 < filters.top_k && filters.top_k < logits.size) {
    count = find_best(logits, filters.top_k, w);
    compute_fractions(logits, temperature, count, w);
    for (int64_t i = 0; i < count; ++i) total += integer_weight(w.fractions[i]);
  } else {
    double lowest = kLowestLogWeight;
    if (filters.min_p > 0.0f) {
      lowest = std::max(lowest, std::log(static_cast<double>(filters.min_p)));
    }
    if (filters.top_p < 1.0f) {
      total = weigh(logits, temperature, w);
      // If all tokens below a weight were this heavy, the others would still reach the share.
      const double spare = static_cast<double>(total - needed_for(filters.top_p, total));
      const double each = spare / static_cast<double>(logits.size) - 1.0;
      if (each > 1.0) lowest = std::max(lowest, std::log(each / kWeightOne));
    }
    count = gather(logits, threshold_for(lowest, logits.peak, temperature), w);
    compute_fractions(logits, temperature, count, w);
  }
  if (filters.top_p < 1.0f) count = keep_top_p(filters.top_p, count, total, w);
  if (filters.min_p > 0.0f) {
    count = keep_where(count, [&](int64_t i) { return w.fractions[i] >= filters.min_p; }, w);
  }
  if (filters.typical_p < 1.0f) {
    count = keep_typical(filters.typical_p, logits.peak.value, temperature, count, w);
  }
  return count;
}

}  // namespace octavo
