// Screening: all pairs of two blocks of samples, the lists of candidates of both sides
// (method step 1).
//
// Of a pair, the kernel (common/screening.h) computes u_ij: at least its exact score but for the
// biases and a constant of row i. With bias_j, which includes a margin for its own rounding, and
//
//   gap_ij = 2 (residual_i residual_j + lost_i length_j + length_i lost_j + margin_j + slack_i),
//
// the exact score, up to that constant, is at most u_ij + bias_j + slack_i and at least
// u_ij + bias_j + slack_i - gap_ij. A sample is dropped from a list only if its upper bound is
// below the k-th greatest lower bound of those seen so far, k the length of the list: then k
// others are nearer. Lists only ever lose such samples, so their final content does not depend on
// the order of the pairs, nor on threads. A list that stays nearly full has overflowed: nothing is
// known of it any more.

#include "common/screening.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "common/row_blocks.h"
#include "ops/screening_arguments.h"

namespace mabm {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Entries of a sample that are packed at a time: those of a panel stay in the first-level cache.
constexpr int64_t kPackedAtOnce = 64;

// Lists are written by all threads, each row of lists under a lock of its own. Thresholds are read
// without it: they only rise, and an old one only lets more through.
class SharedLists {
 public:
  SharedLists(const ScreenArguments& arguments)
      : arguments_(arguments), locks_(new std::atomic<bool>[arguments.lists.num_rows]()) {}

  float threshold(int32_t sample, int32_t list) const {
    const auto& lists = arguments_.lists;
    const int64_t at = int64_t{arguments_.places[sample]} * lists.num_lists + list;
    return reinterpret_cast<const std::atomic<float>*>(lists.thresholds + at)
        ->load(std::memory_order_relaxed);
  }

  // Adds `other` to the list of `sample` that it belongs to; true if a threshold may have risen.
  bool add(int32_t sample, int32_t other, float bound) {
    const int32_t list = arguments_.list_of(sample, other);
    if (bound <= threshold(sample, list)) {
      return false;
    }
    const int64_t place = arguments_.places[sample];
    const Lock lock(locks_[place]);
    return add_locked(sample, other, place, list, bound);
  }

 private:
  class Lock {
   public:
    explicit Lock(std::atomic<bool>& taken) : taken_(taken) {
      while (taken_.exchange(true, std::memory_order_acquire)) {
        std::this_thread::yield();
      }
    }
    ~Lock() { taken_.store(false, std::memory_order_release); }
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

   private:
    std::atomic<bool>& taken_;
  };

  bool add_locked(int32_t sample, int32_t other, int64_t place, int32_t list, float bound) {
    const auto& lists = arguments_.lists;
    const int64_t at = place * lists.num_lists + list;
    int32_t& count = lists.counts[at];
    if (count < 0 || bound <= lists.thresholds[at]) {
      return false;
    }
    if (!(bound < kInfinity)) {  // overflow or NaN: there is no bound
      overflow(place);
      return true;
    }
    lists.scores[at * lists.capacity + count] = bound;
    lists.indices[at * lists.capacity + count] = other;
    if (++count < lists.capacity) {
      return false;
    }
    arguments_.cut(sample, place, list);
    if (count > lists.capacity - lists.capacity / 8) {
      overflow(place);
    }
    return true;
  }

  // Ends the collection for a row: its other lists are of no use without this one.
  void overflow(int64_t place) {
    const auto& lists = arguments_.lists;
    for (int64_t at = place * lists.num_lists; at < (place + 1) * lists.num_lists; ++at) {
      lists.counts[at] = -1;
      reinterpret_cast<std::atomic<float>*>(lists.thresholds + at)->store(kInfinity);
    }
  }

  const ScreenArguments& arguments_;
  std::unique_ptr<std::atomic<bool>[]> locks_;
};

// Samples of one side of all tiles, padded to whole tiles: their operands in panels, and what is
// known of them beside. Samples of padding never hit and are never hit.
template <class Entry>
struct PackedBlock {
  std::vector<Entry> panels;
  std::vector<float> terms[5];
  std::vector<int32_t> samples;  // -1 for padding

  int64_t num_tiles() const { return static_cast<int64_t>(samples.size()) / kTile; }

  BlockTerms terms_at(int64_t first) const {
    const auto at = [&](int which) {
      return terms[which].empty() ? nullptr : terms[which].data() + first;
    };
    return {at(0), at(1), at(2), at(3), at(4)};
  }
};

// Writes entries first to last of a sample to its place in a panel of this width.
void pack_entries(const ScreenArguments& arguments, int32_t sample, int64_t first, int64_t last,
                  int width, float* out) {
  const float* from = static_cast<const float*>(arguments.operands) + sample * arguments.dim;
  for (int64_t k = first; k < last; ++k) {
    const float centered = arguments.center == nullptr ? from[k] : from[k] - arguments.center[k];
    out[k * width] = centered * arguments.unit;
  }
}

template <class Entry>
PackedBlock<Entry> pack_block(const ScreenArguments& arguments, const int32_t* samples,
                              int64_t count, int width) {
  PackedBlock<Entry> block;
  const int64_t padded = (count + kTile - 1) / kTile * kTile;
  const int64_t dim = arguments.dim;
  const int64_t depth = dim;
  block.samples.assign(samples, samples + count);
  block.samples.resize(padded, -1);
  block.panels.resize(padded * depth);
  const float* sources[] = {arguments.biases, arguments.terms.residuals, arguments.scales,
                            arguments.terms.lost, arguments.terms.lengths};
  for (int which = 0; which < 5; ++which) {
    if (sources[which] != nullptr) {
      auto& term = block.terms[which];
      term.resize(padded, which == 0 ? -kInfinity : 0.0f);
      for (int64_t at = 0; at < count; ++at) {
        term[at] = sources[which][samples[at]];
      }
    }
  }
  for_each_task(
      padded / width, [] { return NoScratch{}; },
      [&](int64_t panel, const RowLoop&, NoScratch&) {
        Entry* out = block.panels.data() + panel * width * depth;
        for (int64_t first = 0; first < dim; first += kPackedAtOnce) {
          const int64_t last = std::min(dim, first + kPackedAtOnce);
          for (int c = 0; c < width; ++c) {
            const int32_t sample = block.samples[panel * width + c];
            if (sample >= 0) {
              pack_entries(arguments, sample, first, last, width, out + c);
            }
          }
        }
      });
  return block;
}

// The thresholds of one side of a tile against the panels of the other. Where all samples of the
// other side are of one group, all panels share them; else each panel has its own, the least of
// those of its groups.
class TileThresholds {
 public:
  void fill(const ScreenArguments& arguments, const SharedLists& lists, const int32_t* own,
            const int32_t* others, int width) {
    own_ = own;
    others_ = others;
    width_ = width;
    const auto group = [&](int at) { return arguments.groups[others[at]]; };
    num_others_ = kTile;
    while (num_others_ > 0 && others[num_others_ - 1] < 0) {
      --num_others_;
    }
    bool uniform = true;
    for (int at = 1; at < num_others_; ++at) {
      uniform = uniform && group(at) == group(0);
    }
    num_panels_ = uniform ? 1 : kTile / width;
    values_.resize(static_cast<size_t>(num_panels_) * kTile);
    for (int at = 0; at < kTile; ++at) {
      refresh(arguments, lists, at);
    }
  }

  // Reads the thresholds of one sample anew.
  void refresh(const ScreenArguments& arguments, const SharedLists& lists, int at) {
    for (int panel = 0; panel < num_panels_; ++panel) {
      float least = kInfinity;
      if (own_[at] >= 0) {
        const int first = num_panels_ == 1 ? 0 : panel * width_;
        const int last = num_panels_ == 1 ? 1 : std::min(first + width_, num_others_);
        int32_t previous = -1;
        for (int other = first; other < last; ++other) {
          const int32_t list = arguments.list_of(own_[at], others_[other]);
          if (list != previous) {
            least = std::min(least, lists.threshold(own_[at], list));
            previous = list;
          }
        }
      }
      values_[static_cast<size_t>(panel) * kTile + at] = least;
    }
  }

  const float* data() const { return values_.data(); }
  int64_t stride() const { return num_panels_ == 1 ? 0 : kTile; }

 private:
  std::vector<float> values_;
  const int32_t* own_ = nullptr;
  const int32_t* others_ = nullptr;
  int width_ = 1;
  int num_others_ = 0;
  int num_panels_ = 1;
};

// A thread's tile: where the kernel's hits go.
struct TileScratch {
  const ScreenArguments& arguments;
  SharedLists& lists;
  std::vector<float> sums;
  TileThresholds row_thresholds;
  TileThresholds column_thresholds;
  const int32_t* rows = nullptr;
  const int32_t* columns = nullptr;

  static void take_hit(void* context, int row, int column, float bound, bool hit_row,
                       bool hit_column) {
    auto& self = *static_cast<TileScratch*>(context);
    const int32_t i = self.rows[row];
    const int32_t j = self.columns[column];
    if (i < 0 || j < 0) {
      return;
    }
    const float* biases = self.arguments.biases;
    if (hit_row && self.lists.add(i, j, bound + biases[j])) {
      self.row_thresholds.refresh(self.arguments, self.lists, row);
    }
    if (hit_column && self.lists.add(j, i, bound + biases[i])) {
      self.column_thresholds.refresh(self.arguments, self.lists, column);
    }
  }
};

template <class Entry>
void screen_blocks(const ScreenArguments& arguments, const ScreenKernel& kernel, bool mirrored) {
  const bool same = mirrored && arguments.rows == arguments.columns;
  const auto left = pack_block<Entry>(arguments, arguments.rows, arguments.num_rows, kernel.rows);
  const auto right =
      pack_block<Entry>(arguments, arguments.columns, arguments.num_columns, kernel.columns);
  // By diagonals: where neighbors lie side by side, thresholds rise early.
  std::vector<std::pair<int32_t, int32_t>> tiles;
  for (int64_t offset = 0; offset < right.num_tiles(); ++offset) {
    for (int64_t row = 0; row < left.num_tiles(); ++row) {
      const int64_t column = row + offset;
      if (column < right.num_tiles()) {
        tiles.emplace_back(row, column);
      } else if (!same) {
        tiles.emplace_back(row, column % right.num_tiles());
      }
    }
  }
  const int64_t depth = arguments.dim;
  SharedLists lists(arguments);
  const auto make_scratch = [&] {
    return TileScratch{arguments, lists, std::vector<float>(kTile * kTile), {}, {}};
  };
  for_each_task(
      static_cast<int64_t>(tiles.size()), make_scratch,
      [&](int64_t task, const RowLoop&, TileScratch& scratch) {
        const int64_t row = tiles[task].first * kTile;
        const int64_t column = tiles[task].second * kTile;
        scratch.rows = left.samples.data() + row;
        scratch.columns = right.samples.data() + column;
        scratch.row_thresholds.fill(arguments, lists, scratch.rows, scratch.columns,
                                    kernel.columns);
        const bool scans_columns = mirrored && !(same && row == column);
        if (scans_columns) {
          scratch.column_thresholds.fill(arguments, lists, scratch.columns, scratch.rows,
                                         kernel.rows);
        }
        kernel.scan(Tile{left.panels.data() + row * depth, right.panels.data() + column * depth,
                         depth, left.terms_at(row), right.terms_at(column),
                         scratch.row_thresholds.data(), scratch.row_thresholds.stride(),
                         scans_columns ? scratch.column_thresholds.data() : nullptr,
                         scratch.column_thresholds.stride(), scratch.sums.data(),
                         &TileScratch::take_hit, &scratch});
      });
}

void screen_pairs_(const Tensor& operands, const std::optional<Tensor>& center, double unit,
                   const Tensor& biases, const Tensor& margins, const Tensor& residuals,
                   const Tensor& slacks, const std::optional<Tensor>& scales,
                   const std::optional<Tensor>& lost, const std::optional<Tensor>& lengths,
                   const Tensor& groups, const Tensor& list_of_group,
                   const std::vector<int64_t>& widths, const Tensor& rows, const Tensor& columns,
                   const Tensor& places, bool mirrored, const Tensor& bounds,
                   const Tensor& candidates, const Tensor& counts, const Tensor& thresholds) {
  const ScreenArguments arguments =
      check_screen_pairs(operands, center, unit, biases, margins, residuals, slacks, scales, lost,
                         lengths, groups, list_of_group, widths, rows, columns, places, mirrored,
                         bounds, candidates, counts, thresholds);
  screen_blocks<float>(arguments, float_kernel(), mirrored);
}

void cut_candidates_(const Tensor& margins, const Tensor& residuals, const Tensor& slacks,
                     const std::optional<Tensor>& lost, const std::optional<Tensor>& lengths,
                     const std::vector<int64_t>& widths, const Tensor& rows, const Tensor& bounds,
                     const Tensor& candidates, const Tensor& counts, const Tensor& thresholds) {
  const CutArguments arguments =
      check_cut_candidates(margins, residuals, slacks, lost, lengths, widths, rows, bounds,
                           candidates, counts, thresholds);
  const CandidateLists<float>& lists = arguments.lists;
  for_each_row(lists.num_rows, [&](int64_t row) {
    for (int64_t list = 0; list < lists.num_lists; ++list) {
      cut_list(lists, arguments.terms, arguments.rows[row], row, list, widths[list]);
    }
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mabm, CPU, m) {
  m.impl("screen_pairs_", TORCH_BOX(&screen_pairs_));
  m.impl("cut_candidates_", TORCH_BOX(&cut_candidates_));
}

}  // namespace mabm
