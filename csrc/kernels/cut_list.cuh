// The boundary of the best scores of a list, and the cut at it. One warp per list.
#pragma once

#include "common/device.h"
#include "common/rows.h"

namespace mabm {

// Scores as unsigned keys in the same order; -0 and 0 are one score and get one key.
__device__ inline uint32_t key_of(float score) {
  const uint32_t bits = __float_as_uint(score + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ inline float score_of(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}
__device__ inline unsigned long long key_of(double score) {
  const auto bits = static_cast<unsigned long long>(__double_as_longlong(score + 0.0));
  return bits >> 63 ? ~bits : bits | 0x8000000000000000ull;
}
__device__ inline double score_of(unsigned long long key) {
  return __longlong_as_double(
      static_cast<long long>(key >> 63 ? key & 0x7fffffffffffffffull : ~key));
}

template <class Key>
struct Boundary {
  Key key;
  int above;  // entries with a greater key
};

// The key of the wanted-th best of `count` scores, by bisection. Called by a whole warp.
template <class Score>
__device__ auto find_boundary(const Score* scores, int count, int wanted) {
  using Key = decltype(key_of(Score{}));
  Key low = ~Key{0};
  Key high = 0;
  for (int slot = lane_index(); slot < count; slot += kWarpSize) {
    const Key key = key_of(scores[slot]);
    low = key < low ? key : low;
    high = key > high ? key : high;
  }
  low = warp_min(low);
  high = warp_max(high);
  while (true) {
    const Key middle = low + (high - low) / 2;
    int above = 0;
    for (int first = 0; first < count; first += kWarpSize) {
      const int slot = first + lane_index();
      above += __popc(__ballot_sync(kFullWarp, slot < count && key_of(scores[slot]) > middle));
    }
    if (low == high) {
      return Boundary<Key>{middle, above};
    }
    if (above >= wanted) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
}

// Drops what a cut leaves no place for, and returns the new length of the list. Entries keep their
// order. Called by a whole warp.
template <class Score>
__device__ int cut_list(Score* scores, int32_t* indices, int count, const Cut<Score>& cut,
                        Score* threshold) {
  using Key = decltype(key_of(Score{}));
  constexpr Score lowest = static_cast<Score>(-INFINITY);
  if (count < cut.width) {
    return count;
  }
  if (cut.width == 0) {
    *threshold = -lowest;
    return 0;
  }
  const auto boundary = find_boundary(scores, count, cut.width);
  const Score last = score_of(boundary.key);
  // Rounded down and up.
  const bool trusted = cut.gap < 0;
  const Score reached = trusted ? nextafter(last, -lowest) : nextafter(last - cut.gap, lowest);
  *threshold = reached > *threshold ? reached : *threshold;  // a list may begin with a higher one
  int ties = trusted ? cut.width - boundary.above : 0;
  int kept = 0;
  for (int first = 0; first < count; first += kWarpSize) {
    const int slot = first + lane_index();
    const Score score = slot < count ? scores[slot] : Score{};
    const int32_t index = slot < count ? indices[slot] : 0;
    const Key key = key_of(score);
    const unsigned tied = __ballot_sync(kFullWarp, trusted && slot < count && key == boundary.key);
    const bool is_kept_tie = tied >> lane_index() & 1u && lanes_before(tied) < ties;
    const bool is_above = trusted ? key > boundary.key : score >= *threshold;
    const bool stays = slot < count && (is_above || is_kept_tie);
    const unsigned all_stay = __ballot_sync(kFullWarp, stays);
    __syncwarp();  // every lane has read its entry before any is overwritten
    if (stays) {
      scores[kept + lanes_before(all_stay)] = score;
      indices[kept + lanes_before(all_stay)] = index;
    }
    kept += __popc(all_stay);
    ties -= lesser(ties, __popc(tied));
  }
  __syncwarp();
  return kept;
}

}  // namespace mabm
