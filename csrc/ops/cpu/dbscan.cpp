// DBSCAN on a graph of distances, label for label scikit-learn's, and sets of joined samples.

#include <algorithm>
#include <memory>
#include <vector>

#include "common/row_blocks.h"
#include "ops/arguments.h"

namespace mabm {
namespace {

// Labels (N,): clusters numbered by first core sample, a border sample takes the smallest cluster
// among its core neighbors, noise is -1. A sample counts itself if its row contains it.
Tensor dbscan(const Tensor& indptr, const Tensor& indices, const Tensor& distances, double eps,
              int64_t min_samples) {
  const Rows graph = check_dbscan(indptr, indices, distances);
  const auto radius = static_cast<float>(eps);
  Tensor labels = make_tensor<int64_t>({graph.count});
  int64_t* label = write<int64_t>(labels);

  const auto is_core = std::make_unique<bool[]>(graph.count);
  for_each_row(graph.count, [&](int64_t row) {
    int64_t near = 0;
    for (int64_t at = graph.begin(row); at < graph.end(row); ++at) {
      near += graph.distances[at] <= radius;
    }
    is_core[row] = near >= min_samples;
    label[row] = -1;
  });

  int64_t num_clusters = 0;
  std::vector<int64_t> frontier;
  int64_t num_seen = 0;
  for_each_row_in_order(graph.count, [&](int64_t first) {
    if (!is_core[first] || label[first] >= 0) {
      return;
    }
    label[first] = num_clusters;
    frontier.push_back(first);
    while (!frontier.empty()) {
      const int64_t row = frontier.back();
      frontier.pop_back();
      if (++num_seen % kRowBlock == 0) {
        check_interrupts();
      }
      for (int64_t at = graph.begin(row); at < graph.end(row); ++at) {
        const int64_t other = graph.indices[at];
        if (graph.distances[at] <= radius && is_core[other] && label[other] < 0) {
          label[other] = num_clusters;
          frontier.push_back(other);
        }
      }
    }
    ++num_clusters;
  });

  for_each_row(graph.count, [&](int64_t row) {
    if (is_core[row]) {
      return;
    }
    int64_t smallest = num_clusters;
    for (int64_t at = graph.begin(row); at < graph.end(row); ++at) {
      if (graph.distances[at] <= radius && is_core[graph.indices[at]]) {
        smallest = std::min(smallest, label[graph.indices[at]]);
      }
    }
    label[row] = smallest < num_clusters ? smallest : -1;
  });
  return labels;
}

int32_t find_root(int32_t* parents, int32_t sample) {
  while (parents[sample] != sample) {
    parents[sample] = parents[parents[sample]];  // halves the path for later calls
    sample = parents[sample];
  }
  return sample;
}

// Union-find: roots only ever move to smaller samples, so that a set's root is its smallest sample.
void join_samples_(const Tensor& parents, const Tensor& first, const Tensor& second) {
  check_join_samples(parents, first, second);
  int32_t* parent = write<int32_t>(parents);
  for_each_row_in_order(first.numel(), [&](int64_t pair) {
    const int32_t a = find_root(parent, read<int32_t>(first)[pair]);
    const int32_t b = find_root(parent, read<int32_t>(second)[pair]);
    parent[std::max(a, b)] = std::min(a, b);
  });
  for_each_row_in_order(parents.numel(), [&](int64_t sample) {
    if (parent[sample] >= 0) {
      parent[sample] = parent[parent[sample]];  // a smaller sample, which has its root already
    }
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mabm, CPU, m) {
  m.impl("dbscan", TORCH_BOX(&dbscan));
  m.impl("join_samples_", TORCH_BOX(&join_samples_));
}

}  // namespace mabm
