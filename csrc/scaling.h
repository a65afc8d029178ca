// The scaling domain: potentials as exp(f / epsilon), kernels as matrices of exp(-C / epsilon).
#pragma once

#include "grid.h"

namespace {

// Where the scaling domain ends. Sums inside (tiny exp(shift), huge), for a kernel whose entries
// reach exp(shift), lose nothing to underflow: what a product drops is below the smallest normal
// number times exp(shift). In nats: the entries of a factor are normal up to an exponent of axis; a
// problem whose exponents exceed total, or whose start spreads over more than spread, would leave
// the range at once.
template <class T>
struct Range;
template <>
struct Range<double> {
  static constexpr double tiny = 1e-280, huge = 1e280, axis = 700, total = 1200,
                          spread = 600;
};
template <>
struct Range<float> {
  static constexpr double tiny = 1e-26, huge = 1e30, axis = 100, total = 280,
                          spread = 80;
};

// The kernels of a cost: Scaling<T> multiplies with exp(-C / epsilon), Log adds in logarithms.
template <class Cost>
struct Kernels;

}  // namespace
