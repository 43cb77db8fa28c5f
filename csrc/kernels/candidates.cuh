// Candidates of a ranking: the best scores of each row, collected from tiles into lists.
//
// One warp per row, so nothing here is atomic. Lists may be longer than shared memory, so
// they stay in global memory; their counts and thresholds are in shared memory while a tile is
// collected.
#pragma once

#include "common/device.h"
#include "common/rows.h"
#include "kernels/cut_list.cuh"

namespace mabm {

// Most warps of a block, one row each.
constexpr int kMostRowWarps = 8;
// Blocks of this size that a multiprocessor has registers for: 80 a thread, without spills.
constexpr int kLeastBlocks = 3;
// Runs of a warp's width whose scores are loaded before the first is examined, and their columns.
constexpr int kScanUnroll = 4;
constexpr int kScanColumns = kScanUnroll * kWarpSize;
// Columns of a transposed tile lie this far apart in shared memory for each row: eight rows and
// four columns, which a warp writes together, fall into different banks.
constexpr int kStagedStride = kScanColumns + 4;

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

// Columns that a warp looks at together: kScanUnroll runs of neighbors, `stride` apart.
struct Chunk {
  int64_t first;
  int64_t stride;

  __device__ int64_t column(int at) const {
    return first + at / kWarpSize * stride + at % kWarpSize;
  }
};

// The lists of one row, as its warp adds to them. What is in shared memory begins at `base` for
// this warp.
template <class Score>
struct RowLists {
  const CandidateLists<Score>& lists;
  const int32_t* widths;
  Score gap;
  int64_t first;  // number of the first list
  const Shared<Score>& thresholds;
  const Shared<int32_t>& counts;
  const Shared<Score>& best;  // of each class of a sample, list by list; none if there is no sample
  int base;

  __device__ int num_lists() const { return static_cast<int>(lists.num_lists); }

  // Reads what is kept in shared memory.
  __device__ void load() const {
    for (int list = lane_index(); list < num_lists(); list += kWarpSize) {
      const int32_t count = lists.counts[first + list];
      counts[base + list] = count;
      // Nothing compares with NaN.
      thresholds[base + list] =
          count < 0 ? static_cast<Score>(NAN) : lists.thresholds[first + list];
    }
    __syncwarp();
  }

  __device__ void store() const {
    for (int list = lane_index(); list < num_lists(); list += kWarpSize) {
      const int32_t count = counts[base + list];
      lists.counts[first + list] = count;
      lists.thresholds[first + list] =
          count < 0 ? static_cast<Score>(INFINITY) : thresholds[base + list];
    }
  }

  __device__ bool takes(Score score, int list) const {
    return list >= 0 && score >= thresholds[base + list];
  }

  // Whether a sample raises the threshold of a list.
  __device__ bool is_new(int list) const {
    return counts[base + list] == 0 && thresholds[base + list] == static_cast<Score>(-INFINITY);
  }

  __device__ Score& best_of_class(int list) const {
    return best[(base + list) * kSampleClasses + lane_index()];
  }

  __device__ void clear_sample() const {
    for (int list = 0; list < num_lists(); ++list) {
      best_of_class(list) = static_cast<Score>(-INFINITY);
    }
  }

  __device__ void add_to_sample(Score score, int list) const {
    if (list >= 0 && score > best_of_class(list)) {
      best_of_class(list) = score;
    }
  }

  // Raises the thresholds of new lists to what a sample proves.
  __device__ void raise_thresholds() const {
    constexpr Score lowest = static_cast<Score>(-INFINITY);
    __syncwarp();
    for (int list = 0; list < num_lists(); ++list) {
      if (!is_new(list) || !sample_raises(widths[list])) {
        continue;
      }
      const Score* classes = &best[(base + list) * kSampleClasses];
      const Score last = score_of(find_boundary(classes, kSampleClasses, widths[list]).key);
      if (lane_index() == 0) {
        thresholds[base + list] = nextafter(last - (gap > 0 ? gap : Score{}), lowest);
      }
      __syncwarp();
    }
  }

  // Cuts a list of `count` entries. If it is full, more are to come, and it may overflow.
  __device__ void cut(int list, int count) const {
    const int64_t at = (first + list) * lists.capacity;
    Score threshold = thresholds[base + list];
    const bool is_full = count == lists.capacity;
    count = cut_list(lists.scores + at, lists.indices + at, count, Cut<Score>{widths[list], gap},
                     &threshold);
    if (is_full && lists.overflows(count)) {
      count = -1;
      threshold = static_cast<Score>(NAN);
    }
    __syncwarp();  // every lane has read the threshold
    if (lane_index() == 0) {
      counts[base + list] = count;
      thresholds[base + list] = threshold;
    }
    __syncwarp();
  }

  // Adds a sample in each lane, to list -1 if there is none, in the order of the lanes. List by
  // list: the lanes that add to it take its next places.
  __device__ void add(Score score, int list, int32_t index) const {
    bool waits = takes(score, list);
    for (unsigned waiting = __ballot_sync(kFullWarp, waits); waiting != 0;
         waiting = __ballot_sync(kFullWarp, waits)) {
      const int chosen = __shfl_sync(kFullWarp, list, __ffs(waiting) - 1);
      const unsigned same = __ballot_sync(kFullWarp, waits && list == chosen);
      const int64_t at = (first + chosen) * lists.capacity;
      const int capacity = static_cast<int>(lists.capacity);
      const int before = counts[base + chosen];
      const int place = before + lanes_before(same);
      const int count = lesser(before + __popc(same), capacity);
      if (waits && list == chosen && place < capacity) {
        lists.scores[at + place] = score;
        lists.indices[at + place] = index;
        waits = false;
      }
      __syncwarp();
      if (count == capacity) {
        cut(chosen, count);
        waits = waits && takes(score, list);
      } else if (lane_index() == 0) {
        counts[base + chosen] = count;
      }
      __syncwarp();
    }
  }

  __device__ void cut_all() const {
    for (int list = 0; list < num_lists(); ++list) {
      const int count = counts[base + list];
      if (count > widths[list]) {
        cut(list, count);
      }
    }
    __syncwarp();
  }
};

// A row of a tile as its warp reads it: scores, and the lists that columns fall into.
template <bool kTransposed, class Tile>
struct RowOfTile {
  using Score = typename Tile::Score;
  using Product = decltype(Tile{}.product(0, 0));

  const Tile& tile;
  int64_t row;
  const int32_t* column_groups;
  const int32_t* list_of;
  const Shared<Product>& staged;

  // -1 if there is no such column.
  __device__ int list_at(int64_t column) const {
    return column < tile.num_columns ? list_of[column_groups[column]] : -1;
  }

  // Reads the columns of a chunk. Called by a whole block if the tile is transposed.
  __device__ void read(const Chunk& chunk, Score* scores, int* lists) const {
    if constexpr (kTransposed) {
      stage(chunk);
    }
#pragma unroll
    for (int run = 0; run < kScanUnroll; ++run) {
      const int at = run * kWarpSize + lane_index();
      const int64_t column = chunk.column(at);
      lists[run] = list_at(column);
      scores[run] = Score{};
      if (lists[run] >= 0) {
        const Product product =
            kTransposed ? staged[warp_index() * kStagedStride + at] : tile.product(row, column);
        scores[run] = tile.score(product, row, column);
      }
    }
  }

  // Copies the products of the block's rows, which lie side by side in a transposed tile.
  __device__ void stage(const Chunk& chunk) const {
    const int rows = warps_per_block();
    const int64_t first_row = global_warp() - warp_index();
    __syncthreads();  // the last ones have been read
    for (int at = static_cast<int>(threadIdx.x); at < rows * kScanColumns;
         at += static_cast<int>(blockDim.x)) {
      const int64_t its_row = first_row + at % rows;
      const int64_t column = chunk.column(at / rows);
      if (its_row < tile.num_rows && column < tile.num_columns) {
        staged[at % rows * kStagedStride + at / rows] = tile.product(its_row, column);
      }
    }
    __syncthreads();
  }
};

// Whether a tile has a sample for a list that is new.
template <class Row, class Score>
__device__ bool has_sample(const Row& row, const RowLists<Score>& own) {
  bool found = false;
  for (int list = lane_index(); list < own.num_lists(); list += kWarpSize) {
    found = found || own.is_new(list);
  }
  if (!__any_sync(kFullWarp, found)) {
    return false;
  }
  const int64_t stride = sample_stride(row.tile.num_columns);
  found = false;
  for (int run = 0; run < kSampleRuns; ++run) {
    const int list = row.list_at(run * stride + lane_index());
    found = found || (list >= 0 && own.is_new(list));
  }
  return __any_sync(kFullWarp, found);
}

// Adds one tile to the lists of its rows, columns ascending; cuts all lists after the last tile.
// Reads every product once, and those of a sample before where a list is new.
template <bool kTransposed, class Tile>
__global__ void __launch_bounds__(kMostRowWarps* kWarpSize, kLeastBlocks)
    collect_candidates_kernel(Tile tile, ListTable table, int64_t first_column,
                              const int32_t* widths, bool last,
                              CandidateLists<typename Tile::Score> lists) {
  using Row = RowOfTile<kTransposed, Tile>;
  using Score = typename Tile::Score;
  const bool has_room = has_samples(lists.num_lists);
  const int num_lists = static_cast<int>(lists.num_lists) * warps_per_block();
  DynamicShared shared;
  const Shared<Score> thresholds = shared.take<Score>(num_lists);
  const Shared<Score> best = shared.take<Score>(has_room ? num_lists * kSampleClasses : 0);
  const auto staged =
      shared.take<typename Row::Product>(kTransposed ? warps_per_block() * kStagedStride : 0);
  const Shared<int32_t> counts = shared.take<int32_t>(num_lists);
  const bool has_row = global_warp() < lists.num_rows;
  if (!kTransposed && !has_row) {
    return;
  }
  const int64_t row = has_row ? global_warp() : lists.num_rows - 1;
  const RowLists<Score> own{
      lists,      widths, tile.gap(row), row * lists.num_lists,
      thresholds, counts, best,          warp_index() * static_cast<int>(lists.num_lists)};
  const Row columns{tile, row, table.column_groups, table.lists_of_row(row), staged};
  Score scores[kScanUnroll];
  int list_of[kScanUnroll];
  own.load();
  bool samples = has_room && has_sample(columns, own);
  if constexpr (kTransposed) {
    samples = __syncthreads_or(samples);
  }
  if (samples) {
    own.clear_sample();
    const int64_t stride = sample_stride(tile.num_columns);
    for (int run = 0; run < kSampleRuns; run += kScanUnroll) {
      columns.read({run * stride, stride}, scores, list_of);
#pragma unroll
      for (int at = 0; at < kScanUnroll; ++at) {
        own.add_to_sample(scores[at], list_of[at]);
      }
    }
    own.raise_thresholds();
  }
  for (int64_t first = 0; first < tile.num_columns; first += kScanColumns) {
    columns.read({first, kWarpSize}, scores, list_of);
    bool any = false;
#pragma unroll
    for (int run = 0; run < kScanUnroll; ++run) {
      any = any || own.takes(scores[run], list_of[run]);
    }
    if (!has_row || !__any_sync(kFullWarp, any)) {
      continue;
    }
#pragma unroll
    for (int run = 0; run < kScanUnroll; ++run) {
      const int64_t column = first_column + first + run * kWarpSize + lane_index();
      own.add(scores[run], list_of[run], static_cast<int32_t>(column));
    }
  }
  if (!has_row) {
    return;
  }
  if (last) {
    own.cut_all();
  }
  own.store();
}

// Adds the tile of samples first_column.. to the lists; list l is cut to widths[l].
template <bool kTransposed = false, class Tile>
cudaError_t launch_collect_candidates(const Tile& tile, const ListTable& table,
                                      int64_t first_column, const int32_t* widths, bool last,
                                      const CandidateLists<typename Tile::Score>& lists,
                                      cudaStream_t stream) {
  using Score = typename Tile::Score;
  const auto num_lists = static_cast<size_t>(lists.num_lists);
  const size_t list_bytes = sizeof(int32_t) + sizeof(Score) +
                            (has_samples(lists.num_lists) ? kSampleClasses * sizeof(Score) : 0);
  const size_t warp_bytes =
      num_lists * list_bytes + (kTransposed ? sizeof(float) * kStagedStride : 0);
  static_assert(kMostLists * (sizeof(int32_t) + sizeof(double)) <= kPlainShared);
  int warps = kMostRowWarps;
  while (warps > 1 && warps * warp_bytes > kPlainShared) {
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
