// What the emulated grid is made of beside its threads: chance, the words of its errors, and what
// warps and shared memory remember.
//
// Included by emulator.cpp alone.
#pragma once

#include <cstdint>
#include <cstring>
#include <sstream>
#include <stdexcept>
#include <string>

#include "emulator.h"

namespace emulated {

// ---- Chance -------------------------------------------------------------------------------------

// SplitMix64: any seed serves.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    state_ += 0x9e3779b97f4a7c15;
    uint64_t z = state_;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }
  unsigned below(unsigned bound) { return static_cast<unsigned>((next() >> 32) * bound >> 32); }

 private:
  uint64_t state_;
};

// ---- What errors say ----------------------------------------------------------------------------

inline std::ostream& operator<<(std::ostream& out, const Call& call) {
  const char* slash = std::strrchr(call.file, '/');
  return out << call.name << " (" << (slash != nullptr ? slash + 1 : call.file) << ":" << call.line
             << ")";
}

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream sentence;
  sentence << "block " << blockIdx.x << ": ";
  (sentence << ... << parts);
  throw std::runtime_error(sentence.str());
}

struct Mask {
  unsigned lanes;
};
inline std::ostream& operator<<(std::ostream& out, Mask mask) {
  return out << "mask 0x" << std::hex << mask.lanes << std::dec;
}

inline bool same_text(const char* a, const char* b) { return a == b || std::strcmp(a, b) == 0; }

inline bool operator==(const Call& a, const Call& b) {
  return a.line == b.line && same_text(a.name, b.name) && same_text(a.file, b.file);
}

// ---- The block ----------------------------------------------------------------------------------

constexpr int kMaxWarps = kMaxThreads / kWarpSize;

inline int lowest(unsigned bits) { return __builtin_ctz(bits); }

// The first bit set from `start` on, around the end.
inline int first_from(unsigned bits, int start) {
  return (start + lowest(bits >> start | bits << (-start & 31))) & 31;
}

// What lanes of a warp are waiting to do together.
struct Meeting {
  Call call;
  unsigned mask;     // lanes that must come
  unsigned arrived;  // lanes that have
  unsigned ballot;
};

struct Warp {
  unsigned lanes;       // those there are
  unsigned runnable;    // lanes that could go on, but for the one that runs
  unsigned at_barrier;  // lanes that wait for the block
  unsigned returned;
  unsigned pending;  // which meetings lack a lane
  Meeting meetings[kWarpSize];
  uint64_t values[kWarpSize];   // what each lane brings to its meeting,
  int sources[kWarpSize];       // the lane whose value it asks for,
  uint64_t results[kWarpSize];  // and what it gets
};

struct Declaration {
  const char* file;
  int line;
  size_t bytes;
  void* data;
};

}  // namespace emulated
