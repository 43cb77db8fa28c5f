// A set of indices that is read in ascending order without a sort.
#pragma once

#include <cstdint>
#include <vector>

#ifdef _MSC_VER
#include <intrin.h>
#endif

namespace mabm {

// Number of the lowest bit that is set in a word other than 0.
inline int lowest_bit(uint64_t word) {
#ifdef _MSC_VER
  unsigned long bit;
  _BitScanForward64(&bit, word);
  return static_cast<int>(bit);
#else
  return __builtin_ctzll(word);
#endif
}

// One bit for each index in [0, size), and one for each word of these bits that is not 0, so that
// reading few of many indices skips the empty words.
class IndexSet {
 public:
  explicit IndexSet(int64_t size) : words_(size / 64 + 1, 0), occupied_(size / 4096 + 1, 0) {}

  void insert(int64_t index) {
    words_[index / 64] |= uint64_t{1} << (index % 64);
    occupied_[index / 4096] |= uint64_t{1} << (index / 64 % 64);
  }

  // Calls body(index) for every index, ascending, and leaves the set empty.
  template <class Body>
  void drain(const Body& body) {
    for (size_t group = 0; group < occupied_.size(); ++group) {
      for (uint64_t rest = occupied_[group]; rest != 0; rest &= rest - 1) {
        const int64_t at = static_cast<int64_t>(group) * 64 + lowest_bit(rest);
        for (uint64_t word = words_[at]; word != 0; word &= word - 1) {
          body(static_cast<int32_t>(at * 64 + lowest_bit(word)));
        }
        words_[at] = 0;
      }
      occupied_[group] = 0;
    }
  }

 private:
  std::vector<uint64_t> words_;
  std::vector<uint64_t> occupied_;
};

}  // namespace mabm
