// The check of a kernel for quantized operands against plain loops.

#include <vector>

#include "common/screening.h"

namespace mabm {
namespace {

// Entry k of a sample: all of them the largest, the smallest, alternating, or anything.
int8_t test_entry(int sample, int64_t k) {
  if (sample < 3) {
    return sample == 0 || (sample == 2 && k % 2 == 0) ? 127 : -127;
  }
  uint32_t mixed = static_cast<uint32_t>(k) * 2654435761u + static_cast<uint32_t>(sample) * 40503u;
  mixed = (mixed ^ mixed >> 15) * 2246822519u;
  return static_cast<int8_t>(static_cast<int>((mixed ^ mixed >> 13) % 255) - 127);
}

// (kTile, depth) entries in panels of this many samples.
std::vector<int8_t> in_panels(const std::vector<int8_t>& entries, int64_t depth, int width,
                              int offset) {
  constexpr int step = kStep<int8_t>;
  std::vector<int8_t> packed(entries.size());
  for (int sample = 0; sample < kTile; ++sample) {
    int8_t* panel = packed.data() + sample / width * width * depth;
    for (int64_t k = 0; k < depth; ++k) {
      panel[(k / step * width + sample % width) * step + k % step] =
          static_cast<int8_t>(entries[sample * depth + k] + offset);
    }
  }
  return packed;
}

}  // namespace

bool multiplies_exactly(const ScreenKernel& kernel, int64_t depth) {
  std::vector<int8_t> left(kTile * depth);
  std::vector<int8_t> right(kTile * depth);
  std::vector<int32_t> starts(kTile);
  for (int sample = 0; sample < kTile; ++sample) {
    for (int64_t k = 0; k < depth; ++k) {
      left[sample * depth + k] = test_entry(sample, k);
      right[sample * depth + k] = test_entry((sample * 7 + 3) % kTile, k);
      starts[sample] -= kernel.offset * right[sample * depth + k];
    }
  }
  const auto rows = in_panels(left, depth, kernel.rows, kernel.offset);
  const auto columns = in_panels(right, depth, kernel.columns, 0);
  const std::vector<float> zeros(kTile), ones(kTile, 1.0f), thresholds(kTile, -1e30f);
  const BlockTerms terms{zeros.data(), zeros.data(), ones.data(),
                         zeros.data(), zeros.data(), starts.data()};
  std::vector<float> sums(kTile * kTile);
  std::vector<Hit> hits(kTile * kTile);
  const int num_hits =
      kernel.scan(Tile{rows.data(), columns.data(), depth, terms, terms, thresholds.data(), 0,
                       nullptr, 0, sums.data(), hits.data()});
  int num_right = 0;
  for (int at = 0; at < num_hits; ++at) {
    const Hit& hit = hits[at];
    int32_t exact = 0;
    for (int64_t k = 0; k < depth; ++k) {
      exact += left[hit.row * depth + k] * right[hit.column * depth + k];
    }
    num_right += hit.bound == static_cast<float>(exact);
  }
  return num_right == kTile * kTile;
}

}  // namespace mabm
