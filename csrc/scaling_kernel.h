// exp(-C / epsilon) of a separable cost, as products with one matrix per axis.
#pragma once

#include <initializer_list>

#include "separable.h"

namespace {

// A double's exponent reaches e^+-708. Sums inside (kTiny, kHuge) lose nothing to underflow:
// what a product drops is below 1e-308, which is 1e-28 of the sum.
constexpr double kTiny = 1e-280, kHuge = 1e280;

// exp(-C_k / epsilon) on every axis.
struct GibbsFactors {
  Buffer matrix[3];
  GibbsFactors(const Geometry& geo, double epsilon) {
    const double scale = -1.0 / epsilon;
    for (int k = 0; k < 3; ++k) {
      const int64_t size = geo.n[k] * geo.m[k];
      matrix[k].resize(padded(size));
      for (int64_t i = 0; i < size; ++i) matrix[k][i] = geo.cost[k][i] * scale;
      for (int64_t i = 0; i < size; i += W) store(&matrix[k][i], vexp(load(&matrix[k][i])));
    }
  }
  void transpose(const Geometry& geo) {
    for (int k = 0; k < 3; ++k) {
      const Buffer kernel = matrix[k];
      for (int64_t j = 0; j < geo.m[k]; ++j)
        for (int64_t i = 0; i < geo.n[k]; ++i)
          matrix[k][j * geo.n[k] + i] = kernel[i * geo.m[k] + j];
    }
  }
  void times_cost(const Geometry& geo) {
    for (int k = 0; k < 3; ++k)
      for (int64_t i = 0; i < geo.n[k] * geo.m[k]; ++i) matrix[k][i] *= geo.cost[k][i];
  }
};

class ScalingKernel {
 public:
  ScalingKernel(const Geometry& geo, double epsilon)
      : geo_(geo), epsilon_(epsilon) {
    GibbsFactors factors(geo, epsilon);
    forward_ = SeparableMap(geo.m, geo.n, factors.matrix);
    factors.transpose(geo);
    backward_ = SeparableMap(geo.n, geo.m, factors.matrix);
    forward_.reserve(forward_between_);
    backward_.reserve(backward_between_);
  }
  double epsilon() const { return epsilon_; }

  // Where the axes of the last product began. The axes of the adjoint run in the opposite order:
  // <x, K_0 K_1 K_2 y> splits after any axis into an intermediate of one and one of the other.
  struct Trace {
    const double* before[3];
  };
  void forward(Team& team, const double* y, double* out, Trace& trace) {
    forward_.apply(team, kLastFirst, y, out, forward_between_, trace.before);
  }
  void backward(Team& team, const double* x, double* out, Trace& trace) {
    backward_.apply(team, kFirstFirst, x, out, backward_between_, trace.before);
  }

  // sum_xy x(x) C(x, y) exp(-C(x, y) / epsilon) y(y) after forward(y) and backward(x): one product
  // for each axis, weighted there with its cost.
  double cost(Team& team, const Trace& forward, const Trace& backward) {
    if (weighted_.empty() || scratch_.empty())
      team.once([&] {
        GibbsFactors factors(geo_, epsilon_);
        factors.times_cost(geo_);
        weighted_ = SeparableMap(geo_.m, geo_.n, factors.matrix);
        scratch_.resize(std::max(forward_between_[0].size(), size_t(geo_.n.size())));
      });
    Vec total{};
    Shape s = geo_.m;
    for (const int k : kLastFirst) {
      if (!weighted_.acts(k)) continue;
      weighted_.axis(team, k, s, forward.before[k], scratch_.data());
      team.barrier();
      const auto [from, to] = team.share(s.size(), W);
      for (int64_t i = from; i < to; i += W)
        total += load(backward.before[k] + i) * load(&scratch_[i]);
      team.barrier();
    }
    return team.sum(hsum(total));
  }

 private:
  const Geometry& geo_;
  double epsilon_;
  SeparableMap forward_, backward_, weighted_;
  Buffer forward_between_[2], backward_between_[2], scratch_;
};

}  // namespace
