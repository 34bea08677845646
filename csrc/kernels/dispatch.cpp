// The table of instruction sets. A new unit of kernels is one line here and one in CMakeLists.txt.
#include "kernels/dispatch.h"

#include "cpu_features.h"

namespace octavo {
namespace {

constexpr const char* kNothing[] = {nullptr};
#if defined(__x86_64__)
constexpr const char* kForAvx2[] = {"avx2", "fma", nullptr};
constexpr const char* kForAvx512[] = {"avx2",     "fma",      "avx512f", "avx512bw",
                                      "avx512dq", "avx512vl", nullptr};
#endif

constexpr InstructionSet kSets[] = {
    {"scalar", &kScalarKernels, kNothing},
#if defined(__x86_64__)
    {"avx2", &kAvx2Kernels, kForAvx2},
    {"avx512", &kAvx512Kernels, kForAvx512},
#endif
};

}  // namespace

const InstructionSet* instruction_sets(int* count) {
  *count = sizeof kSets / sizeof kSets[0];
  return kSets;
}

bool is_usable(const InstructionSet& set) {
  for (const char* const* name = set.required_features; *name != nullptr; ++name) {
    if (!cpu_has(*name)) return false;
  }
  return true;
}

}  // namespace octavo
