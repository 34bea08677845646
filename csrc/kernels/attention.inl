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

constexpr int kPageVectors = kPageTokens / Floats::kLanes;
constexpr int kPagePairs = kPageTokens / 2;
constexpr int kChunkPairs = kChunkTokens / 2;
constexpr int kLinesAhead = 160;
constexpr int kLineBytes = 64;
constexpr uint32_t kWholePage = (1u << kPageTokens) - 1;

// e^x for x <= 0, at most 2.2 ulp off; 0 below -86, where results would soon be denormal. A NaN
// stays one.
inline Vector exp_nonpositive(Vector x) {
  constexpr float kTerms[] = {0.008312501f, 0.04189033f, 0.16667116f, 0.4999923f, 1.0f, 1.0f};
  const Vector rounder = Floats::set(kRounder);
  const Vector shifted = Floats::fma(x, Floats::set(kLog2OfE), rounder);
  const Vector n = Floats::subtract(shifted, rounder);
  Vector r = Floats::fma(n, Floats::set(-kLn2High), x);
  r = Floats::fma(n, Floats::set(-kLn2Low), r);
  // The bits of the rounder leave at the top.
  const Vector power = Floats::from_bits(
      Floats::add(Floats::shift_left<23>(Floats::bits(shifted)), Floats::set_ints(0x3F800000u)));
  const Vector result = Floats::multiply(polynomial(r, kTerms), power);
  return Floats::select(Floats::less(x, Floats::set(-86.0f)), Floats::set(0.0f), result);
}

void exp_nonpositive_elements(const ElementsTask& task, int64_t begin, int64_t end) {
  for_each<exp_nonpositive>(task, begin, end);
}

// A page that some row sees a token of.
struct SeenPage {
  const uint8_t* keys;
  const uint8_t* values;
  int first_token;  // of the chunk
  uint32_t tokens;  // a bit each: some row sees it
  bool by_all;      // every row sees every token
};

// The tokens [first, last) of a chunk that lie in a page, a bit each.
inline uint32_t tokens_of_page(int first, int last, int first_token) {
  int begin = first - first_token;
  int end = last - first_token;
  if (begin < 0) begin = 0;
  if (end > kPageTokens) end = kPageTokens;
  return begin < end ? (1u << end) - (1u << begin) : 0;
}

struct SeenPages {
  SeenPage pages[kChunkPages];
  int count = 0;

  explicit SeenPages(const ChunkTask& task) {
    int begin = kChunkTokens;  // of all rows together
    int end = 0;
    int common_begin = 0;  // of what every row sees
    int common_end = kChunkTokens;
    bool all_see = true;
    for (int r = 0; r < task.height; ++r) {
      const int first = task.first[r];
      const int last = task.last[r];
      if (first >= last) {
        all_see = false;
        continue;
      }
      if (first < begin) begin = first;
      if (last > end) end = last;
      if (first > common_begin) common_begin = first;
      if (last < common_end) common_end = last;
    }
    for (int page = begin / kPageTokens; page * kPageTokens < end; ++page) {
      const int first_token = page * kPageTokens;
      // Rows that have a token in common leave no gap between them.
      uint32_t tokens = tokens_of_page(begin, end, first_token);
      if (common_begin >= common_end) tokens = tokens_of_any(task, first_token);
      if (tokens == 0) continue;
      const bool by_all =
          all_see && tokens_of_page(common_begin, common_end, first_token) == kWholePage;
      pages[count++] = {task.keys[page], task.values[page], first_token, tokens, by_all};
    }
  }

  static uint32_t tokens_of_any(const ChunkTask& task, int first_token) {
    uint32_t tokens = 0;
    for (int r = 0; r < task.height; ++r) {
      tokens |= tokens_of_page(task.first[r], task.last[r], first_token);
    }
    return tokens;
  }

  // The same pages as one row sees them.
  SeenPages(const SeenPages& all, int first, int last) : count(all.count) {
    for (int i = 0; i < count; ++i) {
      pages[i] = all.pages[i];
      pages[i].tokens &= tokens_of_page(first, last, pages[i].first_token);
    }
  }
};

// Fetches memory into the cache in the order in which this unit and the next one read it, a few
// pages ahead and at the pace at which they are read: memory is the bottleneck of decoding. A
// processor does not foresee where the next page lies, and has read half of it before it sees that
// it is read in order; and it drops what is asked for faster than memory answers.
class Stream {
 public:
  Stream(const ChunkTask& task, const SeenPages& seen, int64_t page_bytes)
      : page_bytes_(page_bytes) {
    for (int i = 0; i < seen.count; ++i) pages_[count_++] = seen.pages[i].keys;
    for (int i = 0; i < seen.count; ++i) pages_[count_++] = seen.pages[i].values;
    for (int i = 0; i < task.num_next_keys; ++i) {
      if (task.next_keys[i] != nullptr) pages_[count_++] = task.next_keys[i];
    }
    if (count_ == 0) return;
    start(0);
    for (int i = 0; i < kLinesAhead; i += 4) fetch(4);
  }

  int64_t lines_of_page() const { return (page_bytes_ + kLineBytes - 1) / kLineBytes; }

  // The next few lines. At the end it stays where it is.
  void fetch(int64_t lines) {
    for (int64_t i = 0; i < lines; ++i) __builtin_prefetch(at_ + i * kLineBytes);
    at_ += lines * kLineBytes;
    if (at_ >= end_) start(index_ + 1 < count_ ? index_ + 1 : index_);
  }

 private:
  void start(int index) {
    index_ = index;
    at_ = pages_[index];
    end_ = at_ + page_bytes_;
  }

  const uint8_t* pages_[3 * kChunkPages];
  int count_ = 0;
  int index_ = 0;
  int64_t page_bytes_;
  const uint8_t* at_ = nullptr;
  const uint8_t* end_ = nullptr;
};

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

// How keys and values lie in pages of bf16.
struct Bf16Pages {
  using Dots = Pairs;
  using Sum = Floats::Vector;
  static constexpr bool kValuesMayBeNan = true;

  static constexpr KvFormat kFormat = KvFormat::kBf16;
  static int64_t num_steps(int64_t head_dim) { return head_dim / 2; }
  static Sum start(const ChunkTask&, int) { return Floats::set(0.0f); }
  static float factor(const ChunkTask& task, int) { return task.scale; }
  static void fetch_scales(const SeenPage&, int64_t) {}
  static Vector score(Sum sum, float factor, const uint8_t*, int64_t, int) {
    return Floats::multiply(sum, Floats::set(factor));
  }
  // Its bits are rounded when it is stored.
  static Vector weight(Vector weight, const uint8_t*, int64_t, int) { return weight; }

  static const uint8_t* pair(const uint8_t* values, int64_t head_dim, int pair, int64_t column) {
    return values + (pair * head_dim + column) * 4;
  }
  static Pairs::Lanes load(const uint8_t* p) { return Pairs::load(p); }
  static Pairs::Lanes load_first(const uint8_t* p, int64_t count) {
    return Pairs::load_first(p, count);
  }
};

struct Int8Pages {
  using Dots = Quads;
  using Sum = Floats::Ints;
  static constexpr bool kValuesMayBeNan = false;  // their scales may, and those are the weights'

  static constexpr KvFormat kFormat = KvFormat::kInt8;
  static int64_t num_steps(int64_t head_dim) { return (head_dim + 3) / 4; }
  static Sum start(const ChunkTask& task, int row) {
    return Floats::set_ints(static_cast<uint32_t>(task.corrections[row]));
  }
  static float factor(const ChunkTask& task, int row) {
    return task.query_scales[row] * task.scale;
  }
  static const float* scales(const uint8_t* page, int64_t head_dim) {
    return reinterpret_cast<const float*>(page + kPageTokens * padded(head_dim, 4));
  }
  // Those of the values are read long before the values.
  static void fetch_scales(const SeenPage& page, int64_t head_dim) {
    __builtin_prefetch(scales(page.values, head_dim));
  }
  static Vector score(Sum sum, float factor, const uint8_t* keys, int64_t head_dim, int token) {
    const Vector scaled = Floats::multiply(Floats::to_floats(sum), Floats::set(factor));
    return Floats::multiply(scaled, Floats::load(scales(keys, head_dim) + token));
  }
  static Vector weight(Vector weight, const uint8_t* values, int64_t head_dim, int token) {
    const Vector folded = Floats::multiply(weight, Floats::load(scales(values, head_dim) + token));
    const Mask tiny = Floats::less(folded, Floats::set(kSmallestWeight));
    return Floats::select(tiny, Floats::set(0.0f), folded);
  }

  static const uint8_t* pair(const uint8_t* values, int64_t head_dim, int pair, int64_t column) {
    return values + (pair * padded(head_dim, 4) + column) * 2;
  }
  static Pairs::Lanes load(const uint8_t* p) { return Pairs::load_bytes(p); }
  static Pairs::Lanes load_first(const uint8_t* p, int64_t count) {
    return Pairs::load_bytes_first(p, count);
  }
};

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
