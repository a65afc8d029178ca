// Limits of the scaling domain, where potentials are held as exp(f / epsilon).
#pragma once

#include "portable.h"

namespace {

// Sums inside (tiny exp(shift), huge), for a kernel whose entries reach exp(shift), lose nothing to
// underflow: what a product drops is below the smallest normal number times exp(shift). In nats:
// entries are normal down to -normal; a kernel that needs a larger shift, exponents beyond total
// and a start that spreads over more than spread would leave the range at once.
template <class T>
struct Range;
template <>
struct Range<double> {
  static constexpr double tiny = 1e-280, huge = 1e280, normal = 700, shift = 0, total = 1200,
                          spread = 600;
};
template <>
struct Range<float> {
  static constexpr double tiny = 1e-26, huge = 1e30, normal = 87, shift = 60, total = 280,
                          spread = 80;
};

// The logarithm by which a factor is scaled up, so that its smallest entry is normal.
template <class T>
HOST_DEVICE double factor_shift(double largest_cost, double epsilon) {
  return most(0.0, largest_cost / epsilon - Range<T>::normal);
}

}  // namespace
