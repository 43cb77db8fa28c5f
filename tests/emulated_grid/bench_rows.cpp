// The launchers after the ranking, which work on rows of entries: sets, encodings, graphs.

#include <pybind11/stl.h>

#include <algorithm>
#include <numeric>
#include <tuple>
#include <utility>
#include <vector>

#include "bench_memory.h"
#include "bench_module.h"
#include "kernels/dbscan.cuh"
#include "kernels/encoding.cuh"
#include "kernels/jaccard.cuh"
#include "kernels/neighbors.cuh"

namespace mabm {
namespace {

// ---- Rows that blocks gather --------------------------------------------------------------------

// The most shared memory that the grid gives.
size_t most_shared() {
  size_t bytes = 0;
  check(find_most_shared(&bytes));
  return bytes;
}

Memory<int64_t> starts_of(const Memory<int32_t>& counts) {
  Memory<int64_t> starts(counts.size() + 1);
  std::partial_sum(counts.read(), counts.read() + counts.size(), starts.get() + 1,
                   [](int64_t sum, int64_t count) { return sum + count; });
  starts.get()[0] = 0;
  return numbered(std::move(starts));
}

// The number of entries of rows with these starts.
int64_t num_entries(const Memory<int64_t>& starts) {
  return starts.read()[starts.size() - 1] - first_number;
}

Array<uint8_t> reciprocal_mask(const Array<int64_t>& ranks) {
  const Memory<int64_t> in(ranks);
  Memory<bool> mask(ranks.size());
  const int64_t width = ranks.shape(1);
  static_assert(kMaskThreads / kWarpSize == kRowsOfBlock);
  check(launch_reciprocal_mask(from_row(in.read(), width), {first_row + ranks.shape(0), nullptr},
                               width, from_row(mask.get(), width), nullptr));
  return mask.array({ranks.shape(0), ranks.shape(1)});
}

auto expand_neighbors(const Array<int64_t>& ranks, const Array<bool>& mask,
                      const Array<int64_t>& half_ranks, const Array<bool>& half_mask) {
  const Memory<int64_t> rank(ranks);
  const Memory<bool> kept(mask);
  const Memory<int64_t> half_rank(half_ranks);
  const Memory<bool> half_kept(half_mask);
  const int64_t num_rows = ranks.shape(0);
  const ListsToExpand given{num_rows,
                            half_ranks.shape(0),
                            {ranks.shape(1), rank.read(), kept.read()},
                            {half_ranks.shape(1), half_rank.read(), half_kept.read()}};
  Memory<bool> accepted(ranks.size());
  check(launch_accept_halves(given, most_shared(), accepted.get(), nullptr));
  Memory<int32_t> counts(num_rows);
  const auto pass = [&](const int64_t* starts, int32_t* indices) {
    check(launch_expand_neighbors(given, most_shared(), accepted.read(), counts.get(), starts,
                                  indices, nullptr));
  };
  pass(nullptr, nullptr);
  const Memory<int64_t> starts = starts_of(counts);
  Memory<int32_t> indices(num_entries(starts));
  pass(starts.read(), numbered(indices.get()));
  return std::make_tuple(from_zero(starts), indices.array());
}

// Averages, and which rows are long.
auto average_encodings(const Array<int64_t>& indptr, const Array<int32_t>& indices,
                       const Array<int32_t>& weights, const Array<int64_t>& neighbors,
                       const Array<double>& neighbor_weights) {
  const RowsMemory encoding(indptr, indices, weights);
  const Memory<int64_t> neighbor(neighbors);
  const Memory<double> neighbor_weight(neighbor_weights);
  const AveragedRows averaged{neighbors.shape(0), neighbors.shape(1), neighbor.read(),
                              neighbor_weight.read()};
  const int64_t num_rows = encoding.count();
  Memory<int32_t> counts(num_rows);
  Memory<bool> is_long(num_rows, false);
  Memory<int32_t> long_rows(num_rows);
  Memory<unsigned long long> count_of_long(1, 0);
  const RowCounts rows{counts.get(), is_long.get(), long_rows.get(), count_of_long.get()};
  const auto pass = [&](const int64_t* starts, int32_t* out_indices, int32_t* out_weights) {
    check(launch_average_encodings(encoding.view(), averaged, rows, starts, out_indices,
                                   out_weights, nullptr));
    const auto num_long = static_cast<int64_t>(*count_of_long.read());
    check(launch_average_long_rows(encoding.view(), averaged, rows, num_long, most_shared(), starts,
                                   out_indices, out_weights, nullptr));
  };
  pass(nullptr, nullptr, nullptr);
  const Memory<int64_t> starts = starts_of(counts);
  Memory<int32_t> out_indices(num_entries(starts));
  Memory<int32_t> out_weights(num_entries(starts));
  pass(starts.read(), numbered(out_indices.get()), numbered(out_weights.get()));
  Array<int32_t> list(static_cast<py::ssize_t>(*count_of_long.read()));
  std::copy_n(long_rows.read(), list.size(), list.mutable_data());
  return std::make_tuple(from_zero(starts), out_indices.array(), out_weights.array(), list);
}

// ---- Encoding -----------------------------------------------------------------------------------

// `ranks` and `known` are (N, K): the products that a ranking has.
auto weigh_neighbors(const Array<float>& features, const Array<int64_t>& indptr,
                     const Array<int32_t>& indices, const Array<int64_t>& ranks,
                     const Array<double>& known) {
  const Memory<float> x(features);
  const Memory<int64_t> rank(ranks);
  const Memory<double> product(known);
  const RowsMemory neighbors(indptr, indices);
  Memory<double> products(indices.size());
  Memory<int32_t> weights(indices.size());
  Memory<int32_t> counts(neighbors.count());
  check(launch_weigh_neighbors(
      x.read(), features.shape(1), neighbors.view(), {ranks.shape(1), rank.read(), product.read()},
      numbered(products.get()), numbered(weights.get()), counts.get(), nullptr));
  return std::make_tuple(weights.array(), counts.array());
}

auto weigh_products(const Array<int64_t>& indptr, const Array<int32_t>& indices,
                    const Array<double>& products) {
  const RowsMemory sets(indptr, indices);
  const Memory<double> product(products);
  Memory<double> parts(indices.size());
  Memory<int32_t> weights(indices.size());
  Memory<int32_t> counts(sets.count());
  check(launch_weigh_products(sets.view(), numbered(product.read()), numbered(parts.get()),
                              numbered(weights.get()), counts.get(), nullptr));
  return std::make_tuple(weights.array(), counts.array());
}

auto keep_positive(const Array<int64_t>& indptr, const Array<int32_t>& indices,
                   const Array<int32_t>& weights, int64_t first_row, const Array<int64_t>& starts) {
  const RowsMemory rows(indptr, indices, weights);
  const Memory<int64_t> start = numbered(Memory<int64_t>(starts));
  Memory<int32_t> out_indices(num_entries(start));
  Memory<int32_t> out_weights(num_entries(start));
  check(launch_keep_positive(rows.view(), first_row, start.read(), numbered(out_indices.get()),
                             numbered(out_weights.get()), nullptr));
  return std::make_tuple(out_indices.array(), out_weights.array());
}

// ---- The distance -------------------------------------------------------------------------------

Array<int32_t> rows_of_entries(const Array<int64_t>& indptr) {
  const Memory<int64_t> in = numbered(Memory<int64_t>(indptr));
  Memory<int32_t> row_of(num_entries(in));
  check(launch_rows_of_entries(in.read(), in.size() - 1, numbered(row_of.get()), nullptr));
  return row_of.array();
}

static_assert(sizeof(ColumnEntry) == 2 * sizeof(int32_t));

// Entries in the order of a stable sort.
struct SortedMemory {
  Memory<int32_t> columns;
  Memory<int64_t> order;
  Memory<int32_t> row_of;
  Memory<int32_t> weights;

  SortedEntries view() const {
    return {weights.size(), columns.read(), order.read(), row_of.read(), weights.read()};
  }
};

// Starts of columns, and their entries as rows and weights, (nnz, 2).
auto invert_rows(const Array<int32_t>& sorted_columns, const Array<int64_t>& order,
                 const Array<int32_t>& row_of, const Array<int32_t>& weights, int64_t num_columns) {
  const SortedMemory sorted{Memory<int32_t>(sorted_columns), Memory<int64_t>(order),
                            Memory<int32_t>(row_of), Memory<int32_t>(weights)};
  Memory<int64_t> starts(num_columns + 1);
  Memory<int32_t> entries(2 * weights.size());
  check(launch_invert_rows(sorted.view(), num_columns, starts.get(),
                           reinterpret_cast<ColumnEntry*>(entries.get()), nullptr));
  return std::make_tuple(starts.array(), entries.array({weights.size(), 2}));
}

Array<int32_t> count_columns(const Array<int32_t>& columns, int64_t num_columns) {
  const Memory<int32_t> in(columns);
  Memory<int32_t> counts(num_columns, 0);
  check(launch_count_columns(in.read(), in.size(), counts.get(), nullptr));
  return counts.array();
}

// How many entries of each column are left after a part, and the entries so far.
auto invert_part(const Array<int32_t>& sorted_columns, const Array<int64_t>& order,
                 const Array<int32_t>& row_of, const Array<int32_t>& weights,
                 const Array<int64_t>& starts, const Array<int32_t>& left,
                 const Array<int32_t>& entries) {
  const SortedMemory part{Memory<int32_t>(sorted_columns), Memory<int64_t>(order),
                          Memory<int32_t>(row_of), Memory<int32_t>(weights)};
  const Memory<int64_t> start = numbered(Memory<int64_t>(starts));
  Memory<int32_t> num_left(left);
  Memory<int64_t> shifts(left.size());
  Memory<int32_t> placed(entries);
  check(launch_invert_part(part.view(), left.size(), start.read(), num_left.get(), shifts.get(),
                           numbered(reinterpret_cast<ColumnEntry*>(placed.get())), nullptr));
  return std::make_tuple(num_left.array(), placed.array({entries.shape(0), 2}));
}

auto row_sums(const Array<int64_t>& indptr, const Array<int32_t>& indices,
              const Array<int32_t>& weights) {
  const RowsMemory rows(indptr, indices, weights);
  Memory<int64_t> sums(rows.count());
  Memory<long long> least(1);
  check(launch_row_sums(rows.view(), sums.get(), least.get(), nullptr));
  return std::make_tuple(sums.array(), *least.read());
}

struct InvertedMemory {
  Memory<int64_t> starts;
  Memory<int32_t> entries;

  InvertedMemory(const Array<int64_t>& starts, const Array<int32_t>& entries)
      : starts(numbered(Memory<int64_t>(starts))), entries(entries) {}
  InvertedRows view() const {
    return {starts.read(), numbered(reinterpret_cast<const ColumnEntry*>(entries.read()))};
  }
};

Array<float> jaccard_distance(const Array<int64_t>& indptr, const Array<int32_t>& indices,
                              const Array<int32_t>& weights, const Array<int64_t>& sums,
                              const Array<int64_t>& column_starts, const Array<int32_t>& entries,
                              const Array<int64_t>& column_sums) {
  const RowsMemory rows(indptr, indices, weights);
  const Memory<int64_t> sum(sums);
  const InvertedMemory inverted(column_starts, entries);
  const Memory<int64_t> column_sum(column_sums);
  Memory<float> distances(rows.count() * column_sums.size());
  check(launch_jaccard_distance(rows.view(), sum.read(), inverted.view(), column_sums.size(),
                                column_sum.read(), distances.get(), nullptr));
  return distances.array({rows.count(), column_sums.size()});
}

// One pass for near rows among others. A window of 0 leaves its choice to the launcher; a small one
// shows with few rows what happens at its edges.
template <bool kFill>
void launch_pass(const RowsMemory& rows, const Array<int64_t>& sums, const InvertedMemory& inverted,
                 const Array<int64_t>& other_sums, long long least_sum, float max_distance,
                 int window, const NearRows& near) {
  const Memory<int64_t> sum(sums);
  const Memory<int64_t> other_sum(other_sums);
  const Memory<long long> least(1, least_sum);
  check(window == 0 ? launch_near_rows(rows.view(), sum.read(), inverted.view(), other_sum.size(),
                                       other_sum.read(), least.read(), max_distance, near, nullptr)
                    : launch(near_rows_kernel<kFill>, rows.count(), kOverlapThreads,
                             sizeof(int32_t) * static_cast<size_t>(window), nullptr, rows.view(),
                             sum.read(), inverted.view(), other_sum.size(), other_sum.read(),
                             least.read(), max_distance, window, near));
}

// The first pass: counts, and indices and distances of the first kNearSlots of each row.
auto near_rows(const Array<int64_t>& indptr, const Array<int32_t>& indices,
               const Array<int32_t>& weights, const Array<int64_t>& sums,
               const Array<int64_t>& column_starts, const Array<int32_t>& entries,
               const Array<int64_t>& other_sums, long long least_sum, float max_distance,
               int window) {
  const RowsMemory rows(indptr, indices, weights);
  const InvertedMemory inverted(column_starts, entries);
  Memory<int32_t> counts(rows.count());
  Memory<int32_t> near_indices(rows.count() * kNearSlots);
  Memory<float> distances(rows.count() * kNearSlots);
  launch_pass<false>(rows, sums, inverted, other_sums, least_sum, max_distance, window,
                     {counts.get(), nullptr, near_indices.get(), distances.get()});
  const std::vector<int64_t> shape{rows.count(), kNearSlots};
  return std::make_tuple(counts.array(), near_indices.array(shape), distances.array(shape));
}

// The rows that fit their places, moved; those of the others stay garbage.
auto move_near_rows(const Array<int32_t>& counts, const Array<int64_t>& starts,
                    const Array<int32_t>& slot_indices, const Array<float>& slot_distances) {
  const Memory<int32_t> count(counts);
  const Memory<int64_t> start = numbered(Memory<int64_t>(starts));
  const Memory<int32_t> from_indices(slot_indices);
  const Memory<float> from_distances(slot_distances);
  Memory<int32_t> indices(num_entries(start));
  Memory<float> distances(num_entries(start));
  static_assert(kOverlapWarps == kRowsOfBlock);
  check(launch_move_near_rows(first_row + count.size(), from_row(count.read()),
                              from_row(start.read()), from_row(from_indices.read(), kNearSlots),
                              from_row(from_distances.read(), kNearSlots), numbered(indices.get()),
                              numbered(distances.get()), nullptr));
  return std::make_tuple(indices.array(), distances.array());
}

// The second pass over what move_near_rows returned.
auto many_near_rows(const Array<int64_t>& indptr, const Array<int32_t>& indices,
                    const Array<int32_t>& weights, const Array<int64_t>& sums,
                    const Array<int64_t>& column_starts, const Array<int32_t>& entries,
                    const Array<int64_t>& other_sums, long long least_sum, float max_distance,
                    int window, const Array<int32_t>& counts, const Array<int64_t>& starts,
                    const Array<int32_t>& moved_indices, const Array<float>& moved_distances) {
  const RowsMemory rows(indptr, indices, weights);
  const InvertedMemory inverted(column_starts, entries);
  Memory<int32_t> count(counts);
  const Memory<int64_t> start = numbered(Memory<int64_t>(starts));
  Memory<int32_t> near_indices(moved_indices);
  Memory<float> distances(moved_distances);
  launch_pass<true>(
      rows, sums, inverted, other_sums, least_sum, max_distance, window,
      {count.get(), start.read(), numbered(near_indices.get()), numbered(distances.get())});
  return std::make_tuple(near_indices.array(), distances.array());
}

// ---- DBSCAN -------------------------------------------------------------------------------------

// Roots, and which samples are one.
auto join_cores(const Array<int64_t>& indptr, const Array<int32_t>& indices,
                const Array<float>& distances, float eps, int64_t min_samples) {
  const RowsMemory graph(indptr, indices, distances);
  Memory<int32_t> parents(graph.count());
  Memory<int32_t> is_root(graph.count());
  check(launch_join_cores(graph.view(), eps, min_samples, parents.get(), is_root.get(), nullptr));
  return std::make_tuple(parents.array(), is_root.array());
}

Array<int64_t> label_samples(const Array<int64_t>& indptr, const Array<int32_t>& indices,
                             const Array<float>& distances, float eps,
                             const Array<int32_t>& parents, const Array<int64_t>& cluster_of_root) {
  const RowsMemory graph(indptr, indices, distances);
  Memory<int32_t> parent(parents);
  const Memory<int64_t> cluster_of(cluster_of_root);
  Memory<int64_t> labels(graph.count());
  check(launch_label_samples(graph.view(), eps, parent.get(), cluster_of.read(), labels.get(),
                             nullptr));
  return labels.array();
}

Array<int32_t> join_samples(const Array<int32_t>& parents, const Array<int32_t>& first,
                            const Array<int32_t>& second) {
  Memory<int32_t> parent(parents);
  const Memory<int32_t> one(first);
  const Memory<int32_t> other(second);
  check(launch_join_samples(one.read(), other.read(), one.size(), parent.get(), parent.size(),
                            nullptr));
  return parent.array();
}

}  // namespace

// ---- The module ---------------------------------------------------------------------------------

void define_rows(py::module_& module) {
  module.attr("NEAR_SLOTS") = kNearSlots;
  module.attr("TABLE_MEMBERS") = kTableMembers;
  module.attr("TABLE_SLOTS") = kTableSlots;
  module.attr("WINDOW") = kWindow;
  define(module, "reciprocal_mask", &reciprocal_mask);
  define(module, "expand_neighbors", &expand_neighbors);
  define(module, "average_encodings", &average_encodings);
  define(module, "weigh_neighbors", &weigh_neighbors);
  define(module, "weigh_products", &weigh_products);
  define(module, "keep_positive", &keep_positive);
  define(module, "rows_of_entries", &rows_of_entries);
  define(module, "invert_rows", &invert_rows);
  define(module, "count_columns", &count_columns);
  define(module, "invert_part", &invert_part);
  define(module, "row_sums", &row_sums);
  define(module, "jaccard_distance", &jaccard_distance);
  define(module, "near_rows", &near_rows);
  define(module, "move_near_rows", &move_near_rows);
  define(module, "many_near_rows", &many_near_rows);
  define(module, "join_cores", &join_cores);
  define(module, "label_samples", &label_samples);
  define(module, "join_samples", &join_samples);
}

}  // namespace mabm
