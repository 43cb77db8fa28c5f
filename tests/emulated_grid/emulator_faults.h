// Planted faults, each in a kernel of its own, that the emulated grid must report.
//
// Included by emulator_checks.cpp alone.
#pragma once

#include <map>
#include <stdexcept>
#include <string>

#include "common/device.h"

namespace mabm {
namespace {

__global__ void return_before_barrier_kernel() {
  if (threadIdx.x == 5) {
    return;
  }
  __syncthreads();
}

__global__ void barriers_of_two_lines_kernel() {
  if (threadIdx.x == 5) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void barriers_of_two_kinds_kernel() {
  threadIdx.x == 5 ? __syncthreads_or(1) : __syncthreads_and(1);
}

__global__ void returned_lane_kernel() {
  if (lane_index() != 3) {
    __syncwarp();
  }
}

__global__ void lane_at_barrier_kernel() {
  if (lane_index() == 3) {
    __syncthreads();
  } else {
    warp_sum(1);
  }
}

__global__ void own_lane_left_out_kernel() { __ballot_sync(kFullWarp - 1, 1); }

__global__ void two_masks_kernel() { __syncwarp(lane_index() < 16 ? kFullWarp : kFullWarp - 1); }

__global__ void two_operations_kernel() {
  lane_index() < 16 ? __any_sync(kFullWarp, 1) : __all_sync(kFullWarp, 1);
}

__global__ void two_lines_kernel() {
  if (lane_index() < 16) {
    __syncwarp();
  } else {
    __syncwarp();
  }
}

__global__ void lanes_that_are_not_there_kernel() { __syncwarp(); }

// Lane 0 waits for 1, 1 for 2, and 2 for 0.
__global__ void circle_kernel() {
  if (threadIdx.x < 3) {
    __syncwarp(threadIdx.x == 0 ? 0b011 : threadIdx.x == 1 ? 0b110 : 0b101);
  }
}

__global__ void odd_width_kernel() { __shfl_sync(kFullWarp, 1, 0, 3); }

__global__ void static_index_kernel() {
  MABM_SHARED(int, elements, 64);
  elements[threadIdx.x + 1] = 0;
}

__global__ void negative_index_kernel() {
  MABM_SHARED(int, elements, 64);
  elements[static_cast<int>(threadIdx.x) - 1] = 0;
}

__global__ void dynamic_index_kernel() {
  DynamicShared shared;
  const auto elements = shared.take<int>(60);
  elements[threadIdx.x] = 0;
}

__global__ void dynamic_taken_kernel() {
  DynamicShared shared;
  shared.take<double>(32);
  shared.take<char>(1);
}

__global__ void static_taken_kernel() { MABM_SHARED(char, elements, 48 * 1024 + 1); }

__global__ void exception_kernel() {
  __syncthreads();
  if (threadIdx.x == 40) {
    throw std::domain_error("thrown by a kernel");
  }
  __syncthreads();
}

const std::map<std::string, void (*)()>& faults() {
  static const std::map<std::string, void (*)()> kernels = {
      {"return before barrier", return_before_barrier_kernel},
      {"barriers of two lines", barriers_of_two_lines_kernel},
      {"barriers of two kinds", barriers_of_two_kinds_kernel},
      {"returned lane", returned_lane_kernel},
      {"lane at barrier", lane_at_barrier_kernel},
      {"own lane left out", own_lane_left_out_kernel},
      {"two masks", two_masks_kernel},
      {"two operations", two_operations_kernel},
      {"two lines", two_lines_kernel},
      {"lanes that are not there", lanes_that_are_not_there_kernel},
      {"circle", circle_kernel},
      {"odd width", odd_width_kernel},
      {"static index", static_index_kernel},
      {"negative index", negative_index_kernel},
      {"dynamic index", dynamic_index_kernel},
      {"dynamic taken", dynamic_taken_kernel},
      {"static taken", static_taken_kernel},
      {"exception", exception_kernel},
  };
  return kernels;
}

}  // namespace
}  // namespace mabm
