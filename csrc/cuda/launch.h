// Launching kernels: on the tensors' device, on the stream that PyTorch uses now, errors checked.
// Nothing here waits for the device, and memory comes from PyTorch alone, so every op can be
// captured in a CUDA graph.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <memory>
#include <type_traits>

#include "../tensor.h"

// The tests compile the kernels for the CPU, under another name.
#ifndef AWM_LIBRARY
#define AWM_LIBRARY awm_kernels_compiled
#define AWM_DISPATCH_KEY CUDA
#endif

namespace awm::cuda {

// What a kernel may use of shared memory without asking.
constexpr size_t kDefaultShared = 48 << 10;

struct Shape {
  dim3 blocks;
  unsigned threads;
  size_t shared = 0;     // bytes
  unsigned cluster = 1;  // blocks
};

inline void check(cudaError_t error, const char* what) {
  STD_TORCH_CHECK(error == cudaSuccess, what, ": ", cudaGetErrorString(error));
}

// A number of blocks in the one dimension of a grid that holds more than 65535.
inline dim3 blocks(int64_t count) {
  STD_TORCH_CHECK(count < int64_t{1} << 31, "expected fewer than 2^31 blocks, got ", count);
  return dim3(unsigned(count));
}

// The memory that `Shape::shared` asked for.
template <class T>
__device__ __forceinline__ T* shared_memory() {
#ifdef __CUDACC__
  extern __shared__ __align__(16) unsigned char bytes[];
#else
  unsigned char* bytes = cuda_on_cpu::shared_memory();
#endif
  return reinterpret_cast<T*>(bytes);
}

// The attributes of a launch; they point into the object, which therefore stays where it is.
class Config {
 public:
  Config(const Shape& shape, cudaStream_t stream) {
    config_.gridDim = shape.blocks;
    config_.blockDim = dim3(shape.threads);
    config_.dynamicSmemBytes = shape.shared;
    config_.stream = stream;
    if (shape.cluster > 1) {
      cluster_.id = cudaLaunchAttributeClusterDimension;
      cluster_.val.clusterDim.x = shape.cluster;
      cluster_.val.clusterDim.y = cluster_.val.clusterDim.z = 1;
      config_.attrs = &cluster_;
      config_.numAttrs = 1;
    }
  }
  Config(const Config&) = delete;
  Config& operator=(const Config&) = delete;

  const cudaLaunchConfig_t* get() const { return &config_; }

 private:
  cudaLaunchConfig_t config_{};
  cudaLaunchAttribute cluster_{};
};

// The device of a tensor: the current one as long as this object lives.
class Device {
 public:
  explicit Device(const Tensor& tensor) : index_(tensor.get_device_index()), guard_(nullptr, drop) {
    CUDAGuardHandle guard = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_create_cuda_guard(index_, &guard));
    guard_.reset(guard);
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  void check_here(const Tensor& tensor, const char* name) const {
    STD_TORCH_CHECK(tensor.get_device_index() == index_, name,
                    ": expected a tensor on cuda:", index_, ", got one on device ",
                    tensor.get_device_index(), " (-1: the CPU)");
  }

  int attribute(cudaDeviceAttr which) const {
    int device = 0, value = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
    return value;
  }

  template <class... P>
  void launch(void (*kernel)(P...), const Shape& shape,
              const std::type_identity_t<P>&... arguments) const {
    allow(kernel, shape);
    const Config config(shape, stream_);
    check(cudaLaunchKernelEx(config.get(), kernel, arguments...), "kernel launch");
  }

  // Whether the device can run this kernel in clusters of this shape.
  template <class... P>
  bool runs_clusters(void (*kernel)(P...), const Shape& shape) const {
    if (attribute(cudaDevAttrClusterLaunch) == 0) return false;
    // Code for an older architecture has no clusters, though the driver may run it on this one.
    cudaFuncAttributes compiled{};
    check(cudaFuncGetAttributes(&compiled, kernel), "cudaFuncGetAttributes");
    if (compiled.ptxVersion < 90) return false;
    allow(kernel, shape);
    const Config config(shape, stream_);
    int count = 0;
    check(cudaOccupancyMaxActiveClusters(&count, kernel, config.get()),
          "cudaOccupancyMaxActiveClusters");
    return count > 0;
  }

 private:
  static void drop(CUDAGuardHandle guard) { aoti_torch_delete_cuda_guard(guard); }

  template <class... P>
  void allow(void (*kernel)(P...), const Shape& shape) const {
    if (shape.shared > kDefaultShared) {
      // All there is, always: another thread may be launching this kernel in another shape.
      check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)),
            "shared memory");
    }
    if (shape.cluster > 8) {
      check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
            "cluster size");
    }
  }

  int32_t index_;
  std::unique_ptr<CUDAGuardOpaque, void (*)(CUDAGuardHandle)> guard_;
  cudaStream_t stream_ = nullptr;
};

}  // namespace awm::cuda
