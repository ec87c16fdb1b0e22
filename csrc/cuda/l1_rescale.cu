// l1_rescale_: v ← v · min(1, radius / ‖v‖₁), for each row v of a matrix.
#include "l1_row.h"

namespace awm::cuda {

void l1_rescale_(const Tensor& delta, const Tensor& radius) {
  step_rows(delta, std::nullopt, radius, 0, Bound::rescale);
}

STABLE_TORCH_LIBRARY_IMPL(AWM_LIBRARY, AWM_DISPATCH_KEY, m) {
  m.impl("l1_rescale_", TORCH_BOX(&l1_rescale_));
}

}  // namespace awm::cuda
