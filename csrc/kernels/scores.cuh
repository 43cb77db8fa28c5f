// The exact scores that ranks are defined by (common/scores.h), on the GPU: lane l of a warp keeps
// the partial sum over d = l modulo 32, and the fold is a butterfly over the warp. The bits are
// those of the CPU.
#pragma once

#include "common/device.h"

namespace mabm {

// Adds one product, or one squared gap, as the CPU does. A product of two float32 is exact in
// float64, so that fusing it with the sum changes nothing; a square is not, and stays apart
// (the sources are compiled with -fmad=false).
template <bool kEuclidean>
__device__ inline double add_term(double sum, double a, double b) {
  if (kEuclidean) {
    const double gap = a - b;
    return sum + gap * gap;
  }
  return fma(a, b, sum);
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
    const double a = row[d];
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      scores[k] = add_term<kEuclidean>(scores[k], a, others[k][d]);
    }
  }
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    scores[k] = score_of_partials<kEuclidean>(scores[k]);
  }
}

// Candidates that a warp scores together.
constexpr int kScoreBatch = 4;

// Scores of one row against the samples of the lanes in `wanted`, each in its lane; 0 in the
// others. Called by a whole warp.
template <bool kEuclidean>
__device__ double score_lanes(const float* row, const float* features, int64_t dim, int32_t sample,
                              unsigned wanted) {
  double score = 0.0;
  while (wanted != 0) {
    int lanes[kScoreBatch];
    const float* others[kScoreBatch];
    int lane = 0;
#pragma unroll
    for (int k = 0; k < kScoreBatch; ++k) {
      if (wanted != 0) {  // the last batch is filled up with the last sample
        lane = __ffs(wanted) - 1;
        wanted &= wanted - 1;
      }
      lanes[k] = lane;
      others[k] = features + __shfl_sync(kFullWarp, sample, lane) * dim;
    }
    double scores[kScoreBatch];
    score_row<kEuclidean>(row, others, dim, scores);
#pragma unroll
    for (int k = 0; k < kScoreBatch; ++k) {
      score = lane_index() == lanes[k] ? scores[k] : score;
    }
  }
  return score;
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
    double a[kTileSide];
    double b[kTileSide];
#pragma unroll
    for (int k = 0; k < kTileSide; ++k) {
      a[k] = tile_rows[k][d];
      b[k] = others[k][d];
    }
#pragma unroll
    for (int r = 0; r < kTileSide; ++r) {
#pragma unroll
      for (int c = 0; c < kTileSide; ++c) {
        partial[r][c] = add_term<kEuclidean>(partial[r][c], a[r], b[c]);
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
