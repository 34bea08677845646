// octavo._native.Products: products of packed weights, for tests and measurements.
#pragma once

#include <nanobind/nanobind.h>

namespace octavo {

void bind_products(nanobind::module_& module);

}  // namespace octavo
