// Sums over a block whose order depends on nothing but the number of threads: same input, same
// bits.
#pragma once

#include <cuda_runtime.h>

namespace awm::cuda {

constexpr int kWarp = 32;
constexpr int kMaxWarps = 32;

struct Pair {
  double first, second;
};

struct Add {
  __device__ static Pair combine(Pair a, Pair b) {
    return {a.first + b.first, a.second + b.second};
  }
};

struct AddAndMax {
  __device__ static Pair combine(Pair a, Pair b) {
    return {a.first + b.first, a.second < b.second ? b.second : a.second};
  }
};

// Every thread of the block gets the result. `scratch` holds kMaxWarps pairs.
template <class Operation>
__device__ __forceinline__ Pair block_reduce(Pair value, Pair* scratch) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const Pair other{__shfl_xor_sync(0xffffffffu, value.first, distance),
                     __shfl_xor_sync(0xffffffffu, value.second, distance)};
    value = Operation::combine(value, other);
  }
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = scratch[0];
  const int warps = int(blockDim.x) / kWarp;
  for (int warp = 1; warp < warps; ++warp) value = Operation::combine(value, scratch[warp]);
  __syncthreads();
  return value;
}

}  // namespace awm::cuda
