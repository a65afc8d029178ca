// The scaling domain: potentials as exp(f / epsilon), kernels as matrices of exp(-C / epsilon).
#pragma once

#include "../range.h"
#include "grid.h"

namespace {

// Whether the scaling domain can hold a cost at all.
template <class T>
bool fits(const Geometry& geo, double epsilon) {
  return geo.factors * factor_shift<T>(geo.max_factor_cost, epsilon) <= Range<T>::shift &&
         geo.max_cost < Range<T>::total * epsilon;
}

// The kernels of a cost: Scaling<T> multiplies with exp(-C / epsilon), Log adds in logarithms.
template <class Cost>
struct Kernels;

}  // namespace
