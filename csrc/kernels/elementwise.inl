// Canonical exp, log, tanh and sigmoid of float32: one sequence of operations each, the same in
// every instruction set; octavo/backends/canonical.py says them in NumPy. No C library, no
// approximate reciprocals. Polynomials are minimax fits of this project (iteratively reweighted
// least squares on Chebyshev nodes). Included by each unit inside its anonymous namespace.
#pragma once

using Vector = Floats::Vector;
using Ints = Floats::Ints;
using Mask = Floats::Mask;

constexpr float kLog2OfE = 1.44269502f;
constexpr float kLn2High = 0.693147182f;     // float32 of ln 2
constexpr float kLn2Low = -1.90465421e-09f;  // ln 2 - kLn2High
// Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
constexpr float kRounder = 12582912.0f;

template <int kCount>
inline Vector polynomial(Vector x, const float (&highest_first)[kCount]) {
  Vector sum = Floats::set(highest_first[0]);
  for (int i = 1; i < kCount; ++i) sum = Floats::fma(sum, x, Floats::set(highest_first[i]));
  return sum;
}

// e^x = 2^n * e^r with n = round(x / ln 2): e^r, n, and n in the low bits of `shifted`.
struct ExpParts {
  Vector mantissa, n, shifted;
};

inline ExpParts exp_parts(Vector x) {
  constexpr float kTerms[] = {0.00138145988f, 0.00836871658f, 0.041668389f, 0.166665211f,
                              0.49999994f};
  const Vector rounder = Floats::set(kRounder);
  const Vector shifted = Floats::fma(x, Floats::set(kLog2OfE), rounder);
  const Vector n = Floats::subtract(shifted, rounder);
  Vector r = Floats::fma(n, Floats::set(-kLn2High), x);
  r = Floats::fma(n, Floats::set(-kLn2Low), r);
  const Vector tail = Floats::fma(polynomial(r, kTerms), Floats::multiply(r, r), r);
  return {Floats::add(tail, Floats::set(1.0f)), n, shifted};
}

// mantissa * 2^n, rounded once.
inline Vector times_power_of_two(const ExpParts& parts) {
#ifdef __AVX512F__
  return _mm512_scalef_ps(parts.mantissa, parts.n);
#else
  // 2^n in two factors: n runs from -150 to 128, further than one exponent field.
  const Ints power =
      Floats::subtract(Floats::bits(parts.shifted), Floats::bits(Floats::set(kRounder)));
  const Ints half = Floats::shift_right_signed<1>(power);
  const Ints exponent_of_one = Floats::set_ints(127);
  const Vector scale =
      Floats::from_bits(Floats::shift_left<23>(Floats::add(half, exponent_of_one)));
  const Vector rest = Floats::from_bits(
      Floats::shift_left<23>(Floats::add(Floats::subtract(power, half), exponent_of_one)));
  return Floats::multiply(Floats::multiply(parts.mantissa, scale), rest);
#endif
}

// Results below 2^-126 are denormal.
inline Vector exp_of(Vector x) {
  // Beyond these bounds the result is 0 or infinity anyway. A NaN passes both.
  x = Floats::select(Floats::less(x, Floats::set(-104.0f)), Floats::set(-104.0f), x);
  x = Floats::select(Floats::less(Floats::set(89.0f), x), Floats::set(89.0f), x);
  const ExpParts parts = exp_parts(x);
  return times_power_of_two(parts);
}

// log x = e * ln 2 + log(1 + f) with 1 + f in [sqrt(1/2), sqrt(2)).
inline Vector log_of(Vector x) {
  constexpr float kTerms[] = {0.0674664006f, -0.116756521f, 0.11888162f,
                              -0.124055892f, 0.142195523f,  -0.166679963f,
                              0.200021192f,  -0.250000089f, 0.333333135f};
  const Vector zero = Floats::set(0.0f);
  const Vector one = Floats::set(1.0f);
  const Vector infinity = Floats::set(__builtin_inff());
  // Denormals are moved into the normal range by 2^23.
  const Mask tiny = Floats::less(x, Floats::set(1.17549435e-38f));
  const Vector normal = Floats::select(tiny, Floats::multiply(x, Floats::set(8388608.0f)), x);
  const Vector shift = Floats::select(tiny, Floats::set(-23.0f), zero);
  const Ints root_of_half = Floats::set_ints(0x3F3504F3u);
  const Ints steps =
      Floats::shift_right_signed<23>(Floats::subtract(Floats::bits(normal), root_of_half));
  const Vector e = Floats::add(Floats::to_floats(steps), shift);
  const Vector f = Floats::subtract(
      Floats::from_bits(Floats::subtract(Floats::bits(normal), Floats::shift_left<23>(steps))),
      one);
  const Vector square = Floats::multiply(f, f);
  Vector sum = Floats::multiply(polynomial(f, kTerms), Floats::multiply(square, f));
  sum = Floats::fma(e, Floats::set(kLn2Low), sum);
  sum = Floats::fma(square, Floats::set(-0.5f), sum);
  sum = Floats::add(f, sum);
  sum = Floats::fma(e, Floats::set(kLn2High), sum);
  sum = Floats::select(Floats::equal(x, infinity), infinity, sum);
  sum = Floats::select(Floats::equal(x, zero), Floats::set(-__builtin_inff()), sum);
  // Negative numbers have no logarithm; a NaN is not above them either.
  const Mask valid = Floats::less(Floats::set(-1e-45f), x);
  return Floats::select(valid, sum, Floats::set(__builtin_nanf("")));
}

inline Vector absolute(Vector x) {
  return Floats::from_bits(Floats::bit_and(Floats::bits(x), Floats::set_ints(0x7FFFFFFFu)));
}

// An odd polynomial near 0, 1 - 2 / (e^2|x| + 1) beyond.
inline Vector tanh_of(Vector x) {
  constexpr float kTerms[] = {-0.00569738355f, 0.0206325464f, -0.0537377968f, 0.133314207f,
                              -0.333332807f};
  const Vector one = Floats::set(1.0f);
  const Vector size = absolute(x);
  const Vector square = Floats::multiply(size, size);
  const Vector near = Floats::fma(polynomial(square, kTerms), Floats::multiply(square, size), size);
  const Vector power = exp_of(Floats::add(size, size));
  const Vector far =
      Floats::subtract(one, Floats::divide(Floats::set(2.0f), Floats::add(power, one)));
  const Vector result = Floats::select(Floats::less(size, Floats::set(0.625f)), near, far);
  const Ints sign = Floats::bit_and(Floats::bits(x), Floats::set_ints(0x80000000u));
  return Floats::from_bits(Floats::bit_or(Floats::bits(result), sign));
}

// 1 / (1 + e^-x), written with e^-|x| so that neither end overflows.
inline Vector sigmoid_of(Vector x) {
  const Vector one = Floats::set(1.0f);
  const Ints sign = Floats::set_ints(0x80000000u);
  const Vector power = exp_of(Floats::from_bits(Floats::bit_or(Floats::bits(x), sign)));
  const Mask negative = Floats::less(x, Floats::set(0.0f));
  return Floats::divide(Floats::select(negative, power, one), Floats::add(one, power));
}

template <Vector (*kFunction)(Vector)>
inline void for_each(const ElementsTask& task, int64_t begin, int64_t end) {
  int64_t i = begin;
  for (; i + Floats::kLanes <= end; i += Floats::kLanes) {
    Floats::store(task.out + i, kFunction(Floats::load(task.x + i)));
  }
  if (i < end) {
    const int64_t count = end - i;
    Floats::store_first(task.out + i, kFunction(Floats::load_first(task.x + i, count)), count);
  }
}

void exp_elements(const ElementsTask& task, int64_t begin, int64_t end) {
  for_each<exp_of>(task, begin, end);
}

void log_elements(const ElementsTask& task, int64_t begin, int64_t end) {
  for_each<log_of>(task, begin, end);
}

void tanh_elements(const ElementsTask& task, int64_t begin, int64_t end) {
  for_each<tanh_of>(task, begin, end);
}

void sigmoid_elements(const ElementsTask& task, int64_t begin, int64_t end) {
  for_each<sigmoid_of>(task, begin, end);
}
