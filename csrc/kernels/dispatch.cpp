// The table of instruction sets. A new unit of kernels is one line here and one in CMakeLists.txt.
#include "kernels/dispatch.h"

#include "cpu_features.h"

namespace octavo {
namespace {

constexpr const char* kNothing[] = {nullptr};
#if defined(__x86_64__)
constexpr const char* kForAvx2[] = {"avx2", "fma", "f16c", nullptr};
constexpr const char* kForAvxVnni[] = {"avx2", "fma", "f16c", "avx_vnni", nullptr};
constexpr const char* kForAvx512[] = {"avx2",     "fma",      "avx512f", "avx512bw",
                                      "avx512dq", "avx512vl", nullptr};
constexpr const char* kForAvx512Vnni[] = {"avx2",     "fma",      "avx512f",     "avx512bw",
                                          "avx512dq", "avx512vl", "avx512_vnni", nullptr};
constexpr const char* kForAvx512Bf16[] = {"avx2",        "fma",         "avx512f",
                                          "avx512bw",    "avx512dq",    "avx512vl",
                                          "avx512_vnni", "avx512_bf16", nullptr};
// The permission comes last: nobody asks the system for it on a processor without tiles.
constexpr const char* kForAmx[] = {
    "avx2",        "fma",      "avx512f",  "avx512bw", "avx512dq",      "avx512vl", "avx512_vnni",
    "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16", kTilePermission, nullptr};
constexpr bool kOnlyByName = true;
#endif

constexpr InstructionSet kSets[] = {
    {"scalar", &kScalarKernels, kNothing},
#if defined(__x86_64__)
    {"avx2", &kAvx2Kernels, kForAvx2},
    {"avxvnni", &kAvxVnniKernels, kForAvxVnni},
    {"avx512", &kAvx512Kernels, kForAvx512},
    {"avx512vnni", &kAvx512VnniKernels, kForAvx512Vnni},
    {"avx512bf16", &kAvx512Bf16Kernels, kForAvx512Bf16},
    {"amx", &kAmxKernels, kForAmx, kOnlyByName},
#endif
};

}  // namespace

const InstructionSet* instruction_sets(int* count) {
  *count = sizeof kSets / sizeof kSets[0];
  return kSets;
}

const char* missing_feature(const InstructionSet& set, const HasFeature& has) {
  const char* const* name = set.required_features;
  while (*name != nullptr && has(*name)) ++name;
  return *name;
}

const InstructionSet& best_instruction_set(const HasFeature& has) {
  const InstructionSet* best = &kSets[0];
  for (const InstructionSet& set : kSets) {
    if (!set.only_by_name && missing_feature(set, has) == nullptr) best = &set;
  }
  return *best;
}

}  // namespace octavo
