// Kernels with mistakes, to show that they are found.
#include "../../csrc/cuda/launch.h"

namespace {

__global__ void barrier_of_half_the_threads() {
  if (threadIdx.x < 32) __syncthreads();
}

__global__ void overrun() { awm::cuda::shared_memory<int>()[threadIdx.x] = 1; }

__global__ void order_matters(int* out) {
  if (threadIdx.x == 0) *out = int(blockIdx.x);
}

cudaError_t run(void (*kernel)(), size_t shared) {
  const awm::cuda::Config config({dim3(1), 64, shared}, nullptr);
  return cudaLaunchKernelEx(config.get(), kernel);
}

}  // namespace

extern "C" {

// What is said of a barrier that half of the threads reach, of 64 ints in the room of 56, and of 64
// in their own.
__attribute__((visibility("default"))) const char* cuda_on_cpu_mistake(int which) {
  const cudaError_t error =
      which == 0 ? run(barrier_of_half_the_threads, 0) : run(overrun, which == 1 ? 224 : 256);
  return error == cudaSuccess ? "none" : cudaGetErrorString(error);
}

// The block that wrote last, of eight that write to the same place.
__attribute__((visibility("default"))) int cuda_on_cpu_last_block() {
  int last = -1;
  const awm::cuda::Config config({dim3(8), 32}, nullptr);
  cudaLaunchKernelEx(config.get(), order_matters, &last);
  return last;
}
}
