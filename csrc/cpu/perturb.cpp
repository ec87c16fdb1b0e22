// perturb_out: clip(x + Δ); perturb_backward_out: its gradients, Δ's summed over the batch.
#include "../perturb.h"
#include "../numerics.h"
#include "storage.h"

namespace awm::cpu {
namespace {

// Columns a task of the backward pass owns: it sums the batch in order, so that the sum does not
// depend on the number of threads.
constexpr int64_t kColumns = 512;

template <class T>
struct Args {
  Storage x, delta, out;
  T low, high;
  int64_t cols;
  bool shared;  // one Δ for all rows
};

template <class T>
AWM_INLINE void forward(const Args<T>& a, int64_t begin, int64_t end) {
  T x_buffer[kBlock], delta_buffer[kBlock], out_buffer[kBlock];
  const int64_t per_row = ceil_div(a.cols, kBlock);
  for (int64_t b = begin; b < end; ++b) {
    const int64_t c = b % per_row * kBlock, at = b / per_row * a.cols + c;
    const int64_t n = std::min(kBlock, a.cols - c);
    const T* x = load(a.x, at, n, x_buffer);
    const T* delta = load(a.delta, a.shared ? c : at, n, delta_buffer);
    T* __restrict out = place(a.out, at, out_buffer);
    for (int64_t i = 0; i < n; ++i) out[i] = clip(x[i] + delta[i], a.low, a.high);
    store(a.out, at, n, out);
  }
}

AWM_SIMD void run(const Args<float>& a, int64_t begin, int64_t end) { forward(a, begin, end); }
AWM_SIMD void run(const Args<double>& a, int64_t begin, int64_t end) { forward(a, begin, end); }

template <class T>
struct BackwardArgs {
  Storage grad, x, delta, grad_x, grad_delta;
  T low, high;
  int64_t rows, cols;
  bool shared;
};

template <class T>
AWM_INLINE void backward(const BackwardArgs<T>& a, int64_t begin, int64_t end) {
  T grad_buffer[kColumns], x_buffer[kColumns], delta_buffer[kColumns], passed[kColumns];
  double total[kColumns];
  for (int64_t b = begin; b < end; ++b) {
    const int64_t c = b * kColumns, n = std::min(kColumns, a.cols - c);
    std::fill_n(total, n, 0.0);
    for (int64_t r = 0; r < a.rows; ++r) {
      const int64_t at = r * a.cols + c;
      const T* grad = load(a.grad, at, n, grad_buffer);
      const T* x = load(a.x, at, n, x_buffer);
      const T* delta = load(a.delta, a.shared ? c : at, n, delta_buffer);
      for (int64_t i = 0; i < n; ++i) {
        passed[i] = inside(x[i] + delta[i], a.low, a.high) ? grad[i] : T(0);
      }
      if (a.grad_x) store(a.grad_x, at, n, passed);
      if (a.grad_delta && !a.shared) store(a.grad_delta, at, n, passed);
      if (a.grad_delta && a.shared) {
        for (int64_t i = 0; i < n; ++i) total[i] += double(passed[i]);
      }
    }
    if (a.grad_delta && a.shared) {
      for (int64_t i = 0; i < n; ++i) passed[i] = T(total[i]);
      store(a.grad_delta, c, n, passed);
    }
  }
}

AWM_SIMD void run(const BackwardArgs<float>& a, int64_t begin, int64_t end) {
  backward(a, begin, end);
}
AWM_SIMD void run(const BackwardArgs<double>& a, int64_t begin, int64_t end) {
  backward(a, begin, end);
}

}  // namespace

void perturb_out(const Tensor& x, const Tensor& delta, double low, double high, const Tensor& out) {
  const bool shared = one_delta(x, delta);
  const int64_t rows = x.size(0), cols = x.size(1);
  check_matrix(out, rows, cols, "out");
  if (rows * cols == 0) return;
  with_compute_dtype(is_double(x), [&]<class T>(T) {
    const Args<T> args{source(x, rows * cols, "x"),
                       source(delta, delta.numel(), "delta"),
                       target(out, rows * cols, "out"),
                       T(low),
                       T(high),
                       cols,
                       shared};
    torch::stable::parallel_for(0, rows * ceil_div(cols, kBlock),
                                ceil_div(kGrain, std::min(cols, kBlock)),
                                [&](int64_t begin, int64_t end) { run(args, begin, end); });
  });
}

void perturb_backward_out(const Tensor& grad, const Tensor& x, const Tensor& delta, double low,
                          double high, const OptionalTensor& grad_x,
                          const OptionalTensor& grad_delta) {
  const bool shared = one_delta(x, delta);
  const int64_t rows = x.size(0), cols = x.size(1);
  check_matrix(grad, rows, cols, "grad");
  if (grad_x.has_value()) check_matrix(*grad_x, rows, cols, "grad_x");
  if (grad_delta.has_value()) check_matrix(*grad_delta, delta.size(0), cols, "grad_delta");
  if (cols == 0) return;
  // No early return for an empty batch: the gradient of one Δ is then zero, not left unwritten.
  with_compute_dtype(is_double(x), [&]<class T>(T) {
    const BackwardArgs<T> args{source(grad, rows * cols, "grad"),
                               source(x, rows * cols, "x"),
                               source(delta, delta.numel(), "delta"),
                               target(grad_x, rows * cols, "grad_x"),
                               target(grad_delta, delta.numel(), "grad_delta"),
                               T(low),
                               T(high),
                               rows,
                               cols,
                               shared};
    const int64_t per_task = std::max<int64_t>(1, rows * std::min(cols, kColumns));
    torch::stable::parallel_for(0, ceil_div(cols, kColumns), ceil_div(kGrain, per_task),
                                [&](int64_t begin, int64_t end) { run(args, begin, end); });
  });
}

STABLE_TORCH_LIBRARY_IMPL(awm_kernels_compiled, CPU, m) {
  m.impl("perturb_out", TORCH_BOX(&perturb_out));
  m.impl("perturb_backward_out", TORCH_BOX(&perturb_backward_out));
}

}  // namespace awm::cpu
