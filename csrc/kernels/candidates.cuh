// Candidates of a ranking: the best scores of each row, collected from tiles into lists.
//
// One warp per row, so nothing here is atomic. Lists may be longer than shared memory, so
// they stay in global memory.
#pragma once

#include "common/device.h"
#include "common/rows.h"

namespace mabm {

// Most warps of a block, one row each.
constexpr int kMostRowWarps = 8;
// Shared memory that every device gives a block without an opt-in.
constexpr size_t kSharedBytes = 48 << 10;
// Steps of a warp's width whose scores are loaded before the first is examined.
constexpr int kScanUnroll = 4;

// Scores as unsigned keys in the same order; -0 and 0 are one score and get one key.
__device__ inline uint32_t key_of(float score) {
  const uint32_t bits = __float_as_uint(score + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ inline float score_of(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}
__device__ inline unsigned long long key_of(double score) {
  const auto bits = static_cast<unsigned long long>(__double_as_longlong(score + 0.0));
  return bits >> 63 ? ~bits : bits | 0x8000000000000000ull;
}
__device__ inline double score_of(unsigned long long key) {
  return __longlong_as_double(
      static_cast<long long>(key >> 63 ? key & 0x7fffffffffffffffull : ~key));
}

template <class Key>
struct Boundary {
  Key key;
  int above;  // entries with a greater key
};

// The key of the wanted-th best of `count` scores, by bisection. Called by a whole warp.
template <class Score>
__device__ auto find_boundary(const Score* scores, int count, int wanted) {
  using Key = decltype(key_of(Score{}));
  Key low = ~Key{0};
  Key high = 0;
  for (int slot = lane_index(); slot < count; slot += kWarpSize) {
    const Key key = key_of(scores[slot]);
    low = key < low ? key : low;
    high = key > high ? key : high;
  }
  low = warp_min(low);
  high = warp_max(high);
  while (true) {
    const Key middle = low + (high - low) / 2;
    int above = 0;
    for (int first = 0; first < count; first += kWarpSize) {
      const int slot = first + lane_index();
      above += __popc(__ballot_sync(kFullWarp, slot < count && key_of(scores[slot]) > middle));
    }
    if (low == high) {
      return Boundary<Key>{middle, above};
    }
    if (above >= wanted) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
}

// Drops what a cut leaves no place for, and returns the new length of the list. Entries keep their
// order. Called by a whole warp.
template <class Score>
__device__ int cut_list(Score* scores, int32_t* indices, int count, const Cut<Score>& cut,
                        Score* threshold) {
  using Key = decltype(key_of(Score{}));
  constexpr Score lowest = static_cast<Score>(-INFINITY);
  if (count < cut.width) {
    return count;
  }
  if (cut.width == 0) {
    *threshold = -lowest;
    return 0;
  }
  const auto boundary = find_boundary(scores, count, cut.width);
  const Score last = score_of(boundary.key);
  // Rounded down and up.
  const bool trusted = cut.gap < 0;
  *threshold = trusted ? nextafter(last, -lowest) : nextafter(last - cut.gap, lowest);
  int ties = trusted ? cut.width - boundary.above : 0;
  int kept = 0;
  for (int first = 0; first < count; first += kWarpSize) {
    const int slot = first + lane_index();
    const Score score = slot < count ? scores[slot] : Score{};
    const int32_t index = slot < count ? indices[slot] : 0;
    const Key key = key_of(score);
    const unsigned tied = __ballot_sync(kFullWarp, trusted && slot < count && key == boundary.key);
    const bool is_kept_tie = tied >> lane_index() & 1u && lanes_before(tied) < ties;
    const bool is_above = trusted ? key > boundary.key : score >= *threshold;
    const bool stays = slot < count && (is_above || is_kept_tie);
    const unsigned all_stay = __ballot_sync(kFullWarp, stays);
    __syncwarp();  // every lane has read its entry before any is overwritten
    if (stays) {
      scores[kept + lanes_before(all_stay)] = score;
      indices[kept + lanes_before(all_stay)] = index;
    }
    kept += __popc(all_stay);
    ties -= lesser(ties, __popc(tied));
  }
  __syncwarp();
  return kept;
}

// Cuts list `at`, of `count` entries. If it is full, more are to come, and it may overflow.
template <class Score>
__device__ void cut_list_at(const CandidateLists<Score>& lists, int64_t at, int count,
                            const Cut<Score>& cut) {
  const int64_t first = at * lists.capacity;
  Score threshold = lists.thresholds[at];
  const bool is_full = count == lists.capacity;
  count = cut_list(lists.scores + first, lists.indices + first, count, cut, &threshold);
  if (is_full && lists.overflows(count)) {
    count = -1;
    threshold = static_cast<Score>(INFINITY);
  }
  __syncwarp();  // every lane has read the threshold
  if (lane_index() == 0) {
    lists.counts[at] = count;
    lists.thresholds[at] = threshold;
  }
}

// Scores of a tile as a float32 product and a bias of each column, and the gap of each row.
struct ProductTile {
  using Score = float;
  const float* products;
  const float* biases;
  const float* gaps;

  __device__ float at(int64_t row, int64_t column, int64_t num_columns) const {
    return products[row * num_columns + column] + biases[column];
  }
  __device__ float gap(int64_t row) const { return gaps[row]; }
};

// Exact scores of a tile.
struct ExactTile {
  using Score = double;
  const double* scores;

  __device__ double at(int64_t row, int64_t column, int64_t num_columns) const {
    return scores[row * num_columns + column];
  }
  __device__ double gap(int64_t) const { return -1.0; }
};

// Which list a column of a tile falls into: list_of_group[group of the row, group of the column].
// Row r's group is row_groups[rows[r]], or row_groups[r] if `rows` is null.
struct ListTable {
  const int32_t* row_groups;
  const int64_t* rows;
  const int32_t* column_groups;
  const int32_t* list_of_group;
  int num_groups;

  __device__ const int32_t* lists_of_row(int64_t row) const {
    const int64_t sample = rows == nullptr ? row : rows[row];
    return list_of_group + static_cast<int64_t>(row_groups[sample]) * num_groups;
  }
};

// Adds one tile to the lists of its rows, columns ascending; cuts all lists after the last tile.
// Reads every score once.
template <class Tile>
__global__ void collect_candidates_kernel(Tile tile, int64_t num_columns, ListTable table,
                                          int64_t first_column, const int32_t* widths, bool last,
                                          CandidateLists<typename Tile::Score> lists) {
  using Score = typename Tile::Score;
  DynamicShared shared;
  const Shared<Score> all_thresholds = shared.take<Score>(table.num_groups * warps_per_block());
  const int64_t row = global_warp();
  if (row >= lists.num_rows) {
    return;
  }
  const int base = warp_index() * table.num_groups;  // this warp's threshold of each group
  const int32_t* list_of = table.lists_of_row(row);
  const int64_t row_lists = row * lists.num_lists;
  const Score gap = tile.gap(row);
  const auto refresh = [&] {
    __syncwarp();
    for (int group = lane_index(); group < table.num_groups; group += kWarpSize) {
      const int64_t at = row_lists + list_of[group];
      // Nothing compares with NaN.
      all_thresholds[base + group] =
          lists.counts[at] < 0 ? static_cast<Score>(NAN) : lists.thresholds[at];
    }
    __syncwarp();
  };
  refresh();
  for (int64_t first = 0; first < num_columns; first += kWarpSize * kScanUnroll) {
    Score scores[kScanUnroll];
    int32_t groups[kScanUnroll];
    bool any = false;
#pragma unroll
    for (int step = 0; step < kScanUnroll; ++step) {
      const int64_t column = first + step * kWarpSize + lane_index();
      const bool inside = column < num_columns;
      scores[step] = inside ? tile.at(row, column, num_columns) : Score{};
      groups[step] = inside ? table.column_groups[column] : -1;
      any = any || (inside && scores[step] >= all_thresholds[base + groups[step]]);
    }
    if (!__any_sync(kFullWarp, any)) {
      continue;
    }
#pragma unroll
    for (int step = 0; step < kScanUnroll; ++step) {
      const int64_t column = first + step * kWarpSize + lane_index();
      bool waits = groups[step] >= 0 && scores[step] >= all_thresholds[base + groups[step]];
      const int32_t list = groups[step] >= 0 ? list_of[groups[step]] : -1;
      // List by list: the lanes that add to it take its next places, in the order of the columns.
      for (unsigned waiting = __ballot_sync(kFullWarp, waits); waiting != 0;
           waiting = __ballot_sync(kFullWarp, waits)) {
        const int32_t chosen = __shfl_sync(kFullWarp, list, __ffs(waiting) - 1);
        const unsigned same = __ballot_sync(kFullWarp, waits && list == chosen);
        const int64_t at = row_lists + chosen;
        const int capacity = static_cast<int>(lists.capacity);
        const int place = lists.counts[at] + lanes_before(same);
        const int count = lesser(lists.counts[at] + __popc(same), capacity);
        if (waits && list == chosen && place < capacity) {
          lists.scores[at * capacity + place] = scores[step];
          lists.indices[at * capacity + place] = static_cast<int32_t>(first_column + column);
          waits = false;
        }
        __syncwarp();
        if (count == capacity) {
          cut_list_at(lists, at, count, Cut<Score>{widths[chosen], gap});
          refresh();
          waits = waits && scores[step] >= all_thresholds[base + groups[step]];
        } else if (lane_index() == 0) {
          lists.counts[at] = count;
        }
        __syncwarp();
      }
    }
  }
  for (int list = 0; last && list < lists.num_lists; ++list) {
    if (lists.counts[row_lists + list] > widths[list]) {
      cut_list_at(lists, row_lists + list, lists.counts[row_lists + list],
                  Cut<Score>{widths[list], gap});
    }
  }
}

// Adds the tile scores[B, num_columns] of samples first_column.. to the lists; list l is cut to
// widths[l].
template <class Tile>
cudaError_t launch_collect_candidates(Tile tile, int64_t num_columns, const ListTable& table,
                                      int64_t first_column, const int32_t* widths, bool last,
                                      const CandidateLists<typename Tile::Score>& lists,
                                      cudaStream_t stream) {
  const size_t warp_bytes = sizeof(typename Tile::Score) * static_cast<size_t>(table.num_groups);
  if (warp_bytes > kSharedBytes) {
    return cudaErrorInvalidValue;
  }
  int warps = kMostRowWarps;
  while (warps > 1 && warps * warp_bytes > kSharedBytes) {
    warps /= 2;
  }
  return launch(collect_candidates_kernel<Tile>, blocks_for(lists.num_rows, warps),
                warps * kWarpSize, warps * warp_bytes, stream, tile, num_columns, table,
                first_column, widths, last, lists);
}

}  // namespace mabm
