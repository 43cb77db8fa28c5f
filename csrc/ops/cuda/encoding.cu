// Encoding and local query expansion on the GPU.

#include <optional>
#include <tuple>

#include "kernels/encoding.cuh"
#include "ops/arguments.h"
#include "ops/cuda/ragged_rows.h"

namespace mabm {
namespace {

std::tuple<Tensor, Tensor, Tensor> encode_neighbors(const Tensor& features, const Tensor& indptr,
                                                    const Tensor& indices,
                                                    const std::optional<Tensor>& ranks,
                                                    const std::optional<Tensor>& known_products) {
  Rows neighbors = check_encode_neighbors(features, indptr, indices);
  const RankedProducts known = read_products(features, ranks, known_products);
  const OnDevice on(features);
  Tensor products = on.make<double>({indices.numel()}, "the products of neighbors");
  Tensor all_weights = on.make<int32_t>({indices.numel()}, "the weights of neighbors");
  Tensor counts = on.make<int32_t>({neighbors.count}, "the counts of rows");
  on.check(launch_weigh_neighbors(read<float>(features), features.size(1), neighbors, known,
                                  write<double>(products), write<int32_t>(all_weights),
                                  write<int32_t>(counts), on.stream()),
           "weighing neighbors");
  Tensor starts = starts_of(on, counts);
  const int64_t total = read_total(on, starts);
  Tensor out_indices = on.make<int32_t>({total}, "the entries of rows");
  Tensor out_weights = on.make<int32_t>({total}, "the weights of rows");
  neighbors.weights = read<int32_t>(all_weights);
  on.check(launch_keep_positive(neighbors, read<int64_t>(starts), write<int32_t>(out_indices),
                                write<int32_t>(out_weights), on.stream()),
           "writing weights");
  return {starts, out_indices, out_weights};
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
  m.impl("average_encodings", TORCH_BOX(&average_encodings));
}

}  // namespace mabm
