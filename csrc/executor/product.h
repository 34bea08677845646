// A product of an operand with packed weights, and what becomes of its results.
#pragma once

#include "executor/call.h"
#include "sampler/head_peaks.h"

namespace octavo {

struct ProductWeights {
  Format format;
  const uint8_t* panels;
  int64_t num_panels;
  int64_t depth;      // padded
  const float* bias;  // (num_panels * 32,) or null
};

enum class Finish {
  kStore,  // out = result
  kAdd,    // out = addend + result
  kGate,   // panels in pairs: out = function(first) * second
};

struct ProductFinish {
  Finish kind = Finish::kStore;
  View out;     // null where the results go into an operand only
  View addend;  // kAdd; may be out
  Activation activation = Activation::kSilu;
  // kGate: the operand that the results fill, 128 columns at a time, or null
  void (*prepare)(const PrepareTask& task) = nullptr;
  Operand operand{};
  int64_t features = 0;  // kGate and heads: columns of the results that mean something
};

// Room to unpack blocks of columns in: one for each thread, `stride` bytes apart. It grows while
// products are added.
struct Unpacked {
  uint8_t* data = nullptr;
  int64_t stride = 0;
  int64_t from_rows = 48;  // from so many on, w4 is unpacked once for all tiles
};

class Product final : public Call {
 public:
  // What a thread needs, whatever the product.
  static constexpr int64_t kFewTiles = 4;
  static constexpr int64_t kTileFloats = kMaxTileRows * 16 * kPanelColumns;
  static constexpr int64_t kScratchFloats = (kFewTiles + 1) * kTileFloats;
  // Bytes that a thread needs besides, to unpack a block of columns.
  static int64_t unpacked_bytes(Format format, int64_t depth);

  // `scratch`: (threads, kScratchFloats).
  Product(const KernelTable& kernels, int num_threads, Operand operand, ProductWeights weights,
          ProductFinish finish, float* scratch, const Unpacked& unpacked);

  // Whether its results are these, as they are.
  bool is_head(View logits) const {
    return finish_.kind == Finish::kStore && finish_.out.data == logits.data;
  }
  void limit_features(int64_t features) { finish_.features = features; }
  // From the next step on: null, or where the highest results go of rows that are not stored.
  void find_peaks(HeadPeaks* peaks) { peaks_ = peaks; }

  void plan(const Step& step, int64_t num_rows, std::vector<Stage>& stages) override;
  void run(int64_t begin, int64_t end, int thread);

 private:
  bool is_unpacked() const;
  void run_few_tiles(int64_t first_panel, int64_t num_panels, int thread) const;
  void run_block(int64_t first_tile, int64_t last_tile, int64_t first_panel, int64_t last_panel,
                 int thread) const;
  // What the results will be added to comes near while they are computed. (What a few tiles are
  // added to is small enough to be near.)
  void fetch_addend(int64_t tile, int64_t first_panel, int64_t num_panels) const;
  void finish_tile(int64_t tile, int64_t first_panel, int64_t num_panels, float* results,
                   int64_t results_stride, int thread) const;
  void store_row(int64_t row, int64_t column, const float* result, int64_t count, int thread) const;
  float* scratch_of(int thread) const { return scratch_ + thread * kScratchFloats; }

  const KernelTable& kernels_;
  int num_threads_;
  Operand operand_;
  ProductWeights weights_;
  ProductFinish finish_;
  float* scratch_;
  const Unpacked& unpacked_;
  void (*multiply_)(const PanelsTask& task);
  int64_t panel_unit_;  // blocks of columns are multiples of this many panels
  HeadPeaks* peaks_ = nullptr;

  RowTiles tiles_{0};
  int64_t block_panels_ = 1;
  int64_t num_column_blocks_ = 0;
};

}  // namespace octavo
