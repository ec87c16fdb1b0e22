// masked_weight_out: W = s · m ⊙ θ over a flat array, rounded once to the dtype of `out`.
#include "../numerics.h"
#include "row_scale.h"

namespace awm::cpu {
namespace {

template <class T>
struct Args {
  Storage theta, mask, out;
  RowScale<T> scale;
  int64_t numel;
};

template <class T>
AWM_INLINE void blocks(const Args<T>& a, int64_t begin, int64_t end) {
  T theta_buffer[kBlock], mask_buffer[kBlock], out_buffer[kBlock], scale[kBlock];
  for (int64_t b = begin; b < end; ++b) {
    const int64_t at = b * kBlock, n = std::min(kBlock, a.numel - at);
    const T* theta = load(a.theta, at, n, theta_buffer);
    const T* mask = load(a.mask, at, n, mask_buffer);
    T* __restrict out = place(a.out, at, out_buffer);
    if (const T* only = a.scale.only(at, n)) {
      const T one = *only;
      for (int64_t i = 0; i < n; ++i) out[i] = masked_weight(mask[i], theta[i], one);
    } else {
      a.scale.fill(at, n, scale);
      for (int64_t i = 0; i < n; ++i) out[i] = masked_weight(mask[i], theta[i], scale[i]);
    }
    store(a.out, at, n, out);
  }
}

AWM_SIMD void run(const Args<float>& a, int64_t begin, int64_t end) { blocks(a, begin, end); }
AWM_SIMD void run(const Args<double>& a, int64_t begin, int64_t end) { blocks(a, begin, end); }

}  // namespace

void masked_weight_out(const Tensor& theta, const Tensor& mask, const OptionalTensor& scale,
                       const OptionalTensor& row_ptr, const Tensor& out) {
  const int64_t n = theta.numel();
  if (n == 0) return;
  with_compute_dtype(is_double(theta), [&]<class T>(T) {
    const Args<T> args{source(theta, n, "theta"), source(mask, n, "mask"), target(out, n, "out"),
                       RowScale<T>(theta, scale, row_ptr), n};
    torch::stable::parallel_for(0, ceil_div(n, kBlock), kGrain / kBlock,
                                [&](int64_t begin, int64_t end) { run(args, begin, end); });
  });
}

STABLE_TORCH_LIBRARY_IMPL(awm_kernels_compiled, CPU, m) {
  m.impl("masked_weight_out", TORCH_BOX(&masked_weight_out));
}

}  // namespace awm::cpu
