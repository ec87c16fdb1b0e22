// trigger_step_: Δ ← Δ + lr · gradient, then each row on its L1 ball, rounded once at the end.
#include "l1_row.h"

namespace awm::cuda {

void trigger_step_(const Tensor& delta, const Tensor& grad, const Tensor& radius, double lr,
                   bool project, bool bound) {
  step_rows(delta, grad, radius, lr,
            !bound    ? Bound::none
            : project ? Bound::project
                      : Bound::rescale);
}

STABLE_TORCH_LIBRARY_IMPL(AWM_LIBRARY, AWM_DISPATCH_KEY, m) {
  m.impl("trigger_step_", TORCH_BOX(&trigger_step_));
}

}  // namespace awm::cuda
