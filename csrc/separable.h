// A separable kernel exp(-(C_0 + C_1 + C_2) / epsilon) applied axis by axis.
//
// Every problem is three-dimensional here; missing leading axes have length one and are skipped.
// Arrays are (n0, n1, ld) with ld = n2 rounded up to the vector width. Values in the padding are
// finite and never read as data.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "gemm.h"
#include "vector.h"

namespace {

struct Shape {
  int64_t n0 = 1, n1 = 1, n2 = 1;
  int64_t ld() const { return padded(n2); }
  int64_t size() const { return n0 * n1 * ld(); }
  int64_t count() const { return n0 * n1 * n2; }
  int64_t operator[](int k) const { return k == 0 ? n0 : k == 1 ? n1 : n2; }
};

// source shape n, target shape m, cost[k] is (n_k, m_k) row-major.
struct Geometry {
  Shape n, m;
  const double* cost[3];
  double max_cost = 0;  // sum over the axes of the largest entry

  Geometry(int d, const int64_t* shape_n, const int64_t* shape_m, const double* const* costs) {
    static const double zero = 0;
    int64_t sn[3] = {1, 1, 1}, sm[3] = {1, 1, 1};
    for (int k = 0; k < 3; ++k) cost[k] = &zero;
    for (int k = 0; k < d; ++k) {
      sn[3 - d + k] = shape_n[k];
      sm[3 - d + k] = shape_m[k];
      cost[3 - d + k] = costs[k];
    }
    n = {sn[0], sn[1], sn[2]};
    m = {sm[0], sm[1], sm[2]};
    for (int k = 0; k < 3; ++k) max_cost += *std::max_element(cost[k], cost[k] + n[k] * m[k]);
  }
};

inline void pad_rows(const double* in, const Shape& s, double fill, double* out) {
  for (int64_t r = 0; r < s.n0 * s.n1; ++r) {
    std::memcpy(out + r * s.ld(), in + r * s.n2, s.n2 * sizeof(double));
    std::fill(out + r * s.ld() + s.n2, out + (r + 1) * s.ld(), fill);
  }
}

inline void unpad_rows(const double* in, const Shape& s, double* out) {
  for (int64_t r = 0; r < s.n0 * s.n1; ++r)
    std::memcpy(out + r * s.n2, in + r * s.ld(), s.n2 * sizeof(double));
}

using Buffer = std::vector<double>;

// The factors of one direction in the scaling domain: out = (A_0 x A_1 x B^T) in.
struct Factors {
  Buffer a0, a1, b;  // a_k is (out_k, in_k); b is (in_2, padded out_2)
};

class ScalingKernel {
 public:
  ScalingKernel(const Geometry& geo, double epsilon, int threads)
      : geo_(geo), epsilon_(epsilon), threads_(threads) {
    build(forward_, false, false);
    build(backward_, true, false);
    const int64_t widest = std::max(geo.n.ld(), geo.m.ld());
    const int64_t tmp = std::max(geo.n.n0, geo.m.n0) * std::max(geo.n.n1, geo.m.n1) * widest;
    t1_.resize(tmp);
    t2_.resize(tmp);
  }
  double epsilon() const { return epsilon_; }

  void forward(const double* x, double* out) { apply(forward_, geo_.m, geo_.n, x, out); }
  void backward(const double* x, double* out) { apply(backward_, geo_.n, geo_.m, x, out); }

  // After forward(x): sum_y C(x, y) exp(-C(x, y) / epsilon) x(y), by the product rule over the
  // axes, from the intermediate results of that call.
  void cost_after_forward(const double* x, double* out) {
    if (forward_c_.b.empty()) {
      build(forward_c_, false, true);
      c1_.resize(t1_.size());
      c2_.resize(t2_.size());
    }
    const Shape &in = geo_.m, &to = geo_.n;
    const bool has0 = in.n0 * to.n0 > 1, has1 = in.n1 * to.n1 > 1;
    double* after_last = has1 || has0 ? c1_.data() : out;
    last(forward_c_.b, in, to, x, after_last);
    double* after_middle = after_last;
    if (has1) {
      after_middle = has0 ? c2_.data() : out;
      middle(forward_.a1, in, to, after_last, after_middle, false);
      middle(forward_c_.a1, in, to, t1_.data(), after_middle, true);
    }
    if (has0) {
      first(forward_.a0, in, to, after_middle, out, false);
      first(forward_c_.a0, in, to, has1 ? t2_.data() : t1_.data(), out, true);
    }
  }

 private:
  void build(Factors& f, bool transpose, bool times_cost) const {
    for (int k = 0; k < 3; ++k) {
      const int64_t n = geo_.n[k], m = geo_.m[k];
      const int64_t rows = transpose ? m : n, cols = transpose ? n : m;
      Buffer kernel(padded(n * m));
      Buffer scaled(padded(n * m));
      for (int64_t i = 0; i < n * m; ++i) scaled[i] = -geo_.cost[k][i] / epsilon_;
      for (int64_t i = 0; i < n * m; i += W) store(&kernel[i], vexp(load(&scaled[i])));
      if (times_cost)
        for (int64_t i = 0; i < n * m; ++i) kernel[i] *= geo_.cost[k][i];
      Buffer& out = k == 0 ? f.a0 : k == 1 ? f.a1 : f.b;
      if (k < 2) {
        out.resize(rows * cols);
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t c = 0; c < cols; ++c)
            out[r * cols + c] = transpose ? kernel[c * m + r] : kernel[r * m + c];
      } else {
        // Padding repeats the last column, so that results there are finite and in range.
        const int64_t ld = padded(rows);
        out.resize(cols * ld);
        for (int64_t c = 0; c < cols; ++c)
          for (int64_t r = 0; r < ld; ++r) {
            const int64_t q = std::min(r, rows - 1);
            out[c * ld + r] = transpose ? kernel[c * m + q] : kernel[q * m + c];
          }
      }
    }
  }

  void last(const Buffer& b, const Shape& in, const Shape& to, const double* x, double* out) {
    gemm(in.n0 * in.n1, to.ld(), in.n2, x, in.ld(), b.data(), to.ld(), out, to.ld(), false,
         threads_);
  }
  void middle(const Buffer& a, const Shape& in, const Shape& to, const double* x, double* out,
              bool add) {
    for (int64_t i = 0; i < in.n0; ++i)
      gemm(to.n1, to.ld(), in.n1, a.data(), in.n1, x + i * in.n1 * to.ld(), to.ld(),
           out + i * to.n1 * to.ld(), to.ld(), add, threads_);
  }
  void first(const Buffer& a, const Shape& in, const Shape& to, const double* x, double* out,
             bool add) {
    const int64_t row = to.n1 * to.ld();
    gemm(to.n0, row, in.n0, a.data(), in.n0, x, row, out, row, add, threads_);
  }

  void apply(const Factors& f, const Shape& in, const Shape& to, const double* x, double* out) {
    // Trivial axes write straight into the next buffer that is needed.
    const bool has0 = in.n0 * to.n0 > 1, has1 = in.n1 * to.n1 > 1;
    double* after_last = has1 || has0 ? t1_.data() : out;
    last(f.b, in, to, x, after_last);
    double* after_middle = after_last;
    if (has1) {
      after_middle = has0 ? t2_.data() : out;
      middle(f.a1, in, to, after_last, after_middle, false);
    }
    if (has0) first(f.a0, in, to, after_middle, out, false);
  }

  const Geometry& geo_;
  double epsilon_;
  int threads_;
  Factors forward_, backward_, forward_c_;
  Buffer t1_, t2_, c1_, c2_;
};

// Log domain: L(x) = log sum_y exp(h(y) - C(x, y) / epsilon), and the mean of C under those
// weights. Terms more than e^-45 below the largest are skipped: they cannot change a double.
class LogKernel {
 public:
  LogKernel(const Geometry& geo, double epsilon, int threads) : geo_(geo), threads_(threads) {
    for (int k = 0; k < 3; ++k) {
      const int64_t n = geo.n[k], m = geo.m[k];
      forward_[k].resize(n * m);
      backward_[k].resize(n * m);
      cost_[k] = geo.cost[k];
      for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < m; ++j) {
          forward_[k][i * m + j] = geo.cost[k][i * m + j] / epsilon;
          backward_[k][j * n + i] = forward_[k][i * m + j];
        }
    }
    const int64_t r0 = std::max(geo.n.n0, geo.m.n0), r1 = std::max(geo.n.n1, geo.m.n1);
    const int64_t r2 = std::max(geo.n.ld(), geo.m.ld());
    const int64_t tmp = r2 * padded(r0 * r1);
    for (Buffer* b : {&x1_, &x2_, &xt_, &m1_, &m2_, &mt_}) b->resize(tmp);
  }

  void forward(const double* h, double* out) { apply(forward_, geo_.m, geo_.n, h, out, nullptr); }
  void backward(const double* h, double* out) { apply(backward_, geo_.n, geo_.m, h, out, nullptr); }
  void forward_mean(const double* h, double* out, double* mean) {
    apply(forward_, geo_.m, geo_.n, h, out, mean);
  }

 private:
  // Contract the leading axis: x is (in, R), out is (to, R), c is (to, in), R whole vectors.
  template <bool kMean, int V>
  static void contract(int64_t in, int64_t to, int64_t R, const double* c, const double* cost,
                       const double* x, const double* mean, double* out, double* mean_out) {
    for (int64_t i = 0; i < to; ++i) {
      const double* ci = c + i * in;
      Vec top[V];
      for (int v = 0; v < V; ++v) top[v] = splat(-1e300);  // finite: an empty sum gives -inf below
      for (int64_t j = 0; j < in; ++j)
        for (int v = 0; v < V; ++v) top[v] = vmax(top[v], load(x + j * R + v * W) - ci[j]);
      Vec sum[V] = {}, weighted[V] = {};
      for (int64_t j = 0; j < in; ++j) {
        for (int v = 0; v < V; ++v) {
          Vec t = load(x + j * R + v * W) - ci[j] - top[v];
          if (!any(t > -45.0)) continue;
          Vec e = vexp(t);
          sum[v] += e;
          if constexpr (kMean) weighted[v] += e * (load(mean + j * R + v * W) + cost[i * in + j]);
        }
      }
      for (int v = 0; v < V; ++v) {
        store(out + i * R + v * W, top[v] + vlog(sum[v]));
        if constexpr (kMean)
          store(mean_out + i * R + v * W, select(sum[v] > 0.0, weighted[v] / sum[v], Vec{}));
      }
    }
  }

  template <bool kMean>
  void leading(int64_t in, int64_t to, int64_t R, const double* c, const double* cost,
               const double* x, const double* mean, double* out, double* mean_out) const {
    const auto block = [=](int64_t r) {
      if (r + 2 * W <= R)
        contract<kMean, 2>(in, to, R, c, cost, x + r, mean + r, out + r, mean_out + r);
      else
        contract<kMean, 1>(in, to, R, c, cost, x + r, mean + r, out + r, mean_out + r);
    };
    if (threads_ <= 1 || in * to * R < kThreadAbove / 8) {
      for (int64_t r = 0; r < R; r += 2 * W) block(r);
    } else {
#pragma omp parallel for num_threads(threads_) schedule(static)
      for (int64_t r = 0; r < R; r += 2 * W) block(r);
    }
  }

  static void transpose(const double* x, int64_t rows, int64_t cols, int64_t ldx, double* out,
                        int64_t ldo, double fill) {
    for (int64_t c = 0; c < cols; ++c) {
      for (int64_t r = 0; r < rows; ++r) out[c * ldo + r] = x[r * ldx + c];
      for (int64_t r = rows; r < ldo; ++r) out[c * ldo + r] = fill;
    }
  }

  void apply(const Buffer* c, const Shape& in, const Shape& to, const double* h, double* out,
             double* mean) {
    mean ? axes<true>(c, in, to, h, out, mean) : axes<false>(c, in, to, h, out, x1_.data());
  }

  template <bool kMean>
  void axes(const Buffer* c, const Shape& in, const Shape& to, const double* h, double* out,
            double* mean) {
    const int64_t lines = in.n0 * in.n1, R = padded(lines);
    transpose(h, lines, in.n2, in.ld(), x1_.data(), R, 0.0);
    if (kMean) std::fill(m1_.begin(), m1_.end(), 0.0);
    leading<kMean>(in.n2, to.n2, R, c[2].data(), cost_[2], x1_.data(), m1_.data(), xt_.data(),
                   mt_.data());
    transpose(xt_.data(), to.n2, lines, R, x2_.data(), to.ld(), 0.0);
    if (kMean) transpose(mt_.data(), to.n2, lines, R, m2_.data(), to.ld(), 0.0);
    double *x = x2_.data(), *y = x1_.data(), *mx = m2_.data(), *my = m1_.data();
    if (in.n1 * to.n1 > 1) {
      for (int64_t i = 0; i < in.n0; ++i)
        leading<kMean>(in.n1, to.n1, to.ld(), c[1].data(), cost_[1], x + i * in.n1 * to.ld(),
                       mx + i * in.n1 * to.ld(), y + i * to.n1 * to.ld(),
                       my + i * to.n1 * to.ld());
      std::swap(x, y);
      std::swap(mx, my);
    }
    if (in.n0 * to.n0 > 1) {
      leading<kMean>(in.n0, to.n0, to.n1 * to.ld(), c[0].data(), cost_[0], x, mx, y, my);
      std::swap(x, y);
      std::swap(mx, my);
    }
    std::memcpy(out, x, to.size() * sizeof(double));
    if (kMean) std::memcpy(mean, mx, to.size() * sizeof(double));
  }

  const Geometry& geo_;
  int threads_;
  Buffer forward_[3], backward_[3];
  const double* cost_[3];
  Buffer x1_, x2_, xt_, m1_, m2_, mt_;
};

// A double's exponent reaches e^+-708. Sums inside (kTiny, kHuge) lose nothing to underflow:
// what a product drops is below 1e-308, which is 1e-28 of the sum.
constexpr double kTiny = 1e-280, kHuge = 1e280;

}  // namespace
