// How keys and values lie in pages of each format, and what becomes of a score and of a weight
// there. Needs a set's Pairs and Quads, as attention.inl does, which includes it.
#pragma once

#include "kernels/kv_write.inl"
#include "kernels/seen_pages.inl"

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
