// exp(-C / epsilon) of a separable cost, as products with one matrix per axis.
#pragma once

#include <initializer_list>

#include "separable.h"

namespace {

// A double's exponent reaches e^+-708. Sums inside (kTiny, kHuge) lose nothing to underflow:
// what a product drops is below 1e-308, which is 1e-28 of the sum.
constexpr double kTiny = 1e-280, kHuge = 1e280;

enum class Factor { kKernel, kAdjoint, kTimesCost };

// exp(-C_k / epsilon) on every axis, its transpose, or C_k exp(-C_k / epsilon).
inline SeparableMap gibbs_map(const Geometry& geo, double epsilon, Factor kind) {
  Buffer matrix[3];
  for (int k = 0; k < 3; ++k) {
    const int64_t n = geo.n[k], m = geo.m[k], size = n * m;
    const double* cost = geo.cost[k];
    Buffer& x = matrix[k];
    x.resize(padded(size));
    for (int64_t i = 0; i < size; ++i) x[i] = -cost[i] / epsilon;
    for (int64_t i = 0; i < size; i += W) store(&x[i], vexp(load(&x[i])));
    if (kind == Factor::kTimesCost)
      for (int64_t i = 0; i < size; ++i) x[i] *= cost[i];
    if (kind == Factor::kAdjoint) {
      const Buffer kernel = x;
      for (int64_t j = 0; j < m; ++j)
        for (int64_t i = 0; i < n; ++i) x[j * n + i] = kernel[i * m + j];
    }
  }
  if (kind == Factor::kAdjoint) return SeparableMap(geo.n, geo.m, matrix);
  return SeparableMap(geo.m, geo.n, matrix);
}

class ScalingKernel {
 public:
  ScalingKernel(const Geometry& geo, double epsilon)
      : geo_(geo),
        epsilon_(epsilon),
        forward_(gibbs_map(geo, epsilon, Factor::kKernel)),
        backward_(gibbs_map(geo, epsilon, Factor::kAdjoint)) {
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
        weighted_ = gibbs_map(geo_, epsilon_, Factor::kTimesCost);
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
