// The instruction sets that kernels exist for, slowest first, and which of them run here.
#pragma once

#include "kernels/table.h"

namespace octavo {

struct InstructionSet {
  const char* name;
  const KernelTable* kernels;
  const char* const* required_features;  // names of cpu_features.h, ended by null
};

// `count` receives the number of sets in this build, usable or not.
const InstructionSet* instruction_sets(int* count);

bool is_usable(const InstructionSet& set);

}  // namespace octavo
