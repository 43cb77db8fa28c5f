// Rows of unequal length on the GPU: count, add up, allocate, fill.
#pragma once

#include "kernels/prefix_sum.cuh"
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

}  // namespace mabm
