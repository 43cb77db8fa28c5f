// The arguments of the screening ops: checked, as pointers and sizes.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "ops/arguments.h"

namespace mabm {

// What is known of the samples, one number for each; null where a rung does without.
struct ScreenTerms {
  const float* margins = nullptr;
  const float* residuals = nullptr;
  const float* slacks = nullptr;
  const float* lost = nullptr;
  const float* lengths = nullptr;

  // Twice the bound on the error of a pair in the list of `sample`.
  double gap(int32_t sample, int32_t other) const {
    const auto product = [&](const float* of_sample, const float* of_other) {
      return of_sample == nullptr
                 ? 0.0
                 : static_cast<double>(of_sample[sample]) * static_cast<double>(of_other[other]);
    };
    return 2 * (product(residuals, residuals) + product(lost, lengths) + product(lengths, lost) +
                static_cast<double>(margins[other]) + static_cast<double>(slacks[sample]));
  }
};

// Drops what is proven not to belong to a list: what scores below the k-th greatest lower bound.
inline void cut_list(const CandidateLists<float>& lists, const ScreenTerms& terms, int32_t sample,
                     int64_t row, int64_t list, int64_t width) {
  const int64_t at = row * lists.num_lists + list;
  float* bounds = lists.scores + at * lists.capacity;
  int32_t* indices = lists.indices + at * lists.capacity;
  const int32_t count = lists.counts[at];
  if (count <= width) {
    return;
  }
  float threshold = std::numeric_limits<float>::infinity();
  if (width > 0) {
    std::vector<double> lower(count);
    for (int32_t slot = 0; slot < count; ++slot) {
      const double bound = static_cast<double>(bounds[slot]) - terms.gap(sample, indices[slot]);
      lower[slot] = bound == bound ? bound : -std::numeric_limits<double>::infinity();
    }
    std::nth_element(lower.begin(), lower.begin() + width - 1, lower.end(), std::greater<double>());
    threshold = static_cast<float>(lower[width - 1]);
    if (static_cast<double>(threshold) > lower[width - 1]) {
      threshold = std::nextafter(threshold, -std::numeric_limits<float>::infinity());
    }
  }
  int32_t kept = 0;
  for (int32_t slot = 0; slot < count; ++slot) {
    if (bounds[slot] >= threshold) {
      bounds[kept] = bounds[slot];
      indices[kept++] = indices[slot];
    }
  }
  lists.counts[at] = kept;
  // What is below the threshold is dropped, so a bound equal to it is still to be taken.
  threshold = std::nextafter(threshold, -std::numeric_limits<float>::infinity());
  lists.thresholds[at] = std::max(lists.thresholds[at], threshold);
}

struct ScreenArguments {
  int64_t dim;
  const void* operands;
  const float* center;  // null: nothing is subtracted
  float unit;
  const float* biases;
  const float* scales;
  ScreenTerms terms;
  const int32_t* groups;
  const int32_t* list_table;
  int64_t num_groups;
  const std::vector<int64_t>& widths;
  const int32_t* rows;
  int64_t num_rows;
  const int32_t* columns;
  int64_t num_columns;
  const int32_t* places;  // row of the lists of each sample
  CandidateLists<float> lists;

  int32_t list_of(int32_t sample, int32_t other) const {
    return list_table[groups[sample] * num_groups + groups[other]];
  }

  void cut(int32_t sample, int64_t place, int64_t list) const {
    cut_list(lists, terms, sample, place, list, widths[list]);
  }
};

// Checks one number for each of N samples.
inline const float* read_terms(const Tensor& terms, const char* name, int64_t num_samples) {
  check_tensor<float>(terms, name, 1);
  check_size(terms, name, 0, num_samples);
  return read<float>(terms);
}

inline const float* read_terms(const std::optional<Tensor>& terms, const char* name,
                               int64_t num_samples) {
  return terms.has_value() ? read_terms(*terms, name, num_samples) : nullptr;
}

inline ScreenArguments check_screen_pairs(
    const Tensor& operands, const std::optional<Tensor>& center, double unit, const Tensor& biases,
    const Tensor& margins, const Tensor& residuals, const Tensor& slacks,
    const std::optional<Tensor>& scales, const std::optional<Tensor>& lost,
    const std::optional<Tensor>& lengths, const Tensor& groups, const Tensor& list_of_group,
    const std::vector<int64_t>& widths, const Tensor& rows, const Tensor& columns,
    const Tensor& places, bool mirrored, const Tensor& bounds, const Tensor& candidates,
    const Tensor& counts, const Tensor& thresholds) {
  const CandidateLists<float> lists = read_lists(bounds, candidates, counts, thresholds);
  check_same_device(candidates, {&operands, &biases, &margins, &residuals, &slacks, &groups,
                                 &list_of_group, &rows, &columns, &places});
  check_tensor<float>(operands, "operands", 2);
  const int64_t num_samples = operands.size(0);
  if (center.has_value()) {
    check_tensor<float>(*center, "center", 1);
    check_size(*center, "center", 0, operands.size(1));
  }
  check_tensor<int32_t>(groups, "groups", 1);
  check_size(groups, "groups", 0, num_samples);
  check_tensor<int32_t>(list_of_group, "list_of_group", 2);
  check_size(list_of_group, "list_of_group", 1, list_of_group.size(0));
  check_widths(widths);
  check_size(candidates, "candidates", 1, static_cast<int64_t>(widths.size()));
  check_tensor<int32_t>(rows, "rows", 1);
  check_tensor<int32_t>(columns, "columns", 1);
  check_tensor<int32_t>(places, "places", 1);
  check_size(places, "places", 0, num_samples);
  check_range<int32_t>(groups, "groups", 0, list_of_group.size(0));
  check_range<int32_t>(list_of_group, "list_of_group", 0, lists.num_lists);
  check_range<int32_t>(rows, "rows", 0, num_samples);
  check_range<int32_t>(columns, "columns", 0, num_samples);
  check_range<int32_t>(counts, "counts", -1, lists.capacity);
  const int32_t* place = read<int32_t>(places);
  for (const Tensor* side : {&rows, mirrored ? &columns : &rows}) {
    for (int64_t at = 0; at < side->numel(); ++at) {
      const int32_t found = place[read<int32_t>(*side)[at]];
      STD_TORCH_CHECK(found >= 0 && found < lists.num_rows, "places must be in [0, ",
                      lists.num_rows, ") for every sample with lists, got ", found);
    }
  }
  return {
      operands.size(1),
      operands.const_data_ptr(),
      center.has_value() ? read<float>(*center) : nullptr,
      static_cast<float>(unit),
      read_terms(biases, "biases", num_samples),
      read_terms(scales, "scales", num_samples),
      {read_terms(margins, "margins", num_samples), read_terms(residuals, "residuals", num_samples),
       read_terms(slacks, "slacks", num_samples), read_terms(lost, "lost", num_samples),
       read_terms(lengths, "lengths", num_samples)},
      read<int32_t>(groups),
      read<int32_t>(list_of_group),
      list_of_group.size(0),
      widths,
      read<int32_t>(rows),
      rows.numel(),
      read<int32_t>(columns),
      columns.numel(),
      place,
      lists};
}

// The lists of these rows and what their bounds are made of, for cutting them.
struct CutArguments {
  CandidateLists<float> lists;
  ScreenTerms terms;
  const int32_t* rows;
};

inline CutArguments check_cut_candidates(const Tensor& margins, const Tensor& residuals,
                                         const Tensor& slacks, const std::optional<Tensor>& lost,
                                         const std::optional<Tensor>& lengths,
                                         const std::vector<int64_t>& widths, const Tensor& rows,
                                         const Tensor& bounds, const Tensor& candidates,
                                         const Tensor& counts, const Tensor& thresholds) {
  const CandidateLists<float> lists = read_lists(bounds, candidates, counts, thresholds);
  check_same_device(candidates, {&margins, &residuals, &slacks, &rows});
  check_widths(widths);
  check_size(candidates, "candidates", 1, static_cast<int64_t>(widths.size()));
  const int64_t num_samples = margins.numel();
  check_tensor<int32_t>(rows, "rows", 1);
  check_size(rows, "rows", 0, lists.num_rows);
  check_range<int32_t>(rows, "rows", 0, num_samples);
  check_range<int32_t>(counts, "counts", -1, lists.capacity + 1);
  for (int64_t list = 0; list < lists.num_rows * lists.num_lists; ++list) {
    const int32_t* begin = lists.indices + list * lists.capacity;
    for (const int32_t* index = begin; index < begin + lists.counts[list]; ++index) {
      STD_TORCH_CHECK(*index >= 0 && *index < num_samples, "candidates must be in [0, ",
                      num_samples, "), got ", *index);
    }
  }
  return {
      lists,
      {read_terms(margins, "margins", num_samples), read_terms(residuals, "residuals", num_samples),
       read_terms(slacks, "slacks", num_samples), read_terms(lost, "lost", num_samples),
       read_terms(lengths, "lengths", num_samples)},
      read<int32_t>(rows)};
}

}  // namespace mabm
