// l1_rescale_: v ← v · min(1, radius / ‖v‖₁), for each row v of a matrix.
#include "l1_row.h"

namespace awm::cpu {
namespace {

AWM_SIMD void run(const Rows<float>& a, int64_t begin, int64_t end) {
  bound_rows<Bound::rescale>(a, begin, end);
}
AWM_SIMD void run(const Rows<double>& a, int64_t begin, int64_t end) {
  bound_rows<Bound::rescale>(a, begin, end);
}

}  // namespace

void l1_rescale_(const Tensor& delta, const Tensor& radius) {
  share_rows(delta, radius,
             [](const auto& rows, int64_t begin, int64_t end) { run(rows, begin, end); });
}

STABLE_TORCH_LIBRARY_IMPL(awm_kernels_compiled, CPU, m) {
  m.impl("l1_rescale_", TORCH_BOX(&l1_rescale_));
}

}  // namespace awm::cpu
