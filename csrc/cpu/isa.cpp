// The widest compiled instruction set that this processor runs.

extern "C" const char* unot_fast_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
    return "avx512";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "avx2";
#endif
  return "baseline";
}

// Whether it multiplies pairs of bfloat16.
extern "C" int unot_fast_bfloat16() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512bf16") != 0;
#else
  return 0;
#endif
}

extern "C" int unot_fast_openmp() {
#if defined(_OPENMP)
  return 1;
#else
  return 0;
#endif
}
