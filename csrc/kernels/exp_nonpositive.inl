// The exponential of the weights of attention: for what is never above 0, and cheaper for that.
// octavo/backends/canonical_attention.py says it in NumPy. Included by each unit inside its
// anonymous namespace.
#pragma once

#include "kernels/elementwise.inl"

// e^x for x <= 0, at most 2.2 ulp off; 0 below -86, where results would soon be denormal. A NaN
// stays one.
inline Vector exp_nonpositive(Vector x) {
  constexpr float kTerms[] = {0.008312501f, 0.04189033f, 0.16667116f, 0.4999923f, 1.0f, 1.0f};
  const Vector rounder = Floats::set(kRounder);
  const Vector shifted = Floats::fma(x, Floats::set(kLog2OfE), rounder);
  const Vector n = Floats::subtract(shifted, rounder);
  Vector r = Floats::fma(n, Floats::set(-kLn2High), x);
  r = Floats::fma(n, Floats::set(-kLn2Low), r);
  // The bits of the rounder leave at the top.
  const Vector power = Floats::from_bits(
      Floats::add(Floats::shift_left<23>(Floats::bits(shifted)), Floats::set_ints(0x3F800000u)));
  const Vector result = Floats::multiply(polynomial(r, kTerms), power);
  return Floats::select(Floats::less(x, Floats::set(-86.0f)), Floats::set(0.0f), result);
}

void exp_nonpositive_elements(const ElementsTask& task, int64_t begin, int64_t end) {
  for_each<exp_nonpositive>(task, begin, end);
}
