// The instructions that this processor has.

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

#if defined(__x86_64__) && defined(__linux__)
// Whether there are tiles, and the system lets this process have the state of them.
bool has_tiles() {
  constexpr unsigned kTiles = 1u << 24, kBfloat16 = 1u << 22, kSystemSaves = 1u << 27;
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kSystemSaves)) return false;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || ~d & (kTiles | kBfloat16)) return false;
  constexpr unsigned kState = 3u << 17;
  unsigned low, high;
  asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr long kAskForState = 0x1023, kTileData = 18;
  return !(~low & kState) && !syscall(SYS_arch_prctl, kAskForState, kTileData);
}
#elif defined(__x86_64__)
bool has_tiles() { return false; }
#endif

}  // namespace

// The widest compiled instruction set.
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

// How it multiplies bfloat16 fastest: not at all, in vectors (1) or in tiles (2).
extern "C" int unot_fast_bfloat16() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx512bf16")) return 0;
  if (has_tiles()) return 2;
  return __builtin_cpu_is("amd");  // Intel's vectors of them take twice as long as floats
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
