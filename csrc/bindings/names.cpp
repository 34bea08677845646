// Each name of a format or an activation, once. Python has its own, of weights in
// weights/formats.py, of keys and values in core/kv_layout.py, of activations in program/ir.py, of
// settings in core/config.py; tests/unit/backends/test_names.py compares them.
#include "bindings/names.h"

namespace octavo {

Format format_of(const std::string& name) {
  return choice_of<Format>(
      "format", name,
      {{"f32", Format::kF32}, {"bf16", Format::kBf16}, {"w8", Format::kW8}, {"w4", Format::kW4}});
}

KvFormat kv_format_of(const std::string& name) {
  return choice_of<KvFormat>(
      "format of keys and values", name,
      {{"f32", KvFormat::kF32}, {"bf16", KvFormat::kBf16}, {"int8", KvFormat::kInt8}});
}

Activation activation_of(const std::string& name) {
  return choice_of<Activation>("activation", name,
                               {{"silu", Activation::kSilu},
                                {"gelu_tanh", Activation::kGeluTanh},
                                {"relu", Activation::kRelu}});
}

}  // namespace octavo
