// Operations that work row by row: each loops over the rows of a tile and calls its kernel.
#include "executor/row_calls.h"

#include <cstring>

namespace octavo {
namespace {

void copy(const float* from, float* to, int64_t count) {
  std::memcpy(to, from, count * sizeof(float));
}

}  // namespace

void RowCalls::plan(const Step& step, int64_t num_rows, std::vector<Stage>& stages) {
  step_ = &step;
  tiles_ = RowTiles{num_rows};
  stages.push_back(stage_of(this, tiles_.count(), "rows"));
}

void RowCalls::run(int64_t begin, int64_t end, int) {
  for (int64_t tile = begin; tile < end; ++tile) {
    for (const auto& operation : operations_) operation->run(*step_, tiles_, tile);
  }
}

void EmbedRows::run(const Step& step, RowTiles tiles, int64_t tile) const {
  const int32_t* entries = by_position ? step.positions : step.token_ids;
  for (int64_t row = tiles.first(tile); row < tiles.first(tile + 1); ++row) {
    copy(table + entries[row] * features, out.row(row), features);
  }
}

void EmbedColumns::run(const Step& step, RowTiles tiles, int64_t tile) const {
  for (int64_t row = tiles.first(tile); row < tiles.first(tile + 1); ++row) {
    const int64_t token = step.token_ids[row];
    embed(EmbedTask{panels + token / kPanelColumns * bytes_of_panel,
                    static_cast<int>(token % kPanelColumns), features, out.row(row)});
  }
}

void NormRows::run(const Step&, RowTiles tiles, int64_t tile) const {
  const int64_t first = tiles.first(tile);
  kernels->norm(NormTask{x.row(first), x.stride, out.row(first), out.stride, tiles.height(tile),
                         features, weight, bias, eps, subtracts_mean});
}

void PrepareRows::run(const Step&, RowTiles tiles, int64_t tile) const {
  prepare(
      PrepareTask{x.row(tiles.first(tile)), x.stride, 0, features, to.depth, to.tile(tiles, tile)});
}

void HeadNormRows::run(const Step&, RowTiles tiles, int64_t tile) const {
  for (int64_t row = tiles.first(tile); row < tiles.first(tile + 1); ++row) {
    kernels->norm(NormTask{x.row(row), head_dim, x.row(row), head_dim, num_heads, head_dim, weight,
                           nullptr, eps, false});
  }
}

void RotateRows::run(const Step& step, RowTiles tiles, int64_t tile) const {
  for (int64_t row = tiles.first(tile); row < tiles.first(tile + 1); ++row) {
    const int64_t at = step.positions[row] * num_pairs;
    kernels->rotate(
        RotateTask{x.row(row), num_heads, head_dim, num_pairs, cosines + at, sines + at});
  }
}

void AddRows::run(const Step&, RowTiles tiles, int64_t tile) const {
  for (int64_t row = tiles.first(tile); row < tiles.first(tile + 1); ++row) {
    kernels->add(a.row(row), b.row(row), out.row(row), features);
  }
}

void ScaleRows::run(const Step&, RowTiles tiles, int64_t tile) const {
  for (int64_t row = tiles.first(tile); row < tiles.first(tile + 1); ++row) {
    kernels->scale(x.row(row), factor, out.row(row), features);
  }
}

void ActivateRows::run(const Step&, RowTiles tiles, int64_t tile) const {
  for (int64_t row = tiles.first(tile); row < tiles.first(tile + 1); ++row) {
    const float* times = factor.data == nullptr ? nullptr : factor.row(row);
    kernels->activate(activation, x.row(row), times, out.row(row), features);
  }
}

void TakeRows::run(const Step& step, RowTiles tiles, int64_t tile) const {
  for (int64_t row = tiles.first(tile); row < tiles.first(tile + 1); ++row) {
    copy(x.row(step.head_rows[row]), out.row(row), features);
  }
}

}  // namespace octavo
