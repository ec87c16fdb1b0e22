// mask_step_: weight gradient to new mask, moments and weight in one pass over memory.
#include <cmath>

#include "../mask_step.h"
#include "reduce.h"
#include "row_scale.h"

namespace awm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 2;
constexpr int n = kChunk<Any>;
static_assert(n == kChunk<float>);
constexpr int64_t kTile = int64_t{kThreads} * kUnroll * n;
constexpr int kSumThreads = 1024;

struct Args {
  Array mask, grad_weight, theta, exp_avg, exp_avg_sq, weight_out;
  RowScale scale;
  const int64_t* step;
  const double* lr;
  double beta1, beta2, eps, grad_clip, l1, grad_norm_clip;
  bool proximal;
  int64_t numel;
  // The sums of all blocks, then those of each block: of the squares of the gradients in the norm
  // pass, then of the new mask and of the elements left alone.
  Pair* sums;
};

template <class T>
struct Shared {
  StepRule<T> rule;
  Pair scratch[kMaxWarps];
};

__device__ __forceinline__ int64_t chunk_at(int64_t start, int u) {
  return start + (u * kThreads + threadIdx.x) * n;
}

template <class T, class S>
__global__ void __launch_bounds__(kThreads) grad_norm_kernel(const Args a) {
  const int64_t start = int64_t(blockIdx.x) * kTile;
  const int64_t end = start + kTile < a.numel ? start + kTile : a.numel;
  T grad[kUnroll][n], theta[kUnroll][n];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t at = chunk_at(start, u);
    const int count = chunk_count<n>(at, end);
    load<S>(a.grad_weight, at, count, grad[u]);
    load<S>(a.theta, at, count, theta[u]);
  }
  const RowRange range = a.scale.range(start, end);
  double squares = 0;
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t at = chunk_at(start, u);
    T scale[n];
    a.scale.fill(range, at, chunk_count<n>(at, end), scale);
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const T raw = masked_weight(grad[u][i], theta[u][i], scale[i]);
      squares += is_finite(raw) ? double(raw) * double(raw) : 0.0;
    }
  }
  const Pair total = block_reduce<Add>({squares, 0}, shared_memory<Pair>());
  if (threadIdx.x == 0) a.sums[1 + blockIdx.x] = total;
}

// One block: the sums of all blocks from those of each.
__global__ void __launch_bounds__(kSumThreads)
    sum_kernel(const Pair* parts, int64_t count, Pair* total) {
  Pair mine{0, 0};
  for (int64_t i = threadIdx.x; i < count; i += kSumThreads) mine = Add::combine(mine, parts[i]);
  mine = block_reduce<Add>(mine, shared_memory<Pair>());
  if (threadIdx.x == 0) *total = mine;
}

// Left alone, the compiler spills to fit a third block, which the loads in flight don't need.
template <class T, class S, Optimiser optimiser>
__global__ void __launch_bounds__(kThreads, sizeof(T) == sizeof(double) ? 1 : 2)
    mask_step_kernel(const Args a) {
  Shared<T>& shared = *shared_memory<Shared<T>>();
  const int64_t start = int64_t(blockIdx.x) * kTile;
  const int64_t end = start + kTile < a.numel ? start + kTile : a.numel;
  T grad[kUnroll][n], theta[kUnroll][n], mask[kUnroll][n], first[kUnroll][n], second[kUnroll][n];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t at = chunk_at(start, u);
    const int count = chunk_count<n>(at, end);
    load<S>(a.grad_weight, at, count, grad[u]);
    load<S>(a.theta, at, count, theta[u]);
    load<S>(a.mask, at, count, mask[u]);
    if constexpr (optimiser != Optimiser::sgd) load<S>(a.exp_avg, at, count, first[u]);
    if constexpr (optimiser == Optimiser::adam) load<S>(a.exp_avg_sq, at, count, second[u]);
  }
  if (threadIdx.x == 0) {
    const double factor =
        is_finite(a.grad_norm_clip) ? norm_clip_factor(a.sums[0].first, a.grad_norm_clip) : 1.0;
    shared.rule = make_step_rule<T>(*a.step, *a.lr, a.beta1, a.beta2, a.eps, factor, a.grad_clip,
                                    a.l1, a.proximal);
  }
  const RowRange range = a.scale.range(start, end);
  __syncthreads();
  const StepRule<T> rule = shared.rule;
  double norm = 0;
  int skipped = 0;
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t at = chunk_at(start, u);
    const int count = chunk_count<n>(at, end);
    T scale[n], weight[n];
    a.scale.fill(range, at, count, scale);
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const T raw = masked_weight(grad[u][i], theta[u][i], scale[i]);
      const bool finite = is_finite(raw);
      const T regularised = regularised_grad(rule, raw);
      T update;
      if constexpr (optimiser == Optimiser::adam) {
        T new_first = first[u][i], new_second = second[u][i];
        update = adam_update(rule, regularised, new_first, new_second);
        first[u][i] = finite ? new_first : first[u][i];
        second[u][i] = finite ? new_second : second[u][i];
      } else if constexpr (optimiser == Optimiser::momentum) {
        T new_first = first[u][i];
        update = momentum_update(rule, regularised, new_first);
        first[u][i] = finite ? new_first : first[u][i];
      } else {
        update = sgd_update(rule, regularised);
      }
      const T moved = finite ? updated_mask(rule, mask[u][i], update) : mask[u][i];
      // The norm and the weight are those of the mask as it is stored.
      mask[u][i] = as_stored<S>(a.mask, moved);
      weight[i] = masked_weight(mask[u][i], theta[u][i], scale[i]);
      norm += i < count ? double(mask[u][i]) : 0.0;
      skipped += finite ? 0 : 1;
    }
    store<S>(a.mask, at, count, mask[u]);
    if constexpr (optimiser != Optimiser::sgd) store<S>(a.exp_avg, at, count, first[u]);
    if constexpr (optimiser == Optimiser::adam) store<S>(a.exp_avg_sq, at, count, second[u]);
    if (a.weight_out) store<S>(a.weight_out, at, count, weight);
  }
  const Pair total = block_reduce<Add>({norm, double(skipped)}, shared.scratch);
  if (threadIdx.x == 0) a.sums[1 + blockIdx.x] = total;
}

template <class T, class S>
void launch_step(const Device& device, Optimiser optimiser, int64_t block_count, const Args& args) {
  constexpr size_t scratch = kMaxWarps * sizeof(Pair);
  if (std::isfinite(args.grad_norm_clip)) {
    device.launch(grad_norm_kernel<T, S>, {blocks(block_count), kThreads, scratch}, args);
    device.launch(sum_kernel, {blocks(1), kSumThreads, scratch}, args.sums + 1, block_count,
                  args.sums);
  }
  const auto kernel = optimiser == Optimiser::adam ? mask_step_kernel<T, S, Optimiser::adam>
                      : optimiser == Optimiser::momentum
                          ? mask_step_kernel<T, S, Optimiser::momentum>
                          : mask_step_kernel<T, S, Optimiser::sgd>;
  device.launch(kernel, {blocks(block_count), kThreads, sizeof(Shared<T>)}, args);
}

}  // namespace

void mask_step_(const Tensor& mask, const Tensor& grad_weight, const Tensor& theta,
                const OptionalTensor& exp_avg, const OptionalTensor& exp_avg_sq, const Tensor& step,
                const OptionalTensor& weight_out, const Tensor& stats, const OptionalTensor& scale,
                const OptionalTensor& row_ptr, const Tensor& lr, double beta1, double beta2,
                double eps, double grad_clip, double l1, double grad_norm_clip, bool proximal) {
  const Device device(mask);
  const Optimiser optimiser = checked_optimiser(exp_avg, exp_avg_sq, step, stats, lr);
  const int64_t numel = mask.numel(), block_count = ceil_div(numel, kTile);
  device.check_here(step, "step");
  device.check_here(lr, "lr");
  device.check_here(stats, "stats");
  const Tensor sums = torch::stable::new_empty(mask, {2 * (1 + block_count)}, ScalarType::Double);
  const Args args{target(device, mask, numel, "mask"),
                  source(device, grad_weight, numel, "grad_weight"),
                  source(device, theta, numel, "theta"),
                  target(device, exp_avg, numel, "exp_avg"),
                  target(device, exp_avg_sq, numel, "exp_avg_sq"),
                  target(device, weight_out, numel, "weight_out"),
                  row_scale(device, theta, scale, row_ptr),
                  static_cast<const int64_t*>(step.const_data_ptr()),
                  static_cast<const double*>(lr.const_data_ptr()),
                  beta1,
                  beta2,
                  eps,
                  grad_clip,
                  l1,
                  grad_norm_clip,
                  proximal,
                  numel,
                  static_cast<Pair*>(sums.mutable_data_ptr())};
  if (numel > 0) {
    if (is_double(mask) || is_double(theta)) {
      launch_step<double, Any>(device, optimiser, block_count, args);
    } else if (all_stored_as(ScalarType::Float, args.mask, args.grad_weight, args.theta,
                             args.exp_avg, args.exp_avg_sq, args.weight_out)) {
      launch_step<float, float>(device, optimiser, block_count, args);
    } else {
      launch_step<float, Any>(device, optimiser, block_count, args);
    }
  }
  device.launch(sum_kernel, {blocks(1), kSumThreads, kMaxWarps * sizeof(Pair)}, args.sums + 1,
                block_count, static_cast<Pair*>(stats.mutable_data_ptr()));
}

STABLE_TORCH_LIBRARY_IMPL(AWM_LIBRARY, AWM_DISPATCH_KEY, m) {
  m.impl("mask_step_", TORCH_BOX(&mask_step_));
}

}  // namespace awm::cuda
