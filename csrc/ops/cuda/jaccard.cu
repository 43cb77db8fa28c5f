// The distance between encoded rows on the GPU, dense or pruned.

#include <array>
#include <limits>
#include <tuple>

#include "kernels/jaccard.cuh"
#include "ops/arguments.h"
#include "ops/cuda/ragged_rows.h"

namespace mabm {
namespace {

// The values in sorted order and their old positions, by PyTorch's stable sort.
std::tuple<Tensor, Tensor> sort_stably(const OnDevice& on, const Tensor& values) {
  STD_TORCH_CHECK(values.numel() <= std::numeric_limits<int32_t>::max(),
                  "an encoding on a GPU must have fewer than 2^31 entries, got ", values.numel());
  std::array<StableIValue, 4> stack{
      torch::stable::detail::from(values), torch::stable::detail::from(std::optional<bool>(true)),
      torch::stable::detail::from(int64_t{0}), torch::stable::detail::from(false)};
  const auto status =
      torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION);
  if (status != TORCH_SUCCESS) {  // the dispatcher does not tell the reason
    on.check_earlier_work();
    STD_TORCH_CHECK(false, "out of memory: no room to sort the ", values.numel(),
                    " entries of an encoding by column");
  }
  return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

// An encoding by column, with its memory.
struct Inverted {
  Tensor starts;
  Tensor entries;  // (nnz, 2) int32

  Inverted(const OnDevice& on, const Rows& rows, const Tensor& indices, int64_t num_columns) {
    const int64_t num_entries = indices.numel();
    Tensor row_of = on.make<int32_t>({num_entries}, "the rows of entries");
    starts = on.make<int64_t>({num_columns + 1}, "the starts of columns");
    entries = on.make<int32_t>({num_entries, 2}, "the entries by column");
    on.check(launch_rows_of_entries(rows.indptr, rows.count, write<int32_t>(row_of), on.stream()),
             "numbering entries");
    const auto [columns, order] = sort_stably(on, indices);
    on.check(
        launch_invert_rows(read<int32_t>(columns), read<int64_t>(order), read<int32_t>(row_of),
                           rows.weights, num_entries, num_columns, write<int64_t>(starts),
                           reinterpret_cast<ColumnEntry*>(write<int32_t>(entries)), on.stream()),
        "inverting rows");
  }

  InvertedRows view() const {
    return {read<int64_t>(starts), reinterpret_cast<const ColumnEntry*>(read<int32_t>(entries))};
  }
};

// The sum of the weights of each row, and the least sum.
struct RowSums {
  Tensor sums;
  Tensor least;

  RowSums(const OnDevice& on, const Rows& rows)
      : sums(on.make<int64_t>({rows.count}, "the sums of rows")),
        least(on.make<int64_t>({1}, "the sums of rows")) {
    on.check(launch_row_sums(rows, write<int64_t>(sums),
                             reinterpret_cast<long long*>(write<int64_t>(least)), on.stream()),
             "adding up rows");
  }
};

Tensor jaccard_distance(const Tensor& row_indptr, const Tensor& row_indices,
                        const Tensor& row_weights, const Tensor& column_indptr,
                        const Tensor& column_indices, const Tensor& column_weights,
                        int64_t num_samples) {
  const auto [rows, columns] =
      check_jaccard_distance(row_indptr, row_indices, row_weights, column_indptr, column_indices,
                             column_weights, num_samples);
  const OnDevice on(row_indptr);
  Tensor distances = on.make<float>({rows.count, columns.count}, "the dense distance");
  const Inverted inverted(on, columns, column_indices, num_samples);
  const RowSums sums(on, rows);
  const RowSums column_sums(on, columns);
  on.check(launch_jaccard_distance(rows, read<int64_t>(sums.sums), inverted.view(), columns.count,
                                   read<int64_t>(column_sums.sums), write<float>(distances),
                                   on.stream()),
           "the dense distance");
  return distances;
}

// For each row, those of the others within max_distance, ascending, and their distances.
std::tuple<Tensor, Tensor, Tensor> find_near_rows(const OnDevice& on, const Rows& rows,
                                                  const RowSums& sums, const Inverted& inverted,
                                                  const Rows& others, const RowSums& other_sums,
                                                  double max_distance) {
  const auto pass = [&](const NearRows& near) {
    const auto* least = reinterpret_cast<const long long*>(read<int64_t>(other_sums.least));
    return launch_near_rows(rows, read<int64_t>(sums.sums), inverted.view(), others.count,
                            read<int64_t>(other_sums.sums), least, static_cast<float>(max_distance),
                            near, on.stream());
  };
  Tensor counts = on.make<int32_t>({rows.count}, "the counts of rows");
  Tensor slot_indices = on.make<int32_t>({rows.count, kNearSlots}, "near rows");
  Tensor slot_distances = on.make<float>({rows.count, kNearSlots}, "near rows");
  on.check(pass({write<int32_t>(counts), nullptr, write<int32_t>(slot_indices),
                 write<float>(slot_distances)}),
           "finding near rows");
  Tensor starts = starts_of(on, counts);
  const int64_t total = read_total(on, starts);
  Tensor near_indices = on.make<int32_t>({total}, "the pairs of the graph");
  Tensor distances = on.make<float>({total}, "the pairs of the graph");
  on.check(
      launch_move_near_rows(rows.count, read<int32_t>(counts), read<int64_t>(starts),
                            read<int32_t>(slot_indices), read<float>(slot_distances),
                            write<int32_t>(near_indices), write<float>(distances), on.stream()),
      "moving near rows");
  on.check(pass({write<int32_t>(counts), read<int64_t>(starts), write<int32_t>(near_indices),
                 write<float>(distances)}),
           "finding many near rows");
  return {starts, near_indices, distances};
}

std::tuple<Tensor, Tensor, Tensor> jaccard_graph(const Tensor& indptr, const Tensor& indices,
                                                 const Tensor& weights, double max_distance) {
  const Rows rows = check_jaccard_graph(indptr, indices, weights, max_distance);
  const OnDevice on(indptr);
  const Inverted inverted(on, rows, indices, rows.count);
  const RowSums sums(on, rows);
  return find_near_rows(on, rows, sums, inverted, rows, sums, max_distance);
}

std::tuple<Tensor, Tensor, Tensor> near_rows(const Tensor& row_indptr, const Tensor& row_indices,
                                             const Tensor& row_weights, const Tensor& column_indptr,
                                             const Tensor& column_indices,
                                             const Tensor& column_weights, int64_t num_samples,
                                             double max_distance) {
  check_max_distance(max_distance);
  const auto [rows, columns] =
      check_jaccard_distance(row_indptr, row_indices, row_weights, column_indptr, column_indices,
                             column_weights, num_samples);
  const OnDevice on(row_indptr);
  const Inverted inverted(on, columns, column_indices, num_samples);
  const RowSums sums(on, rows);
  const RowSums column_sums(on, columns);
  return find_near_rows(on, rows, sums, inverted, columns, column_sums, max_distance);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mabm, MABM_GPU, m) {
  m.impl("jaccard_distance", TORCH_BOX(&jaccard_distance));
  m.impl("jaccard_graph", TORCH_BOX(&jaccard_graph));
  m.impl("near_rows", TORCH_BOX(&near_rows));
}

}  // namespace mabm
