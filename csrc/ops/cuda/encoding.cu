// Encoding and local query expansion on the GPU.

#include <optional>
#include <tuple>

#include "kernels/encoding.cuh"
#include "ops/arguments.h"
#include "ops/cuda/ragged_rows.h"

namespace mabm {
namespace {

// The positive weights of sets, given a weight for each entry and the counts of the rows.
std::tuple<Tensor, Tensor, Tensor> keep_positive(const OnDevice& on, Rows sets,
                                                 const Tensor& all_weights, const Tensor& counts,
                                                 int64_t first_row) {
  Tensor starts = starts_of(on, counts);
  const int64_t total = read_total(on, starts);
  Tensor indices = on.make<int32_t>({total}, "the entries of rows");
  Tensor weights = on.make<int32_t>({total}, "the weights of rows");
  sets.weights = read<int32_t>(all_weights);
  on.check(launch_keep_positive(sets, first_row, read<int64_t>(starts), write<int32_t>(indices),
                                write<int32_t>(weights), on.stream()),
           "writing weights");
  return {starts, indices, weights};
}

std::tuple<Tensor, Tensor, Tensor> encode_neighbors(const Tensor& features, const Tensor& indptr,
                                                    const Tensor& indices,
                                                    const std::optional<Tensor>& ranks,
                                                    const std::optional<Tensor>& known_products) {
  const Rows neighbors = check_encode_neighbors(features, indptr, indices);
  const RankedProducts known = read_products(features, ranks, known_products);
  const OnDevice on(features);
  Tensor products = on.make<double>({indices.numel()}, "the products of neighbors");
  Tensor all_weights = on.make<int32_t>({indices.numel()}, "the weights of neighbors");
  Tensor counts = on.make<int32_t>({neighbors.count}, "the counts of rows");
  on.check(launch_weigh_neighbors(read<float>(features), features.size(1), neighbors, known,
                                  write<double>(products), write<int32_t>(all_weights),
                                  write<int32_t>(counts), on.stream()),
           "weighing neighbors");
  return keep_positive(on, neighbors, all_weights, counts, 0);
}

std::tuple<Tensor, Tensor, Tensor> weigh_products(const Tensor& indptr, const Tensor& indices,
                                                  const Tensor& products, int64_t first_row) {
  const Rows sets = check_weigh_products(indptr, indices, products, first_row);
  const OnDevice on(indptr);
  Tensor parts = on.make<double>({indices.numel()}, "the parts of rows");
  Tensor all_weights = on.make<int32_t>({indices.numel()}, "the weights of neighbors");
  Tensor counts = on.make<int32_t>({sets.count}, "the counts of rows");
  on.check(launch_weigh_products(sets, read<double>(products), write<double>(parts),
                                 write<int32_t>(all_weights), write<int32_t>(counts), on.stream()),
           "weighing products");
  return keep_positive(on, sets, all_weights, counts, first_row);
}

std::tuple<Tensor, Tensor, Tensor> average_encodings(const Tensor& indptr, const Tensor& indices,
                                                     const Tensor& weights, const Tensor& neighbors,
                                                     const Tensor& neighbor_weights) {
  const Rows encoding =
      check_average_encodings(indptr, indices, weights, neighbors, neighbor_weights);
  const int64_t num_rows = neighbors.size(0);
  const AveragedRows averaged{num_rows, neighbors.size(1), read<int64_t>(neighbors),
                              read<double>(neighbor_weights)};
  const OnDevice on(indptr);
  Tensor counts = on.make<int32_t>({num_rows}, "the counts of rows");
  Tensor is_long = on.make_zeros<bool>({num_rows}, "the marks of long rows");
  Tensor long_rows = on.make<int32_t>({num_rows}, "the numbers of long rows");
  Tensor count_of_long = on.make_zeros<int64_t>({1}, "the number of long rows");
  const RowCounts rows{write<int32_t>(counts), write<bool>(is_long), write<int32_t>(long_rows),
                       reinterpret_cast<unsigned long long*>(write<int64_t>(count_of_long))};
  on.check(
      launch_average_encodings(encoding, averaged, rows, nullptr, nullptr, nullptr, on.stream()),
      "counting averages");
  Tensor starts = starts_of(on, counts);
  int64_t num_long = 0;
  int64_t total = 0;
  on.read(read<int64_t>(count_of_long), read<int64_t>(starts) + num_rows, &num_long, &total);
  const size_t shared_bytes = on.most_shared();
  if (num_long > 0) {
    on.check(launch_average_long_rows(encoding, averaged, rows, num_long, shared_bytes, nullptr,
                                      nullptr, nullptr, on.stream()),
             "counting averages of long rows");
    starts = starts_of(on, counts);
    total = read_total(on, starts);
  }
  Tensor out_indices = on.make<int32_t>({total}, "the entries of rows");
  Tensor out_weights = on.make<int32_t>({total}, "the weights of rows");
  on.check(launch_average_encodings(encoding, averaged, rows, read<int64_t>(starts),
                                    write<int32_t>(out_indices), write<int32_t>(out_weights),
                                    on.stream()),
           "writing averages");
  on.check(launch_average_long_rows(encoding, averaged, rows, num_long, shared_bytes,
                                    read<int64_t>(starts), write<int32_t>(out_indices),
                                    write<int32_t>(out_weights), on.stream()),
           "writing averages of long rows");
  return {starts, out_indices, out_weights};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mabm, MABM_GPU, m) {
  m.impl("encode_neighbors", TORCH_BOX(&encode_neighbors));
  m.impl("weigh_products", TORCH_BOX(&weigh_products));
  m.impl("average_encodings", TORCH_BOX(&average_encodings));
}

}  // namespace mabm
