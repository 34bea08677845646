// The floating-point mode that every kernel runs in, whichever thread runs it: round to nearest,
// denormals kept, exceptions masked. Some libraries set flush-to-zero in the thread that loads
// them; without this guard a caller and a worker could give different bits.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace octavo {

// Sets the mode for its lifetime and puts the caller's mode back.
class FloatingPointMode {
 public:
  FloatingPointMode(const FloatingPointMode&) = delete;
  FloatingPointMode& operator=(const FloatingPointMode&) = delete;

#if defined(__x86_64__)
  FloatingPointMode() : saved_(_mm_getcsr()) {
    if (saved_ != kDefault) _mm_setcsr(kDefault);
  }
  ~FloatingPointMode() { _mm_setcsr(saved_); }

 private:
  static constexpr unsigned kDefault = 0x1F80;  // all exceptions masked, no FTZ, no DAZ, nearest
  unsigned saved_;
#elif defined(__aarch64__)
  FloatingPointMode() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"(0UL));
  }
  ~FloatingPointMode() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  unsigned long saved_;
#else
  FloatingPointMode() {}
#endif
};

}  // namespace octavo
