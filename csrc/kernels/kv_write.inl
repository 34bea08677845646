// Queries, keys and values on their way into operands and pages of bf16 and int8. Plain loops over
// single IEEE operations: the compiler may make vectors of them. Included by each unit inside its
// anonymous namespace.
#pragma once

#include "kernels/elementwise.inl"
#include "kernels/prepare.inl"

// Smaller sizes count as 0 where they are scales or scaled: their products would be denormal.
constexpr float kSmallestWeight = 7.88860905e-31f;  // 2^-100

// The scale of a vector of int8 is its largest size / 127. One that is all below 2^-100 is 0; one
// with a NaN or an infinity has the scale NaN and zeros.
struct Int8Scale {
  float scale;
  float inverse;  // values are multiplied by this and rounded to the nearest integer

  Int8Scale(const float* x, int64_t count) : scale(0.0f), inverse(0.0f) {
    uint32_t largest = 0;  // bits of a size: greater for greater floats, greatest for a NaN
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t size = __builtin_bit_cast(uint32_t, x[i]) & 0x7FFFFFFFu;
      largest = size > largest ? size : largest;
    }
    if (largest >= 0x7F800000u) {
      scale = __builtin_nanf("");
    } else if (largest >= __builtin_bit_cast(uint32_t, kSmallestWeight)) {
      const float size = __builtin_bit_cast(float, largest);
      scale = size / 127.0f;
      inverse = 127.0f / size;
    }
  }

  // In [-127, 127].
  int8_t value(float x) const {
    const float scaled = inverse == 0.0f ? 0.0f : x * inverse;
    const float shifted = scaled + kRounder;
    return static_cast<int8_t>(__builtin_bit_cast(uint32_t, shifted) -
                               __builtin_bit_cast(uint32_t, kRounder));
  }
};

void queries_bf16(const QueriesTask& task) {
  store_pairs([&](int64_t row) { return task.rows[row]; }, task.head_dim,
              static_cast<uint32_t*>(task.queries), task.height);
}

void queries_int8(const QueriesTask& task) {
  auto* const to = static_cast<int8_t*>(task.queries);
  for (int r = 0; r < task.height; ++r) {
    const float* const row = task.rows[r];
    const Int8Scale scale(row, task.head_dim);
    int8_t values[kMaxHeadDim];
    for (int64_t i = 0; i < task.head_dim; ++i) values[i] = scale.value(row[i]);
    for (int64_t i = task.head_dim; i < padded(task.head_dim, 4); ++i) values[i] = 0;
    int32_t sum = 0;
    for (int64_t i = 0; i < task.head_dim; ++i) sum += values[i];
    for (int64_t i = 0; i < padded(task.head_dim, 4); i += 4) {
      __builtin_memcpy(to + i * task.height + r * 4, values + i, 4);
    }
    task.scales[r] = scale.scale;
    task.corrections[r] = -128 * sum;
  }
}

void write_kv_bf16(const KvWriteTask& task) {
  auto* const keys = reinterpret_cast<uint16_t*>(task.key_page) + task.slot * 2;
  for (int64_t i = 0; i < task.head_dim / 2; ++i) {
    keys[i * kPageTokens * 2] = bf16_bits(task.key[2 * i]);
    keys[i * kPageTokens * 2 + 1] = bf16_bits(task.key[2 * i + 1]);
  }
  auto* const values = reinterpret_cast<uint16_t*>(task.value_page) +
                       task.slot / 2 * task.head_dim * 2 + task.slot % 2;
  for (int64_t i = 0; i < task.head_dim; ++i) values[i * 2] = bf16_bits(task.value[i]);
}

void write_kv_int8(const KvWriteTask& task) {
  const int64_t depth = padded(task.head_dim, 4);
  const Int8Scale key(task.key, task.head_dim);
  uint8_t values[kMaxHeadDim];
  for (int64_t i = 0; i < task.head_dim; ++i) {
    values[i] = static_cast<uint8_t>(key.value(task.key[i]) + 128);
  }
  for (int64_t i = task.head_dim; i < depth; ++i) values[i] = 128;
  for (int64_t i = 0; i < depth; i += 4) {
    __builtin_memcpy(task.key_page + i * kPageTokens + task.slot * 4, values + i, 4);
  }
  const Int8Scale value(task.value, task.head_dim);
  auto* const to =
      reinterpret_cast<int8_t*>(task.value_page) + task.slot / 2 * depth * 2 + task.slot % 2;
  for (int64_t i = 0; i < task.head_dim; ++i) to[i * 2] = value.value(task.value[i]);
  for (int64_t i = task.head_dim; i < depth; ++i) to[i * 2] = 0;
  reinterpret_cast<float*>(task.key_page + depth * kPageTokens)[task.slot] = key.scale;
  reinterpret_cast<float*>(task.value_page + depth * kPageTokens)[task.slot] = value.scale;
}
