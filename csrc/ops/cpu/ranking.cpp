// Ranking: candidates from tiles of a product (common/rows.h says what is kept), ordered by exact
// scores, and rows ranked by exact scores only.

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <tuple>
#include <vector>

#include "common/row_blocks.h"
#include "common/scores.h"
#include "ops/arguments.h"

namespace mabm {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();
constexpr double kLowestScore = -std::numeric_limits<double>::infinity();
// Samples that a block of rows is compared with at a time, so that their features stay in the
// cache.
constexpr int64_t kExactTile = 64;
struct Scored {
  double score;
  int64_t index;
};

// Greatest score first, ties by lower index: the order of every ranking.
bool ranks_before(const Scored& a, const Scored& b) {
  return a.score > b.score || (a.score == b.score && a.index < b.index);
}

// NaN scores, of features that are not finite, become -inf and rank last: sorting needs an order.
double or_lowest(double score) { return score >= kLowestScore ? score : kLowestScore; }

// Drops what a cut leaves no place for, and returns the new length of the list. Entries keep their
// order.
int32_t cut_list(float* scores, int32_t* indices, int32_t count, const Cut<float>& cut,
                 float* threshold, std::vector<float>& scratch) {
  if (count < cut.width) {
    return count;
  }
  if (cut.width == 0) {
    *threshold = -kLowest;
    return 0;
  }
  scratch.assign(scores, scores + count);
  const auto middle = scratch.begin() + cut.width - 1;
  std::nth_element(scratch.begin(), middle, scratch.end(), std::greater<float>());
  const float last = *middle;
  // Rounded down and up.
  const bool trusted = cut.gap < 0;
  *threshold = std::nextafter(trusted ? last : last - cut.gap, trusted ? -kLowest : kLowest);
  auto ties =
      cut.width - std::count_if(scratch.begin(), middle, [&](float score) { return score > last; });
  int32_t kept = 0;
  for (int32_t slot = 0; slot < count; ++slot) {
    const bool is_kept_tie = trusted && scores[slot] == last && ties-- > 0;
    const bool is_above = trusted ? scores[slot] > last : scores[slot] >= *threshold;
    if (is_above || is_kept_tie) {
      scores[kept] = scores[slot];
      indices[kept++] = indices[slot];
    }
  }
  return kept;
}

// The lists of the rows of a tile.
struct Collector {
  CandidateLists<float> lists;
  const std::vector<int64_t>& widths;
  const float* gaps;

  // Cuts a list of a row. If it is full, more are to come, and it may overflow.
  void cut(int64_t row, int64_t list, std::vector<float>& scratch) const {
    const int64_t at = row * lists.num_lists + list;
    int32_t& count = lists.counts[at];
    const bool is_full = count == lists.capacity;
    count =
        cut_list(lists.scores + at * lists.capacity, lists.indices + at * lists.capacity, count,
                 {static_cast<int32_t>(widths[list]), gaps[row]}, lists.thresholds + at, scratch);
    if (is_full && lists.overflows(count)) {
      count = -1;
      lists.thresholds[at] = -kLowest;
    }
  }

  void add(int64_t row, int64_t list, float score, int64_t index,
           std::vector<float>& scratch) const {
    const int64_t at = row * lists.num_lists + list;
    int32_t& count = lists.counts[at];
    if (count < 0 || !(score >= lists.thresholds[at])) {
      return;
    }
    lists.scores[at * lists.capacity + count] = score;
    lists.indices[at * lists.capacity + count] = static_cast<int32_t>(index);
    if (++count == lists.capacity) {
      cut(row, list, scratch);
    }
  }
};

// What the tests of the GPU's route run on the CPU: plain loops.
void collect_candidates_(const Tensor& products, const Tensor& biases, const Tensor& row_groups,
                         const Tensor& column_groups, const Tensor& list_of_group,
                         int64_t first_column, const Tensor& gaps,
                         const std::vector<int64_t>& widths, bool last,
                         const Tensor& candidate_scores, const Tensor& candidates,
                         const Tensor& counts, const Tensor& thresholds) {
  const CandidateLists<float> lists = check_collect_candidates(
      products, biases, row_groups, column_groups, list_of_group, first_column, gaps, widths,
      candidate_scores, candidates, counts, thresholds);
  const Collector collector{lists, widths, read<float>(gaps)};
  const int64_t num_columns = products.size(1);
  const float* product = read<float>(products);
  const float* bias = read<float>(biases);
  const int32_t* row_group = read<int32_t>(row_groups);
  const int32_t* column_group = read<int32_t>(column_groups);
  for_each_row_block(
      lists.num_rows, [] { return std::vector<float>(); },
      [&](const RowBlock& block, std::vector<float>& scratch) {
        for (int64_t row = block.first; row < block.last; ++row) {
          const int32_t* list_of =
              read<int32_t>(list_of_group) + row_group[row] * list_of_group.size(0);
          for (int64_t column = 0; column < num_columns; ++column) {
            collector.add(row, list_of[column_group[column]],
                          product[row * num_columns + column] + bias[column], first_column + column,
                          scratch);
          }
          for (int64_t list = 0; last && list < lists.num_lists; ++list) {
            if (lists.counts[row * lists.num_lists + list] > widths[list]) {
              collector.cut(row, list, scratch);
            }
          }
        }
      });
}

// Writes the first `width` of the scored samples, nearest first, and -1 if there are fewer.
void write_list(std::vector<Scored>& scored, int64_t width, int64_t* ranks, double* scores) {
  const int64_t length = std::min<int64_t>(width, static_cast<int64_t>(scored.size()));
  std::partial_sort(scored.begin(), scored.begin() + length, scored.end(), ranks_before);
  for (int64_t column = 0; column < width; ++column) {
    ranks[column] = column < length ? scored[column].index : -1;
    scores[column] = column < length ? scored[column].score : kLowestScore;
  }
}

std::tuple<Tensor, Tensor> rank_candidates(const Tensor& features, const Tensor& rows,
                                           const Tensor& candidates, const Tensor& counts,
                                           const std::vector<int64_t>& widths, bool euclidean) {
  check_rank_candidates(features, rows, candidates, counts, widths);
  const int64_t dim = features.size(1);
  const int64_t total = total_width(widths);
  const int64_t capacity = candidates.size(2);
  const auto num_lists = static_cast<int64_t>(widths.size());
  Tensor ranks = make_tensor<int64_t>({rows.numel(), total});
  Tensor scores = make_tensor<double>({rows.numel(), total});

  const float* x = read<float>(features);
  const int64_t* row_of = read<int64_t>(rows);
  const int32_t* indices = read<int32_t>(candidates);
  const int32_t* count_of = read<int32_t>(counts);
  int64_t* out_ranks = write<int64_t>(ranks);
  double* out_scores = write<double>(scores);

  for_each_row_block(
      rows.numel(), [] { return std::vector<Scored>(); },
      [&](const RowBlock& block, std::vector<Scored>& scored) {
        for (int64_t row = block.first; row < block.last; ++row) {
          const float* row_features = x + row_of[row] * dim;
          int64_t column = row * total;
          for (int64_t list = 0; list < num_lists; ++list) {
            const int64_t at = row * num_lists + list;
            scored.clear();
            for (int32_t slot = 0; slot < count_of[at]; ++slot) {
              const int64_t index = indices[at * capacity + slot];
              scored.push_back(
                  {or_lowest(exact_score(row_features, x + index * dim, dim, euclidean)), index});
            }
            write_list(scored, widths[list], out_ranks + column, out_scores + column);
            column += widths[list];
          }
        }
      });
  return {ranks, scores};
}

std::tuple<Tensor, Tensor> rank_exactly(const Tensor& features, const Tensor& rows,
                                        const Tensor& groups, const Tensor& list_of_group,
                                        const std::vector<int64_t>& widths, bool euclidean) {
  check_rank_exactly(features, rows, groups, list_of_group, widths);
  const int64_t num_samples = features.size(0);
  const int64_t dim = features.size(1);
  const int64_t num_groups = list_of_group.size(0);
  const int64_t total = total_width(widths);
  Tensor ranks = make_tensor<int64_t>({rows.numel(), total});
  Tensor scores = make_tensor<double>({rows.numel(), total});

  const float* x = read<float>(features);
  const int64_t* row_of = read<int64_t>(rows);
  const int32_t* group_of = read<int32_t>(groups);
  const int32_t* list_table = read<int32_t>(list_of_group);
  int64_t* out_ranks = write<int64_t>(ranks);
  double* out_scores = write<double>(scores);

  using Lists = std::vector<std::vector<Scored>>;
  const auto num_lists = static_cast<int64_t>(widths.size());
  for_each_row_block(
      rows.numel(), [&] { return Lists(kRowBlock * num_lists); },
      [&](const RowBlock& block, Lists& lists) {
        const int64_t first = block.first;
        const int64_t last = block.last;
        for (auto& list : lists) {
          list.clear();
        }
        for (int64_t tile = 0; tile < num_samples; tile += kExactTile) {
          if (block.loop.is_interrupted()) {
            return;
          }
          const int64_t tile_end = std::min(num_samples, tile + kExactTile);
          for (int64_t row = first; row < last; ++row) {
            const int64_t sample = row_of[row];
            const int32_t* list_of = list_table + group_of[sample] * num_groups;
            for (int64_t other = tile; other < tile_end; ++other) {
              const int64_t width = widths[list_of[group_of[other]]];
              auto& list = lists[(row - first) * num_lists + list_of[group_of[other]]];
              list.push_back(
                  {or_lowest(exact_score(x + sample * dim, x + other * dim, dim, euclidean)),
                   other});
              // A long list is cut to the entries that can still be in the result.
              if (static_cast<int64_t>(list.size()) >= 2 * width + kExactTile) {
                std::nth_element(list.begin(), list.begin() + width, list.end(), ranks_before);
                list.resize(width);
              }
            }
          }
        }
        for (int64_t row = first; row < last; ++row) {
          int64_t column = row * total;
          for (int64_t list = 0; list < num_lists; ++list) {
            write_list(lists[(row - first) * num_lists + list], widths[list], out_ranks + column,
                       out_scores + column);
            column += widths[list];
          }
        }
      });
  return {ranks, scores};
}

Tensor measure_rows(const Tensor& features, const Tensor& center) {
  check_same_device(features, {&center});
  check_tensor<float>(features, "features", 2);
  check_tensor<float>(center, "center", 1);
  check_size(center, "center", 0, features.size(1));
  const int64_t dim = features.size(1);
  Tensor measures = make_tensor<double>({features.size(0), 3});
  for_each_row(features.size(0), [&](int64_t row) {
    const RowMeasures found =
        measure_row(read<float>(features) + row * dim, read<float>(center), dim);
    double* out = write<double>(measures) + row * 3;
    out[0] = found.length;
    out[1] = found.centered_length;
    out[2] = found.center_product;
  });
  return measures;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mabm, CPU, m) {
  m.impl("collect_candidates_", TORCH_BOX(&collect_candidates_));
  m.impl("rank_candidates", TORCH_BOX(&rank_candidates));
  m.impl("measure_rows", TORCH_BOX(&measure_rows));
  m.impl("rank_exactly", TORCH_BOX(&rank_exactly));
}

}  // namespace mabm
