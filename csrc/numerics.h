// Each scalar rule of the kernels, once, for C++ and CUDA alike.
//
// The order of operations is that of awm_kernels/_reference.py, so that results agree to the last
// bit where the compiler contracts nothing.
#pragma once

#include <cmath>

#if defined(__CUDACC__)
#define AWM_HD __host__ __device__ __forceinline__
#else
#define AWM_HD inline __attribute__((always_inline))
#endif

namespace awm {

// Written as a subtraction because it vectorises everywhere: inf - inf and NaN - NaN are NaN.
template <class T>
AWM_HD bool is_finite(T v) {
  return v - v == T(0);
}

// v limited to [low, high]; NaN stays NaN, as in torch.clamp.
template <class T>
AWM_HD T clip(T v, T low, T high) {
  v = v < low ? low : v;
  return v > high ? high : v;
}

template <class T>
AWM_HD T absolute(T v) {
  return v < T(0) ? -v : v;
}

// sign(v) · max(|v| - t, 0): the proximal operator of t·|v|.
template <class T>
AWM_HD T soft_threshold(T v, T t) {
  T size = absolute(v) - t;
  size = size < T(0) ? T(0) : size;
  return v < T(0) ? -size : size;
}

// W = s · m · θ. The mask gradient is the same product with dW in the place of m.
template <class T>
AWM_HD T masked_weight(T mask, T theta, T scale) {
  return mask * theta * scale;
}

template <class T>
AWM_HD bool inside(T v, T low, T high) {
  return v >= low && v <= high;
}

// The constants of one optimiser step on a mask. They are worked out in double and rounded once.
template <class T>
struct StepRule {
  T lr;
  T corrected_lr;  // lr / (1 - beta1^step)
  T beta1;
  T one_minus_beta1;
  T beta2;
  T one_minus_beta2;
  T correction2;  // sqrt(1 - beta2^step)
  T eps;
  T grad_clip;
  T subgradient;  // added to the gradient: l1, or 0 where the step is proximal
  T shrink;       // taken from the mask after the step: lr·l1 where it is proximal, or 0
};

template <class T>
StepRule<T> make_step_rule(double step, double lr, double beta1, double beta2, double eps,
                           double grad_clip, double l1, bool proximal) {
  // The corrections are rounded before lr is divided by them, as the reference does.
  const T correction1 = T(1 - std::pow(beta1, step));
  return {T(lr),
          T(lr) / correction1,
          T(beta1),
          T(1 - beta1),
          T(beta2),
          T(1 - beta2),
          T(std::sqrt(1 - std::pow(beta2, step))),
          T(eps),
          T(grad_clip),
          proximal ? T(0) : T(l1),
          proximal ? T(lr * l1) : T(0)};
}

// What is added to the loss gradient before the optimiser sees it.
template <class T>
AWM_HD T regularised_grad(const StepRule<T>& rule, T grad) {
  return clip(grad, -rule.grad_clip, rule.grad_clip) + rule.subgradient;
}

// The three updates: each returns what is to be taken from the mask.
template <class T>
AWM_HD T adam_update(const StepRule<T>& rule, T grad, T& exp_avg, T& exp_avg_sq) {
  exp_avg = exp_avg + rule.one_minus_beta1 * (grad - exp_avg);
  exp_avg_sq = exp_avg_sq * rule.beta2 + rule.one_minus_beta2 * grad * grad;
  return rule.corrected_lr * exp_avg / (std::sqrt(exp_avg_sq) / rule.correction2 + rule.eps);
}

template <class T>
AWM_HD T momentum_update(const StepRule<T>& rule, T grad, T& exp_avg) {
  exp_avg = rule.beta1 * exp_avg + grad;
  return rule.lr * exp_avg;
}

template <class T>
AWM_HD T sgd_update(const StepRule<T>& rule, T grad) {
  return rule.lr * grad;
}

// The mask after `update`. It is never negative, so that its soft threshold is a subtraction.
template <class T>
AWM_HD T updated_mask(const StepRule<T>& rule, T mask, T update) {
  return clip(mask - update - rule.shrink, T(0), T(1));
}

}  // namespace awm
