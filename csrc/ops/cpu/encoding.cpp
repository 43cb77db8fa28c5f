// Encoding and local query expansion: neighbor sets to weighted rows (method steps 4 and 5).

#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

#include "common/fixed_point.h"
#include "common/row_blocks.h"
#include "common/scores.h"
#include "ops/arguments.h"

namespace mabm {
namespace {

// V_ij = softmax over j in E(i) of -(2 - 2 x_i . x_j); one-hot at i where E(i) is empty.
std::tuple<Tensor, Tensor, Tensor> encode_neighbors(const Tensor& features, const Tensor& indptr,
                                                    const Tensor& indices) {
  const Rows neighbors = check_encode_neighbors(features, indptr, indices);
  const int64_t dim = features.size(1);
  const float* x = read<float>(features);

  auto rows = RaggedRows<int32_t>::build(
      neighbors.count, [] { return std::vector<double>(); },
      [&](int64_t row, std::vector<int32_t>& out_indices, std::vector<int32_t>& out_weights,
          std::vector<double>& products) {
        const int64_t begin = neighbors.begin(row);
        const int64_t size = neighbors.end(row) - begin;
        if (size == 0) {
          out_indices.push_back(static_cast<int32_t>(row));
          out_weights.push_back(static_cast<int32_t>(kOne));
          return;
        }
        products.resize(size);
        double greatest = -std::numeric_limits<double>::infinity();
        for (int64_t slot = 0; slot < size; ++slot) {
          const int64_t j = neighbors.indices[begin + slot];
          products[slot] = inner_product(x + row * dim, x + j * dim, dim);
          greatest = std::max(greatest, products[slot]);
        }
        uint64_t total = 0;
        for (double& product : products) {
          const uint64_t part = fine_units(exp_nonpositive(2 * (product - greatest)));
          product = static_cast<double>(part);
          total += part;
        }
        for (int64_t slot = 0; slot < size; ++slot) {
          const int32_t weight = weight_of(static_cast<uint64_t>(products[slot]), total);
          if (weight > 0) {
            out_indices.push_back(neighbors.indices[begin + slot]);
            out_weights.push_back(weight);
          }
        }
      });
  Tensor out_indices = make_tensor<int32_t>({rows.num_entries()});
  Tensor out_weights = make_tensor<int32_t>({rows.num_entries()});
  rows.pack(out_indices, &out_weights);
  return {rows.indptr, out_indices, out_weights};
}

// V'_i = the mean of the rows V[neighbors[i, m]], weighted by neighbor_weights[i, m] in [0, 1]; a
// row's weights count relative to each other and sum to one or less.
std::tuple<Tensor, Tensor, Tensor> average_encodings(const Tensor& indptr, const Tensor& indices,
                                                     const Tensor& weights, const Tensor& neighbors,
                                                     const Tensor& neighbor_weights) {
  const Rows encoding =
      check_average_encodings(indptr, indices, weights, neighbors, neighbor_weights);
  const int64_t width = neighbors.size(1);
  const int64_t* neighbor = read<int64_t>(neighbors);
  const double* neighbor_weight = read<double>(neighbor_weights);

  struct Scratch {
    std::vector<uint64_t> sums;  // all zero between rows
    std::vector<int32_t> touched;
  };
  const auto make_scratch = [&] { return Scratch{std::vector<uint64_t>(encoding.count, 0), {}}; };
  auto rows = RaggedRows<int32_t>::build(
      encoding.count, make_scratch,
      [&](int64_t row, std::vector<int32_t>& out_indices, std::vector<int32_t>& out_weights,
          Scratch& scratch) {
        uint64_t total = 0;
        for (int64_t m = row * width; m < (row + 1) * width; ++m) {
          if (neighbor[m] < 0) {
            continue;
          }
          const uint64_t factor = fine_units(neighbor_weight[m]);
          for (int64_t at = encoding.begin(neighbor[m]); at < encoding.end(neighbor[m]); ++at) {
            uint64_t& sum = scratch.sums[encoding.indices[at]];
            if (sum == 0) {
              scratch.touched.push_back(encoding.indices[at]);
            }
            const uint64_t part = factor * static_cast<uint64_t>(encoding.weights[at]);
            sum += part;
            total += part;
          }
        }
        std::sort(scratch.touched.begin(), scratch.touched.end());
        for (const int32_t index : scratch.touched) {
          const int32_t weight = weight_of(scratch.sums[index], total);
          scratch.sums[index] = 0;
          if (weight > 0) {
            out_indices.push_back(index);
            out_weights.push_back(weight);
          }
        }
        scratch.touched.clear();
      });
  Tensor out_indices = make_tensor<int32_t>({rows.num_entries()});
  Tensor out_weights = make_tensor<int32_t>({rows.num_entries()});
  rows.pack(out_indices, &out_weights);
  return {rows.indptr, out_indices, out_weights};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mabm, CPU, m) {
  m.impl("encode_neighbors", TORCH_BOX(&encode_neighbors));
  m.impl("average_encodings", TORCH_BOX(&average_encodings));
}

}  // namespace mabm
