// The scan of a tile, compiled once for each instruction set. No include guard: the including file
// defines, in a namespace of its own,
//
//   Floats, kLanes       a vector of float32 and its width
//   load, broadcast, add, multiply, multiply_add
//   not_at_most(a, b)    not zero if !(a <= b) in any lane, which includes NaN
//
// Only plain code here: a function of the standard library would be compiled for that instruction
// set in every file that uses it.

// Depth of the operands that are multiplied at a time, so that a panel of columns stays in the
// first-level cache.
constexpr int64_t kDepthAtOnce = 384;

// float32 operands: entries of a panel are interleaved, entry k of all its samples side by side.
struct FloatOperand {
  using Entry = float;
  using Sums = Floats;
  static constexpr int kStep = 1;
  static constexpr bool kQuantized = false;
  static MABM_INLINE Sums load_sums(const void* at) { return load(static_cast<const float*>(at)); }
  static MABM_INLINE void store_sums(void* at, Sums sums) { store(static_cast<float*>(at), sums); }
  static MABM_INLINE Sums accumulate(Sums sums, const Entry* left, const Entry* right) {
    return multiply_add(broadcast(*left), load(right), sums);
  }
  static MABM_INLINE Floats to_floats(Sums sums) { return sums; }
};

// Hits of one micro-tile: bounds are kRows x kColumns.
template <int kRows, int kColumns>
MABM_OUTLINE void report_hits(const Tile& tile, const float* bounds, int first_row,
                              int first_column, const float* row_thresholds,
                              const float* column_thresholds) {
  for (int r = 0; r < kRows; ++r) {
    const int row = first_row + r;
    for (int c = 0; c < kColumns; ++c) {
      const int column = first_column + c;
      const float bound = bounds[r * kColumns + c];
      const bool hit_row = !(bound + tile.columns.biases[column] <= row_thresholds[row]);
      const bool hit_column = column_thresholds != nullptr &&
                              !(bound + tile.rows.biases[row] <= column_thresholds[column]);
      if (hit_row || hit_column) {
        tile.hit(tile.context, row, column, bound, hit_row, hit_column);
      }
    }
  }
}

template <class Operand, int kRows, int kVectors>
struct Scan {
  static constexpr int kColumns = kVectors * kLanes;
  using Entry = typename Operand::Entry;
  using Sums = typename Operand::Sums;

  // Multiplies a panel of rows by a panel of columns over `depth` entries, from `sums` on.
  static MABM_INLINE void multiply_panels(const Entry* left, const Entry* right, int64_t depth,
                                          Sums (&sums)[kRows][kVectors]) {
    for (int64_t k = 0; k < depth; k += Operand::kStep) {
      MABM_UNROLL
      for (int r = 0; r < kRows; ++r) {
        MABM_UNROLL
        for (int v = 0; v < kVectors; ++v) {
          sums[r][v] = Operand::accumulate(sums[r][v], left + r * Operand::kStep,
                                           right + v * kLanes * Operand::kStep);
        }
      }
      left += kRows * Operand::kStep;
      right += kColumns * Operand::kStep;
    }
  }

  // Compares the bounds of a micro-tile with the thresholds of both sides.
  static MABM_INLINE void compare(const Tile& tile, const Sums (&sums)[kRows][kVectors],
                                  int first_row, int first_column) {
    const float* row_thresholds = tile.row_thresholds + first_column / kColumns * tile.row_stride;
    const float* column_thresholds = tile.column_thresholds;
    if (column_thresholds != nullptr) {
      column_thresholds += first_row / kRows * tile.column_stride;
    }
    Floats bounds[kRows][kVectors];
    unsigned hits = 0;
    MABM_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const int column = first_column + v * kLanes;
      const Floats bias = load(tile.columns.biases + column);
      const Floats residual = load(tile.columns.residuals + column);
      MABM_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const int row = first_row + r;
        Floats bound = Operand::to_floats(sums[r][v]);
        if (Operand::kQuantized) {
          const Floats scale = load(tile.columns.scales + column);
          bound = multiply(bound, multiply(broadcast(tile.rows.scales[row]), scale));
          bound = multiply_add(broadcast(tile.rows.lost[row]), load(tile.columns.lengths + column),
                               bound);
          bound = multiply_add(broadcast(tile.rows.lengths[row]), load(tile.columns.lost + column),
                               bound);
        }
        bound = multiply_add(broadcast(tile.rows.residuals[row]), residual, bound);
        hits |= not_at_most(add(bound, bias), broadcast(row_thresholds[row]));
        if (column_thresholds != nullptr) {
          hits |= not_at_most(add(bound, broadcast(tile.rows.biases[row])),
                              load(column_thresholds + column));
        }
        bounds[r][v] = bound;
      }
    }
    if (hits != 0) {
      float stored[kRows * kColumns];
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) {
          store(stored + r * kColumns + v * kLanes, bounds[r][v]);
        }
      }
      report_hits<kRows, kColumns>(tile, stored, first_row, first_column, row_thresholds,
                                   column_thresholds);
    }
  }

  static void scan(const Tile& tile) {
    const auto* all_left = static_cast<const Entry*>(tile.left);
    const auto* all_right = static_cast<const Entry*>(tile.right);
    auto* kept = static_cast<float*>(tile.sums);
    for (int64_t first = 0; first < tile.depth || first == 0; first += kDepthAtOnce) {
      const bool is_last = first + kDepthAtOnce >= tile.depth;
      const int64_t depth = is_last ? tile.depth - first : kDepthAtOnce;
      for (int column = 0; column < kTile; column += kColumns) {
        const Entry* right = all_right + column * tile.depth + first * kColumns;
        for (int row = 0; row < kTile; row += kRows) {
          const Entry* left = all_left + row * tile.depth + first * kRows;
          float* at = kept + (column * kTile + row * kColumns);
          Sums sums[kRows][kVectors];
          MABM_UNROLL
          for (int r = 0; r < kRows; ++r) {
            MABM_UNROLL
            for (int v = 0; v < kVectors; ++v) {
              sums[r][v] =
                  first == 0 ? Sums{} : Operand::load_sums(at + (r * kVectors + v) * kLanes);
            }
          }
          multiply_panels(left, right, depth, sums);
          if (is_last) {
            compare(tile, sums, row, column);
          } else {
            for (int r = 0; r < kRows; ++r) {
              for (int v = 0; v < kVectors; ++v) {
                Operand::store_sums(at + (r * kVectors + v) * kLanes, sums[r][v]);
              }
            }
          }
        }
      }
    }
  }
};
