// What this processor can do and what its operating system lets it do.
#pragma once

namespace octavo {

struct CpuFeature {
  const char* name;
  bool present;  // the CPU has it AND the operating system saves the registers it needs
};

// All features that kernels may ask for, in a fixed order; `count` receives their number.
const CpuFeature* cpu_features(int* count);

// Asks the operating system, each time, for this process's permission to use the tiles of AMX.
bool request_tiles();

// A name that is not in the list, for cpu_has: what request_tiles() answers.
constexpr const char* kTilePermission = "tile_permission";

// False for any other name that is not in the list.
bool cpu_has(const char* name);

}  // namespace octavo
