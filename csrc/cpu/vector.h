// SIMD vectors of doubles and of floats with exp and log, through the compiler's vector extensions.
//
// One source serves every instruction set: VECTOR_BYTES is set by the build (64 for AVX-512,
// 32 for AVX2, 16 otherwise). Everything has internal linkage, because the same file is compiled
// several times into one library.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../portable.h"

// Exported names carry the instruction set: PER_ISA(solve) is solve_avx2 where ISA is avx2.
#define JOIN_(name, isa) name##_##isa
#define JOIN(name, isa) JOIN_(name, isa)
#define PER_ISA(name) JOIN(name, ISA)

namespace {

#ifndef VECTOR_BYTES
#define VECTOR_BYTES 16
#endif

template <class T>
struct Simd;
template <>
struct Simd<double> {
  typedef double Vec __attribute__((vector_size(VECTOR_BYTES)));
  typedef int64_t Int __attribute__((vector_size(VECTOR_BYTES)));
  using Bits = int64_t;
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr Bits kSign = INT64_MIN, kMantissaBits = 0x000fffffffffffff;
  static constexpr double kLn2Hi = 6.93147180369123816490e-01, kLn2Lo = 1.90821492927058770002e-10;
  static constexpr double kExpLow = -708.0, kExpHigh = 709.0;
  // exp(r) = 1 + r + r^2 q(r) on |r| <= log(2)/2, error 1.2e-17.
  static constexpr double kExp[] = {2.5100424157005066788e-8,  2.7620138719733995569e-7,
                                    2.7557268378684192873e-6,  2.4801521190217727651e-5,
                                    1.9841269863105968749e-4,  1.3888888917281793308e-3,
                                    8.3333333333300513464e-3,  4.1666666666623991516e-2,
                                    1.6666666666666667456e-1,  0.5};
  // log((1 + s) / (1 - s)) = 2 s + s z p(z), z = s^2, on |s| <= 0.172, relative error 4.4e-18.
  static constexpr double kLog[] = {0.14617807153417324964, 0.15331611722055007885,
                                    0.18182892432536871201, 0.22222211089379496214,
                                    0.28571428626253837606, 0.39999999999898890514,
                                    0.66666666666666697077};
};
template <>
struct Simd<float> {
  typedef float Vec __attribute__((vector_size(VECTOR_BYTES)));
  typedef int32_t Int __attribute__((vector_size(VECTOR_BYTES)));
  using Bits = int32_t;
  static constexpr int kMantissa = 23, kBias = 127;
  static constexpr Bits kSign = INT32_MIN, kMantissaBits = 0x007fffff;
  static constexpr float kLn2Hi = 6.9313812256e-01f, kLn2Lo = 9.0580006145e-06f;
  static constexpr float kExpLow = -87.0f, kExpHigh = 88.0f;
  static constexpr float kExp[] = {1.3926213466332443e-3f, 8.3632029715758549e-3f,
                                   4.1666554437685939e-2f, 1.6666576845993976e-1f, 0.5f};
  static constexpr float kLog[] = {0.29580985929974423f, 0.39988757676604847f,
                                   0.66666685095429069f};
};

template <>
struct Simd<uint32_t> {
  typedef uint32_t Vec __attribute__((vector_size(VECTOR_BYTES)));
};

template <class T>
using Vec = typename Simd<T>::Vec;
template <class T>
constexpr int W = VECTOR_BYTES / int(sizeof(T));  // lanes

template <class T>
inline int64_t padded(int64_t n) {
  return (n + W<T> - 1) / W<T> * W<T>;
}

template <class T>
inline Vec<T> splat(T x) {
  return x - Vec<T>{};  // x - 0 is exact, so it folds away
}
template <class T>
inline Vec<T> load(const T* p) {
  Vec<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(double* p, Vec<double> v) { std::memcpy(p, &v, sizeof v); }
inline void store(float* p, Vec<float> v) { std::memcpy(p, &v, sizeof v); }
inline void store(uint32_t* p, Vec<uint32_t> v) { std::memcpy(p, &v, sizeof v); }
// The first lanes from and to memory, zero in the others.
template <class T>
inline Vec<T> load_some(const T* p, int64_t count) {
  if (count == W<T>) return load(p);
  Vec<T> v{};
  std::memcpy(&v, p, count * sizeof(T));
  return v;
}
template <class T>
inline void store_some(T* p, std::common_type_t<Vec<T>> v, int64_t count) {
  if (count == W<T>)
    store(p, v);
  else
    std::memcpy(p, &v, count * sizeof(T));
}

// A vector of doubles from and to either precision.
typedef float Half __attribute__((vector_size(VECTOR_BYTES / 2)));
inline Vec<double> load_wide(const double* p) { return load(p); }
inline Vec<double> load_wide(const float* p) {
  Half v;
  std::memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, Vec<double>);
}
inline void store_narrow(double* p, Vec<double> v) { store(p, v); }
inline void store_narrow(float* p, Vec<double> v) {
  const Half half = __builtin_convertvector(v, Half);
  std::memcpy(p, &half, sizeof half);
}

template <class V, class I>
inline V select(I mask, V yes, V no) {
  return (V)((mask & (I)yes) | (~mask & (I)no));
}
// b where either is NaN, as the instructions have it.
#if VECTOR_BYTES == 64
inline Vec<double> vmax(Vec<double> a, Vec<double> b) {
  return (Vec<double>)_mm512_maskz_max_pd(0xff, (__m512d)a, (__m512d)b);
}
inline Vec<double> vmin(Vec<double> a, Vec<double> b) {
  return (Vec<double>)_mm512_maskz_min_pd(0xff, (__m512d)a, (__m512d)b);
}
inline Vec<float> vmax(Vec<float> a, Vec<float> b) {
  return (Vec<float>)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b);
}
inline Vec<float> vmin(Vec<float> a, Vec<float> b) {
  return (Vec<float>)_mm512_maskz_min_ps(0xffff, (__m512)a, (__m512)b);
}
#else
template <class V>
inline V vmax(V a, V b) {
  return select(a > b, a, b);
}
template <class V>
inline V vmin(V a, V b) {
  return select(a < b, a, b);
}
#endif
template <class V>
using Element = std::remove_reference_t<decltype(std::declval<V&>()[0])>;
template <class V>
inline V vabs(V a) {
  using S = Simd<Element<V>>;
  return (V)((typename S::Int)a & ~S::kSign);
}

template <class V>
inline double hsum(V v) {
  double s = 0;
  for (int i = 0; i < W<Element<V>>; ++i) s += v[i];
  return s;
}
template <class V>
inline double hmax(V v) {
  double s = v[0];
  for (int i = 1; i < W<Element<V>>; ++i) s = v[i] > s ? v[i] : s;
  return s;
}
template <class V>
inline double hmin(V v) {
  double s = v[0];
  for (int i = 1; i < W<Element<V>>; ++i) s = v[i] < s ? v[i] : s;
  return s;
}

inline bool any(Simd<double>::Int mask) {  // mask lanes are 0 or -1
#if VECTOR_BYTES == 64
  return _mm512_movepi64_mask((__m512i)mask) != 0;
#elif VECTOR_BYTES == 32 && defined(__AVX__)
  return _mm256_movemask_pd((__m256d)mask) != 0;
#else
  int64_t bits = 0;
  for (int i = 0; i < W<double>; ++i) bits |= mask[i];
  return bits != 0;
#endif
}

// 1 / x within 1 ulp, away from the ends of the range: a division takes as long as ten products.
inline Vec<double> reciprocal(Vec<double> x) {
#if VECTOR_BYTES == 64
  Vec<double> r = (Vec<double>)_mm512_maskz_rcp14_pd(0xff, (__m512d)x);
  r += r * (1.0 - x * r);
  return r + r * (1.0 - x * r);
#else
  return 1.0 / x;
#endif
}
inline Vec<float> reciprocal(Vec<float> x) {
#if VECTOR_BYTES == 64
  const Vec<float> r = (Vec<float>)_mm512_maskz_rcp14_ps(0xffff, (__m512)x);
  return r + r * (1.0f - x * r);
#else
  return 1.0f / x;
#endif
}

template <class V, class T, int N>
inline V polynomial(const T (&coefficients)[N], V x) {
  V p = splat(coefficients[0]);
  for (int i = 1; i < N; ++i) p = p * x + coefficients[i];
  return p;
}

// exp(x) within 1 ulp or so, for x between kExpLow and kExpHigh.
template <class V>
inline V exp_in_range(V x) {
  using T = Element<V>;
  using S = Simd<T>;
  using Int = typename S::Int;
  const T log2e = T(1.4426950408889634074);
  const T magic = T(1.5) * T(typename S::Bits(1) << S::kMantissa);  // adding it rounds
  const V shifted = x * log2e + magic;
  const V k = shifted - magic;
  const V r = (x - k * S::kLn2Hi) - k * S::kLn2Lo;
  V p = polynomial(S::kExp, r);
  p = p * r + T(1);
  p = p * r + T(1);
  return (V)((Int)p + ((Int)shifted << S::kMantissa));  // what magic adds is shifted out
}

// The same for any x; 0 where the result would be subnormal, +inf where it overflows.
template <class V>
inline V vexp(V x) {
  using T = Element<V>;
  using S = Simd<T>;
  V y = exp_in_range(vmin(vmax(x, splat(S::kExpLow)), splat(S::kExpHigh)));
  y = select(x < S::kExpLow, V{}, y);
  return select(x > S::kExpHigh, splat(std::numeric_limits<T>::infinity()), y);
}

// log(x) within 1 ulp or so for normal x > 0; -inf for 0 and subnormals.
template <class V>
inline V vlog(V x) {
  using T = Element<V>;
  using S = Simd<T>;
  using Int = typename S::Int;
  const Int bits = (Int)x;
  Int e = (bits >> S::kMantissa) - S::kBias;
  V m = (V)((bits & S::kMantissaBits) | (Int)splat(T(1)));
  const Int high = m > T(1.4142135623730951);
  m = select(high, m * T(0.5), m);
  e = e - high;  // a true lane is -1
  const T magic = T(1.5) * T(typename S::Bits(1) << S::kMantissa);
  const V k = (V)(e + (Int)splat(magic)) - magic;
  const V d = m - T(1), s = d * reciprocal(m + T(1)), z = s * s;
  const V p = polynomial(S::kLog, z);
  // 2 s = d - s d keeps the leading term exact to rounding
  V y = k * S::kLn2Hi + (d + (s * (z * p - d) + k * S::kLn2Lo));
  const T infinity = std::numeric_limits<T>::infinity();
  y = select(x < std::numeric_limits<T>::min(), splat(-infinity), y);
  return select(x == infinity, splat(infinity), y);
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
