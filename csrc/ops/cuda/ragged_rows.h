// Rows of unequal length on the GPU: count, add up, allocate, fill.
#pragma once

#include <algorithm>
#include <limits>

#include "kernels/prefix_sum.cuh"
#include "kernels/row_table.cuh"
#include "ops/cuda/on_device.h"

namespace mabm {

// indptr (N + 1) from the counts (N) of the rows.
inline Tensor starts_of(const OnDevice& on, const Tensor& counts) {
  const int64_t num_rows = counts.numel();
  Tensor starts = on.make<int64_t>({num_rows + 1}, "the starts of rows");
  Tensor scratch = on.make<int64_t>({exclusive_sum_scratch(num_rows)}, "the sums of row blocks");
  on.check(launch_exclusive_sum(read<int32_t>(counts), num_rows, write<int64_t>(starts),
                                write<int64_t>(scratch), on.stream()),
           "prefix sum");
  return starts;
}

// The number of entries of rows, which the host must know to allocate them.
inline int64_t read_total(const OnDevice& on, const Tensor& starts) {
  int64_t total = 0;
  on.read(read<int64_t>(starts) + starts.numel() - 1, &total);
  return total;
}

// Memory for the tables of rows that do not fit in shared memory. With fewer tables the work takes
// longer; the result is the same.
constexpr int64_t kTableBytes = int64_t{256} << 20;

// Rows that blocks gather in tables: count(rows, scratch) runs the first pass, fill(rows, starts,
// indices, weights, scratch) the second, each over the rows that fit in shared memory (scratch is
// null) and then, if there are any, over those that do not.
struct GatheredRows {
  Tensor indptr;
  Tensor indices;
  Tensor weights;  // of no entries where kSums is not set
};

template <bool kSums, class Count, class Fill>
GatheredRows gather_rows(const OnDevice& on, int64_t num_rows, const Count& count,
                         const Fill& fill) {
  Tensor counts = on.make<int32_t>({num_rows}, "the counts of rows");
  Tensor too_long = on.make_zeros<bool>({num_rows}, "the marks of long rows");
  Tensor num_too_long = on.make_zeros<int64_t>({1}, "the number of long rows");
  const RowCounts rows{write<int32_t>(counts), write<bool>(too_long),
                       reinterpret_cast<unsigned long long*>(write<int64_t>(num_too_long))};
  on.check(count(rows, nullptr), "counting rows");
  Tensor starts = starts_of(on, counts);

  int64_t num_long = 0;
  int64_t total = 0;
  on.read(read<int64_t>(num_too_long), read<int64_t>(starts) + num_rows, &num_long, &total);
  Tensor keys;
  Tensor sums;
  Tensor members;
  TableScratch scratch{};
  if (num_long > 0) {
    const int64_t slots = table_slots(num_rows);
    STD_TORCH_CHECK(slots <= std::numeric_limits<int>::max() / 2,
                    "rows with so many entries must be fewer than 2^29, got ", num_rows);
    const int64_t table_bytes = slots * (4 + 4 + (kSums ? 8 : 0));
    scratch.count = std::max<int64_t>(1, std::min(num_long, kTableBytes / table_bytes));
    scratch.slots = static_cast<int>(slots);
    keys = on.make<int32_t>({scratch.count, slots}, "the tables of long rows");
    members = on.make<int32_t>({scratch.count, slots}, "the tables of long rows");
    sums = on.make<int64_t>({scratch.count, kSums ? slots : 0}, "the tables of long rows");
    scratch.keys = write<int32_t>(keys);
    scratch.members = write<int32_t>(members);
    scratch.sums = reinterpret_cast<unsigned long long*>(write<int64_t>(sums));
    on.check(count(rows, &scratch), "counting long rows");
    starts = starts_of(on, counts);
    total = read_total(on, starts);
  }

  Tensor indices = on.make<int32_t>({total}, "the entries of rows");
  Tensor weights = on.make<int32_t>({kSums ? total : 0}, "the weights of rows");
  for (const TableScratch* tables :
       {static_cast<const TableScratch*>(nullptr), static_cast<const TableScratch*>(&scratch)}) {
    if (tables == nullptr || num_long > 0) {
      on.check(fill(rows, read<int64_t>(starts), write<int32_t>(indices), write<int32_t>(weights),
                    tables),
               "filling rows");
    }
  }
  return {starts, indices, weights};
}

}  // namespace mabm
