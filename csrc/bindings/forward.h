// octavo._native.Forward: compiled programs, as Python builds and runs them.
#pragma once

#include <nanobind/nanobind.h>

namespace octavo {

void bind_forward(nanobind::module_& module);

}  // namespace octavo
