// A SIMD vector of doubles with exp and log, through the compiler's vector extensions.
//
// One source serves every instruction set: VECTOR_BYTES is set by the build (64 for AVX-512,
// 32 for AVX2, 16 otherwise). Everything has internal linkage, because the same file is compiled
// several times into one library.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// Exported names carry the instruction set: PER_ISA(solve) is solve_avx2 where ISA is avx2.
#define JOIN_(name, isa) name##_##isa
#define JOIN(name, isa) JOIN_(name, isa)
#define PER_ISA(name) JOIN(name, ISA)

namespace {

#ifndef VECTOR_BYTES
#define VECTOR_BYTES 16
#endif

typedef double Vec __attribute__((vector_size(VECTOR_BYTES)));
typedef int64_t IVec __attribute__((vector_size(VECTOR_BYTES)));

constexpr int W = VECTOR_BYTES / 8;  // lanes
constexpr double kInf = std::numeric_limits<double>::infinity();

inline int64_t padded(int64_t n) { return (n + W - 1) / W * W; }

inline Vec splat(double x) { return x - Vec{}; }  // x - 0 is exact, so it folds away
inline Vec load(const double* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(double* p, Vec v) { std::memcpy(p, &v, sizeof v); }
inline Vec select(IVec mask, Vec yes, Vec no) {
  return (Vec)((mask & (IVec)yes) | (~mask & (IVec)no));
}
inline Vec vmax(Vec a, Vec b) { return select(a > b, a, b); }
inline Vec vmin(Vec a, Vec b) { return select(a < b, a, b); }
inline Vec vabs(Vec a) { return (Vec)((IVec)a & INT64_C(0x7fffffffffffffff)); }

inline double hsum(Vec v) {
  double s = 0;
  for (int i = 0; i < W; ++i) s += v[i];
  return s;
}
inline double hmax(Vec v) {
  double s = v[0];
  for (int i = 1; i < W; ++i) s = v[i] > s ? v[i] : s;
  return s;
}
inline double hmin(Vec v) {
  double s = v[0];
  for (int i = 1; i < W; ++i) s = v[i] < s ? v[i] : s;
  return s;
}

inline bool any(IVec mask) {  // mask lanes are 0 or -1
#if VECTOR_BYTES == 64
  return _mm512_movepi64_mask((__m512i)mask) != 0;
#elif VECTOR_BYTES == 32 && defined(__AVX__)
  return _mm256_movemask_pd((__m256d)mask) != 0;
#else
  int64_t bits = 0;
  for (int i = 0; i < W; ++i) bits |= mask[i];
  return bits != 0;
#endif
}

// 1 / x within 1 ulp for x in (1e-300, 1e300): a division takes as long as ten products.
inline Vec reciprocal(Vec x) {
#if VECTOR_BYTES == 64
  Vec r = (Vec)_mm512_maskz_rcp14_pd(0xff, (__m512d)x);
  r += r * (1.0 - x * r);
  return r + r * (1.0 - x * r);
#else
  return 1.0 / x;
#endif
}

// exp(x) within 1 ulp or so; 0 below -708 (a result that would be subnormal), +inf above 709.
inline Vec vexp(Vec x) {
  const double log2e = 1.4426950408889634074;
  const double ln2_hi = 6.93147180369123816490e-01, ln2_lo = 1.90821492927058770002e-10;
  const double magic = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
  Vec clamped = vmin(vmax(x, splat(-708.0)), splat(709.0));
  Vec shifted = clamped * log2e + magic;
  Vec k = shifted - magic;
  Vec r = (clamped - k * ln2_hi) - k * ln2_lo;  // |r| <= log(2)/2
  Vec p = splat(1.0 / 6227020800.0);
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  IVec exponent = ((IVec)shifted - (IVec)splat(magic)) << 52;
  Vec y = (Vec)((IVec)p + exponent);
  y = select(x < -708.0, Vec{}, y);
  return select(x > 709.0, splat(kInf), y);
}

// log(x) within 1 ulp or so for normal x > 0; -inf for 0 and subnormals.
inline Vec vlog(Vec x) {
  const double ln2_hi = 6.93147180369123816490e-01, ln2_lo = 1.90821492927058770002e-10;
  const double sqrt_half_up = 1.4142135623730951;
  IVec bits = (IVec)x;
  IVec e = (bits >> 52) - 1023;
  Vec m = (Vec)((bits & INT64_C(0x000fffffffffffff)) | INT64_C(0x3ff0000000000000));
  IVec high = m > sqrt_half_up;
  m = select(high, m * 0.5, m);
  e = e - high;  // a true lane is -1
  const double magic = 6755399441055744.0;
  Vec k = (Vec)(e + (IVec)splat(magic)) - magic;
  // log(m) = 2 artanh(s), s = (m - 1) / (m + 1), |s| <= 0.172
  Vec d = m - 1.0;
  Vec s = d * reciprocal(m + 1.0);
  Vec z = s * s;
  Vec p = splat(2.0 / 23.0);
  p = p * z + 2.0 / 21.0;
  p = p * z + 2.0 / 19.0;
  p = p * z + 2.0 / 17.0;
  p = p * z + 2.0 / 15.0;
  p = p * z + 2.0 / 13.0;
  p = p * z + 2.0 / 11.0;
  p = p * z + 2.0 / 9.0;
  p = p * z + 2.0 / 7.0;
  p = p * z + 2.0 / 5.0;
  p = p * z + 2.0 / 3.0;
  // 2s = d - s d keeps the leading term exact to rounding
  Vec y = k * ln2_hi + (d + (s * (z * p - d) + k * ln2_lo));
  y = select(x < std::numeric_limits<double>::min(), splat(-kInf), y);
  return select(x == kInf, splat(kInf), y);
}

// Subnormal operands cost hundreds of cycles and carry no information here.
class FlushSubnormals {
 public:
#if defined(__x86_64__)
  FlushSubnormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
  ~FlushSubnormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#endif
};

}  // namespace
