// Blocks of columns stay in the second-level cache while all tiles of a block of rows pass.
#include "executor/product.h"

#include <algorithm>

#include "executor/formats.h"

namespace octavo {
namespace {

constexpr int64_t kBlockBytes = 384 << 10;  // of weights, under half of a second-level cache
constexpr int64_t kMaxBlockPanels = 16;
constexpr int64_t kBlockTiles = 48;   // of rows: their operand stays near, too
constexpr int64_t kItemsAThread = 8;  // enough that no thread waits long for the last

const char* kind_of(Finish finish, bool finds_peaks) {
  switch (finish) {
    case Finish::kStore:
      return finds_peaks ? "product and highest" : "product";
    case Finish::kAdd:
      return "product and sum";
    case Finish::kGate:
      return "product and gate";
  }
  return "";
}

}  // namespace

Product::Product(const KernelTable& kernels, int num_threads, Operand operand,
                 ProductWeights weights, ProductFinish finish, float* scratch,
                 const Unpacked& unpacked)
    : kernels_(kernels),
      num_threads_(num_threads),
      operand_(operand),
      weights_(weights),
      finish_(finish),
      scratch_(scratch),
      unpacked_(unpacked),
      multiply_(multiply_of(kernels, weights.format)),
      panel_unit_(1) {
  if (finish.kind == Finish::kGate) {
    // A group of an operand is 128 results, from 128 + 128 columns.
    panel_unit_ = finish.prepare == nullptr ? 2 : 2 * kGroup / kPanelColumns;
  }
}

int64_t Product::unpacked_bytes(Format format, int64_t depth) {
  if (format != Format::kW4) return 0;
  return kMaxBlockPanels * unpacked_panel_bytes(depth);
}

bool Product::is_unpacked() const {
  return weights_.format == Format::kW4 && tiles_.rows >= unpacked_.from_rows;
}

void Product::plan(const Step&, int64_t num_rows, std::vector<Stage>& stages) {
  tiles_ = RowTiles{num_rows};
  const int64_t bytes = is_unpacked() ? unpacked_panel_bytes(weights_.depth)
                                      : panel_bytes(weights_.format, weights_.depth);
  const int64_t row_blocks = (tiles_.count() + kBlockTiles - 1) / kBlockTiles;
  const int64_t for_cache = std::max<int64_t>(1, kBlockBytes / bytes);
  const int64_t for_balance = weights_.num_panels * row_blocks / (kItemsAThread * num_threads_);
  const int64_t wanted = std::clamp<int64_t>(std::min(for_cache, for_balance), 1, kMaxBlockPanels);
  block_panels_ = std::max(panel_unit_, wanted / panel_unit_ * panel_unit_);
  num_column_blocks_ = (weights_.num_panels + block_panels_ - 1) / block_panels_;
  stages.push_back(
      stage_of(this, row_blocks * num_column_blocks_, kind_of(finish_.kind, peaks_ != nullptr)));
}

void Product::run(int64_t begin, int64_t end, int thread) {
  for (int64_t item = begin; item < end; ++item) {
    const int64_t first_tile = item / num_column_blocks_ * kBlockTiles;
    const int64_t first_panel = item % num_column_blocks_ * block_panels_;
    run_block(first_tile, std::min(first_tile + kBlockTiles, tiles_.count()), first_panel,
              std::min(first_panel + block_panels_, weights_.num_panels), thread);
  }
}

// Few tiles of rows: each panel goes through all of them while the next one is fetched. The rows'
// operand is small enough to stay near.
void Product::run_few_tiles(int64_t first_panel, int64_t num_panels, int thread) const {
  float* scratch = scratch_of(thread);
  const int64_t bytes = panel_bytes(weights_.format, weights_.depth);
  const int64_t num_tiles = tiles_.count();
  PanelsTask task{};
  task.num_panels = 1;
  task.depth = weights_.depth;
  task.out_stride = num_panels * kPanelColumns;
  task.num_shares = num_tiles;
  for (int64_t panel = 0; panel < num_panels; ++panel) {
    task.panels = weights_.panels + (first_panel + panel) * bytes;
    for (int64_t tile = 0; tile < num_tiles; ++tile) {
      task.rows = operand_.tile(tiles_, tile);
      task.out = scratch + tile * kTileFloats + panel * kPanelColumns;
      task.soon = task.panels + bytes + tile * bytes / num_tiles;
      multiply_(task);
    }
  }
  for (int64_t tile = 0; tile < num_tiles; ++tile) {
    finish_tile(tile, first_panel, num_panels, scratch + tile * kTileFloats, task.out_stride,
                thread);
  }
}

void Product::run_block(int64_t first_tile, int64_t last_tile, int64_t first_panel,
                        int64_t last_panel, int thread) const {
  float* scratch = scratch_of(thread);
  const int64_t num_panels = last_panel - first_panel;
  const int64_t stride = num_panels * kPanelColumns;
  if (tiles_.count() > 1 && tiles_.count() <= kFewTiles && !is_unpacked()) {
    run_few_tiles(first_panel, num_panels, thread);
    return;
  }
  const bool is_direct =
      finish_.kind == Finish::kStore && weights_.bias == nullptr && peaks_ == nullptr;
  PanelsTask task{};
  task.panels = weights_.panels + first_panel * panel_bytes(weights_.format, weights_.depth);
  task.num_panels = num_panels;
  task.depth = weights_.depth;
  auto multiply = multiply_;
  if (is_unpacked()) {
    uint8_t* unpacked = unpacked_.data + thread * unpacked_.stride;
    for (int64_t panel = 0; panel < num_panels; ++panel) {
      kernels_.unpack_w4(task.panels + panel * panel_bytes(Format::kW4, weights_.depth),
                         weights_.depth, unpacked + panel * unpacked_panel_bytes(weights_.depth));
    }
    task.panels = unpacked;
    multiply = kernels_.panels_w4_unpacked;
  }
  for (int64_t tile = first_tile; tile < last_tile; ++tile) {
    task.rows = operand_.tile(tiles_, tile);
    if (is_direct) {
      task.out = finish_.out.row(tiles_.first(tile)) + first_panel * kPanelColumns;
      task.out_stride = finish_.out.stride;
      multiply(task);
      continue;
    }
    task.out = scratch;
    task.out_stride = stride;
    fetch_addend(tile, first_panel, num_panels);
    multiply(task);
    finish_tile(tile, first_panel, num_panels, scratch, stride, thread);
  }
}

void Product::fetch_addend(int64_t tile, int64_t first_panel, int64_t num_panels) const {
  if (finish_.kind != Finish::kAdd) return;
  constexpr int64_t kFloatsOfLine = 16;
  const int64_t first_row = tiles_.first(tile);
  for (int64_t row = first_row; row < first_row + tiles_.height(tile); ++row) {
    const float* addend = finish_.addend.row(row) + first_panel * kPanelColumns;
    for (int64_t i = 0; i < num_panels * kPanelColumns; i += kFloatsOfLine) {
      __builtin_prefetch(addend + i, 1);
    }
  }
}

void Product::finish_tile(int64_t tile, int64_t first_panel, int64_t num_panels, float* results,
                          int64_t results_stride, int thread) const {
  float* spare = scratch_of(thread) + kFewTiles * kTileFloats;
  const int64_t first_row = tiles_.first(tile);
  const int height = tiles_.height(tile);
  const int64_t column = first_panel * kPanelColumns;
  const int64_t count = num_panels * kPanelColumns;
  for (int r = 0; r < height; ++r) {
    float* result = results + r * results_stride;
    if (weights_.bias != nullptr) kernels_.add(result, weights_.bias + column, result, count);
    switch (finish_.kind) {
      case Finish::kStore:
        store_row(first_row + r, column, result, count, thread);
        break;
      case Finish::kAdd:
        kernels_.add(finish_.addend.row(first_row + r) + column, result,
                     finish_.out.row(first_row + r) + column, count);
        break;
      case Finish::kGate: {
        float* to = finish_.prepare == nullptr ? finish_.out.row(first_row + r) + column / 2
                                               : spare + r * (count / 2);
        for (int64_t pair = 0; pair < count / 2; pair += kPanelColumns) {
          kernels_.activate(finish_.activation, result + 2 * pair,
                            result + 2 * pair + kPanelColumns, to + pair, kPanelColumns);
        }
        break;
      }
    }
  }
  if (finish_.prepare != nullptr) {
    const int64_t begin = column / 2;
    finish_.prepare(PrepareTask{spare, count / 2, begin,
                                std::min(count / 2, finish_.features - begin),
                                finish_.operand.depth, finish_.operand.tile(tiles_, tile)});
  }
}

void Product::store_row(int64_t row, int64_t column, const float* result, int64_t count,
                        int thread) const {
  if (peaks_ == nullptr || peaks_->reads_logits(row)) {
    std::copy(result, result + count, finish_.out.row(row) + column);
    return;
  }
  const int64_t in_vocab = std::min(count, finish_.features - column);
  if (in_vocab > 0) peaks_->raise(kernels_, thread, row, result, column, in_vocab);
}

}  // namespace octavo
