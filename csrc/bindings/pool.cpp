// The choice of instruction set by name, by environment or by what the machine can do.
#include "bindings/pool.h"

#include <cstdlib>

#include "cpu_features.h"

namespace octavo {
namespace {

std::string usable_names() {
  std::string names;
  int count = 0;
  const InstructionSet* sets = instruction_sets(&count);
  for (int i = 0; i < count; ++i) {
    if (missing_feature(sets[i], cpu_has) != nullptr) continue;
    if (!names.empty()) names += ", ";
    names += sets[i].name;
  }
  return names;
}

}  // namespace

const InstructionSet& choose_instruction_set(const std::string& asked) {
  std::string name = asked;
  std::string origin;
  if (name.empty()) {
    const char* forced = std::getenv("OCTAVO_CPU_ISA");
    if (forced != nullptr && *forced != '\0') {
      name = forced;
      origin = " (from OCTAVO_CPU_ISA)";
    }
  }
  if (name.empty()) return best_instruction_set(cpu_has);
  std::string reason = " is unknown";
  int count = 0;
  const InstructionSet* sets = instruction_sets(&count);
  for (int i = 0; i < count; ++i) {
    if (name != sets[i].name) continue;
    const char* missing = missing_feature(sets[i], cpu_has);
    if (missing == nullptr) return sets[i];
    reason = std::string(" is not usable on this machine, which has no ") + missing;
  }
  const std::string message =
      "instruction set '" + name + "'" + origin + reason + "; usable: " + usable_names();
  throw nanobind::value_error(message.c_str());
}

}  // namespace octavo
