// Encoding and local query expansion: neighbor sets to weighted rows (method steps 4 and 5).

#include <algorithm>
#include <limits>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "common/fixed_point.h"
#include "common/index_set.h"
#include "common/row_blocks.h"
#include "common/scores.h"
#include "ops/arguments.h"

namespace mabm {
namespace {

// Inner products with the members of a row's set: those that a ranking has found are looked up,
// which costs far less than reading another row of features.
class Products {
 public:
  Products(const Tensor& features, const RankedProducts& known)
      : dim_(features.size(1)),
        features_(read<float>(features)),
        known_(known),
        places_(known.width > 0 ? features.size(0) : 0, -1) {}

  // Begins a row; a thread takes its rows in ascending order.
  void begin(int64_t row) {
    row_ = row;
    for (int64_t at = row * known_.width; at < (row + 1) * known_.width; ++at) {
      if (known_.ranks[at] >= 0) {
        places_[known_.ranks[at]] = at;
      }
    }
  }

  double with(int64_t other) const {
    if (known_.width > 0) {
      // A place of an earlier row is smaller than all of this row's.
      if (places_[other] >= row_ * known_.width) {
        return known_.products[places_[other]];
      }
      const int64_t* list = known_.ranks + other * known_.width;
      const int64_t* place = std::find(list, list + known_.width, row_);
      if (place != list + known_.width) {
        return known_.products[place - known_.ranks];
      }
    }
    return inner_product(features_ + row_ * dim_, features_ + other * dim_, dim_);
  }

 private:
  const int64_t dim_;
  const float* features_;
  const RankedProducts known_;
  std::vector<int64_t> places_;  // of each sample among the ranks of the last row that has it
  int64_t row_ = 0;
};

// Appends the positive weights of a set, the softmax of -(2 - 2 p) over the inner products p of its
// members; one-hot at `own` if the set is empty. `parts` is scratch.
void append_weights(const int32_t* members, const double* products, int64_t size, int64_t own,
                    std::vector<uint64_t>& parts, std::vector<int32_t>& indices,
                    std::vector<int32_t>& weights) {
  if (size == 0) {
    indices.push_back(static_cast<int32_t>(own));
    weights.push_back(static_cast<int32_t>(kOne));
    return;
  }
  double greatest = -std::numeric_limits<double>::infinity();
  for (int64_t slot = 0; slot < size; ++slot) {
    greatest = std::max(greatest, products[slot]);
  }
  parts.resize(size);
  uint64_t total = 0;
  for (int64_t slot = 0; slot < size; ++slot) {
    parts[slot] = fine_units(exp_nonpositive(2 * (products[slot] - greatest)));
    total += parts[slot];
  }
  for (int64_t slot = 0; slot < size; ++slot) {
    const int32_t weight = weight_of(parts[slot], total);
    if (weight > 0) {
      indices.push_back(members[slot]);
      weights.push_back(weight);
    }
  }
}

std::tuple<Tensor, Tensor, Tensor> packed(RaggedRows<int32_t> rows) {
  Tensor indices = make_tensor<int32_t>({rows.num_entries()});
  Tensor weights = make_tensor<int32_t>({rows.num_entries()});
  rows.pack(indices, &weights);
  return {rows.indptr, indices, weights};
}

// V_ij = softmax over j in E(i) of -(2 - 2 x_i . x_j); one-hot at i where E(i) is empty. `products`
// (N, K) are the inner products with `ranks` (N, K), from inner_product.
std::tuple<Tensor, Tensor, Tensor> encode_neighbors(const Tensor& features, const Tensor& indptr,
                                                    const Tensor& indices,
                                                    const std::optional<Tensor>& ranks,
                                                    const std::optional<Tensor>& products) {
  const Rows neighbors = check_encode_neighbors(features, indptr, indices);
  const RankedProducts known = read_products(features, ranks, products);

  struct Scratch {
    Products find;
    std::vector<double> products;
    std::vector<uint64_t> parts;
  };
  auto rows = RaggedRows<int32_t>::build(
      neighbors.count, [&] { return Scratch{Products(features, known), {}, {}}; },
      [&](int64_t row, std::vector<int32_t>& out_indices, std::vector<int32_t>& out_weights,
          Scratch& scratch) {
        auto& [find, products, parts] = scratch;
        const int64_t begin = neighbors.begin(row);
        const int64_t size = neighbors.end(row) - begin;
        find.begin(row);
        products.resize(size);
        for (int64_t slot = 0; slot < size; ++slot) {
          products[slot] = find.with(neighbors.indices[begin + slot]);
        }
        append_weights(neighbors.indices + begin, products.data(), size, row, parts, out_indices,
                       out_weights);
      });
  return packed(std::move(rows));
}

// The same from the products (nnz,) of the entries; row i is number first_row + i.
std::tuple<Tensor, Tensor, Tensor> weigh_products(const Tensor& indptr, const Tensor& indices,
                                                  const Tensor& products, int64_t first_row) {
  const Rows sets = check_weigh_products(indptr, indices, products, first_row);
  const double* product = read<double>(products);
  return packed(RaggedRows<int32_t>::build(
      sets.count, [] { return std::vector<uint64_t>(); },
      [&](int64_t row, std::vector<int32_t>& out_indices, std::vector<int32_t>& out_weights,
          std::vector<uint64_t>& parts) {
        const int64_t begin = sets.begin(row);
        append_weights(sets.indices + begin, product + begin, sets.end(row) - begin,
                       first_row + row, parts, out_indices, out_weights);
      }));
}

// V'_i = the mean of the rows V[neighbors[i, m]], weighted by neighbor_weights[i, m] in [0, 1]; a
// row's weights count relative to each other and sum to one or less. The neighbors may be those of
// other rows, or of fewer, than the encoding has.
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
    IndexSet touched;
  };
  const auto make_scratch = [&] {
    return Scratch{std::vector<uint64_t>(encoding.count, 0), IndexSet(encoding.count)};
  };
  auto rows = RaggedRows<int32_t>::build(
      neighbors.size(0), make_scratch,
      [&](int64_t row, std::vector<int32_t>& out_indices, std::vector<int32_t>& out_weights,
          Scratch& scratch) {
        uint64_t total = 0;
        for (int64_t m = row * width; m < (row + 1) * width; ++m) {
          if (neighbor[m] < 0) {
            continue;
          }
          const uint64_t factor = fine_units(neighbor_weight[m]);
          for (int64_t at = encoding.begin(neighbor[m]); at < encoding.end(neighbor[m]); ++at) {
            const uint64_t part = factor * static_cast<uint64_t>(encoding.weights[at]);
            scratch.touched.insert(encoding.indices[at]);
            scratch.sums[encoding.indices[at]] += part;
            total += part;
          }
        }
        scratch.touched.drain([&](int32_t index) {
          const int32_t weight = weight_of(scratch.sums[index], total);
          scratch.sums[index] = 0;
          if (weight > 0) {
            out_indices.push_back(index);
            out_weights.push_back(weight);
          }
        });
      });
  return packed(std::move(rows));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mabm, CPU, m) {
  m.impl("encode_neighbors", TORCH_BOX(&encode_neighbors));
  m.impl("weigh_products", TORCH_BOX(&weigh_products));
  m.impl("average_encodings", TORCH_BOX(&average_encodings));
}

}  // namespace mabm
