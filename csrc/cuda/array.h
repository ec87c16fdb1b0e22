// Arrays of any supported dtype, read and written a chunk at a time in the dtype of arithmetic.
//
// A chunk is what one thread accesses at once: 16 bytes where the array is aligned for that.
#pragma once

#include "../numerics.h"
#include "launch.h"

namespace awm::cuda {

using bfloat16 = uint16_t;

// Stands for the dtype of storage where each array has its own, to be looked up at run time.
struct Any {};

template <class S>
constexpr int kChunk = 16 / sizeof(S);
template <>
constexpr int kChunk<Any> = 4;

struct Array {
  void* data;
  ScalarType dtype;
  bool aligned;  // chunks can be accessed as a whole

  __host__ __device__ explicit operator bool() const { return data != nullptr; }
};

// `cols` is the length of the rows that chunks must not cross; 0 for a flat array.
inline Array array(const Storage& storage, int64_t cols = 0) {
  const int64_t bytes = storage.dtype == ScalarType::Double     ? 8
                        : storage.dtype == ScalarType::BFloat16 ? 2
                                                                : 4;
  const bool aligned =
      reinterpret_cast<uintptr_t>(storage.data) % 16 == 0 && cols * bytes % 16 == 0;
  return {storage.data, storage.dtype, aligned};
}

inline Array source(const Device& device, const Tensor& t, int64_t numel, const char* name,
                    int64_t cols = 0) {
  device.check_here(t, name);
  return array(awm::source(t, numel, name), cols);
}

inline Array target(const Device& device, const Tensor& t, int64_t numel, const char* name,
                    int64_t cols = 0) {
  device.check_here(t, name);
  return array(awm::target(t, numel, name), cols);
}

inline Array target(const Device& device, const OptionalTensor& t, int64_t numel, const char* name,
                    int64_t cols = 0) {
  return t.has_value() ? target(device, *t, numel, name, cols) : array({});
}

// Whether all arrays that are there are aligned and of this dtype.
template <class... A>
bool all_stored_as(ScalarType dtype, const A&... arrays) {
  return ((!arrays || (arrays.aligned && arrays.dtype == dtype)) && ...);
}

// Calls f with a value of the compute dtype and one of the dtype of storage, which is Any unless
// all arrays share it.
template <class F, class... A>
void with_dtypes(bool wide, const F& f, const A&... arrays) {
  if (wide) {
    f(double{}, Any{});
  } else if (all_stored_as(ScalarType::Float, arrays...)) {
    f(float{}, float{});
  } else if (all_stored_as(ScalarType::BFloat16, arrays...)) {
    f(float{}, bfloat16{});
  } else {
    f(float{}, Any{});
  }
}

template <class S, int n>
struct alignas(sizeof(S) * n < 16 ? sizeof(S) * n : 16) Pack {
  S v[n];
};

template <class T, class S>
__device__ __forceinline__ T decoded(S v) {
  if constexpr (std::is_same_v<S, bfloat16>) {
    return T(widen(v));
  } else {
    return T(v);
  }
}

template <class S, class T>
__device__ __forceinline__ S encoded(T v) {
  if constexpr (std::is_same_v<S, bfloat16>) {
    return narrow(float(v));
  } else {
    return S(v);
  }
}

// Calls f with a value of the type that the array is stored as.
template <class S, class F>
__device__ __forceinline__ void with_type(const Array& a, const F& f) {
  if constexpr (!std::is_same_v<S, Any>) {
    f(S{});
  } else if (a.dtype == ScalarType::Float) {
    f(float{});
  } else if (a.dtype == ScalarType::BFloat16) {
    f(bfloat16{});
  } else {
    f(double{});
  }
}

// out ← elements [at, at + count), count ≤ n; zeros after them.
template <class S, class T, int n>
__device__ __forceinline__ void load(const Array& a, int64_t at, int count, T (&out)[n]) {
  with_type<S>(a, [&](auto type) {
    using Stored = decltype(type);
    const Stored* from = static_cast<const Stored*>(a.data) + at;
    if (a.aligned && count == n) {
      const Pack<Stored, n> pack = *reinterpret_cast<const Pack<Stored, n>*>(from);
#pragma unroll
      for (int i = 0; i < n; ++i) out[i] = decoded<T>(pack.v[i]);
    } else {
#pragma unroll
      for (int i = 0; i < n; ++i) out[i] = i < count ? decoded<T>(from[i]) : T(0);
    }
  });
}

// Elements [at, at + count) ← values, rounded to the dtype of the array.
template <class S, class T, int n>
__device__ __forceinline__ void store(const Array& a, int64_t at, int count, const T (&values)[n]) {
  with_type<S>(a, [&](auto type) {
    using Stored = decltype(type);
    Stored* to = static_cast<Stored*>(a.data) + at;
    if (a.aligned && count == n) {
      Pack<Stored, n> pack;
#pragma unroll
      for (int i = 0; i < n; ++i) pack.v[i] = encoded<Stored>(values[i]);
      *reinterpret_cast<Pack<Stored, n>*>(to) = pack;
    } else {
#pragma unroll
      for (int i = 0; i < n; ++i) {
        if (i < count) to[i] = encoded<Stored>(values[i]);
      }
    }
  });
}

// The value as it is read back after being stored.
template <class S, class T>
__device__ __forceinline__ T as_stored(const Array& a, T value) {
  with_type<S>(a, [&](auto type) { value = decoded<T>(encoded<decltype(type)>(value)); });
  return value;
}

// How many of the elements of a chunk at `at` lie before `end`.
template <int n>
__device__ __forceinline__ int chunk_count(int64_t at, int64_t end) {
  return int(end - at < n ? (end > at ? end - at : 0) : n);
}

}  // namespace awm::cuda
