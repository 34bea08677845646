// Attention through pages: one layer's keys and values are written, then read by its queries.
#pragma once

#include "executor/formats.h"
#include "executor/pages.h"
#include "executor/row_calls.h"

namespace octavo {

// What all attention layers of one KV group with the same heads share in a step: which query rows
// are computed together against which chunks.
//
// The query heads of one KV head stand together: row `token * heads + head` of a sequence. Units of
// at most 12 such rows go through their chunks in ascending order; where there are too few units
// for the threads, each chunk is a piece of work of its own, and a second stage merges. The
// arithmetic is the same.
class AttentionPlan {
 public:
  struct Unit {
    int32_t seq;
    int32_t kv_head;
    int32_t first_row;  // of the sequence's rows of this KV head
    int32_t height;
    int32_t first_chunk, last_chunk;  // [first, last)
    int32_t part;                     // of its first chunk among the parts to be merged, or -1
  };
  struct Piece {
    int32_t unit;
    int32_t first_chunk, last_chunk;
  };

  AttentionPlan(int64_t group, int64_t num_kv_heads, int64_t heads_of_one, int64_t window,
                int num_threads, int64_t max_model_len);

  // Makes the units of a step; the same step again costs nothing.
  void make(const Step& step, uint64_t step_number);

  int64_t group() const { return group_; }
  int64_t heads_of_one() const { return heads_of_one_; }
  int64_t window() const { return window_; }  // 0: none
  int64_t max_parts() const { return max_parts_; }
  bool is_split() const { return is_split_; }
  const std::vector<Unit>& units() const { return units_; }
  const std::vector<Piece>& pieces() const { return pieces_; }

 private:
  int64_t group_, num_kv_heads_, heads_of_one_, window_;
  int64_t split_below_;  // units
  int64_t max_parts_;
  uint64_t step_number_ = 0;
  bool is_split_ = false;
  std::vector<Unit> units_;
  std::vector<Piece> pieces_;
};

// Chunks of a unit that wait to be merged: (parts, 12) peaks and sums, (parts, 12, head_dim).
struct AttentionParts {
  float* peaks;
  float* sums;
  float* out;
};

// Stores the keys and values of a token in its page.
struct WriteKvRows final : RowOperation {
  AttentionKernels kernels;
  PagePool pool;
  int64_t group, layer;  // the layer's number in its group
  View keys, values;
  const int32_t* const* seq_of_row;  // (tokens,), filled by the step
  void run(const Step& step, RowTiles tiles, int64_t tile) const override;
};

class Attend final : public Call {
 public:
  Attend(AttentionKernels kernels, PagePool pool, int64_t layer, float scale, View queries,
         View out, AttentionPlan& plan, AttentionParts parts, const uint64_t& step_number);

  void plan(const Step& step, int64_t num_rows, std::vector<Stage>& stages) override;
  void run(int64_t begin, int64_t end, int thread);

 private:
  struct Rows;  // of one unit, while it is computed

  void run_piece(const AttentionPlan::Piece& piece) const;
  void merge_unit(const AttentionPlan::Unit& unit) const;
  void load(const AttentionPlan::Unit& unit, Rows& rows) const;
  void attend_chunk(const AttentionPlan::Unit& unit, const Rows& rows, int64_t chunk, float* peaks,
                    float* sums, float* out) const;
  void store(const AttentionPlan::Unit& unit, const float* total, const float* merged) const;

  AttentionKernels kernels_;
  PagePool pool_;
  int64_t layer_;
  float scale_;
  View queries_, out_;
  AttentionPlan& plan_;
  AttentionParts parts_;
  const uint64_t& step_number_;
  const Step* step_ = nullptr;
};

}  // namespace octavo
