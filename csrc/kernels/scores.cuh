// The exact scores that ranks are defined by (common/scores.h), on the GPU: lane l of a warp keeps
// the partial sum over d = l modulo 32, and the fold is a butterfly over the warp. The bits are
// those of the CPU.
#pragma once

#include "common/device.h"

namespace mabm {

// Features become float64 by operations on their bits. A conversion takes 4 times as long as one of
// those on data center cards and 32 times as long on GeForce cards, as everything in float64 does
// there.

// x * 2^-896, exactly, of a finite x: its sign, exponent and mantissa moved to the fields of a
// float64, where exponents count from 896 more. That holds for zeros and subnormal numbers, too,
// since float64 has such numbers. `exponent` is added to the exponent of an x that is neither.
__device__ inline double moved_bits(float x, int exponent) {
  const int bits = __float_as_int(x);
  const int high = (bits >> 3) & static_cast<int>(0x8fffffffu);  // the sign has come along
  return __hiloint2double(high + exponent * (1 << 20),
                          static_cast<int>(static_cast<unsigned>(bits) << 29));
}
__device__ inline double lowered(float x) { return moved_bits(x, 0); }

// x * 2^kPower, exactly, of a finite x, for a kPower of 0 to 896. A subnormal x becomes a normal
// one first.
template <int kPower>
__device__ inline double raised(float x) {
  constexpr int kScale = 24;
  const bool is_tiny = fabsf(x) < 0x1p-126f;
  const float normal = is_tiny ? x * (1 << kScale) : x;
  const int exponent = 896 + kPower - (is_tiny ? kScale : 0);
  return moved_bits(normal, normal == 0.0f ? 0 : exponent);
}

// A row's feature and that of another sample, as add_term takes them. The scale that the cheaper
// one lacks goes to the other: (own 2^896) (other 2^-896) for a product.
template <bool kEuclidean>
__device__ inline double own_feature(float x) {
  return raised<kEuclidean ? 0 : 896>(x);
}
__device__ inline double other_feature(float x) { return lowered(x); }

// Adds one product, or one squared gap, as the CPU does. A product of two float32 is exact in
// float64, so that fusing it with the sum changes nothing; a gap is rounded once, fused or not; a
// square is not exact, and stays apart (the sources are compiled with -fmad=false).
template <bool kEuclidean>
__device__ inline double add_term(double sum, double own, double other) {
  if (kEuclidean) {
    const double gap = fma(other, -0x1p896, own);
    return sum + gap * gap;
  }
  return fma(own, other, sum);
}

template <bool kEuclidean>
__device__ inline double score_of_partials(double partial) {
  const double sum = warp_sum(partial);
  return kEuclidean ? -sum : sum;
}

// Scores of one row against kCount others, the same in every lane. Called by a whole warp.
template <bool kEuclidean, int kCount>
__device__ void score_row(const float* row, const float* const (&others)[kCount], int64_t dim,
                          double (&scores)[kCount]) {
  for (int k = 0; k < kCount; ++k) {
    scores[k] = 0.0;
  }
#pragma unroll 4  // so that loads of several steps overlap
  for (int64_t d = lane_index(); d < dim; d += kWarpSize) {
    const double own = own_feature<kEuclidean>(row[d]);
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      scores[k] = add_term<kEuclidean>(scores[k], own, other_feature(others[k][d]));
    }
  }
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    scores[k] = score_of_partials<kEuclidean>(scores[k]);
  }
}

// Rows and columns that a warp scores together, so that each loaded feature is used for four pairs.
constexpr int kTileSide = 4;
constexpr int kTileThreads = 256;

// scores[r, c] of rows[r] against sample first_column + c; a warp takes 4 x 4 of them.
template <bool kEuclidean>
__global__ void score_tile_kernel(const float* features, int64_t dim, const int64_t* rows,
                                  int64_t num_rows, int64_t first_column, int64_t num_columns,
                                  double* scores) {
  const int64_t column_tiles = (num_columns + kTileSide - 1) / kTileSide;
  const int64_t first_row = global_warp() / column_tiles * kTileSide;
  const int64_t column = global_warp() % column_tiles * kTileSide;
  if (first_row >= num_rows) {
    return;
  }
  // Pairs beyond the edge repeat the last one and are not written.
  const float* tile_rows[kTileSide];
  const float* others[kTileSide];
#pragma unroll
  for (int k = 0; k < kTileSide; ++k) {
    const int64_t row = first_row + k < num_rows ? first_row + k : num_rows - 1;
    const int64_t other = column + k < num_columns ? column + k : num_columns - 1;
    tile_rows[k] = features + rows[row] * dim;
    others[k] = features + (first_column + other) * dim;
  }
  double partial[kTileSide][kTileSide] = {};
  for (int64_t d = lane_index(); d < dim; d += kWarpSize) {
    double own[kTileSide];
    double other[kTileSide];
#pragma unroll
    for (int k = 0; k < kTileSide; ++k) {
      own[k] = own_feature<kEuclidean>(tile_rows[k][d]);
      other[k] = other_feature(others[k][d]);
    }
#pragma unroll
    for (int r = 0; r < kTileSide; ++r) {
#pragma unroll
      for (int c = 0; c < kTileSide; ++c) {
        partial[r][c] = add_term<kEuclidean>(partial[r][c], own[r], other[c]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kTileSide; ++r) {
#pragma unroll
    for (int c = 0; c < kTileSide; ++c) {
      const double score = score_of_partials<kEuclidean>(partial[r][c]);
      if (lane_index() == r * kTileSide + c && first_row + r < num_rows &&
          column + c < num_columns) {
        scores[(first_row + r) * num_columns + column + c] = score;
      }
    }
  }
}

inline cudaError_t launch_score_tile(const float* features, int64_t dim, const int64_t* rows,
                                     int64_t num_rows, int64_t first_column, int64_t num_columns,
                                     bool euclidean, double* scores, cudaStream_t stream) {
  const int64_t tiles = blocks_for(num_rows, kTileSide) * blocks_for(num_columns, kTileSide);
  return launch(euclidean ? score_tile_kernel<true> : score_tile_kernel<false>,
                blocks_for(tiles, kTileThreads / kWarpSize), kTileThreads, 0, stream, features, dim,
                rows, num_rows, first_column, num_columns, scores);
}

}  // namespace mabm
