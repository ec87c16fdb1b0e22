// mask_step_: weight gradient to new mask, moments and weight in one pass over memory.
#include <cmath>
#include <vector>

#include "../mask_step.h"
#include "../numerics.h"
#include "row_scale.h"

namespace awm::cpu {
namespace {

template <class T>
struct Args {
  Storage mask, grad_weight, theta, exp_avg, exp_avg_sq, weight_out;
  RowScale<T> scale;
  StepRule<T> rule;
  Optimiser optimiser;
  int64_t numel;
  double* norm;     // of each block: ‖m‖₁ after the step
  double* skipped;  // of each block: elements whose gradient is not finite
};

// The step on one block already in the compute dtype. Returns the number of elements left alone.
template <Optimiser optimiser, class T>
AWM_INLINE int64_t step_block(const StepRule<T>& given, int64_t n, const T* __restrict grad_weight,
                              const T* __restrict theta, const T* __restrict scale,
                              T* __restrict mask, T* __restrict exp_avg, T* __restrict exp_avg_sq) {
  const StepRule<T> rule = given;  // a copy, so that its fields stay in registers
  int32_t skipped = 0;
  for (int64_t i = 0; i < n; ++i) {
    const T raw = masked_weight(grad_weight[i], theta[i], scale[i]);
    const bool finite = is_finite(raw);
    const T grad = regularised_grad(rule, raw);
    T update;
    if constexpr (optimiser == Optimiser::adam) {
      T first = exp_avg[i], second = exp_avg_sq[i];
      update = adam_update(rule, grad, first, second);
      exp_avg[i] = finite ? first : exp_avg[i];
      exp_avg_sq[i] = finite ? second : exp_avg_sq[i];
    } else if constexpr (optimiser == Optimiser::momentum) {
      T first = exp_avg[i];
      update = momentum_update(rule, grad, first);
      exp_avg[i] = finite ? first : exp_avg[i];
    } else {
      update = sgd_update(rule, grad);
    }
    mask[i] = finite ? updated_mask(rule, mask[i], update) : mask[i];
    skipped += finite ? 0 : 1;
  }
  return skipped;
}

// The sum of the squares of each block's finite gradients.
template <class T>
AWM_INLINE void square_blocks(const Args<T>& a, double* squares, int64_t begin, int64_t end) {
  T grad_buffer[kBlock], theta_buffer[kBlock], scale[kBlock];
  double square[kBlock];
  for (int64_t b = begin; b < end; ++b) {
    const int64_t at = b * kBlock, n = std::min(kBlock, a.numel - at);
    const T* grad = load(a.grad_weight, at, n, grad_buffer);
    const T* theta = load(a.theta, at, n, theta_buffer);
    a.scale.fill(at, n, scale);
    for (int64_t i = 0; i < n; ++i) {
      const T raw = masked_weight(grad[i], theta[i], scale[i]);
      square[i] = is_finite(raw) ? double(raw) * double(raw) : 0;
    }
    squares[b] = sum(square, n);
  }
}

AWM_SIMD void add_squares(const Args<float>& a, double* squares, int64_t begin, int64_t end) {
  square_blocks(a, squares, begin, end);
}
AWM_SIMD void add_squares(const Args<double>& a, double* squares, int64_t begin, int64_t end) {
  square_blocks(a, squares, begin, end);
}

template <class T>
AWM_INLINE void blocks(const Args<T>& a, int64_t begin, int64_t end) {
  T grad_buffer[kBlock], theta_buffer[kBlock], mask_buffer[kBlock], first_buffer[kBlock],
      second_buffer[kBlock], weight_buffer[kBlock], scale[kBlock];
  for (int64_t b = begin; b < end; ++b) {
    const int64_t at = b * kBlock, n = std::min(kBlock, a.numel - at);
    const T* grad = load(a.grad_weight, at, n, grad_buffer);
    const T* theta = load(a.theta, at, n, theta_buffer);
    T* mask = load_mutable(a.mask, at, n, mask_buffer);
    a.scale.fill(at, n, scale);
    int64_t skipped;
    if (a.optimiser == Optimiser::adam) {
      T* first = load_mutable(a.exp_avg, at, n, first_buffer);
      T* second = load_mutable(a.exp_avg_sq, at, n, second_buffer);
      skipped = step_block<Optimiser::adam>(a.rule, n, grad, theta, scale, mask, first, second);
      store(a.exp_avg, at, n, first);
      store(a.exp_avg_sq, at, n, second);
    } else if (a.optimiser == Optimiser::momentum) {
      T* first = load_mutable(a.exp_avg, at, n, first_buffer);
      skipped = step_block<Optimiser::momentum>(a.rule, n, grad, theta, scale, mask, first,
                                                static_cast<T*>(nullptr));
      store(a.exp_avg, at, n, first);
    } else {
      skipped = step_block<Optimiser::sgd>(a.rule, n, grad, theta, scale, mask,
                                           static_cast<T*>(nullptr), static_cast<T*>(nullptr));
    }
    store(a.mask, at, n, mask);
    // The norm and the weight are those of the mask as it is stored, so it is read back.
    const T* rounded = load(a.mask, at, n, mask_buffer);
    a.norm[b] = sum(rounded, n);
    a.skipped[b] = double(skipped);
    if (a.weight_out) {
      T* __restrict weight = place(a.weight_out, at, weight_buffer);
      for (int64_t i = 0; i < n; ++i) weight[i] = masked_weight(rounded[i], theta[i], scale[i]);
      store(a.weight_out, at, n, weight);
    }
  }
}

AWM_SIMD void run(const Args<float>& a, int64_t begin, int64_t end) { blocks(a, begin, end); }
AWM_SIMD void run(const Args<double>& a, int64_t begin, int64_t end) { blocks(a, begin, end); }

}  // namespace

void mask_step_(const Tensor& mask, const Tensor& grad_weight, const Tensor& theta,
                const OptionalTensor& exp_avg, const OptionalTensor& exp_avg_sq, const Tensor& step,
                const OptionalTensor& weight_out, const Tensor& stats, const OptionalTensor& scale,
                const OptionalTensor& row_ptr, const Tensor& lr, double beta1, double beta2,
                double eps, double grad_clip, double l1, double grad_norm_clip, bool proximal) {
  const Optimiser optimiser = checked_optimiser(exp_avg, exp_avg_sq, step, stats, lr);
  double* const totals = static_cast<double*>(stats.mutable_data_ptr());
  totals[0] = totals[1] = 0;
  const int64_t n = mask.numel();
  if (n == 0) return;
  const int64_t count = *static_cast<const int64_t*>(step.const_data_ptr());
  const double rate = *static_cast<const double*>(lr.const_data_ptr());
  STD_TORCH_CHECK(optimiser != Optimiser::adam || count >= 1, "step: expected 1 or more, got ",
                  count);
  const int64_t block_count = ceil_div(n, kBlock);
  std::vector<double> norm(block_count), skipped(block_count);
  with_compute_dtype(is_double(mask) || is_double(theta), [&]<class T>(T) {
    Args<T> args{target(mask, n, "mask"),
                 source(grad_weight, n, "grad_weight"),
                 source(theta, n, "theta"),
                 target(exp_avg, n, "exp_avg"),
                 target(exp_avg_sq, n, "exp_avg_sq"),
                 target(weight_out, n, "weight_out"),
                 RowScale<T>(theta, scale, row_ptr),
                 make_step_rule<T>(count, rate, beta1, beta2, eps, 1.0, grad_clip, l1, proximal),
                 optimiser,
                 n,
                 norm.data(),
                 skipped.data()};
    if (std::isfinite(grad_norm_clip)) {
      std::vector<double> squares(block_count);
      torch::stable::parallel_for(0, block_count, kGrain / kBlock, [&](int64_t begin, int64_t end) {
        add_squares(args, squares.data(), begin, end);
      });
      args.rule.grad_factor = T(norm_clip_factor(sum(squares.data(), block_count), grad_norm_clip));
    }
    torch::stable::parallel_for(0, block_count, kGrain / kBlock,
                                [&](int64_t begin, int64_t end) { run(args, begin, end); });
  });
  totals[0] = sum(norm.data(), block_count);
  totals[1] = sum(skipped.data(), block_count);
}

STABLE_TORCH_LIBRARY_IMPL(awm_kernels_compiled, CPU, m) {
  m.impl("mask_step_", TORCH_BOX(&mask_step_));
}

}  // namespace awm::cpu
