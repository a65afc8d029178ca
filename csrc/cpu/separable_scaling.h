// exp(-C / epsilon) of a separable cost, as products with one matrix per axis.
#pragma once

#include "scaling.h"
#include "separable.h"

namespace {

// exp(-C_k / epsilon) on every axis, times C_k where `weighted`, each scaled up by its shift. Returns the shift of the product.
template <class T>
double build_gibbs(Team& team, const SeparableCost& geo, double epsilon, bool weighted,
                   AxisMatrices<T>& matrices) {
  double shift[3];
  for (int k = 0; k < 3; ++k) shift[k] = factor_shift<T>(geo.largest[k], epsilon);
  const double scale = -1.0 / epsilon;
  matrices.build(team, [&](int k, int64_t i, T* out) {
    const int64_t m = geo.m[k];
    const double* cost = geo.cost[k] + i * m;
    for (int64_t j = 0; j < m; j += W<double>) {
      const Vec<double> c = j + W<double> <= m ? load(cost + j) : load_some(cost + j, m - j);
      const Vec<double> e = vexp(c * scale + shift[k]);
      store_narrow(out + j, weighted ? e * c : e);
    }
  });
  return shift[0] + shift[1] + shift[2];
}

// exp(-C / epsilon), times exp(shift).
template <class T>
class SeparableScaling {
 public:
  explicit SeparableScaling(const SeparableCost& geo) : geo_(geo), gibbs_(geo), weighted_(geo) {}

  // The kernel of this epsilon, if it is not the last one's.
  void prepare(Team& team, double epsilon) {
    if (epsilon == epsilon_) return;
    const double shift = build_gibbs(team, geo_, epsilon, false, gibbs_);
    team.once([&] {
      shift_ = shift;
      epsilon_ = epsilon;
      forward_ = gibbs_.forward();
      backward_ = gibbs_.backward();
      forward_.reserve(forward_between_);
      backward_.reserve(backward_between_);
    });
  }
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
    if (weighted_epsilon_ != epsilon_) {
      build_gibbs(team, geo_, epsilon_, true, weighted_);
      team.once([&] {
        weighted_epsilon_ = epsilon_;
        scratch_.resize(std::max(forward_between_[0].size(), size_t(size<T>(geo_.n))));
      });
    }
    const SeparableMap<T> weighted = weighted_.forward();
    Vec<T> total{};
    Shape s = geo_.m;
    for (const int k : kLastFirst) {
      if (!weighted.acts(k)) continue;
      weighted.axis(team, k, s, forward.before[k], scratch_.data());
      team.barrier();
      const auto [from, to] = team.share(size<T>(s), W<T>);
      for (int64_t i = from; i < to; i += W<T>)
        total += load(backward.before[k] + i) * load(&scratch_[i]);
      team.barrier();
    }
    return team.sum(hsum(total));
  }

 private:
  const SeparableCost& geo_;
  double epsilon_ = 0, weighted_epsilon_ = 0, shift_ = 0;
  AxisMatrices<T> gibbs_, weighted_;
  SeparableMap<T> forward_, backward_;
  Array<T> forward_between_[2], backward_between_[2], scratch_;
};

}  // namespace
