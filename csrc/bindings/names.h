// What Python names: formats, activations, and whatever else is chosen by name. An unknown name
// throws nanobind::value_error.
#pragma once

#include <nanobind/nanobind.h>

#include <initializer_list>
#include <string>
#include <utility>

#include "kernels/table.h"

namespace octavo {

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

Format format_of(const std::string& name);
KvFormat kv_format_of(const std::string& name);
Activation activation_of(const std::string& name);

}  // namespace octavo
