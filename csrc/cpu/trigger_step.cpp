// trigger_step_: Δ ← Δ + lr · gradient, then each row on its L1 ball, rounded once at the end.
#include <vector>

#include "l1_row.h"

namespace awm::cpu {
namespace {

template <class T>
struct Args {
  Storage delta, grad;
  const T* radius;
  T lr;
  bool project, bound;
  int64_t cols;
};

template <class T>
AWM_INLINE void rows(const Args<T>& a, int64_t begin, int64_t end) {
  std::vector<T> buffer(holds<T>(a.delta) ? 0 : a.cols);
  T grad_buffer[kBlock];
  for (int64_t r = begin; r < end; ++r) {
    T* row = load_mutable(a.delta, r * a.cols, a.cols, buffer.data());
    for (int64_t c = 0; c < a.cols; c += kBlock) {
      const int64_t n = std::min(kBlock, a.cols - c);
      const T* grad = load(a.grad, r * a.cols + c, n, grad_buffer);
      for (int64_t i = 0; i < n; ++i) row[c + i] += a.lr * grad[i];
    }
    if (a.bound && a.project) {
      project_row(row, a.cols, a.radius[r]);
    } else if (a.bound) {
      rescale_row(row, a.cols, a.radius[r]);
    }
    store(a.delta, r * a.cols, a.cols, row);
  }
}

AWM_SIMD void run(const Args<float>& a, int64_t begin, int64_t end) { rows(a, begin, end); }
AWM_SIMD void run(const Args<double>& a, int64_t begin, int64_t end) { rows(a, begin, end); }

}  // namespace

void trigger_step_(const Tensor& delta, const Tensor& grad, const Tensor& radius, double lr,
                   bool project, bool bound) {
  STD_TORCH_CHECK(delta.dim() == 2, "delta: expected a matrix, got ", delta.dim(), " dimensions");
  const int64_t count = delta.size(0), cols = delta.size(1);
  check_matrix(delta, count, cols, "delta");
  check_matrix(grad, count, cols, "grad");
  if (count * cols == 0) return;
  with_compute_dtype(is_double(delta), [&]<class T>(T) {
    const Args<T> args{target(delta, count * cols, "delta"),
                       source(grad, count * cols, "grad"),
                       row_radius<T>(radius, count),
                       T(lr),
                       project,
                       bound,
                       cols};
    torch::stable::parallel_for(0, count, ceil_div(kGrain, cols),
                                [&](int64_t begin, int64_t end) { run(args, begin, end); });
  });
}

STABLE_TORCH_LIBRARY_IMPL(awm_kernels_compiled, CPU, m) {
  m.impl("trigger_step_", TORCH_BOX(&trigger_step_));
}

}  // namespace awm::cpu
