// What Python names: formats and activations. An unknown name throws nanobind::value_error.
#pragma once

#include <string>

#include "kernels/table.h"

namespace octavo {

Format format_of(const std::string& name);
KvFormat kv_format_of(const std::string& name);
Activation activation_of(const std::string& name);

}  // namespace octavo
