// pooled_elu_out: ELU of the maxima of 2x2 windows, or of every element; pooled_elu_backward_out:
// its gradient. ELU never decreases, so pooling first gives the same and leaves it a quarter.
#include <vector>

#include "../numerics.h"
#include "storage.h"

namespace awm::cpu {
namespace {

// e^x = scale + scale · part for x ≤ 0.
template <class T>
struct Exponential {
  T scale, part;
};

AWM_INLINE Exponential<double> exponential(double x) { return {1.0, std::expm1(x)}; }

// x = n ln 2 + r, and part is a Taylor polynomial of e^r - 1: its first missing term is below half
// the last place. std::exp would not vectorise.
AWM_INLINE Exponential<float> exponential(float x) {
  constexpr float kLog2e = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  // Adding 1.5 · 2²³ rounds to a whole number, which is then in the last bits.
  constexpr float kRound = 12582912.0f;
  x = x < -87.0f ? -87.0f : x;
  const float rounded = x * kLog2e + kRound, n = rounded - kRound;
  const float r = x - n * kLn2High - n * kLn2Low;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  const uint32_t power = (__builtin_bit_cast(uint32_t, rounded) + 127u) << 23;
  return {__builtin_bit_cast(float, power), r + r * r * p};
}

template <class T>
AWM_INLINE T elu(T x, T alpha) {
  const auto [scale, part] = exponential(x > T(0) ? T(0) : x);
  return x > T(0) ? x : alpha * (scale * part + (scale - T(1)));
}

template <class T>
AWM_INLINE T elu_slope(T x, T alpha) {
  const auto [scale, part] = exponential(x > T(0) ? T(0) : x);
  return x > T(0) ? T(1) : alpha * (scale * part + scale);
}

// NaN if either is.
template <class T>
AWM_INLINE T larger(T best, T value) {
  return value > best || value != value ? value : best;
}

template <class T>
struct Args {
  Storage x, grad, out;  // out: the result, or x's gradient where there is a `grad`
  T alpha;
  int64_t numel;
};

template <class T>
AWM_INLINE void elements(const Args<T>& a, int64_t begin, int64_t end) {
  T x_buffer[kBlock], grad_buffer[kBlock], out_buffer[kBlock];
  for (int64_t b = begin; b < end; ++b) {
    const int64_t at = b * kBlock, n = std::min(kBlock, a.numel - at);
    const T* x = load(a.x, at, n, x_buffer);
    T* __restrict out = place(a.out, at, out_buffer);
    if (a.grad) {
      const T* grad = load(a.grad, at, n, grad_buffer);
      for (int64_t i = 0; i < n; ++i) out[i] = grad[i] * elu_slope(x[i], a.alpha);
    } else {
      for (int64_t i = 0; i < n; ++i) out[i] = elu(x[i], a.alpha);
    }
    store(a.out, at, n, out);
  }
}

AWM_SIMD void run(const Args<float>& a, int64_t begin, int64_t end) { elements(a, begin, end); }
AWM_SIMD void run(const Args<double>& a, int64_t begin, int64_t end) { elements(a, begin, end); }

template <class T>
struct PoolArgs {
  Args<T> flat;
  int64_t height, width, channels;  // of x
};

// The four elements of a window lie at `x`, one pixel on, one line on, and both.
template <class T>
AWM_INLINE void pool_line(const PoolArgs<T>& a, const T* x, T* out) {
  const int64_t line = a.width * a.channels, pixel = a.channels;
  for (int64_t j = 0; j < a.width / 2; ++j) {
    const T* __restrict from = x + 2 * j * pixel;
    T* __restrict to = out + j * pixel;
    for (int64_t c = 0; c < a.channels; ++c) {
      const T v0 = from[c], v1 = from[pixel + c], v2 = from[line + c], v3 = from[line + pixel + c];
      to[c] = elu(larger(larger(larger(v0, v1), v2), v3), a.flat.alpha);
    }
  }
}

template <class T>
AWM_INLINE void pool_line_backward(const PoolArgs<T>& a, const T* x, const T* grad,
                                   T* __restrict best, T* out) {
  const int64_t line = a.width * a.channels, pixel = a.channels;
  for (int64_t j = 0; j < a.width / 2; ++j) {
    const T* __restrict from = x + 2 * j * pixel;
    const T* __restrict passed = grad + j * pixel;
    T* __restrict to0 = out + 2 * j * pixel;
    T* __restrict to1 = to0 + pixel;
    T* __restrict to2 = to0 + line;
    T* __restrict to3 = to2 + pixel;
    for (int64_t c = 0; c < a.channels; ++c) {
      const T v0 = from[c], v1 = from[pixel + c], v2 = from[line + c], v3 = from[line + pixel + c];
      best[c] = larger(larger(larger(v0, v1), v2), v3);
    }
// Nothing here overlaps, which the compiler could only find out with too many comparisons.
#pragma GCC ivdep
    for (int64_t c = 0; c < a.channels; ++c) {
      const T v0 = from[c], v1 = from[pixel + c], v2 = from[line + c];
      const T value = passed[c] * elu_slope(best[c], a.flat.alpha);
      // Each hands on what it does not take. A NaN equals nothing, so the last takes its gradient.
      const T left1 = v0 == best[c] ? T(0) : value;
      const T left2 = v1 == best[c] ? T(0) : left1;
      to0[c] = v0 == best[c] ? value : T(0);
      to1[c] = v1 == best[c] ? left1 : T(0);
      to2[c] = v2 == best[c] ? left2 : T(0);
      to3[c] = v2 == best[c] ? T(0) : left2;
    }
  }
  if (a.width % 2 == 1) {
    for (int64_t end : {line, 2 * line}) std::fill_n(out + end - pixel, pixel, T(0));
  }
}

// A task is a row of the result, made from two lines of x. In the backward pass there is one more
// where the height is odd, for the line that no window reaches.
template <class T>
AWM_INLINE void pooled_rows(const PoolArgs<T>& a, int64_t begin, int64_t end) {
  const int64_t line = a.width * a.channels, pooled_line = a.width / 2 * a.channels;
  const int64_t rows = a.height / 2, tasks = a.flat.grad ? ceil_div(a.height, 2) : rows;
  std::vector<T> x_buffer(2 * line), pooled_buffer(pooled_line), grad_buffer(2 * line),
      best(a.channels);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t image = task / tasks, i = task % tasks;
    const int64_t at = (image * a.height + 2 * i) * line;
    const int64_t pooled_at = (image * rows + i) * pooled_line;
    if (i == rows) {
      T* out = place(a.flat.out, at, grad_buffer.data());
      std::fill_n(out, line, T(0));
      store(a.flat.out, at, line, out);
      continue;
    }
    const T* x = load(a.flat.x, at, 2 * line, x_buffer.data());
    if (a.flat.grad) {
      const T* grad = load(a.flat.grad, pooled_at, pooled_line, pooled_buffer.data());
      T* out = place(a.flat.out, at, grad_buffer.data());
      pool_line_backward(a, x, grad, best.data(), out);
      store(a.flat.out, at, 2 * line, out);
    } else {
      T* out = place(a.flat.out, pooled_at, pooled_buffer.data());
      pool_line(a, x, out);
      store(a.flat.out, pooled_at, pooled_line, out);
    }
  }
}

AWM_SIMD void run(const PoolArgs<float>& a, int64_t begin, int64_t end) {
  pooled_rows(a, begin, end);
}
AWM_SIMD void run(const PoolArgs<double>& a, int64_t begin, int64_t end) {
  pooled_rows(a, begin, end);
}

void check_images(const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.dim() == 4 && x.is_contiguous(), name,
                  ": expected contiguous images (n, h, w, c)");
}

template <class T>
void launch(const Args<T>& flat, const Tensor& x, int64_t window) {
  if (window == 1) {
    torch::stable::parallel_for(0, ceil_div(flat.numel, kBlock), ceil_div(kGrain, kBlock),
                                [&](int64_t begin, int64_t end) { run(flat, begin, end); });
    return;
  }
  const PoolArgs<T> args{flat, x.size(1), x.size(2), x.size(3)};
  const int64_t rows = flat.grad ? ceil_div(args.height, 2) : args.height / 2;
  torch::stable::parallel_for(0, rows * x.size(0), ceil_div(kGrain, 2 * args.width * args.channels),
                              [&](int64_t begin, int64_t end) { run(args, begin, end); });
}

void check_pooled(const Tensor& x, const Tensor& pooled, int64_t window, const char* name) {
  STD_TORCH_CHECK(window == 1 || window == 2, "window: expected 1 or 2, got ", window);
  check_images(x, "x");
  check_images(pooled, name);
  const bool fits = pooled.size(0) == x.size(0) && pooled.size(1) == x.size(1) / window &&
                    pooled.size(2) == x.size(2) / window && pooled.size(3) == x.size(3);
  STD_TORCH_CHECK(fits, name, ": expected x's shape, height and width divided by ", window);
}

}  // namespace

void pooled_elu_out(const Tensor& x, int64_t window, double alpha, const Tensor& out) {
  check_pooled(x, out, window, "out");
  if (out.numel() == 0) return;
  with_compute_dtype(is_double(x), [&]<class T>(T) {
    launch(
        Args<T>{
            source(x, x.numel(), "x"), {}, target(out, out.numel(), "out"), T(alpha), x.numel()},
        x, window);
  });
}

void pooled_elu_backward_out(const Tensor& grad, const Tensor& x, int64_t window, double alpha,
                             const Tensor& grad_x) {
  check_pooled(x, grad, window, "grad");
  check_images(grad_x, "grad_x");
  if (x.numel() == 0) return;
  with_compute_dtype(is_double(x), [&]<class T>(T) {
    launch(Args<T>{source(x, x.numel(), "x"), source(grad, grad.numel(), "grad"),
                   target(grad_x, x.numel(), "grad_x"), T(alpha), x.numel()},
           x, window);
  });
}

STABLE_TORCH_LIBRARY_IMPL(awm_kernels_compiled, CPU, m) {
  m.impl("pooled_elu_out", TORCH_BOX(&pooled_elu_out));
  m.impl("pooled_elu_backward_out", TORCH_BOX(&pooled_elu_backward_out));
}

}  // namespace awm::cpu
