// Ranking: candidates from a fast product, proven complete and rescored exactly.
//
// A float32 matrix product (PyTorch's) gives approximate scores, each within the row's error bound
// B of the exact one. Per list, the C best approximate scores are kept; let t be the k-th best of
// them and d the best that was dropped. Every sample whose exact score belongs to the first k has
// an approximate score of at least t - 2B; if d < t - 2B, all of them were kept, and rescoring
// those exactly gives the exact list. Otherwise the row is not certified and is ranked by exact
// scores.

#include <limits>
#include <utility>

#include "common/row_blocks.h"
#include "common/scores.h"

namespace mabm {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();
// Samples that a block of rows is compared with before the next: their features stay in the cache.
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

// One list of one row while its candidates are collected: at most `capacity` entries; when full it
// is cut to the better half, and `threshold` becomes the best score that was ever dropped or more.
struct CandidateList {
  float* scores;
  int32_t* indices;
  int64_t capacity;
  int32_t& count;
  float& threshold;

  void add(float score, int64_t index, std::vector<Candidate>& scratch) {
    scores[count] = score;
    indices[count] = static_cast<int32_t>(index);
    if (++count < capacity) {
      return;
    }
    scratch.resize(capacity);
    for (int64_t slot = 0; slot < capacity; ++slot) {
      scratch[slot] = {scores[slot], indices[slot]};
    }
    const auto middle = scratch.begin() + capacity / 2;
    std::nth_element(scratch.begin(), middle, scratch.end(),
                     [](const Candidate& a, const Candidate& b) { return a.score > b.score; });
    threshold = middle->score;
    count = static_cast<int32_t>(capacity / 2);
    for (int32_t slot = 0; slot < count; ++slot) {
      scores[slot] = scratch[slot].score;
      indices[slot] = scratch[slot].index;
    }
  }
};

void collect_candidates_(const Tensor& scores, const Tensor& row_groups,
                         const Tensor& column_groups, const Tensor& list_of_group,
                         int64_t first_column, const Tensor& candidate_scores,
                         const Tensor& candidates, const Tensor& counts, const Tensor& thresholds) {
  check_tensor<float>(scores, "scores", 2);
  check_tensor<int32_t>(row_groups, "row_groups", 1);
  check_tensor<int32_t>(column_groups, "column_groups", 1);
  check_tensor<int32_t>(list_of_group, "list_of_group", 2);
  check_tensor<float>(candidate_scores, "candidate_scores", 3);
  check_tensor<int32_t>(candidates, "candidates", 3);
  check_tensor<int32_t>(counts, "counts", 2);
  check_tensor<float>(thresholds, "thresholds", 2);
  const int64_t num_rows = scores.size(0);
  const int64_t num_columns = scores.size(1);
  const int64_t num_groups = list_of_group.size(0);
  const int64_t num_lists = counts.size(1);
  const int64_t capacity = candidates.size(2);
  check_size(row_groups, "row_groups", 0, num_rows);
  check_size(column_groups, "column_groups", 0, num_columns);
  check_size(candidates, "candidates", 0, num_rows);
  check_size(candidates, "candidates", 1, num_lists);
  check_size(candidate_scores, "candidate_scores", 2, capacity);

  const float* score = read<float>(scores);
  const int32_t* row_group = read<int32_t>(row_groups);
  const int32_t* column_group = read<int32_t>(column_groups);
  const int32_t* list_table = read<int32_t>(list_of_group);
  float* kept_scores = write<float>(candidate_scores);
  int32_t* kept = write<int32_t>(candidates);
  int32_t* count = write<int32_t>(counts);
  float* threshold = write<float>(thresholds);
  const std::vector<Run> runs = runs_of(column_group, num_columns);

  struct Scratch {
    std::vector<Candidate> candidates;
    std::vector<float> group_thresholds;
  };
  const auto make_scratch = [&] { return Scratch{{}, std::vector<float>(num_groups)}; };
  for_each_row_block(
      num_rows, make_scratch, [&](int64_t, int64_t first, int64_t last, Scratch& scratch) {
        for (int64_t row = first; row < last; ++row) {
          const float* row_scores = score + row * num_columns;
          const int32_t* list_of = list_table + row_group[row] * num_groups;
          float* group_thresholds = scratch.group_thresholds.data();
          for (int64_t group = 0; group < num_groups; ++group) {
            group_thresholds[group] = threshold[row * num_lists + list_of[group]];
          }
          const auto take = [&](int64_t column) {
            const int64_t list = row * num_lists + list_of[column_group[column]];
            CandidateList{kept_scores + list * capacity, kept + list * capacity, capacity,
                          count[list], threshold[list]}
                .add(row_scores[column], first_column + column, scratch.candidates);
            for (int64_t group = 0; group < num_groups; ++group) {
              group_thresholds[group] = threshold[row * num_lists + list_of[group]];
            }
          };
          for (const Run& run : runs) {
            for (int64_t column = run.begin; column < run.end; ++column) {
              column =
                  run.group >= 0
                      ? first_above(row_scores, column, run.end, group_thresholds[run.group])
                      : first_above(row_scores, column_group, group_thresholds, column, run.end);
              if (column < run.end) {
                take(column);
              }
            }
          }
        }
      });
}

// Where the lists of a row lie in its K columns of ranks.
struct Layout {
  const std::vector<int64_t>& widths;
  int64_t total = 0;

  explicit Layout(const std::vector<int64_t>& widths) : widths(widths) {
    for (const int64_t width : widths) {
      total += width;
    }
  }
};

// Writes the first `width` of the scored samples, nearest first, and -1 where there are fewer.
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
  check_tensor<float>(features, "features", 2);
  check_tensor<int64_t>(rows, "rows", 1);
  check_tensor<float>(candidate_scores, "candidate_scores", 3);
  check_tensor<int32_t>(candidates, "candidates", 3);
  check_tensor<int32_t>(counts, "counts", 2);
  check_tensor<float>(thresholds, "thresholds", 2);
  check_tensor<double>(error_bounds, "error_bounds", 1);
  const int64_t num_rows = rows.numel();
  const int64_t num_lists = static_cast<int64_t>(widths.size());
  const int64_t capacity = candidates.size(2);
  const int64_t dim = features.size(1);
  check_size(candidates, "candidates", 0, num_rows);
  check_size(candidates, "candidates", 1, num_lists);
  check_size(counts, "counts", 0, num_rows);
  check_size(thresholds, "thresholds", 0, num_rows);
  check_size(error_bounds, "error_bounds", 0, num_rows);
  const Layout layout(widths);
  Tensor ranks = make_tensor<int64_t>({num_rows, layout.total});
  Tensor scores = make_tensor<double>({num_rows, layout.total});
  Tensor certified = make_tensor<bool>({num_rows});

  const float* x = read<float>(features);
  const int64_t* row_of = read<int64_t>(rows);
  const float* kept_scores = read<float>(candidate_scores);
  const int32_t* kept = read<int32_t>(candidates);
  const int32_t* count = read<int32_t>(counts);
  const float* threshold = read<float>(thresholds);
  const double* bound = read<double>(error_bounds);
  int64_t* out_ranks = write<int64_t>(ranks);
  double* out_scores = write<double>(scores);
  bool* out_certified = write<bool>(certified);

  struct Scratch {
    std::vector<float> sorted;
    std::vector<Scored> scored;
  };
  for_each_row_block(
      num_rows, [] { return Scratch{}; },
      [&](int64_t, int64_t first, int64_t last, Scratch& scratch) {
        for (int64_t row = first; row < last; ++row) {
          const float* own = x + row_of[row] * dim;
          bool proven = std::isfinite(bound[row]);
          int64_t column = row * layout.total;
          for (int64_t list = 0; list < num_lists; ++list) {
            const int64_t at = row * num_lists + list;
            const float* list_scores = kept_scores + at * capacity;
            const int64_t width = widths[list];
            double least = kLowest;
            if (count[at] > width) {
              scratch.sorted.assign(list_scores, list_scores + count[at]);
              const auto kth = scratch.sorted.begin() + width - 1;
              std::nth_element(scratch.sorted.begin(), kth, scratch.sorted.end(),
                               std::greater<float>());
              least = static_cast<double>(*kth) - 2 * bound[row];
            }
            proven = proven && (threshold[at] == kLowest || threshold[at] < least);
            scratch.scored.clear();
            for (int32_t slot = 0; proven && slot < count[at]; ++slot) {
              if (list_scores[slot] >= least) {
                const int64_t index = kept[at * capacity + slot];
                scratch.scored.push_back(
                    {exact_score(own, x + index * dim, dim, euclidean), index});
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
  check_tensor<float>(features, "features", 2);
  check_tensor<int64_t>(rows, "rows", 1);
  check_tensor<int32_t>(groups, "groups", 1);
  check_tensor<int32_t>(list_of_group, "list_of_group", 2);
  check_size(groups, "groups", 0, features.size(0));
  const int64_t num_samples = features.size(0);
  const int64_t dim = features.size(1);
  const int64_t num_groups = list_of_group.size(0);
  const Layout layout(widths);
  Tensor ranks = make_tensor<int64_t>({rows.numel(), layout.total});
  Tensor scores = make_tensor<double>({rows.numel(), layout.total});

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
      [&](int64_t, int64_t first, int64_t last, Lists& lists) {
        for (auto& list : lists) {
          list.clear();
        }
        for (int64_t tile = 0; tile < num_samples; tile += kExactTile) {
          const int64_t tile_end = std::min(num_samples, tile + kExactTile);
          for (int64_t row = first; row < last; ++row) {
            const int64_t own = row_of[row];
            const int32_t* list_of = list_table + group_of[own] * num_groups;
            for (int64_t other = tile; other < tile_end; ++other) {
              const int64_t width = widths[list_of[group_of[other]]];
              auto& list = lists[(row - first) * num_lists + list_of[group_of[other]]];
              list.push_back({exact_score(x + own * dim, x + other * dim, dim, euclidean), other});
              // A list longer than it may be is cut to the entries that can still be in it.
              if (static_cast<int64_t>(list.size()) >= 2 * width + kExactTile) {
                std::nth_element(list.begin(), list.begin() + width, list.end(), ranks_before);
                list.resize(width);
              }
            }
          }
        }
        for (int64_t row = first; row < last; ++row) {
          int64_t column = row * layout.total;
          for (int64_t list = 0; list < num_lists; ++list) {
            write_list(lists[(row - first) * num_lists + list], widths[list], out_ranks + column,
                       out_scores + column);
            column += widths[list];
          }
        }
      });
  return {ranks, scores};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mabm, CPU, m) {
  m.impl("collect_candidates_", TORCH_BOX(&collect_candidates_));
  m.impl("rank_candidates", TORCH_BOX(&rank_candidates));
  m.impl("rank_exactly", TORCH_BOX(&rank_exactly));
}

}  // namespace mabm
