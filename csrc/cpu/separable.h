// Linear maps that act axis by axis.
#pragma once

#include "grid.h"

namespace {

// A sum over the axes; cost[k] is (n_k, m_k) row-major.
struct SeparableCost : Geometry {
  const double* cost[3];
  double largest[3];  // entry of each cost
  int same[3];        // the first axis with this cost
  bool symmetric[3];

  SeparableCost(int d, const Shape& source, const Shape& target, const double* const* costs)
      : Geometry{source, target} {
    static const double zero = 0;
    for (int k = 0; k < 3; ++k) {
      const int64_t count = n[k] * m[k];
      cost[k] = k < 3 - d ? &zero : costs[k - 3 + d];
      same[k] = k;
      for (int j = 0; j < k && same[k] == k; ++j)
        if (n[j] == n[k] && m[j] == m[k] &&
            std::memcmp(cost[j], cost[k], count * sizeof(double)) == 0)
          same[k] = j;
      largest[k] = same[k] < k ? largest[same[k]] : *std::max_element(cost[k], cost[k] + count);
      symmetric[k] = same[k] < k ? symmetric[same[k]] : n[k] == m[k] && is_symmetric(k);
    }
    factors = std::max(1, (n[0] * m[0] > 1) + (n[1] * m[1] > 1) + (n[2] * m[2] > 1));
    max_cost = largest[0] + largest[1] + largest[2];
    max_factor_cost = *std::max_element(largest, largest + 3);
    work = 2 * (m[0] * m[1] * n[2] * m[2] + m[0] * n[1] * n[2] * m[1] * (m[1] * n[1] > 1) +
                n[0] * n[1] * n[2] * m[0] * (m[0] * n[0] > 1));
  }

 private:
  bool is_symmetric(int k) const {
    for (int64_t i = 1; i < n[k]; ++i)
      for (int64_t j = 0; j < i; ++j)
        if (cost[k][i * n[k] + j] != cost[k][j * n[k] + i]) return false;
    return true;
  }
};

// Axis by axis, out = A_k in, for matrices that others own.
template <class T>
struct SeparableMap {
  Shape in, to;
  // A_0 and A_1, which multiply from the left, as (to_k, in_k); A_2, which multiplies from the
  // right, as (in_2, to_2).
  const T* matrix[3];
  int64_t ld[3];  // of its rows; those of A_2 are padded

  bool acts(int k) const { return k == 2 || in[k] * to[k] > 1; }

  // Axis k of an array of shape s, of which s changes; each member leaves its share in out.
  void axis(Team& team, int k, Shape& s, const T* x, T* out) const {
    const int64_t rows_in = in[k], rows_to = to[k], line = stride<T>(s);
    if (k == 2) {
      const auto [from, end] = team.share(s.lines());
      gemm(from, end, stride<T>(to), rows_in, x, line, matrix[2], ld[2], out, stride<T>(to));
    } else if (k == 1) {
      const auto [from, end] = team.share(s[0] * rows_to);
      for (int64_t i = from / rows_to; i * rows_to < end; ++i)
        gemm(std::max(from - i * rows_to, int64_t{0}), std::min(end - i * rows_to, rows_to), line,
             rows_in, matrix[1], ld[1], x + i * rows_in * line, line, out + i * rows_to * line,
             line);
    } else {
      const int64_t row = s[1] * line;
      const auto [from, end] = team.share(row, NV * W<T>);
      gemm(0, rows_to, end - from, rows_in, matrix[0], ld[0], x + from, row, out + from, row);
    }
    s.n[k] = rows_to;
  }

  // All axes, in the given order; before[k] is what axis k is applied to.
  void apply(Team& team, const int (&order)[3], const T* x, T* out, Array<T>* between,
             const T** before) const {
    Shape s = in;
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
    const int64_t size = std::max(in[0], to[0]) * std::max(in[1], to[1]) *
                         std::max(stride<T>(in), stride<T>(to));
    for (int j = 0; j < 2; ++j)
      if (int64_t(between[j].size()) < size) between[j].resize(size);
  }
};

// A matrix (n_k, m_k) per axis, and its transpose. Axes of the same cost share theirs, and so do
// the two of a symmetric one. The padding of a row repeats its last entry, so that products there
// are finite and in range.
template <class T>
class AxisMatrices {
 public:
  explicit AxisMatrices(const SeparableCost& geo) : geo_(geo) {}

  // row(k, i, out) writes row i of axis k, padding aside.
  template <class Row>
  void build(Team& team, Row row) {
    team.once([&] {
      for (int k = 0; k < 3; ++k) {
        if (geo_.same[k] != k) continue;
        matrix_[k].resize(geo_.n[k] * padded<T>(geo_.m[k]));
        if (!geo_.symmetric[k]) transposed_[k].resize(geo_.m[k] * padded<T>(geo_.n[k]));
      }
    });
    for (int k = 0; k < 3; ++k) {
      if (geo_.same[k] != k) continue;
      const int64_t n = geo_.n[k], m = geo_.m[k], ld = padded<T>(m);
      const auto [from, to] = team.share(n);
      for (int64_t i = from; i < to; ++i) {
        T* out = &matrix_[k][i * ld];
        row(k, i, out);
        std::fill(out + m, out + ld, out[m - 1]);
      }
    }
    team.barrier();
    for (int k = 0; k < 3; ++k) {
      if (geo_.same[k] != k || geo_.symmetric[k]) continue;
      const int64_t n = geo_.n[k], ld = padded<T>(n);
      const auto [from, to] = team.share(geo_.m[k]);
      transpose(n, to - from, &matrix_[k][from], padded<T>(geo_.m[k]), &transposed_[k][from * ld],
                ld);
      for (int64_t j = from; j < to; ++j) {
        T* out = &transposed_[k][j * ld];
        std::fill(out + n, out + ld, out[n - 1]);
      }
    }
    team.barrier();
  }

  // From target to source, and back.
  SeparableMap<T> forward() const {
    return {geo_.m, geo_.n, {plain(0), plain(1), turned(2)},
            {padded<T>(geo_.m[0]), padded<T>(geo_.m[1]), padded<T>(geo_.n[2])}};
  }
  SeparableMap<T> backward() const {
    return {geo_.n, geo_.m, {turned(0), turned(1), plain(2)},
            {padded<T>(geo_.n[0]), padded<T>(geo_.n[1]), padded<T>(geo_.m[2])}};
  }

 private:
  const T* plain(int k) const { return matrix_[geo_.same[k]].data(); }
  const T* turned(int k) const {
    return (geo_.symmetric[k] ? matrix_ : transposed_)[geo_.same[k]].data();
  }

  const SeparableCost& geo_;
  Array<T> matrix_[3], transposed_[3];
};

constexpr int kLastFirst[3] = {2, 1, 0}, kFirstFirst[3] = {0, 1, 2};

}  // namespace
