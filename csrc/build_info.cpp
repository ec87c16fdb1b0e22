// The Python module awm_kernels._build_info: how this build was made, what this processor offers,
// and the scalar rules of numerics.h as functions, for their unit tests.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <tuple>
#include <vector>

#include "cpu/simd.h"
#include "numerics.h"

namespace py = pybind11;

namespace {

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#else
  return "unknown";
#endif
}

// One step on one mask element in T: (mask, exp_avg, exp_avg_sq) after it.
template <class T>
std::tuple<T, T, T> mask_update(const std::string& optimiser, T mask, T grad, T exp_avg,
                                T exp_avg_sq, int64_t step, double lr, double beta1, double beta2,
                                double eps, double grad_clip, double l1, double grad_norm_clip,
                                bool proximal) {
  const double factor = awm::norm_clip_factor(double(grad) * double(grad), grad_norm_clip);
  const auto rule =
      awm::make_step_rule<T>(step, lr, beta1, beta2, eps, factor, grad_clip, l1, proximal);
  const T regularised = awm::regularised_grad(rule, grad);
  T update;
  if (optimiser == "adam") {
    update = awm::adam_update(rule, regularised, exp_avg, exp_avg_sq);
  } else if (optimiser == "momentum") {
    update = awm::momentum_update(rule, regularised, exp_avg);
  } else if (optimiser == "sgd") {
    update = awm::sgd_update(rule, regularised);
  } else {
    throw py::value_error("optimiser: expected adam, momentum or sgd, got " + optimiser);
  }
  return {awm::updated_mask(rule, mask, update), exp_avg, exp_avg_sq};
}

template <class T>
void define_numerics(py::module_ m) {
  m.def("is_finite", &awm::is_finite<T>, py::arg("v"));
  m.def("clip", &awm::clip<T>, py::arg("v"), py::arg("low"), py::arg("high"));
  m.def("soft_threshold", &awm::soft_threshold<T>, py::arg("v"), py::arg("t"));
  m.def("masked_weight", &awm::masked_weight<T>, py::arg("mask"), py::arg("theta"),
        py::arg("scale"));
  m.def("inside", &awm::inside<T>, py::arg("v"), py::arg("low"), py::arg("high"));
  m.def("mask_update", &mask_update<T>, py::arg("optimiser"), py::arg("mask"), py::arg("grad"),
        py::arg("exp_avg"), py::arg("exp_avg_sq"), py::arg("step"), py::arg("lr"), py::arg("beta1"),
        py::arg("beta2"), py::arg("eps"), py::arg("grad_clip"), py::arg("l1"),
        py::arg("grad_norm_clip"), py::arg("proximal"));
}

}  // namespace

PYBIND11_MODULE(_build_info, m) {
  m.doc() = "How the kernels were built, and their scalar rules for unit tests.";
  m.def("compiler", &compiler, "Compiler and its version.");
  m.def("flags", [] { return std::string(AWM_FLAGS); }, "Compiler flags of the CPU kernels.");
  m.def(
      "torch_version_built", [] { return std::string(AWM_TORCH_VERSION); },
      "The torch whose headers were used. The library runs on any torch from 2.11 on.");
  m.def(
      "cuda_archs", [] { return std::vector<std::string>{AWM_CUDA_ARCHS}; },
      "What the CUDA kernels were compiled to; empty without CUDA kernels.");
  m.def(
      "cuda_toolkit", [] { return std::string(AWM_CUDA_VERSION); },
      "Version of the CUDA toolkit that compiled them; empty without CUDA kernels.");
  m.def("cpu_capability", &awm::cpu::simd_version,
        "Instruction set the CPU kernels use on this machine.");
  define_numerics<float>(m.def_submodule("float32"));
  define_numerics<double>(m.def_submodule("float64"));
}
