// Ranking on the GPU: candidates from tiles of a product, ordered by exact scores.

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "kernels/ranking.cuh"
#include "ops/arguments.h"
#include "ops/cuda/on_device.h"

namespace mabm {
namespace {

// Rows ranked by exact scores together, and samples that they are compared with at a time; their
// scores take 64 MiB. Their lists may take as much: with many groups fewer rows are ranked
// together.
constexpr int64_t kExactRows = 1024;
constexpr int64_t kExactColumns = 8192;
constexpr int64_t kExactListBytes = int64_t{64} << 20;

// Copies the widths of lists to the device.
Tensor widths_on(const OnDevice& on, const std::vector<int64_t>& widths) {
  Tensor copy = on.make<int32_t>({static_cast<int64_t>(widths.size())}, "the widths of lists");
  on.check(launch_write_numbers(widths.data(), copy.numel(), write<int32_t>(copy), on.stream()),
           "writing widths");
  return copy;
}

void collect_candidates_(const Tensor& products, const Tensor& biases, const Tensor& row_groups,
                         const Tensor& column_groups, const Tensor& list_of_group,
                         int64_t first_column, const Tensor& gaps,
                         const std::vector<int64_t>& widths, bool last, bool transposed,
                         const std::optional<Tensor>& row_scales,
                         const std::optional<Tensor>& column_scales, const Tensor& candidate_scores,
                         const Tensor& candidates, const Tensor& counts, const Tensor& thresholds) {
  const CollectArguments given{products,      biases,       row_groups,   column_groups,
                               list_of_group, first_column, gaps,         widths,
                               transposed,    row_scales,   column_scales};
  const CandidateLists<float> lists =
      check_collect_candidates(given, candidate_scores, candidates, counts, thresholds);
  const OnDevice on(products);
  const Tensor widths_copy = widths_on(on, widths);
  const ListTable table{read<int32_t>(row_groups), nullptr, read<int32_t>(column_groups),
                        read<int32_t>(list_of_group), static_cast<int>(list_of_group.size(0))};
  const auto collect = [&](const auto& tile) {
    return launch_collect_products(tile, table, first_column, read<int32_t>(widths_copy), last,
                                   lists, on.stream());
  };
  on.check(given.in_integers() ? collect(given.tile<int32_t>()) : collect(given.tile<float>()),
           "collecting candidates");
}

std::tuple<Tensor, Tensor> rank_candidates(const Tensor& features, const Tensor& rows,
                                           const Tensor& candidates, const Tensor& counts,
                                           const std::vector<int64_t>& widths, bool euclidean,
                                           const std::optional<Tensor>& bounds,
                                           const std::optional<Tensor>& offsets,
                                           const std::optional<Tensor>& area) {
  check_rank_candidates(features, rows, candidates, counts, widths, bounds, offsets, area);
  const OnDevice on(features);
  const int64_t num_rows = rows.numel();
  const int64_t total = total_width(widths);
  Tensor ranks = on.make<int64_t>({num_rows, total}, "ranks");
  Tensor scores = on.make<double>({num_rows, total}, "scores");
  const Tensor widths_copy = widths_on(on, widths);
  const Tensor scored = on.make<double>({num_rows, candidates.size(2)}, "exact scores");
  const Tensor chosen = on.make<int32_t>({num_rows, candidates.size(2)}, "exact scores");
  const CompleteLists lists{num_rows, candidates.size(1), candidates.size(2),
                            read<int32_t>(candidates), read<int32_t>(counts)};
  const CandidateBounds given = read_bounds(bounds, offsets, area);
  on.check(
      launch_rank_candidates(
          read<float>(features), features.size(1), read<int64_t>(rows), lists, given, euclidean,
          {read<int32_t>(widths_copy), total, write<int64_t>(ranks), write<double>(scores)},
          {write<double>(scored), write<int32_t>(chosen)}, on.stream()),
      "ranking candidates");
  return {ranks, scores};
}

std::tuple<Tensor, Tensor> rank_exactly(const Tensor& features, const Tensor& rows,
                                        const Tensor& groups, const Tensor& list_of_group,
                                        const std::vector<int64_t>& widths, bool euclidean) {
  check_rank_exactly(features, rows, groups, list_of_group, widths);
  const OnDevice on(features);
  const int64_t num_samples = features.size(0);
  const int64_t dim = features.size(1);
  const int64_t num_rows = rows.numel();
  const int64_t total = total_width(widths);
  Tensor ranks = on.make<int64_t>({num_rows, total}, "ranks");
  Tensor scores = on.make<double>({num_rows, total}, "scores");
  if (num_rows == 0 || total == 0) {
    return {ranks, scores};
  }
  Tensor widths_copy = widths_on(on, widths);
  // Few cuts: twice the width, and room for a warp's scores.
  const auto num_lists = static_cast<int64_t>(widths.size());
  const int64_t capacity = 2 * *std::max_element(widths.begin(), widths.end()) + 2 * kWarpSize;
  const int64_t row_bytes = num_lists * capacity * 12;
  const int64_t block =
      std::max<int64_t>(1, std::min({num_rows, kExactRows, kExactListBytes / row_bytes}));
  const int64_t columns = std::min(num_samples, kExactColumns);
  Tensor tile = on.make<double>({block, columns}, "a tile of exact scores");
  Tensor list_scores = on.make<double>({block, num_lists, capacity}, "lists of exact scores");
  Tensor list_indices = on.make<int32_t>({block, num_lists, capacity}, "lists of exact scores");
  Tensor counts = on.make<int32_t>({block, num_lists}, "lists of exact scores");
  Tensor thresholds = on.make<double>({block, num_lists}, "lists of exact scores");
  CandidateLists<double> lists{block,
                               num_lists,
                               capacity,
                               write<double>(list_scores),
                               write<int32_t>(list_indices),
                               write<int32_t>(counts),
                               write<double>(thresholds)};
  for (int64_t first = 0; first < num_rows; first += block) {
    lists.num_rows = std::min(block, num_rows - first);
    const int64_t* block_rows = read<int64_t>(rows) + first;
    on.check(launch_clear_lists(lists, on.stream()), "clearing lists");
    for (int64_t column = 0; column < num_samples; column += columns) {
      const int64_t width = std::min(columns, num_samples - column);
      const ListTable table{read<int32_t>(groups), block_rows, read<int32_t>(groups) + column,
                            read<int32_t>(list_of_group), static_cast<int>(list_of_group.size(0))};
      on.check(launch_score_tile(read<float>(features), dim, block_rows, lists.num_rows, column,
                                 width, euclidean, write<double>(tile), on.stream()),
               "exact scores");
      on.check(
          launch_collect_candidates(ExactTile{lists.num_rows, width, read<double>(tile)}, table,
                                    column, read<int32_t>(widths_copy), false, lists, on.stream()),
          "collecting exact scores");
    }
    on.check(launch_write_lists(
                 lists,
                 {read<int32_t>(widths_copy), total, write<int64_t>(ranks) + first * total,
                  write<double>(scores) + first * total},
                 on.stream()),
             "ordering lists");
  }
  return {ranks, scores};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mabm, MABM_GPU, m) {
  m.impl("collect_candidates_", TORCH_BOX(&collect_candidates_));
  m.impl("rank_candidates", TORCH_BOX(&rank_candidates));
  m.impl("rank_exactly", TORCH_BOX(&rank_exactly));
}

}  // namespace mabm
