// Rows as the work sees them, on every backend: plain pointers.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace mabm {

// Read-only CSR rows; weights is null where the rows are sets.
struct Rows {
  int64_t count;
  const int64_t* indptr;
  const int32_t* indices;
  const int32_t* weights;

  MABM_HOST_DEVICE int64_t begin(int64_t row) const { return indptr[row]; }
  MABM_HOST_DEVICE int64_t end(int64_t row) const { return indptr[row + 1]; }
};

// Neighbor lists, `width` columns a row, with a mask over them: the members of a row are its
// masked entries.
struct MaskedRanks {
  int64_t width;
  const int64_t* ranks;
  const bool* mask;
};

}  // namespace mabm
