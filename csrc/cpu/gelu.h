// x Phi(x) and its derivative Phi(x) + x phi(x), Phi and phi being those of the normal
// distribution. Both come from exp(-x^2 / 2) and erfcx(t) = exp(t^2) erfc(t) at t = |x| / sqrt(2).
#pragma once

#include "vector.h"

namespace {

template <class V>
struct Gelu {
  V value, slope;
};

// From e = exp(-x^2 / 2) and tail = Phi(-|x|).
template <class V>
inline Gelu<V> gelu_from(V x, V e, V tail) {
  using T = Element<V>;
  const V phi = select(x > T(0), T(1) - tail, tail);
  return {x * phi, phi + x * e * T(0.39894228040143267794)};
}

// erfcx(t) / 2 is a polynomial in k = 1 / (1 + 0.4 t), with an error below 1.1e-8 exp(t^2) /
// (1 + t); 2^f is one in f, with a relative error below 1e-7: less than the rounding of a GELU.
inline Gelu<Vec<float>> gelu(Vec<float> x) {
  using V = Vec<float>;
  using Int = Simd<float>::Int;
  static constexpr float erfcx[] = {-0.10113166f, 0.35872343f,  -0.19228518f,
                                    0.23972299f,  0.078643565f, 0.11632684f};
  static constexpr float power[] = {1.32647e-3f, 9.67151e-3f, 5.550734e-2f, 0.24022242f,
                                    0.69314698f, 1.0f};
  const V k = reciprocal(1.0f + 0.28284271f * vmin(vabs(x), splat(1e4f)));
  const V exponent = vmax(x * x * -0.72134752f, splat(-126.0f));
  const float magic = 1.5f * (1 << 23);  // adding it rounds
  const V shifted = exponent + magic, f = exponent - (shifted - magic);
  const V e = (V)((Int)polynomial<V>(power, f) + ((Int)shifted << 23));
  return gelu_from(x, e, e * (k * polynomial<V>(erfcx, k)));
}

// erfcx(t) (1 + 2 t) is a polynomial in (t - c) / (t + c), with a relative error below 1.1e-16
// (Shepherd and Laframboise, 1981).
inline Gelu<Vec<double>> gelu(Vec<double> x) {
  using V = Vec<double>;
  static constexpr double c = 3.75;
  static constexpr double erfcx[] = {
      -2.6231073471334757612e-9, -1.9551358868985616548e-9, 3.1979266716668042918e-8,
      1.8790823223700481258e-8,  -2.4857126248016742872e-7, -5.0844653786873021975e-8,
      1.7419821586224815923e-6,  -9.7926257073035220322e-7, -1.1438048033346893551e-5,
      2.238756571491181656e-5,   5.1646529741774161256e-5,  -2.9015535246077655304e-4,
      2.9371437804495802994e-4,  1.7556261651970650726e-3,  -9.7465796832652622308e-3,
      2.8362277372111138829e-2,  -5.8693398576649338403e-2, 9.2304321164281249882e-2,
      -1.0880393014244461271e-1, 8.2276738489995062602e-2,  3.5854154854790256379e-3,
      -1.4024059858554525625e-1, 1.2375126308378275289};
  const V t = vmin(vabs(x) * 0.70710678118654752440, splat(1e4));
  const V e = exp_in_range(vmax(-t * t, splat(Simd<double>::kExpLow)));
  const V r = reciprocal((t + c) * (1.0 + 2.0 * t));
  const V p = polynomial<V>(erfcx, (t - c) * (1.0 + 2.0 * t) * r);
  return gelu_from(x, e, 0.5 * e * p * (t + c) * r);
}

}  // namespace
