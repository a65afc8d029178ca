// The potential of the entropic problem between Gaussians of the same moments.
#pragma once

#include "separable.h"

namespace {

struct Matrix3 {
  double at[3][3] = {};
};

inline Matrix3 operator*(const Matrix3& x, const Matrix3& y) {
  Matrix3 z;
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j)
      for (int k = 0; k < 3; ++k) z.at[i][j] += x.at[i][k] * y.at[k][j];
  return z;
}

// function(S) for symmetric non-negative S, by Jacobi rotations.
template <class Function>
Matrix3 matrix_function(Matrix3 s, Function function) {
  Matrix3 v;
  for (int i = 0; i < 3; ++i) v.at[i][i] = 1;
  for (int sweep = 0; sweep < 12; ++sweep)
    for (int p = 0; p < 2; ++p)
      for (int q = p + 1; q < 3; ++q) {
        if (s.at[p][q] == 0) continue;
        const double theta = (s.at[q][q] - s.at[p][p]) / (2 * s.at[p][q]);
        const double t = (theta < 0 ? -1 : 1) / (std::abs(theta) + std::sqrt(theta * theta + 1));
        const double c = 1 / std::sqrt(t * t + 1), sn = t * c;
        Matrix3 r;
        for (int i = 0; i < 3; ++i) r.at[i][i] = 1;
        r.at[p][p] = r.at[q][q] = c;
        r.at[p][q] = sn;
        r.at[q][p] = -sn;
        Matrix3 rt = r;
        std::swap(rt.at[p][q], rt.at[q][p]);
        s = rt * s * r;
        s.at[p][q] = s.at[q][p] = 0;
        v = v * r;
      }
  Matrix3 out;
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j)
      for (int k = 0; k < 3; ++k)
        out.at[i][j] += v.at[i][k] * function(std::max(s.at[k][k], 0.0)) * v.at[j][k];
  return out;
}

struct Moments {
  double mean[3] = {};
  Matrix3 cov;
};

// x[k] are the coordinates along axis k; mass is padded.
inline Moments moments(const double* mass, const Shape& s, const double* const* x) {
  Moments m;
  double second[3][3] = {};
  // Centred on the middle of the box, so that the covariance does not cancel.
  double mid[3];
  for (int k = 0; k < 3; ++k) mid[k] = 0.5 * (x[k][0] + x[k][s[k] - 1]);
  for (int64_t i = 0; i < s[0]; ++i)
    for (int64_t j = 0; j < s[1]; ++j) {
      const double* row = mass + (i * s[1] + j) * stride<double>(s);
      double w = 0, w2 = 0, w22 = 0;
      for (int64_t k = 0; k < s[2]; ++k) {
        const double z = x[2][k] - mid[2];
        w += row[k];
        w2 += row[k] * z;
        w22 += row[k] * z * z;
      }
      const double z0 = x[0][i] - mid[0], z1 = x[1][j] - mid[1];
      m.mean[0] += w * z0;
      m.mean[1] += w * z1;
      m.mean[2] += w2;
      second[0][0] += w * z0 * z0;
      second[0][1] += w * z0 * z1;
      second[0][2] += w2 * z0;
      second[1][1] += w * z1 * z1;
      second[1][2] += w2 * z1;
      second[2][2] += w22;
    }
  for (int i = 0; i < 3; ++i)
    for (int j = i; j < 3; ++j)
      m.cov.at[i][j] = m.cov.at[j][i] = second[i][j] - m.mean[i] * m.mean[j];
  for (int k = 0; k < 3; ++k) m.mean[k] += mid[k];
  return m;
}

// g(y) up to a constant, in units of cost, on the padded array of the target:
// |y|^2 - 2 m_a . y - (y - m_b)^T A (y - m_b), A = S_a^1/2 (sqrt(D + q^2) + q)^-1 S_a^1/2,
// D = S_a^1/2 S_b S_a^1/2, q = epsilon / 4.
inline void gaussian_potential(const double* a, const Shape& n, const double* const* x,
                               const double* b, const Shape& m, const double* const* y,
                               double epsilon, double* g) {
  const Moments ma = moments(a, n, x), mb = moments(b, m, y);
  const double q = epsilon / 4;
  const Matrix3 root = matrix_function(ma.cov, [](double s) { return std::sqrt(s); });
  const Matrix3 inner = matrix_function(
      root * mb.cov * root, [q](double s) { return 1 / (std::sqrt(s + q * q) + q); });
  const Matrix3 slope = root * inner * root;
  for (int64_t i = 0; i < m[0]; ++i)
    for (int64_t j = 0; j < m[1]; ++j)
      for (int64_t k = 0; k < stride<double>(m); ++k) {
        const double at[3] = {y[0][i], y[1][j], y[2][std::min(k, m[2] - 1)]};
        double value = 0;
        for (int p = 0; p < 3; ++p) {
          value += at[p] * at[p] - 2 * ma.mean[p] * at[p];
          for (int r = 0; r < 3; ++r)
            value -= slope.at[p][r] * (at[p] - mb.mean[p]) * (at[r] - mb.mean[r]);
        }
        g[(i * m[1] + j) * stride<double>(m) + k] = value;
      }
}

}  // namespace
