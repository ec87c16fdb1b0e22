// Each scalar rule of the kernels, once, for C++ and CUDA alike.
//
// The order of operations is that of awm_kernels/_reference.py. Every operation here is one that
// IEEE 754 rounds correctly, and the compilers are told to contract none of them, so CPU and GPU
// agree to the last bit.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define AWM_HD __host__ __device__ __forceinline__
#else
#define AWM_HD inline __attribute__((always_inline))
#endif

namespace awm {

AWM_HD constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

AWM_HD float widen(uint16_t v) { return __builtin_bit_cast(float, uint32_t(v) << 16); }

// float32 to bfloat16, to nearest, ties to even. NaN would round to infinity, so it is set apart.
AWM_HD uint16_t narrow(float v) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, v);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

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

// base^exponent by squaring: std::pow is rounded differently by each maths library.
AWM_HD double power(double base, int64_t exponent) {
  double result = 1;
  for (; exponent > 0; exponent /= 2) {
    if (exponent % 2 == 1) result *= base;
    base *= base;
  }
  return result;
}

// What gradients whose squares add up to `squares` are multiplied by to have a norm of `limit` at
// most, as in torch.nn.utils.clip_grad_norm_.
AWM_HD double norm_clip_factor(double squares, double limit) {
  const double factor = limit / (std::sqrt(squares) + 1e-6);
  return factor < 1 ? factor : 1;
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
  T grad_factor;  // norm_clip_factor
  T grad_clip;
  T subgradient;  // added to the gradient: l1, or 0 where the step is proximal
  T shrink;       // taken from the mask after the step: lr·l1 where it is proximal, or 0
};

template <class T>
AWM_HD StepRule<T> make_step_rule(int64_t step, double lr, double beta1, double beta2, double eps,
                                  double grad_factor, double grad_clip, double l1, bool proximal) {
  // The corrections are rounded before lr is divided by them, as the reference does.
  const T correction1 = T(1 - power(beta1, step));
  return {T(lr),
          T(lr) / correction1,
          T(beta1),
          T(1 - beta1),
          T(beta2),
          T(1 - beta2),
          T(std::sqrt(1 - power(beta2, step))),
          T(eps),
          T(grad_factor),
          T(grad_clip),
          proximal ? T(0) : T(l1),
          proximal ? T(lr * l1) : T(0)};
}

// What is added to the loss gradient before the optimiser sees it.
template <class T>
AWM_HD T regularised_grad(const StepRule<T>& rule, T grad) {
  return clip(grad * rule.grad_factor, -rule.grad_clip, rule.grad_clip) + rule.subgradient;
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
