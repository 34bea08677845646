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

float from_ascending_key(uint64_t key) {
  const uint32_t bits = static_cast<uint32_t>(key);
  return __builtin_bit_cast(float, (bits >> 31) != 0 ? bits & 0x7FFFFFFFu : ~bits);
}

float next_above(float x) { return std::nextafterf(x, HUGE_VALF); }

// At which key the sum of weights, from the highest key down, reaches what is needed.
struct Border {
  uint64_t key;
  int64_t reached;    // by all above it
  int64_t num_at;     // have the key
  int64_t weight_at;  // of the first of them
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
    if (low == high) return {low, reached, count, weight(index(0))};
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

// Integer weights of the candidates with logits >= threshold.
int64_t mass_from(const KernelTable& kernels, const float* values, const float* fractions,
                  int64_t count, float threshold) {
  return kernels.sampling.mass(MassTask{values, fractions, threshold}, 0, count);
}

// Two logits between which the border probably lies, guessed from a sample of the candidates, of
// which a mass is needed out of the mass of all.
struct Guess {
  float low, high;
};

Guess guess_border(const float* values, const float* fractions, int64_t count, int64_t needed,
                   int64_t mass) {
  constexpr int64_t kSample = 128;
  constexpr int64_t kSpread = 8;
  struct Sampled {
    float value;
    int64_t weight;
  } sample[kSample];
  int64_t sampled_mass = 0;
  for (int64_t i = 0; i < kSample; ++i) {
    const int64_t index = i * count / kSample;
    sample[i] = {values[index], integer_weight(fractions[index])};
    sampled_mass += sample[i].weight;
  }
  std::sort(sample, sample + kSample,
            [](const Sampled& a, const Sampled& b) { return a.value > b.value; });
  const double share = static_cast<double>(needed) / static_cast<double>(mass);
  const double wanted = share * static_cast<double>(sampled_mass);
  double reached = 0;
  int64_t at = 0;
  while (at < kSample - 1 && reached + static_cast<double>(sample[at].weight) < wanted) {
    reached += static_cast<double>(sample[at++].weight);
  }
  return {sample[std::min(at + kSpread, kSample - 1)].value,
          sample[std::max(at - kSpread, int64_t{0})].value};
}

// The border among the logits of candidates whose weights have the given mass. Narrows it down by
// sums over vectors while that halves what is left, then by histograms.
Border find_logit_border(const KernelTable& kernels, int64_t count, int64_t needed, int64_t mass,
                         SamplerWorkspace& w) {
  constexpr int64_t kFew = 2048;
  const float* values = w.values.data();
  const float* fractions = w.fractions.data();
  float* near_values = w.near_values.data();
  float* near_fractions = w.near_fractions.data();
  int64_t above = 0;  // the mass of those that are higher than all that are left
  bool halves = true;
  while (count > kFew && halves) {
    const Guess guess = guess_border(values, fractions, count, needed - above, mass);
    float low = -HUGE_VALF, high = HUGE_VALF;
    const int64_t from_high = mass_from(kernels, values, fractions, count, guess.high);
    if (above + from_high >= needed) {
      low = guess.high;
      mass = from_high;
    } else {
      const int64_t from_low = mass_from(kernels, values, fractions, count, guess.low);
      const bool between = above + from_low >= needed;
      const int64_t passed = between ? from_high : from_low;
      low = between ? guess.low : low;
      high = between ? guess.high : guess.low;
      mass = between ? from_low - from_high : mass - from_low;
      above += passed;
    }
    const KeepTask task{nullptr, values,  fractions,   low,
                        high,    nullptr, near_values, near_fractions};
    const int64_t left = kernels.sampling.keep(task, 0, count, 0);
    halves = 2 * left <= count;
    count = left;
    values = near_values;
    fractions = near_fractions;
  }
  for (int64_t i = 0; i < count; ++i) w.keys[i] = ascending_key(values[i]);
  const auto weight = [&](int64_t i) { return integer_weight(fractions[i]); };
  Border border = find_border(count, needed - above, weight, w);
  border.reached += above;
  return border;
}

// `total` is the mass that the share is of; candidates may have less, where later filters drop the
// others anyway.
int64_t keep_top_p(const KernelTable& kernels, float top_p, int64_t count, int64_t total,
                   SamplerWorkspace& w) {
  const int64_t needed = needed_for(top_p, total);
  const int64_t mass = mass_from(kernels, w.values.data(), w.fractions.data(), count, -HUGE_VALF);
  if (mass < needed) return count;
  const Border border = find_logit_border(kernels, count, needed, mass, w);
  const float at = from_ascending_key(border.key);
  // Candidates before the cut are kept from the border up, those after it from above the border.
  int64_t cut = count;
  const int64_t wanted = (needed - border.reached + border.weight_at - 1) / border.weight_at;
  if (wanted < border.num_at) {
    cut = 0;
    for (int64_t found = 0; found < wanted; ++cut) found += w.values[cut] == at ? 1 : 0;
  }
  const float above = next_above(at);
  const auto keep = [&](float low, int64_t begin, int64_t end, int64_t kept) {
    const KeepTask task{w.ids.data(), w.values.data(), w.fractions.data(), low,
                        HUGE_VALF,    w.ids.data(),    w.values.data(),    w.fractions.data()};
    return kernels.sampling.keep(task, begin, end, kept);
  };
  // Only the last vector of all may be less than whole: what follows the kept ones is overwritten.
  const int64_t whole = cut / kMaximaLanes * kMaximaLanes;
  const int64_t rest = std::min(whole + kMaximaLanes, count);
  int64_t kept = keep(at, 0, whole, 0);
  for (int64_t i = whole; i < rest; ++i) {
    if (w.values[i] < (i < cut ? at : above)) continue;
    w.ids[kept] = w.ids[i];
    w.values[kept] = w.values[i];
    w.fractions[kept++] = w.fractions[i];
  }
  return keep(above, rest, count, kept);
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

// Those of blocks that have any; needs the blocks' maxima.
int64_t gather_blocks(const Logits& logits, float threshold, SamplerWorkspace& w) {
  const GatherTask task{logits.x, threshold, w.ids.data(), w.values.data()};
  const int64_t num_blocks = SamplerWorkspace::num_blocks(logits.size);
  int64_t found = 0;
  for (int64_t block = 0; block < num_blocks; ++block) {
    if (w.block_maxima[block] < threshold) continue;
    const int64_t begin = block * kLogitBlock;
    const int64_t end = std::min(begin + kLogitBlock, logits.size);
    found = logits.kernels->sampling.gather(task, begin, end, found);
  }
  return found;
}

// A logit that `count` of a long row probably are not below, from a sample.
float probably_reached_by(int64_t count, const Logits& logits, float* scratch) {
  constexpr int64_t kSample = SamplerWorkspace::kMaxSample;
  constexpr int64_t kSpread = 48;  // three standard deviations
  const int64_t place = count * kSample / logits.size + kSpread;
  if (logits.size < 2 * kSample || place >= kSample) return -HUGE_VALF;
  for (int64_t i = 0; i < kSample; ++i) scratch[i] = logits.x[i * logits.size / kSample];
  std::nth_element(scratch, scratch + place, scratch + kSample, std::greater<float>());
  return scratch[place];
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

int64_t find_best(Logits& logits, int64_t count, float lowest, SamplerWorkspace& w) {
  if (count >= logits.size) return gather(logits, lowest, w);
  if (!logits.has_maxima) find_peak(logits, w);
  const int64_t num_blocks = SamplerWorkspace::num_blocks(logits.size);
  for (int64_t block = 0; block < num_blocks; ++block) {
    const float* lanes = w.maxima.data() + block * kMaximaLanes;
    w.block_maxima[block] = *std::max_element(lanes, lanes + kMaximaLanes);
  }
  // The maxima of half as many parts as there are: few more logits than wanted reach that.
  float threshold = lowest;
  if (2 * count <= num_blocks) {
    threshold = reached_by(count, w.block_maxima.data(), num_blocks, w.scratch.data());
  } else if (2 * count <= num_blocks * kMaximaLanes) {
    threshold = reached_by(count, w.maxima.data(), num_blocks * kMaximaLanes, w.scratch.data());
  } else {
    threshold = probably_reached_by(count, logits, w.scratch.data());
  }
  threshold = std::max(threshold, lowest);
  int64_t found = gather_blocks(logits, threshold, w);
  if (found < count && threshold > lowest) found = gather_blocks(logits, lowest, w);
  if (found <= count) return found;
  for (int64_t i = 0; i < found; ++i) w.keys[i] = ascending_key(w.values[i]);
  return keep_first_to_reach(found, count, [](int64_t) { return int64_t{1}; }, w);
}

int64_t find_candidates(Logits& logits, const Filters& filters, SamplerWorkspace& w) {
  const float temperature = filters.temperature;
  int64_t count, total = 0;
  if (0 < filters.top_k && filters.top_k < logits.size) {
    const float lowest = threshold_for(kLowestLogWeight, logits.peak, temperature);
    count = find_best(logits, filters.top_k, lowest, w);
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
  if (filters.top_p < 1.0f) count = keep_top_p(*logits.kernels, filters.top_p, count, total, w);
  if (filters.min_p > 0.0f) {
    count = keep_where(count, [&](int64_t i) { return w.fractions[i] >= filters.min_p; }, w);
  }
  if (filters.typical_p < 1.0f) {
    count = keep_typical(filters.typical_p, logits.peak.value, temperature, count, w);
  }
  return count;
}

}  // namespace octavo
