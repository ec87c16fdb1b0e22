// The optional scale of masked weights: one value per row (output channel) of a flat array.
#pragma once

#include "array.h"

namespace awm::cuda {

// The first and the last row that a block touches.
struct RowRange {
  int64_t first, last;
};

struct RowScale {
  Array values;            // none: the scale is 1
  const int64_t* row_ptr;  // row r is elements [row_ptr[r], row_ptr[r + 1]); null for equal rows
  int64_t rows;
  int64_t row_length;  // of equal rows

  // All threads of the block take part.
  __device__ RowRange range(int64_t begin, int64_t end) const {
    if (!values || row_ptr == nullptr) return {0, 0};
    const int64_t first = row_of_block(0, begin);
    return {first, row_of_block(first, end - 1)};
  }

  // The scale of each of `count` elements from `at` on, of a block that touches rows in `range`.
  template <class T, int n>
  __device__ __forceinline__ void fill(const RowRange& range, int64_t at, int count,
                                       T (&out)[n]) const {
    if (!values || count == 0) {
#pragma unroll
      for (int i = 0; i < n; ++i) out[i] = T(1);
      return;
    }
    int64_t row = row_ptr != nullptr ? row_of_thread(range, at) : at / row_length;
    int64_t end = row_end(row);
    T value = row_value<T>(row);
#pragma unroll
    for (int i = 0; i < n; ++i) {
      if (i < count && at + i >= end) {
        do {
          end = row_end(++row);
        } while (at + i >= end && row < rows - 1);
        value = row_value<T>(row);
      }
      out[i] = value;
    }
  }

 private:
  __device__ __forceinline__ int64_t row_end(int64_t row) const {
    return row_ptr != nullptr ? row_ptr[row + 1] : (row + 1) * row_length;
  }

  template <class T>
  __device__ __forceinline__ T row_value(int64_t row) const {
    T value[1];
    load<Any>(values, row, 1, value);
    return value[0];
  }

  // The last row from `low` on that begins at `at` or before. Every round divides the candidates
  // by the number of threads, so two rounds do for 65536 rows.
  __device__ int64_t row_of_block(int64_t low, int64_t at) const {
    for (int64_t candidates = rows - low; candidates > 1;) {
      const int64_t stride = ceil_div(candidates, blockDim.x), mine = threadIdx.x * stride;
      const int begun = __syncthreads_count(mine < candidates && row_ptr[low + mine] <= at);
      const int64_t skipped = begun > 0 ? (begun - 1) * stride : 0;
      low += skipped;
      candidates = stride < candidates - skipped ? stride : candidates - skipped;
    }
    return low;
  }

  __device__ __forceinline__ int64_t row_of_thread(const RowRange& range, int64_t at) const {
    int64_t low = range.first, high = range.last;
    while (low < high) {
      const int64_t middle = low + (high - low + 1) / 2;
      if (row_ptr[middle] <= at) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return low;
  }
};

inline RowScale row_scale(const Device& device, const Tensor& theta, const OptionalTensor& scale,
                          const OptionalTensor& row_ptr) {
  if (!scale.has_value()) return {array({}), nullptr, 1, theta.numel()};
  const int64_t rows = scale->numel();
  STD_TORCH_CHECK(scale->is_contiguous(), "scale: expected a contiguous tensor");
  const Array values = source(device, *scale, rows, "scale");
  if (!row_ptr.has_value()) {
    STD_TORCH_CHECK(theta.dim() > 0 && theta.size(0) == rows, "scale: expected one value for ",
                    "each row of theta, got ", rows);
    return {values, nullptr, rows, theta.numel() / rows};
  }
  device.check_here(*row_ptr, "row_ptr");
  check_dtype(*row_ptr, ScalarType::Long, "row_ptr");
  check_numel(*row_ptr, rows + 1, "row_ptr");
  STD_TORCH_CHECK(row_ptr->is_contiguous(), "row_ptr: expected a contiguous tensor");
  STD_TORCH_CHECK(rows > 0, "row_ptr: expected at least one row");
  return {values, static_cast<const int64_t*>(row_ptr->const_data_ptr()), rows, 0};
}

}  // namespace awm::cuda
