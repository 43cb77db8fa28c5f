// Encodings in fixed point: weights are positive int32 in units of 2^-30, so that a row sums to one
// up to the rounding of each weight.
//
// Integer sums do not depend on their order, so the overlap of two rows has the same bits for any
// number of threads, on any device, over any sharding and in any order of the samples. A unit is
// 9.3e-10, a hundredth of what float32 resolves in a distance near 1.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/host_device.h"

namespace mabm {

constexpr int64_t kOne = int64_t{1} << 30;
// A weight before its row is normalized, in units of 2^-32.
constexpr double kFineUnit = 4294967296.0;

// exp(x) for x <= 0 from additions and multiplications only, in a fixed order, so that every
// compiler and device gives the same bits. Relative error below 1e-14; 0 below -50, where a
// weight is far less than one unit.
MABM_HOST_DEVICE inline double exp_nonpositive(double x) {
  if (!(x > -50.0)) {
    return 0.0;
  }
  constexpr double kLog2E = 1.4426950408889634074;
  constexpr double kLn2High = 6.93147180369123816490e-01;
  constexpr double kLn2Low = 1.90821492927058770002e-10;
  const double power = nearbyint(x * kLog2E);
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
  memcpy(&scale, &bits, sizeof scale);
  return sum * scale;
}

// A weight in [0, 1] in fine units.
MABM_HOST_DEVICE inline uint64_t fine_units(double weight) {
  return static_cast<uint64_t>(nearbyint(weight * kFineUnit));
}

// One of the parts of a row as its weight: parts and their total are integers, exact in any order.
MABM_HOST_DEVICE inline int32_t weight_of(uint64_t part, uint64_t total) {
  return static_cast<int32_t>(
      llrint(static_cast<double>(part) / static_cast<double>(total) * static_cast<double>(kOne)));
}

// J = 1 - sum of minima / sum of maxima, for an overlap (the sum of minima) and the sum of both
// rows' weights. With rows that sum to one this is method step 6, J = 1 - s / (2 - s); with the
// sums as they are it is zero for equal rows, and in [0, 1], exactly. 1 if both rows are empty.
MABM_HOST_DEVICE inline float distance_of_overlap(int64_t overlap, int64_t both_sums) {
  const int64_t maxima = both_sums - overlap;
  return maxima > 0
             ? static_cast<float>(1.0 - static_cast<double>(overlap) / static_cast<double>(maxima))
             : 1.0f;
}

// An overlap that every pair of rows within max_distance reaches, if their weights sum to at least
// both_sums together.
MABM_HOST_DEVICE inline int64_t least_overlap(float max_distance, int64_t both_sums) {
  // Distances are compared as float32, so one just above the bound may round down to it.
  const double bound = nextafterf(max_distance, 2.0f);
  const double fraction = (1.0 - bound) / (2.0 - bound) * (1.0 - 1e-12);
  const auto overlap = static_cast<int64_t>(fraction * static_cast<double>(both_sums));
  return overlap > 1 ? overlap : 1;
}

}  // namespace mabm
