// Philox4x32-10: one 64-bit random number for each (seed, choice, position). The twin and the
// source are in octavo/backends/philox.py.
#pragma once

#include <cstdint>

namespace octavo {

inline uint64_t random_u64(uint64_t seed, uint32_t choice, uint32_t position) {
  uint32_t words[4] = {position, choice, 0, 0};
  uint32_t keys[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = uint64_t{0xD2511F53} * words[0];
    const uint64_t second = uint64_t{0xCD9E8D57} * words[2];
    words[0] = static_cast<uint32_t>(second >> 32) ^ words[1] ^ keys[0];
    words[1] = static_cast<uint32_t>(second);
    words[2] = static_cast<uint32_t>(first >> 32) ^ words[3] ^ keys[1];
    words[3] = static_cast<uint32_t>(first);
    keys[0] += 0x9E3779B9;
    keys[1] += 0xBB67AE85;
  }
  return words[0] | uint64_t{words[1]} << 32;
}

}  // namespace octavo
