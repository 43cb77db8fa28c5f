// Ranking: candidates from a fast product, proven complete and rescored exactly.
//
// A float32 matrix product (PyTorch's) gives approximate scores, each within the row's error bound
// B of the exact one. Per list, the C best approximate scores are kept; let t be the k-th best of
// them and d the best that was dropped. Every sample whose exact score belongs to the first k has
// an approximate score of at least t - 2B; if d < t - 2B, all of them were kept, and rescoring
// those exactly gives the exact list. Otherwise the row is not certified and is ranked by exact
// scores.

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
// Samples that a block of rows is compared with at a time, so that their features stay in the
// cache.
constexpr int64_t kExactTile = 64;
// A run of columns of one group at least this long is scanned with one threshold.
constexpr int64_t kUniformRun = 64;

struct Candidate {
  float score;
  int32_t index;
};

struct Scored {
  double score;
  int64_t index;
};

// Greatest score first, ties by lower index: the order of every ranking.
bool ranks_before(const Scored& a, const Scored& b) {
  return a.score > b.score || (a.score == b.score && a.index < b.index);
}

// NaN scores, of features that are not finite, become -inf and rank last: sorting needs an order.
template <class T>
T or_lowest(T score) {
  constexpr T lowest = -std::numeric_limits<T>::infinity();
  return score >= lowest ? score : lowest;
}

// Columns [begin, end) of one group, or of several (group -1).
struct Run {
  int64_t begin;
  int64_t end;
  int32_t group;
};

std::vector<Run> runs_of(const int32_t* groups, int64_t count) {
  std::vector<Run> runs;
  for (int64_t begin = 0; begin < count;) {
    int64_t end = begin + 1;
    while (end < count && groups[end] == groups[begin]) {
      ++end;
    }
    const bool uniform = end - begin >= kUniformRun;
    if (!uniform && !runs.empty() && runs.back().group < 0) {
      runs.back().end = end;
    } else {
      runs.push_back({begin, end, uniform ? groups[begin] : -1});
    }
    begin = end;
  }
  return runs;
}

// Adds a sample to a list, numbered over all rows; true if that filled the list, which is then cut
// to its better half.
bool add_candidate(const CandidateLists<float>& lists, int64_t list, float score, int64_t index,
                   std::vector<Candidate>& scratch) {
  const int64_t capacity = lists.capacity;
  float* scores = lists.scores + list * capacity;
  int32_t* indices = lists.indices + list * capacity;
  int32_t& count = lists.counts[list];
  scores[count] = score;
  indices[count] = static_cast<int32_t>(index);
  if (++count < capacity) {
    return false;
  }
  scratch.resize(capacity);
  for (int64_t slot = 0; slot < capacity; ++slot) {
    scratch[slot] = {or_lowest(scores[slot]), indices[slot]};
  }
  const auto middle = scratch.begin() + capacity / 2;
  std::nth_element(scratch.begin(), middle, scratch.end(),
                   [](const Candidate& a, const Candidate& b) { return a.score > b.score; });
  lists.thresholds[list] = middle->score;
  count = static_cast<int32_t>(capacity / 2);
  for (int32_t slot = 0; slot < count; ++slot) {
    scores[slot] = scratch[slot].score;
    indices[slot] = scratch[slot].index;
  }
  return true;
}

void collect_candidates_(const Tensor& products, const Tensor& biases, const Tensor& row_groups,
                         const Tensor& column_groups, const Tensor& list_of_group,
                         int64_t first_column, const Tensor& candidate_scores,
                         const Tensor& candidates, const Tensor& counts, const Tensor& thresholds) {
  const CandidateLists<float> lists =
      check_collect_candidates(products, biases, row_groups, column_groups, list_of_group,
                               first_column, candidate_scores, candidates, counts, thresholds);
  const int64_t num_columns = products.size(1);
  const int64_t num_groups = list_of_group.size(0);
  const float* product = read<float>(products);
  const float* bias = read<float>(biases);
  const int32_t* row_group = read<int32_t>(row_groups);
  const int32_t* column_group = read<int32_t>(column_groups);
  const int32_t* list_table = read<int32_t>(list_of_group);
  const std::vector<Run> runs = runs_of(column_group, num_columns);

  struct Scratch {
    std::vector<Candidate> candidates;
    std::vector<float> group_thresholds;
  };
  const auto make_scratch = [&] { return Scratch{{}, std::vector<float>(num_groups)}; };
  for_each_row_block(lists.num_rows, make_scratch, [&](const RowBlock& block, Scratch& scratch) {
    for (int64_t row = block.first; row < block.last; ++row) {
      const float* row_products = product + row * num_columns;
      const int32_t* list_of = list_table + row_group[row] * num_groups;
      float* group_thresholds = scratch.group_thresholds.data();
      const auto refresh = [&] {
        for (int64_t group = 0; group < num_groups; ++group) {
          group_thresholds[group] = lists.thresholds[row * lists.num_lists + list_of[group]];
        }
      };
      refresh();
      for (const Run& run : runs) {
        for (int64_t column = run.begin; column < run.end; ++column) {
          column = run.group >= 0 ? first_above(row_products, bias, group_thresholds[run.group],
                                                column, run.end)
                                  : first_above(row_products, bias, column_group, group_thresholds,
                                                column, run.end);
          if (column < run.end &&
              add_candidate(lists, row * lists.num_lists + list_of[column_group[column]],
                            row_products[column] + bias[column], first_column + column,
                            scratch.candidates)) {
            refresh();
          }
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
    scores[column] =
        column < length ? scored[column].score : -std::numeric_limits<double>::infinity();
  }
}

std::tuple<Tensor, Tensor, Tensor> rank_candidates(
    const Tensor& features, const Tensor& rows, const Tensor& candidate_scores,
    const Tensor& candidates, const Tensor& counts, const Tensor& thresholds,
    const Tensor& error_bounds, const std::vector<int64_t>& widths, bool euclidean) {
  const CandidateLists<float> lists = check_rank_candidates(
      features, rows, candidate_scores, candidates, counts, thresholds, error_bounds, widths);
  const int64_t dim = features.size(1);
  const int64_t total = total_width(widths);
  Tensor ranks = make_tensor<int64_t>({lists.num_rows, total});
  Tensor scores = make_tensor<double>({lists.num_rows, total});
  Tensor certified = make_tensor<bool>({lists.num_rows});

  const float* x = read<float>(features);
  const int64_t* row_of = read<int64_t>(rows);
  const double* bound = read<double>(error_bounds);
  int64_t* out_ranks = write<int64_t>(ranks);
  double* out_scores = write<double>(scores);
  bool* out_certified = write<bool>(certified);

  struct Scratch {
    std::vector<float> sorted;
    std::vector<Scored> scored;
  };
  for_each_row_block(
      lists.num_rows, [] { return Scratch{}; },
      [&](const RowBlock& block, Scratch& scratch) {
        for (int64_t row = block.first; row < block.last; ++row) {
          const float* row_features = x + row_of[row] * dim;
          bool proven = std::isfinite(bound[row]);
          int64_t column = row * total;
          for (int64_t list = row * lists.num_lists; list < (row + 1) * lists.num_lists; ++list) {
            const float* list_scores = lists.scores + list * lists.capacity;
            const int32_t* list_indices = lists.indices + list * lists.capacity;
            const int64_t width = widths[list - row * lists.num_lists];
            const int32_t count = lists.counts[list];
            double least = kLowest;
            if (count > width && width > 0) {
              scratch.sorted.resize(count);
              std::transform(list_scores, list_scores + count, scratch.sorted.begin(),
                             or_lowest<float>);
              const auto kth = scratch.sorted.begin() + width - 1;
              std::nth_element(scratch.sorted.begin(), kth, scratch.sorted.end(),
                               std::greater<float>());
              least = static_cast<double>(*kth) - 2 * bound[row];
            }
            const float threshold = lists.thresholds[list];
            proven = proven && (threshold == kLowest || threshold < least);
            scratch.scored.clear();
            for (int32_t slot = 0; proven && slot < count; ++slot) {
              if (list_scores[slot] >= least) {
                const int64_t index = list_indices[slot];
                scratch.scored.push_back(
                    {or_lowest(exact_score(row_features, x + index * dim, dim, euclidean)), index});
              }
            }
            write_list(scratch.scored, width, out_ranks + column, out_scores + column);
            column += width;
          }
          out_certified[row] = proven;
        }
      });
  return {ranks, scores, certified};
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
