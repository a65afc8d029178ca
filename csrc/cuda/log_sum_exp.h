// Sums in logarithms, term by term.
#pragma once

#include "arrays.h"

namespace {

// log sum_k exp(h(k) - c(k)) over k < count, in two passes.
template <class H, class C>
DEVICE double log_sum_exp(int count, H h, C c) {
  double top = -1e300;  // finite: an empty sum gives -inf below
  for (int k = 0; k < count; ++k) top = most(top, h(k) - c(k));
  double sum = 0;
  for (int k = 0; k < count; ++k) sum += exp(h(k) - c(k) - top);
  return top + log(sum);
}
// The mean of value(k) under the weights of that sum.
template <class H, class C, class V>
DEVICE double mean_under(int count, double sum, H h, C c, V value) {
  double mean = 0;
  if (sum > -kInf)
    for (int k = 0; k < count; ++k) mean += exp(h(k) - c(k) - sum) * value(k);
  return mean;
}

// f(i, j) for all of some rows and columns, dealt to the threads one by one.
template <class F>
DEVICE void each_pair(int rows, int columns, F f) {
  for (int i = thread(); i < rows * columns; i += threads()) f(i / columns, i % columns);
}

}  // namespace
