// The only table of each kind of name; Python's are octavo/weights/formats.py and the operations of
// octavo/program/ir.py.
#include "bindings/names.h"

#include <nanobind/nanobind.h>

#include <initializer_list>
#include <utility>

namespace octavo {
namespace {

template <typename Choice>
Choice choice_of(const char* kind, const std::string& name,
                 std::initializer_list<std::pair<const char*, Choice>> all) {
  std::string known;
  for (const auto& [one, choice] : all) {
    if (name == one) return choice;
    known += known.empty() ? one : std::string(", ") + one;
  }
  const std::string message = std::string("unknown ") + kind + " '" + name + "': it is one of ";
  throw nanobind::value_error((message + known).c_str());
}

}  // namespace

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
