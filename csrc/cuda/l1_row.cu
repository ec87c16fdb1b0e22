// What the ops on the L1 ball share: each row of a matrix, after a step, on its L1 ball.
//
// A row is read once and then kept in the shared memory of one block, or of a cluster of blocks
// (sm_90) if it is too long for that. Longer rows, or older devices, read it again in every pass.
#include <cooperative_groups.h>

#include "array.h"
#include "l1_row.h"
#include "reduce.h"

namespace awm::cuda {
namespace {

constexpr int n = kChunk<Any>;
constexpr unsigned kMaxThreads = 1024;
constexpr unsigned kMaxCluster = 16;
// Rows up to this length don't fill more than a quarter of the threads.
constexpr int64_t kShortRow = 4096;

enum class Memory { global, shared, cluster };

template <class T>
struct Args {
  Array delta, grad;
  const T* radius;
  T lr;
  Bound bound;
  int64_t cols;
  int64_t part;  // columns of one block: all, but in a cluster
};

struct Shared {
  Pair scratch[kMaxWarps];
  Pair part;  // this block's result, for the others of the cluster
};
static_assert(sizeof(Shared) % 16 == 0);  // the row follows it

// Every thread of the row's block, or cluster, gets the result.
template <class Operation, Memory memory>
__device__ __forceinline__ Pair row_reduce(Pair value, Shared& shared) {
  value = block_reduce<Operation>(value, shared.scratch);
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  if constexpr (memory == Memory::cluster) {
    const auto cluster = cooperative_groups::this_cluster();
    if (threadIdx.x == 0) shared.part = value;
    cluster.sync();
    value = *cluster.map_shared_rank(&shared.part, 0);
    for (unsigned rank = 1; rank < cluster.num_blocks(); ++rank) {
      value = Operation::combine(value, *cluster.map_shared_rank(&shared.part, rank));
    }
    cluster.sync();
  }
#endif
  return value;
}

template <class T, Memory memory>
class Row {
 public:
  __device__ __forceinline__ Row(const Args<T>& a, Shared& shared)
      : a_(a), shared_(shared), kept_(reinterpret_cast<T*>(&shared + 1)) {
    const int64_t parts = ceil_div(a.cols, a.part), row = blockIdx.x / parts;
    const int64_t begin = (blockIdx.x - row * parts) * a.part;
    length_ = a.cols - begin < a.part ? a.cols - begin : a.part;
    at_ = row * a.cols + begin;
    limit_ = double(a.radius[row]);
  }

  __device__ __forceinline__ void run() {
    if (a_.bound == Bound::none) {
      each<true>([&](T(&v)[n], int count, int64_t at) { store<Any>(a_.delta, at, count, v); });
      return;
    }
    double norm = 0;
    T peak = 0;
    each<true>([&](T(&v)[n], int, [[maybe_unused]] int64_t at) {
      if constexpr (memory != Memory::global) {
        *reinterpret_cast<Pack<T, n>*>(kept_ + (at - at_)) = *reinterpret_cast<Pack<T, n>*>(v);
      }
#pragma unroll
      for (int i = 0; i < n; ++i) {  // after the row's end these are zeros
        const T size = absolute(v[i]);
        norm += double(size);
        peak = peak < size ? size : peak;
      }
    });
    const Pair size = row_reduce<AddAndMax, memory>({norm, double(peak)}, shared_);
    if (a_.bound == Bound::rescale) {
      const T factor = size.first > limit_ ? T(limit_ / size.first) : T(1);
      each<false>([&](T(&v)[n], int count, int64_t at) {
#pragma unroll
        for (int i = 0; i < n; ++i) v[i] *= factor;
        store<Any>(a_.delta, at, count, v);
      });
    } else {
      const double threshold = size.first <= limit_ ? 0.0 : newton(size);
      each<false>([&](T(&v)[n], int count, int64_t at) {
#pragma unroll
        for (int i = 0; i < n; ++i) v[i] = T(soft_threshold(double(v[i]), threshold));
        store<Any>(a_.delta, at, count, v);
      });
    }
  }

 private:
  // Calls f on each of this thread's chunks: (values, how many of them count, their position).
  template <bool first_pass, class F>
  __device__ __forceinline__ void each(const F& f) {
    for (int64_t c = int64_t(threadIdx.x) * n; c < length_; c += int64_t(blockDim.x) * n) {
      const int count = chunk_count<n>(c, length_);
      alignas(16) T v[n];
      if constexpr (memory != Memory::global && !first_pass) {
        *reinterpret_cast<Pack<T, n>*>(v) = *reinterpret_cast<const Pack<T, n>*>(kept_ + c);
      } else {
        load<Any>(a_.delta, at_ + c, count, v);
        if (a_.grad) {
          T grad[n];
          load<Any>(a_.grad, at_ + c, count, grad);
#pragma unroll
          for (int i = 0; i < n; ++i) v[i] += a_.lr * grad[i];
        }
      }
      f(v, count, at_ + c);
    }
  }

  // The t where Σ max(|v| - t, 0) is the radius: Newton's method, as in csrc/cpu/l1_row.h.
  __device__ __forceinline__ double newton(const Pair& size) {
    const double by_mean = (size.first - limit_) / double(a_.cols), by_peak = size.second - limit_;
    double threshold = by_mean < by_peak ? by_peak : by_mean;
    for (;;) {
      const T bound = T(threshold);
      double above = 0;
      int64_t above_count = 0;
      each<false>([&](T(&v)[n], int count, int64_t) {
#pragma unroll
        for (int i = 0; i < n; ++i) {
          const T size = absolute(v[i]);
          if (i < count && size > bound) {
            above += double(size);
            ++above_count;
          }
        }
      });
      const Pair sums = row_reduce<Add, memory>({above, double(above_count)}, shared_);
      const double next = (sums.first - limit_) / sums.second;
      if (!(next > threshold)) return threshold;
      threshold = next;
    }
  }

  const Args<T>& a_;
  Shared& shared_;
  T* kept_;
  int64_t at_, length_;
  double limit_;
};

template <class T, Memory memory>
__global__ void __launch_bounds__(kMaxThreads, 1) row_kernel(const Args<T> a) {
  Row<T, memory>(a, *shared_memory<Shared>()).run();
}

template <class T>
void launch_rows(const Device& device, Args<T> args, int64_t rows) {
  const size_t limit = size_t(device.attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
  const unsigned threads = args.cols <= kShortRow ? kMaxThreads / 4 : kMaxThreads;
  const auto bytes = [](int64_t part) {
    return sizeof(Shared) + size_t(ceil_div(part, n)) * n * sizeof(T);
  };
  args.part = args.cols;
  if (bytes(args.part) <= limit) {
    device.launch(row_kernel<T, Memory::shared>, {blocks(rows), threads, bytes(args.part)}, args);
    return;
  }
  for (unsigned cluster = 2; cluster <= kMaxCluster; cluster *= 2) {
    args.part = ceil_div(args.cols, int64_t{cluster} * n) * n;
    // As many blocks as there are parts: a shorter cluster would leave some waiting for others.
    if (bytes(args.part) > limit || ceil_div(args.cols, args.part) != cluster) continue;
    const Shape shape{blocks(rows * cluster), threads, bytes(args.part), cluster};
    if (!device.runs_clusters(row_kernel<T, Memory::cluster>, shape)) continue;
    device.launch(row_kernel<T, Memory::cluster>, shape, args);
    return;
  }
  args.part = args.cols;
  device.launch(row_kernel<T, Memory::global>, {blocks(rows), threads, sizeof(Shared)}, args);
}

}  // namespace

void step_rows(const Tensor& delta, const OptionalTensor& grad, const Tensor& radius, double lr,
               Bound bound) {
  STD_TORCH_CHECK(delta.dim() == 2, "delta: expected a matrix, got ", delta.dim(), " dimensions");
  const int64_t rows = delta.size(0), cols = delta.size(1);
  check_matrix(delta, rows, cols, "delta");
  if (grad.has_value()) check_matrix(*grad, rows, cols, "grad");
  if (rows * cols == 0) return;
  const Device device(delta);
  device.check_here(radius, "radius");
  with_compute_dtype(is_double(delta), [&]<class T>(T) {
    const Args<T> args{
        target(device, delta, rows * cols, "delta", cols),
        grad.has_value() ? source(device, *grad, rows * cols, "grad", cols) : array({}),
        row_radius<T>(radius, rows),
        T(lr),
        bound,
        cols,
        cols};
    launch_rows(device, args, rows);
  });
}

}  // namespace awm::cuda
