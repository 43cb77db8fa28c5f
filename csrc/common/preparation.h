// What both devices compute of features before a GPU multiplies them: the sizes of parts and
// paddings, and roundings that give the same bits everywhere.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/host_device.h"

namespace mabm {

// Operands have a multiple of so many rows and columns, the last ones zeros: products of other
// sizes take slower kernels of a GPU's library.
constexpr int64_t kOperandStep = 64;

inline int64_t padded_size(int64_t size) {
  return (size + kOperandStep - 1) / kOperandStep * kOperandStep;
}

// Columns are measured in parts of consecutive rows, and then the parts are added, both in
// ascending order. 256 rows keep a GPU busy from few samples on; the parts of many are limited,
// since a thread adds those of a column.
struct ColumnParts {
  static constexpr int64_t kLeastRows = 256;
  static constexpr int64_t kMost = 1024;

  explicit ColumnParts(int64_t num_rows) {
    const int64_t share = (num_rows + kMost - 1) / kMost;
    rows = share < kLeastRows ? kLeastRows : share;
    count = (num_rows + rows - 1) / rows;
  }

  int64_t rows;  // of each part but the last
  int64_t count;
};

// Partial sums of a row that is rounded to integers: sum l is over d = l modulo this, in ascending
// d; they are folded by halves. One thread of a block each.
constexpr int kRoundingLanes = 128;

template <class To, class From>
MABM_HOST_DEVICE inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "bits are neither added nor dropped");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

// A float16, as its bits.
struct Half {
  uint16_t bits;
};

struct RoundedHalf {
  Half half;
  float value;  // the same number
};

// The nearest float16, ties to even. By integers, so that the rounding is the same on every device.
MABM_HOST_DEVICE inline RoundedHalf round_to_half(float number) {
  const auto bits = bits_as<uint32_t>(number);
  const uint32_t sign = bits & 0x80000000u;
  const uint32_t magnitude = bits ^ sign;
  uint32_t half = 0;
  uint32_t value = 0;
  if (magnitude < 0x38800000u) {  // below 2^-14 they are multiples of 2^-24: the last bit of 0.5
    const float shifted = bits_as<float>(magnitude) + 0.5f;
    half = bits_as<uint32_t>(shifted) - bits_as<uint32_t>(0.5f);
    value = bits_as<uint32_t>(shifted - 0.5f);
  } else if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
    value = magnitude;
  } else {  // 13 of the 23 bits go, and the exponent is counted from 15 instead of 127
    value = (magnitude + 0xfffu + (magnitude >> 13 & 1u)) & ~0x1fffu;
    value = value < 0x47800000u ? value : 0x7f800000u;  // from 2^16 on infinite
    half = value == 0x7f800000u ? 0x7c00u : (value >> 13) - (112u << 10);
  }
  return {{static_cast<uint16_t>(sign >> 16 | half)}, bits_as<float>(sign | value)};
}

struct RoundedByte {
  int8_t byte;
  float value;  // the same number
};

// The nearest integer to a number in [-128, 127.5), ties to even: what is left of the sum with
// 1.5 * 2^23, whose last bit is 1.
MABM_HOST_DEVICE inline RoundedByte round_to_byte(float number) {
  constexpr float kShift = 12582912.0f;
  const float shifted = number + kShift;
  return {static_cast<int8_t>(bits_as<uint32_t>(shifted) & 0xffu), shifted - kShift};
}

// The bits of |number|. They are in the order of the magnitudes, and those of numbers that are not
// finite are last.
MABM_HOST_DEVICE inline uint32_t magnitude_bits(float number) {
  return bits_as<uint32_t>(number) & 0x7fffffffu;
}

// What a row is multiplied by so that its greatest magnitude becomes 127; 0 if that is not finite.
// Less than 2^-100 is taken for it: the inverse could overflow.
MABM_HOST_DEVICE inline float inverse_scale(uint32_t greatest_bits) {
  const float greatest = bits_as<float>(greatest_bits);
  const float least = 7.888609052210118e-31f;  // 2^-100
  return greatest_bits < 0x7f800000u ? 127.0f / (greatest < least ? least : greatest) : 0.0f;
}

// What is measured of a row that is rounded to integers.
struct RoundedRow {
  float inverse;
  float left;    // length of what rounding took away, in units of the scale
  float length;  // of the row, in the same units
};

}  // namespace mabm
