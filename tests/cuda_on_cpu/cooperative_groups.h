#pragma once

#include <cuda_runtime.h>

namespace cooperative_groups {

struct cluster_group {
  void sync() const { cuda_on_cpu::wait(cuda_on_cpu::cluster_barrier); }
  unsigned num_blocks() const { return unsigned(cuda_on_cpu::cluster.size()); }

  // The same place in the shared memory of another block of the cluster.
  template <class T>
  T* map_shared_rank(T* mine, unsigned rank) const {
    const auto offset = reinterpret_cast<unsigned char*>(mine) - cuda_on_cpu::shared_memory();
    return reinterpret_cast<T*>(cuda_on_cpu::cluster[rank]->shared.data() + offset);
  }
};

inline cluster_group this_cluster() { return {}; }

}  // namespace cooperative_groups
