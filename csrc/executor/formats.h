// What belongs to a format: kernels, and the operands that its weights are multiplied with.
#pragma once

#include "kernels/table.h"

namespace octavo {

using Multiply = void (*)(const PanelsTask& task);
using Prepare = void (*)(const PrepareTask& task);
using EmbedColumn = void (*)(const EmbedTask& task);

// Whether weights are integers times scales: operands have scales and corrections then.
constexpr bool is_quantised(Format format) {
  return format == Format::kW8 || format == Format::kW4;
}

// Bytes of one value of an operand.
constexpr int value_bytes(Format format) {
  return format == Format::kF32 ? 4 : format == Format::kBf16 ? 2 : 1;
}

inline Multiply multiply_of(const KernelTable& kernels, Format format) {
  switch (format) {
    case Format::kF32:
      return kernels.panels_f32;
    case Format::kBf16:
      return kernels.panels_bf16;
    case Format::kW8:
      return kernels.panels_w8;
    case Format::kW4:
      return kernels.panels_w4;
  }
  return nullptr;
}

inline Prepare prepare_of(const KernelTable& kernels, Format format) {
  switch (format) {
    case Format::kF32:
      return kernels.prepare_f32;
    case Format::kBf16:
      return kernels.prepare_bf16;
    case Format::kW8:
    case Format::kW4:
      return kernels.prepare_int8;
  }
  return nullptr;
}

// Null for f32, whose tables are rows.
inline EmbedColumn embed_of(const KernelTable& kernels, Format format) {
  switch (format) {
    case Format::kF32:
      return nullptr;
    case Format::kBf16:
      return kernels.embed_bf16;
    case Format::kW8:
      return kernels.embed_w8;
    case Format::kW4:
      return kernels.embed_w4;
  }
  return nullptr;
}

// What attention needs of a KV format. Null where there is nothing to do.
struct AttentionKernels {
  void (*write_kv)(const KvWriteTask& task);
  void (*queries)(const QueriesTask& task);  // null: float32 rows as they are
  void (*attend)(const ChunkTask& task);
  void (*merge)(const MergeTask& task);
};

inline AttentionKernels attention_of(const KernelTable& kernels, KvFormat format) {
  switch (format) {
    case KvFormat::kF32:
      return {kernels.write_kv_f32, nullptr, kernels.attend_f32, kernels.merge_chunk};
    case KvFormat::kBf16:
      return {kernels.write_kv_bf16, kernels.queries_bf16, kernels.attend_bf16,
              kernels.merge_chunk};
    case KvFormat::kInt8:
      return {kernels.write_kv_int8, kernels.queries_int8, kernels.attend_int8,
              kernels.merge_chunk};
  }
  return {};
}

}  // namespace octavo
