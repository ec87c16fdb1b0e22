// l1_rescale_ and l1_project_: each row of a matrix on its L1 ball. Threads share the rows: a row
// is a trigger, which is an image at most.
#include <vector>

#include "l1_row.h"

namespace awm::cpu {
namespace {

template <class T>
struct Args {
  Storage delta;
  const T* radius;
  int64_t cols;
};

template <bool project, class T>
AWM_INLINE void rows(const Args<T>& a, int64_t begin, int64_t end) {
  std::vector<T> buffer(holds<T>(a.delta) ? 0 : a.cols);
  for (int64_t r = begin; r < end; ++r) {
    T* row = load_mutable(a.delta, r * a.cols, a.cols, buffer.data());
    if constexpr (project) {
      project_row(row, a.cols, a.radius[r]);
    } else {
      rescale_row(row, a.cols, a.radius[r]);
    }
    store(a.delta, r * a.cols, a.cols, row);
  }
}

AWM_SIMD void rescale(const Args<float>& a, int64_t begin, int64_t end) {
  rows<false>(a, begin, end);
}
AWM_SIMD void rescale(const Args<double>& a, int64_t begin, int64_t end) {
  rows<false>(a, begin, end);
}
AWM_SIMD void project(const Args<float>& a, int64_t begin, int64_t end) {
  rows<true>(a, begin, end);
}
AWM_SIMD void project(const Args<double>& a, int64_t begin, int64_t end) {
  rows<true>(a, begin, end);
}

template <bool projected>
void l1_ball(const Tensor& delta, const Tensor& radius) {
  STD_TORCH_CHECK(delta.dim() == 2, "delta: expected a matrix, got ", delta.dim(), " dimensions");
  const int64_t count = delta.size(0), cols = delta.size(1);
  check_matrix(delta, count, cols, "delta");
  if (count * cols == 0) return;
  with_compute_dtype(is_double(delta), [&]<class T>(T) {
    const Args<T> args{target(delta, count * cols, "delta"), row_radius<T>(radius, count), cols};
    torch::stable::parallel_for(0, count, ceil_div(kGrain, cols), [&](int64_t begin, int64_t end) {
      if constexpr (projected) {
        project(args, begin, end);
      } else {
        rescale(args, begin, end);
      }
    });
  });
}

}  // namespace

void l1_rescale_(const Tensor& delta, const Tensor& radius) { l1_ball<false>(delta, radius); }
void l1_project_(const Tensor& delta, const Tensor& radius) { l1_ball<true>(delta, radius); }

STABLE_TORCH_LIBRARY_FRAGMENT(awm_kernels_cpu, m) {
  m.def("l1_rescale_(Tensor(a!) delta, Tensor radius) -> ()");
  m.def("l1_project_(Tensor(a!) delta, Tensor radius) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(awm_kernels_cpu, CPU, m) {
  m.impl("l1_rescale_", TORCH_BOX(&l1_rescale_));
  m.impl("l1_project_", TORCH_BOX(&l1_project_));
}

}  // namespace awm::cpu
