// Exclusive prefix sums: counts of rows to the starts of their entries.
#pragma once

#include "common/device.h"

namespace mabm {

constexpr int kScanThreads = 256;
constexpr int kScanWarps = kScanThreads / kWarpSize;
constexpr int kScanPerThread = 4;
constexpr int kScanPerBlock = kScanThreads * kScanPerThread;

// Sum of the values of all earlier threads of the block; *total becomes the sum over all threads.
__device__ inline int64_t block_exclusive_sum(int64_t value, const Shared<int64_t>& warp_totals,
                                              int64_t* total) {
  int64_t inclusive = value;
  for (int distance = 1; distance < kWarpSize; distance *= 2) {
    const int64_t other = __shfl_up_sync(kFullWarp, inclusive, distance);
    inclusive += lane_index() >= distance ? other : 0;
  }
  if (lane_index() == kWarpSize - 1) {
    warp_totals[warp_index()] = inclusive;
  }
  __syncthreads();
  int64_t before = 0;
  *total = 0;
  for (int warp = 0; warp < warps_per_block(); ++warp) {
    before += warp < warp_index() ? warp_totals[warp] : 0;
    *total += warp_totals[warp];
  }
  __syncthreads();  // before another sum writes the totals
  return before + inclusive - value;
}

// Sum of this thread's counts.
__device__ inline int64_t sum_of_thread(const int32_t* counts, int64_t count) {
  const int64_t first = global_thread() * kScanPerThread;
  int64_t sum = 0;
  for (int64_t at = first; at < first + kScanPerThread && at < count; ++at) {
    sum += counts[at];
  }
  return sum;
}

static __global__ void block_sums_kernel(const int32_t* counts, int64_t count,
                                         int64_t* block_sums) {
  MABM_SHARED(int64_t, warp_totals, kScanWarps);
  int64_t total;
  block_exclusive_sum(sum_of_thread(counts, count), warp_totals, &total);
  if (threadIdx.x == 0) {
    block_sums[blockIdx.x] = total;
  }
}

// One block turns the sums of all blocks into the sums before each.
static __global__ void scan_block_sums_kernel(int64_t* block_sums, int64_t num_blocks) {
  MABM_SHARED(int64_t, warp_totals, kScanWarps);
  int64_t before = 0;
  for (int64_t first = 0; first < num_blocks; first += kScanThreads) {
    const int64_t at = first + threadIdx.x;
    const int64_t sum = at < num_blocks ? block_sums[at] : 0;
    int64_t total;
    const int64_t start = before + block_exclusive_sum(sum, warp_totals, &total);
    if (at < num_blocks) {
      block_sums[at] = start;
    }
    before += total;
  }
}

static __global__ void write_starts_kernel(const int32_t* counts, int64_t count,
                                           const int64_t* block_starts, int64_t* starts) {
  MABM_SHARED(int64_t, warp_totals, kScanWarps);
  const int64_t first = global_thread() * kScanPerThread;
  int64_t total;
  int64_t start = block_starts[blockIdx.x] +
                  block_exclusive_sum(sum_of_thread(counts, count), warp_totals, &total);
  for (int64_t at = first; at < first + kScanPerThread && at < count; ++at) {
    starts[at] = start;
    start += counts[at];
    if (at == count - 1) {
      starts[count] = start;
    }
  }
}

static __global__ void write_zero_kernel(int64_t* value) { *value = 0; }

// Entries of the scratch that launch_exclusive_sum needs.
inline int64_t exclusive_sum_scratch(int64_t count) { return blocks_for(count, kScanPerBlock); }

// starts[i] = counts[0] + ... + counts[i - 1], for i = 0..count.
inline cudaError_t launch_exclusive_sum(const int32_t* counts, int64_t count, int64_t* starts,
                                        int64_t* scratch, cudaStream_t stream) {
  const int64_t blocks = exclusive_sum_scratch(count);
  if (blocks == 0) {
    return launch(write_zero_kernel, 1, 1, 0, stream, starts);
  }
  cudaError_t error =
      launch(block_sums_kernel, blocks, kScanThreads, 0, stream, counts, count, scratch);
  if (error == cudaSuccess) {
    error = launch(scan_block_sums_kernel, 1, kScanThreads, 0, stream, scratch, blocks);
  }
  if (error == cudaSuccess) {
    error = launch(write_starts_kernel, blocks, kScanThreads, 0, stream, counts, count,
                   static_cast<const int64_t*>(scratch), starts);
  }
  return error;
}

}  // namespace mabm
