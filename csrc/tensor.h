// Tensors as the kernels take them, and the checks that guard them. Arguments have been validated
// in Python; these keep a direct caller from reading or writing out of bounds.
//
// The kernels' schemas are defined in Python too, once for the CPU and CUDA (awm_kernels/<op>.py).
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <optional>
#include <type_traits>

#include "numerics.h"

namespace awm {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

struct Storage {
  void* data = nullptr;
  ScalarType dtype = ScalarType::Float;

  explicit operator bool() const { return data != nullptr; }
};

inline ScalarType checked_dtype(const Tensor& t, const char* name) {
  const ScalarType dtype = t.scalar_type();
  STD_TORCH_CHECK(
      dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Double,
      name, ": expected float32, bfloat16 or float64, got ", torch::headeronly::toString(dtype));
  return dtype;
}

inline void check_numel(const Tensor& t, int64_t numel, const char* name) {
  STD_TORCH_CHECK(t.numel() == numel, name, ": expected ", numel, " elements, got ", t.numel());
}

inline void check_dtype(const Tensor& t, ScalarType dtype, const char* name) {
  STD_TORCH_CHECK(t.scalar_type() == dtype, name, ": expected ", torch::headeronly::toString(dtype),
                  ", got ", torch::headeronly::toString(t.scalar_type()));
}

inline void check_matrix(const Tensor& t, int64_t rows, int64_t cols, const char* name) {
  STD_TORCH_CHECK(t.dim() == 2 && t.size(0) == rows && t.size(1) == cols && t.is_contiguous(), name,
                  ": expected a contiguous (", rows, ", ", cols, ") matrix");
}

// A tensor that is only read. The pointer is not const because Storage serves both directions.
inline Storage source(const Tensor& t, int64_t numel, const char* name) {
  check_numel(t, numel, name);
  return {const_cast<void*>(t.const_data_ptr()), checked_dtype(t, name)};
}

inline Storage target(const Tensor& t, int64_t numel, const char* name) {
  check_numel(t, numel, name);
  return {t.mutable_data_ptr(), checked_dtype(t, name)};
}

inline Storage target(const OptionalTensor& t, int64_t numel, const char* name) {
  return t.has_value() ? target(*t, numel, name) : Storage{};
}

inline bool is_double(const Tensor& t) { return t.scalar_type() == ScalarType::Double; }

// Calls f with a value of the compute dtype: double where `wide`, float otherwise.
template <class F>
void with_compute_dtype(bool wide, const F& f) {
  if (wide) {
    f(double{});
  } else {
    f(float{});
  }
}

// The radius of each row, which is in the compute dtype.
template <class T>
const T* row_radius(const Tensor& radius, int64_t rows) {
  check_dtype(radius, std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float, "radius");
  check_numel(radius, rows, "radius");
  STD_TORCH_CHECK(radius.is_contiguous(), "radius: expected a contiguous tensor");
  return static_cast<const T*>(radius.const_data_ptr());
}

}  // namespace awm
