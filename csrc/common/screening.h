// Screening: the pairs of samples that may be neighbors, found while their products are still in
// registers (method step 1; the proof is in mabm/distance/rungs.py).
//
// A tile is a square of pairs of samples, its rows and its columns taken from packed blocks. A
// kernel multiplies the operands of a tile and adds a bound on the error of each pair, so that
//
//   u_ij = scale_i scale_j (left_i . right_j) + residual_i residual_j
//          + lost_i length_j + length_i lost_j
//
// is at least the exact score of the pair, up to the bias of either side. A pair is a hit if
// u_ij + bias_j is above the threshold of row i, or u_ij + bias_i is above that of column j, or if
// one of them is NaN.
#pragma once

#include <cstdint>

namespace mabm {

// Rows and columns of a tile: a multiple of every kernel's micro-tile.
constexpr int kTile = 192;

// Entries of a sample that lie side by side in a packed block: four of int8, which kernels multiply
// at once, or one of float32.
template <class Entry>
constexpr int kStep = 4 / sizeof(Entry);

// What is known of each sample of a block beside its operand; quantized operands only have scales,
// lost and lengths.
struct BlockTerms {
  const float* biases;
  const float* residuals;
  const float* scales;
  const float* lost;
  const float* lengths;
  const int32_t* starts;  // of quantized columns: what sums begin with, see ScreenKernel::offset
};

// A pair that exceeds the threshold of its row, of its column, or of both.
struct Hit {
  float bound;  // u_ij, without a bias
  uint8_t row;
  uint8_t column;
  bool hit_row;
  bool hit_column;
};
static_assert(kTile <= 256, "hits number rows and columns by bytes");

// A tile as a kernel reads it.
struct Tile {
  const void* left;   // packed rows
  const void* right;  // packed columns
  int64_t depth;      // of the packed operands
  BlockTerms rows;
  BlockTerms columns;
  // Threshold of row r for the p-th panel of columns: row_thresholds[p * row_stride + r].
  const float* row_thresholds;
  int64_t row_stride;
  // Threshold of column c for the p-th panel of rows; null if columns are not scanned.
  const float* column_thresholds;
  int64_t column_stride;
  void* sums;  // scratch, kTile * kTile numbers of four bytes
  Hit* hits;   // room for kTile * kTile
};

// The kernels of one instruction set and one type of operand.
struct ScreenKernel {
  const char* name;
  int rows;                       // of a left panel
  int columns;                    // of a right panel
  int offset;                     // added to quantized entries of rows, see below
  int (*scan)(const Tile& tile);  // returns the number of hits
};

// The fastest kernel of this processor for float32, and the one that runs on every processor.
const ScreenKernel& float_kernel();
const ScreenKernel& portable_float_kernel();

// Quantized operands are int8 in [-127, 127]. Some processors multiply unsigned by signed bytes
// only. There the entries of rows are packed with an offset of 128 added, and the sums of a column
// start from -128 times the sum of its entries, so that they come out right. int32 sums wrap on the
// way; the result fits up to this depth: 127 * 127 * 2^17 < 2^31.
constexpr int64_t kMostQuantized = int64_t{1} << 17;

// The kernel for quantized operands that this processor has instructions for, or else the portable
// one, which is slower than float32; and the same unless it fails `multiplies_exactly`.
const ScreenKernel& supported_quantized_kernel();
const ScreenKernel& quantized_kernel();
const ScreenKernel& portable_quantized_kernel();

// Whether a kernel for quantized operands computes the products of a tile exactly: of the largest
// and smallest entries, and of others.
bool multiplies_exactly(const ScreenKernel& kernel, int64_t depth);

}  // namespace mabm
