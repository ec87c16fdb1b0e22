// l1_project_: each row of a matrix becomes the nearest point of its L1 ball.
#include "l1_row.h"

namespace awm::cpu {
namespace {

AWM_SIMD void run(const Rows<float>& a, int64_t begin, int64_t end) {
  bound_rows<Bound::project>(a, begin, end);
}
AWM_SIMD void run(const Rows<double>& a, int64_t begin, int64_t end) {
  bound_rows<Bound::project>(a, begin, end);
}

}  // namespace

void l1_project_(const Tensor& delta, const Tensor& radius) {
  share_rows(delta, radius,
             [](const auto& rows, int64_t begin, int64_t end) { run(rows, begin, end); });
}

STABLE_TORCH_LIBRARY_IMPL(awm_kernels_compiled, CPU, m) {
  m.impl("l1_project_", TORCH_BOX(&l1_project_));
}

}  // namespace awm::cpu
