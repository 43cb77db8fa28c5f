// The distance between encoded rows on the GPU, dense or pruned.

#include <algorithm>
#include <array>
#include <optional>
#include <tuple>

#include "kernels/jaccard.cuh"
#include "ops/arguments.h"
#include "ops/cuda/ragged_rows.h"

namespace mabm {
namespace {

// Entries of an encoding that are sorted at a time. PyTorch takes fewer than 2^31; fewer still
// limit the memory of a sort, some 36 bytes an entry, to 9 GiB.
#if !defined(MABM_SORTED_AT_ONCE)
#define MABM_SORTED_AT_ONCE (int64_t{1} << 28)
#endif
constexpr int64_t kSortedAtOnce = MABM_SORTED_AT_ONCE;

// The values in sorted order and their old positions, by PyTorch's stable sort.
std::tuple<Tensor, Tensor> sort_stably(const OnDevice& on, const Tensor& values) {
  std::array<StableIValue, 4> stack{
      torch::stable::detail::from(values), torch::stable::detail::from(std::optional<bool>(true)),
      torch::stable::detail::from(int64_t{0}), torch::stable::detail::from(false)};
  const auto status =
      torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION);
  if (status != TORCH_SUCCESS) {  // the dispatcher does not tell the reason
    on.check_earlier_work();
    STD_TORCH_CHECK(false, "out of memory: no room to sort ", values.numel(),
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
    const Tensor row_of = on.make<int32_t>({num_entries}, "the rows of entries");
    entries = on.make<int32_t>({num_entries, 2}, "the entries by column");
    on.check(launch_rows_of_entries(rows.indptr, rows.count, write<int32_t>(row_of), on.stream()),
             "numbering entries");
    if (num_entries <= kSortedAtOnce) {
      invert_at_once(on, rows, indices, row_of, num_columns);
    } else {
      invert_in_parts(on, rows, indices, row_of, num_columns);
    }
  }

  InvertedRows view() const {
    return {read<int64_t>(starts), reinterpret_cast<const ColumnEntry*>(read<int32_t>(entries))};
  }

 private:
  void invert_at_once(const OnDevice& on, const Rows& rows, const Tensor& indices,
                      const Tensor& row_of, int64_t num_columns) {
    starts = on.make<int64_t>({num_columns + 1}, "the starts of columns");
    const auto [columns, order] = sort_stably(on, indices);
    on.check(launch_invert_rows({indices.numel(), read<int32_t>(columns), read<int64_t>(order),
                                 read<int32_t>(row_of), rows.weights},
                                num_columns, write<int64_t>(starts), placed(), on.stream()),
             "inverting rows");
  }

  void invert_in_parts(const OnDevice& on, const Rows& rows, Tensor indices, const Tensor& row_of,
                       int64_t num_columns) {
    const int64_t num_entries = indices.numel();
    const Tensor left = on.make_zeros<int32_t>({num_columns}, "the counts of columns");
    on.check(launch_count_columns(rows.indices, num_entries, write<int32_t>(left), on.stream()),
             "counting columns");
    starts = starts_of(on, left);
    const Tensor shifts = on.make<int64_t>({num_columns}, "the places of columns");
    for (int64_t first = 0; first < num_entries; first += kSortedAtOnce) {
      const int64_t count = std::min(kSortedAtOnce, num_entries - first);
      const Tensor part = torch::stable::narrow(indices, 0, first, count);
      const auto [columns, order] = sort_stably(on, part);
      on.check(launch_invert_part({count, read<int32_t>(columns), read<int64_t>(order),
                                   read<int32_t>(row_of) + first, rows.weights + first},
                                  num_columns, read<int64_t>(starts), write<int32_t>(left),
                                  write<int64_t>(shifts), placed(), on.stream()),
               "inverting a part of the rows");
    }
  }

  ColumnEntry* placed() { return reinterpret_cast<ColumnEntry*>(write<int32_t>(entries)); }
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
                                                 const Tensor& weights, double max_distance,
                                                 std::optional<int64_t> num_samples) {
  const EncodedRows given =
      check_jaccard_graph(indptr, indices, weights, max_distance, num_samples);
  const Rows& rows = given.rows;
  const OnDevice on(indptr);
  const Inverted inverted(on, rows, indices, given.num_samples);
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
