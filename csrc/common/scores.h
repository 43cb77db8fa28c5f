// The exact scores that ranks are defined by.
#pragma once

#include <cstdint>

namespace mabm {

// Inner product and squared Euclidean distance of two float32 rows, summed in float64: 32 partial
// sums over d = 0..31 modulo 32, each in ascending d, folded by halves (16, 8, 4, 2, 1). The order
// is fixed, so equal rows have equal scores wherever they lie and score(a, b) = score(b, a), on
// every device and for any number of threads. Products of two float32 are exact in float64.
constexpr int kScoreLanes = 32;
double inner_product(const float* a, const float* b, int64_t size);
double squared_distance(const float* a, const float* b, int64_t size);

// Of a row: its squared length, that of its difference from the center, and the product of this
// difference with the center. Sums in float64, in the order above.
struct RowMeasures {
  double length;
  double centered_length;
  double center_product;
};
RowMeasures measure_row(const float* row, const float* center, int64_t size);

// The sum of partial sums, which it overwrites.
template <class T>
inline T fold_lanes(T* partial) {
  for (int half = kScoreLanes / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) {
      partial[lane] += partial[lane + half];
    }
  }
  return partial[0];
}

// Ranks sort by descending score; by Euclidean distance the score is minus its square.
inline double exact_score(const float* a, const float* b, int64_t size, bool euclidean) {
  return euclidean ? -squared_distance(a, b, size) : inner_product(a, b, size);
}

}  // namespace mabm
