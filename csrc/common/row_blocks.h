// Work over rows on PyTorch's own threads, and rows of unequal length gathered into CSR tensors.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "common/checks.h"

namespace mabm {

// Rows are handed out in blocks of this many, so that threads with lighter rows take more of them.
constexpr int64_t kRowBlock = 64;

// Calls body(block, first, last, scratch) for every block of rows, in any order, on all threads;
// each thread makes one scratch by make_scratch().
template <class MakeScratch, class Body>
void for_each_row_block(int64_t num_rows, const MakeScratch& make_scratch, const Body& body) {
  const int64_t num_blocks = (num_rows + kRowBlock - 1) / kRowBlock;
  const int64_t workers = std::min<int64_t>(torch::stable::get_num_threads(), num_blocks);
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, workers, 1, [&](int64_t, int64_t) {
    auto scratch = make_scratch();
    for (int64_t block = next++; block < num_blocks; block = next++) {
      body(block, block * kRowBlock, std::min(num_rows, (block + 1) * kRowBlock), scratch);
    }
  });
}

struct NoScratch {};

// Calls body(row) for every row, on all threads.
template <class Body>
void for_each_row(int64_t num_rows, const Body& body) {
  for_each_row_block(
      num_rows, [] { return NoScratch{}; },
      [&](int64_t, int64_t first, int64_t last, NoScratch&) {
        for (int64_t row = first; row < last; ++row) {
          body(row);
        }
      });
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
    for_each_row_block(num_rows, make_scratch,
                       [&](int64_t index, int64_t first, int64_t last, auto& scratch) {
                         auto& block = rows.blocks[index];
                         for (int64_t row = first; row < last; ++row) {
                           const auto before = block.indices.size();
                           body(row, block.indices, block.values, scratch);
                           indptr[row + 1] = static_cast<int64_t>(block.indices.size() - before);
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
        [&](int64_t index, int64_t first, int64_t, NoScratch&) {
          auto& block = blocks[index];
          std::copy(block.indices.begin(), block.indices.end(),
                    write<int32_t>(indices) + starts[first]);
          if (values != nullptr) {
            std::copy(block.values.begin(), block.values.end(),
                      write<Value>(*values) + starts[first]);
          }
          block = {};
        });
  }
};

}  // namespace mabm
