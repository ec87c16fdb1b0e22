// One step on rows, then each row on the L1 ball of its radius. See l1_row.cu.
#pragma once

#include "launch.h"

namespace awm::cuda {

enum class Bound { none, rescale, project };

// Each row of `delta` ← bound(delta + lr · grad); without `grad`, bound(delta).
void step_rows(const Tensor& delta, const OptionalTensor& grad, const Tensor& radius, double lr,
               Bound bound);

}  // namespace awm::cuda
