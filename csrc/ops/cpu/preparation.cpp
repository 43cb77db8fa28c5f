// Preparation: what is measured and rounded of features before they are multiplied
// (common/preparation.h).

#include "common/preparation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "common/row_blocks.h"
#include "common/scores.h"
#include "common/simd.h"
#include "ops/arguments.h"

namespace mabm {

// Sums, least and greatest numbers of the columns of some rows.
MABM_CLONES void measure_part(const float* rows, int64_t num_rows, int64_t dim, double* sums,
                              float* least, float* greatest) {
  for (int64_t d = 0; d < dim; ++d) {
    sums[d] = 0.0;
    least[d] = rows[d];
    greatest[d] = rows[d];
  }
  for (int64_t row = 0; row < num_rows; ++row) {
    const float* values = rows + row * dim;
    for (int64_t d = 0; d < dim; ++d) {
      sums[d] += static_cast<double>(values[d]);
      least[d] = values[d] < least[d] ? values[d] : least[d];
      greatest[d] = values[d] > greatest[d] ? values[d] : greatest[d];
    }
  }
}

// Writes the centered row, and returns the bits of its greatest magnitude.
MABM_CLONES uint32_t center_row(const float* row, const float* center, int64_t dim, float* out) {
  if (center == nullptr) {
    std::copy(row, row + dim, out);
  } else {
    for (int64_t d = 0; d < dim; ++d) {
      out[d] = row[d] - center[d];
    }
  }
  int32_t greatest = 0;  // signed, which more processors compare by vectors
  for (int64_t d = 0; d < dim; ++d) {
    greatest = std::max(greatest, static_cast<int32_t>(magnitude_bits(out[d])));
  }
  return static_cast<uint32_t>(greatest);
}

// Writes the integers of a row that is centered.
MABM_CLONES RoundedRow round_row(const float* row, float inverse, int64_t dim, int8_t* integers) {
  float left[kRoundingLanes] = {};
  float length[kRoundingLanes] = {};
  for (int64_t first = 0; first < dim; first += kRoundingLanes) {
    const int width = static_cast<int>(std::min<int64_t>(dim - first, kRoundingLanes));
    for (int lane = 0; lane < width; ++lane) {
      const float scaled = row[first + lane] * inverse;
      const RoundedByte rounded = round_to_byte(scaled);
      integers[first + lane] = rounded.byte;
      const float rest = scaled - rounded.value;  // exact
      left[lane] += rest * rest;
      length[lane] += scaled * scaled;
    }
  }
  for (int half = kRoundingLanes / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) {
      left[lane] += left[lane + half];
      length[lane] += length[lane + half];
    }
  }
  return {inverse, std::sqrt(left[0]), std::sqrt(length[0])};
}

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

Tensor measure_columns(const Tensor& features) {
  check_measure_columns(features);
  const int64_t num_rows = features.size(0);
  const int64_t dim = features.size(1);
  const ColumnParts parts(num_rows);
  std::vector<double> sums(parts.count * dim);
  std::vector<float> least(parts.count * dim);
  std::vector<float> greatest(parts.count * dim);
  for_each_task(
      parts.count, [] { return NoScratch{}; },
      [&](int64_t part, const RowLoop&, NoScratch&) {
        const int64_t first = part * parts.rows;
        measure_part(read<float>(features) + first * dim, std::min(parts.rows, num_rows - first),
                     dim, sums.data() + part * dim, least.data() + part * dim,
                     greatest.data() + part * dim);
      });
  for (int64_t at = dim; at < parts.count * dim; ++at) {
    const int64_t d = at % dim;
    sums[d] += sums[at];
    least[d] = least[at] < least[d] ? least[at] : least[d];
    greatest[d] = greatest[at] > greatest[d] ? greatest[at] : greatest[d];
  }
  Tensor measures = make_tensor<float>({3, dim});
  float* out = write<float>(measures);
  for (int64_t d = 0; d < dim; ++d) {
    out[d] = static_cast<float>(sums[d] / static_cast<double>(num_rows));
    out[dim + d] = least[d];
    out[2 * dim + d] = greatest[d];
  }
  return measures;
}

Tensor measure_rows(const Tensor& features, const Tensor& center) {
  check_centered_rows(features, "features", center);
  const int64_t dim = features.size(1);
  Tensor measures = make_tensor<double>({features.size(0), 3});
  for_each_row(features.size(0), [&](int64_t row) {
    const RowMeasures found =
        measure_row(read<float>(features) + row * dim, read<float>(center), dim);
    double* out = write<double>(measures) + row * 3;
    out[0] = found.length;
    out[1] = found.centered_length;
    out[2] = found.center_product;
  });
  return measures;
}

// What the tests of the GPU's route run on the CPU: plain loops.
std::tuple<Tensor, Tensor> halve_rows(const Tensor& features, const Tensor& center,
                                      const Tensor& scale) {
  check_halve_rows(features, center, scale);
  const int64_t num_rows = features.size(0);
  const int64_t dim = features.size(1);
  const int64_t width = padded_size(dim);
  const float* origin = read<float>(center);
  const float factor = *read<float>(scale);
  Tensor halves = make_tensor<Half>({padded_size(num_rows), width});
  Tensor lost = make_tensor<double>({num_rows});
  std::fill_n(write<Half>(halves), halves.numel(), Half{0});
  for_each_row(num_rows, [&](int64_t row) {
    const float* values = read<float>(features) + row * dim;
    Half* out = write<Half>(halves) + row * width;
    double squares[kScoreLanes] = {};
    for (int64_t d = 0; d < dim; ++d) {
      const float scaled = (values[d] - origin[d]) * factor;
      const RoundedHalf rounded = round_to_half(scaled);
      out[d] = rounded.half;
      const double rest = scaled - rounded.value;  // exact in float32
      squares[d % kScoreLanes] += rest * rest;
    }
    write<double>(lost)[row] = std::sqrt(fold_lanes(squares)) / static_cast<double>(factor);
  });
  return {halves, lost};
}

Tensor round_rows_(const Tensor& rows, const std::optional<Tensor>& center,
                   const Tensor& integers) {
  const float* origin = check_round_rows(rows, center, integers);
  const int64_t num_rows = rows.size(0);
  const int64_t dim = rows.size(1);
  const int64_t depth = integers.size(1);
  Tensor measures = make_tensor<float>({3, num_rows});
  float* out = write<float>(measures);
  for_each_row_block(
      num_rows, [&] { return std::vector<float>(dim); },
      [&](const RowBlock& block, std::vector<float>& centered) {
        for (int64_t row = block.first; row < block.last; ++row) {
          const float inverse = inverse_scale(
              center_row(read<float>(rows) + row * dim, origin, dim, centered.data()));
          int8_t* bytes = write<int8_t>(integers) + row * depth;
          const int64_t filled = inverse > 0 ? dim : 0;
          const RoundedRow rounded = inverse > 0 ? round_row(centered.data(), inverse, dim, bytes)
                                                 : RoundedRow{0, kInfinity, kInfinity};
          std::fill(bytes + filled, bytes + depth, int8_t{0});
          out[row] = rounded.inverse;
          out[num_rows + row] = rounded.left;
          out[2 * num_rows + row] = rounded.length;
        }
      });
  return measures;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mabm, CPU, m) {
  m.impl("measure_columns", TORCH_BOX(&measure_columns));
  m.impl("measure_rows", TORCH_BOX(&measure_rows));
  m.impl("halve_rows", TORCH_BOX(&halve_rows));
  m.impl("round_rows_", TORCH_BOX(&round_rows_));
}

}  // namespace mabm
