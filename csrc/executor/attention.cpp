// Cuts attention into units, runs them chunk by chunk, and merges the chunks.
#include "executor/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace octavo {
namespace {

constexpr int64_t kPartsAThread = 128;  // chunks that wait to be merged
constexpr int64_t kUnitsAThread = 4;    // with fewer, chunks are shared out

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool all_finite(const float* values, int64_t count) {
  // An exponent of all ones overflows into the sign; integers need no order, so this is vectors.
  uint32_t overflow = 0;
  for (int64_t i = 0; i < count; ++i) {
    overflow |= (__builtin_bit_cast(uint32_t, values[i]) & 0x7FFFFFFFu) + 0x00800000u;
  }
  return (overflow & 0x80000000u) == 0;
}

}  // namespace

AttentionPlan::AttentionPlan(int64_t group, int64_t num_kv_heads, int64_t heads_of_one,
                             int64_t window, int num_threads, int64_t max_model_len)
    : group_(group),
      num_kv_heads_(num_kv_heads),
      heads_of_one_(heads_of_one),
      window_(window),
      split_below_(num_threads == 1 ? 0 : kUnitsAThread * num_threads),
      max_parts_(std::min(split_below_ * ceil_divide(max_model_len, kChunkTokens),
                          kPartsAThread * num_threads)) {}

void AttentionPlan::make(const Step& step, uint64_t step_number) {
  if (step_number == step_number_) return;
  step_number_ = step_number;
  units_.clear();
  pieces_.clear();
  for (int64_t seq = 0; seq < step.num_seqs; ++seq) {
    const int64_t num_tokens = step.row_starts[seq + 1] - step.row_starts[seq];
    const RowTiles tiles{num_tokens * heads_of_one_};
    for (int64_t head = 0; head < num_kv_heads_; ++head) {
      // The last rows see most: they come first, so that no thread is left with them at the end.
      for (int64_t tile = tiles.count() - 1; tile >= 0; --tile) {
        const int64_t first_token = step.row_starts[seq] + tiles.first(tile) / heads_of_one_;
        const int64_t last_token =
            step.row_starts[seq] + (tiles.first(tile + 1) - 1) / heads_of_one_;
        const int64_t first_seen =
            window_ == 0 ? 0 : std::max<int64_t>(0, step.positions[first_token] - (window_ - 1));
        Unit unit{};
        unit.seq = static_cast<int32_t>(seq);
        unit.kv_head = static_cast<int32_t>(head);
        unit.first_row = static_cast<int32_t>(tiles.first(tile));
        unit.height = tiles.height(tile);
        unit.first_chunk = static_cast<int32_t>(first_seen / kChunkTokens);
        unit.last_chunk = step.positions[last_token] / kChunkTokens + 1;
        unit.part = -1;
        units_.push_back(unit);
      }
    }
  }
  int64_t num_chunks = 0;
  for (const Unit& unit : units_) num_chunks += unit.last_chunk - unit.first_chunk;
  is_split_ = static_cast<int64_t>(units_.size()) < split_below_ && num_chunks <= max_parts_;
  int32_t num_parts = 0;
  for (size_t index = 0; index < units_.size(); ++index) {
    Unit& unit = units_[index];
    const int32_t number = static_cast<int32_t>(index);
    if (!is_split_ || unit.last_chunk - unit.first_chunk == 1) {
      pieces_.push_back(Piece{number, unit.first_chunk, unit.last_chunk});
      continue;
    }
    unit.part = num_parts;
    num_parts += unit.last_chunk - unit.first_chunk;
    for (int32_t chunk = unit.first_chunk; chunk < unit.last_chunk; ++chunk) {
      pieces_.push_back(Piece{number, chunk, chunk + 1});
    }
  }
  is_split_ = num_parts > 0;
}

void WriteKvRows::run(const Step& step, RowTiles tiles, int64_t tile) const {
  const PageTable& table = step.tables[group];
  for (int64_t row = tiles.first(tile); row < tiles.first(tile + 1); ++row) {
    const int64_t position = step.positions[row];
    const int64_t page = table.pages[(*seq_of_row)[row] * table.width + position / kPageTokens];
    for (int64_t head = 0; head < pool.num_kv_heads; ++head) {
      kernels.write_kv(KvWriteTask{keys.row(row) + head * pool.head_dim,
                                   values.row(row) + head * pool.head_dim, pool.head_dim,
                                   static_cast<int>(position % kPageTokens),
                                   pool.keys(page, layer, head), pool.values(page, layer, head)});
    }
  }
}

Attend::Attend(AttentionKernels kernels, PagePool pool, int64_t layer, float scale, View queries,
               View out, AttentionPlan& plan, AttentionParts parts, const uint64_t& step_number)
    : kernels_(kernels),
      pool_(pool),
      layer_(layer),
      scale_(scale),
      queries_(queries),
      out_(out),
      plan_(plan),
      parts_(parts),
      step_number_(step_number) {}

struct Attend::Rows {
  alignas(64) float queries[kMaxTileRows * kMaxHeadDim];  // in the form that the format wants
  float scales[kMaxTileRows];
  int32_t corrections[kMaxTileRows];
  int64_t first[kMaxTileRows];  // absolute positions that a row sees: [first, last)
  int64_t last[kMaxTileRows];
};

void Attend::plan(const Step& step, int64_t, std::vector<Stage>& stages) {
  step_ = &step;
  plan_.make(step, step_number_);
  stages.push_back(stage_of(this, static_cast<int64_t>(plan_.pieces().size()), "attention"));
  if (!plan_.is_split()) return;
  const auto merge = [](void* self, int64_t begin, int64_t end, int) {
    const Attend& attend = *static_cast<const Attend*>(self);
    for (int64_t unit = begin; unit < end; ++unit) attend.merge_unit(attend.plan_.units()[unit]);
  };
  stages.push_back(
      Stage{merge, this, static_cast<int64_t>(plan_.units().size()), 1, "attention, merged"});
}

void Attend::run(int64_t begin, int64_t end, int) {
  for (int64_t piece = begin; piece < end; ++piece) run_piece(plan_.pieces()[piece]);
}

void Attend::load(const AttentionPlan::Unit& unit, Rows& rows) const {
  const int64_t heads = plan_.heads_of_one();
  const float* queries[kMaxTileRows];
  for (int r = 0; r < unit.height; ++r) {
    const int64_t row = unit.first_row + r;
    const int64_t token = step_->row_starts[unit.seq] + row / heads;
    const int64_t head = unit.kv_head * heads + row % heads;
    queries[r] = queries_.row(token) + head * pool_.head_dim;
    rows.last[r] = step_->positions[token] + 1;
    rows.first[r] = plan_.window() == 0 ? 0 : std::max<int64_t>(0, rows.last[r] - plan_.window());
  }
  if (kernels_.queries != nullptr) {
    kernels_.queries(QueriesTask{queries, unit.height, pool_.head_dim, rows.queries, rows.scales,
                                 rows.corrections});
    return;
  }
  for (int r = 0; r < unit.height; ++r) {
    std::memcpy(rows.queries + r * pool_.head_dim, queries[r], pool_.head_dim * sizeof(float));
  }
}

void Attend::run_piece(const AttentionPlan::Piece& piece) const {
  const AttentionPlan::Unit& unit = plan_.units()[piece.unit];
  Rows rows;
  load(unit, rows);
  if (unit.part >= 0) {
    const int64_t part = unit.part + piece.first_chunk - unit.first_chunk;
    attend_chunk(unit, rows, piece.first_chunk, parts_.peaks + part * kMaxTileRows,
                 parts_.sums + part * kMaxTileRows,
                 parts_.out + part * kMaxTileRows * pool_.head_dim);
    return;
  }
  float best[kMaxTileRows], total[kMaxTileRows], peaks[kMaxTileRows], sums[kMaxTileRows];
  alignas(64) float merged[kMaxTileRows * kMaxHeadDim];
  alignas(64) float part[kMaxTileRows * kMaxHeadDim];
  std::fill_n(best, unit.height, -INFINITY);
  std::fill_n(total, unit.height, 0.0f);
  std::fill_n(merged, unit.height * pool_.head_dim, 0.0f);
  for (int64_t chunk = piece.first_chunk; chunk < piece.last_chunk; ++chunk) {
    attend_chunk(unit, rows, chunk, peaks, sums, part);
    kernels_.merge(MergeTask{unit.height, pool_.head_dim, peaks, sums, part, best, total, merged});
  }
  store(unit, total, merged);
}

void Attend::merge_unit(const AttentionPlan::Unit& unit) const {
  if (unit.part < 0) return;
  float best[kMaxTileRows], total[kMaxTileRows];
  alignas(64) float merged[kMaxTileRows * kMaxHeadDim];
  std::fill_n(best, unit.height, -INFINITY);
  std::fill_n(total, unit.height, 0.0f);
  std::fill_n(merged, unit.height * pool_.head_dim, 0.0f);
  for (int64_t chunk = unit.first_chunk; chunk < unit.last_chunk; ++chunk) {
    const int64_t part = unit.part + chunk - unit.first_chunk;
    kernels_.merge(MergeTask{unit.height, pool_.head_dim, parts_.peaks + part * kMaxTileRows,
                             parts_.sums + part * kMaxTileRows,
                             parts_.out + part * kMaxTileRows * pool_.head_dim, best, total,
                             merged});
  }
  store(unit, total, merged);
}

void Attend::attend_chunk(const AttentionPlan::Unit& unit, const Rows& rows, int64_t chunk,
                          float* peaks, float* sums, float* out) const {
  const int64_t begin = chunk * kChunkTokens;
  int32_t first[kMaxTileRows], last[kMaxTileRows];
  int32_t end = 0;
  int32_t start = kChunkTokens;
  for (int r = 0; r < unit.height; ++r) {
    first[r] = static_cast<int32_t>(std::clamp<int64_t>(rows.first[r] - begin, 0, kChunkTokens));
    last[r] = static_cast<int32_t>(std::clamp<int64_t>(rows.last[r] - begin, 0, kChunkTokens));
    if (first[r] >= last[r]) continue;
    start = std::min(start, first[r]);
    end = std::max(end, last[r]);
  }
  const uint8_t* keys[kChunkPages] = {};
  const uint8_t* values[kChunkPages] = {};
  const PageTable& table = step_->tables[plan_.group()];
  const int32_t* pages = table.pages + unit.seq * table.width + chunk * kChunkPages;
  const uint8_t* const first_page = pool_.keys(0, layer_, unit.kv_head);
  const int64_t bytes_of_page = pool_.page_bytes();
  const int64_t to_values = pool_.num_kv_heads * pool_.head_bytes();
  for (int page = start / kPageTokens; page * kPageTokens < end; ++page) {
    keys[page] = first_page + pages[page] * bytes_of_page;
    values[page] = keys[page] + to_values;
  }
  // Usually this thread goes on with the next chunk, of this piece or as the next piece.
  const uint8_t* next_keys[kChunkPages] = {};
  int num_next_keys = 0;
  if (chunk + 1 < unit.last_chunk) {
    const int64_t left = table.width - (chunk + 1) * kChunkPages;
    num_next_keys = static_cast<int>(std::min<int64_t>(kChunkPages, left));
    for (int page = 0; page < num_next_keys; ++page) {
      next_keys[page] = first_page + pages[kChunkPages + page] * bytes_of_page;
    }
  }
  ChunkTask task{};
  task.next_keys = next_keys;
  task.num_next_keys = num_next_keys;
  task.queries = rows.queries;
  task.query_scales = rows.scales;
  task.corrections = rows.corrections;
  task.height = unit.height;
  task.head_dim = pool_.head_dim;
  task.keys = keys;
  task.values = values;
  task.first = first;
  task.last = last;
  task.scale = scale_;
  task.values_are_finite = true;
  task.peaks = peaks;
  task.sums = sums;
  task.out = out;
  kernels_.attend(task);
  // A value that is not finite may have reached rows that do not see it: 0 * inf is NaN.
  if (!all_finite(out, unit.height * pool_.head_dim)) {
    task.values_are_finite = false;
    kernels_.attend(task);
  }
}

void Attend::store(const AttentionPlan::Unit& unit, const float* total, const float* merged) const {
  const int64_t heads = plan_.heads_of_one();
  for (int r = 0; r < unit.height; ++r) {
    const int64_t row = unit.first_row + r;
    const int64_t token = step_->row_starts[unit.seq] + row / heads;
    float* out = out_.row(token) + (unit.kv_head * heads + row % heads) * pool_.head_dim;
    for (int64_t d = 0; d < pool_.head_dim; ++d) out[d] = merged[r * pool_.head_dim + d] / total[r];
  }
}

}  // namespace octavo
