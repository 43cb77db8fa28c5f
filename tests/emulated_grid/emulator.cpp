// The emulated grid: the threads of one block at a time.

#include "emulator.h"

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "emulator_parts.h"
#include "fibers.h"

namespace emulated {
namespace {

class Grid {
 public:
  void set_seed(uint64_t seed) {
    shuffled_ = seed != 0;
    random_ = Random(seed);
  }

  void set_max_shared(size_t bytes) {
    max_shared_ = std::min(bytes, kMaxShared);
    allowed_.clear();
  }
  size_t max_shared() const { return max_shared_; }

  void set_first_block(int64_t block) { first_block_ = block; }

  cudaError_t allow_shared(const void* kernel, int bytes) {
    if (bytes < 0 || static_cast<size_t>(bytes) > std::max(max_shared_, kPlainShared)) {
      return cudaErrorInvalidValue;
    }
    const std::lock_guard<std::mutex> one_at_a_time(mutex_);
    allowed_[kernel] = static_cast<size_t>(bytes);
    return cudaSuccess;
  }

  cudaError_t run(const void* kernel, unsigned num_blocks, int num_threads, size_t shared_bytes,
                  void (*call)(const void*), const void* body) {
    if (num_blocks < 1 || num_blocks > INT32_MAX || num_threads < 1 || num_threads > kMaxThreads) {
      return cudaErrorInvalidConfiguration;
    }
    const std::lock_guard<std::mutex> one_at_a_time(mutex_);
    const auto allowed = allowed_.find(kernel);
    if (shared_bytes > std::max(allowed == allowed_.end() ? 0 : allowed->second, kPlainShared)) {
      return cudaErrorInvalidValue;
    }
    call_ = call;
    body_ = body;
    num_threads_ = num_threads;
    dynamic_bytes_ = shared_bytes;
    most_bytes_ = allowed == allowed_.end() ? kPlainShared : std::max(max_shared_, kPlainShared);
    blockDim.x = static_cast<unsigned>(num_threads);
    gridDim.x = num_blocks;
    if (!shuffled_) {
      for (int64_t block = first_block_; block < num_blocks; ++block) {
        run_block(block);
      }
      return cudaSuccess;
    }
    std::vector<int32_t> order(
        static_cast<size_t>(std::max(num_blocks - first_block_, int64_t{0})));
    std::iota(order.begin(), order.end(), static_cast<int32_t>(first_block_));
    for (size_t left = order.size(); left > 1; --left) {
      std::swap(order[left - 1], order[random_.below(static_cast<unsigned>(left))]);
    }
    for (const int32_t block : order) {
      run_block(block);
    }
    return cudaSuccess;
  }

  int meet_block(const Call& call, int predicate) {
    const int self = current();
    Warp& warp = warps_[self / kWarpSize];
    const unsigned lane_bit = 1u << self % kWarpSize;
    if (num_returned_ > 0) {
      fail("thread ", self, " waits at ", call, ", but thread ", any_returned(), " has returned");
    }
    if (num_at_barrier_ == 0) {
      barrier_ = call;
      barrier_count_ = 0;
    } else if (!(barrier_ == call)) {
      fail("thread ", self, " waits at ", call, ", but thread ", any_at_barrier(), " at ",
           barrier_);
    }
    check_not_awaited(warp, self, "waits at ", call);
    warp.at_barrier |= lane_bit;
    waits_[self] = call;
    barrier_count_ += predicate != 0;
    if (++num_at_barrier_ == num_threads_) {
      num_at_barrier_ = 0;
      barrier_result_ = barrier_count_;
      for (int i = 0; i < num_warps(); ++i) {
        warps_[i].at_barrier = 0;
        wake(i, warps_[i].lanes);
      }
    }
    pause(self);
    return barrier_result_;
  }

  unsigned vote(const Call& call, unsigned mask, int predicate) {
    return static_cast<unsigned>(meet_warp(call, mask, predicate != 0, 0, kVote));
  }

  uint64_t exchange(const Call& call, unsigned mask, uint64_t value, int source) {
    return meet_warp(call, mask, false, value, source);
  }

  void yield() {
    // The exact number does not matter: often enough that lock-free code is interleaved, and where
    // threads go in order, seldom, but so that a thread that tries forever meets another.
    atomics_left = shuffled_ ? 1 + random_.below(8) : 4096;
    if (runnable_warps_ == 0) {
      return;
    }
    const int self = current();
    draw_starts();
    const int next = take_next();
    if (!shuffled_) {
      warp_start_ = lane_start_ = 0;
    }
    wake(self / kWarpSize, 1u << self % kWarpSize);
    go_on(self, next);
  }

  void* dynamic_shared() { return dynamic_; }

  void check_dynamic_shared(const void* end) {
    const auto taken = static_cast<size_t>(static_cast<const unsigned char*>(end) - dynamic_);
    if (taken > dynamic_bytes_) {
      fail("thread ", current(), " takes ", taken,
           " bytes of dynamic shared memory, and the launch asked for ", dynamic_bytes_);
    }
  }

  void* static_shared(const char* file, int line, size_t bytes) {
    for (const Declaration& known : declarations_) {
      if (known.line == line && known.bytes == bytes && same_text(known.file, file)) {
        return known.data;
      }
    }
    // Pieces are as far from each other as AddressSanitizer needs to see one's end.
    const size_t begin = (static_used_ + 15) / 16 * 16;
    const size_t gaps = kGap * declarations_.size();
    if (begin - gaps + bytes + dynamic_bytes_ > most_bytes_ || begin + bytes > sizeof static_) {
      fail("the kernel declares ", begin - gaps + bytes,
           " bytes of static shared memory, which with ", dynamic_bytes_,
           " bytes of dynamic is more than ", most_bytes_);
    }
    static_used_ = begin + bytes + kGap;
    void* data = static_ + begin;
    unpoison(data, bytes);
    fill(data, bytes);
    declarations_.push_back({file, line, bytes, data});
    return data;
  }

  uint64_t num_switches() const { return num_switches_; }

 private:
  static constexpr int kVote = -1;  // in place of the lane whose value is asked for
#if defined(EMULATED_ASAN)
  static constexpr size_t kGap = 32;
#else
  static constexpr size_t kGap = 0;
#endif

  static int current() { return static_cast<int>(threadIdx.x); }
  int num_warps() const { return (num_threads_ + kWarpSize - 1) / kWarpSize; }

  // ---- Which thread goes next.

  void wake(int warp, unsigned lanes) {
    warps_[warp].runnable |= lanes;
    runnable_warps_ |= 1u << warp;
  }

  void draw_starts() {
    const uint64_t drawn = random_.next();
    lane_start_ = static_cast<int>(drawn % kWarpSize);
    warp_start_ = static_cast<int>((drawn >> 32) * static_cast<unsigned>(num_warps()) >> 32);
  }

  // Takes one of the threads that can go on; there must be one.
  int take_next() {
    const int index = first_from(runnable_warps_, warp_start_);
    Warp& warp = warps_[index];
    const int lane = first_from(warp.runnable, lane_start_);
    warp.runnable &= ~(1u << lane);
    if (warp.runnable == 0) {
      runnable_warps_ &= ~(1u << index);
    }
    return index * kWarpSize + lane;
  }

  // Lets others go until this thread is chosen again.
  void pause(int self) {
    if (runnable_warps_ == 0) {
      fail_stuck();
    }
    if (restless_) {
      draw_starts();
    }
    go_on(self, take_next());
  }

  void go_on(int self, int next) {
    if (next != self) {
      ++num_switches_;
      threadIdx.x = static_cast<unsigned>(next);
      Context*& fiber = fibers_[next];
      if (fiber == nullptr) {
        fiber = take_fiber();
      }
      fibers_[self]->switch_to(*fiber);
    }
  }

  Context* take_fiber() {
    if (idle_.empty()) {
      auto fiber = std::make_unique<Context>();
      fiber->make_stack();
      fiber->restart(&Grid::run_fiber, static_cast<int>(all_.size()));
      idle_.push_back(fiber.get());
      all_.push_back(std::move(fiber));
    }
    Context* fiber = idle_.back();
    idle_.pop_back();
    return fiber;
  }

  // ---- Blocks and threads.

  void run_block(int64_t block) {
    blockIdx.x = static_cast<unsigned>(block);
    declarations_.clear();
    static_used_ = 0;
    poison(static_, sizeof static_);
    unpoison(dynamic_, dynamic_bytes_);
    poison(dynamic_ + dynamic_bytes_, sizeof dynamic_ - dynamic_bytes_);
    fill(dynamic_, dynamic_bytes_);
    num_returned_ = 0;
    num_at_barrier_ = 0;
    runnable_warps_ = 0;
    for (int i = 0; i < num_warps(); ++i) {
      Warp& warp = warps_[i];
      const int num_lanes = std::min(kWarpSize, num_threads_ - i * kWarpSize);
      warp.lanes = 0xffffffffu >> (kWarpSize - num_lanes);
      warp.runnable = warp.at_barrier = warp.returned = warp.pending = 0;
      wake(i, warp.lanes);
    }
    std::fill_n(fibers_, num_threads_, nullptr);
    // Half of the shuffled blocks draw anew at every turn; in the others some threads lag behind
    // the rest for as long as barriers let them.
    restless_ = shuffled_ && random_.below(2) == 0;
    atomics_left = shuffled_ ? 1 + random_.below(8) : 4096;
    warp_start_ = lane_start_ = 0;
    if (shuffled_) {
      draw_starts();
    }

    const int first = take_next();
    threadIdx.x = static_cast<unsigned>(first);
    fibers_[first] = take_fiber();
    ++num_switches_;
    caller_.switch_to(*fibers_[first]);
    if (failure_ != nullptr) {
      // Threads that still wait are dropped where they stand.
      idle_.clear();
      for (size_t i = 0; i < all_.size(); ++i) {
        all_[i]->restart(&Grid::run_fiber, static_cast<int>(i));
        idle_.push_back(all_[i].get());
      }
      std::rethrow_exception(std::exchange(failure_, nullptr));
    }
  }

  // What a fiber does: one thread after another, for ever.
  static void run_fiber();

  // Runs this fiber's thread, and on the same stack every thread that then starts in its place.
  // Returns a thread in whose favor this fiber becomes idle, or -1 if none is left.
  int run_threads() {
    Context* const fiber = fibers_[current()];
    for (;;) {
      call_(body_);
      finish(current());
      if (num_returned_ == num_threads_) {
        return -1;
      }
      if (runnable_warps_ == 0) {
        fail_stuck();
      }
      if (restless_) {
        draw_starts();
      }
      const int next = take_next();
      if (fibers_[next] != nullptr) {
        return next;
      }
      fibers_[next] = fiber;
      threadIdx.x = static_cast<unsigned>(next);
    }
  }

  void finish(int self) {
    Warp& warp = warps_[self / kWarpSize];
    if (num_at_barrier_ > 0) {
      fail("thread ", self, " returns, but thread ", any_at_barrier(), " waits at ", barrier_);
    }
    check_not_awaited(warp, self, "returns");
    warp.returned |= 1u << self % kWarpSize;
    ++num_returned_;
  }

  // ---- Meetings of a warp.

  uint64_t meet_warp(const Call& call, unsigned mask, unsigned vote, uint64_t value, int source) {
    const int self = current();
    const int lane = self % kWarpSize;
    const unsigned lane_bit = 1u << lane;
    Warp& warp = warps_[self / kWarpSize];
    if ((mask & lane_bit) == 0 || (mask & ~warp.lanes) != 0 ||
        (mask & (warp.returned | warp.at_barrier)) != 0) {
      fail_mask(warp, self, call, mask);
    }
    Meeting& meeting = join(warp, self, call, mask);
    meeting.arrived |= lane_bit;
    meeting.ballot |= vote << lane;
    warp.values[lane] = value;
    warp.sources[lane] = source;
    waits_[self] = call;
    if (meeting.arrived == mask) {
      settle(warp, meeting);
      warp.pending &= ~(1u << (&meeting - warp.meetings));
      wake(self / kWarpSize, mask);
    }
    pause(self);
    return warp.results[lane];
  }

  // The meeting of this call and mask, a new one if nobody waits there yet. Fails where lanes wait
  // for each other at different ones.
  Meeting& join(Warp& warp, int self, const Call& call, unsigned mask) {
    const int usual = lowest(mask);
    Meeting* found = nullptr;
    for (unsigned rest = warp.pending; rest != 0; rest &= rest - 1) {
      Meeting& other = warp.meetings[lowest(rest)];
      if (other.mask == mask && other.call == call) {
        found = &other;
      } else if ((other.mask >> self % kWarpSize & 1u) != 0 && (other.arrived & mask) != 0) {
        fail("thread ", self, " is at ", call, " with ", Mask{mask}, ", but thread ",
             first_thread(warp, other.arrived & mask), " waits for it at ", other.call, " with ",
             Mask{other.mask});
      }
    }
    if (found == nullptr) {
      // Lanes wait at one meeting each, so that one of the 32 is free.
      const int free = first_from(~warp.pending, usual);
      found = &warp.meetings[free];
      *found = {call, mask, 0, 0};
      warp.pending |= 1u << free;
    }
    return *found;
  }

  void settle(Warp& warp, const Meeting& meeting) {
    for (unsigned rest = meeting.mask; rest != 0; rest &= rest - 1) {
      const int lane = lowest(rest);
      const int source = warp.sources[lane];
      if (source == kVote) {
        warp.results[lane] = meeting.ballot;
      } else if ((meeting.mask >> source & 1u) != 0) {
        warp.results[lane] = warp.values[source];
      } else {
        warp.results[lane] = random_.next();
      }
    }
  }

  // ---- What goes wrong.

  int first_thread(const Warp& warp, unsigned lanes) const {
    return static_cast<int>(&warp - warps_) * kWarpSize + lowest(lanes);
  }
  int any_at_barrier() const {
    const Warp* warp = warps_;
    while (warp->at_barrier == 0) {
      ++warp;
    }
    return first_thread(*warp, warp->at_barrier);
  }
  int any_returned() const {
    const Warp* warp = warps_;
    while (warp->returned == 0) {
      ++warp;
    }
    return first_thread(*warp, warp->returned);
  }

  // A thread may not return or wait for its block while lanes of its warp wait for it.
  template <class... Parts>
  void check_not_awaited(const Warp& warp, int self, const Parts&... does) const {
    for (unsigned rest = warp.pending; rest != 0; rest &= rest - 1) {
      const Meeting& meeting = warp.meetings[lowest(rest)];
      if ((meeting.mask >> self % kWarpSize & 1u) != 0) {
        fail("thread ", self, " ", does..., ", but thread ", first_thread(warp, meeting.arrived),
             " waits for it at ", meeting.call, " with ", Mask{meeting.mask});
      }
    }
  }

  [[noreturn]] void fail_mask(const Warp& warp, int self, const Call& call, unsigned mask) const {
    if ((mask >> self % kWarpSize & 1u) == 0) {
      fail("thread ", self, " is at ", call, " with ", Mask{mask},
           ", which leaves out its own lane ", self % kWarpSize);
    }
    if ((mask & ~warp.lanes) != 0) {
      fail("thread ", self, " is at ", call, " with ", Mask{mask}, ", but the block of ",
           num_threads_, " threads has no thread ", first_thread(warp, mask & ~warp.lanes));
    }
    if ((mask & warp.returned) != 0) {
      fail("thread ", self, " waits at ", call, " with ", Mask{mask}, ", but thread ",
           first_thread(warp, mask & warp.returned), " has returned");
    }
    fail("thread ", self, " waits at ", call, " with ", Mask{mask}, ", but thread ",
         first_thread(warp, mask & warp.at_barrier), " waits at ", barrier_);
  }

  [[noreturn]] void fail_stuck() const {
    std::ostringstream who;
    const char* separator = "";
    std::vector<bool> told(static_cast<size_t>(num_threads_));
    const auto waits = [&](int thread) {
      return (warps_[thread / kWarpSize].returned >> thread % kWarpSize & 1u) == 0;
    };
    for (int thread = 0; thread < num_threads_; ++thread) {
      if (told[thread] || !waits(thread)) {
        continue;
      }
      int others = -1;
      for (int other = thread; other < num_threads_; ++other) {
        if (waits(other) && waits_[other] == waits_[thread]) {
          told[other] = true;
          ++others;
        }
      }
      who << separator << "thread " << thread;
      if (others > 0) {
        who << " and " << others << " more";
      }
      who << " at " << waits_[thread];
      separator = ", ";
    }
    fail("no thread can go on; waiting are ", who.str());
  }

  // ---- Shared memory.

  void fill(void* data, size_t bytes) {
    auto* out = static_cast<unsigned char*>(data);
    for (; bytes >= sizeof(uint64_t); bytes -= sizeof(uint64_t), out += sizeof(uint64_t)) {
      const uint64_t garbage = random_.next();
      std::memcpy(out, &garbage, sizeof garbage);
    }
    const uint64_t garbage = random_.next();
    std::memcpy(out, &garbage, bytes);
  }

  static void poison([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#if defined(EMULATED_ASAN)
    ASAN_POISON_MEMORY_REGION(data, bytes);
#endif
  }
  static void unpoison([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#if defined(EMULATED_ASAN)
    ASAN_UNPOISON_MEMORY_REGION(data, bytes);
#endif
  }

  std::mutex mutex_;
  Random random_{0};
  bool shuffled_ = false;
  int64_t first_block_ = 0;
  uint64_t num_switches_ = 0;

  // The launch.
  void (*call_)(const void*) = nullptr;
  const void* body_ = nullptr;
  int num_threads_ = 0;
  size_t dynamic_bytes_ = 0;
  size_t most_bytes_ = 0;  // of static and dynamic shared memory together
  size_t max_shared_ = kMaxShared;
  std::map<const void*, size_t> allowed_;

  // The order.
  bool restless_ = false;
  int warp_start_ = 0;
  int lane_start_ = 0;
  unsigned runnable_warps_ = 0;

  // The block.
  int num_returned_ = 0;
  int num_at_barrier_ = 0;
  int barrier_count_ = 0;
  int barrier_result_ = 0;
  Call barrier_{};
  Warp warps_[kMaxWarps];
  Call waits_[kMaxThreads];  // where each thread waits, or waited last
  std::vector<Declaration> declarations_;
  size_t static_used_ = 0;
  alignas(16) unsigned char static_[kPlainShared + 64 * 32];  // with gaps
  alignas(16) unsigned char dynamic_[kMaxShared + 64];

  // Fibers, kept from block to block and launch to launch.
  Context caller_;
  Context* fibers_[kMaxThreads];  // of each thread; null before it starts
  std::vector<Context*> idle_;
  std::vector<std::unique_ptr<Context>> all_;
  std::exception_ptr failure_;
};

uint64_t seed_of_environment() {
  const char* seed = std::getenv("MABM_KERNEL_SEED");
  return seed != nullptr ? std::strtoull(seed, nullptr, 10) : 0;
}

Grid grid;

void Grid::run_fiber() {
  for (;;) {
    Context* const fiber = grid.fibers_[current()];
    int next = -1;
    try {
      next = grid.run_threads();
    } catch (...) {
      grid.failure_ = std::current_exception();
    }
    grid.idle_.push_back(fiber);
    if (next < 0) {
      fiber->switch_to(grid.caller_);
    } else {
      ++grid.num_switches_;
      threadIdx.x = static_cast<unsigned>(next);
      fiber->switch_to(*grid.fibers_[next]);
    }
  }
}

[[maybe_unused]] const bool seeded = (grid.set_seed(seed_of_environment()), true);

}  // namespace

void set_seed(uint64_t seed) { grid.set_seed(seed); }
void set_first_block(int64_t block) { grid.set_first_block(block); }
uint64_t num_switches() { return grid.num_switches(); }

void set_max_shared(size_t bytes) { grid.set_max_shared(bytes); }
size_t max_shared() { return grid.max_shared(); }
cudaError_t allow_shared(const void* kernel, int bytes) { return grid.allow_shared(kernel, bytes); }

cudaError_t run_grid(const void* kernel, unsigned num_blocks, int num_threads, size_t shared_bytes,
                     void (*call)(const void*), const void* body) {
  return grid.run(kernel, num_blocks, num_threads, shared_bytes, call, body);
}

void* dynamic_shared() { return grid.dynamic_shared(); }
void* static_shared(const char* file, int line, size_t bytes) {
  return grid.static_shared(file, line, bytes);
}
void check_dynamic_shared(const void* end) { grid.check_dynamic_shared(end); }

void fail_index(int64_t index, int64_t size) {
  fail("thread ", threadIdx.x, " takes element ", index, " of shared memory of ", size);
}
void fail_width(const Call& call, int width) {
  fail("thread ", threadIdx.x, " is at ", call, " with a width of ", width,
       ", which is no power of two up to 32");
}

int meet_block(const Call& call, int predicate) { return grid.meet_block(call, predicate); }
unsigned vote(const Call& call, unsigned mask, int predicate) {
  return grid.vote(call, mask, predicate);
}
uint64_t exchange(const Call& call, unsigned mask, uint64_t value, int source) {
  return grid.exchange(call, mask, value, source);
}
void yield() { grid.yield(); }

}  // namespace emulated
