// Attention of one unit: the queries of one KV head, at most 12 rows, against one chunk of keys and
// values in pages of bf16 or int8. Two passes, so that nothing is rescaled within a chunk: scores
// and their peak; then exp(score - peak), its sum, and the sum of weight * value.
// octavo/backends/canonical_attention.py says the same in NumPy. Included at the end of
// attention_SET.inl, which say what a set's Pairs (dot products of bf16) and Quads (of int8) are.
//
// Every element is one sequence of operations, whatever rows are computed beside it:
//   score   bf16: fma(q[2i], k[2i], fma(q[2i+1], k[2i+1], sum)) with i ascending, then * scale
//           int8: the exact integer sum, * (query scale * scale), * key scale
//   weight  exp_nonpositive(score - peak); int8: * value scale, and 0 below 2^-100; to bf16
//   sum     of the float32 weights (before value scales) over the canonical lane tree
//   out     fma(w[2t], v[2t], fma(w[2t+1], v[2t+1], sum)) with t ascending, then + 0
// A token that a row does not see has the weight +0, which changes neither sums nor outputs: so
// pages that no row sees are left out, and what a row gets does not depend on what others see. (The
// last + 0 turns -0, the one value that a term of +0 changes, into +0.)
//
// The int8 chains never meet a denormal, so hardware that flushes them gives the bits of hardware
// that keeps them. A weight is 0 or at least 2^-100, and has 8 bits: it is a multiple of 2^-107. So
// are its products with integers, and sums of those: rounding a multiple of 2^-107 to 24 bits gives
// one again. What is not 0 is then at least 2^-107, far above 2^-126.

#include "kernels/exp_nonpositive.inl"
#include "kernels/page_formats.inl"
#include "kernels/seen_pages.inl"

constexpr int kPageVectors = kPageTokens / Floats::kLanes;
constexpr int kPagePairs = kPageTokens / 2;
constexpr int kChunkPairs = kChunkTokens / 2;

// Turns a number in [1, kMax] into a template argument.
template <int kNumber>
struct Constant {
  static constexpr int kValue = kNumber;
};

template <int kMax, typename Body>
inline void with_constant(int number, const Body& body) {
  if constexpr (kMax > 1) {
    if (number < kMax) return with_constant<kMax - 1>(number, body);
  }
  body(Constant<kMax>{});
}

// What a unit computes on the way.
template <typename Pages>
struct Workspace {
  using Query = typename Pages::Dots::Element;

  alignas(64) float scores[kMaxTileRows][kChunkTokens];  // tokens of seen pages, one after another
  alignas(64) Pairs::Element weights[kMaxTileRows][kChunkPairs];
  alignas(64) Vector peaks[kMaxTileRows];
  alignas(64) Query expanded[Pages::Dots::kPacked ? 1 : kMaxHeadDim / 2 * kMaxTileRows];
  const Query* queries;  // [step][height]
};

template <typename Pages>
inline void read_queries(const ChunkTask& task, Workspace<Pages>& space) {
  using Dots = typename Pages::Dots;
  if constexpr (Dots::kPacked) {
    space.queries = static_cast<const typename Dots::Element*>(task.queries);
  } else {
    const auto* packed = static_cast<const uint32_t*>(task.queries);
    const int64_t count = Pages::num_steps(task.head_dim) * task.height;
    for (int64_t i = 0; i < count; ++i) space.expanded[i] = Dots::expand(packed[i]);
    space.queries = space.expanded;
  }
}

// Scores of kRows rows from `row` on against kPages pages from `page` on.
template <typename Pages, int kRows, int kPages>
inline void score_block(const ChunkTask& task, const SeenPages& seen, int row, int page,
                        Stream& stream, Workspace<Pages>& space) {
  using Dots = typename Pages::Dots;
  const SeenPage* const pages = seen.pages + page;
  typename Pages::Sum sums[kRows][kPages][kPageVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    const typename Pages::Sum start = Pages::start(task, row + r);
#pragma GCC unroll 16
    for (int p = 0; p < kPages; ++p) {
#pragma GCC unroll 16
      for (int v = 0; v < kPageVectors; ++v) sums[r][p][v] = start;
    }
  }
  const typename Dots::Element* query = space.queries + row;
  const int64_t num_steps = Pages::num_steps(task.head_dim);
  for (int64_t i = 0; i < num_steps; ++i, query += task.height) {
    typename Dots::Lanes keys[kPages][kPageVectors];
#pragma GCC unroll 16
    for (int p = 0; p < kPages; ++p) {
#pragma GCC unroll 16
      for (int v = 0; v < kPageVectors; ++v) {
        keys[p][v] = Dots::load(pages[p].keys + (i * kPageTokens + v * Floats::kLanes) * 4);
      }
    }
    stream.fetch(kPages);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const typename Dots::Spread spread = Dots::spread(query + r);
#pragma GCC unroll 16
      for (int p = 0; p < kPages; ++p) {
#pragma GCC unroll 16
        for (int v = 0; v < kPageVectors; ++v) Dots::add(sums[r][p][v], spread, keys[p][v]);
      }
    }
  }
  const Vector never = Floats::set(-__builtin_inff());
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    const float factor = Pages::factor(task, row + r);
    float* const scores = space.scores[row + r] + page * kPageTokens;
    Vector peak = space.peaks[row + r];
#pragma GCC unroll 16
    for (int p = 0; p < kPages; ++p) {
#pragma GCC unroll 16
      for (int v = 0; v < kPageVectors; ++v) {
        const int token = v * Floats::kLanes;
        Vector score = Pages::score(sums[r][p][v], factor, pages[p].keys, task.head_dim, token);
        if (!pages[p].by_all) {
          const int begin = pages[p].first_token + token;
          const Mask sees = lanes_between(task.first[row + r] - begin, task.last[row + r] - begin);
          score = Floats::select(sees, score, never);
        }
        Floats::store(scores + p * kPageTokens + token, score);
        peak = larger(score, peak);
      }
    }
    space.peaks[row + r] = peak;
  }
}

template <typename Pages>
void score_pages(const ChunkTask& task, const SeenPages& seen, Stream& stream,
                 Workspace<Pages>& space) {
  for (int r = 0; r < task.height; ++r) space.peaks[r] = Floats::set(-__builtin_inff());
  const int num_tiles = (task.height + kScoreRows - 1) / kScoreRows;
  for (int tile = 0; tile < num_tiles; ++tile) {
    const int row = tile * task.height / num_tiles;
    const int rows = (tile + 1) * task.height / num_tiles - row;
    with_constant<kScoreRows>(rows, [&](auto constant) {
      constexpr int kRows = decltype(constant)::kValue;
      constexpr int kPages = score_pages_at_once(kRows);
      int page = 0;
      for (; page + kPages <= seen.count; page += kPages) {
        for (int p = 0; p < kPages; ++p) Pages::fetch_scales(seen.pages[page + p], task.head_dim);
        score_block<Pages, kRows, kPages>(task, seen, row, page, stream, space);
      }
      if constexpr (kPages > 1) {
        for (; page < seen.count; ++page) {
          Pages::fetch_scales(seen.pages[page], task.head_dim);
          score_block<Pages, kRows, 1>(task, seen, row, page, stream, space);
        }
      }
    });
  }
}

// Peaks, weights and their sums.
template <typename Pages>
void score_weights(const ChunkTask& task, const SeenPages& seen, Stream& stream,
                   Workspace<Pages>& space) {
  for (int r = 0; r < task.height; ++r) {
    // + 0 turns -0 into +0: which of two zeros is the larger depends on the order of lanes.
    const float peak = largest_lane(space.peaks[r]) + 0.0f;
    task.peaks[r] = peak;
    const Vector base = Floats::set(peak == -__builtin_inff() ? 0.0f : peak);
    Vector sums[kPageVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kPageVectors; ++v) sums[v] = Floats::set(0.0f);
    for (int page = 0; page < seen.count; ++page) {
      const SeenPage& one = seen.pages[page];
      stream.fetch(1);
#pragma GCC unroll 16
      for (int v = 0; v < kPageVectors; ++v) {
        const int token = v * Floats::kLanes;
        const int place = page * kPageTokens + token;
        Vector weight =
            exp_nonpositive(Floats::subtract(Floats::load(space.scores[r] + place), base));
        sums[v] = Floats::add(sums[v], weight);
        weight = Pages::weight(weight, one.values, task.head_dim, token);
        if (!Pages::kValuesMayBeNan && !one.by_all) {
          // The scale of a value that the row does not see may be anything.
          const int begin = one.first_token + token;
          const Mask sees = lanes_between(task.first[r] - begin, task.last[r] - begin);
          weight = Floats::select(sees, weight, Floats::set(0.0f));
        }
        Pairs::store_weights(space.weights[r], place, weight);
      }
    }
    task.sums[r] = sum_of_lanes(sums);
  }
}

// Sums of weight * value for kRows rows and kVectors vectors of columns; with kMasked, only the
// first `count` columns of one vector. With kPartial, what no row sees reads as 0. Pages [begin,
// end) of those that are seen; sums rest in `out` before and after.
template <typename Pages, int kRows, int kVectors, bool kMasked, bool kPartial>
inline void value_block(int64_t head_dim, const SeenPages& seen, int begin, int end,
                        const Pairs::Element* weights, int64_t column, int64_t count, int64_t lines,
                        Stream& stream, float* out) {
  static_assert(!kMasked || kVectors == 1);
  Vector sums[kRows][kVectors];
  const auto place = [&](int r, int v) { return out + r * head_dim + column + v * Floats::kLanes; };
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      if (begin == 0) {
        sums[r][v] = Floats::set(0.0f);
      } else if constexpr (kMasked) {
        sums[r][v] = Floats::load_first(place(r, v), count);
      } else {
        sums[r][v] = Floats::load(place(r, v));
      }
    }
  }
  weights += begin * kPagePairs;
  for (int page = begin; page < end; ++page) {
    const uint8_t* const values_of_page = seen.pages[page].values;
    uint32_t tokens = seen.pages[page].tokens;
    for (int pair = 0; pair < kPagePairs; ++pair, ++weights) {
      stream.fetch(lines);
      Pairs::Lanes values[kVectors];
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) {
        const uint8_t* const p =
            Pages::pair(values_of_page, head_dim, pair, column + v * Floats::kLanes);
        if constexpr (kMasked) {
          values[v] = Pages::load_first(p, count);
        } else {
          values[v] = Pages::load(p);
        }
        if constexpr (kPartial) values[v] = Pairs::keep(values[v], tokens);
      }
      tokens >>= 2;
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const Pairs::Spread spread = Pairs::spread(weights + r * kChunkPairs);
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) Pairs::add(sums[r][v], spread, values[v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      const Vector sum = Floats::add(sums[r][v], Floats::set(0.0f));
      if constexpr (kMasked) {
        Floats::store_first(place(r, v), sum, count);
      } else {
        Floats::store(place(r, v), sum);
      }
    }
  }
}

// All columns of `rows` rows. A few rows go through a few pages at a time, so that all of a page is
// read while it is fresh in the cache.
template <typename Pages, int kMaxRows, bool kPartial>
inline void add_values(int64_t head_dim, const SeenPages& seen, const Pairs::Element* weights,
                       int rows, Stream& stream, float* out) {
  with_constant<kMaxRows>(rows, [&](auto constant) {
    constexpr int kRows = decltype(constant)::kValue;
    constexpr int kVectors = value_vectors_at_once(kRows);
    constexpr int kPagesAtOnce = kRows <= 8 ? 4 : kChunkPages;
    constexpr int64_t kLanes = Floats::kLanes;
    const int64_t vectors = (head_dim + kLanes - 1) / kLanes;
    const int64_t blocks = vectors / kVectors + vectors % kVectors;
    const int64_t steps = blocks * kPagePairs;
    const int64_t lines = (stream.lines_of_page() + steps - 1) / steps;
    int begin = 0;
    do {
      const int end = begin + kPagesAtOnce < seen.count ? begin + kPagesAtOnce : seen.count;
      int64_t column = 0;
      for (; column + kVectors * kLanes <= head_dim; column += kVectors * kLanes) {
        value_block<Pages, kRows, kVectors, false, kPartial>(head_dim, seen, begin, end, weights,
                                                             column, 0, lines, stream, out);
      }
      for (; column < head_dim; column += kLanes) {
        const int64_t count = head_dim - column < kLanes ? head_dim - column : kLanes;
        value_block<Pages, kRows, 1, true, kPartial>(head_dim, seen, begin, end, weights, column,
                                                     count, lines, stream, out);
      }
      begin = end;
    } while (begin < seen.count);
  });
}

template <typename Pages>
void attend(const ChunkTask& task) {
  const SeenPages seen(task);
  Workspace<Pages> space;
  Stream stream(task, seen, kv_bytes(Pages::kFormat, task.head_dim));
  read_queries(task, space);
  score_pages(task, seen, stream, space);
  score_weights(task, seen, stream, space);
  if (Pages::kValuesMayBeNan && !task.values_are_finite) {
    // A weight of 0 would not keep a NaN out: each row is given only what it sees.
    for (int r = 0; r < task.height; ++r) {
      const SeenPages own(seen, task.first[r], task.last[r]);
      add_values<Pages, 1, true>(task.head_dim, own, space.weights[r], 1, stream,
                                 task.out + r * task.head_dim);
    }
    return;
  }
  bool partial = false;
  for (int i = 0; i < seen.count; ++i) partial |= seen.pages[i].tokens != kWholePage;
  const int num_tiles = (task.height + kValueRows - 1) / kValueRows;
  for (int tile = 0; tile < num_tiles; ++tile) {
    const int row = tile * task.height / num_tiles;
    const int rows = (tile + 1) * task.height / num_tiles - row;
    float* const out = task.out + row * task.head_dim;
    const Pairs::Element* const weights = space.weights[row];
    if (Pages::kValuesMayBeNan && partial) {
      add_values<Pages, kValueRows, true>(task.head_dim, seen, weights, rows, stream, out);
    } else {
      add_values<Pages, kValueRows, false>(task.head_dim, seen, weights, rows, stream, out);
    }
  }
}

void attend_bf16(const ChunkTask& task) { attend<Bf16Pages>(task); }
void attend_int8(const ChunkTask& task) { attend<Int8Pages>(task); }
