// Screening: all pairs of two blocks of samples, the lists of candidates of both sides
// (method step 1).
//
// Of a pair, the kernel (common/screening.h) computes u_ij: at least its exact score but for the
// biases and a constant of row i. With bias_j, which includes a margin for its own rounding, and
//
//   gap_ij = 2 (residual_i residual_j + lost_i length_j + length_i lost_j + margin_j + slack_i),
//
// the exact score, up to that constant, is at most u_ij + bias_j + slack_i and at least
// u_ij + bias_j + slack_i - gap_ij. What a list drops by these bounds: ops/cpu/screen_lists.h.
//
// One pass over all pairs raises thresholds and collects candidates. If gaps are wide, lists would
// overflow before thresholds have risen. Then a first pass only raises them, from lower bounds.

#include "common/screening.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>
#include <numeric>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/row_blocks.h"
#include "ops/cpu/screen_lists.h"

namespace mabm {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Entries of a sample that are packed at a time: those of a panel stay in the first-level cache.
constexpr int64_t kPackedAtOnce = 64;
// Tiles on a side of a square (order_tiles).
constexpr int64_t kSquare = 16;

// Memory that begins at a line of the cache, so that no vector lies across two.
template <class T>
struct LineAllocator {
  using value_type = T;
  LineAllocator() = default;
  template <class U>
  LineAllocator(const LineAllocator<U>&) {}
  T* allocate(size_t count) {
    return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t{64}));
  }
  void deallocate(T* at, size_t) { ::operator delete(at, std::align_val_t{64}); }
  bool operator==(const LineAllocator&) const { return true; }
  bool operator!=(const LineAllocator&) const { return false; }
};
template <class T>
using Lines = std::vector<T, LineAllocator<T>>;

// What is known of a sample beside its operand, in the order of BlockTerms.
enum Term { kBias, kResidual, kScale, kLost, kLength, kNumTerms };

// Samples of one side of all tiles, padded to whole tiles: their operands in panels, and what is
// known of them beside. Samples of padding never hit and are never hit.
template <class Entry>
struct PackedBlock {
  int64_t depth;  // of the panels: the dimensions, and zeros up to a whole step of the kernel
  Lines<Entry> panels;
  Lines<float> terms[kNumTerms];
  Lines<int32_t> starts;         // of quantized columns
  std::vector<int32_t> samples;  // -1 for padding

  int64_t num_tiles() const { return static_cast<int64_t>(samples.size()) / kTile; }

  // Errors of pairs with these rows are subtracted from their products: a kernel then computes
  // lower bounds.
  void subtract_errors() {
    for (const Term term : {kResidual, kLost, kLength}) {
      for (float& value : terms[term]) {
        value = -value;
      }
    }
  }

  BlockTerms terms_at(int64_t first) const {
    const auto at = [&](Term term) {
      return terms[term].empty() ? nullptr : terms[term].data() + first;
    };
    return {at(kBias), at(kResidual), at(kScale),
            at(kLost), at(kLength),   starts.empty() ? nullptr : starts.data() + first};
  }
};

// Writes entries first to last of a sample to its place in a panel of this width. `first` is a
// multiple of the step; a step of bytes moves at once.
void pack_entries(const ScreenArguments& arguments, int32_t sample, int64_t first, int64_t last,
                  int width, int offset, int8_t* out) {
  const int8_t* from = static_cast<const int8_t*>(arguments.operands) + sample * arguments.dim;
  for (int64_t k = first; k < last; k += kStep<int8_t>) {
    int8_t entries[kStep<int8_t>] = {};
    if (k + kStep<int8_t> <= last) {
      std::memcpy(entries, from + k, kStep<int8_t>);
    } else {
      std::memcpy(entries, from + k, last - k);
    }
    for (int8_t& entry : entries) {
      entry = static_cast<int8_t>(entry + offset);
    }
    std::memcpy(out + k * width, entries, kStep<int8_t>);
  }
}

void pack_entries(const ScreenArguments& arguments, int32_t sample, int64_t first, int64_t last,
                  int width, int, float* out) {
  const float* from = static_cast<const float*>(arguments.operands) + sample * arguments.dim;
  for (int64_t k = first; k < last; ++k) {
    const float centered = arguments.center == nullptr ? from[k] : from[k] - arguments.center[k];
    out[k * width] = centered * arguments.unit;
  }
}

template <class Entry>
PackedBlock<Entry> pack_block(const ScreenArguments& arguments, const int32_t* samples,
                              int64_t count, int width, int offset) {
  constexpr int step = kStep<Entry>;
  PackedBlock<Entry> block;
  const int64_t padded = (count + kTile - 1) / kTile * kTile;
  const int64_t dim = arguments.dim;
  const int64_t depth = (dim + step - 1) / step * step;
  block.depth = depth;
  block.samples.assign(samples, samples + count);
  block.samples.resize(padded, -1);
  block.panels.resize(padded * depth);
  const float* sources[kNumTerms] = {arguments.biases, arguments.terms.residuals, arguments.scales,
                                     arguments.terms.lost, arguments.terms.lengths};
  for (int term = 0; term < kNumTerms; ++term) {
    if (sources[term] != nullptr) {
      auto& values = block.terms[term];
      values.resize(padded, term == kBias ? -kInfinity : 0.0f);
      for (int64_t at = 0; at < count; ++at) {
        values[at] = sources[term][samples[at]];
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
              pack_entries(arguments, sample, first, last, width, offset, out + c * step);
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
      read_sample(arguments, lists, at);
    }
  }

  // Reads the thresholds of one sample.
  void read_sample(const ScreenArguments& arguments, const SharedLists& lists, int at) {
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
  Lines<float> values_;
  const int32_t* own_ = nullptr;
  const int32_t* others_ = nullptr;
  int width_ = 1;
  int num_others_ = 0;
  int num_panels_ = 1;
};

// What a thread needs for its tiles.
struct TileScratch {
  Lines<float> sums = Lines<float>(kTile * kTile);
  std::vector<Hit> hits = std::vector<Hit>(kTile * kTile);
  std::vector<const Hit*> sorted = std::vector<const Hit*>(kTile * kTile);
  TileThresholds row_thresholds;
  TileThresholds column_thresholds;
};

// Adds the hits of a tile to the lists of one of its sides, sample by sample: `of_own` and
// `of_other` tell the places of a hit on this side and on the other one.
template <class IsHit, class Own, class Other>
void add_hits(SharedLists& lists, const int32_t* own, const int32_t* others, TileScratch& scratch,
              int num_hits, const IsHit& is_hit, const Own& of_own, const Other& of_other) {
  // Counts of each sample, then where its hits end, and once they are sorted where they start.
  int starts[kTile + 1] = {};
  for (int at = 0; at < num_hits; ++at) {
    starts[of_own(scratch.hits[at])] += is_hit(scratch.hits[at]);
  }
  std::partial_sum(starts, starts + kTile + 1, starts);
  for (int at = num_hits - 1; at >= 0; --at) {
    const Hit& hit = scratch.hits[at];
    if (is_hit(hit)) {
      scratch.sorted[--starts[of_own(hit)]] = &hit;
    }
  }
  struct Range {
    const Hit* const* first;
    const Hit* const* last;
    const Hit* const* begin() const { return first; }
    const Hit* const* end() const { return last; }
  };
  for (int sample = 0; sample < kTile; ++sample) {
    const Range range{scratch.sorted.data() + starts[sample],
                      scratch.sorted.data() + starts[sample + 1]};
    if (range.first < range.last && own[sample] >= 0) {
      lists.take(own[sample], range, [&](const Hit& hit) { return others[of_other(hit)]; });
    }
  }
}

// The tiles of two blocks as pairs of numbers, or those on and above the diagonal of one block. In
// squares, whose lists stay in the cache, and along diagonals: where neighbors lie side by side,
// thresholds rise early.
std::vector<std::pair<int32_t, int32_t>> order_tiles(int64_t num_rows, int64_t num_columns,
                                                     bool is_triangle) {
  std::vector<std::pair<int32_t, int32_t>> tiles;
  const auto by_diagonals = [](int64_t rows, int64_t columns, const auto& visit) {
    for (int64_t offset = 0; offset < columns; ++offset) {
      for (int64_t row = 0; row < rows; ++row) {
        visit(row, (row + offset) % columns);
      }
    }
  };
  const auto squares = [](int64_t count) { return (count + kSquare - 1) / kSquare; };
  by_diagonals(squares(num_rows), squares(num_columns), [&](int64_t row, int64_t column) {
    const int64_t first_row = row * kSquare;
    const int64_t first_column = column * kSquare;
    by_diagonals(std::min(kSquare, num_rows - first_row),
                 std::min(kSquare, num_columns - first_column), [&](int64_t r, int64_t c) {
                   if (!is_triangle || first_row + r <= first_column + c) {
                     tiles.emplace_back(first_row + r, first_column + c);
                   }
                 });
  });
  return tiles;
}

// What the sums of quantized columns start with.
Lines<int32_t> find_starts(const ScreenArguments& arguments, const std::vector<int32_t>& samples,
                           int offset) {
  Lines<int32_t> starts(samples.size());
  for_each_row(static_cast<int64_t>(samples.size()), [&](int64_t at) {
    if (samples[at] >= 0) {
      const auto* entries =
          static_cast<const int8_t*>(arguments.operands) + samples[at] * arguments.dim;
      starts[at] = -offset * std::accumulate(entries, entries + arguments.dim, int32_t{0});
    }
  });
  return starts;
}

template <class Entry>
void screen_blocks(const ScreenArguments& arguments, const ScreenKernel& kernel, bool mirrored) {
  const bool same = mirrored && arguments.rows == arguments.columns;
  auto left =
      pack_block<Entry>(arguments, arguments.rows, arguments.num_rows, kernel.rows, kernel.offset);
  if (!arguments.collects) {
    left.subtract_errors();
  }
  auto right =
      pack_block<Entry>(arguments, arguments.columns, arguments.num_columns, kernel.columns, 0);
  if constexpr (std::is_same_v<Entry, int8_t>) {
    right.starts = find_starts(arguments, right.samples, kernel.offset);
  }
  const auto tiles = order_tiles(left.num_tiles(), right.num_tiles(), same);
  const int64_t depth = left.depth;
  SharedLists lists(arguments);
  for_each_task(
      static_cast<int64_t>(tiles.size()), [] { return TileScratch{}; },
      [&](int64_t task, const RowLoop&, TileScratch& scratch) {
        const int64_t row = tiles[task].first * kTile;
        const int64_t column = tiles[task].second * kTile;
        const int32_t* rows = left.samples.data() + row;
        const int32_t* columns = right.samples.data() + column;
        scratch.row_thresholds.fill(arguments, lists, rows, columns, kernel.columns);
        const bool scans_columns = mirrored && !(same && row == column);
        if (scans_columns) {
          scratch.column_thresholds.fill(arguments, lists, columns, rows, kernel.rows);
        }
        const int num_hits = kernel.scan(
            Tile{left.panels.data() + row * depth, right.panels.data() + column * depth, depth,
                 left.terms_at(row), right.terms_at(column), scratch.row_thresholds.data(),
                 scratch.row_thresholds.stride(),
                 scans_columns ? scratch.column_thresholds.data() : nullptr,
                 scratch.column_thresholds.stride(), scratch.sums.data(), scratch.hits.data()});
        const auto row_of = [](const Hit& hit) { return hit.row; };
        const auto column_of = [](const Hit& hit) { return hit.column; };
        add_hits(
            lists, rows, columns, scratch, num_hits, [](const Hit& hit) { return hit.hit_row; },
            row_of, column_of);
        add_hits(
            lists, columns, rows, scratch, num_hits, [](const Hit& hit) { return hit.hit_column; },
            column_of, row_of);
      });
}

void screen_pairs_(const Tensor& operands, const std::optional<Tensor>& center, double unit,
                   const Tensor& biases, const Tensor& margins, const Tensor& residuals,
                   const Tensor& slacks, const std::optional<Tensor>& scales,
                   const std::optional<Tensor>& lost, const std::optional<Tensor>& lengths,
                   const Tensor& groups, const Tensor& list_of_group,
                   const std::vector<int64_t>& widths, const Tensor& rows, const Tensor& columns,
                   const Tensor& places, bool mirrored, bool raises, bool collects,
                   const Tensor& bounds, const Tensor& candidates, const Tensor& counts,
                   const Tensor& lower_bounds, const Tensor& thresholds) {
  const ScreenArguments arguments =
      check_screen_pairs(operands, center, unit, biases, margins, residuals, slacks, scales, lost,
                         lengths, groups, list_of_group, widths, rows, columns, places, mirrored,
                         raises, collects, bounds, candidates, counts, lower_bounds, thresholds);
  if (scales.has_value()) {
    screen_blocks<int8_t>(arguments, quantized_kernel(), mirrored);
  } else {
    screen_blocks<float>(arguments, float_kernel(), mirrored);
  }
}

void cut_candidates_(const Tensor& bounds, const Tensor& candidates, const Tensor& counts,
                     const Tensor& thresholds) {
  const ScreenLists lists = read_screen_lists(bounds, candidates, counts, thresholds);
  for_each_row(lists.num_rows, [&](int64_t row) {
    for (int64_t at = row * lists.num_lists; at < (row + 1) * lists.num_lists; ++at) {
      if (lists.counts[at] >= 0) {
        cut_list(lists, at);
      }
    }
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mabm, CPU, m) {
  m.impl("screen_pairs_", TORCH_BOX(&screen_pairs_));
  m.impl("cut_candidates_", TORCH_BOX(&cut_candidates_));
}

}  // namespace mabm
