// The arguments of the screening ops: checked, as pointers and sizes.
#pragma once

#include <vector>

#include "common/screening.h"
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
    return 2 * (product(residuals, residuals) + product(lost, lengths) + product(lengths, lost)) +
           own_gap(sample, other);
  }

  // The part of it that no product of both samples is in.
  double own_gap(int32_t sample, int32_t other) const {
    return 2 * (static_cast<double>(margins[other]) + static_cast<double>(slacks[sample]));
  }
};

// Lists of candidates in the making: (B, L, C) upper bounds and sample indices, (B, L) numbers of
// candidates, -1 once a list has overflowed, (B, L, W) the greatest lower bounds of each list, as a
// heap with the least on top, and (B, L) thresholds, just below the least, or where they began if
// that is higher.
struct ScreenLists {
  int64_t num_rows;
  int64_t num_lists;
  int64_t capacity;
  int64_t heap_width;
  float* bounds;
  int32_t* indices;
  int32_t* counts;
  float* lower_bounds;
  float* thresholds;
};

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
  bool raises;            // whether thresholds are raised
  bool collects;          // whether candidates are added to the lists
  ScreenLists lists;

  int32_t list_of(int32_t sample, int32_t other) const {
    return list_table[groups[sample] * num_groups + groups[other]];
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

inline ScreenLists read_screen_lists(const Tensor& bounds, const Tensor& candidates,
                                     const Tensor& counts, const Tensor& thresholds) {
  const CandidateLists<float> lists = read_lists(bounds, "bounds", candidates, counts, thresholds);
  check_range<int32_t>(counts, "counts", -1, lists.capacity + 1);
  return {lists.num_rows, lists.num_lists, lists.capacity,  0, lists.scores, lists.indices,
          lists.counts,   nullptr,         lists.thresholds};
}

inline ScreenArguments check_screen_pairs(
    const Tensor& operands, const std::optional<Tensor>& center, double unit, const Tensor& biases,
    const Tensor& margins, const Tensor& residuals, const Tensor& slacks,
    const std::optional<Tensor>& scales, const std::optional<Tensor>& lost,
    const std::optional<Tensor>& lengths, const Tensor& groups, const Tensor& list_of_group,
    const std::vector<int64_t>& widths, const Tensor& rows, const Tensor& columns,
    const Tensor& places, bool mirrored, bool raises, bool collects, const Tensor& bounds,
    const Tensor& candidates, const Tensor& counts, const Tensor& lower_bounds,
    const Tensor& thresholds) {
  ScreenLists lists = read_screen_lists(bounds, candidates, counts, thresholds);
  check_tensor<float>(lower_bounds, "lower_bounds", 3);
  check_size(lower_bounds, "lower_bounds", 0, lists.num_rows);
  check_size(lower_bounds, "lower_bounds", 1, lists.num_lists);
  lists.heap_width = lower_bounds.size(2);
  lists.lower_bounds = write<float>(lower_bounds);
  check_same_device(candidates, {&operands, &biases, &margins, &residuals, &slacks, &groups,
                                 &list_of_group, &rows, &columns, &places});
  if (scales.has_value()) {
    STD_TORCH_CHECK(lost.has_value() && lengths.has_value() && !center.has_value() && unit == 1,
                    "lost and lengths, no center and a unit of 1 must come with scales");
    check_tensor<int8_t>(operands, "operands", 2);
    STD_TORCH_CHECK(operands.size(1) <= kMostQuantized, "operands must have at most ",
                    kMostQuantized, " columns of int8, got ", operands.size(1));
  } else {
    check_tensor<float>(operands, "operands", 2);
  }
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
  for (const int64_t width : widths) {
    STD_TORCH_CHECK(width <= lists.heap_width, "lower_bounds must have room for ", width,
                    " a list, got ", lists.heap_width);
  }
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
      raises,
      collects,
      lists};
}

}  // namespace mabm
