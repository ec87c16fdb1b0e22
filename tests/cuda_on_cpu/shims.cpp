// What a CUDA torch exports and a CPU torch does not, and the handle on the device that is played.
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

extern "C" {

AOTITorchError aoti_torch_create_cuda_guard(int32_t, CUDAGuardHandle* guard) {
  *guard = nullptr;
  return 0;
}

AOTITorchError aoti_torch_delete_cuda_guard(CUDAGuardHandle) { return 0; }

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return 0;
}

__attribute__((visibility("default"))) void cuda_on_cpu_device(int shared, int arch, unsigned order,
                                                               int64_t from) {
  cuda_on_cpu::device = {shared, arch, order, from};
  cuda_on_cpu::allowed_shared = 0;
  cuda_on_cpu::allowed_cluster = 8;
}
}
