// The lists of candidates that screening fills, from many threads at once (method step 1).
//
// A sample is dropped only if its upper bound is below the k-th greatest lower bound of those seen
// so far in the list, k its length: then k others are nearer. Lists only ever lose such samples, so
// their final content does not depend on the order of the pairs, nor on threads. A list that is
// nearly full with samples that cannot be dropped has overflowed: nothing is known of it any more.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <thread>

#include "ops/screening_arguments.h"

namespace mabm {

// Drops what is proven not to belong to a list: all below its threshold.
inline void cut_list(const ScreenLists& lists, int64_t at) {
  float* bounds = lists.bounds + at * lists.capacity;
  int32_t* indices = lists.indices + at * lists.capacity;
  const float threshold = lists.thresholds[at];
  int32_t kept = 0;
  for (int32_t slot = 0; slot < lists.counts[at]; ++slot) {
    bounds[kept] = bounds[slot];
    indices[kept] = indices[slot];
    kept += bounds[slot] > threshold;
  }
  lists.counts[at] = kept;
}

// Lists are written under a lock for each row. Thresholds are read without it: they only rise, and
// an old one only lets more through.
class SharedLists {
 public:
  SharedLists(const ScreenArguments& arguments)
      : arguments_(arguments),
        lists_(arguments.lists),
        locks_(new std::atomic<bool>[arguments.lists.num_rows]()) {}

  // What a bound must exceed to be added to a list of a sample.
  float threshold(int32_t sample, int32_t list) const {
    const int64_t at = int64_t{arguments_.places[sample]} * lists_.num_lists + list;
    return shared_threshold(at).load(std::memory_order_relaxed);
  }

  // Takes hits on one sample; other_of(hit) is the other sample of the pair. Candidates are added
  // to the lists; or only the thresholds are raised, by hits on lower bounds.
  template <class Hits, class Other>
  void take(int32_t sample, const Hits& hits, const Other& other_of) {
    const int64_t place = arguments_.places[sample];
    const Lock lock(locks_[place]);
    for (const Hit* hit : hits) {
      const int32_t other = other_of(*hit);
      if (other < 0) {  // padding, which a bound that is not finite hits
        continue;
      }
      const int32_t list = arguments_.list_of(sample, other);
      const int64_t at = place * lists_.num_lists + list;
      const float bound = hit->bound + arguments_.biases[other];
      if (lists_.counts[at] < 0 || bound <= lists_.thresholds[at]) {
        continue;
      }
      // Neither beyond the range of float32 nor NaN, and with a place in the list.
      if (!(bound < std::numeric_limits<float>::infinity()) ||
          (arguments_.collects && !add(at, other, bound))) {
        overflow(place);
        return;
      }
      if (arguments_.raises) {
        const double gap = arguments_.collects ? arguments_.terms.gap(sample, other)
                                               : arguments_.terms.own_gap(sample, other);
        raise_threshold(at, static_cast<int32_t>(arguments_.widths[list]),
                        static_cast<double>(bound) - gap);
      }
    }
  }

 private:
  class Lock {
   public:
    explicit Lock(std::atomic<bool>& taken) : taken_(taken) {
      while (taken_.exchange(true, std::memory_order_acquire)) {
        std::this_thread::yield();
      }
    }
    ~Lock() { taken_.store(false, std::memory_order_release); }
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

   private:
    std::atomic<bool>& taken_;
  };

  std::atomic<float>& shared_threshold(int64_t at) const {
    return *reinterpret_cast<std::atomic<float>*>(lists_.thresholds + at);
  }

  // Adds a candidate to a list; false if the list has overflowed.
  bool add(int64_t at, int32_t other, float bound) {
    if (lists_.counts[at] == lists_.capacity) {
      cut_list(lists_, at);
      if (lists_.counts[at] > lists_.capacity - std::max<int64_t>(1, lists_.capacity / 8)) {
        return false;
      }
    }
    const int32_t slot = lists_.counts[at]++;
    lists_.bounds[at * lists_.capacity + slot] = bound;
    lists_.indices[at * lists_.capacity + slot] = other;
    return true;
  }

  // Takes a lower bound into the k greatest of a list, a heap with the least of them on top.
  void raise_threshold(int64_t at, int32_t width, double lower) {
    float value = static_cast<float>(lower);
    if (static_cast<double>(value) > lower) {
      value = std::nextafter(value, -std::numeric_limits<float>::infinity());
    }
    float* heap = lists_.lower_bounds + at * lists_.heap_width;
    if (width == 0 || !(value > heap[0])) {
      return;
    }
    int32_t hole = 0;
    for (int32_t child = 1; child < width; child = 2 * hole + 1) {
      if (child + 1 < width && heap[child + 1] < heap[child]) {
        ++child;
      }
      if (value <= heap[child]) {
        break;
      }
      heap[hole] = heap[child];
      hole = child;
    }
    heap[hole] = value;
    // What is below the least is dropped, so a bound equal to it is still taken. A threshold that
    // the list began with may be higher.
    const float threshold = std::nextafter(heap[0], -std::numeric_limits<float>::infinity());
    if (threshold > lists_.thresholds[at]) {
      shared_threshold(at).store(threshold, std::memory_order_relaxed);
    }
  }

  // Ends the collection for a row: its other lists are of no use without this one.
  void overflow(int64_t place) {
    for (int64_t at = place * lists_.num_lists; at < (place + 1) * lists_.num_lists; ++at) {
      lists_.counts[at] = -1;
      shared_threshold(at).store(std::numeric_limits<float>::infinity(), std::memory_order_relaxed);
    }
  }

  const ScreenArguments& arguments_;
  const ScreenLists& lists_;
  std::unique_ptr<std::atomic<bool>[]> locks_;
};

}  // namespace mabm
