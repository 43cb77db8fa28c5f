// Quantized operands, for the instruction sets that multiply bytes. No include guard: the including
// file defines, in the namespace that has the scan,
//
//   Integers               a vector of kLanes int32
//   load_integers, store_integers, integers_to_floats
//   multiply_add_bytes(sums, left, right)
//                          adds to each lane the products of four entries of a row, at `left`, and
//                          of four of the lane's column, at `right`

struct QuantizedOperand {
  using Entry = int8_t;
  using Sums = Integers;
  static constexpr bool kQuantized = true;
  static MABM_INLINE Sums load_sums(const void* at) { return load_integers(at); }
  static MABM_INLINE void store_sums(void* at, Sums sums) { store_integers(at, sums); }
  static MABM_INLINE Sums accumulate(Sums sums, const Entry* left, const Entry* right) {
    return multiply_add_bytes(sums, left, right);
  }
  static MABM_INLINE Sums start(const Tile& tile, int column) {
    return load_integers(tile.columns.starts + column);
  }
  static MABM_INLINE Floats to_floats(Sums sums) { return integers_to_floats(sums); }
};
