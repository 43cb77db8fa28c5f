// The distance between encoded rows, dense or pruned (method step 6).

#include "common/fixed_point.h"
#include "common/row_blocks.h"

namespace mabm {
namespace {

struct Entry {
  int32_t row;
  int32_t weight;
};

// The encoded rows by column: for each sample l, the rows that hold l, ascending.
struct Inverted {
  std::vector<int64_t> starts;
  std::vector<Entry> entries;

  Inverted(const Rows& rows, int64_t num_columns) : starts(num_columns + 1, 0) {
    const int64_t num_entries = rows.indptr[rows.count];
    for (int64_t at = 0; at < num_entries; ++at) {
      ++starts[rows.indices[at] + 1];
    }
    for (int64_t column = 0; column < num_columns; ++column) {
      starts[column + 1] += starts[column];
    }
    entries.resize(num_entries);
    std::vector<int64_t> next(starts.begin(), starts.end() - 1);
    for (int64_t row = 0; row < rows.count; ++row) {
      for (int64_t at = rows.begin(row); at < rows.end(row); ++at) {
        entries[next[rows.indices[at]]++] = {static_cast<int32_t>(row), rows.weights[at]};
      }
    }
  }

  const Entry* begin(int64_t column) const { return entries.data() + starts[column]; }
  const Entry* end(int64_t column) const { return entries.data() + starts[column + 1]; }
};

// J between every row of one encoding and every row of another: (R, C), for N samples in all.
Tensor jaccard_distance(const Tensor& row_indptr, const Tensor& row_indices,
                        const Tensor& row_weights, const Tensor& column_indptr,
                        const Tensor& column_indices, const Tensor& column_weights,
                        int64_t num_samples) {
  const Rows rows = read_rows(row_indptr, row_indices, row_weights);
  const Rows columns = read_rows(column_indptr, column_indices, column_weights);
  const Inverted inverted(columns, num_samples);
  Tensor distance = make_tensor<float>({rows.count, columns.count});
  float* out = write<float>(distance);
  const auto make_scratch = [&] { return std::vector<int32_t>(columns.count); };
  for_each_row_block(rows.count, make_scratch,
                     [&](int64_t, int64_t first, int64_t last, std::vector<int32_t>& overlaps) {
                       for (int64_t row = first; row < last; ++row) {
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
                           out_row[column] = distance_of_overlap(overlaps[column]);
                         }
                       }
                     });
  return distance;
}

// Every pair with J <= max_distance: each row's columns ascending, both triangles, the diagonal and
// zeros among them. Only j >= i is computed; J is symmetric to the bit.
std::tuple<Tensor, Tensor, Tensor> jaccard_graph(const Tensor& indptr, const Tensor& indices,
                                                 const Tensor& weights, double max_distance) {
  const Rows rows = read_rows(indptr, indices, weights);
  const Inverted inverted(rows, rows.count);
  const auto least = static_cast<int32_t>(
      std::min(least_overlap(static_cast<float>(max_distance)), kOne));

  struct Scratch {
    std::vector<int32_t> overlaps;  // all zero between rows
    std::vector<int32_t> touched;
  };
  const auto make_scratch = [&] { return Scratch{std::vector<int32_t>(rows.count, 0), {}}; };
  auto upper = RaggedRows<float>::build(
      rows.count, make_scratch,
      [&](int64_t row, std::vector<int32_t>& out_indices, std::vector<float>& out_distances,
          Scratch& scratch) {
        int32_t* overlaps = scratch.overlaps.data();
        for (int64_t at = rows.begin(row); at < rows.end(row); ++at) {
          const int64_t column = rows.indices[at];
          const int32_t weight = rows.weights[at];
          const Entry* end = inverted.end(column);
          const Entry* e = std::lower_bound(
              inverted.begin(column), end, row,
              [](const Entry& entry, int64_t own) { return entry.row < own; });
          for (; e != end; ++e) {
            const int32_t part = std::min(weight, e->weight);
            if (part > 0) {
              if (overlaps[e->row] == 0) {
                scratch.touched.push_back(e->row);
              }
              overlaps[e->row] += part;
            }
          }
        }
        const auto start = static_cast<int64_t>(out_indices.size());
        for (const int32_t other : scratch.touched) {
          if (overlaps[other] >= least) {
            out_indices.push_back(other);
          } else {
            overlaps[other] = 0;
          }
        }
        scratch.touched.clear();
        std::sort(out_indices.begin() + start, out_indices.end());
        for (size_t slot = start; slot < out_indices.size(); ++slot) {
          int32_t& overlap = overlaps[out_indices[slot]];
          out_distances.push_back(distance_of_overlap(overlap));
          overlap = 0;
        }
      });

  // Mirror: row j takes, before its own upper part, every i < j that holds j, in ascending order.
  std::vector<int64_t> lower(rows.count, 0);
  for (const auto& block : upper.blocks) {
    for (const int32_t other : block.indices) {
      ++lower[other];  // the diagonal is counted here and in the upper part
    }
  }
  const int64_t* upper_starts = read<int64_t>(upper.indptr);
  Tensor out_indptr = make_tensor<int64_t>({rows.count + 1});
  int64_t* starts = write<int64_t>(out_indptr);
  starts[0] = 0;
  for (int64_t row = 0; row < rows.count; ++row) {
    --lower[row];
    starts[row + 1] = starts[row] + lower[row] + upper_starts[row + 1] - upper_starts[row];
  }
  Tensor out_indices = make_tensor<int32_t>({starts[rows.count]});
  Tensor out_distances = make_tensor<float>({starts[rows.count]});
  int32_t* out_index = write<int32_t>(out_indices);
  float* out_distance = write<float>(out_distances);
  std::vector<int64_t> next(starts, starts + rows.count);
  for (int64_t row = 0; row < rows.count; ++row) {
    const auto& block = upper.blocks[row / kRowBlock];
    const int64_t offset = upper_starts[row / kRowBlock * kRowBlock];
    for (int64_t at = upper_starts[row]; at < upper_starts[row + 1]; ++at) {
      const int32_t other = block.indices[at - offset];
      const float distance = block.values[at - offset];
      out_index[next[row]] = other;
      out_distance[next[row]++] = distance;
      if (other != row) {
        out_index[next[other]] = static_cast<int32_t>(row);
        out_distance[next[other]++] = distance;
      }
    }
  }
  return {out_indptr, out_indices, out_distances};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mabm, CPU, m) {
  m.impl("jaccard_distance", TORCH_BOX(&jaccard_distance));
  m.impl("jaccard_graph", TORCH_BOX(&jaccard_graph));
}

}  // namespace mabm
