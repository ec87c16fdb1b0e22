// Mistakes, to show that they are found.
#include <torch/csrc/stable/ops.h>

#include <climits>

#define MISTAKE extern "C" __attribute__((visibility("default"))) int

MISTAKE read_beyond(const float* values, int64_t count) { return values[count] > 0; }

MISTAKE write_beyond(float* values, int64_t count) {
  values[count] = 1;
  return 0;
}

MISTAKE overflow(const float*, int64_t count) { return INT_MAX - 2 + int(count); }

MISTAKE misaligned(const float* values, int64_t) {
  return *reinterpret_cast<const int*>(reinterpret_cast<const char*>(values) + 1);
}

// What each thread writes to is that of all.
MISTAKE race(float* values, int64_t count) {
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) values[0] = float(i);
  });
  return 0;
}

// As many threads, each with places of its own.
MISTAKE none(float* values, int64_t count) {
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) values[i] = float(i);
  });
  return 0;
}
