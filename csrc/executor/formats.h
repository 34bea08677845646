// Which kernels belong to a format.
#pragma once

#include "kernels/table.h"

namespace octavo {

using Multiply = void (*)(const PanelsTask& task);
using Prepare = void (*)(const PrepareTask& task);

inline Multiply multiply_of(const KernelTable& kernels, Format format) {
  switch (format) {
    case Format::kF32:
      return kernels.panels_f32;
    default:
      return nullptr;
  }
}

inline Prepare prepare_of(const KernelTable& kernels, Format format) {
  switch (format) {
    case Format::kF32:
      return kernels.prepare_f32;
    default:
      return nullptr;
  }
}

}  // namespace octavo
