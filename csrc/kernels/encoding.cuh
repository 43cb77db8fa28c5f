// Encoding and local query expansion: neighbor sets to weighted rows (method steps 4 and 5).
#pragma once

#include "common/device.h"
#include "common/fixed_point.h"
#include "common/rows.h"
#include "kernels/row_table.cuh"
#include "kernels/row_windows.cuh"
#include "kernels/scores.cuh"

namespace mabm {

// Neighbors scored together by a warp: about as many as a ranking has left unknown in a row.
constexpr int kEncodeBatch = 4;

// Combines one value of each warp of a block (a sum or an extreme); the result is the same in every
// thread. `values` has a place for each warp.
template <class T, class Combine>
__device__ T combine_warps(T value, const Shared<T>& values, const Combine& combine) {
  __syncthreads();  // an earlier use of the places is over
  if (lane_index() == 0) {
    values[warp_index()] = value;
  }
  __syncthreads();
  T result = values[0];
  for (int warp = 1; warp < warps_per_block(); ++warp) {
    result = combine(result, values[warp]);
  }
  return result;
}

// Writes the inner products of a row with those of its neighbors that its ranking has, and
// not-a-number for the others. Called by a whole block, with a barrier after.
__device__ inline void take_ranked_products(const Rows& neighbors, int64_t row,
                                            const RankedProducts& known, double* products) {
  for (int64_t at = neighbors.begin(row) + threadIdx.x; at < neighbors.end(row); at += blockDim.x) {
    products[at] = NAN;
  }
  __syncthreads();
  for (int64_t slot = threadIdx.x; slot < known.width; slot += blockDim.x) {
    const int64_t sample = known.ranks[row * known.width + slot];
    int64_t low = neighbors.begin(row);
    int64_t high = neighbors.end(row);
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (neighbors.indices[middle] < sample) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    if (low < neighbors.end(row) && neighbors.indices[low] == sample) {
      products[low] = known.products[row * known.width + slot];
    }
  }
  __syncthreads();
}

// The product with `row` that the ranking of `other` has, or not-a-number.
__device__ inline double product_ranked_by(int64_t other, int64_t row,
                                           const RankedProducts& known) {
  for (int64_t at = other * known.width; at < (other + 1) * known.width; ++at) {
    if (known.ranks[at] == row) {
      return known.products[at];
    }
  }
  return NAN;
}

// Writes the inner products of a row with its neighbors. Those that a ranking has, of the row or of
// the neighbor, are looked up: that costs far less than reading another row of features. `unknown`
// is scratch with a place for each neighbor, `num_unknown` one int of shared memory. Called by a
// whole block, with a barrier after.
__device__ inline void find_products(const float* features, int64_t dim, const Rows& neighbors,
                                     int64_t row, const RankedProducts& known, double* products,
                                     int32_t* unknown, const Shared<int>& num_unknown) {
  if (threadIdx.x == 0) {
    num_unknown[0] = 0;
  }
  take_ranked_products(neighbors, row, known, products);
  const int64_t begin = neighbors.begin(row);
  unknown += begin;
  // In any order: each product has its own place.
  for (int64_t at = begin + threadIdx.x; at < neighbors.end(row); at += blockDim.x) {
    double product = products[at];
    if (isnan(product)) {
      product = product_ranked_by(neighbors.indices[at], row, known);
      products[at] = product;
    }
    if (isnan(product)) {
      unknown[atomicAdd(&num_unknown[0], 1)] = static_cast<int32_t>(at - begin);
    }
  }
  __syncthreads();
  const int count = num_unknown[0];
  for (int first = warp_index() * kEncodeBatch; first < count;
       first += warps_per_block() * kEncodeBatch) {
    const float* others[kEncodeBatch];
#pragma unroll
    for (int k = 0; k < kEncodeBatch; ++k) {
      // The last batch is filled up with the last neighbor.
      others[k] = features + neighbors.indices[begin + unknown[lesser(first + k, count - 1)]] * dim;
    }
    double scores[kEncodeBatch];
    score_row<false>(features + row * dim, others, dim, scores);
#pragma unroll
    for (int k = 0; k < kEncodeBatch; ++k) {
      if (lane_index() == k && first + k < count) {
        products[begin + unknown[first + k]] = scores[k];
      }
    }
  }
  __syncthreads();
}

// A value of each warp of a block that weighs a row, in shared memory.
struct WarpValues {
  const Shared<double>& products;
  const Shared<unsigned long long>& totals;
  const Shared<int>& counts;
};

// A weight for each entry of a row, the softmax of -(2 - 2 p) over the products p of the entries,
// which may be 0; returns the number of positive ones, or one for a row without entries. `parts` is
// scratch with a place for each entry, and may be the products. Called by a whole block.
__device__ inline int weigh_row(const Rows& sets, int64_t row, const double* products,
                                double* parts, int32_t* weights, const WarpValues& values) {
  const int64_t begin = sets.begin(row);
  const int64_t end = sets.end(row);
  double greatest = -INFINITY;
  for (int64_t at = begin + threadIdx.x; at < end; at += blockDim.x) {
    greatest = products[at] > greatest ? products[at] : greatest;
  }
  greatest = combine_warps(warp_max(greatest), values.products,
                           [](double a, double b) { return a > b ? a : b; });
  unsigned long long total = 0;
  for (int64_t at = begin + threadIdx.x; at < end; at += blockDim.x) {
    const auto part =
        static_cast<unsigned long long>(fine_units(exp_nonpositive(2 * (products[at] - greatest))));
    parts[at] = __longlong_as_double(static_cast<long long>(part));  // its bits, for later
    total += part;
  }
  const auto add = [](auto a, auto b) { return a + b; };
  total = combine_warps(warp_sum(total), values.totals, add);
  int count = 0;
  for (int64_t at = begin + threadIdx.x; at < end; at += blockDim.x) {
    weights[at] = weight_of(static_cast<uint64_t>(__double_as_longlong(parts[at])), total);
    count += weights[at] > 0;
  }
  count = combine_warps(warp_sum(count), values.counts, add);
  return begin < end ? count : 1;
}

// V_ij = softmax over j in E(i) of -(2 - 2 x_i . x_j): a weight for each entry of the sets, and the
// number of positive ones in each row. `products` is scratch with a place for each entry. One block
// per row.
static __global__ void weigh_neighbors_kernel(const float* features, int64_t dim, Rows neighbors,
                                              RankedProducts known, double* products,
                                              int32_t* weights, int32_t* counts) {
  constexpr int kWarps = kRowThreads / kWarpSize;
  MABM_SHARED(double, warp_products, kWarps);
  MABM_SHARED(unsigned long long, warp_totals, kWarps);
  MABM_SHARED(int, warp_counts, kWarps);
  MABM_SHARED(int, num_unknown, 1);
  const int64_t row = blockIdx.x;
  find_products(features, dim, neighbors, row, known, products, weights, num_unknown);
  const int count = weigh_row(neighbors, row, products, products, weights,
                              {warp_products, warp_totals, warp_counts});
  if (threadIdx.x == 0) {
    counts[row] = count;
  }
}

// A ranking of width 0 has no products.
inline cudaError_t launch_weigh_neighbors(const float* features, int64_t dim, const Rows& neighbors,
                                          const RankedProducts& known, double* products,
                                          int32_t* weights, int32_t* counts, cudaStream_t stream) {
  return launch(weigh_neighbors_kernel, neighbors.count, kRowThreads, 0, stream, features, dim,
                neighbors, known, products, weights, counts);
}

// The same from products that are given. One block per row.
static __global__ void weigh_products_kernel(Rows sets, const double* products, double* parts,
                                             int32_t* weights, int32_t* counts) {
  constexpr int kWarps = kRowThreads / kWarpSize;
  MABM_SHARED(double, warp_products, kWarps);
  MABM_SHARED(unsigned long long, warp_totals, kWarps);
  MABM_SHARED(int, warp_counts, kWarps);
  const int64_t row = blockIdx.x;
  const int count =
      weigh_row(sets, row, products, parts, weights, {warp_products, warp_totals, warp_counts});
  if (threadIdx.x == 0) {
    counts[row] = count;
  }
}

inline cudaError_t launch_weigh_products(const Rows& sets, const double* products, double* parts,
                                         int32_t* weights, int32_t* counts, cudaStream_t stream) {
  return launch(weigh_products_kernel, sets.count, kRowThreads, 0, stream, sets, products, parts,
                weights, counts);
}

// Keeps the positive weights of each row; a row without entries becomes one-hot at first_row and
// its number. One warp per row.
static __global__ void keep_positive_kernel(Rows rows, int64_t first_row, const int64_t* starts,
                                            int32_t* indices, int32_t* weights) {
  const int64_t row = global_warp();
  if (row >= rows.count) {
    return;
  }
  const int64_t begin = rows.begin(row);
  const int64_t end = rows.end(row);
  int64_t out = starts[row];
  if (begin == end && lane_index() == 0) {
    indices[out] = static_cast<int32_t>(first_row + row);
    weights[out] = static_cast<int32_t>(kOne);
  }
  for (int64_t first = begin; first < end; first += kWarpSize) {
    const int64_t at = first + lane_index();
    const int32_t weight = at < end ? rows.weights[at] : 0;
    const unsigned keeps = __ballot_sync(kFullWarp, weight > 0);
    if (weight > 0) {
      indices[out + lanes_before(keeps)] = rows.indices[at];
      weights[out + lanes_before(keeps)] = weight;
    }
    out += __popc(keeps);
  }
}

inline cudaError_t launch_keep_positive(const Rows& rows, int64_t first_row, const int64_t* starts,
                                        int32_t* indices, int32_t* weights, cudaStream_t stream) {
  return launch(keep_positive_kernel, blocks_for(rows.count, kRowThreads / kWarpSize), kRowThreads,
                0, stream, rows, first_row, starts, indices, weights);
}

// Rows of an encoding to average for each of `count` rows: `width` of them, -1 for none, with their
// weights.
struct AveragedRows {
  int64_t count;
  int64_t width;
  const int64_t* neighbors;
  const double* weights;
};

// The least part of `total` that has a positive weight, or 2^64 - 1 if the total is 0. Weights
// ascend with parts, so that a comparison of integers replaces a division for each part. Each warp
// finds it alone: the least weight is rounded up from half of 2^-30, and the rounding of the
// operands moves that by far less than one part.
__device__ inline unsigned long long least_positive_part(unsigned long long total) {
  const unsigned long long first = total >> 31;
  const bool is_positive = weight_of(first + lane_index(), total) > 0;
  return first + __ffs(static_cast<int>(__ballot_sync(kFullWarp, is_positive))) - 1;
}

// V'_i = the mean of the rows V[neighbors[i, m]], weighted: a first pass counts the entries of each
// row, a second writes them, ascending. One block per row; a long row is left to
// average_long_rows_kernel.
template <bool kFill>
__global__ void average_encodings_kernel(Rows encoding, AveragedRows averaged, RowCounts rows,
                                         const int64_t* starts, int32_t* indices,
                                         int32_t* weights) {
  MABM_SHARED(int, size, 1);
  MABM_SHARED(unsigned long long, warp_totals, kRowThreads / kWarpSize);
  const int64_t row = blockIdx.x;
  if (kFill && rows.is_long[row]) {
    return;
  }
  RowTable table(size);
  table.clear();
  unsigned long long total = 0;
  for (int64_t m = row * averaged.width + warp_index(); m < (row + 1) * averaged.width;
       m += warps_per_block()) {
    const int64_t other = averaged.neighbors[m];
    if (other < 0) {
      continue;
    }
    const uint64_t factor = fine_units(averaged.weights[m]);
    const int64_t end = encoding.end(other);
    for (int64_t at = encoding.begin(other) + lane_index(); at < end && !table.overflows();
         at += kWarpSize) {
      const unsigned long long part = factor * static_cast<uint64_t>(encoding.weights[at]);
      table.add(encoding.indices[at], part);
      total += part;
    }
  }
  total = combine_warps(warp_sum(total), warp_totals,
                        [](unsigned long long a, unsigned long long b) { return a + b; });
  const bool complete = table.complete();
  const int count = complete ? table.keep(least_positive_part(total)) : 0;
  if (kFill) {
    table.for_each_kept([&](int32_t member, unsigned long long sum, int place) {
      indices[starts[row] + place] = member;
      weights[starts[row] + place] = weight_of(sum, total);
    });
  } else if (threadIdx.x == 0) {
    rows.note(row, complete, count);
  }
}

// One pass over all rows. A pass that is given `starts` fills.
inline cudaError_t launch_average_encodings(const Rows& encoding, const AveragedRows& averaged,
                                            const RowCounts& rows, const int64_t* starts,
                                            int32_t* indices, int32_t* weights,
                                            cudaStream_t stream) {
  return launch(
      starts == nullptr ? average_encodings_kernel<false> : average_encodings_kernel<true>,
      averaged.count, kRowThreads, RowTable::kBytes, stream, encoding, averaged, rows, starts,
      indices, weights);
}

// One block per multiprocessor, for its whole shared memory: the most threads that all GPUs have.
constexpr int kWindowThreads = 1024;

// The sum of all parts of a row; this thread's share of it.
__device__ inline unsigned long long add_up_parts(const Rows& encoding,
                                                  const AveragedRows& averaged, int64_t row) {
  unsigned long long total = 0;
  for (int64_t m = row * averaged.width; m < (row + 1) * averaged.width; ++m) {
    const int64_t other = averaged.neighbors[m];
    const uint64_t factor = other < 0 ? 0 : fine_units(averaged.weights[m]);
    const int64_t end = other < 0 ? 0 : encoding.end(other);
    for (int64_t at = other < 0 ? 0 : encoding.begin(other) + threadIdx.x; at < end;
         at += blockDim.x) {
      total += factor * static_cast<uint64_t>(encoding.weights[at]);
    }
  }
  return total;
}

// Adds the parts of a row in the window of columns that begins at `first`, and lowers *next to the
// first column with a part behind it. The warps of the block share the rows that are averaged.
__device__ inline void add_window(const Rows& encoding, const AveragedRows& averaged, int64_t row,
                                  int32_t first, const SharedSums& sums, int* next) {
  const int64_t warps_each =
      averaged.width < warps_per_block() ? warps_per_block() / averaged.width : 1;
  for (int64_t job = warp_index(); job < averaged.width * warps_each; job += warps_per_block()) {
    const int64_t m = row * averaged.width + job / warps_each;
    const int64_t other = averaged.neighbors[m];
    if (other < 0) {
      continue;
    }
    const uint64_t factor = fine_units(averaged.weights[m]);
    const int64_t end = encoding.end(other);
    const int64_t begin = first_not_below(encoding.indices, encoding.begin(other), end, first);
    for (int64_t at = begin + job % warps_each * kWarpSize + lane_index(); at < end;
         at += warps_each * kWarpSize) {
      const int32_t column = encoding.indices[at];
      const auto weight = static_cast<uint64_t>(encoding.weights[at]);
      if (column - first >= sums.size()) {
        atomicMin(next, column);
        break;
      }
      sums.add(column - first, factor * weight);
    }
  }
}

// The same for the long rows, one block for each of the list. A window of columns at a time has a
// sum for each column in shared memory. With the W columns of a window and P parts, a row of N
// columns costs P additions in shared memory and N / W searches in each averaged row, and N sums
// are cleared and read. A hash table in global memory would cost 128 bytes of it for each part,
// sorting the parts eight times their bytes.
template <bool kFill>
__global__ void __launch_bounds__(kWindowThreads, 1)
    average_long_rows_kernel(Rows encoding, AveragedRows averaged, RowCounts rows, int window,
                             const int64_t* starts, int32_t* indices, int32_t* weights) {
  MABM_SHARED(unsigned long long, warp_parts, kWindowThreads / kWarpSize);
  MABM_SHARED(int64_t, warp_totals, kWindowThreads / kWarpSize);
  MABM_SHARED(int, next, 1);
  constexpr int kNoColumn = 0x7fffffff;
  DynamicShared shared;
  const SharedSums sums(shared, window);
  const int64_t row = rows.long_rows[blockIdx.x];
  const unsigned long long total =
      combine_warps(warp_sum(add_up_parts(encoding, averaged, row)), warp_parts,
                    [](unsigned long long a, unsigned long long b) { return a + b; });
  const unsigned long long least = least_positive_part(total);
  int64_t count = 0;
  for (int first = 0; first != kNoColumn; first = next[0]) {
    __syncthreads();  // no thread reads the old window any more
    for (int at = threadIdx.x; at < window; at += blockDim.x) {
      sums.clear(at);
    }
    if (threadIdx.x == 0) {
      next[0] = kNoColumn;
    }
    __syncthreads();
    add_window(encoding, averaged, row, first, sums, &next[0]);
    __syncthreads();
    count += visit_in_order(
        window, warp_totals, [&](int at) { return sums[at] >= least ? 1 : 0; },
        [&](int at, int64_t place) {
          if (kFill) {
            indices[starts[row] + count + place] = first + at;
            weights[starts[row] + count + place] = weight_of(sums[at], total);
          }
        });
  }
  if (!kFill && threadIdx.x == 0) {
    rows.counts[row] = static_cast<int32_t>(count);
  }
}

// One pass over the `num_long` long rows, with at most `shared_bytes` of shared memory.
inline cudaError_t launch_average_long_rows(const Rows& encoding, const AveragedRows& averaged,
                                            const RowCounts& rows, int64_t num_long,
                                            size_t shared_bytes, const int64_t* starts,
                                            int32_t* indices, int32_t* weights,
                                            cudaStream_t stream) {
  const auto most = static_cast<int64_t>(shared_bytes / SharedSums::kBytes);
  const auto window = static_cast<int>(lesser(encoding.count, most));
  return launch(
      starts == nullptr ? average_long_rows_kernel<false> : average_long_rows_kernel<true>,
      num_long, kWindowThreads, SharedSums::kBytes * window, stream, encoding, averaged, rows,
      window, starts, indices, weights);
}

}  // namespace mabm
