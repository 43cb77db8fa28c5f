// DBSCAN and sets of joined samples on the GPU.

#include "kernels/dbscan.cuh"
#include "ops/arguments.h"
#include "ops/cuda/ragged_rows.h"

namespace mabm {
namespace {

Tensor dbscan(const Tensor& indptr, const Tensor& indices, const Tensor& distances, double eps,
              int64_t min_samples) {
  const Rows graph = check_dbscan(indptr, indices, distances);
  const OnDevice on(indptr);
  const auto radius = static_cast<float>(eps);
  Tensor labels = on.make<int64_t>({graph.count}, "labels");
  Tensor parents = on.make<int32_t>({graph.count}, "the roots of clusters");
  Tensor is_root = on.make<int32_t>({graph.count}, "the roots of clusters");
  on.check(launch_join_cores(graph, radius, min_samples, write<int32_t>(parents),
                             write<int32_t>(is_root), on.stream()),
           "joining core samples");
  Tensor cluster_of_root = starts_of(on, is_root);
  on.check(
      launch_label_samples(graph, radius, write<int32_t>(parents), read<int64_t>(cluster_of_root),
                           write<int64_t>(labels), on.stream()),
      "labeling samples");
  return labels;
}

void join_samples_(const Tensor& parents, const Tensor& first, const Tensor& second) {
  check_join_samples(parents, first, second);
  const OnDevice on(parents);
  on.check(launch_join_samples(read<int32_t>(first), read<int32_t>(second), first.numel(),
                               write<int32_t>(parents), parents.numel(), on.stream()),
           "joining samples");
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mabm, MABM_GPU, m) {
  m.impl("dbscan", TORCH_BOX(&dbscan));
  m.impl("join_samples_", TORCH_BOX(&join_samples_));
}

}  // namespace mabm
