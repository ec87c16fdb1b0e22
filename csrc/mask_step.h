// What the kernels of mask_step_ share on every device.
#pragma once

#include "tensor.h"

namespace awm {

enum class Optimiser { adam, momentum, sgd };

// The optimiser that these moments are for. Guards the arguments that are not of the mask's shape.
inline Optimiser checked_optimiser(const OptionalTensor& exp_avg, const OptionalTensor& exp_avg_sq,
                                   const Tensor& step, const Tensor& stats, const Tensor& lr) {
  check_dtype(stats, ScalarType::Double, "stats");
  check_numel(stats, 2, "stats");
  STD_TORCH_CHECK(stats.is_contiguous(), "stats: expected a contiguous tensor");
  check_dtype(step, ScalarType::Long, "step");
  check_numel(step, 1, "step");
  check_dtype(lr, ScalarType::Double, "lr");
  check_numel(lr, 1, "lr");
  STD_TORCH_CHECK(exp_avg.has_value() || !exp_avg_sq.has_value(),
                  "exp_avg: expected a tensor because exp_avg_sq is given, got None");
  return exp_avg_sq.has_value() ? Optimiser::adam
         : exp_avg.has_value()  ? Optimiser::momentum
                                : Optimiser::sgd;
}

}  // namespace awm
