// The optional scale of masked weights: one value per row (output channel) of a flat array.
#pragma once

#include <vector>

#include "storage.h"

namespace awm::cpu {

// Row r is elements [ends[r-1], ends[r]) of the flat array.
template <class T>
class RowScale {
 public:
  // Without row_ptr, the rows are shape[0] equal parts of theta. Without scale, it is 1 throughout.
  RowScale(const Tensor& theta, const OptionalTensor& scale, const OptionalTensor& row_ptr) {
    const int64_t numel = theta.numel();
    if (!scale.has_value()) {
      values_ = {T(1)};
      ends_ = {numel};
      return;
    }
    const int64_t rows = scale->numel();
    STD_TORCH_CHECK(scale->is_contiguous(), "scale: expected a contiguous tensor");
    values_.resize(rows);
    const Storage given = source(*scale, rows, "scale");
    const T* values = load(given, 0, rows, values_.data());
    std::copy(values, values + rows, values_.data());
    ends_.resize(rows);
    if (row_ptr.has_value()) {
      check_dtype(*row_ptr, ScalarType::Long, "row_ptr");
      check_numel(*row_ptr, rows + 1, "row_ptr");
      STD_TORCH_CHECK(row_ptr->is_contiguous(), "row_ptr: expected a contiguous tensor");
      const int64_t* offsets = static_cast<const int64_t*>(row_ptr->const_data_ptr());
      STD_TORCH_CHECK(offsets[0] == 0 && offsets[rows] == numel, "row_ptr: expected offsets from 0",
                      " to ", numel, ", got ", offsets[0], " to ", offsets[rows]);
      STD_TORCH_CHECK(std::is_sorted(offsets, offsets + rows + 1),
                      "row_ptr: expected offsets that never decrease");
      std::copy(offsets + 1, offsets + rows + 1, ends_.data());
    } else {
      STD_TORCH_CHECK(theta.dim() > 0 && theta.size(0) == rows, "scale: expected one value for ",
                      "each row of theta, got ", rows);
      for (int64_t r = 0; r < rows; ++r) ends_[r] = (r + 1) * (numel / rows);
    }
  }

  // The scale of elements [at, at + n) where they are all of one row, otherwise null.
  AWM_INLINE const T* only(int64_t at, int64_t n) const {
    const int64_t row = std::upper_bound(ends_.begin(), ends_.end(), at) - ends_.begin();
    return at + n <= ends_[row] ? &values_[row] : nullptr;
  }

  // Writes the scale of each of the elements [at, at + n) into `buffer`.
  AWM_INLINE void fill(int64_t at, int64_t n, T* buffer) const {
    int64_t row = std::upper_bound(ends_.begin(), ends_.end(), at) - ends_.begin();
    for (int64_t i = 0; i < n; ++row) {
      const int64_t end = std::min(n, ends_[row] - at);
      const T value = values_[row];
      for (; i < end; ++i) buffer[i] = value;
    }
  }

 private:
  std::vector<T> values_;
  std::vector<int64_t> ends_;
};

}  // namespace awm::cpu
