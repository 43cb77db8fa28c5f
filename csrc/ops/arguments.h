// The checks of every op's arguments, once for all backends; they return the arguments as plain
// pointers and sizes where several tensors belong together.
//
// Shapes, dtypes and numbers on the host are checked everywhere. Numbers in tensors that address
// memory or could overflow are checked on the CPU only (common/checks.h). Quantities (features,
// products, scores, thresholds, distances) are not checked: one that is not finite makes a result
// meaningless, but not the access to memory unsafe.
#pragma once

#include <limits>
#include <numeric>
#include <optional>
#include <vector>

#include "common/checks.h"

namespace mabm {

// The greatest int32: rows, columns and entries of lists are numbered by int32.
constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();

inline void check_measure_columns(const Tensor& features) {
  check_tensor<float>(features, "features", 2);
  STD_TORCH_CHECK(features.size(0) > 0, "features must have a row, got 0");
}

inline void check_centered_rows(const Tensor& rows, const char* name, const Tensor& center) {
  check_same_device(rows, {&center});
  check_tensor<float>(rows, name, 2);
  check_tensor<float>(center, "center", 1);
  check_size(center, "center", 0, rows.size(1));
}

inline void check_halve_rows(const Tensor& features, const Tensor& center, const Tensor& scale) {
  check_centered_rows(features, "features", center);
  check_same_device(features, {&scale});
  check_tensor<float>(scale, "scale", 0);
}

// Returns the center, null if there is none.
inline const float* check_round_rows(const Tensor& rows, const std::optional<Tensor>& center,
                                     const Tensor& integers) {
  check_same_device(rows, {&integers});
  check_tensor<float>(rows, "rows", 2);
  check_tensor<int8_t>(integers, "integers", 2);
  check_size(integers, "integers", 0, rows.size(0));
  STD_TORCH_CHECK(integers.size(1) >= rows.size(1), "integers must have ", rows.size(1),
                  " columns or more, got ", integers.size(1));
  if (!center.has_value()) {
    return nullptr;
  }
  check_centered_rows(rows, "rows", *center);
  return read<float>(*center);
}

// Lists of candidates with a score for each; `name` is what the op calls the scores.
inline CandidateLists<float> read_lists(const Tensor& scores, const char* name,
                                        const Tensor& candidates, const Tensor& counts,
                                        const Tensor& thresholds) {
  check_same_device(candidates, {&scores, &counts, &thresholds});
  check_tensor<float>(scores, name, 3);
  check_tensor<int32_t>(candidates, "candidates", 3);
  check_tensor<int32_t>(counts, "counts", 2);
  check_tensor<float>(thresholds, "thresholds", 2);
  for (int axis = 0; axis < 3; ++axis) {
    check_size(scores, name, axis, candidates.size(axis));
  }
  for (int axis = 0; axis < 2; ++axis) {
    check_size(counts, "counts", axis, candidates.size(axis));
    check_size(thresholds, "thresholds", axis, candidates.size(axis));
  }
  const CandidateLists<float> lists{candidates.size(0),         candidates.size(1),
                                    candidates.size(2),         write<float>(scores),
                                    write<int32_t>(candidates), write<int32_t>(counts),
                                    write<float>(thresholds)};
  STD_TORCH_CHECK(lists.capacity >= 2 && lists.capacity <= kMaxInt32,
                  "candidates must have room for 2 a list and less than 2^31, got ",
                  lists.capacity);
  return lists;
}

// Checks how many lists there are, and the length of each.
inline void check_widths(const std::vector<int64_t>& widths) {
  STD_TORCH_CHECK(static_cast<int64_t>(widths.size()) <= kMostLists,
                  "widths must be those of at most ", kMostLists, " lists, got ", widths.size());
  for (const int64_t width : widths) {
    STD_TORCH_CHECK(width >= 0 && width <= kMaxInt32, "widths must be in [0, ", kMaxInt32,
                    "], got ", width);
  }
}

// The tile, its columns and its lists, as the op takes them.
struct CollectArguments {
  const Tensor& products;
  const Tensor& biases;
  const Tensor& row_groups;
  const Tensor& column_groups;
  const Tensor& list_of_group;
  int64_t first_column;
  const Tensor& gaps;
  const std::vector<int64_t>& widths;
  bool transposed;
  const std::optional<Tensor>& row_scales;
  const std::optional<Tensor>& column_scales;

  bool in_integers() const { return products.scalar_type() == torch::headeronly::ScalarType::Int; }

  template <class Product>
  ProductTile<Product> tile() const {
    return {gaps.numel(),
            biases.numel(),
            read<Product>(products),
            products.size(1),
            transposed,
            row_scales.has_value() ? read<float>(*row_scales) : nullptr,
            column_scales.has_value() ? read<float>(*column_scales) : nullptr,
            read<float>(biases),
            read<float>(gaps)};
  }
};

inline void check_scales(const std::optional<Tensor>& scales, const char* name,
                         const Tensor& products, int64_t count) {
  STD_TORCH_CHECK(scales.has_value(), name, " must come with int32 products");
  check_same_device(products, {&*scales});
  check_tensor<float>(*scales, name, 1);
  check_size(*scales, name, 0, count);
}

inline CandidateLists<float> check_collect_candidates(const CollectArguments& given,
                                                      const Tensor& candidate_scores,
                                                      const Tensor& candidates,
                                                      const Tensor& counts,
                                                      const Tensor& thresholds) {
  const CandidateLists<float> lists =
      read_lists(candidate_scores, "candidate_scores", candidates, counts, thresholds);
  const int64_t num_columns = given.biases.numel();
  check_same_device(candidates, {&given.products, &given.biases, &given.row_groups,
                                 &given.column_groups, &given.list_of_group, &given.gaps});
  if (given.in_integers()) {
    check_tensor<int32_t>(given.products, "products", 2);
    check_scales(given.row_scales, "row_scales", given.products, lists.num_rows);
    check_scales(given.column_scales, "column_scales", given.products, num_columns);
  } else {
    check_tensor<float>(given.products, "products", 2);
  }
  check_tensor<float>(given.biases, "biases", 1);
  check_tensor<int32_t>(given.row_groups, "row_groups", 1);
  check_tensor<int32_t>(given.column_groups, "column_groups", 1);
  check_tensor<int32_t>(given.list_of_group, "list_of_group", 2);
  check_tensor<float>(given.gaps, "gaps", 1);
  check_least_size(given.products, "products", given.transposed ? 1 : 0, lists.num_rows);
  check_least_size(given.products, "products", given.transposed ? 0 : 1, num_columns);
  check_size(given.gaps, "gaps", 0, lists.num_rows);
  check_size(candidates, "candidates", 1, static_cast<int64_t>(given.widths.size()));
  check_widths(given.widths);
  check_size(given.row_groups, "row_groups", 0, lists.num_rows);
  check_size(given.column_groups, "column_groups", 0, num_columns);
  const int64_t num_groups = given.list_of_group.size(0);
  check_size(given.list_of_group, "list_of_group", 1, num_groups);
  STD_TORCH_CHECK(given.first_column >= 0 && given.first_column <= kMaxInt32 - num_columns,
                  "first_column must be at least 0 and the last one below 2^31, got ",
                  given.first_column, " and ", num_columns, " columns");
  check_range<int32_t>(given.row_groups, "row_groups", 0, num_groups);
  check_range<int32_t>(given.column_groups, "column_groups", 0, num_groups);
  check_range<int32_t>(given.list_of_group, "list_of_group", 0, lists.num_lists);
  check_range<int32_t>(counts, "counts", -1, lists.capacity);
  return lists;
}

// Columns of ranks that lists of these widths take together.
inline int64_t total_width(const std::vector<int64_t>& widths) {
  return std::accumulate(widths.begin(), widths.end(), int64_t{0});
}

inline void check_rank_candidates(const Tensor& features, const Tensor& rows,
                                  const Tensor& candidates, const Tensor& counts,
                                  const std::vector<int64_t>& widths,
                                  const std::optional<Tensor>& bounds,
                                  const std::optional<Tensor>& offsets,
                                  const std::optional<Tensor>& area) {
  check_same_device(candidates, {&features, &rows, &counts});
  STD_TORCH_CHECK(
      bounds.has_value() == offsets.has_value() && bounds.has_value() == area.has_value(),
      "bounds, offsets and area must be given together");
  if (bounds.has_value()) {
    check_same_device(candidates, {&*bounds, &*offsets, &*area});
    check_tensor<float>(*bounds, "bounds", 3);
    for (int axis = 0; axis < 3; ++axis) {
      check_size(*bounds, "bounds", axis, candidates.size(axis));
    }
    check_tensor<double>(*offsets, "offsets", 1);
    check_size(*offsets, "offsets", 0, rows.numel());
    check_tensor<double>(*area, "area", 0);
  }
  check_tensor<float>(features, "features", 2);
  check_tensor<int64_t>(rows, "rows", 1);
  check_tensor<int32_t>(candidates, "candidates", 3);
  check_tensor<int32_t>(counts, "counts", 2);
  check_size(candidates, "candidates", 0, rows.numel());
  check_size(candidates, "candidates", 1, static_cast<int64_t>(widths.size()));
  check_size(counts, "counts", 0, rows.numel());
  check_size(counts, "counts", 1, static_cast<int64_t>(widths.size()));
  check_widths(widths);
  const int64_t capacity = candidates.size(2);
  STD_TORCH_CHECK(capacity <= kMaxInt32, "candidates must be fewer than 2^31 a list, got ",
                  capacity);
  check_range<int64_t>(rows, "rows", 0, features.size(0));
  check_range<int32_t>(counts, "counts", -1, capacity + 1);
  if (candidates.is_cpu()) {
    const int32_t* indices = read<int32_t>(candidates);
    for (int64_t list = 0; list < counts.numel(); ++list) {
      const int32_t* begin = indices + list * capacity;
      for (const int32_t* index = begin; index < begin + read<int32_t>(counts)[list]; ++index) {
        STD_TORCH_CHECK(*index >= 0 && *index < features.size(0), "candidates must be in [0, ",
                        features.size(0), "), got ", *index);
      }
    }
  }
}

inline CandidateBounds read_bounds(const std::optional<Tensor>& bounds,
                                   const std::optional<Tensor>& offsets,
                                   const std::optional<Tensor>& area) {
  if (!bounds.has_value()) {
    return {nullptr, nullptr, nullptr};
  }
  return {read<float>(*bounds), read<double>(*offsets), read<double>(*area)};
}

inline void check_rank_exactly(const Tensor& features, const Tensor& rows, const Tensor& groups,
                               const Tensor& list_of_group, const std::vector<int64_t>& widths) {
  check_same_device(features, {&rows, &groups, &list_of_group});
  check_tensor<float>(features, "features", 2);
  check_tensor<int64_t>(rows, "rows", 1);
  check_tensor<int32_t>(groups, "groups", 1);
  check_tensor<int32_t>(list_of_group, "list_of_group", 2);
  check_size(groups, "groups", 0, features.size(0));
  check_size(list_of_group, "list_of_group", 1, list_of_group.size(0));
  check_widths(widths);
  check_range<int64_t>(rows, "rows", 0, features.size(0));
  check_range<int32_t>(groups, "groups", 0, list_of_group.size(0));
  check_range<int32_t>(list_of_group, "list_of_group", 0, static_cast<int64_t>(widths.size()));
}

// Checks lists of ranks among N samples, padded by -1: (B, K).
inline void check_ranks(const Tensor& ranks, const char* name, int64_t num_samples) {
  check_tensor<int64_t>(ranks, name, 2);
  STD_TORCH_CHECK(num_samples <= kMaxInt32, name, " must be of fewer than 2^31 samples, got ",
                  num_samples);
  check_range<int64_t>(ranks, name, -1, num_samples);
}

inline ChosenRows check_reciprocal_mask(const Tensor& ranks, const std::optional<Tensor>& rows) {
  check_ranks(ranks, "ranks", ranks.size(0));
  if (!rows.has_value()) {
    return {ranks.size(0), nullptr};
  }
  check_same_device(ranks, {&*rows});
  check_tensor<int64_t>(*rows, "rows", 1);
  check_range<int64_t>(*rows, "rows", 0, ranks.size(0));
  return {rows->numel(), read<int64_t>(*rows)};
}

inline MaskedRanks read_masked(const Tensor& ranks, const Tensor& mask, const char* name,
                               int64_t num_samples) {
  check_same_device(ranks, {&mask});
  check_ranks(ranks, name, num_samples);
  check_tensor<bool>(mask, name, 2);
  check_size(mask, name, 0, ranks.size(0));
  check_size(mask, name, 1, ranks.size(1));
  const MaskedRanks lists{ranks.size(1), read<int64_t>(ranks), read<bool>(mask)};
  if (ranks.is_cpu()) {
    int outside = 0;
    for (int64_t at = 0; at < ranks.numel(); ++at) {
      outside |= lists.mask[at] & (lists.ranks[at] < 0);
    }
    STD_TORCH_CHECK(outside == 0, name, " must not be -1 where the mask is set, got -1");
  }
  return lists;
}

inline ListsToExpand check_expand_neighbors(const Tensor& ranks, const Tensor& mask,
                                            const std::optional<Tensor>& half_ranks,
                                            const std::optional<Tensor>& half_mask) {
  if (!half_ranks.has_value()) {
    const MaskedRanks lists = read_masked(ranks, mask, "ranks", ranks.size(0));
    return {ranks.size(0), ranks.size(0), lists, {0, nullptr, nullptr}};
  }
  STD_TORCH_CHECK(half_mask.has_value(), "half_mask must come with half_ranks");
  check_same_device(ranks, {&*half_ranks});
  const int64_t num_samples = half_ranks->size(0);
  return {ranks.size(0), num_samples, read_masked(ranks, mask, "ranks", num_samples),
          read_masked(*half_ranks, *half_mask, "half_ranks", num_samples)};
}

inline Rows check_encode_neighbors(const Tensor& features, const Tensor& indptr,
                                   const Tensor& indices) {
  check_same_device(features, {&indptr, &indices});
  check_tensor<float>(features, "features", 2);
  const Rows neighbors = read_sets(indptr, indices, indptr.numel() - 1);
  check_size(features, "features", 0, neighbors.count);
  return neighbors;
}

inline Rows check_weigh_products(const Tensor& indptr, const Tensor& indices,
                                 const Tensor& products, int64_t first_row) {
  const Rows sets = read_sets(indptr, indices, kMaxInt32 + 1);
  check_same_device(indptr, {&products});
  check_tensor<double>(products, "products", 1);
  check_size(products, "products", 0, indices.numel());
  STD_TORCH_CHECK(first_row >= 0 && first_row <= kMaxInt32 - sets.count,
                  "first_row must be at least 0 and the last row below 2^31, got ", first_row,
                  " and ", sets.count, " rows");
  return sets;
}

// The inner products of a ranking with its samples, of width 0 if there are none.
inline RankedProducts read_products(const Tensor& features, const std::optional<Tensor>& ranks,
                                    const std::optional<Tensor>& products) {
  if (!ranks.has_value()) {
    return {0, nullptr, nullptr};
  }
  STD_TORCH_CHECK(products.has_value(), "products must come with ranks");
  check_same_device(features, {&*ranks, &*products});
  check_ranks(*ranks, "ranks", ranks->size(0));
  check_tensor<double>(*products, "products", 2);
  check_size(*ranks, "ranks", 0, features.size(0));
  check_size(*products, "products", 0, ranks->size(0));
  check_size(*products, "products", 1, ranks->size(1));
  return {ranks->size(1), read<int64_t>(*ranks), read<double>(*products)};
}

inline Rows check_average_encodings(const Tensor& indptr, const Tensor& indices,
                                    const Tensor& weights, const Tensor& neighbors,
                                    const Tensor& neighbor_weights) {
  check_same_device(indptr, {&neighbors, &neighbor_weights});
  const Rows encoding = read_encoding(indptr, indices, weights, indptr.numel() - 1);
  check_tensor<int64_t>(neighbors, "neighbors", 2);
  check_tensor<double>(neighbor_weights, "neighbor_weights", 2);
  check_size(neighbor_weights, "neighbor_weights", 0, neighbors.size(0));
  check_size(neighbor_weights, "neighbor_weights", 1, neighbors.size(1));
  check_range<int64_t>(neighbors, "neighbors", -1, encoding.count);
  if (neighbor_weights.is_cpu()) {
    const double* weight = read<double>(neighbor_weights);
    int inside = 1;
    for (int64_t at = 0; at < neighbor_weights.numel(); ++at) {
      inside &= weight[at] >= 0 && weight[at] <= 1;
    }
    STD_TORCH_CHECK(inside, "neighbor_weights must be in [0, 1], got NaN or another");
  }
  return encoding;
}

// The encoding of rows over N samples.
struct EncodedRows {
  Rows rows;
  int64_t num_samples;
};

// The encodings of rows and columns over N samples.
struct EncodingPair {
  Rows rows;
  Rows columns;
};

inline EncodingPair check_jaccard_distance(const Tensor& row_indptr, const Tensor& row_indices,
                                           const Tensor& row_weights, const Tensor& column_indptr,
                                           const Tensor& column_indices,
                                           const Tensor& column_weights, int64_t num_samples) {
  check_same_device(row_indptr, {&column_indptr});
  STD_TORCH_CHECK(num_samples >= 0 && num_samples <= kMaxInt32, "num_samples must be in [0, ",
                  kMaxInt32, "], got ", num_samples);
  return {read_encoding(row_indptr, row_indices, row_weights, num_samples),
          read_encoding(column_indptr, column_indices, column_weights, num_samples)};
}

inline void check_max_distance(double max_distance) {
  STD_TORCH_CHECK(max_distance >= 0 && max_distance < 1, "max_distance must be in [0, 1), got ",
                  max_distance);
}

// An encoding of all samples, or of some rows over `num_samples`.
inline EncodedRows check_jaccard_graph(const Tensor& indptr, const Tensor& indices,
                                       const Tensor& weights, double max_distance,
                                       std::optional<int64_t> num_samples) {
  check_max_distance(max_distance);
  const int64_t count = num_samples.value_or(indptr.numel() - 1);
  STD_TORCH_CHECK(count >= 0 && count <= kMaxInt32, "num_samples must be in [0, ", kMaxInt32,
                  "], got ", count);
  return {read_encoding(indptr, indices, weights, count), count};
}

inline Rows check_dbscan(const Tensor& indptr, const Tensor& indices, const Tensor& distances) {
  check_same_device(indptr, {&distances});
  Rows graph = read_sets(indptr, indices, indptr.numel() - 1);
  check_tensor<float>(distances, "distances", 1);
  check_size(distances, "distances", 0, indices.numel());
  graph.distances = read<float>(distances);
  return graph;
}

// Checks pairs of samples that each have a parent; on the CPU also that a parent has one, too.
inline void check_join_samples(const Tensor& parents, const Tensor& first, const Tensor& second) {
  check_same_device(parents, {&first, &second});
  check_tensor<int32_t>(parents, "parents", 1);
  check_tensor<int32_t>(first, "first", 1);
  check_tensor<int32_t>(second, "second", 1);
  check_size(second, "second", 0, first.numel());
  const int64_t count = parents.numel();
  STD_TORCH_CHECK(count <= kMaxInt32, "parents must be those of fewer than 2^31 samples, got ",
                  count);
  check_range<int32_t>(first, "first", 0, count);
  check_range<int32_t>(second, "second", 0, count);
  if (!parents.is_cpu()) {
    return;
  }
  const int32_t* parent = read<int32_t>(parents);
  for (int64_t sample = 0; sample < count; ++sample) {
    const int32_t found = parent[sample];
    STD_TORCH_CHECK(found == -1 || (found >= 0 && found <= sample && parent[found] >= 0),
                    "parents must be -1, the sample or a smaller one with a parent, got ", found,
                    " for sample ", sample);
  }
  for (const Tensor* side : {&first, &second}) {
    for (int64_t at = 0; at < side->numel(); ++at) {
      const int32_t sample = read<int32_t>(*side)[at];
      STD_TORCH_CHECK(parent[sample] >= 0, side == &first ? "first" : "second",
                      " must be samples that have a parent, got ", sample);
    }
  }
}

}  // namespace mabm
