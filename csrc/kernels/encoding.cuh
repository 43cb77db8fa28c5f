// Encoding and local query expansion: neighbor sets to weighted rows (method steps 4 and 5).
#pragma once

#include "common/device.h"
#include "common/fixed_point.h"
#include "common/rows.h"
#include "kernels/row_table.cuh"
#include "kernels/scores.cuh"

namespace mabm {

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

// V_ij = softmax over j in E(i) of -(2 - 2 x_i . x_j): a weight for each entry of the sets, which
// may be 0, and the number of positive ones in each row; a row without neighbors counts one. One
// block per row.
static __global__ void weigh_neighbors_kernel(const float* features, int64_t dim, Rows neighbors,
                                              double* products, int32_t* weights, int32_t* counts) {
  constexpr int kWarps = kRowThreads / kWarpSize;
  MABM_SHARED(double, warp_products, kWarps);
  MABM_SHARED(unsigned long long, warp_totals, kWarps);
  MABM_SHARED(int, warp_counts, kWarps);
  const int64_t row = blockIdx.x;
  const int64_t begin = neighbors.begin(row);
  const int64_t end = neighbors.end(row);
  const float* row_features = features + row * dim;
  double greatest = -INFINITY;
  for (int64_t first = begin + warp_index() * kEncodeBatch; first < end;
       first += warps_per_block() * kEncodeBatch) {
    const float* others[kEncodeBatch];
#pragma unroll
    for (int k = 0; k < kEncodeBatch; ++k) {
      // The last batch is filled up with the last neighbor.
      const int64_t at = first + k < end ? first + k : end - 1;
      others[k] = features + neighbors.indices[at] * dim;
    }
    double scores[kEncodeBatch];
    score_row<false>(row_features, others, dim, scores);
#pragma unroll
    for (int k = 0; k < kEncodeBatch; ++k) {
      greatest = scores[k] > greatest ? scores[k] : greatest;
      if (lane_index() == k && first + k < end) {
        products[first + k] = scores[k];
      }
    }
  }
  greatest =
      combine_warps(greatest, warp_products, [](double a, double b) { return a > b ? a : b; });
  const auto part_of = [&](int64_t at) {
    return static_cast<unsigned long long>(
        fine_units(exp_nonpositive(2 * (products[at] - greatest))));
  };
  unsigned long long total = 0;
  for (int64_t at = begin + threadIdx.x; at < end; at += blockDim.x) {
    total += part_of(at);
  }
  const auto add = [](auto a, auto b) { return a + b; };
  total = combine_warps(warp_sum(total), warp_totals, add);
  int count = 0;
  for (int64_t at = begin + threadIdx.x; at < end; at += blockDim.x) {
    weights[at] = weight_of(part_of(at), total);
    count += weights[at] > 0;
  }
  count = combine_warps(warp_sum(count), warp_counts, add);
  if (threadIdx.x == 0) {
    counts[row] = begin < end ? count : 1;
  }
}

inline cudaError_t launch_weigh_neighbors(const float* features, int64_t dim, const Rows& neighbors,
                                          double* products, int32_t* weights, int32_t* counts,
                                          cudaStream_t stream) {
  return launch(weigh_neighbors_kernel, neighbors.count, kRowThreads, 0, stream, features, dim,
                neighbors, products, weights, counts);
}

// Keeps the positive weights of each row; a row without entries becomes one-hot. One warp per row.
static __global__ void keep_positive_kernel(Rows rows, const int64_t* starts, int32_t* indices,
                                            int32_t* weights) {
  const int64_t row = global_warp();
  if (row >= rows.count) {
    return;
  }
  const int64_t begin = rows.begin(row);
  const int64_t end = rows.end(row);
  int64_t out = starts[row];
  if (begin == end && lane_index() == 0) {
    indices[out] = static_cast<int32_t>(row);
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

inline cudaError_t launch_keep_positive(const Rows& rows, const int64_t* starts, int32_t* indices,
                                        int32_t* weights, cudaStream_t stream) {
  return launch(keep_positive_kernel, blocks_for(rows.count, kRowThreads / kWarpSize), kRowThreads,
                0, stream, rows, starts, indices, weights);
}

// Rows of an encoding to average for each row: `width` of them, -1 for none, with their weights.
struct AveragedRows {
  int64_t width;
  const int64_t* neighbors;
  const double* weights;
};

// V'_i = the mean of the rows V[neighbors[i, m]], weighted: a first pass counts the entries of each
// row, a second writes them, ascending. One block per row.
template <bool kShared, bool kFill>
__global__ void average_encodings_kernel(Rows encoding, AveragedRows averaged, RowCounts rows,
                                         const int64_t* starts, int32_t* indices, int32_t* weights,
                                         TableScratch scratch) {
  MABM_SHARED(int, size, 1);
  MABM_SHARED(unsigned long long, warp_totals, kRowThreads / kWarpSize);
  RowTable<kShared, true> table(scratch, size);
  for (int64_t row = blockIdx.x; row < encoding.count; row += gridDim.x) {
    if (!rows.takes(row, kShared)) {
      continue;
    }
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
      for (int64_t at = encoding.begin(other) + lane_index(); at < end; at += kWarpSize) {
        const unsigned long long part = factor * static_cast<uint64_t>(encoding.weights[at]);
        table.add(encoding.indices[at], part);
        total += part;
      }
    }
    total = combine_warps(warp_sum(total), warp_totals,
                          [](unsigned long long a, unsigned long long b) { return a + b; });
    const bool complete = table.complete();
    const auto positive = [&](unsigned long long sum) { return weight_of(sum, total) > 0; };
    const int count = complete ? table.keep(positive) : 0;
    if (kFill) {
      table.for_each_kept([&](int32_t member, unsigned long long sum, int place) {
        indices[starts[row] + place] = member;
        weights[starts[row] + place] = weight_of(sum, total);
      });
    }
    if (!kFill && threadIdx.x == 0) {
      rows.note(row, complete, count);
    }
  }
}

// One pass over the rows that fit in shared memory (a block each), or over those that do not (as
// many blocks as there are tables). A pass that is given `starts` fills.
inline cudaError_t launch_average_encodings(const Rows& encoding, const AveragedRows& averaged,
                                            const RowCounts& rows, const int64_t* starts,
                                            int32_t* indices, int32_t* weights,
                                            const TableScratch* scratch, cudaStream_t stream) {
  const bool fill = starts != nullptr;
  const bool shared = scratch == nullptr;
  const auto kernel =
      shared
          ? (fill ? average_encodings_kernel<true, true> : average_encodings_kernel<true, false>)
          : (fill ? average_encodings_kernel<false, true> : average_encodings_kernel<false, false>);
  const TableScratch tables = shared ? TableScratch{} : *scratch;
  return launch(kernel, shared ? encoding.count : tables.count, kRowThreads,
                shared ? RowTable<true, true>::kBytes : 0, stream, encoding, averaged, rows, starts,
                indices, weights, tables);
}

}  // namespace mabm
