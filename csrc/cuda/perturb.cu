// perturb_out: clip(x + Δ); perturb_backward_out: its gradients, Δ's summed over the batch.
#include "../perturb.h"
#include "array.h"

namespace awm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 2;
// The backward pass tiles the matrix: 8 chunks are a cache line of 128 bytes, of 32 rows at a time.
constexpr int kTileChunks = 8;
constexpr int kTileRows = kThreads / kTileChunks;

template <class T>
struct Args {
  Array x, delta, out;
  T low, high;
  int64_t rows, cols;
  bool shared;  // one Δ for all rows
};

template <class T, class S>
__global__ void __launch_bounds__(kThreads) perturb_kernel(const Args<T> a) {
  constexpr int n = kChunk<S>;
  const int64_t per_row = ceil_div(a.cols, n), chunks = a.rows * per_row;
  T x[kUnroll][n], delta[kUnroll][n];
  int64_t at[kUnroll];
  int count[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t chunk = (int64_t(blockIdx.x) * kUnroll + u) * kThreads + threadIdx.x;
    const int64_t row = chunk / per_row, col = (chunk - row * per_row) * n;
    at[u] = row * a.cols + col;
    count[u] = chunk < chunks ? chunk_count<n>(col, a.cols) : 0;
    load<S>(a.x, at[u], count[u], x[u]);
    load<S>(a.delta, a.shared ? col : at[u], count[u], delta[u]);
  }
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
    for (int i = 0; i < n; ++i) x[u][i] = clip(x[u][i] + delta[u][i], a.low, a.high);
    store<S>(a.out, at[u], count[u], x[u]);
  }
}

template <class T>
struct BackwardArgs {
  Array grad, x, delta, grad_x, grad_delta;
  T low, high;
  int64_t rows, cols;
  bool shared;
};

// A block owns the columns of its tile. Where Δ's gradient is a sum, it takes all rows (the grid is
// one block high) and each thread adds those of its own in order.
template <class T, class S>
__global__ void __launch_bounds__(kThreads) perturb_backward_kernel(const BackwardArgs<T> a) {
  constexpr int n = kChunk<S>, width = kTileChunks * n;
  const int64_t left = int64_t(blockIdx.x) * width;
  const int lane = threadIdx.x % kTileChunks * n, tile_row = threadIdx.x / kTileChunks;
  const int64_t col = left + lane;
  const int count = chunk_count<n>(col, a.cols);
  T delta[n];
  if (a.shared) load<S>(a.delta, col, count, delta);
  double total[n] = {};
  for (int64_t row = int64_t(blockIdx.y) * kTileRows + tile_row; row < a.rows;
       row += int64_t(gridDim.y) * kTileRows) {
    const int64_t at = row * a.cols + col;
    T grad[n], x[n];
    load<S>(a.grad, at, count, grad);
    load<S>(a.x, at, count, x);
    if (!a.shared) load<S>(a.delta, at, count, delta);
#pragma unroll
    for (int i = 0; i < n; ++i) {
      grad[i] = inside(x[i] + delta[i], a.low, a.high) ? grad[i] : T(0);
      total[i] += double(grad[i]);
    }
    if (a.grad_x) store<S>(a.grad_x, at, count, grad);
    if (a.grad_delta && !a.shared) store<S>(a.grad_delta, at, count, grad);
  }
  if (!a.grad_delta || !a.shared) return;
  double (*sums)[width] = shared_memory<double[width]>();
#pragma unroll
  for (int i = 0; i < n; ++i) sums[tile_row][lane + i] = total[i];
  __syncthreads();
  const int mine = threadIdx.x;
  if (mine >= width || left + mine >= a.cols) return;
  double sum = 0;
  for (int row = 0; row < kTileRows; ++row) sum += sums[row][mine];
  const T rounded[1] = {T(sum)};
  store<S>(a.grad_delta, left + mine, 1, rounded);
}

}  // namespace

void perturb_out(const Tensor& x, const Tensor& delta, double low, double high, const Tensor& out) {
  const bool shared = one_delta(x, delta);
  const int64_t rows = x.size(0), cols = x.size(1);
  check_matrix(out, rows, cols, "out");
  if (rows * cols == 0) return;
  const Device device(x);
  const Array from = source(device, x, rows * cols, "x", cols),
              added = source(device, delta, delta.numel(), "delta", cols),
              to = target(device, out, rows * cols, "out", cols);
  with_dtypes(
      is_double(x),
      [&]<class T, class S>(T, S) {
        const Args<T> args{from, added, to, T(low), T(high), rows, cols, shared};
        const int64_t chunks = rows * ceil_div(cols, kChunk<S>);
        device.launch(perturb_kernel<T, S>,
                      {blocks(ceil_div(chunks, kThreads * kUnroll)), kThreads}, args);
      },
      from, added, to);
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
  const Device device(x);
  const Array g = source(device, grad, rows * cols, "grad", cols),
              from = source(device, x, rows * cols, "x", cols),
              added = source(device, delta, delta.numel(), "delta", cols),
              to_x = target(device, grad_x, rows * cols, "grad_x", cols),
              to_delta = target(device, grad_delta, delta.numel(), "grad_delta", cols);
  with_dtypes(
      is_double(x),
      [&]<class T, class S>(T, S) {
        const BackwardArgs<T> args{g,      from,    added, to_x, to_delta,
                                   T(low), T(high), rows,  cols, shared};
        constexpr int width = kTileChunks * kChunk<S>;
        const bool sums = shared && to_delta;
        dim3 grid = blocks(ceil_div(cols, width));
        const int64_t high_enough = sums ? 1 : ceil_div(rows, kTileRows);
        grid.y = unsigned(high_enough < 1 ? 1 : high_enough > 65535 ? 65535 : high_enough);
        const size_t bytes = sums ? kTileRows * width * sizeof(double) : 0;
        device.launch(perturb_backward_kernel<T, S>, {grid, kThreads, bytes}, args);
      },
      g, from, added, to_x, to_delta);
}

STABLE_TORCH_LIBRARY_IMPL(AWM_LIBRARY, AWM_DISPATCH_KEY, m) {
  m.impl("perturb_out", TORCH_BOX(&perturb_out));
  m.impl("perturb_backward_out", TORCH_BOX(&perturb_backward_out));
}

}  // namespace awm::cuda
