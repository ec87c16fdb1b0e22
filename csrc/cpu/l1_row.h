// Rows on the L1 ball of a radius: two different operators, rescaling and projection.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "../numerics.h"
#include "storage.h"

namespace awm::cpu {

struct RowSize {
  double norm;  // ‖v‖₁
  double peak;  // max |v|
};

template <class T>
AWM_INLINE RowSize row_size(const T* row, int64_t n) {
  constexpr int kPeaks = 2 * kLanes;
  double norm = 0;
  T peak[kPeaks] = {};
  // One quantity a loop: mixed, they don't vectorise.
  for (int64_t at = 0; at < n; at += kBlock) {
    T size[kBlock];
    const int64_t m = std::min(kBlock, n - at);
    for (int64_t i = 0; i < m; ++i) size[i] = absolute(row[at + i]);
    norm += sum(size, m);
    int64_t i = 0;
    for (; i + kPeaks <= m; i += kPeaks) {
      for (int l = 0; l < kPeaks; ++l) peak[l] = size[i + l] > peak[l] ? size[i + l] : peak[l];
    }
    for (; i < m; ++i) peak[0] = size[i] > peak[0] ? size[i] : peak[0];
  }
  return {norm, double(*std::max_element(peak, peak + kPeaks))};
}

// v ← v · min(1, radius / ‖v‖₁).
template <class T>
AWM_INLINE void rescale_row(T* row, int64_t n, T radius) {
  const double norm = row_size(row, n).norm;
  if (!(norm > double(radius))) return;
  const T factor = T(double(radius) / norm);
  for (int64_t i = 0; i < n; ++i) row[i] *= factor;
}

// The root of f(t) = Σ max(|v| - t, 0) - limit if `threshold` is left of it, else `threshold`.
//
// f is convex, decreasing and piecewise linear, so Newton's method from a point left of the root
// climbs to it and, once only the elements above the root are counted, lands on it: a handful of
// passes without a branch on the data, where sorting or pivoting mispredicts at every element.
template <class T>
AWM_INLINE double climb(const T* row, int64_t n, double limit, double threshold) {
  for (;;) {
    const T bound = T(threshold);
    double above = 0;
    int64_t count = 0;
    for (int64_t at = 0; at < n; at += kBlock) {
      T kept[kBlock];
      int32_t found = 0;
      const int64_t m = std::min(kBlock, n - at);
      for (int64_t i = 0; i < m; ++i) {
        const T size = absolute(row[at + i]);
        kept[i] = size > bound ? size : T(0);
        found += size > bound ? 1 : 0;
      }
      above += sum(kept, m);
      count += found;
    }
    const double next = (above - limit) / double(count);
    // Not greater: the root, as near as rounding allows. Also ends on NaN, and on no element above.
    if (!(next > threshold)) return threshold;
    threshold = next;
  }
}

// Puts |v| of the elements above `bound` into `kept`; -1 if there may be no room for all of them.
template <class T, int64_t room>
AWM_INLINE int64_t keep_above(const T* row, int64_t n, T bound, T (&kept)[room]) {
  // Few are above where this pays: most groups are passed over after a vector comparison.
  constexpr int64_t kGroup = 16;
  int64_t count = 0;
  for (int64_t at = 0; at < n; at += kGroup) {
    const int64_t m = std::min(kGroup, n - at);
    int32_t found = 0;
    for (int64_t i = 0; i < m; ++i) found += absolute(row[at + i]) > bound ? 1 : 0;
    if (found == 0) continue;
    if (count + m > room) return -1;
    for (int64_t i = 0; i < m; ++i) {
      kept[count] = absolute(row[at + i]);
      count += kept[count] > bound ? 1 : 0;
    }
  }
  return count;
}

// v ← the nearest point with ‖v‖₁ ≤ radius: the soft threshold at the root for that limit.
template <class T>
AWM_INLINE void project_row(T* row, int64_t n, T radius) {
  const RowSize size = row_size(row, n);
  const double limit = double(radius);
  if (size.norm <= limit) return;
  // Both are left of the root: the first if every element were above it, the second if only one.
  double threshold = std::max((size.norm - limit) / double(n), size.peak - limit);
  // So is the root for a part of the row, which takes less time to find and is nearer.
  for (const int64_t part : {n / 64, n / 8}) threshold = climb(row, part, limit, threshold);
  T kept[8 * kBlock];
  const int64_t count = keep_above(row, n, T(threshold), kept);
  threshold = count < 0 ? climb(row, n, limit, threshold) : climb(kept, count, limit, threshold);
  // The threshold may be far greater than what is left, where its rounding would show.
  const T high = T(threshold), low = T(threshold - double(high));
  for (int64_t i = 0; i < n; ++i) {
    const T left = absolute(row[i]) - high - low;
    row[i] = std::copysign(left < T(0) ? T(0) : left, row[i]);
  }
}

enum class Bound { rescale, project };

template <class T>
struct Rows {
  Storage values;
  const T* radius;
  int64_t cols;
};

template <Bound bound, class T>
AWM_INLINE void bound_rows(const Rows<T>& a, int64_t begin, int64_t end) {
  std::vector<T> buffer(holds<T>(a.values) ? 0 : a.cols);
  for (int64_t r = begin; r < end; ++r) {
    T* row = load_mutable(a.values, r * a.cols, a.cols, buffer.data());
    if constexpr (bound == Bound::project) {
      project_row(row, a.cols, a.radius[r]);
    } else {
      rescale_row(row, a.cols, a.radius[r]);
    }
    store(a.values, r * a.cols, a.cols, row);
  }
}

// Threads share the rows: a row is a trigger, which is an image at most.
template <class F>
void share_rows(const Tensor& delta, const Tensor& radius, const F& run) {
  STD_TORCH_CHECK(delta.dim() == 2, "delta: expected a matrix, got ", delta.dim(), " dimensions");
  const int64_t count = delta.size(0), cols = delta.size(1);
  check_matrix(delta, count, cols, "delta");
  if (count * cols == 0) return;
  with_compute_dtype(is_double(delta), [&]<class T>(T) {
    const Rows<T> rows{target(delta, count * cols, "delta"), row_radius<T>(radius, count), cols};
    torch::stable::parallel_for(0, count, ceil_div(kGrain, cols),
                                [&](int64_t begin, int64_t end) { run(rows, begin, end); });
  });
}

}  // namespace awm::cpu
