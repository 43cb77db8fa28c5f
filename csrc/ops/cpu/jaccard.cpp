// The distance between encoded rows, dense or pruned (method step 6).

#include <algorithm>
#include <numeric>
#include <optional>
#include <tuple>
#include <vector>

#include "common/fixed_point.h"
#include "common/row_blocks.h"
#include "ops/arguments.h"

namespace mabm {
namespace {

struct Entry {
  int32_t row;
  int32_t weight;
};

// The encoded rows by column: for each sample l, the rows that hold l, ascending. If asked for,
// entry `at` of the rows is entries[positions[at]].
struct Inverted {
  std::vector<int64_t> starts;
  std::vector<Entry> entries;

  Inverted(const Rows& rows, int64_t num_columns, std::vector<int64_t>* positions = nullptr)
      : starts(num_columns + 1, 0) {
    const int64_t num_entries = rows.indptr[rows.count];
    for (int64_t at = 0; at < num_entries; ++at) {
      ++starts[rows.indices[at] + 1];
    }
    for (int64_t column = 0; column < num_columns; ++column) {
      starts[column + 1] += starts[column];
    }
    entries.resize(num_entries);
    if (positions != nullptr) {
      positions->resize(num_entries);
    }
    std::vector<int64_t> next(starts.begin(), starts.end() - 1);
    for_each_row_in_order(rows.count, [&](int64_t row) {
      for (int64_t at = rows.begin(row); at < rows.end(row); ++at) {
        const int64_t position = next[rows.indices[at]]++;
        entries[position] = {static_cast<int32_t>(row), rows.weights[at]};
        if (positions != nullptr) {
          (*positions)[at] = position;
        }
      }
    });
  }

  const Entry* begin(int64_t column) const { return entries.data() + starts[column]; }
  const Entry* end(int64_t column) const { return entries.data() + starts[column + 1]; }
};

// Sum of the weights of each row.
std::vector<int64_t> row_sums(const Rows& rows) {
  std::vector<int64_t> sums(rows.count);
  for_each_row(rows.count, [&](int64_t row) {
    sums[row] =
        std::accumulate(rows.weights + rows.begin(row), rows.weights + rows.end(row), int64_t{0});
  });
  return sums;
}

// J between every row of one encoding and every row of another: (R, C), for N samples in total.
Tensor jaccard_distance(const Tensor& row_indptr, const Tensor& row_indices,
                        const Tensor& row_weights, const Tensor& column_indptr,
                        const Tensor& column_indices, const Tensor& column_weights,
                        int64_t num_samples) {
  const EncodingPair pair =
      check_jaccard_distance(row_indptr, row_indices, row_weights, column_indptr, column_indices,
                             column_weights, num_samples);
  // C++17 does not let a lambda capture names of a structured binding, and Clang holds to that.
  const Rows& rows = pair.rows;
  const Rows& columns = pair.columns;
  const Inverted inverted(columns, num_samples);
  const std::vector<int64_t> sums = row_sums(rows);
  const std::vector<int64_t> column_sums = row_sums(columns);
  Tensor distance = make_tensor<float>({rows.count, columns.count});
  float* out = write<float>(distance);
  const auto make_scratch = [&] { return std::vector<int32_t>(columns.count); };
  for_each_row_block(
      rows.count, make_scratch, [&](const RowBlock& block, std::vector<int32_t>& overlaps) {
        for (int64_t row = block.first; row < block.last; ++row) {
          std::fill(overlaps.begin(), overlaps.end(), 0);
          for (int64_t at = rows.begin(row); at < rows.end(row); ++at) {
            const int64_t column = rows.indices[at];
            const int32_t weight = rows.weights[at];
            for (auto e = inverted.begin(column); e != inverted.end(column); ++e) {
              overlaps[e->row] += std::min(weight, e->weight);
            }
          }
          float* out_row = out + row * columns.count;
          for (int64_t column = 0; column < columns.count; ++column) {
            out_row[column] =
                distance_of_overlap(overlaps[column], sums[row] + column_sums[column]);
          }
        }
      });
  return distance;
}

// How much of a row's weight the search for near rows may skip at first, as a fraction of the least
// overlap of a near row. A greater fraction skips more columns but leaves more candidates to
// finish; the result is the same for any value in [0, 1).
constexpr double kSkippedFraction = 0.75;

// Finds the rows of one encoding within max_distance of a row i of the same or another.
//
// Samples that are near to everything make columns so long that most of the work would be theirs.
// So the columns of row i with the most entries for their weight, of total weight w, are left out
// at first: a row whose overlap in the other columns is below the least one that is near, minus w,
// cannot be near any more, and only for the few that can is the overlap in the left-out columns
// added.
class NearRows {
 public:
  // `others`: the encoding that is searched, with its columns and sums, over `num_samples`. The
  // column of entry `at` of the rows is searched from inverted.entries[positions[at]] on.
  NearRows(const Rows& rows, const std::vector<int64_t>& positions, const Rows& others,
           const Inverted& inverted, const std::vector<int64_t>& sums, int64_t num_samples,
           float max_distance)
      : rows_(rows),
        positions_(positions),
        others_(others),
        inverted_(inverted),
        sums_(sums),
        least_sum_(sums.empty() ? 0 : *std::min_element(sums.begin(), sums.end())),
        max_distance_(max_distance),
        overlaps_(others.count, 0),
        left_out_(num_samples, 0),
        touched_(others.count + 1) {}

  // Appends the near rows, ascending, and their distances; `sum` is that of the row.
  void append(int64_t row, int64_t sum, std::vector<int32_t>& near, std::vector<float>& distances) {
    const int64_t least = least_overlap(max_distance_, sum + least_sum_);
    const int64_t left_out_weight = search(row, static_cast<int64_t>(least * kSkippedFraction));
    const auto start = static_cast<int64_t>(near.size());
    for (int64_t slot = 0; slot < num_touched_; ++slot) {
      const int32_t other = touched_[slot];
      int32_t& overlap = overlaps_[other];
      if (overlap + left_out_weight >= least) {
        const int64_t end = left_out_weight > 0 ? others_.end(other) : 0;
        for (int64_t at = others_.begin(other); at < end; ++at) {
          overlap += std::min(left_out_[others_.indices[at]], others_.weights[at]);
        }
        if (distance_of_overlap(overlap, sum + sums_[other]) <= max_distance_) {
          near.push_back(other);
          continue;
        }
      }
      overlap = 0;
    }
    std::sort(near.begin() + start, near.end());
    for (size_t slot = start; slot < near.size(); ++slot) {
      const int32_t other = near[slot];
      distances.push_back(distance_of_overlap(overlaps_[other], sum + sums_[other]));
      overlaps_[other] = 0;
    }
    for (const Column& column : columns_) {
      left_out_[column.index] = 0;
    }
    num_touched_ = 0;
    columns_.clear();
  }

 private:
  struct Column {
    const Entry* begin;
    const Entry* end;
    int32_t index;
    int32_t weight;
    float cost;  // entries per weight
  };

  // Adds up the overlaps in all columns but those with the most entries for their weight, of which
  // as many are left out as weigh no more than `budget`; returns their weight.
  int64_t search(int64_t row, int64_t budget) {
    for (int64_t at = rows_.begin(row); at < rows_.end(row); ++at) {
      const int32_t index = rows_.indices[at];
      const int32_t weight = rows_.weights[at];
      const Entry* begin = inverted_.entries.data() + positions_[at];
      const Entry* end = inverted_.end(index);
      if (begin < end) {  // to leave out an empty column would save nothing
        columns_.push_back({begin, end, index, weight, static_cast<float>(end - begin) / weight});
      }
    }
    std::sort(columns_.begin(), columns_.end(),
              [](const Column& a, const Column& b) { return a.cost > b.cost; });
    int64_t mass = 0;
    for (const Column& column : columns_) {
      if (mass + column.weight <= budget) {
        mass += column.weight;
        left_out_[column.index] = column.weight;
        continue;
      }
      for (const Entry* e = column.begin; e != column.end; ++e) {
        // About half of the rows are new, in an order that no branch predictor can learn. So every
        // row is stored without a branch; one that is not new is overwritten by the next.
        touched_[num_touched_] = e->row;
        num_touched_ += overlaps_[e->row] == 0;
        overlaps_[e->row] += std::min(column.weight, e->weight);
      }
    }
    return mass;
  }

  const Rows& rows_;
  const std::vector<int64_t>& positions_;
  const Rows& others_;
  const Inverted& inverted_;
  const std::vector<int64_t>& sums_;
  const int64_t least_sum_;
  const float max_distance_;
  std::vector<int32_t> overlaps_;  // all zero between rows, like left_out_
  std::vector<int32_t> left_out_;
  std::vector<int32_t> touched_;  // the rows with an overlap, each once
  int64_t num_touched_ = 0;
  std::vector<Column> columns_;
};

// Every pair with J <= max_distance: each row's columns ascending, both triangles, the diagonal and
// zeros among them. Only j >= i is computed; J is symmetric to the bit.
std::tuple<Tensor, Tensor, Tensor> jaccard_graph(const Tensor& indptr, const Tensor& indices,
                                                 const Tensor& weights, double max_distance,
                                                 std::optional<int64_t> num_samples) {
  const EncodedRows given =
      check_jaccard_graph(indptr, indices, weights, max_distance, num_samples);
  const Rows& rows = given.rows;
  std::vector<int64_t> positions;
  const Inverted inverted(rows, given.num_samples, &positions);
  const std::vector<int64_t> sums = row_sums(rows);
  const auto bound = static_cast<float>(max_distance);
  auto upper = RaggedRows<float>::build(
      rows.count,
      [&] { return NearRows(rows, positions, rows, inverted, sums, given.num_samples, bound); },
      [&](int64_t row, std::vector<int32_t>& near, std::vector<float>& distances,
          NearRows& search) { search.append(row, sums[row], near, distances); });

  // Mirror: row j takes, before its own upper part, every i < j that has j, in ascending order.
  std::vector<int64_t> lower(rows.count, 0);
  const int64_t* upper_starts = read<int64_t>(upper.indptr);
  const auto for_each_upper = [&](const auto& body) {
    for_each_row_in_order(rows.count, [&](int64_t row) {
      const auto& block = upper.blocks[row / kRowBlock];
      const int64_t offset = upper_starts[row / kRowBlock * kRowBlock];
      for (int64_t at = upper_starts[row]; at < upper_starts[row + 1]; ++at) {
        body(row, block.indices[at - offset], block.values[at - offset]);
      }
    });
  };
  for_each_upper([&](int64_t row, int32_t other, float) { lower[other] += other != row; });
  Tensor out_indptr = make_tensor<int64_t>({rows.count + 1});
  int64_t* starts = write<int64_t>(out_indptr);
  starts[0] = 0;
  for (int64_t row = 0; row < rows.count; ++row) {
    starts[row + 1] = starts[row] + lower[row] + upper_starts[row + 1] - upper_starts[row];
  }
  Tensor out_indices = make_tensor<int32_t>({starts[rows.count]});
  Tensor out_distances = make_tensor<float>({starts[rows.count]});
  int32_t* out_index = write<int32_t>(out_indices);
  float* out_distance = write<float>(out_distances);
  std::vector<int64_t> next(starts, starts + rows.count);
  for_each_upper([&](int64_t row, int32_t other, float distance) {
    out_index[next[row]] = other;
    out_distance[next[row]++] = distance;
    if (other != row) {
      out_index[next[other]] = static_cast<int32_t>(row);
      out_distance[next[other]++] = distance;
    }
  });
  return {out_indptr, out_indices, out_distances};
}

// The pairs of jaccard_distance with J <= max_distance: each row's columns ascending.
std::tuple<Tensor, Tensor, Tensor> near_rows(const Tensor& row_indptr, const Tensor& row_indices,
                                             const Tensor& row_weights, const Tensor& column_indptr,
                                             const Tensor& column_indices,
                                             const Tensor& column_weights, int64_t num_samples,
                                             double max_distance) {
  check_max_distance(max_distance);
  const EncodingPair pair =
      check_jaccard_distance(row_indptr, row_indices, row_weights, column_indptr, column_indices,
                             column_weights, num_samples);
  const Rows& rows = pair.rows;
  const Rows& columns = pair.columns;
  const Inverted inverted(columns, num_samples);
  const std::vector<int64_t> sums = row_sums(rows);
  const std::vector<int64_t> column_sums = row_sums(columns);
  const auto bound = static_cast<float>(max_distance);
  std::vector<int64_t> positions(row_indices.numel());
  for_each_row(rows.count, [&](int64_t row) {
    for (int64_t at = rows.begin(row); at < rows.end(row); ++at) {
      positions[at] = inverted.starts[rows.indices[at]];
    }
  });
  auto found = RaggedRows<float>::build(
      rows.count,
      [&] { return NearRows(rows, positions, columns, inverted, column_sums, num_samples, bound); },
      [&](int64_t row, std::vector<int32_t>& near, std::vector<float>& distances,
          NearRows& search) { search.append(row, sums[row], near, distances); });
  Tensor indices = make_tensor<int32_t>({found.num_entries()});
  Tensor distances = make_tensor<float>({found.num_entries()});
  found.pack(indices, &distances);
  return {found.indptr, indices, distances};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mabm, CPU, m) {
  m.impl("jaccard_distance", TORCH_BOX(&jaccard_distance));
  m.impl("jaccard_graph", TORCH_BOX(&jaccard_graph));
  m.impl("near_rows", TORCH_BOX(&near_rows));
}

}  // namespace mabm
