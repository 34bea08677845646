// The choice of instruction set by name, by environment or by what the machine can do.
#include "bindings/pool.h"

#include <cstdlib>

namespace octavo {
namespace {

std::string usable_names() {
  std::string names;
  int count = 0;
  const InstructionSet* sets = instruction_sets(&count);
  for (int i = 0; i < count; ++i) {
    if (!is_usable(sets[i])) continue;
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
  int count = 0;
  const InstructionSet* sets = instruction_sets(&count);
  const InstructionSet* best = nullptr;
  for (int i = 0; i < count; ++i) {
    if (is_usable(sets[i]) && (name.empty() || name == sets[i].name)) best = &sets[i];
  }
  if (best == nullptr) {
    const std::string message =
        "instruction set '" + name + "'" + origin +
        " is unknown or not usable on this machine; usable: " + usable_names();
    throw nanobind::value_error(message.c_str());
  }
  return *best;
}

}  // namespace octavo
