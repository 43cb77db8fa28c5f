// MABM_HOST_DEVICE marks what runs on the CPU and inside GPU kernels alike.
#pragma once

#if defined(__CUDACC__)
#define MABM_HOST_DEVICE __host__ __device__
#else
#define MABM_HOST_DEVICE
#endif
