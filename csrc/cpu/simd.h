// How one source becomes code for every instruction set.
//
// AWM_SIMD functions are compiled once per instruction set and chosen when the library is loaded.
// Everything they call on data is AWM_INLINE, so that it is compiled with them. Nothing else in the
// library is built for more than the baseline, so it runs on any x86-64. (Other architectures have
// one version: NEON is part of the arm64 baseline.)
#pragma once

#define AWM_INLINE inline __attribute__((always_inline))

#if defined(__x86_64__) && __has_attribute(target_clones)
#if defined(__clang__) || __GNUC__ < 12
#define AWM_ISA_512 "avx512f"
#define AWM_ISA_256 "avx2"
#define AWM_SIMD __attribute__((target_clones(AWM_ISA_512, AWM_ISA_256, "default")))
#else
// The whole level, because bfloat16 wants AVX-512's 16-bit instructions too.
#define AWM_ISA_512 "x86-64-v4"
#define AWM_ISA_256 "x86-64-v3"
#define AWM_SIMD __attribute__((target_clones("arch=" AWM_ISA_512, "arch=" AWM_ISA_256, "default")))
#endif
#else
#define AWM_SIMD
#endif

namespace awm::cpu {

// The version of AWM_SIMD functions that is chosen on this machine.
inline const char* simd_version() {
#if defined(AWM_ISA_512)
  __builtin_cpu_init();
  if (__builtin_cpu_supports(AWM_ISA_512)) return AWM_ISA_512;
  if (__builtin_cpu_supports(AWM_ISA_256)) return AWM_ISA_256;
#endif
  return "baseline";
}

}  // namespace awm::cpu
