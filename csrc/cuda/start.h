// Masses of the coarser grids, and the start of the coarsest.
#pragma once

#include "solve.h"

namespace {

// One entry of the masses on a coarser grid. A cell is a block of finer ones, fractional at its
// borders: of m equal blocks of n cells, block i begins in cell floor(i n / m).
template <class Finer>
DEVICE double pooled(const int* fine, const int* coarse, const double* const* pool, int i, int j,
                     Finer finer) {
  const auto weight = [&](int k, int cell, int of) {
    return pool[k] ? pool[k][cell * fine[k] + of] : 1.0;
  };
  double sum = 0;
  for (int r = i * fine[0] / coarse[0]; r * coarse[0] < (i + 1) * fine[0]; ++r) {
    double row = 0;
    for (int c = j * fine[1] / coarse[1]; c * coarse[1] < (j + 1) * fine[1]; ++c)
      row += weight(1, j, c) * finer(r * fine[1] + c);
    sum += weight(0, i, r) * row;
  }
  return sum;
}

// A symmetric matrix of two rows.
struct Matrix2 {
  double xx, xy, yy;

  DEVICE double det() const { return xx * yy - xy * xy; }
};

// Of S symmetric and not negative: (S + sqrt(det S) I) / sqrt(tr S + 2 sqrt(det S)).
DEVICE inline Matrix2 square_root(const Matrix2& s) {
  const double root = sqrt(most(s.det(), 0.0)), trace = sqrt(s.xx + s.yy + 2 * root);
  const double scale = trace > 0 ? 1 / trace : 0.0;
  return {(s.xx + root) * scale, s.xy * scale, (s.yy + root) * scale};
}
DEVICE inline Matrix2 inverse(const Matrix2& s) {
  const double scale = 1 / s.det();
  return {s.yy * scale, -s.xy * scale, s.xx * scale};
}
// r s r
DEVICE inline Matrix2 congruence(const Matrix2& r, const Matrix2& s) {
  const double ax = r.xx * s.xx + r.xy * s.xy, ay = r.xx * s.xy + r.xy * s.yy;
  const double bx = r.xy * s.xx + r.yy * s.xy, by = r.xy * s.xy + r.yy * s.yy;
  return {ax * r.xx + ay * r.xy, ax * r.xy + ay * r.yy, bx * r.xy + by * r.yy};
}

struct Moments {
  double x, y;
  Matrix2 covariance;
};

// Of masses (n[0], n[1]) at coordinates x[0], x[1]; an axis without coordinates is at zero.
template <class Mass>
DEVICE Moments moments(const Group& alone, int& parity, const int* n, const double* const* x,
                       Mass mass) {
  const auto at = [&](int k, int i) { return x[k] ? x[k][i] : 0.0; };
  const auto middle = [&](int k) { return 0.5 * (at(k, 0) + at(k, n[k] - 1)); };
  const double mid0 = middle(0), mid1 = middle(1);
  double first[kSums] = {}, second[kSums] = {}, sum[kSums], sum2[kSums];
  for (int i = thread(); i < n[0] * n[1]; i += threads()) {
    const double w = mass(i), dx = at(0, i / n[1]) - mid0, dy = at(1, i % n[1]) - mid1;
    first[0] += w * dx, first[1] += w * dy;
    second[0] += w * dx * dx, second[1] += w * dx * dy, second[2] += w * dy * dy;
  }
  alone.sum(first, parity, sum);
  alone.sum(second, parity, sum2);
  const double mx = sum[0], my = sum[1];
  return {mx + mid0, my + mid1, {sum2[0] - mx * mx, sum2[1] - mx * my, sum2[2] - my * my}};
}

// The potential between Gaussians of these moments, in units of cost and up to a constant:
// |y|^2 - 2 m_a . y - (y - m_b)^T A (y - m_b), A = S_a^1/2 (sqrt(D + q^2) + q)^-1 S_a^1/2,
// D = S_a^1/2 S_b S_a^1/2, q = epsilon / 4.
class GaussianPotential {
 public:
  DEVICE GaussianPotential(const Moments& a, const Moments& b, double epsilon) : a_(a), b_(b) {
    const double q = epsilon / 4;
    const Matrix2 root = square_root(a.covariance);
    Matrix2 inner = congruence(root, b.covariance);
    inner.xx += q * q, inner.yy += q * q;
    inner = square_root(inner);
    inner.xx += q, inner.yy += q;
    slope_ = congruence(root, inverse(inner));
  }
  DEVICE double operator()(double x, double y) const {
    const double dx = x - b_.x, dy = y - b_.y;
    return x * x + y * y - 2 * (a_.x * x + a_.y * y) - slope_.xx * dx * dx -
           2 * slope_.xy * dx * dy - slope_.yy * dy * dy;
  }

 private:
  Moments a_, b_;
  Matrix2 slope_;
};

}  // namespace
