// The pools of keys and values: memory that Python owns, [pages, layers, K | V, KV heads, bytes].
#pragma once

#include <stdint.h>

#include <vector>

#include "kernels/layout.h"

namespace octavo {

struct PagePool {
  uint8_t* data;
  int64_t num_layers;
  int64_t num_kv_heads;
  int64_t head_dim;
  KvFormat format;

  int64_t head_bytes() const { return kv_bytes(format, head_dim); }
  int64_t page_bytes() const { return num_layers * 2 * num_kv_heads * head_bytes(); }

  uint8_t* keys(int64_t page, int64_t layer, int64_t kv_head) const {
    return data + page * page_bytes() + (layer * 2 * num_kv_heads + kv_head) * head_bytes();
  }
  uint8_t* values(int64_t page, int64_t layer, int64_t kv_head) const {
    return keys(page, layer, kv_head) + num_kv_heads * head_bytes();
  }
};

}  // namespace octavo
