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
// Steps of a warp's width whose scores are loaded before the first is examined, and their columns.
constexpr int kScanUnroll = 4;
constexpr int kScanColumns = kScanUnroll * kWarpSize;
// Columns of a transposed tile lie this far apart in shared memory for each row: eight rows and
// four columns, which a warp writes together, fall into different banks.
constexpr int kStagedStride = kScanColumns + 4;

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

// Exact scores of a tile, row by row.
struct ExactTile {
  using Score = double;
  int64_t num_rows;
  int64_t num_columns;
  const double* scores;

  __device__ double product(int64_t row, int64_t column) const {
    return scores[row * num_columns + column];
  }
  __device__ double score(double product, int64_t, int64_t) const { return product; }
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

// The lists of one row, as its warp adds to them.
template <class Score>
struct RowLists {
  const CandidateLists<Score>& lists;
  const int32_t* widths;
  Score gap;
  int64_t first;  // number of the first list
  const int32_t* list_of;
  int num_groups;
  const Shared<Score>& thresholds;
  int base;  // where this warp's thresholds of the groups begin

  __device__ bool takes(Score score, int32_t group) const {
    return group >= 0 && score >= thresholds[base + group];
  }

  // Reads the thresholds of the lists.
  __device__ void refresh() const {
    __syncwarp();
    for (int group = lane_index(); group < num_groups; group += kWarpSize) {
      const int64_t at = first + list_of[group];
      // Nothing compares with NaN.
      thresholds[base + group] =
          lists.counts[at] < 0 ? static_cast<Score>(NAN) : lists.thresholds[at];
    }
    __syncwarp();
  }

  // Adds a sample in each lane, of group -1 if there is none, in the order of the lanes. List by
  // list: the lanes that add to it take its next places.
  __device__ void add(Score score, int32_t group, int32_t index) const {
    bool waits = takes(score, group);
    const int32_t list = group >= 0 ? list_of[group] : -1;
    for (unsigned waiting = __ballot_sync(kFullWarp, waits); waiting != 0;
         waiting = __ballot_sync(kFullWarp, waits)) {
      const int32_t chosen = __shfl_sync(kFullWarp, list, __ffs(waiting) - 1);
      const unsigned same = __ballot_sync(kFullWarp, waits && list == chosen);
      const int64_t at = first + chosen;
      const int capacity = static_cast<int>(lists.capacity);
      const int place = lists.counts[at] + lanes_before(same);
      const int count = lesser(lists.counts[at] + __popc(same), capacity);
      if (waits && list == chosen && place < capacity) {
        lists.scores[at * capacity + place] = score;
        lists.indices[at * capacity + place] = index;
        waits = false;
      }
      __syncwarp();
      if (count == capacity) {
        cut_list_at(lists, at, count, Cut<Score>{widths[chosen], gap});
        refresh();
        waits = waits && takes(score, group);
      } else if (lane_index() == 0) {
        lists.counts[at] = count;
      }
      __syncwarp();
    }
  }

  __device__ void cut_all() const {
    for (int64_t list = 0; list < lists.num_lists; ++list) {
      const int count = lists.counts[first + list];
      if (count > widths[list]) {
        cut_list_at(lists, first + list, count, Cut<Score>{widths[list], gap});
      }
    }
  }
};

// Copies the products of the block's rows, which lie side by side in a transposed tile, with the
// columns from `first` on. Called by a whole block.
template <class Product>
__device__ void stage_products(const ProductTile<Product>& tile, int64_t first,
                               const Shared<Product>& staged) {
  const int rows = warps_per_block();
  const int64_t first_row = global_warp() - warp_index();
  __syncthreads();  // the last ones have been read
  for (int at = static_cast<int>(threadIdx.x); at < rows * kScanColumns;
       at += static_cast<int>(blockDim.x)) {
    const int64_t row = first_row + at % rows;
    const int64_t column = first + at / rows;
    if (row < tile.num_rows && column < tile.num_columns) {
      staged[at % rows * kStagedStride + at / rows] = tile.product(row, column);
    }
  }
  __syncthreads();
}

// Adds one tile to the lists of its rows, columns ascending; cuts all lists after the last tile.
// Reads every product once.
template <bool kTransposed, class Tile>
__global__ void collect_candidates_kernel(Tile tile, ListTable table, int64_t first_column,
                                          const int32_t* widths, bool last,
                                          CandidateLists<typename Tile::Score> lists) {
  using Score = typename Tile::Score;
  using Product = decltype(tile.product(0, 0));
  DynamicShared shared;
  const Shared<Score> thresholds = shared.take<Score>(table.num_groups * warps_per_block());
  const Shared<Product> staged =
      shared.take<Product>(kTransposed ? warps_per_block() * kStagedStride : 0);
  const bool has_row = global_warp() < lists.num_rows;
  if (!kTransposed && !has_row) {
    return;
  }
  const int64_t row = has_row ? global_warp() : lists.num_rows - 1;
  const RowLists<Score> own{lists,
                            widths,
                            tile.gap(row),
                            row * lists.num_lists,
                            table.lists_of_row(row),
                            table.num_groups,
                            thresholds,
                            warp_index() * table.num_groups};
  own.refresh();
  for (int64_t first = 0; first < tile.num_columns; first += kScanColumns) {
    if constexpr (kTransposed) {
      stage_products(tile, first, staged);
      if (!has_row) {
        continue;
      }
    }
    Score scores[kScanUnroll] = {};
    int32_t groups[kScanUnroll];
    bool any = false;
#pragma unroll
    for (int step = 0; step < kScanUnroll; ++step) {
      const int at = step * kWarpSize + lane_index();
      const int64_t column = first + at;
      groups[step] = -1;
      if (column < tile.num_columns) {
        const Product product =
            kTransposed ? staged[warp_index() * kStagedStride + at] : tile.product(row, column);
        scores[step] = tile.score(product, row, column);
        groups[step] = table.column_groups[column];
      }
      any = any || own.takes(scores[step], groups[step]);
    }
    if (!__any_sync(kFullWarp, any)) {
      continue;
    }
#pragma unroll
    for (int step = 0; step < kScanUnroll; ++step) {
      const int64_t column = first_column + first + step * kWarpSize + lane_index();
      own.add(scores[step], groups[step], static_cast<int32_t>(column));
    }
  }
  if (last && has_row) {
    own.cut_all();
  }
}

// Adds the tile of samples first_column.. to the lists; list l is cut to widths[l].
template <bool kTransposed = false, class Tile>
cudaError_t launch_collect_candidates(const Tile& tile, const ListTable& table,
                                      int64_t first_column, const int32_t* widths, bool last,
                                      const CandidateLists<typename Tile::Score>& lists,
                                      cudaStream_t stream) {
  const size_t warp_bytes = sizeof(typename Tile::Score) * static_cast<size_t>(table.num_groups) +
                            (kTransposed ? sizeof(float) * kStagedStride : 0);
  if (warp_bytes > kSharedBytes) {
    return cudaErrorInvalidValue;
  }
  int warps = kMostRowWarps;
  while (warps > 1 && warps * warp_bytes > kSharedBytes) {
    warps /= 2;
  }
  return launch(collect_candidates_kernel<kTransposed, Tile>, blocks_for(lists.num_rows, warps),
                warps * kWarpSize, warps * warp_bytes, stream, tile, table, first_column, widths,
                last, lists);
}

// The same for a tile that may be transposed.
template <class Product>
cudaError_t launch_collect_products(const ProductTile<Product>& tile, const ListTable& table,
                                    int64_t first_column, const int32_t* widths, bool last,
                                    const CandidateLists<float>& lists, cudaStream_t stream) {
  return tile.transposed ? launch_collect_candidates<true>(tile, table, first_column, widths, last,
                                                           lists, stream)
                         : launch_collect_candidates<false>(tile, table, first_column, widths, last,
                                                            lists, stream);
}

}  // namespace mabm
