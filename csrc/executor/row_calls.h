// Operations that work row by row. Neighbours among them share a stage: no thread waits between.
#pragma once

#include <memory>

#include "executor/call.h"

namespace octavo {

// Computes whole tiles of rows, so that one of them can fill a tile of an operand.
class RowOperation {
 public:
  virtual ~RowOperation() = default;
  virtual void run(const Step& step, RowTiles tiles, int64_t tile) const = 0;
};

class RowCalls final : public Call {
 public:
  void add(std::unique_ptr<RowOperation> operation) { operations_.push_back(std::move(operation)); }
  void plan(const Step& step, int64_t num_rows, std::vector<Stage>& stages) override;
  void run(int64_t begin, int64_t end, int thread);

 private:
  std::vector<std::unique_ptr<RowOperation>> operations_;
  const Step* step_ = nullptr;
  RowTiles tiles_{0};
};

// A row of a table for each token: by its id, or by its position.
struct EmbedRows final : RowOperation {
  const float* table;  // (entries, features)
  int64_t features;
  bool by_position;
  View out;
  void run(const Step& step, RowTiles tiles, int64_t tile) const override;
};

// The same from packed weights, where an entry is a column.
struct EmbedColumns final : RowOperation {
  void (*embed)(const EmbedTask& task);
  const uint8_t* panels;
  int64_t bytes_of_panel;
  int64_t features;
  View out;
  void run(const Step& step, RowTiles tiles, int64_t tile) const override;
};

struct NormRows final : RowOperation {
  const KernelTable* kernels;
  View x, out;
  int64_t features;
  const float* weight;
  const float* bias;
  float eps;
  bool subtracts_mean;
  void run(const Step& step, RowTiles tiles, int64_t tile) const override;
};

// Float32 rows into the operand of a product.
struct PrepareRows final : RowOperation {
  void (*prepare)(const PrepareTask& task);
  View x;
  int64_t features;
  Operand to;
  void run(const Step& step, RowTiles tiles, int64_t tile) const override;
};

struct HeadNormRows final : RowOperation {
  const KernelTable* kernels;
  View x;  // in place
  int64_t num_heads, head_dim;
  const float* weight;
  float eps;
  void run(const Step& step, RowTiles tiles, int64_t tile) const override;
};

struct RotateRows final : RowOperation {
  const KernelTable* kernels;
  View x;  // in place
  int64_t num_heads, head_dim, num_pairs;
  const float* cosines;  // (positions, num_pairs)
  const float* sines;
  void run(const Step& step, RowTiles tiles, int64_t tile) const override;
};

struct AddRows final : RowOperation {
  const KernelTable* kernels;
  View a, b, out;
  int64_t features;
  void run(const Step& step, RowTiles tiles, int64_t tile) const override;
};

struct ScaleRows final : RowOperation {
  const KernelTable* kernels;
  View x, out;
  int64_t features;
  float factor;
  void run(const Step& step, RowTiles tiles, int64_t tile) const override;
};

// function(x), times `factor` where it has one.
struct ActivateRows final : RowOperation {
  const KernelTable* kernels;
  Activation activation;
  View x, factor, out;
  int64_t features;
  void run(const Step& step, RowTiles tiles, int64_t tile) const override;
};

// Of the rows of all tokens, those whose logits are wanted.
struct TakeRows final : RowOperation {
  View x, out;
  int64_t features;
  void run(const Step& step, RowTiles tiles, int64_t tile) const override;
};

}  // namespace octavo
