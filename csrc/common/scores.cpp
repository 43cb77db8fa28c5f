#include "common/scores.h"

#include "common/simd.h"

namespace mabm {

MABM_CLONES double inner_product(const float* a, const float* b, int64_t size) {
  double partial[kScoreLanes] = {};
  const int64_t whole = size - size % kScoreLanes;
  for (int64_t d = 0; d < whole; d += kScoreLanes) {
    for (int lane = 0; lane < kScoreLanes; ++lane) {
      partial[lane] += static_cast<double>(a[d + lane]) * static_cast<double>(b[d + lane]);
    }
  }
  for (int64_t d = whole; d < size; ++d) {
    partial[d - whole] += static_cast<double>(a[d]) * static_cast<double>(b[d]);
  }
  return fold_lanes(partial);
}

MABM_CLONES double squared_distance(const float* a, const float* b, int64_t size) {
  double partial[kScoreLanes] = {};
  const int64_t whole = size - size % kScoreLanes;
  for (int64_t d = 0; d < whole; d += kScoreLanes) {
    for (int lane = 0; lane < kScoreLanes; ++lane) {
      const double gap = static_cast<double>(a[d + lane]) - static_cast<double>(b[d + lane]);
      partial[lane] += gap * gap;
    }
  }
  for (int64_t d = whole; d < size; ++d) {
    const double gap = static_cast<double>(a[d]) - static_cast<double>(b[d]);
    partial[d - whole] += gap * gap;
  }
  return fold_lanes(partial);
}

MABM_CLONES RowMeasures measure_row(const float* row, const float* center, int64_t size) {
  double lengths[kScoreLanes] = {};
  double centered_lengths[kScoreLanes] = {};
  double products[kScoreLanes] = {};
  for (int64_t first = 0; first < size; first += kScoreLanes) {
    const int width =
        static_cast<int>(size - first < kScoreLanes ? size - first : int64_t{kScoreLanes});
    for (int lane = 0; lane < width; ++lane) {
      const double value = static_cast<double>(row[first + lane]);
      const double origin = static_cast<double>(center[first + lane]);
      const double centered = value - origin;
      lengths[lane] += value * value;
      centered_lengths[lane] += centered * centered;
      products[lane] += centered * origin;
    }
  }
  return {fold_lanes(lengths), fold_lanes(centered_lengths), fold_lanes(products)};
}

}  // namespace mabm
