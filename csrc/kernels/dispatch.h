// The instruction sets that kernels exist for, slowest first, and which of them run here.
#pragma once

#include <functional>

#include "kernels/table.h"

namespace octavo {

struct InstructionSet {
  const char* name;
  const KernelTable* kernels;
  const char* const* required_features;  // names that cpu_has takes, ended by null
  // Never the best of a machine, as it has not run on a real processor yet: who wants it, names it.
  bool only_by_name = false;
};

// Whether a machine has a feature: cpu_has, or what a test makes up.
using HasFeature = std::function<bool(const char* name)>;

// `count` receives the number of sets in this build, usable or not.
const InstructionSet* instruction_sets(int* count);

// The first required feature that is not there; null if the set is usable. Those after it are not
// asked for.
const char* missing_feature(const InstructionSet& set, const HasFeature& has);

const InstructionSet& best_instruction_set(const HasFeature& has);

}  // namespace octavo
