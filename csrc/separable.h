// A separable kernel exp(-(C_0 + C_1 + C_2) / epsilon) applied axis by axis.
//
// Every problem is three-dimensional here; missing leading axes have length one and are skipped.
// Arrays are (n0, n1, ld) with ld = n2 rounded up to the vector width. Values in the padding are
// finite and never read as data.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
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

inline void clear_padding(const Shape& s, double* x) {
  for (int64_t r = 0; r < s.n0 * s.n1; ++r)
    std::fill(x + r * s.ld() + s.n2, x + (r + 1) * s.ld(), 0.0);
}

using Buffer = std::vector<double>;

// out = (A_0 x A_1 x A_2) in, one matrix per axis.
class SeparableMap {
 public:
  SeparableMap() = default;
  // matrix[k] is (to_k, in_k), or its transpose.
  SeparableMap(const Shape& in, const Shape& to, const Buffer* matrix, bool transposed)
      : in_(in), to_(to) {
    for (int k = 0; k < 2; ++k) {
      const int64_t rows = to[k], cols = in[k];
      a_[k].resize(rows * cols);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < cols; ++c)
          a_[k][r * cols + c] = transposed ? matrix[k][c * rows + r] : matrix[k][r * cols + c];
    }
    // The last axis multiplies from the right. Its padding repeats the last column, so that
    // results there are finite and in range.
    const int64_t ld = to.ld();
    b_.resize(in.n2 * ld);
    for (int64_t c = 0; c < in.n2; ++c)
      for (int64_t r = 0; r < ld; ++r) {
        const int64_t q = std::min(r, to.n2 - 1);
        b_[c * ld + r] = transposed ? matrix[2][c * to.n2 + q] : matrix[2][q * in.n2 + c];
      }
  }

  bool empty() const { return b_.empty(); }
  bool has(int k) const { return in_[k] * to_[k] > 1; }

  void last(const double* x, double* out, int threads) const {
    gemm(in_.n0 * in_.n1, to_.ld(), in_.n2, x, in_.ld(), b_.data(), to_.ld(), out, to_.ld(), false,
         threads);
  }
  void middle(const double* x, double* out, bool add, int threads) const {
    for (int64_t i = 0; i < in_.n0; ++i)
      gemm(to_.n1, to_.ld(), in_.n1, a_[1].data(), in_.n1, x + i * in_.n1 * to_.ld(), to_.ld(),
           out + i * to_.n1 * to_.ld(), to_.ld(), add, threads);
  }
  void first(const double* x, double* out, bool add, int threads) const {
    const int64_t row = to_.n1 * to_.ld();
    gemm(to_.n0, row, in_.n0, a_[0].data(), in_.n0, x, row, out, row, add, threads);
  }

  // t1 and t2 keep the intermediate results, where there are any.
  void apply(const double* x, double* out, Buffer& t1, Buffer& t2, int threads) const {
    grow(t1);
    grow(t2);
    double* after_last = has(1) || has(0) ? t1.data() : out;
    last(x, after_last, threads);
    double* after_middle = after_last;
    if (has(1)) {
      after_middle = has(0) ? t2.data() : out;
      middle(after_last, after_middle, false, threads);
    }
    if (has(0)) first(after_middle, out, false, threads);
  }
  void grow(Buffer& t) const {
    const size_t need = in_.n0 * std::max(in_.n1, to_.n1) * to_.ld();
    if (t.size() < need) t.resize(need);
  }

 private:
  Shape in_, to_;
  Buffer a_[2], b_;
};

class ScalingKernel {
 public:
  ScalingKernel(const Geometry& geo, double epsilon, int threads)
      : geo_(geo), epsilon_(epsilon), threads_(threads) {
    Buffer kernel[3];
    factors(kernel, false);
    forward_ = SeparableMap(geo.m, geo.n, kernel, false);
    backward_ = SeparableMap(geo.n, geo.m, kernel, true);
  }
  double epsilon() const { return epsilon_; }

  void forward(const double* x, double* out) { forward_.apply(x, out, t1_, t2_, threads_); }
  void backward(const double* x, double* out) { backward_.apply(x, out, t1_, t2_, threads_); }

  // After forward(x): sum_y C(x, y) exp(-C(x, y) / epsilon) x(y), by the product rule over the
  // axes, from the intermediate results of that call.
  void cost_after_forward(const double* x, double* out) {
    if (weighted_.empty()) {
      Buffer kernel[3];
      factors(kernel, true);
      weighted_ = SeparableMap(geo_.m, geo_.n, kernel, false);
    }
    forward_.grow(c1_);
    forward_.grow(c2_);
    const bool has0 = forward_.has(0), has1 = forward_.has(1);
    double* after_last = has1 || has0 ? c1_.data() : out;
    weighted_.last(x, after_last, threads_);
    double* after_middle = after_last;
    if (has1) {
      after_middle = has0 ? c2_.data() : out;
      forward_.middle(after_last, after_middle, false, threads_);
      weighted_.middle(t1_.data(), after_middle, true, threads_);
    }
    if (has0) {
      forward_.first(after_middle, out, false, threads_);
      weighted_.first(has1 ? t2_.data() : t1_.data(), out, true, threads_);
    }
  }

 private:
  // exp(-C_k / epsilon) of every axis, or C_k exp(-C_k / epsilon).
  void factors(Buffer* kernel, bool times_cost) const {
    for (int k = 0; k < 3; ++k) {
      const int64_t size = geo_.n[k] * geo_.m[k];
      kernel[k].resize(padded(size));
      for (int64_t i = 0; i < size; ++i) kernel[k][i] = -geo_.cost[k][i] / epsilon_;
      for (int64_t i = 0; i < size; i += W) store(&kernel[k][i], vexp(load(&kernel[k][i])));
      if (times_cost)
        for (int64_t i = 0; i < size; ++i) kernel[k][i] *= geo_.cost[k][i];
    }
  }

  const Geometry& geo_;
  double epsilon_;
  int threads_;
  SeparableMap forward_, backward_, weighted_;
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
  // Also the mean of C under the weights of the sum.
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
    if (threads_ <= 1 || in * to * R < kThreadAbove / 16) {
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

// out(x) = log sum_y exp(h(y) - C(x, y) / epsilon): in the scaling domain where all sums are in
// range, in the log domain otherwise.
class LogSumExp {
 public:
  LogSumExp(const Geometry& geo, int threads) : geo_(geo), threads_(threads), x_(geo.m.size()) {}

  void operator()(const double* h, double epsilon, double* out) {
    if (!scaling_ || scaling_->epsilon() != epsilon) scaling_.emplace(geo_, epsilon, threads_);
    if (!in_scaling_domain(h, out)) LogKernel(geo_, epsilon, threads_).forward(h, out);
  }

 private:
  bool in_scaling_domain(const double* h, double* out) {
    Vec top = splat(-kInf), low = splat(kInf);
    for (int64_t i = 0; i < geo_.m.size(); i += W) top = vmax(top, load(h + i));
    const double shift = hmax(top);
    if (!(std::abs(shift) < kInf)) return false;
    for (int64_t i = 0; i < geo_.m.size(); i += W) store(&x_[i], vexp(load(h + i) - shift));
    scaling_->forward(x_.data(), out);
    for (int64_t i = 0; i < geo_.n.size(); i += W) {
      const Vec s = load(out + i);
      low = vmin(low, s);
      store(out + i, vlog(s) + shift);
    }
    return hmin(low) > kTiny;
  }

  const Geometry& geo_;
  int threads_;
  Buffer x_;
  std::optional<ScalingKernel> scaling_;
};

}  // namespace
