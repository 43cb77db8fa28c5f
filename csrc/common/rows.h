// Rows and lists of samples as both backends read them: plain pointers.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/host_device.h"

namespace mabm {

// Read-only CSR rows: sets, or an encoding with its weights, or a graph with its distances.
struct Rows {
  int64_t count;
  const int64_t* indptr;
  const int32_t* indices;
  const int32_t* weights = nullptr;
  const float* distances = nullptr;

  MABM_HOST_DEVICE int64_t begin(int64_t row) const { return indptr[row]; }
  MABM_HOST_DEVICE int64_t end(int64_t row) const { return indptr[row + 1]; }
};

// Numbers of B rows; null for the first B.
struct ChosenRows {
  int64_t count;
  const int64_t* rows;

  MABM_HOST_DEVICE int64_t operator[](int64_t number) const {
    return rows == nullptr ? number : rows[number];
  }
};

// Neighbor lists, `width` columns a row, with a mask over them: the members of a row are its
// masked entries.
struct MaskedRanks {
  int64_t width;
  const int64_t* ranks;
  const bool* mask;
};

// Lists of B rows among N samples, and the half lists of all samples: of width 0 if there are none,
// and then the rows are all samples.
struct ListsToExpand {
  int64_t num_rows;
  int64_t num_samples;
  MaskedRanks lists;
  MaskedRanks half;
};

// Neighbor lists, `width` columns a row, with the inner product of each entry.
struct RankedProducts {
  int64_t width;
  const int64_t* ranks;
  const double* products;
};

// The most lists of a row: a GPU keeps a count and a threshold of each in shared memory, in 48 KiB.
constexpr int64_t kMostLists = 4096;

// The candidates of B rows: (B, L, C) scores and sample indices in L lists of at most C entries,
// with the number of entries of each list, (B, L), and its threshold, (B, L): what scores less is
// left out of the list. It begins at -inf, or higher where more is known,
// and only rises.
//
// A full list is cut. Two approximate scores of a row whose gap is g are in the order of the exact
// ones if they differ by more than g, so that what lies more than g below the width-th best cannot
// belong to the first `width`: the threshold becomes that score minus g, and what scores less is
// dropped. A list that stays more than 7/8 full has overflowed: its count is -1, its threshold
// +inf, and it takes no more.
//
// With a negative gap the scores are taken as they are: a cut leaves `width` entries, of equal
// scores the first.
//
// Before a tile is added, the threshold of a list that is still empty is raised by a sample of the
// tile's columns (below), so that few entries come in that a cut drops again. Nothing is added.
template <class Score>
struct CandidateLists {
  int64_t num_rows;
  int64_t num_lists;
  int64_t capacity;
  Score* scores;
  int32_t* indices;
  int32_t* counts;
  Score* thresholds;

  // Whether so many entries after a cut are too many.
  MABM_HOST_DEVICE bool overflows(int64_t count) const { return 8 * count > 7 * capacity; }
};

// A tile of products of `num_rows` rows, which have lists, and `num_columns` columns. Products are
// float32, or int32 with a scale for each row and column, row by row or, transposed, column by
// column, `stride` from the first of one to the first of the next. A score is a product and the
// bias of its column.
template <class Product>
struct ProductTile {
  using Score = float;
  int64_t num_rows;
  int64_t num_columns;
  const Product* products;
  int64_t stride;
  bool transposed;
  const float* row_scales;
  const float* column_scales;
  const float* biases;
  const float* gaps;

  MABM_HOST_DEVICE Product product(int64_t row, int64_t column) const {
    return products[transposed ? column * stride + row : row * stride + column];
  }
  MABM_HOST_DEVICE float score(Product product, int64_t row, int64_t column) const {
    if constexpr (std::is_same_v<Product, float>) {
      return product + biases[column];
    } else {  // scales one after the other: their product might underflow
      return static_cast<float>(product) * row_scales[row] * column_scales[column] + biases[column];
    }
  }
  MABM_HOST_DEVICE float gap(int64_t row) const { return gaps[row]; }
};

// Upper bounds on the scores of candidates, (B, L, C): a score s of a row is at most
// (bound + offset of the row) / area. Null: all candidates are scored.
struct CandidateBounds {
  const float* bounds;
  const double* offsets;
  const double* area;
};

// The sample of a tile: kSampleRuns runs of kSampleClasses neighboring columns, spread evenly over
// the tile. A column's class is its place in its run. For each list, the best score of each class
// is one of kSampleClasses scores of different columns of this list, or -inf. So the width-th best
// of these is no more than that of the list, and minus the gap it is a threshold.
constexpr int kSampleRuns = 64;
constexpr int kSampleClasses = 32;

// From the first column of a run to that of the next.
MABM_HOST_DEVICE inline int64_t sample_stride(int64_t num_columns) {
  const int64_t stride = num_columns / kSampleRuns;
  return stride < kSampleClasses ? kSampleClasses : stride;
}
// Whether a row has few enough lists for a GPU to keep the best scores in shared memory.
MABM_HOST_DEVICE inline bool has_samples(int64_t num_lists) { return num_lists <= 8; }
MABM_HOST_DEVICE inline bool sample_raises(int32_t width) {
  return width > 0 && width <= kSampleClasses;
}

// What a list is cut by.
template <class Score>
struct Cut {
  int32_t width;
  Score gap;
};

}  // namespace mabm
