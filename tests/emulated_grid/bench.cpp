// The launchers of csrc/kernels on the emulated grid, for Python: NumPy in, NumPy out.
//
// Those up to the ranking are here; those after it are in bench_rows.cpp.

#include <pybind11/stl.h>

#include <numeric>
#include <optional>
#include <tuple>
#include <vector>

#include "bench_memory.h"
#include "bench_module.h"
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

// ---- The module ---------------------------------------------------------------------------------

PYBIND11_MODULE(bench, module) {
  module.def("set_seed", [](uint64_t seed) {
    emulated::set_seed(seed);
    first_number = seed == 0 ? 0 : kFarEntry;
  });
  module.def("set_first_row", &set_first_row);
  module.def("set_max_shared", &emulated::set_max_shared);
  module.attr("SCAN_PER_BLOCK") = kScanPerBlock;
  module.attr("SCAN_THREADS") = kScanThreads;
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
  define_rows(module);
}

}  // namespace
}  // namespace mabm
