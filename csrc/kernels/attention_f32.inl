// Attention of a few query rows to one chunk of float32 pages: the canonical sequence of the
// reference backend (octavo/backends/reference_attention.py). Included by each unit of kernels
// inside its anonymous namespace.

void write_kv_f32(const KvWriteTask& task) {
  auto* keys = reinterpret_cast<float*>(task.key_page) + task.slot;
  auto* values = reinterpret_cast<float*>(task.value_page) + task.slot * task.head_dim;
  for (int64_t d = 0; d < task.head_dim; ++d) {
    keys[d * kPageTokens] = task.key[d];
    values[d] = task.value[d];
  }
}

// The scores of one page, each one chain along head_dim: out[r * kChunkTokens + token].
template <int kRows>
inline void score_page(const float* queries, int64_t head_dim, const float* keys, float* out) {
  constexpr int kVectors = kPageTokens / Floats::kLanes < 2 ? 1 : 2;
  for (int t = 0; t < kPageTokens; t += kVectors * Floats::kLanes) {
    Floats::Vector sums[kRows][kVectors];
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) sums[r][v] = Floats::set(0.0f);
    }
    for (int64_t d = 0; d < head_dim; ++d) {
      for (int v = 0; v < kVectors; ++v) {
        const Floats::Vector key = Floats::load(keys + d * kPageTokens + t + v * Floats::kLanes);
        for (int r = 0; r < kRows; ++r) {
          sums[r][v] = Floats::fma(Floats::set(queries[r * head_dim + d]), key, sums[r][v]);
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        Floats::store(out + r * kChunkTokens + t + v * Floats::kLanes, sums[r][v]);
      }
    }
  }
}

template <int kRows>
inline void score_rows(int rows, const float* queries, int64_t head_dim, const float* keys,
                       float* out) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return score_rows<kRows - 1>(rows, queries, head_dim, keys, out);
  }
  score_page<kRows>(queries, head_dim, keys, out);
}

// Scores to weights, in place: `count` tokens from the chunk's beginning, of which the row sees
// [first, last).
inline void weigh_scores(float* scores, int32_t first, int32_t last, int32_t count, float scale,
                         float* peak, float* sum) {
  float highest = -__builtin_inff();
  for (int32_t t = first; t < last; ++t) {
    scores[t] *= scale;
    if (highest < scores[t]) highest = scores[t];
  }
  const float base = highest == -__builtin_inff() ? 0.0f : highest;
  for (int32_t t = 0; t < count; ++t) scores[t] = t < first || t >= last ? 0.0f : scores[t] - base;
  for_each<exp_of>(ElementsTask{scores, scores}, first, last);
  *peak = highest;
  *sum = canonical_row_sum<false>(scores, count);
}

// out[r] = the chain of weight * value over the tokens [begin, end), ascending.
template <int kRows>
inline void weigh_values(const ChunkTask& task, const float* weights, float* out, int32_t begin,
                         int32_t end) {
  const int64_t dim = task.head_dim;
  for (int64_t d = 0; d < dim; d += Floats::kLanes) {
    const int64_t lanes = dim - d < Floats::kLanes ? dim - d : Floats::kLanes;
    Floats::Vector sums[kRows];
    for (int r = 0; r < kRows; ++r) sums[r] = Floats::set(0.0f);
    for (int32_t t = begin; t < end; ++t) {
      const auto* values =
          reinterpret_cast<const float*>(task.values[t / kPageTokens]) + t % kPageTokens * dim + d;
      const Floats::Vector value =
          lanes == Floats::kLanes ? Floats::load(values) : Floats::load_first(values, lanes);
      for (int r = 0; r < kRows; ++r) {
        sums[r] = Floats::fma(Floats::set(weights[r * kChunkTokens + t]), value, sums[r]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      if (lanes == Floats::kLanes) {
        Floats::store(out + r * dim + d, sums[r]);
      } else {
        Floats::store_first(out + r * dim + d, sums[r], lanes);
      }
    }
  }
}

template <int kRows>
inline void weigh_values_of(int rows, const ChunkTask& task, const float* weights, float* out,
                            int32_t begin, int32_t end) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return weigh_values_of<kRows - 1>(rows, task, weights, out, begin, end);
  }
  weigh_values<kRows>(task, weights, out, begin, end);
}

void attend_f32(const ChunkTask& task) {
  alignas(64) float weights[kMaxTileRows * kChunkTokens];
  const auto* queries = static_cast<const float*>(task.queries);
  int32_t begin = kChunkTokens;
  int32_t end = 0;
  for (int r = 0; r < task.height; ++r) {
    if (task.first[r] >= task.last[r]) continue;
    if (task.first[r] < begin) begin = task.first[r];
    if (task.last[r] > end) end = task.last[r];
  }
  for (int32_t page = begin / kPageTokens; page * kPageTokens < end; ++page) {
    for (int row = 0; row < task.height; row += kRegisterRows) {
      const int left = task.height - row;
      score_rows<kRegisterRows>(left < kRegisterRows ? left : kRegisterRows,
                                queries + row * task.head_dim, task.head_dim,
                                reinterpret_cast<const float*>(task.keys[page]),
                                weights + row * kChunkTokens + page * kPageTokens);
    }
  }
  for (int r = 0; r < task.height; ++r) {
    weigh_scores(weights + r * kChunkTokens, task.first[r], task.last[r], end, task.scale,
                 task.peaks + r, task.sums + r);
  }
  if (task.values_are_finite) {
    for (int row = 0; row < task.height; row += kRegisterRows) {
      const int left = task.height - row;
      weigh_values_of<kRegisterRows>(left < kRegisterRows ? left : kRegisterRows, task,
                                     weights + row * kChunkTokens, task.out + row * task.head_dim,
                                     begin, end);
    }
    return;
  }
  for (int r = 0; r < task.height; ++r) {
    weigh_values<1>(task, weights + r * kChunkTokens, task.out + r * task.head_dim, task.first[r],
                    task.last[r]);
  }
}

// What a row has so far, and one more chunk: see reference_attention.py. + 0 turns -0 into +0:
// whether unseen tokens were added then does not show.
void merge_chunk(const MergeTask& task) {
  static_assert(kMaxTileRows <= 16);
  float olds[16];  // whole vectors
  float news[16];
  for (int r = 0; r < task.height; ++r) {
    const float best = task.best[r] < task.peaks[r] ? task.peaks[r] : task.best[r];
    const float base = best == -__builtin_inff() ? 0.0f : best;
    olds[r] = task.best[r] - base;
    news[r] = task.peaks[r] - base;
    task.best[r] = best;
  }
  exp_elements(ElementsTask{olds, olds}, 0, task.height);
  exp_elements(ElementsTask{news, news}, 0, task.height);
  for (int r = 0; r < task.height; ++r) {
    task.total[r] = task.total[r] * olds[r] + task.sums[r] * news[r];
    float* __restrict merged = task.merged + r * task.head_dim;
    const float* __restrict part = task.part + r * task.head_dim;
    for (int64_t d = 0; d < task.head_dim; ++d) {
      merged[d] = merged[d] * olds[r] + part[d] * news[r] + 0.0f;
    }
  }
}
