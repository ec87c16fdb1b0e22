// As much of CUDA as the kernels use, on one CPU thread: their sources compile as plain C++ with
// this folder on the include path.
//
// Each CUDA thread is a fiber; the blocks of a cluster run together, clusters one after another. It
// is strict where a GPU may let a mistake pass: a barrier that not all threads reach is an error,
// and so is writing beyond the shared memory asked for, which holds garbage at first. Threads and
// clusters can be run in other orders, on which no result may depend.
#pragma once

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#define AWM_LIBRARY awm_kernels_cuda_on_cpu
#define AWM_DISPATCH_KEY CPU
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  uint64_t volume() const { return uint64_t{x} * y * z; }
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorLaunchFailure };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin, cudaDevAttrClusterLaunch };
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize,
  cudaFuncAttributeNonPortableClusterSizeAllowed
};
enum cudaLaunchAttributeID { cudaLaunchAttributeClusterDimension };
using cudaStream_t = void*;
struct cudaFuncAttributes {
  int ptxVersion;
};
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    struct {
      unsigned x, y, z;
    } clusterDim;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

namespace cuda_on_cpu {

constexpr unsigned kWarp = 32;
constexpr size_t kStack = 128 << 10;
#ifdef __SANITIZE_ADDRESS__
constexpr size_t kGuard = 0;  // no access at all goes beyond shared memory, reads included
#else
constexpr size_t kGuard = 64;  // bytes after shared memory that must stay as they are
#endif
constexpr unsigned char kGarbage = 0xff;  // NaN in every floating dtype

// The device that is played.
struct Device {
  int shared = 227 << 10;
  int arch = 90;
  unsigned order = 0;  // 0: first to last; others: seeds of other orders
  int64_t from = 0;    // clusters before this one are left out
};
inline Device device;
inline size_t default_shared = 48 << 10, allowed_shared = 0;
inline unsigned allowed_cluster = 8;
inline const char* failure = "no error";

struct Barrier {
  unsigned size = 0, arrived = 0, generation = 0;
};

struct Block {
  dim3 index;
  unsigned rank = 0;  // in its cluster
  Barrier barrier;
  std::vector<Barrier> warps;
  std::vector<unsigned char> shared;
  std::vector<double> lanes;  // what each thread offers in a shuffle
  int votes = 0;
};

struct Thread {
  ucontext_t context;
  unsigned index = 0;
  Block* block = nullptr;
  const Barrier* waits = nullptr;
  unsigned generation = 0;
  bool done = false;
};

struct Stack {
  void* memory = mmap(nullptr, kStack, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
};
inline std::vector<Stack> stacks;
inline ucontext_t scheduler;
inline Thread* running = nullptr;
inline Barrier cluster_barrier;
inline std::vector<std::unique_ptr<Block>> cluster;
inline std::function<void()> body;
inline bool progress = false;

// Returns true to the one thread that completes the barrier.
inline bool wait(Barrier& barrier) {
  progress = true;
  if (++barrier.arrived == barrier.size) {
    barrier.arrived = 0;
    ++barrier.generation;
    return true;
  }
  running->waits = &barrier;
  running->generation = barrier.generation;
  swapcontext(&running->context, &scheduler);
  return false;
}

inline void enter() {
  body();
  running->done = progress = true;
  swapcontext(&running->context, &scheduler);
}

inline unsigned char* shared_memory() { return running->block->shared.data(); }

// Runs the blocks of `cluster` to their end; false if that can't be reached.
inline bool run_cluster() {
  const unsigned threads = unsigned(blockDim.volume());
  std::vector<Thread> all(cluster.size() * threads);
  if (stacks.size() < all.size()) stacks.resize(all.size());
  for (size_t i = 0; i < all.size(); ++i) {
    Thread& thread = all[i];
    thread.index = unsigned(i % threads);
    thread.block = cluster[i / threads].get();
    getcontext(&thread.context);
    thread.context.uc_stack = {stacks[i].memory, 0, kStack};
    thread.context.uc_link = nullptr;
    makecontext(&thread.context, enter, 0);
  }
  std::vector<size_t> order(all.size());
  std::iota(order.begin(), order.end(), size_t{0});
  if (device.order != 0) std::shuffle(order.begin(), order.end(), std::mt19937(device.order));
  size_t left = all.size();
  while (left > 0) {
    progress = false;
    for (size_t i : order) {
      Thread& thread = all[i];
      if (thread.done || (thread.waits && thread.waits->generation == thread.generation)) continue;
      thread.waits = nullptr;
      running = &thread;
      threadIdx = dim3(thread.index, 0, 0);
      blockIdx = thread.block->index;
      swapcontext(&scheduler, &thread.context);
      left -= thread.done;
    }
    if (!progress) {
      failure = "a barrier is not reached by all threads";
      return false;
    }
  }
  for (const auto& block : cluster) {
    const auto end = block->shared.end();
    if (!std::all_of(end - kGuard, end, [](unsigned char c) { return c == kGarbage; })) {
      failure = "a write beyond shared memory";
      return false;
    }
  }
  return true;
}

inline cudaError_t fail(const char* why) {
  failure = why;
  return cudaErrorLaunchFailure;
}

inline cudaError_t launch(const cudaLaunchConfig_t& config, std::function<void()> kernel) {
  const unsigned size = config.numAttrs > 0 ? config.attrs->val.clusterDim.x : 1;
  const size_t shared_limit = std::max(default_shared, allowed_shared);
  const uint64_t threads = config.blockDim.volume(), blocks = config.gridDim.volume();
  if (threads == 0 || threads > 1024 || threads % kWarp != 0) return fail("threads of a block");
  if (blocks == 0 || config.gridDim.x >= 1u << 31 || config.gridDim.y > 65535) return fail("grid");
  if (config.dynamicSmemBytes > shared_limit) return fail("shared memory that was not asked for");
  if (config.dynamicSmemBytes > size_t(device.shared)) return fail("too much shared memory");
  if (size > allowed_cluster || config.gridDim.x % size != 0) return fail("cluster size");
  if (size > 1 && device.arch < 90) return fail("a cluster on a device without clusters");
  blockDim = config.blockDim;
  gridDim = config.gridDim;
  body = std::move(kernel);
  cluster_barrier = {unsigned(size * threads)};
  std::vector<uint64_t> order(blocks / size - std::min(blocks / size, uint64_t(device.from)));
  std::iota(order.begin(), order.end(), uint64_t(device.from));
  if (device.order != 0) std::shuffle(order.begin(), order.end(), std::mt19937(device.order));
  for (uint64_t number : order) {
    cluster.clear();
    for (unsigned rank = 0; rank < size; ++rank) {
      auto block = std::make_unique<Block>();
      const uint64_t index = number * size + rank;
      block->index = dim3(unsigned(index % gridDim.x), unsigned(index / gridDim.x), 0);
      block->rank = rank;
      block->barrier.size = unsigned(threads);
      block->warps.assign(threads / kWarp, Barrier{kWarp});
      block->shared.assign(config.dynamicSmemBytes + kGuard, kGarbage);
      block->lanes.resize(threads);
      cluster.push_back(std::move(block));
    }
    if (!run_cluster()) return cudaErrorLaunchFailure;
  }
  return cudaSuccess;
}

}  // namespace cuda_on_cpu

inline void __syncthreads() { cuda_on_cpu::wait(cuda_on_cpu::running->block->barrier); }

inline int __syncthreads_count(int vote) {
  cuda_on_cpu::Block& block = *cuda_on_cpu::running->block;
  block.votes += vote != 0;
  cuda_on_cpu::wait(block.barrier);
  const int count = block.votes;
  if (cuda_on_cpu::wait(block.barrier)) block.votes = 0;
  return count;
}

inline double __shfl_xor_sync(unsigned, double value, int distance) {
  cuda_on_cpu::Block& block = *cuda_on_cpu::running->block;
  cuda_on_cpu::Barrier& warp = block.warps[threadIdx.x / cuda_on_cpu::kWarp];
  const unsigned mine = threadIdx.x;
  block.lanes[mine] = value;
  cuda_on_cpu::wait(warp);
  const double other = block.lanes[mine ^ unsigned(distance)];
  cuda_on_cpu::wait(warp);
  return other;
}

template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(P...),
                               const A&... arguments) {
  return cuda_on_cpu::launch(*config, [=] { kernel(arguments...); });
}

inline const char* cudaGetErrorString(cudaError_t) { return cuda_on_cpu::failure; }

inline cudaError_t cudaGetDevice(int* index) {
  *index = 0;
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  const auto& device = cuda_on_cpu::device;
  *value = which == cudaDevAttrClusterLaunch ? device.arch >= 90 : device.shared;
  return cudaSuccess;
}

template <class K>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* found, K) {
  found->ptxVersion = cuda_on_cpu::device.arch;
  return cudaSuccess;
}

template <class K>
cudaError_t cudaFuncSetAttribute(K, cudaFuncAttribute which, int value) {
  if (which == cudaFuncAttributeNonPortableClusterSizeAllowed) {
    cuda_on_cpu::allowed_cluster = 16;
  } else {
    if (value > cuda_on_cpu::device.shared) return cudaErrorInvalidValue;
    cuda_on_cpu::allowed_shared = size_t(value);
  }
  return cudaSuccess;
}

template <class K>
cudaError_t cudaOccupancyMaxActiveClusters(int* count, K, const cudaLaunchConfig_t*) {
  *count = 1;
  return cudaSuccess;
}
