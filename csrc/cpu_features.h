// What this processor can do and what its operating system lets it do.
#pragma once

namespace octavo {

struct CpuFeature {
  const char* name;
  bool present;  // the CPU has it AND the operating system saves the registers it needs
};

// All features that kernels may ask for, in a fixed order; `count` receives their number.
const CpuFeature* cpu_features(int* count);

// False for a name that is not in the list.
bool cpu_has(const char* name);

}  // namespace octavo
