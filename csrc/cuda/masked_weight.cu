// masked_weight_out: W = s · m ⊙ θ over a flat array, rounded once to the dtype of `out`.
#include "row_scale.h"

namespace awm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 2;

struct Args {
  Array theta, mask, out;
  RowScale scale;
  int64_t numel;
};

template <class T, class S>
__global__ void __launch_bounds__(kThreads, 2) masked_weight_kernel(const Args a) {
  constexpr int n = kChunk<S>;
  constexpr int64_t tile = kThreads * kUnroll * n;
  const int64_t start = int64_t(blockIdx.x) * tile;
  const int64_t end = start + tile < a.numel ? start + tile : a.numel;
  T theta[kUnroll][n], mask[kUnroll][n];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t at = start + (u * kThreads + threadIdx.x) * n;
    const int count = chunk_count<n>(at, end);
    load<S>(a.theta, at, count, theta[u]);
    load<S>(a.mask, at, count, mask[u]);
  }
  const RowRange range = a.scale.range(start, end);
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t at = start + (u * kThreads + threadIdx.x) * n;
    const int count = chunk_count<n>(at, end);
    T scale[n], weight[n];
    a.scale.fill(range, at, count, scale);
#pragma unroll
    for (int i = 0; i < n; ++i) weight[i] = masked_weight(mask[u][i], theta[u][i], scale[i]);
    store<S>(a.out, at, count, weight);
  }
}

}  // namespace

void masked_weight_out(const Tensor& theta, const Tensor& mask, const OptionalTensor& scale,
                       const OptionalTensor& row_ptr, const Tensor& out) {
  const int64_t n = theta.numel();
  if (n == 0) return;
  const Device device(theta);
  const Args args{source(device, theta, n, "theta"), source(device, mask, n, "mask"),
                  target(device, out, n, "out"), row_scale(device, theta, scale, row_ptr), n};
  with_dtypes(
      is_double(theta),
      [&]<class T, class S>(T, S) {
        const int64_t tile = int64_t{kThreads} * kUnroll * kChunk<S>;
        device.launch(masked_weight_kernel<T, S>, {blocks(ceil_div(n, tile)), kThreads}, args);
      },
      args.theta, args.mask, args.out);
}

STABLE_TORCH_LIBRARY_IMPL(AWM_LIBRARY, AWM_DISPATCH_KEY, m) {
  m.impl("masked_weight_out", TORCH_BOX(&masked_weight_out));
}

}  // namespace awm::cuda
