// What the kernels of perturb share on every device.
#pragma once

#include "tensor.h"

namespace awm {

// Checks x (rows, cols) and Δ (1 or rows, cols); true if one Δ serves all rows.
inline bool one_delta(const Tensor& x, const Tensor& delta) {
  STD_TORCH_CHECK(x.dim() == 2, "x: expected a matrix, got ", x.dim(), " dimensions");
  check_matrix(x, x.size(0), x.size(1), "x");
  const bool shared = delta.dim() == 2 && delta.size(0) == 1;
  check_matrix(delta, shared ? 1 : x.size(0), x.size(1), "delta");
  return shared;
}

}  // namespace awm
