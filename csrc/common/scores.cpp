#include "common/scores.h"

#include "common/simd.h"

namespace mabm {
namespace {

constexpr int kLanes = 32;

template <class T>
inline T fold(T* partial) {
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) {
      partial[lane] += partial[lane + half];
    }
  }
  return partial[0];
}

}  // namespace

MABM_CLONES double inner_product(const float* a, const float* b, int64_t size) {
  double partial[kLanes] = {};
  const int64_t whole = size - size % kLanes;
  for (int64_t d = 0; d < whole; d += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      partial[lane] += static_cast<double>(a[d + lane]) * static_cast<double>(b[d + lane]);
    }
  }
  for (int64_t d = whole; d < size; ++d) {
    partial[d - whole] += static_cast<double>(a[d]) * static_cast<double>(b[d]);
  }
  return fold(partial);
}

MABM_CLONES double squared_distance(const float* a, const float* b, int64_t size) {
  double partial[kLanes] = {};
  const int64_t whole = size - size % kLanes;
  for (int64_t d = 0; d < whole; d += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const double gap = static_cast<double>(a[d + lane]) - static_cast<double>(b[d + lane]);
      partial[lane] += gap * gap;
    }
  }
  for (int64_t d = whole; d < size; ++d) {
    const double gap = static_cast<double>(a[d]) - static_cast<double>(b[d]);
    partial[d - whole] += gap * gap;
  }
  return fold(partial);
}

MABM_CLONES RowMeasures measure_row(const float* row, const float* center, int64_t size) {
  double lengths[kLanes] = {};
  double centered_lengths[kLanes] = {};
  double products[kLanes] = {};
  for (int64_t first = 0; first < size; first += kLanes) {
    const int width = static_cast<int>(size - first < kLanes ? size - first : int64_t{kLanes});
    for (int lane = 0; lane < width; ++lane) {
      const double value = static_cast<double>(row[first + lane]);
      const double origin = static_cast<double>(center[first + lane]);
      const double centered = value - origin;
      lengths[lane] += value * value;
      centered_lengths[lane] += centered * centered;
      products[lane] += centered * origin;
    }
  }
  return {fold(lengths), fold(centered_lengths), fold(products)};
}

}  // namespace mabm
