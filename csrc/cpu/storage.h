// Tensors of any supported dtype, read and written a block at a time in the dtype of arithmetic.
//
// One kernel per compute dtype then serves every mixture of storage dtypes: a block of bfloat16 is
// widened into a buffer that stays in the first-level cache, and a block already in the compute
// dtype is used where it lies.
#pragma once

#include <algorithm>

#include "../tensor.h"
#include "simd.h"

namespace awm::cpu {

// Elements in a block: seven buffers of doubles still fit a 32 KiB first-level cache.
constexpr int64_t kBlock = 512;
// Elements below which another thread costs more than it saves.
constexpr int64_t kGrain = 32768;

template <class T>
AWM_INLINE bool holds(const Storage& s) {
  return s.dtype == (std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float);
}

// Elements [at, at + n) as T: where they lie if they are T, otherwise converted into `buffer`.
template <class T>
AWM_INLINE const T* load(const Storage& s, int64_t at, int64_t n, T* __restrict buffer) {
  if (holds<T>(s)) return static_cast<const T*>(s.data) + at;
  if (s.dtype == ScalarType::BFloat16) {
    const uint16_t* __restrict from = static_cast<const uint16_t*>(s.data) + at;
    for (int64_t i = 0; i < n; ++i) buffer[i] = T(widen(from[i]));
  } else if (s.dtype == ScalarType::Float) {
    const float* __restrict from = static_cast<const float*>(s.data) + at;
    for (int64_t i = 0; i < n; ++i) buffer[i] = T(from[i]);
  } else {
    const double* __restrict from = static_cast<const double*>(s.data) + at;
    for (int64_t i = 0; i < n; ++i) buffer[i] = T(from[i]);
  }
  return buffer;
}

// As `load`, for elements that are changed: `store` writes them back.
template <class T>
AWM_INLINE T* load_mutable(const Storage& s, int64_t at, int64_t n, T* buffer) {
  return const_cast<T*>(load(s, at, n, buffer));
}

// Where results for elements [at, ...) are to be put before `store` is called on them.
template <class T>
AWM_INLINE T* place(const Storage& s, int64_t at, T* buffer) {
  return holds<T>(s) ? static_cast<T*>(s.data) + at : buffer;
}

// Rounds `values` to the dtype of elements [at, at + n); nothing to do if they already lie there.
template <class T>
AWM_INLINE void store(const Storage& s, int64_t at, int64_t n, const T* values) {
  if (holds<T>(s)) {
    T* to = static_cast<T*>(s.data) + at;
    if (to != values) std::copy(values, values + n, to);
  } else if (s.dtype == ScalarType::BFloat16) {
    uint16_t* __restrict to = static_cast<uint16_t*>(s.data) + at;
    for (int64_t i = 0; i < n; ++i) to[i] = narrow(float(values[i]));
  } else if (s.dtype == ScalarType::Float) {
    float* __restrict to = static_cast<float*>(s.data) + at;
    for (int64_t i = 0; i < n; ++i) to[i] = float(values[i]);
  } else {
    double* __restrict to = static_cast<double*>(s.data) + at;
    for (int64_t i = 0; i < n; ++i) to[i] = double(values[i]);
  }
}

// Sums are kept in a fixed number of lanes: they vectorise, and they are the same to the last bit
// on every instruction set and for every number of threads.
constexpr int kLanes = 8;

AWM_INLINE double add_lanes(const double (&lane)[kLanes]) {
  return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

template <class T>
AWM_INLINE double sum(const T* values, int64_t n) {
  double lane[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) lane[l] += double(values[i + l]);
  }
  for (int l = 0; i < n; ++i, ++l) lane[l] += double(values[i]);
  return add_lanes(lane);
}

}  // namespace awm::cpu
