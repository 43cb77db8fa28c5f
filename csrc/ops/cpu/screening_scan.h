// The scan of a tile, compiled once for each instruction set. No include guard: the including file
// defines, in a namespace of its own,
//
//   Floats, kLanes       a vector of float32 and its width
//   load, broadcast, add, multiply, multiply_add
//   not_at_most(a, b)    Flags of the lanes where !(a <= b), which includes NaN
//   either(a, b), bits   of Flags; bit n of the latter is lane n
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
  static constexpr bool kQuantized = false;
  static MABM_INLINE Sums load_sums(const void* at) { return load(static_cast<const float*>(at)); }
  static MABM_INLINE void store_sums(void* at, Sums sums) { store(static_cast<float*>(at), sums); }
  static MABM_INLINE Sums accumulate(Sums sums, const Entry* left, const Entry* right) {
    return multiply_add(broadcast(*left), load(right), sums);
  }
  static MABM_INLINE Sums start(const Tile&, int) { return Sums{}; }
  static MABM_INLINE Floats to_floats(Sums sums) { return sums; }
};

template <class Operand, int kRows, int kVectors>
struct Scan {
  static constexpr int kColumns = kVectors * kLanes;
  using Entry = typename Operand::Entry;
  using Sums = typename Operand::Sums;
  static constexpr int64_t kDepth = kDepthAtOnce * kStep<Entry>;

  // Multiplies a panel of rows by a panel of columns over `depth` entries, from `sums` on.
  static MABM_INLINE void multiply_panels(const Entry* left, const Entry* right, int64_t depth,
                                          Sums (&sums)[kRows][kVectors]) {
    for (int64_t k = 0; k < depth; k += kStep<Entry>) {
      MABM_UNROLL
      for (int r = 0; r < kRows; ++r) {
        MABM_UNROLL
        for (int v = 0; v < kVectors; ++v) {
          sums[r][v] = Operand::accumulate(sums[r][v], left + r * kStep<Entry>,
                                           right + v * kLanes * kStep<Entry>);
        }
      }
      left += kRows * kStep<Entry>;
      right += kColumns * kStep<Entry>;
    }
  }

  // Compares the bounds of a micro-tile with the thresholds of both sides.
  static MABM_INLINE void compare(const Tile& tile, const Sums (&sums)[kRows][kVectors],
                                  int first_row, int first_column, int& num_hits) {
    const float* row_thresholds = tile.row_thresholds + first_column / kColumns * tile.row_stride;
    const float* column_thresholds = tile.column_thresholds;
    if (column_thresholds != nullptr) {
      column_thresholds += first_row / kRows * tile.column_stride;
    }
    Floats bounds[kRows][kVectors];
    Flags hits{};
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
        hits = either(hits, not_at_most(add(bound, bias), broadcast(row_thresholds[row])));
        if (column_thresholds != nullptr) {
          hits = either(hits, not_at_most(add(bound, broadcast(tile.rows.biases[row])),
                                          load(column_thresholds + column)));
        }
        bounds[r][v] = bound;
      }
    }
    if (bits(hits) != 0) {
      num_hits = report_hits(tile, bounds, first_row, first_column, row_thresholds,
                             column_thresholds, num_hits);
    }
  }

  // Writes the hits of a micro-tile; returns their number, with those before.
  static MABM_OUTLINE int report_hits(const Tile& tile, const Floats (&bounds)[kRows][kVectors],
                                      int first_row, int first_column, const float* row_thresholds,
                                      const float* column_thresholds, int num_hits) {
    for (int r = 0; r < kRows; ++r) {
      const int row = first_row + r;
      for (int v = 0; v < kVectors; ++v) {
        const int first = first_column + v * kLanes;
        const Floats biased = add(bounds[r][v], load(tile.columns.biases + first));
        const unsigned rows = bits(not_at_most(biased, broadcast(row_thresholds[row])));
        unsigned columns = 0;
        if (column_thresholds != nullptr) {
          columns = bits(not_at_most(add(bounds[r][v], broadcast(tile.rows.biases[row])),
                                     load(column_thresholds + first)));
        }
        if ((rows | columns) == 0) {
          continue;
        }
        float stored[kLanes];
        store(stored, bounds[r][v]);
        for (int lane = 0; lane < kLanes; ++lane) {
          if ((rows | columns) >> lane & 1u) {
            tile.hits[num_hits++] = {stored[lane], static_cast<uint8_t>(row),
                                     static_cast<uint8_t>(first + lane), (rows >> lane & 1u) != 0,
                                     (columns >> lane & 1u) != 0};
          }
        }
      }
    }
    return num_hits;
  }

  static int scan(const Tile& tile) {
    int num_hits = 0;
    const auto* all_left = static_cast<const Entry*>(tile.left);
    const auto* all_right = static_cast<const Entry*>(tile.right);
    auto* kept = static_cast<float*>(tile.sums);
    for (int64_t first = 0; first < tile.depth || first == 0; first += kDepth) {
      const bool is_last = first + kDepth >= tile.depth;
      const int64_t depth = is_last ? tile.depth - first : kDepth;
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
              sums[r][v] = first == 0 ? Operand::start(tile, column + v * kLanes)
                                      : Operand::load_sums(at + (r * kVectors + v) * kLanes);
            }
          }
          multiply_panels(left, right, depth, sums);
          if (is_last) {
            compare(tile, sums, row, column, num_hits);
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
    return num_hits;
  }
};
