// Encodings in fixed point: weights are int32 in units of 2^-30 and every row sums to one exactly.
//
// Integer sums do not depend on their order, so the overlap of two rows is the same bits for any
// number of threads, on any device, over any sharding; J(i, i) is exactly zero and J never leaves
// [0, 1]. A unit is 9.3e-10, a hundredth of what float32 resolves in a distance near 1.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace mabm {

constexpr int64_t kOne = int64_t{1} << 30;

// exp(x) for x <= 0 from additions and multiplications alone, in a fixed order, so that every
// compiler and device gives the same bits. Relative error below 1e-14; 0 below -50, where the
// fixed point has long ended.
inline double exp_nonpositive(double x) {
  if (!(x > -50.0)) {
    return 0.0;
  }
  constexpr double kLog2E = 1.4426950408889634074;
  constexpr double kLn2High = 6.93147180369123816490e-01;
  constexpr double kLn2Low = 1.90821492927058770002e-10;
  const double power = std::nearbyint(x * kLog2E);
  const double r = (x - power * kLn2High) - power * kLn2Low;
  // Taylor series of exp on |r| <= ln(2) / 2, by Horner's rule.
  constexpr double kInverse[] = {0,       1.0,     1.0 / 2, 1.0 / 3,  1.0 / 4,  1.0 / 5,  1.0 / 6,
                                 1.0 / 7, 1.0 / 8, 1.0 / 9, 1.0 / 10, 1.0 / 11, 1.0 / 12, 1.0 / 13};
  double sum = 1.0;
  for (int n = 13; n > 0; --n) {
    sum = 1.0 + r * sum * kInverse[n];
  }
  const int64_t bits = (static_cast<int64_t>(power) + 1023) << 52;
  double scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return sum * scale;
}

// Share of a row that its entries up to a running total hold, rounded to fixed point. A row whose
// weights are differences of neighbouring shares sums to kOne exactly, each within one unit.
inline int64_t share(uint64_t running, uint64_t total) {
  return std::llrint(static_cast<double>(running) / static_cast<double>(total) *
                     static_cast<double>(kOne));
}

// Eq. of method step 6: J = 1 - s / (2 - s), for an overlap s in fixed point.
inline float distance_of_overlap(int64_t overlap) {
  const double s = static_cast<double>(overlap);
  return static_cast<float>(1.0 - s / (static_cast<double>(2 * kOne) - s));
}

// The least overlap whose distance is at most max_distance, or kOne + 1 if none has.
inline int64_t least_overlap(float max_distance) {
  int64_t low = 0;
  int64_t high = kOne + 1;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (distance_of_overlap(middle) <= max_distance) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

}  // namespace mabm
