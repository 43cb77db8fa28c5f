// Encoded rows by column ("inverted"): for each sample, the rows that hold it, ascending.
//
// Entries are sorted by column with PyTorch's stable sort, which takes fewer than 2^31 numbers at a
// time. Many entries are sorted in parts, and each part is placed after the earlier ones column by
// column. Rows ascend from part to part, so that the result is that of one sort.
#pragma once

#include "common/device.h"

namespace mabm {

constexpr int kInvertThreads = 256;

// One entry of an encoding, seen from its column.
struct alignas(8) ColumnEntry {  // read in one load
  int32_t row;
  int32_t weight;
};

// The encoded rows by column: for each sample l, the rows that hold l, ascending.
struct InvertedRows {
  const int64_t* starts;
  const ColumnEntry* entries;
};

// row_of[at] = the row of entry `at`. One warp per row.
static __global__ void rows_of_entries_kernel(const int64_t* indptr, int64_t num_rows,
                                              int32_t* row_of) {
  const int64_t row = global_warp();
  if (row >= num_rows) {
    return;
  }
  for (int64_t at = indptr[row] + lane_index(); at < indptr[row + 1]; at += kWarpSize) {
    row_of[at] = static_cast<int32_t>(row);
  }
}

inline cudaError_t launch_rows_of_entries(const int64_t* indptr, int64_t num_rows, int32_t* row_of,
                                          cudaStream_t stream) {
  return launch(rows_of_entries_kernel, blocks_for(num_rows, kInvertThreads / kWarpSize),
                kInvertThreads, 0, stream, indptr, num_rows, row_of);
}

// Consecutive entries in the order of a stable sort by column: their columns, their rows and
// weights before the sort, and the place that each one had.
struct SortedEntries {
  int64_t count;
  const int32_t* columns;
  const int64_t* order;
  const int32_t* row_of;
  const int32_t* weights;
};

// Moves each entry to its place in the order, plus the shift of its column if there are shifts.
static __global__ void invert_entries_kernel(SortedEntries sorted, const int64_t* shifts,
                                             ColumnEntry* entries) {
  const int64_t at = global_thread();
  if (at < sorted.count) {
    const int64_t to = shifts == nullptr ? at : at + shifts[sorted.columns[at]];
    const int64_t from = sorted.order[at];
    entries[to] = {sorted.row_of[from], sorted.weights[from]};
  }
}

inline cudaError_t launch_invert_entries(const SortedEntries& sorted, const int64_t* shifts,
                                         ColumnEntry* entries, cudaStream_t stream) {
  return launch(invert_entries_kernel, blocks_for(sorted.count, kInvertThreads), kInvertThreads, 0,
                stream, sorted, shifts, entries);
}

// The first place, from `low` on, of a column that is not below `column`.
__device__ inline int64_t first_place(const SortedEntries& sorted, int64_t low, int64_t column) {
  int64_t high = sorted.count;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (sorted.columns[middle] < column) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// starts[c] = the first place of a column that is not below c.
static __global__ void column_starts_kernel(SortedEntries sorted, int64_t num_columns,
                                            int64_t* starts) {
  const int64_t column = global_thread();
  if (column <= num_columns) {
    starts[column] = first_place(sorted, 0, column);
  }
}

// Inverts rows whose entries were sorted all at once.
inline cudaError_t launch_invert_rows(const SortedEntries& sorted, int64_t num_columns,
                                      int64_t* starts, ColumnEntry* entries, cudaStream_t stream) {
  const cudaError_t error = launch_invert_entries(sorted, nullptr, entries, stream);
  return error != cudaSuccess
             ? error
             : launch(column_starts_kernel, blocks_for(num_columns + 1, kInvertThreads),
                      kInvertThreads, 0, stream, sorted, num_columns, starts);
}

// Adds to each column the number of its entries.
static __global__ void count_columns_kernel(const int32_t* columns, int64_t num_entries,
                                            int32_t* counts) {
  const int64_t at = global_thread();
  if (at < num_entries) {
    atomicAdd(&counts[columns[at]], 1);
  }
}

inline cudaError_t launch_count_columns(const int32_t* columns, int64_t num_entries,
                                        int32_t* counts, cudaStream_t stream) {
  return launch(count_columns_kernel, blocks_for(num_entries, kInvertThreads), kInvertThreads, 0,
                stream, columns, num_entries, counts);
}

// How far the entries of each column move from their place in a part, to follow those of earlier
// parts; left[c] is the number of entries of column c that no part has had, before and after.
static __global__ void shift_columns_kernel(SortedEntries part, int64_t num_columns,
                                            const int64_t* starts, int32_t* left, int64_t* shifts) {
  const int64_t column = global_thread();
  if (column < num_columns) {
    const int64_t begin = first_place(part, 0, column);
    const int64_t end = first_place(part, begin, column + 1);
    shifts[column] = starts[column + 1] - left[column] - begin;
    left[column] -= static_cast<int32_t>(end - begin);
  }
}

// Inverts a part of the entries, from the starts of all columns. `left` begins as the counts of
// columns and passes from part to part; `shifts` is scratch with a place for each column.
inline cudaError_t launch_invert_part(const SortedEntries& part, int64_t num_columns,
                                      const int64_t* starts, int32_t* left, int64_t* shifts,
                                      ColumnEntry* entries, cudaStream_t stream) {
  const cudaError_t error =
      launch(shift_columns_kernel, blocks_for(num_columns, kInvertThreads), kInvertThreads, 0,
             stream, part, num_columns, starts, left, shifts);
  return error != cudaSuccess ? error : launch_invert_entries(part, shifts, entries, stream);
}

}  // namespace mabm
