// DBSCAN on a graph of distances (Ester et al., KDD 1996), label for label the CPU's, and sets of
// joined samples.
//
// Samples are joined by a lock-free union-find whose roots only ever move to
// smaller samples (after Jaiganesh and Burtscher, "A High-Performance Connected Components
// Implementation for GPUs", HPDC 2018). So a cluster's root is its first core sample in the end,
// in any order of the threads, and counting roots numbers the clusters as the CPU does.
#pragma once

#include "common/device.h"
#include "common/rows.h"

namespace mabm {

constexpr int kDbscanThreads = 256;
constexpr int kDbscanWarps = kDbscanThreads / kWarpSize;

// Finds the core samples, those with at least min_samples within eps. A core sample begins as its
// own root; other samples have none, -1. One warp per row.
static __global__ void find_cores_kernel(Rows graph, float eps, int64_t min_samples,
                                         int32_t* parents) {
  const int64_t row = global_warp();
  if (row >= graph.count) {
    return;
  }
  int64_t near = 0;
  for (int64_t at = graph.begin(row) + lane_index(); at < graph.end(row); at += kWarpSize) {
    near += graph.distances[at] <= eps;
  }
  near = warp_sum(near);
  if (lane_index() == 0) {
    parents[row] = near >= min_samples ? static_cast<int32_t>(row) : -1;
  }
}

// Other threads may write the parent meanwhile; an old value is only further from the root.
__device__ inline int32_t read_parent(const int32_t* parents, int32_t sample) {
  return *static_cast<const volatile int32_t*>(parents + sample);
}

__device__ inline int32_t find_root(int32_t* parents, int32_t sample) {
  int32_t parent = read_parent(parents, sample);
  while (parent != sample) {
    const int32_t next = read_parent(parents, parent);
    if (next != parent) {
      atomicMin(&parents[sample], next);  // halves the path for later calls
    }
    sample = parent;
    parent = next;
  }
  return sample;
}

// Joins the sets of two samples: the greater root gets the smaller one as its parent.
__device__ inline void join_sets(int32_t* parents, int32_t first, int32_t second) {
  int32_t a = find_root(parents, first);
  int32_t b = find_root(parents, second);
  while (a != b) {
    const int32_t greater = a > b ? a : b;
    const int32_t smaller = a > b ? b : a;
    const int32_t previous = atomicCAS(&parents[greater], greater, smaller);
    if (previous == greater) {
      break;
    }
    a = find_root(parents, previous);  // another thread joined it first
    b = smaller;
  }
}

// Joins the core samples within eps of each other. One warp per row.
static __global__ void join_cores_kernel(Rows graph, float eps, int32_t* parents) {
  const int64_t row = global_warp();
  if (row >= graph.count || read_parent(parents, static_cast<int32_t>(row)) < 0) {
    return;
  }
  for (int64_t at = graph.begin(row) + lane_index(); at < graph.end(row); at += kWarpSize) {
    const int32_t other = graph.indices[at];
    // Each pair once: both triangles are there.
    if (other >= row || !(graph.distances[at] <= eps) || read_parent(parents, other) < 0) {
      continue;
    }
    join_sets(parents, static_cast<int32_t>(row), other);
  }
}

// is_root[i]: whether a cluster begins at sample i.
static __global__ void mark_roots_kernel(const int32_t* parents, int64_t count, int32_t* is_root) {
  const int64_t sample = global_thread();
  if (sample < count) {
    is_root[sample] = parents[sample] == sample;
  }
}

// labels[i] of core samples: the number of their root; -1 for others.
static __global__ void label_cores_kernel(int32_t* parents, int64_t count,
                                          const int64_t* cluster_of_root, int64_t* labels) {
  const int64_t sample = global_thread();
  if (sample < count) {
    labels[sample] = parents[sample] < 0
                         ? -1
                         : cluster_of_root[find_root(parents, static_cast<int32_t>(sample))];
  }
}

// A sample that is not a core takes the smallest cluster among its core neighbors. One warp per
// row.
static __global__ void label_borders_kernel(Rows graph, float eps, const int32_t* parents,
                                            int64_t* labels) {
  const int64_t row = global_warp();
  if (row >= graph.count || parents[row] >= 0) {
    return;
  }
  int64_t smallest = graph.count;
  for (int64_t at = graph.begin(row) + lane_index(); at < graph.end(row); at += kWarpSize) {
    const int32_t other = graph.indices[at];
    if (graph.distances[at] <= eps && parents[other] >= 0) {
      smallest = lesser(smallest, labels[other]);
    }
  }
  smallest = warp_min(smallest);
  if (lane_index() == 0 && smallest < graph.count) {
    labels[row] = smallest;
  }
}

// Joins the core samples and marks the first of each cluster.
inline cudaError_t launch_join_cores(const Rows& graph, float eps, int64_t min_samples,
                                     int32_t* parents, int32_t* is_root, cudaStream_t stream) {
  const int64_t blocks = blocks_for(graph.count, kDbscanWarps);
  cudaError_t error = launch(find_cores_kernel, blocks, kDbscanThreads, 0, stream, graph, eps,
                             min_samples, parents);
  if (error == cudaSuccess) {
    error = launch(join_cores_kernel, blocks, kDbscanThreads, 0, stream, graph, eps, parents);
  }
  if (error == cudaSuccess) {
    error = launch(mark_roots_kernel, blocks_for(graph.count, kDbscanThreads), kDbscanThreads, 0,
                   stream, static_cast<const int32_t*>(parents), graph.count, is_root);
  }
  return error;
}

// Labels from joined cores, given the number of each root: those marked before it.
inline cudaError_t launch_label_samples(const Rows& graph, float eps, int32_t* parents,
                                        const int64_t* cluster_of_root, int64_t* labels,
                                        cudaStream_t stream) {
  const cudaError_t error =
      launch(label_cores_kernel, blocks_for(graph.count, kDbscanThreads), kDbscanThreads, 0, stream,
             parents, graph.count, cluster_of_root, labels);
  return error != cudaSuccess
             ? error
             : launch(label_borders_kernel, blocks_for(graph.count, kDbscanWarps), kDbscanThreads,
                      0, stream, graph, eps, static_cast<const int32_t*>(parents), labels);
}

// Joins the samples of each pair.
static __global__ void join_pairs_kernel(const int32_t* first, const int32_t* second, int64_t count,
                                         int32_t* parents) {
  const int64_t pair = global_thread();
  if (pair < count) {
    join_sets(parents, first[pair], second[pair]);
  }
}

// Makes the root of every sample its parent.
static __global__ void flatten_sets_kernel(int32_t* parents, int64_t count) {
  const int64_t sample = global_thread();
  if (sample < count && read_parent(parents, static_cast<int32_t>(sample)) >= 0) {
    // Others halve paths meanwhile; no parent is below the root.
    atomicMin(&parents[sample], find_root(parents, static_cast<int32_t>(sample)));
  }
}

inline cudaError_t launch_join_samples(const int32_t* first, const int32_t* second,
                                       int64_t num_pairs, int32_t* parents, int64_t count,
                                       cudaStream_t stream) {
  const cudaError_t error = launch(join_pairs_kernel, blocks_for(num_pairs, kDbscanThreads),
                                   kDbscanThreads, 0, stream, first, second, num_pairs, parents);
  return error != cudaSuccess ? error
                              : launch(flatten_sets_kernel, blocks_for(count, kDbscanThreads),
                                       kDbscanThreads, 0, stream, parents, count);
}

}  // namespace mabm
