// The launchers of csrc/kernels on the emulated grid, for Python: NumPy in, NumPy out.

#include <pybind11/stl.h>

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "bench_memory.h"
#include "kernels/dbscan.cuh"
#include "kernels/encoding.cuh"
#include "kernels/jaccard.cuh"
#include "kernels/neighbors.cuh"
#include "kernels/prefix_sum.cuh"
#include "kernels/preparation.cuh"
#include "kernels/ranking.cuh"

namespace mabm {
namespace {

// ---- Prefix sums --------------------------------------------------------------------------------

Array<int64_t> exclusive_sum(const Array<int32_t>& counts) {
  const Memory<int32_t> in(counts);
  Memory<int64_t> starts(counts.size() + 1);
  Memory<int64_t> scratch(exclusive_sum_scratch(counts.size()));
  check(launch_exclusive_sum(in.read(), in.size(), starts.get(), scratch.get(), nullptr));
  return starts.array();
}

// ---- Preparation --------------------------------------------------------------------------------

Array<float> measure_columns(const Array<float>& features) {
  const Memory<float> x(features);
  const int64_t dim = features.shape(1);
  const int64_t size = ColumnParts(features.shape(0)).count * dim;
  Memory<double> sums(size);
  Memory<float> least(size);
  Memory<float> greatest(size);
  Memory<float> measures(3 * dim);
  check(launch_measure_columns(x.read(), features.shape(0), dim,
                               {sums.get(), least.get(), greatest.get()}, measures.get(), nullptr));
  return measures.array({3, dim});
}

Array<double> measure_rows(const Array<float>& features, const Array<float>& center) {
  const Memory<float> x(features);
  const Memory<float> origin(center);
  Memory<double> measures(3 * features.shape(0));
  check(launch_measure_rows(x.read(), features.shape(0), features.shape(1), origin.read(),
                            measures.get(), nullptr));
  return measures.array({features.shape(0), 3});
}

// Halves as their bits.
auto halve_rows(const Array<float>& features, const Array<float>& center, float scale) {
  const Memory<float> x(features);
  const Memory<float> origin(center);
  const Memory<float> factor(1, scale);
  const int64_t height = padded_size(features.shape(0));
  const int64_t width = padded_size(features.shape(1));
  Memory<uint16_t> halves(height * width);
  Memory<double> lost(features.shape(0));
  static_assert(sizeof(Half) == sizeof(uint16_t));
  check(launch_halve_rows(x.read(), features.shape(0), features.shape(1), origin.read(),
                          factor.read(), reinterpret_cast<Half*>(halves.get()), lost.get(),
                          nullptr));
  return std::make_tuple(halves.array({height, width}), lost.array());
}

auto round_rows(const Array<float>& rows, const std::optional<Array<float>>& center,
                int64_t depth) {
  const Memory<float> x(rows);
  const std::optional<Memory<float>> origin =
      center ? std::optional<Memory<float>>(*center) : std::nullopt;
  Memory<int8_t> integers(rows.shape(0) * depth);
  Memory<float> measures(3 * rows.shape(0));
  check(launch_round_rows(x.read(), rows.shape(0), rows.shape(1), origin ? origin->read() : nullptr,
                          depth, integers.get(), measures.get(), nullptr));
  return std::make_tuple(integers.array({rows.shape(0), depth}),
                         measures.array({3, rows.shape(0)}));
}

// ---- Ranking ------------------------------------------------------------------------------------

Array<double> score_tile(const Array<float>& features, const Array<int64_t>& rows,
                         int64_t first_column, int64_t num_columns, bool euclidean) {
  const Memory<float> x(features);
  const Memory<int64_t> row_numbers(rows);
  Memory<double> scores(rows.size() * num_columns);
  check(launch_score_tile(x.read(), features.shape(1), row_numbers.read(), rows.size(),
                          first_column, num_columns, euclidean, scores.get(), nullptr));
  return scores.array({rows.size(), num_columns});
}

// Features as the kernels take them, from x: x * 2^-896, x, and x * 2^896.
auto scaled_features(const Array<float>& features) {
  const Memory<float> x(features);
  Memory<double> down(x.size());
  Memory<double> same(x.size());
  Memory<double> up(x.size());
  for (int64_t at = 0; at < x.size(); ++at) {
    down.get()[at] = lowered(x.read()[at]);
    same.get()[at] = raised<0>(x.read()[at]);
    up.get()[at] = raised<896>(x.read()[at]);
  }
  return std::make_tuple(down.array(), same.array(), up.array());
}

// Candidate lists as they pass from launch to launch: (B, L, C) scores and indices, (B, L) counts
// and thresholds.
template <class Score>
struct ListsMemory {
  int64_t num_rows, num_lists, capacity;
  Memory<Score> scores;
  Memory<int32_t> indices;
  Memory<int32_t> counts;
  Memory<Score> thresholds;

  ListsMemory(const Array<Score>& scores, const Array<int32_t>& indices,
              const Array<int32_t>& counts, const Array<Score>& thresholds)
      : num_rows(scores.shape(0)),
        num_lists(scores.shape(1)),
        capacity(scores.shape(2)),
        scores(scores),
        indices(indices),
        counts(counts),
        thresholds(thresholds) {}

  CandidateLists<Score> view() {
    return {num_rows,      num_lists,    capacity,        scores.get(),
            indices.get(), counts.get(), thresholds.get()};
  }
  auto arrays() const {
    return std::make_tuple(scores.array({num_rows, num_lists, capacity}),
                           indices.array({num_rows, num_lists, capacity}),
                           counts.array({num_rows, num_lists}),
                           thresholds.array({num_rows, num_lists}));
  }
};

// The arguments are those of the op collect_candidates_.
template <class Product>
auto collect_tile(const Array<Product>& products, const Array<float>& biases,
                  const Array<int32_t>& row_groups, const Array<int32_t>& column_groups,
                  const Array<int32_t>& list_of_group, int64_t first_column,
                  const Array<float>& gaps, const Array<int32_t>& widths, bool last,
                  bool transposed, const Array<float>& row_scales,
                  const Array<float>& column_scales, const Array<float>& scores,
                  const Array<int32_t>& indices, const Array<int32_t>& counts,
                  const Array<float>& thresholds) {
  const Memory<Product> product(products);
  const Memory<float> bias(biases);
  const Memory<int32_t> row_group(row_groups);
  const Memory<int32_t> column_group(column_groups);
  const Memory<int32_t> list_of(list_of_group);
  const Memory<float> gap(gaps);
  const Memory<int32_t> width(widths);
  const Memory<float> row_scale(row_scales);
  const Memory<float> column_scale(column_scales);
  ListsMemory<float> lists(scores, indices, counts, thresholds);
  const ListTable table{row_group.read(), nullptr, column_group.read(), list_of.read(),
                        static_cast<int>(list_of_group.shape(1))};
  const ProductTile<Product> tile{gaps.size(),         biases.size(), product.read(),
                                  products.shape(1),   transposed,    row_scale.read(),
                                  column_scale.read(), bias.read(),   gap.read()};
  check(launch_collect_products(tile, table, first_column, width.read(), last, lists.view(),
                                nullptr));
  return lists.arrays();
}

// The same from exact scores, of `rows` among all samples, whose groups are `groups`.
auto collect_exact(const Array<double>& tile, const Array<int64_t>& rows,
                   const Array<int32_t>& groups, const Array<int32_t>& column_groups,
                   const Array<int32_t>& list_of_group, int64_t first_column,
                   const Array<int32_t>& widths, const Array<double>& scores,
                   const Array<int32_t>& indices, const Array<int32_t>& counts,
                   const Array<double>& thresholds) {
  const Memory<double> tile_scores(tile);
  const Memory<int64_t> row_numbers(rows);
  const Memory<int32_t> group(groups);
  const Memory<int32_t> column_group(column_groups);
  const Memory<int32_t> list_of(list_of_group);
  const Memory<int32_t> width(widths);
  ListsMemory<double> lists(scores, indices, counts, thresholds);
  const ListTable table{group.read(), row_numbers.read(), column_group.read(), list_of.read(),
                        static_cast<int>(list_of_group.shape(1))};
  check(launch_collect_candidates(ExactTile{rows.size(), tile.shape(1), tile_scores.read()}, table,
                                  first_column, width.read(), false, lists.view(), nullptr));
  return lists.arrays();
}

auto clear_lists(int64_t num_rows, int64_t num_lists, int64_t capacity) {
  const std::vector<int64_t> shape{num_rows, num_lists};
  const std::vector<int64_t> places{num_rows, num_lists, capacity};
  const int64_t count = num_rows * num_lists;
  ListsMemory<double> lists(Memory<double>(count * capacity).array(places),
                            Memory<int32_t>(count * capacity).array(places),
                            Memory<int32_t>(count).array(shape),
                            Memory<double>(count).array(shape));
  check(launch_clear_lists(lists.view(), nullptr));
  return lists.arrays();
}

Array<int32_t> write_numbers(const Array<int64_t>& numbers) {
  Memory<int32_t> out(numbers.size());
  check(launch_write_numbers(numbers.data(), numbers.size(), out.get(), nullptr));
  return out.array();
}

// Ranks and scores, and what they are written through.
struct RankedMemory {
  int64_t num_rows;
  Memory<int32_t> widths;
  int64_t total;
  Memory<int64_t> ranks;
  Memory<double> scores;

  RankedMemory(int64_t num_rows, const Array<int32_t>& widths)
      : num_rows(num_rows),
        widths(widths),
        total(std::accumulate(widths.data(), widths.data() + widths.size(), int64_t{0})),
        ranks(num_rows * total),
        scores(num_rows * total) {}

  RankedLists view() {
    return {widths.read(), total, from_row(ranks.get(), total), from_row(scores.get(), total)};
  }
};

auto write_lists(const Array<double>& scores, const Array<int32_t>& indices,
                 const Array<int32_t>& counts, const Array<double>& thresholds,
                 const Array<int32_t>& widths) {
  ListsMemory<double> lists(scores, indices, counts, thresholds);
  RankedMemory ranked(lists.num_rows, widths);
  check(launch_write_lists(lists.view(), ranked.view(), nullptr));
  const std::vector<int64_t> shape{lists.num_rows, ranked.total};
  return std::make_tuple(ranked.ranks.array(shape), ranked.scores.array(shape));
}

auto rank_candidates(const Array<float>& features, const Array<int64_t>& rows,
                     const Array<int32_t>& indices, const Array<int32_t>& counts,
                     const Array<int32_t>& widths, bool euclidean, const Array<float>& bounds,
                     const Array<double>& offsets, double area) {
  const Memory<float> x(features);
  const Memory<float> bound(bounds);
  const Memory<double> offset(offsets);
  const Memory<double> areas(1, area);
  const Memory<int64_t> row_numbers(rows);
  const Memory<int32_t> index(indices);
  const Memory<int32_t> count(counts);
  const int64_t num_lists = indices.shape(1);
  const int64_t capacity = indices.shape(2);
  const int64_t places = num_lists * capacity;
  static_assert(kMostRowWarps == kRowsOfBlock);
  const CompleteLists lists{first_row + rows.size(), num_lists, capacity,
                            from_row(index.read(), places), from_row(count.read(), num_lists)};
  RankedMemory ranked(rows.size(), widths);
  Memory<double> scored(rows.size() * lists.capacity);
  Memory<int32_t> chosen(rows.size() * lists.capacity);
  const CandidateBounds given{bounds.size() == 0 ? nullptr : from_row(bound.read(), places),
                              from_row(offset.read()), areas.read()};
  check(launch_rank_candidates(x.read(), features.shape(1), from_row(row_numbers.read()), lists,
                               given, euclidean, ranked.view(),
                               {from_row(scored.get(), capacity), from_row(chosen.get(), capacity)},
                               nullptr));
  const std::vector<int64_t> shape{rows.size(), ranked.total};
  return std::make_tuple(ranked.ranks.array(shape), ranked.scores.array(shape));
}

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
  check(launch_weigh_products(sets.view(), product.read(), parts.get(), weights.get(), counts.get(),
                              nullptr));
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

// ---- The module ---------------------------------------------------------------------------------

// Arrays must be of the very type and contiguous: nothing is converted.
template <class Result, class... Args>
void define(py::module_& module, const char* name, Result (*function)(Args...)) {
  module.def(name, function, ((void)sizeof(Args), py::arg().noconvert())...);
}

PYBIND11_MODULE(bench, module) {
  module.def("set_seed", [](uint64_t seed) {
    emulated::set_seed(seed);
    first_number = seed == 0 ? 0 : kFarEntry;
  });
  module.def("set_first_row", &set_first_row);
  module.def("set_max_shared", &emulated::set_max_shared);
  module.attr("NEAR_SLOTS") = kNearSlots;
  module.attr("SCAN_PER_BLOCK") = kScanPerBlock;
  module.attr("SCAN_THREADS") = kScanThreads;
  module.attr("TABLE_MEMBERS") = kTableMembers;
  module.attr("TABLE_SLOTS") = kTableSlots;
  module.attr("WINDOW") = kWindow;
  define(module, "exclusive_sum", &exclusive_sum);
  define(module, "measure_columns", &measure_columns);
  define(module, "measure_rows", &measure_rows);
  define(module, "halve_rows", &halve_rows);
  define(module, "round_rows", &round_rows);
  define(module, "score_tile", &score_tile);
  define(module, "scaled_features", &scaled_features);
  define(module, "collect_products", &collect_tile<float>);
  define(module, "collect_integers", &collect_tile<int32_t>);
  define(module, "collect_exact", &collect_exact);
  define(module, "clear_lists", &clear_lists);
  define(module, "write_lists", &write_lists);
  define(module, "write_numbers", &write_numbers);
  define(module, "rank_candidates", &rank_candidates);
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

}  // namespace
}  // namespace mabm
