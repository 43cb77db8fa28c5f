// Work over rows on PyTorch's own threads, and rows of unequal length gathered into CSR tensors.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <vector>

#include "common/checks.h"
#include "common/interrupts.h"

namespace mabm {

// Rows are handed out in blocks of this many, so that threads with lighter rows take more of them.
constexpr int64_t kRowBlock = 64;

// State shared by the threads of a loop: the next block, and the error that ended the loop early.
class RowLoop {
 public:
  explicit RowLoop(int64_t num_blocks) : num_blocks_(num_blocks), failed_block_(num_blocks) {}

  // The next block of rows, or -1 if none is left or the loop failed.
  int64_t take() {
    const int64_t block = failed_ ? num_blocks_ : next_++;
    return block < num_blocks_ ? block : -1;
  }

  // Whether a signal ended the loop. On the main thread a pending signal throws here; the other
  // threads learn of it by the result.
  bool is_interrupted() const {
    check_interrupts();
    return interrupted_;
  }

  // Keeps the current exception if it is the first in row order. Blocks are handed out in ascending
  // order and those before a failing one are finished, so the first error is the same for any
  // number of threads. An interruption takes precedence over errors.
  void fail(int64_t block, bool interrupted) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (error_ == nullptr || interrupted || (!interrupted_ && block < failed_block_)) {
      error_ = std::current_exception();
      failed_block_ = block;
    }
    interrupted_ = interrupted_ || interrupted;
    failed_ = true;
  }

  void rethrow() const {
    if (error_ != nullptr) {
      std::rethrow_exception(error_);
    }
  }

 private:
  const int64_t num_blocks_;
  std::atomic<int64_t> next_{0};
  std::atomic<bool> failed_{false};
  std::atomic<bool> interrupted_{false};
  std::mutex mutex_;
  std::exception_ptr error_;
  int64_t failed_block_;
};

// Rows [first, last), block number `index` of a loop.
struct RowBlock {
  int64_t index;
  int64_t first;
  int64_t last;
  const RowLoop& loop;
};

// Calls body(task, loop, scratch) for every task of a loop, handed out in ascending order, on all
// threads; each thread makes one scratch by make_scratch(). A body that works on a task for long
// looks at loop.is_interrupted() now and then, and returns if so. An error in any of them is thrown
// here.
template <class MakeScratch, class Body>
void for_each_task(int64_t num_tasks, const MakeScratch& make_scratch, const Body& body) {
  const int64_t workers = std::min<int64_t>(torch::stable::get_num_threads(), num_tasks);
  RowLoop loop(num_tasks);
  torch::stable::parallel_for(0, workers, 1, [&](int64_t, int64_t) {
    int64_t task = num_tasks;  // an error before the first task comes after those of tasks
    try {
      auto scratch = make_scratch();
      while ((task = loop.take()) >= 0 && !loop.is_interrupted()) {
        body(task, loop, scratch);
      }
    } catch (const Interrupted&) {
      loop.fail(task, true);
    } catch (...) {
      loop.fail(task, false);
    }
  });
  loop.rethrow();
}

// Calls body(block, scratch) for every block of rows, as for_each_task does for every task.
template <class MakeScratch, class Body>
void for_each_row_block(int64_t num_rows, const MakeScratch& make_scratch, const Body& body) {
  const int64_t num_blocks = (num_rows + kRowBlock - 1) / kRowBlock;
  for_each_task(num_blocks, make_scratch, [&](int64_t index, const RowLoop& loop, auto& scratch) {
    const int64_t first = index * kRowBlock;
    body(RowBlock{index, first, std::min(num_rows, first + kRowBlock), loop}, scratch);
  });
}

struct NoScratch {};

// Calls body(row) for every row, on all threads.
template <class Body>
void for_each_row(int64_t num_rows, const Body& body) {
  for_each_row_block(
      num_rows, [] { return NoScratch{}; },
      [&](const RowBlock& block, NoScratch&) {
        for (int64_t row = block.first; row < block.last; ++row) {
          body(row);
        }
      });
}

// Calls body(row) for every row in ascending order, on this thread.
template <class Body>
void for_each_row_in_order(int64_t num_rows, const Body& body) {
  for (int64_t first = 0; first < num_rows; first += kRowBlock) {
    check_interrupts();
    for (int64_t row = first; row < std::min(num_rows, first + kRowBlock); ++row) {
      body(row);
    }
  }
}

// Rows of unequal length as their block's thread appends them.
template <class Value>
struct RaggedBlock {
  std::vector<int32_t> indices;
  std::vector<Value> values;
};

// Builds rows of unequal length: body(row, indices, values, scratch) appends one row. Returns
// indptr and the blocks in row order; what the blocks hold does not depend on the threads.
template <class Value>
struct RaggedRows {
  Tensor indptr;
  std::vector<RaggedBlock<Value>> blocks;

  template <class MakeScratch, class Body>
  static RaggedRows build(int64_t num_rows, const MakeScratch& make_scratch, const Body& body) {
    RaggedRows rows{make_tensor<int64_t>({num_rows + 1}), {}};
    rows.blocks.resize((num_rows + kRowBlock - 1) / kRowBlock);
    int64_t* indptr = write<int64_t>(rows.indptr);
    indptr[0] = 0;
    for_each_row_block(num_rows, make_scratch, [&](const RowBlock& block, auto& scratch) {
      auto& [indices, values] = rows.blocks[block.index];
      for (int64_t row = block.first; row < block.last; ++row) {
        const auto before = indices.size();
        body(row, indices, values, scratch);
        indptr[row + 1] = static_cast<int64_t>(indices.size() - before);
      }
    });
    for (int64_t row = 0; row < num_rows; ++row) {
      indptr[row + 1] += indptr[row];
    }
    return rows;
  }

  int64_t num_rows() const { return indptr.numel() - 1; }
  int64_t num_entries() const { return read<int64_t>(indptr)[num_rows()]; }

  // Moves the blocks into one tensor of indices and, if asked for, one of values.
  void pack(const Tensor& indices, const Tensor* values) {
    const int64_t* starts = read<int64_t>(indptr);
    for_each_row_block(
        num_rows(), [] { return NoScratch{}; },
        [&](const RowBlock& block, NoScratch&) {
          auto& rows = blocks[block.index];
          const int64_t start = starts[block.first];
          std::copy(rows.indices.begin(), rows.indices.end(), write<int32_t>(indices) + start);
          if (values != nullptr) {
            std::copy(rows.values.begin(), rows.values.end(), write<Value>(*values) + start);
          }
          rows = {};
        });
  }
};

}  // namespace mabm
