// Arrays on grids.
//
// Every problem is three-dimensional here; missing leading axes have length one. Arrays are
// (n0, n1, ld) with ld = n2 rounded up to the vector width. Values in the padding are finite and
// never read as data.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>

#include "gemm.h"
#include "team.h"
#include "transpose.h"

namespace {

struct Shape {
  int64_t n[3] = {1, 1, 1};
  int64_t operator[](int k) const { return n[k]; }
  int64_t lines() const { return n[0] * n[1]; }
  int64_t count() const { return lines() * n[2]; }
};

template <class T>
int64_t stride(const Shape& s) {
  return padded<T>(s[2]);
}
template <class T>
int64_t size(const Shape& s) {
  return s.lines() * stride<T>(s);
}

inline Shape shape_of(int d, const int64_t* lengths) {
  Shape s;
  for (int k = 0; k < d; ++k) s.n[3 - d + k] = lengths[k];
  return s;
}

// Source and target of a problem, and what a solver asks of the cost between them.
struct Geometry {
  Shape n, m;
  double max_cost = 0;
  int factors = 1;             // of the kernel, one for each term that the cost is a sum of
  double max_factor_cost = 0;  // of such a term
  int64_t work = 0;            // multiplications of one iteration
};

// The member's lines of an array into a padded one, of either precision. The padding is `fill`, or
// repeats the last entry.
constexpr std::nullopt_t kRepeat = std::nullopt;
template <class From, class To>
void copy_lines(Team& team, const Shape& s, const From* x, int64_t stride_x,
                std::optional<double> fill, To* out) {
  const auto [from, to] = team.share(s.lines());
  const int64_t n = s[2], width = stride<To>(s);
  for (int64_t r = from; r < to; ++r) {
    const From* in = x + r * stride_x;
    To* row = out + r * width;
    int64_t j = 0;
    for (; j + W<double> <= n; j += W<double>) store_narrow(row + j, load_wide(in + j));
    for (; j < n; ++j) row[j] = To(in[j]);
    std::fill(row + n, row + width, To(fill.value_or(in[n - 1])));
  }
}

// Smallest and largest entry of an array, padding included.
struct Extent {
  double low, high;
};
template <class T>
Extent extent(Team& team, const T* x, int64_t size) {
  Vec<T> low = splat(std::numeric_limits<T>::infinity()), high = -low;
  const auto [from, to] = team.share(size, W<T>);
  for (int64_t i = from; i < to; i += W<T>) {
    low = vmin(low, load(x + i));
    high = vmax(high, load(x + i));
  }
  return team.combine(Extent{hmin(low), hmax(high)}, [](const Extent& x, const Extent& y) {
    return Extent{std::min(x.low, y.low), std::max(x.high, y.high)};
  });
}

}  // namespace
