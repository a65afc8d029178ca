// Arrays on grids and linear maps that act axis by axis.
//
// Every problem is three-dimensional here; missing leading axes have length one and are skipped.
// Arrays are (n0, n1, ld) with ld = n2 rounded up to the vector width. Values in the padding are
// finite and never read as data.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>

#include "gemm.h"
#include "team.h"
#include "vector.h"

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

// source shape n, target shape m, cost[k] is (n_k, m_k) row-major.
struct Geometry {
  Shape n, m;
  const double* cost[3];
  double largest[3];  // entry of each cost

  Geometry(int d, const Shape& source, const Shape& target, const double* const* costs)
      : n(source), m(target) {
    static const double zero = 0;
    for (int k = 0; k < 3; ++k) {
      cost[k] = k < 3 - d ? &zero : costs[k - 3 + d];
      largest[k] = *std::max_element(cost[k], cost[k] + n[k] * m[k]);
    }
  }
  double max_cost() const { return largest[0] + largest[1] + largest[2]; }
  double max_axis_cost() const { return *std::max_element(largest, largest + 3); }
  // Whether the last two axes are the same, and the first is trivial.
  bool square_axes() const {
    const int64_t count = n[1] * m[1];
    return n[0] * m[0] == 1 && n[1] == n[2] && m[1] == m[2] &&
           std::memcmp(cost[1], cost[2], count * sizeof(double)) == 0;
  }
  // Multiplications of one iteration.
  int64_t work() const {
    const int64_t back = m[0] * m[1] * n[2] * m[2] + m[0] * n[1] * n[2] * m[1] * (m[1] * n[1] > 1) +
                         n[0] * n[1] * n[2] * m[0] * (m[0] * n[0] > 1);
    return 2 * back;
  }
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

// out(c, r) = in(r, c), in tiles: lines a power of two apart would evict each other.
template <class From, class To>
void transpose(int64_t rows, int64_t columns, const From* in, To* out, int64_t out_stride) {
  constexpr int64_t tile = 16;
  for (int64_t r0 = 0; r0 < rows; r0 += tile)
    for (int64_t c0 = 0; c0 < columns; c0 += tile)
      for (int64_t c = c0; c < std::min(c0 + tile, columns); ++c)
        for (int64_t r = r0; r < std::min(r0 + tile, rows); ++r)
          out[c * out_stride + r] = To(in[r * columns + c]);
}

// Axis by axis, out = A_k in: one matrix (to_k, in_k), row-major, per axis.
template <class T>
class SeparableMap {
 public:
  SeparableMap() = default;
  SeparableMap(const Shape& in, const Shape& to, const Array<T>* matrix) : in_(in), to_(to) {
    for (int k = 0; k < 2; ++k) a_[k] = matrix[k];
    // The last axis multiplies from the right. Its padding repeats the last column, so that
    // results there are finite and in range.
    const int64_t ld = stride<T>(to);
    b_.resize(in[2] * ld);
    transpose(to[2], in[2], matrix[2].data(), b_.data(), ld);
    for (int64_t c = 0; c < in[2]; ++c)
      std::fill(&b_[c * ld] + to[2], &b_[c * ld] + ld, b_[c * ld + to[2] - 1]);
  }

  bool empty() const { return b_.empty(); }
  bool acts(int k) const { return k == 2 || in_[k] * to_[k] > 1; }

  // Axis k of an array of shape s, of which s changes; each member leaves its share in out.
  void axis(Team& team, int k, Shape& s, const T* x, T* out) const {
    const int64_t rows_in = in_[k], rows_to = to_[k], ld = stride<T>(s);
    if (k == 2) {
      const int64_t ld_to = stride<T>(to_);
      const auto [from, to] = team.share(s.lines());
      gemm(from, to, ld_to, rows_in, x, ld, b_.data(), ld_to, out, ld_to);
    } else if (k == 1) {
      const auto [from, to] = team.share(s[0] * rows_to);
      for (int64_t i = from / rows_to; i * rows_to < to; ++i)
        gemm(std::max(from - i * rows_to, int64_t{0}), std::min(to - i * rows_to, rows_to), ld,
             rows_in, a_[1].data(), rows_in, x + i * rows_in * ld, ld, out + i * rows_to * ld, ld);
    } else {
      const int64_t row = s[1] * ld;
      const auto [from, to] = team.share(row, NV * W<T>);
      gemm(0, rows_to, to - from, rows_in, a_[0].data(), rows_in, x + from, row, out + from, row);
    }
    s.n[k] = rows_to;
  }

  // All axes, in the given order; before[k] is what axis k is applied to.
  void apply(Team& team, const int (&order)[3], const T* x, T* out, Array<T>* between,
             const T** before) const {
    Shape s = in_;
    int last = 0;
    for (int j = 0; j < 3; ++j)
      if (acts(order[j])) last = j;
    for (int j = 0; j <= last; ++j) {
      const int k = order[j];
      if (!acts(k)) continue;
      before[k] = x;
      T* y = j == last ? out : between[j].data();
      axis(team, k, s, x, y);
      team.barrier();
      x = y;
    }
  }
  // Room that `between` needs.
  void reserve(Array<T>* between) const {
    const int64_t size = std::max(in_[0], to_[0]) * std::max(in_[1], to_[1]) *
                         std::max(stride<T>(in_), stride<T>(to_));
    for (int j = 0; j < 2; ++j)
      if (int64_t(between[j].size()) < size) between[j].resize(size);
  }

 private:
  Shape in_, to_;
  Array<T> a_[2], b_;
};

constexpr int kLastFirst[3] = {2, 1, 0}, kFirstFirst[3] = {0, 1, 2};

}  // namespace
