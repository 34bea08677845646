// Adds octavo._native.AttentionKernels.
#pragma once

#include <nanobind/nanobind.h>

namespace octavo {

void bind_attention(nanobind::module_& module);

}  // namespace octavo
