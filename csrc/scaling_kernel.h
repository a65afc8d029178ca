// exp(-C / epsilon) of a separable cost, as products with one matrix per axis.
#pragma once

#include "separable.h"

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

// exp(-C_k / epsilon) on every axis. In single precision a factor is scaled by exp(shift), so that
// its smallest entry is normal.
template <class T>
struct GibbsFactors {
  Array<T> matrix[3];
  double shift = 0;  // of the product

  GibbsFactors(const Geometry& geo, double epsilon) {
    Buffer exponent;
    for (int k = 0; k < 3; ++k) {
      const int64_t size = geo.n[k] * geo.m[k];
      if (k == 2 && geo.square_axes()) {  // as on most grids
        matrix[2] = matrix[1];
        shift += shift;
        break;
      }
      exponent.resize(padded<double>(size));
      const double scale = -1.0 / epsilon;
      for (int64_t i = 0; i < size; ++i) exponent[i] = geo.cost[k][i] * scale;
      double up = 0;
      if constexpr (std::is_same_v<T, float>) up = std::max(0.0, geo.largest[k] / epsilon - 87);
      shift += up;
      for (int64_t i = 0; i < size; i += W<double>)
        store(&exponent[i], vexp(load(&exponent[i]) + up));
      matrix[k].assign(&exponent[0], &exponent[0] + size);
    }
  }
  void transpose(const Geometry& geo) {
    for (int k = 0; k < 3; ++k) {
      const Array<T> kernel = matrix[k];
      ::transpose(geo.n[k], geo.m[k], kernel.data(), matrix[k].data(), geo.n[k]);
    }
  }
  void times_cost(const Geometry& geo) {
    for (int k = 0; k < 3; ++k)
      for (int64_t i = 0; i < geo.n[k] * geo.m[k]; ++i) matrix[k][i] *= T(geo.cost[k][i]);
  }
};

// exp(-C / epsilon), times exp(shift).
template <class T>
class ScalingKernel {
 public:
  ScalingKernel(const Geometry& geo, double epsilon) : geo_(geo), epsilon_(epsilon) {
    GibbsFactors<T> factors(geo, epsilon);
    shift_ = factors.shift;
    forward_ = SeparableMap<T>(geo.m, geo.n, factors.matrix);
    factors.transpose(geo);
    backward_ = SeparableMap<T>(geo.n, geo.m, factors.matrix);
    forward_.reserve(forward_between_);
    backward_.reserve(backward_between_);
  }
  double epsilon() const { return epsilon_; }
  double shift() const { return shift_; }

  // Where the axes of the last product began. The axes of the adjoint run in the opposite order:
  // <x, K_0 K_1 K_2 y> splits after any axis into an intermediate of one and one of the other.
  struct Trace {
    const T* before[3];
  };
  void forward(Team& team, const T* y, T* out, Trace& trace) {
    forward_.apply(team, kLastFirst, y, out, forward_between_, trace.before);
  }
  void backward(Team& team, const T* x, T* out, Trace& trace) {
    backward_.apply(team, kFirstFirst, x, out, backward_between_, trace.before);
  }

  // sum_xy x(x) C(x, y) exp(-C(x, y) / epsilon) y(y) after forward(y) and backward(x): one product
  // for each axis, weighted there with its cost.
  double cost(Team& team, const Trace& forward, const Trace& backward) {
    if (weighted_.empty())
      team.once([&] {
        GibbsFactors<T> factors(geo_, epsilon_);
        factors.times_cost(geo_);
        weighted_ = SeparableMap<T>(geo_.m, geo_.n, factors.matrix);
        scratch_.resize(std::max(forward_between_[0].size(), size_t(size<T>(geo_.n))));
      });
    Vec<T> total{};
    Shape s = geo_.m;
    for (const int k : kLastFirst) {
      if (!weighted_.acts(k)) continue;
      weighted_.axis(team, k, s, forward.before[k], scratch_.data());
      team.barrier();
      const auto [from, to] = team.share(size<T>(s), W<T>);
      for (int64_t i = from; i < to; i += W<T>)
        total += load(backward.before[k] + i) * load(&scratch_[i]);
      team.barrier();
    }
    return team.sum(hsum(total));
  }

 private:
  const Geometry& geo_;
  double epsilon_, shift_;
  SeparableMap<T> forward_, backward_, weighted_;
  Array<T> forward_between_[2], backward_between_[2], scratch_;
};

}  // namespace
