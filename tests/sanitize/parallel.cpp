// torch's parallel_for with threads that ThreadSanitizer knows: it can't see how those of OpenMP
// wait for one another. However small the work is, it is split.
#include <torch/csrc/stable/c/shim.h>

#include <algorithm>
#include <thread>
#include <vector>

extern "C" AOTITorchError torch_parallel_for(int64_t begin, int64_t end, int64_t, ParallelFunc run,
                                             void* context) {
  constexpr int64_t kThreads = 4;
  const int64_t size = (end - begin + kThreads - 1) / kThreads;
  std::vector<std::thread> threads;
  for (int64_t at = begin; at < end; at += size) {
    threads.emplace_back(run, at, std::min(at + size, end), context);
  }
  for (std::thread& thread : threads) thread.join();
  return 0;
}
