// CPUID says what the silicon has; XGETBV says which registers the operating system saves on a
// context switch. Both must agree before a kernel may use a feature (Intel SDM vol. 1, 13.3;
// AMD APM vol. 2, 11.5).
#include "cpu_features.h"

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace octavo {
namespace {

struct FeatureTable {
  static constexpr int kCapacity = 24;
  CpuFeature features[kCapacity];
  int count = 0;

  void add(const char* name, bool present) { features[count++] = CpuFeature{name, present}; }

  FeatureTable() {
#if defined(__x86_64__)
    struct Registers {
      uint32_t a = 0, b = 0, c = 0, d = 0;
    };
    auto cpuid = [](uint32_t leaf, uint32_t subleaf) {
      Registers r;
      if (!__get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d)) r = Registers{};
      return r;
    };
    auto bit = [](uint32_t word, int index) { return ((word >> index) & 1) != 0; };

    const Registers leaf1 = cpuid(1, 0);
    const Registers leaf7 = cpuid(7, 0);
    const Registers leaf7_1 = leaf7.a >= 1 ? cpuid(7, 1) : Registers{};

    uint64_t saved_state = 0;
    if (bit(leaf1.c, 27)) {  // OSXSAVE: XGETBV exists
      uint32_t low = 0, high = 0;
      asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
      saved_state = (static_cast<uint64_t>(high) << 32) | low;
    }
    const bool ymm = (saved_state & 0x6) == 0x6;           // SSE and AVX state
    const bool zmm = ymm && (saved_state & 0xE0) == 0xE0;  // opmask, ZMM 0-15, ZMM 16-31
    const bool tiles = (saved_state & 0x60000) == 0x60000  // TILECFG and TILEDATA
                       && bit(leaf7.d, 24);

    add("avx", ymm && bit(leaf1.c, 28));
    add("fma", ymm && bit(leaf1.c, 12));
    add("f16c", ymm && bit(leaf1.c, 29));
    add("avx2", ymm && bit(leaf7.b, 5));
    add("avx_vnni", ymm && bit(leaf7_1.a, 4));
    add("avx512f", zmm && bit(leaf7.b, 16));
    add("avx512dq", zmm && bit(leaf7.b, 17));
    add("avx512bw", zmm && bit(leaf7.b, 30));
    add("avx512vl", zmm && bit(leaf7.b, 31));
    add("avx512_vnni", zmm && bit(leaf7.c, 11));
    add("avx512_bf16", zmm && bit(leaf7_1.a, 5));
    add("amx_tile", tiles);
    add("amx_int8", tiles && bit(leaf7.d, 25));
    add("amx_bf16", tiles && bit(leaf7.d, 22));
#endif
  }
};

const FeatureTable& table() {
  static const FeatureTable instance;
  return instance;
}

}  // namespace

const CpuFeature* cpu_features(int* count) {
  *count = table().count;
  return table().features;
}

// Linux lets a process use the tiles of AMX only after it asked
// (Documentation/arch/x86/xstate.rst), and kills it at its first tile otherwise. It refuses if a
// thread has too small a stack for signals, and once it has granted, it refuses such stacks: so
// nobody asks who does not want tiles. An older system does not know the question, and a sandbox
// may forbid it; any answer but 0 is a no. A library may have asked already; that is no matter.
bool request_tiles() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

bool cpu_has(const char* name) {
  if (std::strcmp(name, kTilePermission) == 0) return request_tiles();
  int count = 0;
  const CpuFeature* features = cpu_features(&count);
  for (int i = 0; i < count; ++i) {
    if (std::strcmp(features[i].name, name) == 0) return features[i].present;
  }
  return false;
}

}  // namespace octavo
