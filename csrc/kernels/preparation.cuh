// What is measured and rounded of features before they are multiplied, each in one read. The bits
// are those of the CPU (common/preparation.h, common/scores.h).
#pragma once

#include "common/device.h"
#include "common/preparation.h"

namespace mabm {

constexpr int kColumnThreads = 128;
constexpr int kPreparationThreads = 256;
// Rows that a warp measures together: each entry of the center is converted once for all of them.
constexpr int kMeasuredRows = 2;
// Numbers that a thread loads before it uses the first, so that it waits once for all of them. With
// 64 warps at work, four keep twice as much under way as the memory of an H100 delivers meanwhile.
constexpr int kLoadsAhead = 4;

// Loads the numbers first, first + step, ...; zeros from `size` on.
__device__ inline void load_ahead(const float* from, int64_t first, int step, int64_t size,
                                  float (&numbers)[kLoadsAhead]) {
#pragma unroll
  for (int k = 0; k < kLoadsAhead; ++k) {
    const int64_t at = first + k * step;
    numbers[k] = at < size ? from[at] : 0.0f;
  }
}

// Sums, least and greatest numbers of the columns of each part, (parts, D) each.
struct PartMeasures {
  double* sums;
  float* least;
  float* greatest;
};

// A thread has one column of one part.
static __global__ void measure_parts_kernel(const float* features, int64_t num_rows, int64_t dim,
                                            int64_t rows_of_part, PartMeasures parts) {
  const int64_t tiles = (dim + blockDim.x - 1) / blockDim.x;
  const int64_t part = blockIdx.x / tiles;
  const int64_t column = blockIdx.x % tiles * blockDim.x + threadIdx.x;
  if (column >= dim) {
    return;
  }
  const int64_t first = part * rows_of_part;
  const int64_t last = lesser(first + rows_of_part, num_rows);
  const float* values = features + column;
  double sum = 0.0;
  float least = values[first * dim];
  float greatest = least;
#pragma unroll 8  // so that loads of several rows overlap
  for (int64_t row = first; row < last; ++row) {
    const float value = values[row * dim];
    sum += value;
    least = value < least ? value : least;
    greatest = value > greatest ? value : greatest;
  }
  const int64_t at = part * dim + column;
  parts.sums[at] = sum;
  parts.least[at] = least;
  parts.greatest[at] = greatest;
}

// Mean, least and greatest number of each column from those of its parts, (3, D).
static __global__ void join_parts_kernel(PartMeasures parts, int64_t num_parts, int64_t num_rows,
                                         int64_t dim, float* measures) {
  const int64_t column = global_thread();
  if (column >= dim) {
    return;
  }
  double sum = 0.0;
  float least = parts.least[column];
  float greatest = parts.greatest[column];
#pragma unroll 8
  for (int64_t part = 0; part < num_parts; ++part) {
    const int64_t at = part * dim + column;
    sum += parts.sums[at];
    least = parts.least[at] < least ? parts.least[at] : least;
    greatest = parts.greatest[at] > greatest ? parts.greatest[at] : greatest;
  }
  measures[column] = static_cast<float>(sum / static_cast<double>(num_rows));
  measures[dim + column] = least;
  measures[2 * dim + column] = greatest;
}

inline cudaError_t launch_measure_columns(const float* features, int64_t num_rows, int64_t dim,
                                          const PartMeasures& parts, float* measures,
                                          cudaStream_t stream) {
  const ColumnParts split(num_rows);
  const int64_t tiles = blocks_for(dim, kColumnThreads);
  const cudaError_t error = launch(measure_parts_kernel, split.count * tiles, kColumnThreads, 0,
                                   stream, features, num_rows, dim, split.rows, parts);
  return error != cudaSuccess ? error
                              : launch(join_parts_kernel, tiles, kColumnThreads, 0, stream, parts,
                                       split.count, num_rows, dim, measures);
}

// Squared lengths of the rows and of the centered rows, and their products with the center, (N, 3).
static __global__ void measure_rows_kernel(const float* features, int64_t num_rows, int64_t dim,
                                           const float* center, double* measures) {
  const int64_t first_row = global_warp() * kMeasuredRows;
  if (first_row >= num_rows) {
    return;
  }
  double lengths[kMeasuredRows] = {};
  double centered_lengths[kMeasuredRows] = {};
  double products[kMeasuredRows] = {};
  for (int64_t first = lane_index(); first < dim; first += kLoadsAhead * kWarpSize) {
    float origins[kLoadsAhead];
    float values[kMeasuredRows][kLoadsAhead];
    load_ahead(center, first, kWarpSize, dim, origins);
#pragma unroll
    for (int r = 0; r < kMeasuredRows; ++r) {
      // Beyond the edge the last row is measured again, and not written.
      const int64_t row = lesser(first_row + r, num_rows - 1);
      load_ahead(features + row * dim, first, kWarpSize, dim, values[r]);
    }
#pragma unroll
    for (int k = 0; k < kLoadsAhead; ++k) {
      const double origin = origins[k];
#pragma unroll
      for (int r = 0; r < kMeasuredRows; ++r) {
        const double value = values[r][k];
        const double centered = value - origin;
        lengths[r] = fma(value, value, lengths[r]);  // the square of a float32 is exact
        centered_lengths[r] += centered * centered;
        products[r] += centered * origin;
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kMeasuredRows; ++r) {
    const double length = warp_sum(lengths[r]);
    const double centered_length = warp_sum(centered_lengths[r]);
    const double product = warp_sum(products[r]);
    if (lane_index() == r && first_row + r < num_rows) {
      double* out = measures + (first_row + r) * 3;
      out[0] = length;
      out[1] = centered_length;
      out[2] = product;
    }
  }
}

inline cudaError_t launch_measure_rows(const float* features, int64_t num_rows, int64_t dim,
                                       const float* center, double* measures, cudaStream_t stream) {
  const int64_t warps = blocks_for(num_rows, kMeasuredRows);
  return launch(measure_rows_kernel, blocks_for(warps, kPreparationThreads / kWarpSize),
                kPreparationThreads, 0, stream, features, num_rows, dim, center, measures);
}

// Centered rows times a power of two, in float16, padded with zeros, and the length of what each
// row lost, in units of the features. A warp has a row.
static __global__ void halve_rows_kernel(const float* features, int64_t num_rows, int64_t dim,
                                         const float* center, const float* scale, int64_t height,
                                         int64_t width, Half* halves, double* lost) {
  const int64_t row = global_warp();
  if (row >= height) {
    return;
  }
  const float factor = *scale;
  const int64_t filled = row < num_rows ? dim : 0;
  Half* out = halves + row * width;
  double squares = 0.0;
  for (int64_t first = lane_index(); first < width; first += kLoadsAhead * kWarpSize) {
    float values[kLoadsAhead];
    float origins[kLoadsAhead];
    load_ahead(features + row * dim, first, kWarpSize, filled, values);
    load_ahead(center, first, kWarpSize, filled, origins);
#pragma unroll
    for (int k = 0; k < kLoadsAhead; ++k) {
      const int64_t d = first + k * kWarpSize;
      const float scaled = (values[k] - origins[k]) * factor;
      const RoundedHalf rounded = round_to_half(scaled);
      const double rest = scaled - rounded.value;  // exact in float32
      squares = fma(rest, rest, squares);          // so is the square
      if (d < width) {
        out[d] = rounded.half;
      }
    }
  }
  squares = warp_sum(squares);
  if (row < num_rows && lane_index() == 0) {
    lost[row] = sqrt(squares) / static_cast<double>(factor);
  }
}

inline cudaError_t launch_halve_rows(const float* features, int64_t num_rows, int64_t dim,
                                     const float* center, const float* scale, Half* halves,
                                     double* lost, cudaStream_t stream) {
  const int64_t height = padded_size(num_rows);
  return launch(halve_rows_kernel, blocks_for(height, kPreparationThreads / kWarpSize),
                kPreparationThreads, 0, stream, features, num_rows, dim, center, scale, height,
                padded_size(dim), halves, lost);
}

// Sum of the lanes of a block, folded by halves; called by a whole warp.
__device__ inline float sum_of_lanes(const Shared<float>& lanes) {
  static_assert(kRoundingLanes == 4 * kWarpSize, "the halves that are added here");
  const int lane = lane_index();
  return warp_sum((lanes[lane] + lanes[lane + 2 * kWarpSize]) +
                  (lanes[lane + kWarpSize] + lanes[lane + 3 * kWarpSize]));
}

// Rows, centered if there is a center, as integers in [-127, 127] of their own scales, padded with
// zeros; measures (3, B), what RoundedRow says. A block has a row: it reads it twice, and few
// enough rows are in work together that they stay in the cache.
static __global__ void round_rows_kernel(const float* rows, int64_t num_rows, int64_t dim,
                                         const float* center, int64_t depth, int8_t* integers,
                                         float* measures) {
  MABM_SHARED(uint32_t, greatest_of_warp, kRoundingLanes / kWarpSize);
  MABM_SHARED(float, left_of, kRoundingLanes);
  MABM_SHARED(float, length_of, kRoundingLanes);
  const int64_t row = blockIdx.x;
  const int64_t origin_size = center == nullptr ? 0 : dim;
  const auto load_centered = [&](int64_t first, int64_t size, float (&centered)[kLoadsAhead]) {
    float origins[kLoadsAhead];
    load_ahead(rows + row * dim, first, kRoundingLanes, size, centered);
    load_ahead(center, first, kRoundingLanes, lesser(size, origin_size), origins);
#pragma unroll
    for (int k = 0; k < kLoadsAhead; ++k) {
      centered[k] -= origins[k];
    }
  };
  uint32_t greatest = 0;
  for (int64_t first = threadIdx.x; first < dim; first += kLoadsAhead * kRoundingLanes) {
    float centered[kLoadsAhead];
    load_centered(first, dim, centered);
#pragma unroll
    for (int k = 0; k < kLoadsAhead; ++k) {
      const uint32_t bits = magnitude_bits(centered[k]);
      greatest = bits > greatest ? bits : greatest;
    }
  }
  greatest = warp_max(greatest);
  if (lane_index() == 0) {
    greatest_of_warp[warp_index()] = greatest;
  }
  __syncthreads();
  for (int warp = 0; warp < kRoundingLanes / kWarpSize; ++warp) {
    greatest = greatest_of_warp[warp] > greatest ? greatest_of_warp[warp] : greatest;
  }
  const float inverse = inverse_scale(greatest);
  const int64_t filled = inverse > 0.0f ? dim : 0;
  int8_t* out = integers + row * depth;
  float left = 0.0f;
  float length = 0.0f;
  for (int64_t first = threadIdx.x; first < depth; first += kLoadsAhead * kRoundingLanes) {
    float centered[kLoadsAhead];
    load_centered(first, filled, centered);
#pragma unroll
    for (int k = 0; k < kLoadsAhead; ++k) {
      const int64_t d = first + k * kRoundingLanes;
      const float scaled = centered[k] * inverse;
      const RoundedByte rounded = round_to_byte(scaled);
      const float rest = scaled - rounded.value;  // exact
      left += rest * rest;
      length += scaled * scaled;
      if (d < depth) {
        out[d] = rounded.byte;
      }
    }
  }
  left_of[threadIdx.x] = left;
  length_of[threadIdx.x] = length;
  __syncthreads();
  if (warp_index() == 0) {
    left = sum_of_lanes(left_of);
    length = sum_of_lanes(length_of);
    if (lane_index() == 0) {
      measures[row] = inverse;
      measures[num_rows + row] = inverse > 0.0f ? sqrtf(left) : INFINITY;
      measures[2 * num_rows + row] = inverse > 0.0f ? sqrtf(length) : INFINITY;
    }
  }
}

// Rows to be rounded to integers. A null center subtracts nothing.
inline cudaError_t launch_round_rows(const float* rows, int64_t num_rows, int64_t dim,
                                     const float* center, int64_t depth, int8_t* integers,
                                     float* measures, cudaStream_t stream) {
  return launch(round_rows_kernel, num_rows, kRoundingLanes, 0, stream, rows, num_rows, dim, center,
                depth, integers, measures);
}

}  // namespace mabm
