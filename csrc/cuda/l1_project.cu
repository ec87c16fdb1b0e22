// l1_project_: each row of a matrix becomes the nearest point of its L1 ball.
#include "l1_row.h"

namespace awm::cuda {

void l1_project_(const Tensor& delta, const Tensor& radius) {
  step_rows(delta, std::nullopt, radius, 0, Bound::project);
}

STABLE_TORCH_LIBRARY_IMPL(AWM_LIBRARY, AWM_DISPATCH_KEY, m) {
  m.impl("l1_project_", TORCH_BOX(&l1_project_));
}

}  // namespace awm::cuda
