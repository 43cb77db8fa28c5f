// Ranking: candidates from tiles of a product (common/rows.h says what is kept), ordered by exact
// scores, and rows ranked by exact scores only.

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>
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
  const float reached =
      std::nextafter(trusted ? last : last - cut.gap, trusted ? -kLowest : kLowest);
  *threshold = std::max(*threshold, reached);  // a list may begin with a higher one
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

  // Raises the thresholds of a row's empty lists to what a sample of a tile proves:
  // score_at(column), list_at(column).
  template <class ScoreAt, class ListAt>
  void raise_thresholds(int64_t row, int64_t num_columns, const ScoreAt& score_at,
                        const ListAt& list_at) const {
    if (!has_samples(lists.num_lists)) {
      return;
    }
    std::vector<std::array<float, kSampleClasses>> best(lists.num_lists);
    for (auto& classes : best) {
      classes.fill(kLowest);
    }
    const int64_t stride = sample_stride(num_columns);
    for (int64_t first = 0; first < kSampleRuns * stride; first += stride) {
      for (int place = 0; place < kSampleClasses && first + place < num_columns; ++place) {
        float& of_class = best[list_at(first + place)][place];
        of_class = std::max(of_class, score_at(first + place));  // NaN is not greater
      }
    }
    for (int64_t list = 0; list < lists.num_lists; ++list) {
      const auto width = static_cast<int32_t>(widths[list]);
      const int64_t at = row * lists.num_lists + list;
      const bool is_new = lists.counts[at] == 0 && lists.thresholds[at] == kLowest;
      if (is_new && sample_raises(width)) {
        const auto last = best[list].begin() + width - 1;
        std::nth_element(best[list].begin(), last, best[list].end(), std::greater<float>());
        lists.thresholds[at] = std::nextafter(*last - std::max(gaps[row], 0.0f), kLowest);
      }
    }
  }

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

template <class Product>
void collect_tile(const CollectArguments& given, const Collector& collector, bool last) {
  const CandidateLists<float>& lists = collector.lists;
  const ProductTile<Product> tile = given.tile<Product>();
  const int32_t* row_group = read<int32_t>(given.row_groups);
  const int32_t* column_group = read<int32_t>(given.column_groups);
  for_each_row_block(
      lists.num_rows, [] { return std::vector<float>(); },
      [&](const RowBlock& block, std::vector<float>& scratch) {
        for (int64_t row = block.first; row < block.last; ++row) {
          const int32_t* list_of =
              read<int32_t>(given.list_of_group) + row_group[row] * given.list_of_group.size(0);
          const auto list_at = [&](int64_t column) { return list_of[column_group[column]]; };
          const auto score_at = [&](int64_t column) {
            return tile.score(tile.product(row, column), row, column);
          };
          collector.raise_thresholds(row, tile.num_columns, score_at, list_at);
          for (int64_t column = 0; column < tile.num_columns; ++column) {
            collector.add(row, list_at(column), score_at(column), given.first_column + column,
                          scratch);
          }
          for (int64_t list = 0; last && list < lists.num_lists; ++list) {
            if (lists.counts[row * lists.num_lists + list] > given.widths[list]) {
              collector.cut(row, list, scratch);
            }
          }
        }
      });
}

// What the tests of the GPU's route run on the CPU: plain loops.
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
  const Collector collector{lists, widths, read<float>(gaps)};
  if (given.in_integers()) {
    collect_tile<int32_t>(given, collector, last);
  } else {
    collect_tile<float>(given, collector, last);
  }
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

// Scores candidates by the exact scores that they are ranked by.
class CandidateScores {
 public:
  CandidateScores(const float* features, int64_t dim, bool euclidean)
      : features_(features), dim_(dim), euclidean_(euclidean) {}

  // All of them.
  std::vector<Scored>& score(int64_t row, const int32_t* candidates, int32_t count) {
    scored_.clear();
    for (int32_t slot = 0; slot < count; ++slot) {
      add(row, candidates[slot]);
    }
    return scored_;
  }

  // From the greatest bound down, until no further one can be among the first `width`: reachable(s)
  // is the least bound of a candidate that may score s.
  template <class Reachable>
  std::vector<Scored>& score_best(int64_t row, const int32_t* candidates, const float* bounds,
                                  int32_t count, int64_t width, const Reachable& reachable) {
    order_.resize(count);
    std::iota(order_.begin(), order_.end(), 0);
    const auto is_before = [&](int32_t a, int32_t b) { return bounds[a] > bounds[b]; };
    std::sort(order_.begin(), order_.end(), is_before);
    scored_.clear();
    best_.clear();
    for (const int32_t slot : order_) {
      const bool full = static_cast<int64_t>(best_.size()) >= width;
      if (full && (width == 0 || static_cast<double>(bounds[slot]) < reachable(best_.front()))) {
        break;
      }
      const double score = add(row, candidates[slot]);
      if (full) {
        std::pop_heap(best_.begin(), best_.end(), std::greater<double>());
        best_.back() = std::max(best_.back(), score);
      } else {
        best_.push_back(score);
      }
      std::push_heap(best_.begin(), best_.end(), std::greater<double>());
    }
    return scored_;
  }

 private:
  double add(int64_t row, int64_t other) {
    const double score =
        or_lowest(exact_score(features_ + row * dim_, features_ + other * dim_, dim_, euclidean_));
    scored_.push_back({score, other});
    return score;
  }

  const float* features_;
  const int64_t dim_;
  const bool euclidean_;
  std::vector<Scored> scored_;
  std::vector<int32_t> order_;
  std::vector<double> best_;  // the greatest scores, a heap with the least on top
};

std::tuple<Tensor, Tensor> rank_candidates(const Tensor& features, const Tensor& rows,
                                           const Tensor& candidates, const Tensor& counts,
                                           const std::vector<int64_t>& widths, bool euclidean,
                                           const std::optional<Tensor>& bounds,
                                           const std::optional<Tensor>& offsets,
                                           const std::optional<Tensor>& area) {
  check_rank_candidates(features, rows, candidates, counts, widths, bounds, offsets, area);
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
  const CandidateBounds given = read_bounds(bounds, offsets, area);
  int64_t* out_ranks = write<int64_t>(ranks);
  double* out_scores = write<double>(scores);

  for_each_row_block(
      rows.numel(), [&] { return CandidateScores(x, dim, euclidean); },
      [&](const RowBlock& block, CandidateScores& candidate_scores) {
        for (int64_t row = block.first; row < block.last; ++row) {
          int64_t column = row * total;
          for (int64_t list = 0; list < num_lists; ++list) {
            const int64_t at = row * num_lists + list;
            const int32_t* candidate = indices + at * capacity;
            const auto reachable = [&](double score) {
              return score * *given.area - given.offsets[row];
            };
            auto& scored = given.bounds == nullptr
                               ? candidate_scores.score(row_of[row], candidate, count_of[at])
                               : candidate_scores.score_best(
                                     row_of[row], candidate, given.bounds + at * capacity,
                                     std::max(count_of[at], 0), widths[list], reachable);
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
              if (width == 0) {
                continue;
              }
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

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mabm, CPU, m) {
  m.impl("collect_candidates_", TORCH_BOX(&collect_candidates_));
  m.impl("rank_candidates", TORCH_BOX(&rank_candidates));
  m.impl("rank_exactly", TORCH_BOX(&rank_exactly));
}

}  // namespace mabm
