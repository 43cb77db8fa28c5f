// Preparation on the GPU: what is measured and rounded of features before they are multiplied.

#include <optional>
#include <tuple>

#include "kernels/preparation.cuh"
#include "ops/arguments.h"
#include "ops/cuda/on_device.h"

namespace mabm {
namespace {

Tensor measure_columns(const Tensor& features) {
  check_measure_columns(features);
  const OnDevice on(features);
  const int64_t dim = features.size(1);
  const int64_t num_parts = ColumnParts(features.size(0)).count;
  Tensor measures = on.make<float>({3, dim}, "measures of columns");
  Tensor sums = on.make<double>({num_parts, dim}, "measures of columns");
  Tensor least = on.make<float>({num_parts, dim}, "measures of columns");
  Tensor greatest = on.make<float>({num_parts, dim}, "measures of columns");
  on.check(
      launch_measure_columns(read<float>(features), features.size(0), dim,
                             {write<double>(sums), write<float>(least), write<float>(greatest)},
                             write<float>(measures), on.stream()),
      "measuring columns");
  return measures;
}

Tensor measure_rows(const Tensor& features, const Tensor& center) {
  check_centered_rows(features, "features", center);
  const OnDevice on(features);
  Tensor measures = on.make<double>({features.size(0), 3}, "measures of rows");
  on.check(launch_measure_rows(read<float>(features), features.size(0), features.size(1),
                               read<float>(center), write<double>(measures), on.stream()),
           "measuring rows");
  return measures;
}

std::tuple<Tensor, Tensor> halve_rows(const Tensor& features, const Tensor& center,
                                      const Tensor& scale) {
  check_halve_rows(features, center, scale);
  const OnDevice on(features);
  const int64_t num_rows = features.size(0);
  const int64_t dim = features.size(1);
  Tensor halves = on.make<Half>({padded_size(num_rows), padded_size(dim)}, "features in float16");
  Tensor lost = on.make<double>({num_rows}, "measures of rows");
  on.check(
      launch_halve_rows(read<float>(features), num_rows, dim, read<float>(center),
                        read<float>(scale), write<Half>(halves), write<double>(lost), on.stream()),
      "rounding to float16");
  return {halves, lost};
}

Tensor round_rows_(const Tensor& rows, const std::optional<Tensor>& center,
                   const Tensor& integers) {
  const float* origin = check_round_rows(rows, center, integers);
  const OnDevice on(rows);
  Tensor measures = on.make<float>({3, rows.size(0)}, "measures of rows");
  on.check(
      launch_round_rows(read<float>(rows), rows.size(0), rows.size(1), origin, integers.size(1),
                        write<int8_t>(integers), write<float>(measures), on.stream()),
      "rounding to integers");
  return measures;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mabm, MABM_GPU, m) {
  m.impl("measure_columns", TORCH_BOX(&measure_columns));
  m.impl("measure_rows", TORCH_BOX(&measure_rows));
  m.impl("halve_rows", TORCH_BOX(&halve_rows));
  m.impl("round_rows_", TORCH_BOX(&round_rows_));
}

}  // namespace mabm
